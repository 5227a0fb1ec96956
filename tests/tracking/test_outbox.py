"""The buffer between a run and its server; the server is a function here."""

import math
import threading
import time

import pytest

from srcluster.tracking import outbox
from srcluster.tracking.outbox import Artifact, Dataset, End, Outbox, Point, Tag, UndeliveredError, read_spool

EVERYTHING = [
    Point("loss", math.inf, 1, 1000),
    Tag("phase", "é"),
    Dataset("Set5", "s3://bucket/Set5", "0123", "test"),
    Artifact("a.png", bytes(range(256))),
    End("FINISHED", 2000),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("SRCLUSTER_SPOOL", str(tmp_path))
    monkeypatch.setattr(outbox, "FLUSH_S", 0.02)


def points(steps):
    return [Point("loss", 0.5, step, 1000 + step) for step in steps]


def refuse(entries):
    raise UndeliveredError(entries, "Connection refused")


def test_what_is_put_is_delivered_in_order():
    got = []
    box = Outbox("run", "server", got.extend)
    for entry in EVERYTHING:
        box.put(entry)
        time.sleep(0.01)
    assert box.close(timeout_s=5) is None
    assert got == EVERYTHING


def test_what_is_undelivered_comes_again_before_what_came_later():
    got, away = [], threading.Event()

    def deliver(entries):
        if not away.is_set():
            away.set()
            got.extend(entries[:1])
            raise UndeliveredError(entries[1:], "the second half is missing")
        got.extend(entries)

    box = Outbox("run", "server", deliver)
    box.put(*points(range(3)))
    assert away.wait(5)
    box.put(*points(range(3, 6)))
    assert box.close(timeout_s=5) is None
    assert got == points(range(6))


def test_nothing_put_is_nothing_to_close():
    assert Outbox("run", "server", refuse).close(timeout_s=5) is None


def test_what_is_left_goes_to_a_spool_file(tmp_path):
    box = Outbox("run", "server", refuse)
    box.put(*EVERYTHING)
    assert box.close(timeout_s=0.1) == tmp_path / "run.jsonl"
    assert read_spool((tmp_path / "run.jsonl").read_text().splitlines()) == {"run": EVERYTHING}


def test_a_server_that_hangs_is_not_waited_for(tmp_path):
    release = threading.Event()
    box = Outbox("run", "server", lambda entries: release.wait(30))
    box.put(*EVERYTHING)
    time.sleep(0.1)
    before = time.monotonic()
    left = box.close(timeout_s=0.1)
    assert time.monotonic() - before < 1
    assert read_spool(left.read_text().splitlines()) == {"run": EVERYTHING}, "it may not have arrived"
    release.set()


def test_a_full_buffer_goes_to_the_spool_file(monkeypatch, tmp_path):
    monkeypatch.setattr(outbox, "BUFFER_BYTES", 100 * 256)
    box = Outbox("run", "server", refuse)
    for step in range(0, 300, 50):
        box.put(*points(range(step, step + 50)))
    spool = tmp_path / "run.jsonl"
    deadline = time.monotonic() + 10
    while not spool.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert spool.exists(), "before the run ends"
    box.put(*points([300]))
    box.close(timeout_s=0.1)
    assert read_spool(spool.read_text().splitlines()) == {"run": points(range(301))}


def test_a_spool_that_cannot_be_written_is_told(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SRCLUSTER_SPOOL", str(tmp_path / "file"))
    box = Outbox("run", "server", refuse)
    box.put(*EVERYTHING)
    assert box.close(timeout_s=0.1) is None
    assert "5 entries of run run are lost" in caplog.text


def test_nothing_can_be_put_after_the_end():
    box = Outbox("run", "server", lambda entries: None)
    box.close(timeout_s=1)
    with pytest.raises(RuntimeError, match="has ended"):
        box.put(*EVERYTHING)


@pytest.mark.parametrize("line", ["", "{}", '["run", "Point", {}]', '["run", "Other", {}]', "[1, 2]"])
def test_a_line_that_no_outbox_wrote(line):
    with pytest.raises(ValueError, match="line 1"):
        read_spool([line])
