"""The runs that MLflow has: listed, and ended for those who can't."""

import os
import re
import subprocess
import time

import mlflow.cli
import pytest
from mlflow import MlflowClient

from srcluster.errors import UserError
from srcluster.tracking import Run, children, close_run, end_abandoned, environment_tags
from srcluster.tracking.entries import ALIVE_TAG
from srcluster.tracking.outbox import Pace
from srcluster.tracking.runs import SILENT_S

pytestmark = pytest.mark.cluster


def test_parent_and_children(client):
    parent = Run.start("sweep", "sweep", key="sweep")
    trials = [Run.start("sweep", f"trial {i}", key=f"t{i}", parent=parent.id, params={"i": i}) for i in range(3)]
    trials[0].log({"psnr": 28.0}, 1)
    trials[0].end()

    found = children(parent.id)
    assert [(run.id, run.key, run.name) for run in found] == [
        (t.id, f"t{i}", f"trial {i}") for i, t in enumerate(trials)
    ]
    assert [run.status for run in found] == ["FINISHED", "RUNNING", "RUNNING"]
    assert found[0].metrics == {"psnr": 28.0}
    assert found[1].params == {"i": "1"}


def test_more_children_than_one_page(mlflow_server, monkeypatch):
    parent = Run.start("pages", "sweep", key="sweep")
    for i in range(5):
        Run.start("pages", f"trial {i}", key=f"t{i}", parent=parent.id)
    search = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *args, **kw: search(*args, max_results=2, **kw))
    assert [run.name for run in children(parent.id)] == [f"trial {i}" for i in range(5)]


def test_environment_tags(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SRCLUSTER_GIT_COMMIT", raising=False)
    tags = environment_tags()
    assert tags.keys() >= {"env.host", "env.device", "env.python", "env.torch", "env.ray", "env.srcluster"}
    assert "mlflow.source.git.commit" not in tags

    (tmp_path / "file").write_text("a")
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "file"], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], check=True)
    commit = environment_tags()["mlflow.source.git.commit"]
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "file").write_text("b")
    assert environment_tags()["mlflow.source.git.commit"] == f"{commit}+dirty"

    monkeypatch.setenv("SRCLUSTER_GIT_COMMIT", "abc")
    assert environment_tags()["mlflow.source.git.commit"] == "abc"


def test_only_the_runs_of_silent_processes_are_ended(client):
    runs = {name: Run.start("orphans", name, key=name) for name in ("dead", "living", "ended", "unknown")}
    trial = Run.start("orphans", "trial", key="dead/0", parent=runs["dead"].id)
    runs["ended"].end("FINISHED")
    for run in (*runs.values(), trial):
        run.close()
    for name in ("dead", "ended"):
        client.set_tag(runs[name].id, ALIVE_TAG, f"{int(time.time() - SILENT_S - 60)}")
    client.set_tag(trial.id, ALIVE_TAG, "0")
    client.delete_tag(runs["unknown"].id, ALIVE_TAG)
    end_abandoned("orphans")
    statuses = {name: client.get_run(run.id).info.status for name, run in {**runs, "trial": trial}.items()}
    assert statuses == {
        **{"dead": "KILLED", "living": "RUNNING", "ended": "FINISHED", "unknown": "RUNNING", "trial": "KILLED"}
    }


def test_an_experiment_that_is_not_there(client):
    end_abandoned("never begun")
    assert client.get_experiment_by_name("never begun") is None


def test_a_run_gives_signs_of_life_until_it_ends(client):
    run = Run.start("alive", "trial", key="k", pace=Pace(flush_s=0.1, beat_s=0.1))
    client.set_tag(run.id, ALIVE_TAG, "0")
    deadline = time.monotonic() + 10
    while client.get_run(run.id).data.tags[ALIVE_TAG] == "0" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.time() - int(client.get_run(run.id).data.tags[ALIVE_TAG]) < 10
    run.end()


def test_a_run_is_closed_for_its_process(client):
    run = Run.start("closed", "trial", key="k")
    run.close()
    close_run(run.id, "FINISHED", stopped_by="asha")
    closed = client.get_run(run.id)
    assert (closed.info.status, closed.data.tags["stopped_by"]) == ("FINISHED", "asha")
    close_run(run.id, "FINISHED")
    assert client.get_run(run.id).info.end_time == closed.info.end_time


def test_the_message_of_a_deleted_experiment_restores_it(client):
    run = Run.start("deleted", "trial", key="k")
    run.end()
    client.delete_experiment(run.experiment_id)
    with pytest.raises(UserError, match="experiment 'deleted' is deleted in MLflow") as caught:
        Run.start("deleted", "trial", key="k")
    (command,) = re.findall("`(.*)`", str(caught.value))
    variable, program, *words = command.split()
    assert (variable, program) == (f"MLFLOW_TRACKING_URI={os.environ['MLFLOW_TRACKING_URI']}", "mlflow")
    mlflow.cli.cli(words, standalone_mode=False)
    assert Run.start("deleted", "trial", key="k").id == run.id
