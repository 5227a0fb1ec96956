"""What is handed to a cluster as a job: what travels with it, that it runs once, and that it gives no secret away."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from ray._private.runtime_env.packaging import create_package

from srcluster import storage
from srcluster.errors import UserError
from srcluster.local import processes
from srcluster.local.services import ray_folder
from srcluster.revision import commit
from srcluster.train.submit import _runtime_env

ROOT = Path(__file__).parents[2]


def packed(folder: Path, archive: Path) -> set[str]:
    """What Ray carries to a cluster of a working directory."""
    create_package(str(folder), archive, include_gitignore=True)
    return set(zipfile.ZipFile(archive).namelist())


def test_a_checkout_travels_thin(tmp_path):
    names = packed(ROOT, tmp_path / "package.zip")
    needed = {"srcluster/train/driver.py", "srcluster/recipes/srresnet.yaml", "sweeps/srcnn.yaml", "pyproject.toml"}
    assert needed <= names
    assert not [name for name in names if name.startswith((".git/", ".venv/", ".srcluster/", "tests/", "k8s/"))]
    assert (tmp_path / "package.zip").stat().st_size < 2 << 20


def test_data_and_secrets_stay_at_home(tmp_path):
    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, tmp_path)
    carried = {"srcluster/data/shards.py", "srcluster/recipes/mine.yaml", "mine.yaml", "srcluster/results/a.py"}
    secret = {".srcluster/services.json", ".srcluster/ray_token", ".env", ".env.cloud", "aws.pem", "ray_token"}
    large = {"data/T91/t1.png", "results/a/model.safetensors", "train2017.zip", "00000.tar", ".venv/bin/python"}
    for name in carried | secret | large:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert packed(tmp_path, tmp_path.with_suffix(".zip")) == carried | {".gitignore", ".rayignore"}


def test_what_a_file_says_goes_with_a_job(tmp_path):
    file = tmp_path / "env.yaml"
    file.write_text("pip: [timm]\nexcludes: [notes]\nenv_vars: {A: b}\n")
    assert _runtime_env(file) == {
        "working_dir": ".",
        "pip": ["timm"],
        "excludes": [".srcluster", "notes"],
        "env_vars": {"SRCLUSTER_GIT_COMMIT": commit(), "A": "b"},
    }
    file.write_text("timm")
    with pytest.raises(UserError, match=r"env.yaml should be a mapping with pip:"):
        _runtime_env(file)
    with pytest.raises(UserError, match=r"--runtime-env no can't be read: No such file"):
        _runtime_env(Path("no"))


TINY = (
    *("srresnet", "model.features=8", "model.blocks=1", "precision=fp32", "data.patch=32", "data.batch=4"),
    *("evaluation.benchmarks=[pieces]", "evaluation.every_steps=100", "checkpoint.every_steps=100"),
    *("log_every_steps=50", "steps=1000", "--workers", "2", "--name", "submitted"),
)


def submit(shell, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "srcluster.train", *TINY, "--submit"]
    return subprocess.Popen(
        command,
        cwd=shell.home,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.cluster
def test_a_job_runs_once_and_gives_nothing_away(shell):
    """Listens at loopback alone, too."""
    password = "canary-of-a-password"
    canaries = [shell.cluster.secret_key, shell.cluster.ray_token_path.read_text(), password]
    own = {"SRCLUSTER_GIT_COMMIT": "c0ffee", "MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": password}
    process = submit(shell, **own)
    kept = storage.join(f"s3://{shell.cluster.bucket}", "runs/submitted")
    shell.wait_for(lambda: "lease.json" in storage.names(kept), process)
    shell.wait_for(lambda: any("state.json" in name for name in storage.names(kept)), process)

    ours = processes.members(shell.cluster.processes["ray"])
    assert [ours for ours in ours if "RayTrainWorker" in " ".join(ours.cmdline())]
    pids = {process.pid for process in ours}
    sockets = [socket for socket in psutil.net_connections("inet") if socket.pid in pids]
    assert {end.ip for socket in sockets for end in (socket.laddr, socket.raddr) if end} <= {
        "127.0.0.1",
        "::ffff:127.0.0.1",
    }
    for line in command_lines():
        assert not [canary for canary in canaries if canary in line]

    refused, _ = (again := submit(shell)).communicate(timeout=120)
    assert again.returncode == 2
    assert "submitted is running: follow it with `ray job logs -f submitted`" in refused

    # It is given the time to close its run, and is continued by the same command.
    stop = [sys.executable, "-m", "ray.scripts.scripts", "job", "stop", "submitted"]
    subprocess.run(stop, check=True, capture_output=True, timeout=60)
    assert "interrupted; nothing is lost" in shell.finish(process)
    assert process.returncode == 1
    assert submitted().info.status == "KILLED"
    assert "lease.json" not in storage.names(kept)
    printed = shell.finish(process := submit(shell, **own))
    assert process.returncode == 0
    run = submitted()
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee"
    for place, content in (("the terminal", printed.encode()), *said(shell)):
        for canary in canaries:
            assert canary.encode() not in content, place

    # It is known to be finished, and the name is free for another look.
    printed, _ = (again := submit(shell)).communicate(timeout=120)
    assert again.returncode == 0
    assert "submitted is finished" in printed


def submitted() -> Run:
    experiment = MlflowClient().get_experiment_by_name("train")
    (run,) = MlflowClient().search_runs([experiment.experiment_id], "tags.`srcluster.key` = 'submitted'")
    return run


def command_lines() -> Iterator[str]:
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            yield " ".join(process.cmdline())


def said(shell) -> Iterator[tuple[str, bytes]]:
    """All that a job leaves for others to read."""
    token = {"Authorization": f"Bearer {shell.cluster.ray_token_path.read_text()}"}
    for place in ("jobs/", "v0/jobs", "v0/actors", "v0/workers"):
        url = f"{shell.cluster.dashboard_url}/api/{place}"
        with urllib.request.urlopen(urllib.request.Request(url, headers=token), timeout=60) as answer:
            yield url, answer.read()
    client = MlflowClient()
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            yield f"MLflow's {run.info.run_name}", json.dumps(run.to_dictionary()).encode()
    # MLflow's artefacts as well.
    bucket = f"s3://{shell.cluster.bucket}"
    for name in storage.names(bucket):
        yield name, storage.read(storage.join(bucket, name))
    private = {"services.json", "ray_token", "identities.json"}
    for folder in (ray_folder(shell.cluster), shell.home):
        for path in folder.rglob("*"):
            # SeaweedFS' own log of its files, and its volumes, were read through S3.
            if path.is_file() and not path.is_symlink() and path.name not in private:
                yield str(path), path.read_bytes()


@pytest.mark.cluster
def test_a_cluster_that_is_away_is_named(shell, monkeypatch):
    process = submit(shell, RAY_API_SERVER_ADDRESS="http://127.0.0.1:1")
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "set RAY_API_SERVER_ADDRESS to http://HEAD:8265" in printed
