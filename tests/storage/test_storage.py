"""Storage on local folders and on a real S3 store: its answers, its faults, its disappearance."""

import multiprocessing
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from srcluster import storage
from srcluster.storage import StorageError

MIB = 1 << 20


@pytest.fixture(params=["folder", "file", pytest.param("s3", marks=pytest.mark.cluster)])
def root(request, tmp_path):
    """A place of its own for each test, in each kind of storage."""
    if request.param == "folder":
        return str(tmp_path / "a folder")
    if request.param == "file":
        return (tmp_path / "a folder").as_uri()
    return storage.join(request.getfixturevalue("s3").bucket_url, tmp_path.name, request.node.name)


def test_what_is_written_is_read(root):
    url = storage.join(root, "set", "1.png")
    storage.write(url, b"first")
    storage.write(url, b"second")
    assert storage.read(url) == b"second"
    assert storage.exists(url)
    assert not storage.exists(storage.join(root, "set"))


def test_a_write_replaces_the_version_that_it_expects_and_no_other(root):
    url = storage.join(root, "object")
    storage.write(url, b"1", expected="")
    first = storage.version(url)
    with pytest.raises(storage.ConflictError):
        storage.write(url, b"2", expected="")
    storage.write(url, b"2", expected=first)
    for stale in (first, ""):
        with pytest.raises(storage.ConflictError):
            storage.write(url, b"3", expected=stale)
    assert storage.read(url) == b"2"
    storage.delete(url)
    with pytest.raises(storage.ConflictError):
        storage.write(url, b"3", expected=first)
    assert storage.version(url) == ""
    assert storage.honours_conditions(root)
    assert storage.names(root) == []


@pytest.mark.parametrize("answer", [None, StorageError("501: A header you provided implies functionality")])
def test_a_store_that_knows_no_conditions_is_noticed(monkeypatch, tmp_path, answer):
    def write(url: str, data: bytes, *, expected: str | None = None) -> None:
        if expected is not None and answer:
            raise answer
        Path(url).write_bytes(data)

    monkeypatch.setattr(storage, "write", write)
    assert not storage.honours_conditions(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, 10 * MIB])
def test_a_file_goes_up_and_comes_down(root, tmp_path, size):
    data = random.Random(0).randbytes(size)
    (tmp_path / "up").write_bytes(data)
    url = storage.join(root, "object")
    storage.upload(tmp_path / "up", url)
    storage.download(url, tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == data


def test_chunks_have_the_size_asked_for(root):
    url = storage.join(root, "object")
    storage.write(url, bytes(10))
    assert [len(chunk) for chunk in storage.chunks(url, chunk_bytes=4)] == [4, 4, 2]


def test_names_are_relative_and_sorted(root):
    for name in ["b/2.tar", "a.json", "b/1.tar"]:
        storage.write(storage.join(root, "shards", name), b"")
    storage.write(storage.join(root, "shards-of-another-set"), b"")
    assert storage.names(storage.join(root, "shards")) == ["a.json", "b/1.tar", "b/2.tar"]
    assert storage.names(storage.join(root, "nothing")) == []


def test_a_name_that_was_listed_is_found_whatever_its_letters(root):
    odd = ["a.png", "odd name+%2F?#&.png", "\u00e4/\u2603.png"]
    for name in odd:
        storage.write(storage.join(root, name), name.encode())
    assert storage.names(root) == sorted(odd)
    assert storage.names(root + "/") == sorted(odd)
    for name in storage.names(root):
        assert storage.read(storage.join(root, name)) == name.encode()


def test_a_tilde_is_the_home_that_a_shell_makes_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    storage.write("~/x/1", b"1")
    assert (tmp_path / "x" / "1").read_bytes() == b"1"
    assert storage.absolute("~/x") == str(tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("x") == str(tmp_path / "x")
    assert storage.absolute("s3://b/~/x") == "s3://b/~/x"


def test_deleting_twice_is_no_error(root):
    url = storage.join(root, "object")
    storage.write(url, b"")
    storage.delete(url)
    storage.delete(url)
    assert not storage.exists(url)


def test_a_missing_object_is_named(root):
    url = storage.join(root, "missing")
    with pytest.raises(StorageError, match=r"there is no .*missing.*: check its name"):
        storage.read(url)


def test_a_check_leaves_nothing_behind(root):
    storage.check(root, write=True)
    storage.check(root)
    assert storage.names(root) == []


def test_a_failed_download_leaves_nothing_behind(root, tmp_path):
    target = tmp_path / "target" / "object"
    with pytest.raises(StorageError):
        storage.download(storage.join(root, "missing"), target)
    assert list(target.parent.iterdir()) == []


def test_a_missing_folder_is_found_early(tmp_path):
    with pytest.raises(StorageError, match=r"there is no folder .*: make it"):
        storage.check(str(tmp_path / "missing"))


@pytest.mark.parametrize("url", ["gs://bucket/key", "http://host/key"])
def test_other_schemes_are_refused(url):
    with pytest.raises(StorageError, match="neither an s3:// URL, a file: URL nor a path"):
        storage.read(url)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "no store answers at http://127.0.0.1:1: .*AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:1"}, "AWS_ENDPOINT_URL must be a URL such as http://"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "does not know the key in AWS_ACCESS_KEY_ID: set it"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "refuses AWS_SECRET_ACCESS_KEY: set it"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "needs credentials: set AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_store_that_cannot_be_entered_is_found_early(s3, monkeypatch, variables, sentence):
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    # No other source of keys that this machine may have.
    for name in ["AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"]:
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in variables.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    began = time.monotonic()
    with pytest.raises(StorageError, match=sentence) as caught:
        storage.check(s3.bucket_url, write=True)
    assert time.monotonic() - began < 30
    assert secret not in str(caught.value)


@pytest.mark.cluster
def test_a_missing_bucket_is_found_early_and_can_be_made(s3):
    with pytest.raises(StorageError, match=r"there is no bucket photographs at .*: make it with `python -c"):
        storage.check("s3://photographs/coco")
    storage.make_bucket("s3://photographs")
    storage.make_bucket("s3://photographs")
    storage.check("s3://photographs/coco", write=True)


@pytest.mark.cluster
def test_a_dropped_connection_loses_and_repeats_no_byte(s3, cut):
    url = storage.join(s3.bucket_url, "dropped")
    data = random.Random(1).randbytes(4 * MIB)
    storage.write(url, data)
    # Before the answer's header is whole, within the first chunk, and later, again and again.
    cutter = cut(100, 5_000, MIB, MIB + 1, 70_001)
    assert storage.read(url) == data
    assert cutter.connections > 5


@pytest.mark.cluster
def test_an_object_that_changes_while_it_is_read_is_an_error(s3, cut):
    url = storage.join(s3.bucket_url, "changing")
    storage.write(url, bytes(8 * MIB))
    cut(4 * MIB)
    stream = storage.chunks(url)
    assert next(stream) == bytes(MIB)
    storage.write(url, bytes([1]) * 8 * MIB)
    with pytest.raises(StorageError, match="changed while it was read"):
        list(stream)


@pytest.mark.cluster
def test_a_store_that_is_killed_in_mid_object_is_waited_for(s3):
    """No byte is lost or repeated; whoever writes meanwhile waits, for as long as it is told to."""
    url = storage.join(s3.bucket_url, "killed")
    data = random.Random(2).randbytes(48 * MIB)
    storage.write(url, data)
    stream = storage.chunks(url)
    received = [next(stream)]
    s3.stop()
    began = time.monotonic()
    with pytest.raises(StorageError, match="no store answers at"):
        storage.write(storage.join(s3.bucket_url, "late"), b"in vain", patience_s=0.5)
    assert time.monotonic() - began < 10
    with ThreadPoolExecutor(9) as pool:
        # They share botocore's attempts, and must not give up when these are used up.
        names = [storage.join(s3.bucket_url, f"late{number}") for number in range(8)]
        written = [pool.submit(storage.write, name, b"late") for name in names]
        pool.submit(s3.start)
        received.extend(stream)
        assert b"".join(received) == data
        for name, late in zip(names, written, strict=True):
            late.result()
            assert storage.read(name) == b"late"


@pytest.mark.cluster
def test_a_forked_process_has_connections_of_its_own(s3, tmp_path):
    url = storage.join(s3.bucket_url, "forked")
    storage.write(url, random.Random(3).randbytes(MIB))
    children = [
        multiprocessing.get_context("fork").Process(target=storage.download, args=(url, tmp_path / str(number)))
        for number in range(2)
    ]
    for child in children:
        child.start()
    expected = storage.read(url)
    for child in children:
        child.join()
    assert [Path(tmp_path / str(number)).read_bytes() for number in range(2)] == [expected] * 2
