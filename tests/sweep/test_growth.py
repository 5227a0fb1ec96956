"""A sweep on a cluster whose workers come when there is something to run, as on Kubernetes."""

import pytest

from srcluster import tracking


@pytest.mark.cluster
def test_a_sweep_waits_for_workers(shell, ray_cluster):
    cluster = ray_cluster("--num-cpus=0")
    file = shell.write_sweep("growing.yaml", parameters={"seed": {"grid": [1, 2]}})
    process = shell.start_on(cluster.address, "srcluster.sweep", file)
    try:
        shell.wait_for(lambda: any(run.name == "bicubic" and run.status == "FINISHED" for run in begun()), process)
        cluster.join("--num-cpus=1")
        printed = shell.finish(process)
    finally:
        process.kill()
    assert process.returncode == 0
    assert printed.count("there is no room for a trial (1 CPU) yet: waiting for the cluster to grow") == 1
    assert [run.status for run in begun()] == ["FINISHED"] * 3


def begun() -> list[tracking.RunInfo]:
    """The runs of the sweep's trials, and of bicubic."""
    from mlflow import MlflowClient

    found = MlflowClient().get_experiment_by_name("growing")
    parents = MlflowClient().search_runs([found.experiment_id], "tags.`srcluster.sweep` = 'true'") if found else []
    return [run for parent in parents for run in tracking.children(parent.info.run_id)]
