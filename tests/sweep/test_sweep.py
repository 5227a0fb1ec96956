"""Sweeps: what a file says, and a real one on the embedded cluster, stopped and continued in every way."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from srcluster import storage, tracking
from srcluster.errors import UserError
from srcluster.local.services import ray_folder
from srcluster.models.saved import load_model
from srcluster.recipe import load
from srcluster.sweep import report
from srcluster.sweep.plan import Trial, load_sweep
from srcluster.sweep.results import JobResult

SWEEPS = Path(__file__).parents[2] / "sweeps"


def plan(tmp_path: Path, **content):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"recipe": "srcnn", "parameters": {"seed": {"grid": [1]}}} | content))
    return load_sweep(path)


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_sweep_runs_dry(path, typed):
    status, printed = typed("sweep", str(path), "--dry-run")
    assert status == 0
    sweep = load_sweep(path)
    assert len(printed.splitlines()) == 4 + len(sweep.trials()) + bool(sweep.scheduler)


def test_grids_multiply_and_samples_repeat(tmp_path):
    parameters = {
        "optimizer.lr": {"loguniform": [1e-5, 1e-3]},
        "seed": {"grid": [1, 2]},
        "data.batch": {"grid": [8, 16, 32]},
    }
    sweep = plan(tmp_path, parameters=parameters, samples=2)
    trials = sweep.trials()
    assert len(trials) == 12
    assert len({trial.recipe.optimizer.lr for trial in trials}) == 12
    assert all(1e-5 <= trial.recipe.optimizer.lr <= 1e-3 for trial in trials)
    assert sweep.digest(sweep.trials()) == sweep.digest(trials)
    other = plan(tmp_path, parameters=parameters, samples=2, seed=1)
    assert other.digest(other.trials()) != sweep.digest(trials)


def test_another_kind_takes_its_own_defaults(tmp_path):
    sweep = plan(tmp_path, parameters={"optimizer.kind": {"grid": ["adam", "sgd"]}, "optimizer.lr": {"grid": [1e-3]}})
    adam, sgd = (trial.recipe.optimizer for trial in sweep.trials())
    assert (adam.betas, sgd.momentum, sgd.lr) == ((0.9, 0.999), 0.9, 1e-3)


def test_what_is_typed_stands_above_the_file(tmp_path):
    plan(tmp_path, overrides={"steps": 5})
    (trial,) = load_sweep(tmp_path / "mine.yaml", overrides={"steps": 7}).trials()
    assert trial.recipe.steps == 7
    assert trial.label == "seed=1"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"parameters": {"optimizer.lr": {"gird": [1]}}},
            "unknown key parameters.optimizer.lr.gird, did you mean 'grid'?",
        ),
        ({"parameters": {"optimizer.lr": {"uniform": [2, 1]}}}, "is no range"),
        ({"parameters": {"optimizer.lr": {"loguniform": [0, 1]}}}, "above 0 for loguniform"),
        ({"parameters": {"optimizer.lr": {"grid": [1], "choice": [2]}}}, "exactly one of"),
        ({"parameters": {"optimizer.lrr": {"grid": [1]}}}, "unknown key optimizer.lrr, did you mean 'lr'?"),
        ({"recipe": "srcn"}, "no recipe 'srcn', did you mean 'srcnn'?"),
        ({"resources": {"cpus": 1}}, "unknown key resources.cpus, did you mean 'cpu'?"),
        ({"scheduler": {"kind": "pbt", "grace_steps": 1}}, "without a word it would clone nothing; use asha"),
        ({"scheduler": {"kind": "hyperband", "grace_steps": 1}}, "Input should be 'asha' (given: 'hyperband')"),
        ({"resources": {"workers": 2, "gpu": 0.5}}, "gpu is at most 1 for each worker, and 0 or 1 where there are"),
        ({"search": {"kind": "tpe"}, "samples": 20}, "give choice instead of grid for seed"),
        (
            {"search": {"kind": "tpe", "startup": 4}, "samples": 4, "parameters": {"seed": {"choice": [1, 2]}}},
            "search.startup is below samples, which are 4, not 4",
        ),
        ({"overrides": {"model.kernel_sizes": [9, 2, 5]}}, "odd"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, content, words):
    with pytest.raises(UserError) as error:
        plan(tmp_path, **content).trials()
    assert words in str(error.value)


def test_typed_resources_stand_above_the_files(tmp_path):
    plan(tmp_path, resources={"cpu": 4, "gpu": 1})
    typed = load_sweep(tmp_path / "mine.yaml", {"workers": 2, "cpu": None, "gpu": 0}).resources
    assert (typed.workers, typed.cpu, typed.gpu) == (2, 4, 0)
    with pytest.raises(UserError, match="gpu is at most 1"):
        load_sweep(tmp_path / "mine.yaml", {"gpu": 2})


def test_a_missing_file(tmp_path):
    plan(tmp_path)
    with pytest.raises(UserError, match=r"no sweep .*min\.yaml, did you mean '.*mine\.yaml'"):
        load_sweep(tmp_path / "min.yaml")


# What follows runs sweeps as a person does, on an embedded cluster of its own.


def start(shell, *arguments: str, **content) -> subprocess.Popen:
    return shell.start("srcluster.sweep", shell.write_sweep("tiny.yaml", **content), *arguments)


def runs_of(name: str) -> dict[str, tracking.RunInfo]:
    """The runs of the newest sweep of an experiment, by name, and under "" the sweep's own."""
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name(name)
    newest, *_ = client.search_runs([experiment.experiment_id], "tags.`srcluster.sweep` = 'true'", max_results=1)
    return {"": newest} | {run.name: run for run in tracking.children(newest.info.run_id)}


@pytest.mark.cluster
def test_a_sweep_from_nothing(shell):
    printed = shell.finish(process := start(shell))
    assert process.returncode == 0
    runs = runs_of("tiny")
    best, failed, bicubic = runs["adam lr=0.001"], runs["sgd lr=1e+30"], runs["bicubic"]
    assert (runs[""].info.status, best.status, failed.status, bicubic.status) == (
        *("FINISHED", "FINISHED", "FAILED", "FINISHED"),
    )
    assert best.params["optimizer.lr"] == "0.001"
    assert best.metrics["best/psnr_y/pieces"] >= best.metrics["psnr_y/pieces"]
    assert bicubic.metrics["best/psnr_y/pieces"] > 20
    assert "not finite at step" in failed.tags["srcluster.error"]
    assert f"{best.metrics['best/psnr_y/pieces']:.2f}" in printed
    assert "failed the loss or its gradient was not finite at step" in printed
    (folder,) = (shell.home / "results").glob("tiny-*-1")
    for picture in ("comparison.png", "curves.png"):
        assert (folder / picture).stat().st_size > 10_000
    # Of one trial alone that got as far as a score.
    assert not (folder / "parameters.png").exists()
    note = runs[""].data.tags["mlflow.note.content"]
    assert "| pieces PSNR-Y, dB | pieces SSIM-Y | pieces checkerboard, dB | state |" in note
    assert f"| adam lr=0.001 | {best.metrics['best/psnr_y/pieces']:.2f} |" in note
    assert_registered(runs[""].data.tags["model"], best)


def assert_registered(uri: str, best: tracking.RunInfo) -> None:
    """The model loads where nothing of srcluster is, for any size, with its metrics by data set."""
    from mlflow import MlflowClient

    code = f"""
import sys
sys.modules["srcluster"] = None
import mlflow, torch
print(mlflow.models.get_model_info({uri!r}).signature.inputs)
network = mlflow.pytorch.load_model({uri!r})
torch.save([network(torch.full((1 + size, 3, size, 31), 0.5)) for size in (7, 64)], "sr.pt")
"""
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120).stdout
    assert "Tensor('float32', (-1, 3, -1, -1))" in shown
    path = tracking.download_model(uri, Path.cwd())
    _, network = load_model(path)
    for size, sr in zip((7, 64), torch.load("sr.pt"), strict=True):
        with torch.no_grad():
            torch.testing.assert_close(sr, network(torch.full((1 + size, 3, size, 31), 0.5)), atol=1e-5, rtol=0)
    _, name, version = uri.split("/")
    made = MlflowClient().get_model_version(name, version)
    assert (made.run_id, name) == (best.id, "tiny")
    metrics = {metric.key: metric for metric in MlflowClient().get_logged_model(made.source.rpartition("/")[2]).metrics}
    assert metrics["best/psnr_y/pieces"].value == best.metrics["best/psnr_y/pieces"]
    assert metrics["best/psnr_y/pieces"].dataset_name == "pieces"


@pytest.mark.cluster
def test_asha_stops_the_worse_trials(shell):
    halving = {
        "name": "halved",
        "parameters": {"optimizer.lr": {"grid": [1e-9, 1e-3]}, "seed": {"grid": [1, 2]}},
        "scheduler": {"kind": "asha", "grace_steps": 10, "reduction_factor": 2},
    }
    process = start(shell, **halving)
    # The first has come to its first rung.
    shell.wait_for(lambda: any("psnr_y/pieces" in run.metrics for run in _children("halved")[1:]), process)
    process.kill()
    process.wait()
    printed = shell.finish(process := start(shell, "--resume", **halving))
    assert process.returncode == 0
    assert "waiting until that ends, or was silent for 6 s" in printed
    assert "4 trials to step 10, the best 2 to 20, the best 1 to 40 (50% of all their steps)" in printed
    trials = [run for name, run in runs_of("halved").items() if name not in ("", "bicubic")]
    assert {run.status for run in trials} == {"FINISHED"}
    stopped = [run for run in trials if run.tags.get("stopped_by") == "asha"]
    # A slot that would wait takes up one more.
    assert 2 <= len(stopped) <= 3
    assert printed.count("stopped at step") == len(stopped)
    for run in trials:
        steps = [step for step, _ in tracking.curve(run.id, "train/loss")]
        assert steps in ([[10], [10, 20]] if run in stopped else [[10, 20, 30, 40]])
        assert ("best/step" in run.metrics) == (run not in stopped)
    (picture,) = (shell.home / "results").glob("halved-*-1/parameters.png")
    assert picture.stat().st_size > 10_000
    logs = [path for path in ray_folder(shell.cluster).rglob("*.log") if path.is_file()]
    assert any("runtime_env" in path.name for path in logs)
    for path in logs:
        assert shell.cluster.secret_key.encode() not in path.read_bytes(), path


@pytest.mark.cluster
def test_what_waits_at_a_rung_is_stopped_by_asha_only_at_the_end(shell):
    parent = tracking.Run.start("waiting", "sweep", key="sweep")
    tracking.Run.start("waiting", "trial", key="sweep/0", parent=parent.id).close()
    waits = JobResult(Trial(0, load("srcnn"), {}), 10, "stopped", {"step": 10}, "")
    for interrupted in (True, False):
        children = {"0": tracking.children(parent.id)[0]}
        report._close_runs([waits], children, interrupted)
        (trial,) = tracking.children(parent.id)
        assert (trial.status, "stopped_by" in trial.tags) == ("FINISHED", not interrupted)
    parent.end()


@pytest.mark.cluster
def test_it_is_stopped_and_taken_over(shell):
    long = {"name": "taken", "overrides": {"steps": 5000}, "parameters": {"seed": {"grid": [1]}}}
    process = start(shell, **long)
    shell.wait_for(lambda: any("train/loss" in run.metrics for run in _children("taken")), process)
    # As `ray job stop` does, or whoever deletes a pod: there is no lease to wait for.
    process.terminate()
    assert "continue with: python -m srcluster.sweep tiny.yaml --resume" in shell.finish(process)
    assert process.returncode == 130
    assert {run.status for run in _children("taken") if run.name != "bicubic"} == {"KILLED"}

    process = start(shell, "--resume", **long)
    shell.wait_for(lambda: runs_of("taken")["seed=1"].status == "RUNNING", process)
    home = f"{shell.cluster.environment()['SRCLUSTER_STORAGE']}/sweeps"
    (lease,) = (name for name in storage.names(home) if name.startswith("taken") and name.endswith("lease.json"))
    storage.write(storage.join(home, lease), json.dumps({"id": "other", "who": "process 1 on other"}).encode())
    printed = shell.finish(process)
    assert process.returncode == 2
    assert "waiting until that ends" not in printed
    assert "was taken over by process 1 on other while this process could not be heard" in printed
    assert runs_of("taken")[""].info.status == "RUNNING"


@pytest.mark.cluster
def test_trials_of_two_workers_leave_room_when_they_are_stopped(shell):
    """There is room for one at a time, so that the third only begins where the second has left nothing behind."""
    pairs = {
        "name": "pairs",
        "overrides": {"data.batch": 4},
        "parameters": {"optimizer.lr": {"grid": [1e-3, 1e-9, 1e-8]}},
        "scheduler": {"kind": "asha", "grace_steps": 20, "reduction_factor": 2},
    }
    shell.finish(process := start(shell, "--workers", "2", **pairs))
    assert process.returncode == 0
    runs = runs_of("pairs")
    assert "best/step" in runs["lr=0.001"].metrics
    for name in ("lr=1e-09", "lr=1e-08"):
        assert runs[name].tags["stopped_by"] == "asha"
    code = "import ray; ray.init(); print(*(f()['CPU'] for f in (ray.cluster_resources, ray.available_resources)))"
    left = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout
    held, free = left.split()[-2:]
    assert held == free


@pytest.mark.cluster
def test_ctrl_c_loses_nothing(shell):
    """One sweep that is interrupted, continued, interrupted twice at once, and continued again to its end."""
    long = {
        "name": "stopped",
        "overrides": {
            "steps": 1500,
            "log_every_steps": 100,
            "evaluation": {"benchmarks": ["pieces"], "every_steps": 250},
            "checkpoint.every_steps": 500,
        },
        "parameters": {"seed": {"grid": [1, 2, 3]}},
    }
    process = start(shell, "--once", **long)
    shell.wait_for(lambda: any("train/loss" in run.metrics for run in _children("stopped")), process)
    process.send_signal(signal.SIGINT)
    printed = shell.finish(process)
    assert process.returncode == 130
    assert "continue with: python -m srcluster.sweep tiny.yaml --resume" in printed
    statuses = {run.status for run in runs_of("stopped").values() if hasattr(run, "status") and run.name != "bicubic"}
    assert "RUNNING" not in statuses
    assert "KILLED" in statuses

    process = start(shell, "--resume", **long)
    shell.wait_for(lambda: any("best/step" in run.metrics for run in _children("stopped")), process)
    done = {run.name: run for run in _children("stopped") if "best/step" in run.metrics}
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    began = time.monotonic()
    assert "continue with: python -m srcluster.sweep tiny.yaml --resume" in shell.finish(process)
    # Where it came to an interpreter that was ending already, it ended that; to a shell both are 130.
    assert process.returncode in (130, -signal.SIGINT)
    assert time.monotonic() - began < 15, "the second does not wait for what the first one does"

    process = start(shell, "--once", **long)
    shell.finish(process)
    assert process.returncode == 0
    runs = runs_of("stopped")
    assert {run.status for name, run in runs.items() if name} == {"FINISHED"}
    assert len(runs) == 5
    for name, before in done.items():
        for metric in before.metrics.keys() - {"train/patches_per_s", "train/data_wait_share"}:
            assert runs[name].metrics[metric] == before.metrics[metric]
    from mlflow import MlflowClient

    for name in ("seed=1", "seed=2", "seed=3"):
        losses = MlflowClient().get_metric_history(runs[name].id, "train/loss")
        assert [point.step for point in losses] == list(range(100, 1501, 100))


def _children(name: str) -> list[tracking.RunInfo]:
    try:
        return [run for key, run in runs_of(name).items() if key]
    except (AttributeError, ValueError):  # The sweep has not begun.
        return []


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, "no MLflow server answers at http://127.0.0.1:9"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "no store answers at http://127.0.0.1:9"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "refuses AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, "does not know the key in AWS_ACCESS_KEY_ID"),
        ({"SRCLUSTER_STORAGE": "s3://absent"}, "there is no bucket absent"),
        ({"SRCLUSTER_STORAGE": ""}, "set SRCLUSTER_STORAGE to s3://bucket/prefix"),
    ],
)
def test_a_cluster_that_is_not_as_it_is_said(shell, typed, monkeypatch, variables, words):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    status, printed = typed("sweep", shell.write_sweep("tiny.yaml"), "--address", "auto")
    assert status == 2
    assert words in printed
    assert len(printed.strip().splitlines()) == 1
    assert time.monotonic() - began < 60


@pytest.mark.cluster
def test_nothing_to_resume(shell, typed):
    status, printed = typed("sweep", shell.write_sweep("tiny.yaml", name="never"), "--resume")
    assert "no sweep of these trials to resume" in printed
    assert status == 2
