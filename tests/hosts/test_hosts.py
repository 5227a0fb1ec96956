"""Trainings and a sweep over several hosts, of which one is cut off, one is lost, and one is far away."""

import socket
import time

import pytest
import yaml
from mlflow import MlflowClient

from srcluster.training.store import RunStore

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(900)]

RECIPE = (
    *("model.features=8", "model.blocks=1", "precision=fp32", "data.patch=32", "data.batch=4"),
    *("evaluation.every_steps=500", "checkpoint.every_steps=250"),
)


def train(net, name: str, steps: int, *options: str, log_every: int = 50):
    lengths = (f"steps={steps}", f"log_every_steps={log_every}")
    recipe = ("srresnet", *RECIPE, f"evaluation.benchmarks=[{net.folder}/pieces]", *lengths, "--cpus", "1")
    return net.submit("srcluster.train", *recipe, "--name", name, *options)


def assert_whole(name: str, steps: int, log_every: int = 50) -> None:
    """The run is finished, and its curves have no hole and no double."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name("train")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`srcluster.key` = '{name}'")
    assert run.info.status == "FINISHED"
    for metric, every in (("train/loss", log_every), ("train/lr", log_every), ("psnr_y/pieces", 500)):
        points = client.get_metric_history(run.info.run_id, metric)
        assert [point.step for point in points] == list(range(every, steps + 1, every)), metric


def test_a_host_is_cut_off_and_lost_in_mid_training(net):
    steps, begun = 1500, r"2 workers of 1 threads, from"
    job = train(net, "cut", steps, "--workers", "2")
    kept = RunStore("s3://hosts/runs/cut")

    # Too short to be noticed: it only waits.
    job.wait_until(lambda: kept.steps())
    net.second.cable("down")
    time.sleep(3)
    net.second.cable("up")
    logged = len(job.lines)
    paused = job.wait_until(lambda: len(job.lines) > logged)
    assert len(job.times(begun)) == 1

    # Taken for dead: its Ray ends by itself when it is back, and is started again.
    reached = kept.steps()[-1]
    job.wait_until(lambda: kept.steps()[-1] > reached)
    net.second.cable("down")
    noticed = job.wait_until(lambda: not net.second.is_counted_on())
    net.second.cable("up")
    back = time.monotonic() - job.began
    joined = job.wait_until(net.second.is_counted_on)
    job.wait_for(begun, 2)
    returned = job.times(begun)[1] - back

    # Lost for good, and another takes its place.
    reached = kept.steps()[-1]
    job.wait_until(lambda: kept.steps()[-1] > reached)
    net.first.kill()
    lost = time.monotonic() - job.began
    net.start_ray(net.third)
    job.wait_for(begun, 3)
    replaced = job.times(begun)[2] - lost

    job.finish()
    assert len(job.times(begun)) == 3
    assert_whole("cut", steps)
    stages = ("Running entrypoint", "steps on Ray at", begun, r"step +50 ")
    print("submitted, begun, Ray joined, ranks begun, step 50:", [f"{job.times(stage)[0]:.1f} s" for stage in stages])
    print(f"link back after 3 s: the next line after {paused:.1f} s")
    print(f"cut off: noticed after {noticed:.1f} s; back: joined after {joined:.1f} s, ranks begun {returned:.1f} s")
    print(f"lost, and another host started: ranks begun after {replaced:.1f} s")


@pytest.fixture(scope="module")
def far(net):
    """A hundred milliseconds to the head and back."""
    with net.head.far_away(0.05):
        began = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((net.head.address, 1))
        assert time.monotonic() - began > 0.1
        yield net


def test_a_sweep_with_a_head_far_away(far):
    sweep = {
        "recipe": "srresnet",
        "overrides": {"steps": 100}
        | {key: yaml.safe_load(value) for key, value in (word.split("=") for word in RECIPE)},
        "parameters": {"optimizer.lr": {"grid": [1e-3, 1e-4]}},
    }
    (far.folder / "far.yaml").write_text(yaml.safe_dump(sweep))
    job = far.submit("srcluster.sweep", f"{far.folder}/far.yaml", f"evaluation.benchmarks=[{far.folder}/pieces]")
    job.finish()
    client = MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name("far").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 4


@pytest.mark.slow
def test_ranks_that_come_and_go_with_a_head_far_away(far):
    """One of two hosts is lost for good: training goes on without it, until another joins."""
    steps, alone, both = 1500, "1 worker of 1 threads, from step", "2 workers of 1 threads, from"
    lost, *_ = (host for host in far.workers if host.processes())
    spare = next(host for host in far.workers if not host.processes())
    # Each report waits for the head, so that a fast machine is not done before the other host joins.
    job = train(far, "elastic", steps, "--workers", "1..2", log_every=2)
    kept = RunStore("s3://hosts/runs/elastic")
    job.wait_until(kept.steps)
    lost.kill()
    killed = time.monotonic() - job.began
    job.wait_for(alone)
    far.start_ray(spare)
    job.wait_until(spare.is_counted_on)
    joined = time.monotonic() - job.began
    job.wait_for(both, 2)
    far.head.delay_s = 0
    job.finish()
    assert_whole("elastic", steps, log_every=2)
    print("submitted, ranks begun:", job.times(both)[0])
    print(f"lost: the other goes on after {job.times(alone)[0] - killed:.1f} s")
    print(f"another joined: taken in after {job.times(both)[1] - joined:.1f} s")


def test_no_file_of_ray_tells_a_secret(net):
    """After all of the above."""
    told = [net.environment[name] for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD")]
    told.append((net.folder / "token").read_text())
    files = [path for host in (net.head, *net.workers) for path in (host.folder / "ray").rglob("*") if path.is_file()]
    assert len(files) > 50
    for path in files:
        content = path.read_bytes()
        assert not any(secret.encode() in content for secret in told), path
