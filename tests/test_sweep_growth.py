"""A sweep on a cluster whose workers come when there is something to run, as on Kubernetes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray
import yaml

from srcluster import tracking

TINY = {
    "name": "growing",
    "recipe": "srcnn",
    "overrides": {
        "model": {"kind": "srcnn", "kernel_sizes": [5, 1, 3], "features": [4, 4]},
        "steps": 10,
        "data.patch": 32,
        "data.batch": 2,
        "evaluation": {"benchmarks": ["pieces"], "pictures": 1},
    },
    "parameters": {"seed": {"grid": [1, 2]}},
}


def node(shell, folder: Path, *options: str) -> subprocess.Popen:
    """A Ray node that others may join, which the embedded cluster's keeps to loopback."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *options]
    environment = os.environ | shell.cluster.environment() | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
    with (folder / "node.log").open("a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


@pytest.mark.cluster
def test_a_sweep_waits_for_workers(shell, tmp_path_factory):
    folder = tmp_path_factory.mktemp("r")
    with socket.create_server(("", 0)) as probe:
        port = probe.getsockname()[1]
    (shell.home / "growing.yaml").write_text(yaml.safe_dump(TINY))
    nodes = [node(shell, folder, "--head", "--num-cpus=0", f"--port={port}", f"--temp-dir={folder}")]
    head = f"{ray.util.get_node_ip_address()}:{port}"
    process = shell.start_on(head, "srcluster.sweep", "growing.yaml")
    try:
        shell.wait_for(lambda: any(run.name == "bicubic" and run.status == "FINISHED" for run in begun()), process)
        nodes.append(node(shell, folder, f"--address={head}", "--num-cpus=1"))
        printed = shell.finish(process)
    finally:
        process.kill()
        for each in nodes:
            for part in [*psutil.Process(each.pid).children(recursive=True), each]:
                part.kill()
    assert process.returncode == 0
    assert printed.count("there is no room for a trial (1 CPU) yet: waiting for the cluster to grow") == 1
    assert [run.status for run in begun()] == ["FINISHED"] * 3


def begun() -> list[tracking.RunInfo]:
    """The runs of the sweep's trials, and of bicubic."""
    from mlflow import MlflowClient

    found = MlflowClient().get_experiment_by_name("growing")
    parents = MlflowClient().search_runs([found.experiment_id], "tags.`srcluster.sweep` = 'true'") if found else []
    return [run for parent in parents for run in tracking.children(parent.info.run_id)]
