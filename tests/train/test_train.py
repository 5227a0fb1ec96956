"""Trainings under Ray Train, as a person starts them: finished, killed in every way, and elastic."""

import random
import re
import signal
import tempfile
import time

import psutil
import pytest
from mlflow import MlflowClient

from srcluster import local, storage
from srcluster.recipe import Schedule
from srcluster.train.driver import EXPERIMENT
from srcluster.training.optimizer import learning_rate_factor
from srcluster.training.store import RunStore
from tools import drill

STEPS = 2400
RECIPE = (*drill.RECIPE, f"steps={STEPS}")


def start(shell, name: str, *arguments: str):
    return shell.start("srcluster.train", *recipe(*arguments), "--name", name)


def recipe(*arguments: str) -> list[str]:
    """The recipe's words with others, which take the place of those of the same key."""
    replaced = {word.partition("=")[0] for word in arguments if "=" in word}
    return [*(word for word in RECIPE if word.partition("=")[0] not in replaced), *arguments]


def store_of(shell, name: str) -> RunStore:
    return RunStore(storage.join(shell.cluster.environment()["SRCLUSTER_STORAGE"], "runs", name))


def run_of(name: str):
    client = MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`srcluster.key` = '{name}'")
    return run


def actors(shell, kind: str) -> list[psutil.Process]:
    """Processes of Ray on this cluster."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(f"ray::{kind}" in word for word in process.info["cmdline"] or ())
        and process.environ().get("AWS_ENDPOINT_URL") == shell.cluster.s3_endpoint
    ]


def assert_whole(name: str) -> None:
    """The run is finished, and its curves have no hole and no double."""
    run = run_of(name)
    assert run.info.status == "FINISHED"
    for metric, every in (("train/loss", 50), ("train/lr", 50), ("psnr_y/pieces", 200)):
        points = MlflowClient().get_metric_history(run.info.run_id, metric)
        assert [point.step for point in points] == list(range(every, STEPS + 1, every)), metric


@pytest.mark.cluster
def test_a_training_from_nothing(shell):
    undisturbed = shell.finish(process := start(shell, "undisturbed"))
    assert process.returncode == 0
    assert "2 workers of 1 threads, from its beginning" in undisturbed
    assert_whole("undisturbed")
    metrics = run_of("undisturbed").data.metrics
    assert f"{metrics['best/psnr_y/pieces']:.2f}" in undisturbed
    assert store_of(shell, "undisturbed").steps() == [STEPS - 100, STEPS]
    assert {name.partition("/")[0] for name in storage.names(store_of(shell, "undisturbed").url)} == {
        *("recipe.json", "model.safetensors", "result.json", f"step-{STEPS - 100:08d}", f"step-{STEPS:08d}")
    }

    # As if MLflow had refused the network.
    client = MlflowClient()
    (version,) = client.search_model_versions(f"run_id = '{run_of('undisturbed').info.run_id}'")
    client.delete_model_version(version.name, version.version)
    client.set_terminated(version.run_id, "FAILED")
    printed = shell.finish(process := start(shell, "undisturbed"))
    assert process.returncode == 0
    assert "undisturbed is finished" in printed
    (version,) = client.search_model_versions(f"run_id = '{version.run_id}'")
    assert f"in MLflow: models:/{version.name}/{version.version}" in printed
    assert_whole("undisturbed")

    printed = shell.finish(process := start(shell, "undisturbed", "seed=1"))
    assert process.returncode == 2
    assert "was begun with another recipe (seed = 0, and now 1): give this one another --name" in printed


def training(shell, name: str) -> drill.Training:
    return drill.Training(name, STEPS, shell.start, drill.ray_processes)


@pytest.fixture
def undisturbed(shell) -> drill.Training:
    """A training that nothing disturbed; what is disturbed must come to the same."""
    whole = training(shell, "undisturbed")
    if not whole.store.result():
        whole.start()
        whole.finish()
    return whole


@pytest.mark.cluster
def test_services_that_go_away_lose_nothing(shell, undisturbed):
    process = start(shell, "outage")
    shell.wait_for(lambda: store_of(shell, "outage").steps(), process)
    local.stop(["s3", "mlflow"], shell.cluster.state, timeout_s=0)
    # Longer than botocore and MLflow try by themselves.
    time.sleep(10)
    assert process.poll() is None
    local.start(["s3", "mlflow"], shell.cluster.state)
    printed = shell.finish(process)
    assert process.returncode == 0
    assert printed.count("2 workers of 1 threads") == 1
    assert_whole("outage")
    assert training(shell, "outage").model() == undisturbed.model()


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_short_drill(shell, undisturbed, monkeypatch, tmp_path):
    """Whatever is struck, the training comes to what the undisturbed one came to; tools/drill strikes more."""
    # Other tests have temporary files, too.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    struck = training(shell, "disturbed")
    struck.start()
    # The last: the ranks train on while their driver is stopped.
    names = ("report_queue", "one_rank", "controller", "terminal_closed", "services", "driver_stopped")
    drill.strike(struck, names, random.Random(1))
    assert drill.is_whole(struck, undisturbed)
    printed = "\n".join(struck.lines)
    assert "nothing is lost, the same command continues it" in printed
    assert "was taken over by" in printed


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_ranks_that_come_and_go(shell, ray_cluster):
    """Two ranks on two nodes; one node is killed, and another joins; when it is taken in, all is seen."""
    name, steps = "elastic", 1_000_000
    cluster = ray_cluster("--num-cpus=1", "--include-dashboard=false")
    kept, node = store_of(shell, name), cluster.join("--num-cpus=1")
    longer = (f"steps={steps}", "schedule.kind=cosine", "--workers", "1..2", "--name", name)
    process = shell.start_on(cluster.address, "srcluster.train", *recipe(*longer))
    try:
        # It may begin before the second node is there.
        wait_for_ranks(shell, process, kept, 2)
        cluster.kill(node)
        wait_for_ranks(shell, process, kept, 1)
        cluster.join("--num-cpus=1")
        wait_for_ranks(shell, process, kept, 2)
        process.send_signal(signal.SIGINT)
        printed = shell.finish(process)
    finally:
        process.kill()
    rates = MlflowClient().get_metric_history(run_of(name).info.run_id, "train/lr")
    assert re.findall(r"(\d) workers? of 1 threads", printed)[-3:] == ["2", "1", "2"]
    assert kept.steps()[-1] <= rates[-1].step
    assert [point.step for point in rates] == list(range(50, rates[-1].step + 1, 50))
    schedule = Schedule(kind="cosine")
    for point in rates:
        assert point.value == pytest.approx(1e-4 * learning_rate_factor(schedule, point.step - 1, steps), abs=1e-12)


def wait_for_ranks(shell, process, kept: RunStore, ranks: int) -> None:
    """Until so many ranks train, and have made a checkpoint."""
    shell.wait_for(lambda: len(actors(shell, "RayTrainWorker")) == ranks, process)
    begun = max(kept.steps(), default=0)
    shell.wait_for(
        lambda: len(actors(shell, "RayTrainWorker")) == ranks and max(kept.steps(), default=0) > begun + 100, process
    )


@pytest.mark.cluster
def test_ranks_that_diverge_all_end(shell):
    """Also where the batch can't be divided evenly."""
    arguments = ("optimizer.lr=1e30", "data.batch=3", "log_every_steps=5", "evaluation.benchmarks=[pieces]")
    printed = shell.finish(process := start(shell, "diverged", *arguments))
    assert process.returncode == 2
    assert "2 workers of 1 threads, from its beginning" in printed
    assert "lower the learning rate" in printed
    assert not actors(shell, "RayTrainWorker")
