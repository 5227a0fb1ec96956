"""The stream from a real store: the same batches as from local files, through its faults and out of the cache."""

import io
import re
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image

import srcluster.storage
from srcluster import storage
from srcluster.data.photos import find
from srcluster.data.shards import Packing, pack
from srcluster.data.stream import Stream
from srcluster.recipe import Data

pytestmark = pytest.mark.cluster

PACKING = Packing(source="48", crop=None, shard_bytes=3 * 512**2 * 4, format="npy")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> str:
    """Enough of them for a dozen shards of 1 MB."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(48):
        Image.fromarray(random.integers(0, 256, (300, 280, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    return str(folder)


@pytest.fixture(scope="module")
def local(photos, tmp_path_factory) -> str:
    url = str(tmp_path_factory.mktemp("local") / "shards")
    pack(find(photos), PACKING, url)
    return url


@pytest.fixture(scope="module")
def remote(photos, s3) -> str:
    url = storage.join(s3.bucket_url, "stream")
    pack(find(photos), PACKING, url)
    return url


def batches(url: str, workers: int = 0, shuffle_shards: int = 1):
    data = Data(shards=url, patch=16, batch=4, workers=workers, shuffle_shards=shuffle_shards)
    return (hr for (hr,) in Stream(data, scale=4, seed=0).batches())


def take(batches, number: int) -> torch.Tensor:
    return torch.stack(list(islice(batches, number)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_killed_in_mid_epoch_changes_nothing(s3, local, remote, workers):
    # An epoch is 12 batches, so this is two and a half; a reader is ahead by two shards and a few batches at most.
    expected = take(batches(local, workers), 30)
    stream = batches(remote, workers)
    received = [next(stream)]
    s3.stop()
    killed = time.monotonic()
    restart = threading.Timer(20, s3.start)
    restart.start()
    received.extend(islice(stream, 29))
    restart.join()
    assert time.monotonic() - killed > 20
    assert torch.equal(torch.stack(received), expected)


def test_the_library_webdataset_reads_shards_from_s3(local, remote, monkeypatch):
    """After the line that the README gives, with the store and the keys of the AWS variables."""
    monkeypatch.setitem(wds.gopen_schemes, "s3", None)
    (line,) = re.findall(r"`(wds\.gopen_schemes.*?)`", (Path(__file__).parents[2] / "README.md").read_text())
    exec(line, {"wds": wds, "io": io, "srcluster": srcluster})
    here, there = (
        list(wds.WebDataset(url + "/{000000..000011}.tar", shardshuffle=False).decode()) for url in (local, remote)
    )
    assert len(there) == 48
    assert all((one["npy"] == other["npy"]).all() for one, other in zip(here, there, strict=True))


def test_connections_that_break_in_mid_shard_change_nothing(local, remote, cut):
    expected = take(batches(local), 15)
    # The manifest's answers come first; after them each connection ends within a shard.
    cutter = cut(*[400_000] * 8)
    assert torch.equal(take(batches(remote), 15), expected)
    assert cutter.connections > 8


def test_the_cache_gives_the_same_without_the_store(s3, local, remote, tmp_path, monkeypatch):
    monkeypatch.setenv("SRCLUSTER_CACHE", str(tmp_path))
    expected = take(batches(local, workers=2), 30)
    assert torch.equal(take(batches(remote, workers=2), 30), expected)
    assert len(list(tmp_path.glob("*[0-9a-f]"))) == 12
    stream = batches(remote, workers=2)
    s3.stop()
    try:
        assert torch.equal(take(stream, 30), expected)
    finally:
        s3.start()
