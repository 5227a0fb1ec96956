"""Trainings under Ray Train, as a person starts them: finished, killed in every way, and elastic."""

import signal
import time

import psutil
import pytest
from mlflow import MlflowClient

from srcluster import local, storage
from srcluster.train_driver import EXPERIMENT
from srcluster.training.store import RunStore

STEPS = 600
RECIPE = (
    "srresnet",
    *("model.features=8", "model.blocks=1", "precision=fp32", "ema=0.9", "evaluation.benchmarks=[pieces]"),
    *("data.patch=32", "data.batch=4", "log_every_steps=50", "evaluation.every_steps=200"),
    *(f"steps={STEPS}", "checkpoint.every_steps=100", "--workers", "2"),
)


def start(shell, name: str, *arguments: str):
    return shell.start("srcluster.train", *RECIPE, "--name", name, *arguments)


def store_of(shell, name: str) -> RunStore:
    return RunStore(storage.join(shell.cluster.environment()["SRCLUSTER_STORAGE"], "runs", name))


def model(shell, name: str) -> bytes:
    return storage.read(storage.join(store_of(shell, name).url, "model.safetensors"))


def run_of(name: str):
    client = MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`srcluster.key` = '{name}'")
    return run


def workers(shell) -> list[psutil.Process]:
    """The processes of Ray Train's ranks on this cluster."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any("RayTrainWorker" in word for word in process.info["cmdline"] or ())
        and process.environ().get("AWS_ENDPOINT_URL") == shell.cluster.s3_endpoint
    ]


def kill_at(shell, process, name: str, step: int, ranks: slice) -> None:
    """SIGKILL ranks once the checkpoint of a step is kept."""
    shell.wait_for(lambda: step <= max(store_of(shell, name).steps(), default=0), process)
    for worker in workers(shell)[ranks]:
        worker.kill()


def assert_whole(name: str) -> None:
    """The run is finished, and its curves have no hole and no double."""
    run = run_of(name)
    assert run.info.status == "FINISHED"
    for metric, every in (("train/loss", 50), ("train/lr", 50), ("psnr_y/pieces", 200)):
        points = MlflowClient().get_metric_history(run.info.run_id, metric)
        assert [point.step for point in points] == list(range(every, STEPS + 1, every)), metric


@pytest.fixture(scope="module")
def undisturbed() -> str:
    return "undisturbed"


@pytest.mark.cluster
def test_a_training_from_nothing(shell, undisturbed):
    printed = shell.finish(process := start(shell, undisturbed))
    assert process.returncode == 0
    assert "2 workers of 1 threads, from its beginning" in printed
    assert_whole(undisturbed)
    metrics = run_of(undisturbed).data.metrics
    assert f"{metrics['best/psnr_y/pieces']:.2f}" in printed
    assert store_of(shell, undisturbed).steps() == [STEPS]

    printed = shell.finish(process := start(shell, undisturbed))
    assert process.returncode == 0
    assert "undisturbed is finished" in printed

    printed = shell.finish(process := start(shell, undisturbed, "seed=1"))
    assert process.returncode == 2
    assert "was begun with another recipe (seed = 0, and now 1): give this one another --name" in printed


@pytest.mark.cluster
def test_killed_workers_lose_nothing(shell, undisturbed):
    process = start(shell, "killed")
    kill_at(shell, process, "killed", 100, slice(1, 2))
    kill_at(shell, process, "killed", 400, slice(None))
    printed = shell.finish(process)
    assert process.returncode == 0
    assert printed.count("2 workers of 1 threads") == 3
    assert_whole("killed")
    assert model(shell, "killed") == model(shell, undisturbed)


@pytest.mark.cluster
def test_services_that_go_away_lose_nothing(shell, undisturbed):
    process = start(shell, "outage")
    shell.wait_for(lambda: store_of(shell, "outage").steps(), process)
    local.stop(["s3", "mlflow"], shell.cluster.state, timeout_s=0)
    time.sleep(20)
    assert process.poll() is None
    local.start(["s3", "mlflow"], shell.cluster.state)
    printed = shell.finish(process)
    assert process.returncode == 0
    assert printed.count("2 workers of 1 threads") == 1
    assert_whole("outage")
    assert model(shell, "outage") == model(shell, undisturbed)


@pytest.mark.cluster
def test_an_interrupted_driver_continues(shell, undisturbed):
    process = start(shell, "interrupted")
    shell.wait_for(lambda: store_of(shell, "interrupted").steps(), process)
    process.send_signal(signal.SIGINT)
    assert "the same command continues it" in shell.finish(process)
    assert process.returncode == 130
    assert run_of("interrupted").info.status == "KILLED"

    process = start(shell, "interrupted")
    shell.wait_for(lambda: max(store_of(shell, "interrupted").steps()) >= 300, process)
    process.kill()
    process.wait()

    shell.finish(process := start(shell, "interrupted"))
    assert process.returncode == 0
    assert_whole("interrupted")
    assert model(shell, "interrupted") == model(shell, undisturbed)
