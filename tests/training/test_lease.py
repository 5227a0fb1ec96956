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
