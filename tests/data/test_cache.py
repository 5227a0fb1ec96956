"""The cache of shards: shared by processes, bounded, checked, and never the reason that a training ends."""

import errno
import hashlib
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

from srcluster.data.cache import Cache, cache_for
from srcluster.errors import UserError

MB = 1_000_000


def named(content: bytes) -> tuple[str, bytes]:
    return hashlib.sha256(content).hexdigest(), content


A, B, C = (named(bytes([number]) * MB) for number in range(3))


class Store:
    """Gives content, and counts how often."""

    def __init__(self):
        self.fetched = []

    def read(self, cache: Cache, item: tuple[str, bytes]) -> None:
        digest, content = item
        assert cache.read(digest, lambda: self.fetched.append(item) or content) == content


@pytest.fixture
def store() -> Store:
    return Store()


def test_what_was_fetched_is_kept(tmp_path, store):
    cache = Cache(tmp_path, 3 * MB)
    for item in (A, B, A, B, A):
        store.read(cache, item)
    assert store.fetched == [A, B]


def test_what_was_used_longest_ago_goes_first(tmp_path, store):
    cache = Cache(tmp_path, 2 * MB)
    for item in (A, B, A, C):
        store.read(cache, item)
        time.sleep(0.02)  # longer than the clock of a file system ticks
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"} == {A[0], C[0]}


def test_what_never_fits_is_passed_through(tmp_path, store, caplog):
    cache = Cache(tmp_path, MB - 1)
    store.read(cache, A)
    store.read(cache, A)
    assert store.fetched == [A, A]
    assert "has no room for a shard: give SRCLUSTER_CACHE a larger disk or limit" in caplog.text


def test_a_damaged_file_is_fetched_again(tmp_path, store, caplog):
    cache = Cache(tmp_path, 3 * MB)
    store.read(cache, A)
    (tmp_path / A[0]).write_bytes(A[1][:-1])
    store.read(cache, A)
    store.read(cache, A)
    assert store.fetched == [A, A]
    assert f"{A[0]} is damaged" in caplog.text


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path, store):
    (tmp_path / f"{B[0]}.part").write_bytes(b"half")
    (tmp_path / "thesis.tex").write_bytes(b"important")
    store.read(Cache(tmp_path, MB), A)
    store.read(Cache(tmp_path, MB), C)
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"} == {C[0], "thesis.tex"}


def test_the_disk_is_not_filled(tmp_path, store, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    cache = Cache(tmp_path, 100 * MB)
    store.read(cache, A)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 << 30))
    store.read(cache, B)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == [B[0]]


def test_a_full_disk_is_a_warning(tmp_path, store, monkeypatch, caplog):
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    store.read(Cache(tmp_path, 100 * MB), A)
    assert store.fetched == [A]
    assert "fails, reading from S3 instead: [Errno 28] No space left on device" in caplog.text


def test_a_folder_that_vanishes_is_a_warning(tmp_path, store, caplog):
    store.read(Cache(tmp_path / "gone", 100 * MB), A)
    assert store.fetched == [A]
    assert "fails, reading from S3 instead" in caplog.text


def use(folder: Path, log: Path, seed: int) -> None:
    """What each of several processes does at once: reads eight shards again and again, of which five fit."""
    cache = Cache(folder, 5 * MB)
    for turn in range(40):
        digest, content = named(bytes([(seed * 7 + turn * turn) % 8]) * MB)

        def fetch(digest=digest, content=content) -> bytes:
            with log.open("a") as file:
                file.write(f"{digest}\n")
            time.sleep(0.01)
            return content

        assert cache.read(digest, fetch) == content
        with cache.lock("write"):
            kept = [path.stat().st_size for path in folder.glob("*[0-9a-f]")]
        assert sum(kept) <= 5 * MB


def once(folder: Path, log: Path, seed: int) -> None:
    cache = Cache(folder, 100 * MB)

    def fetch() -> bytes:
        with log.open("a") as file:
            file.write("fetched\n")
        time.sleep(0.5)
        return A[1]

    assert cache.read(A[0], fetch) == A[1]


@pytest.mark.parametrize(("work", "most"), [(use, 160), (once, 1)])
def test_several_processes_share_it(tmp_path, work, most):
    folder = tmp_path / "cache"
    folder.mkdir()
    processes = [
        multiprocessing.get_context("fork").Process(target=work, args=(folder, tmp_path / "log", seed))
        for seed in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert len((tmp_path / "log").read_text().splitlines()) <= most


def test_the_environment_decides(tmp_path, monkeypatch):
    monkeypatch.delenv("SRCLUSTER_CACHE", raising=False)
    assert cache_for("s3://bucket/shards") is None
    assert cache_for("s3://bucket/file", tmp_path).folder == cache_for("https://host/file", tmp_path).folder == tmp_path
    assert cache_for("/a/folder", tmp_path) is None
    monkeypatch.setenv("SRCLUSTER_CACHE", str(tmp_path / "cache"))
    assert cache_for("/a/folder") is None
    assert cache_for("s3://bucket/shards") == Cache(tmp_path / "cache", 20_000 * MB)
    monkeypatch.setenv("SRCLUSTER_CACHE_GB", "0.5")
    assert cache_for("s3://bucket/shards") == Cache(tmp_path / "cache", 500 * MB)


@pytest.mark.parametrize("said", ["0", "-1", "much", "nan", "inf"])
def test_a_limit_that_is_none(tmp_path, monkeypatch, said):
    monkeypatch.setenv("SRCLUSTER_CACHE", str(tmp_path))
    monkeypatch.setenv("SRCLUSTER_CACHE_GB", said)
    with pytest.raises(UserError, match=f"SRCLUSTER_CACHE_GB is a number of gigabytes such as 20, not '{said}'"):
        cache_for("s3://bucket/shards")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SRCLUSTER_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"can't be written .*: name another by SRCLUSTER_CACHE, or unset it"):
        cache_for("s3://bucket/shards")
