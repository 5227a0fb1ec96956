"""Runs in MLflow, on a real server that is killed and comes back."""

import json
import logging
import math
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from srcluster.tracking import (
    Run,
    TrackingError,
    children,
    curve,
    environment_tags,
    metric_name,
)

pytestmark = pytest.mark.cluster


def history(client: MlflowClient, run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, metric)]


@dataclass
class Outage:
    """What happened while the server was away, for several tests to look at."""

    lasting: Run
    ended: Run
    left: Path | None = None
    absence: str = ""
    calls_s: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def log(self, steps: range) -> None:
        for step in steps:
            before = time.perf_counter()
            self.lasting.log({"loss": 1 / (step + 1), "psnr_y/Set5": float(step)}, step)
            self.calls_s.append(time.perf_counter() - before)
            time.sleep(0.005)


@pytest.fixture(scope="module")
def outage(mlflow_server, tmp_path_factory):
    """One run that outlasts the absence of the server, and one that ends meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRCLUSTER_SPOOL", str(tmp_path_factory.mktemp("spool")))
        outage = Outage(Run.start("outage", "lasting", key="lasting"), Run.start("outage", "ended", key="ended"))
    listener = logging.Handler()
    listener.emit = lambda record: outage.said.append(record.getMessage())
    logger = logging.getLogger("srcluster")
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    outage.log(range(500))
    outage.ended.log({"loss": 2.0}, 1)
    mlflow_server.stop()
    try:
        outage.lasting.image(Image.new("RGB", (64, 64), "red"), "Set5/baby.png")
        outage.lasting.tag(phase="away")
        outage.log(range(500, 1200))
        outage.ended.log({"loss": 1.0, "nan": math.nan}, 2)
        outage.ended.text("scale: 4", "recipe.yaml")
        outage.left = outage.ended.end("FAILED", timeout_s=2)
        with pytest.raises(TrackingError) as raised:
            Run.start("outage", "late", key="late", timeout_s=1)
        outage.absence = str(raised.value)
    finally:
        mlflow_server.start()
    outage.log(range(1200, 1300))
    outage.lasting.end()
    logger.removeHandler(listener)
    return outage


class TestServerThatIsKilled:
    def test_nothing_is_lost_or_doubled(self, outage, client):
        run = client.get_run(outage.lasting.id)

        for metric, value in (("loss", lambda step: 1 / (step + 1)), ("psnr_y/Set5", float)):
            assert history(client, outage.lasting.id, metric) == [(step, value(step)) for step in range(1300)]
        assert run.data.tags["phase"] == "away"
        assert [file.path for file in client.list_artifacts(run.info.run_id, "Set5")] == ["Set5/baby.png"]
        assert run.info.status == "FINISHED"

    def test_points_keep_the_time_at_which_they_were_logged(self, outage, client):
        times_ms = [point.timestamp for point in client.get_metric_history(outage.lasting.id, "loss")]

        assert times_ms == sorted(times_ms)
        assert times_ms[1199] - times_ms[500] > 3000

    def test_logging_never_waits(self, outage):
        calls_s = sorted(outage.calls_s)

        assert calls_s[int(0.99 * len(calls_s))] < 0.005
        assert calls_s[-1] < 1, "another process may have had the processor, but it was no time-out"

    def test_it_is_said_once_that_it_went_and_that_it_is_back(self, outage):
        said = [line for line in outage.said if outage.lasting.id in line]

        assert [("is away" in line, "is back" in line) for line in said] == [(True, False), (False, True)], said

    def test_a_run_that_ends_meanwhile_leaves_a_spool_file_for_later(self, outage, client):
        assert any(f"python -m srcluster.tracking {outage.left}" in line for line in outage.said)
        assert client.get_run(outage.ended.id).info.status == "RUNNING"

        command = [sys.executable, "-m", "srcluster.tracking", str(outage.left)]
        subprocess.run(command, check=True, timeout=60)

        assert history(client, outage.ended.id, "loss") == [(1, 2.0), (2, 1.0)]
        assert math.isnan(history(client, outage.ended.id, "nan")[0][1])
        assert Path(client.download_artifacts(outage.ended.id, "recipe.yaml")).read_text() == "scale: 4"
        assert client.get_run(outage.ended.id).info.status == "FAILED"
        assert not outage.left.exists()

    def test_a_run_waits_a_while_for_it_to_begin(self, outage):
        assert re.search("has not answered for 1 s .*Connection refused", outage.absence)
        assert any("waiting for it" in line for line in outage.said)


class TestRun:
    def test_a_restart_continues_the_run(self, client):
        params = {"optimizer": {"lr": 1e-4}, "steps": 100}
        with Run.start("restart", "trial", key="k", params=params) as first:
            first.log({"loss": 1.0}, 10)
            first.log({"loss": 0.5, "best": 28.0}, 20)
        again = Run.start("restart", "trial", key="k", params=params)
        assert again.id == first.id
        assert client.get_run(first.id).info.status == "RUNNING"
        again.log({"loss": 1.0}, 10)
        again.log({"loss": 0.6}, 20)
        again.log({"best": 29.0}, 20, replace=True)
        again.log({"loss": 0.4, "psnr": 28.0}, 30)
        again.end()

        assert history(client, first.id, "loss") == [(10, 1.0), (20, 0.5), (30, 0.4)]
        assert history(client, first.id, "psnr") == [(30, 28.0)]
        assert client.get_run(first.id).data.metrics["best"] == 29.0
        assert Run.start("restart", "trial", key="other").id != first.id

    def test_another_parameter_is_another_run(self, mlflow_server):
        Run.start("params", "trial", key="k", params={"optimizer": {"lr": 1e-4}})
        with pytest.raises(TrackingError, match=r"optimizer.lr = 0.0001, and now has 0.001"):
            Run.start("params", "trial", key="k", params={"optimizer": {"lr": 1e-3}})

    def test_parameters_beyond_one_request(self, client):
        run = Run.start("params", "many", key="many", params={f"p{i}": i for i in range(250)})
        assert len(client.get_run(run.id).data.params) == 250

    def test_what_is_logged_is_there(self, client):
        run = Run.start("everything", "trial", key="k", tags={"model": "srcnn"})
        run.log({"nan": math.nan, "inf": math.inf}, 1)
        run.note("| trial | PSNR |")
        run.dataset("Set5", "s3://bucket/Set5", "0123abcd", "test")
        run.dataset("Set5", "s3://bucket/Set5", "0123abcd", "test")
        run.image(Image.new("RGB", (8, 8), "blue"), "Set5/baby.png")
        run.image(Image.new("RGB", (8, 8), "red"), "top.png")
        assert run.end("KILLED") is None

        stored = client.get_run(run.id)
        assert stored.info.status == "KILLED"
        assert stored.data.tags.items() >= {"model": "srcnn", "mlflow.note.content": "| trial | PSNR |"}.items()
        assert math.isnan(stored.data.metrics["nan"])
        assert stored.data.metrics["inf"] == sys.float_info.max
        (given,) = stored.inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest, given.tags[0].value) == ("Set5", "0123abcd", "test")
        assert json.loads(given.dataset.source) == {"uri": "s3://bucket/Set5"}
        picture = Image.open(client.download_artifacts(run.id, "Set5/baby.png"))
        assert picture.getpixel((0, 0)) == (0, 0, 255)
        assert client.download_artifacts(run.id, "top.png")

    def test_a_series_of_pictures_has_the_names_that_the_charts_look_for(self, client):
        run = Run.start("series", "trial", key="k")
        run.image_at(Image.new("RGB", (600, 400), "blue"), "Set5/baby", 100)
        run.end()

        preview, full = sorted(file.path for file in client.list_artifacts(run.id, "images"))
        assert re.fullmatch(r"images/Set5~baby\+step\+100\+timestamp\+\d+\+[0-9a-f-]{36}\.png", full)
        assert preview == full.removesuffix(".png") + "+compressed.webp"
        assert Image.open(client.download_artifacts(run.id, full)).size == (600, 400)
        assert Image.open(client.download_artifacts(run.id, preview)).size == (256, 171)
        assert client.get_run(run.id).data.tags["mlflow.loggedImages"] == "True"

    def test_the_driver_and_the_worker_log_to_one_run(self, client):
        run = Run.start("attached", "trial", key="k")
        worker = Run.attach(run.id)
        worker.log({"loss": 1.0}, 1)
        worker.close()
        assert client.get_run(run.id).info.status == "RUNNING"
        run.log({"best": 28.0}, 1)
        run.end()
        assert client.get_run(run.id).data.metrics == {"loss": 1.0, "best": 28.0}

    def test_a_run_that_is_not_there(self, mlflow_server):
        with pytest.raises(TrackingError, match="not found"):
            Run.attach("0" * 32)

    @pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
    def test_how_it_ended_is_told(self, client, error, status):
        with pytest.raises(error), Run.start("ends", status, key=status) as run:
            raise error
        assert client.get_run(run.id).info.status == status

    def test_a_run_that_ended_inside_its_context_stays_so(self, client):
        with Run.start("ends", "inside", key="inside") as run:
            run.end("KILLED")
        assert client.get_run(run.id).info.status == "KILLED"

    def test_why_it_failed_is_told_until_it_is_continued(self, client):
        run = Run.start("ends", "failed", key="failed")
        run.fail("the loss was not finite")
        told = client.get_run(run.id)
        assert (told.info.status, told.data.tags["srcluster.error"]) == ("FAILED", "the loss was not finite")
        with Run.start("ends", "failed", key="failed") as again:
            assert again.id == run.id
        told = client.get_run(run.id)
        assert told.info.status == "FINISHED"
        assert "srcluster.error" not in told.data.tags

    def test_a_flush_sends_before_the_next_delivery_is_due(self, client):
        run = Run.start("flush", "trial", key="k")
        for step in range(3):
            run.log({"loss": 1.0}, step)
            run.flush()
            deadline = time.monotonic() + 1.5
            while len(history(client, run.id, "loss")) <= step and time.monotonic() < deadline:
                time.sleep(0.05)
        assert len(history(client, run.id, "loss")) == 3

    def test_one_refused_entry_takes_no_others_with_it(self, client, caplog):
        run = Run.start("refused", "trial", key="k")
        run.log({"loss": 1.0}, 1)
        run.tag(**{"no@name": "x"})
        run.text("y", "c.txt")
        run.end()
        assert "MLflow refuses 1 x tag" in caplog.text
        assert client.get_run(run.id).data.metrics == {"loss": 1.0}
        assert [file.path for file in client.list_artifacts(run.id)] == ["c.txt"]

    def test_a_file_keeps_its_name_as_far_as_an_address_can_hold_it(self, client):
        run = Run.start("files", "trial", key="k")
        run.text("x", "my set (1)/50% #1?.txt")
        run.end()
        assert [file.path for file in client.list_artifacts(run.id, "my set (1)")] == ["my set (1)/50_ _1_.txt"]

    def test_names_that_mlflow_would_refuse(self, client):
        odd = ("psnr_y/Set5 (copy)", "psnr_y/Set5 [copy]", "a//b", "../a", "x" * 251)
        run = Run.start("names", "trial", key="k", params={"layer (1)": {"lr": 1}})
        run.log(dict.fromkeys(odd, 28.0), 1)
        for path in ("/a.png", "../a.png", "a//b.png", "."):
            with pytest.raises(ValueError, match="not a path inside a run"):
                run.text("", path)
        run.end()
        assert [curve(run.id, name) for name in odd] == [[(1, 28.0)]] * len(odd)
        assert client.get_run(run.id).data.params == {metric_name("layer (1).lr"): "1"}
        with pytest.raises(RuntimeError, match="has ended"):
            run.log({"loss": 1.0}, 2)


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


def test_a_spool_that_cannot_be_read(mlflow_server, tmp_path):
    (tmp_path / "x.jsonl").write_text("{}\n")
    command = [sys.executable, "-m", "srcluster.tracking", str(tmp_path / "x.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "is not a spool file that can be read: line 1" in done.stderr
