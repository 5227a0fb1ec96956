"""The lease on a run: one holder at a time, and a successor to one that died."""

import json
import threading
import time

import pytest

from srcluster import storage
from srcluster.training.lease import Lease, LeaseError

BEAT_S = 0.1


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.cluster)])
def url(request, tmp_path) -> str:
    if request.param == "file":
        return str(tmp_path)
    return storage.join(request.getfixturevalue("s3").bucket_url, tmp_path.name)


def lease(url: str, lines: list[str] | None = None) -> Lease:
    return Lease(url, [].append if lines is None else lines.append, beat_s=BEAT_S)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(BEAT_S / 4)


def test_one_holder_at_a_time(url):
    order, lines = [], []

    def second() -> None:
        with lease(url, lines):
            order.append("second")

    with lease(url) as first:
        thread = threading.Thread(target=second)
        thread.start()
        wait_for(lambda: lines)
        # Longer than it would wait for one that is dead.
        time.sleep(10 * BEAT_S)
        order.append("first")
        first.check()
    thread.join(30)
    assert order == ["first", "second"]
    assert len(lines) == 1
    assert "is held by process" in lines[0]
    assert storage.names(url) == []


def test_of_twelve_that_begin_at_once_one_holds_it(url):
    """And the others after it, one by one."""
    begin, inside, most = threading.Barrier(12), set(), []

    def drive(number: int) -> None:
        begin.wait()
        with lease(url) as held:
            inside.add(number)
            most.append(len(inside))
            time.sleep(BEAT_S / 10)
            held.check()
            inside.remove(number)

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 12


def test_a_store_without_conditions_is_told_and_used_as_it_can_be(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "honours_conditions", lambda url: False)
    lines = []
    with lease(str(tmp_path), lines) as held:
        held.check()
        assert "knows no conditional writes" in lines[0]


def test_workers_know_whether_their_driver_holds_it(url):
    with lease(url) as held:
        held.holder.check()
        storage.write(storage.join(url, "lease.json"), json.dumps({"id": "other", "who": "process 1 on x"}).encode())
        with pytest.raises(LeaseError, match="was taken over by process 1 on x"):
            held.holder.check()
    storage.delete(storage.join(url, "lease.json"))
    with pytest.raises(LeaseError, match="was taken over by a driver that has ended since"):
        held.holder.check()


def test_who_sleeps_through_the_life_of_a_successor_stops(url):
    with lease(url) as first:
        storage.delete(storage.join(url, "lease.json"))
        with pytest.raises(LeaseError, match="was taken over by a driver that has ended since"):
            wait_for(first.check)
    assert storage.names(url) == []


def test_a_dead_holder_is_followed_after_a_while(url):
    storage.write(storage.join(url, "lease.json"), json.dumps({"id": "dead", "who": "process 1 on x"}).encode())
    lines, began = [], time.monotonic()
    with lease(url, lines) as successor:
        assert time.monotonic() - began >= 5 * BEAT_S
        successor.check()
    assert f"{url} is held by process 1 on x: waiting until that ends" in lines[0]


def test_who_was_taken_for_dead_stops(url):
    with lease(url) as first:
        storage.write(storage.join(url, "lease.json"), json.dumps({"id": "other", "who": "process 1 on x"}).encode())
        with pytest.raises(LeaseError, match="was taken over by process 1 on x while this process could not be heard"):
            wait_for(first.check)
    # It is not this one's to give up.
    assert json.loads(storage.read(storage.join(url, "lease.json")))["id"] == "other"
