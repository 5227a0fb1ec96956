"""The way of entries to a server, which is a function here, and to storage while it is away."""

import math
import threading
import time

import pytest

from srcluster import storage
from srcluster.tracking.entries import ALIVE_TAG, Artifact, Dataset, End, Point, Tag, from_line, to_line
from srcluster.tracking.outbox import Outbox, Pace, read_entries

EVERYTHING = [
    Point("loss", math.inf, 1, 1000, result=True),
    Tag("phase", "é"),
    Dataset("Set5", "s3://bucket/Set5", "0123", "test"),
    Artifact("a.png", bytes(range(256))),
    End("FINISHED", 2000),
]
QUICK = Pace(flush_s=0.02, retry_s=0.02, memory_bytes=100 * 256)


class Server:
    """Takes entries while it is there, and remembers them."""

    def __init__(self):
        self.got, self.late, self.away, self.asked = [], [], "", threading.Event()

    def __call__(self, entries, late):
        self.asked.set()
        if self.away:
            return list(entries), self.away
        (self.late if late else self.got).extend(entries)
        return [], ""


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def box(server, tmp_path):
    boxes = []

    def open_box(url=f"{tmp_path}/unsent", **options):
        boxes.append(Outbox({"key": "run"}, url, server, pace=QUICK, **options))
        return boxes[-1]

    yield open_box
    server.away = ""
    for one in boxes:
        one.close(timeout_s=5)


def points(steps):
    return [Point("loss", 0.5, step, 1000 + step) for step in steps]


def stored(tmp_path):
    """The entries of each file."""
    return [read_entries(str(file)) for file in sorted((tmp_path / "unsent").glob("*.jsonl"))]


@pytest.mark.parametrize("entry", EVERYTHING)
def test_an_entry_is_a_line(entry):
    assert from_line(to_line(entry)) == entry


def test_what_is_put_is_delivered_in_order(box, server, tmp_path):
    one = box()
    for entry in EVERYTHING:
        one.put(entry)
        time.sleep(0.01)
    assert one.close(timeout_s=5)
    assert server.got == EVERYTHING
    assert not stored(tmp_path)


def test_what_is_undelivered_comes_again_before_what_came_later(tmp_path):
    got, away = [], threading.Event()

    def send(entries, late):
        if not away.is_set():
            away.set()
            got.extend(entries[:1])
            return entries[1:], "the second half is missing"
        got.extend(entries)
        return [], ""

    one = Outbox({}, "", send, pace=QUICK)
    one.put(*points(range(3)))
    assert away.wait(5)
    one.put(*points(range(3, 6)))
    assert one.close(timeout_s=5)
    assert got == points(range(6))


def test_nothing_put_is_nothing_to_close(box):
    assert box().close(timeout_s=5)


def test_what_is_left_is_sent_by_the_next_process_before_its_own(box, server, tmp_path, caplog):
    server.away = "Connection refused"
    first = box()
    first.put(*points(range(3)))
    assert not first.close(timeout_s=0.1)
    assert f"the next driver of this run sends it, or `python -m srcluster.tracking {tmp_path}`" in caplog.text
    second = box()
    second.put(*points(range(3, 5)))
    second.save()
    second.put(*points(range(5, 6)))
    assert stored(tmp_path) == [points(range(3)), points(range(3, 5))]
    server.away = ""
    assert second.close(timeout_s=5)
    assert (server.late, server.got) == (points(range(5)), points(range(5, 6)))
    assert not stored(tmp_path)


def test_saved_it_is_with_the_server_or_in_storage_when_the_process_is_killed(box, server, tmp_path):
    one = box()
    one.put(*points(range(2)))
    one.save()
    assert server.got == points(range(2))
    server.away = "Connection refused"
    one.put(*EVERYTHING)
    one.save()
    assert stored(tmp_path) == [EVERYTHING]


def test_a_server_that_hangs_is_not_waited_for(tmp_path):
    release = threading.Event()
    one = Outbox({}, f"{tmp_path}/unsent", lambda entries, late: (release.wait(30), ([], ""))[1], pace=QUICK)
    one.put(*EVERYTHING)
    time.sleep(0.1)
    before = time.monotonic()
    assert not one.close(timeout_s=0.1)
    assert time.monotonic() - before < 1
    assert stored(tmp_path) == [EVERYTHING], "it may not have arrived"
    release.set()


def test_a_full_memory_goes_to_storage(box, server, tmp_path):
    server.away = "Connection refused"
    one = box()
    for step in range(0, 300, 50):
        one.put(*points(range(step, step + 50)))
    deadline = time.monotonic() + 10
    while not stored(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    one.put(*points([300]))
    one.save()
    assert [entry for file in stored(tmp_path) for entry in file] == points(range(301))
    assert len(stored(tmp_path)) > 1
    server.away = ""
    assert one.close(timeout_s=5)
    assert server.late == points(range(301))


@pytest.mark.parametrize("url", ["", "{}/file/unsent"])
def test_what_is_lost_is_told_with_a_count(box, server, tmp_path, caplog, url):
    (tmp_path / "file").touch()
    server.away = "Connection refused"
    one = box(url.format(tmp_path))
    one.put(*EVERYTHING)
    one.close(timeout_s=0.1)
    assert "5 entries of run run are lost: Connection refused; " in caplog.text


def test_a_store_that_is_away_too_keeps_them_waiting(box, server, tmp_path, monkeypatch):
    server.away = "Connection refused"
    one = box()
    one.put(*EVERYTHING)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", lambda *_, **__: (_ for _ in ()).throw(storage.StorageError("away")))
        one.save()
    server.away = ""
    assert one.close(timeout_s=5)
    assert server.got == EVERYTHING


def test_a_damaged_file_holds_up_nothing(box, server, tmp_path, caplog):
    (tmp_path / "unsent").mkdir()
    (tmp_path / "unsent" / "000001-x.jsonl").write_text('{}\n["Other", {}]\n')
    one = box()
    one.put(*points([1]))
    assert one.close(timeout_s=5)
    assert server.got == points([1])
    assert "000001-x.jsonl can't be understood, and is left as it is" in caplog.text


def test_signs_of_life_are_given_while_the_server_answers(server, box):
    one = box(beats=True)
    assert server.asked.wait(5)
    one.close(timeout_s=5)
    assert [entry.key for entry in server.got] == [ALIVE_TAG]


def test_signs_of_life_are_not_kept(server, box, tmp_path):
    server.away = "Connection refused"
    one = box(beats=True)
    assert server.asked.wait(5)
    assert one.close(timeout_s=0.1)
    assert not stored(tmp_path)


def test_nothing_can_be_put_after_the_end(box):
    one = box()
    one.close(timeout_s=1)
    with pytest.raises(RuntimeError, match="has ended"):
        one.put(*EVERYTHING)
