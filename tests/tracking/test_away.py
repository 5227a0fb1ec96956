"""A server that is killed and comes back: nothing is lost, nothing is there twice, and nothing waits."""

import json
import logging
import math
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from srcluster.errors import UserError
from srcluster.tracking import Run, RunSpec, curve, send_unsent
from srcluster.tracking.__main__ import send
from srcluster.tracking.entries import End, Point, to_line
from srcluster.tracking.outbox import Pace

pytestmark = pytest.mark.cluster


QUICK = Pace(flush_s=0.1, retry_s=0.5)


def begin(experiment: str, name: str, folder: Path, **options) -> Run:
    """A run that keeps its files in a folder of its name."""
    return Run.start(experiment, name, key=name, url=str(folder / name), pace=QUICK, **options)


def runs_of(client: MlflowClient, experiment: str, key: str) -> list:
    number = client.get_experiment_by_name(experiment).experiment_id
    return client.search_runs([number], f"tags.`srcluster.key` = '{key}'")


def history(client: MlflowClient, run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, metric)]


@dataclass
class Outage:
    """What happened while the server was away, for several tests to look at."""

    folder: Path
    lasting: Run
    ended: Run
    stored: int = 0
    absence: str = ""
    calls_s: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def log(self, steps: range) -> None:
        for step in steps:
            before = time.perf_counter()
            self.lasting.log({"loss": 1 / (step + 1), "psnr_y/Set5": float(step)}, step)
            self.calls_s.append(time.perf_counter() - before)
            time.sleep(0.002)


@pytest.fixture(scope="module")
def outage(mlflow_server, tmp_path_factory):
    """Runs that outlast the absence of the server, end meanwhile, and begin meanwhile."""
    folder = tmp_path_factory.mktemp("runs")
    outage = Outage(folder, *(begin("outage", name, folder) for name in ("lasting", "ended")))
    listener = logging.Handler()
    listener.emit = lambda record: outage.said.append(record.getMessage())
    logger = logging.getLogger("srcluster")
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    outage.log(range(200))
    outage.ended.log({"loss": 2.0}, 1)
    outage.ended.save()
    mlflow_server.stop()
    try:
        outage.lasting.image(Image.new("RGB", (64, 64), "red"), "Set5/baby.png")
        outage.lasting.tag(phase="away")
        outage.log(range(200, 500))
        outage.ended.log({"loss": 1.0, "nan": math.nan}, 2)
        outage.ended.text("scale: 4", "recipe.yaml")
        assert not outage.ended.end("FAILED", timeout_s=0)
        begun = begin("outage", "begun", folder, params={"steps": 3}, timeout_s=0)
        worker = Run.attach(begun.spec, str(folder / "begun"), pace=QUICK)
        worker.log({"loss": 3.0}, 1)
        worker.save()
        killed = begin("outage", "killed", folder, params={"steps": 4}, timeout_s=0)
        killed.log({"loss": 4.0}, 1)
        killed.end("KILLED", timeout_s=0)
        with pytest.raises(UserError) as raised:
            begin("outage", "late", folder, timeout_s=1)
        outage.absence = str(raised.value)
    finally:
        mlflow_server.start()
    outage.log(range(500, 520))
    worker.close()
    for run in (outage.lasting, begun):
        run.end()
    logger.removeHandler(listener)
    return outage


class TestServerThatIsKilled:
    def test_nothing_is_lost_or_doubled(self, outage, client):
        run = client.get_run(outage.lasting.id)

        for metric, value in (("loss", lambda step: 1 / (step + 1)), ("psnr_y/Set5", float)):
            assert history(client, outage.lasting.id, metric) == [(step, value(step)) for step in range(520)]
        assert run.data.tags["phase"] == "away"
        assert [file.path for file in client.list_artifacts(run.info.run_id, "Set5")] == ["Set5/baby.png"]
        assert run.info.status == "FINISHED"

    def test_points_keep_the_time_at_which_they_were_logged(self, outage, client):
        times_ms = [point.timestamp for point in client.get_metric_history(outage.lasting.id, "loss")]

        assert times_ms == sorted(times_ms)
        assert times_ms[499] - times_ms[200] > 500

    def test_logging_never_waits(self, outage):
        calls_s = sorted(outage.calls_s)

        assert calls_s[int(0.99 * len(calls_s))] < 0.005
        assert calls_s[-1] < 1, "another process may have had the processor, but it was no time-out"

    def test_it_is_said_once_that_it_went_and_that_it_is_back(self, outage):
        said = [line for line in outage.said if "run lasting" in line]

        assert [("is away" in line, "is back" in line) for line in said] == [(True, False), (False, True)], said

    def test_a_run_waits_a_while_for_it_to_begin(self, outage):
        assert re.search("has not answered for 1 s .*Connection refused", outage.absence)
        assert any("waiting for it" in line for line in outage.said)

    def test_a_run_that_began_meanwhile_is_there_with_what_its_worker_logged(self, outage, client):
        (begun,) = runs_of(client, "outage", "begun")
        assert (begun.info.status, begun.data.params) == ("FINISHED", {"steps": "3"})
        assert history(client, begun.info.run_id, "loss") == [(1, 3.0)]

    def test_what_was_left_in_storage_is_sent_by_hand_once(self, outage, client, capsys):
        """The ended run has not gone on, and so its End counts; the killed one was never begun."""
        assert any(f"python -m srcluster.tracking {outage.folder}/ended`" in line for line in outage.said)
        assert client.get_run(outage.ended.id).info.status == "RUNNING"
        assert not runs_of(client, "outage", "killed")

        send(str(outage.folder))

        assert [line.partition(": sent to")[0] for line in capsys.readouterr().out.splitlines()] == ["ended", "killed"]
        assert history(client, outage.ended.id, "loss") == [(1, 2.0), (2, 1.0)]
        assert math.isnan(history(client, outage.ended.id, "nan")[0][1])
        assert Path(client.download_artifacts(outage.ended.id, "recipe.yaml")).read_text() == "scale: 4"
        assert client.get_run(outage.ended.id).info.status == "FAILED"
        (killed,) = runs_of(client, "outage", "killed")
        assert (killed.info.status, killed.data.params) == ("KILLED", {"steps": "4"})
        assert history(client, killed.info.run_id, "loss") == [(1, 4.0)]
        assert not list(outage.folder.rglob("*.jsonl"))


def left_behind(folder: Path, key: str, steps: range, status: str) -> None:
    """What a process of a run could not send before it was gone."""
    lines = [json.dumps(asdict(RunSpec("late", key, key)))]
    lines += [to_line(Point("loss", float(step), step, 1000 + step)).strip() for step in steps]
    lines += [to_line(End(status, 2000)).strip()]
    (folder / key / "unsent").mkdir(parents=True)
    (folder / key / "unsent" / "000001-x.jsonl").write_text("\n".join(lines))


class TestWhoeverComesNext:
    def test_it_sends_what_was_left_and_logs_no_step_twice(self, client, tmp_path):
        with begin("late", "next", tmp_path) as first:
            first.log({"loss": 0.0}, 0)
        left_behind(tmp_path, "next", range(4), "KILLED")
        with begin("late", "next", tmp_path) as again:
            again.save()
            assert client.get_run(again.id).info.status == "RUNNING"
            for step in (2, 3, 4):
                again.log({"loss": float(step)}, step)
        assert curve(first.id, "loss") == [(step, float(step)) for step in range(5)]
        assert client.get_run(first.id).info.status == "FINISHED"
        assert not list(tmp_path.rglob("*.jsonl"))

    def test_an_end_that_comes_late_changes_no_run_that_has_ended(self, client, tmp_path):
        with begin("late", "over", tmp_path) as run:
            pass
        left_behind(tmp_path, "over", range(2), "FAILED")
        assert send_unsent(str(tmp_path)) == {"over": True}
        assert client.get_run(run.id).info.status == "FINISHED"
        assert history(client, run.id, "loss") == [(0, 0.0), (1, 1.0)]
