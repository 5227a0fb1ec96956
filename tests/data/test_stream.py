"""The stream: repeatable from any position, through damage, and what is said where shards don't fit."""

import hashlib
import io
import tarfile
import weakref
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from srcluster import storage
from srcluster.data.order import part
from srcluster.data.photos import find
from srcluster.data.samples import Encoded
from srcluster.data.shards import Manifest, Packing, Shard, load_manifest, pack
from srcluster.data.stream import Stream, _Samples, cut
from srcluster.errors import UserError
from srcluster.recipe import Data


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("stream")
    random = np.random.default_rng(0)
    (root / "photos").mkdir()
    for number in range(23):
        Image.fromarray(random.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(root / "photos" / f"{number:02}.png")
    packing = Packing(source="23", crop=None, shard_bytes=3 * 512**2 * 2, format="png")
    pack(find(str(root / "photos")), packing, str(root / "shards"))
    return str(root / "shards")


def data(shards: str, **changes) -> Data:
    return Data(shards=shards, patch=16, batch=6, **changes)


def take(stream, number: int, start: int = 0) -> torch.Tensor:
    return torch.stack([hr for (hr,) in islice(stream.batches(start), number)])


def test_batches_are_hr_patches_with_their_margin(shards):
    batches = take(Stream(data(shards), scale=4, seed=0), 3)
    assert batches.shape == (3, 6, 3, 32, 32)
    assert batches.dtype == torch.uint8


@pytest.mark.parametrize("per_sample", [1, 4])
def test_a_position_restores_exactly(shards, per_sample):
    stream = Stream(data(shards, patches_per_sample=per_sample), scale=4, seed=0)
    batches = take(stream, 20)
    for start in (1, 7, 13):
        assert torch.equal(take(stream, 20 - start, start), batches[start:])


def test_seeds_differ(shards):
    first, again, other = (take(Stream(data(shards), scale=4, seed=seed), 3) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_loader_processes_give_the_same_from_any_position(shards):
    batches = take(Stream(data(shards), scale=4, seed=0), 9)
    stream = Stream(data(shards, workers=2), scale=4, seed=0)
    assert torch.equal(take(stream, 9), batches)
    assert torch.equal(take(stream, 4, start=5), batches[5:])


@settings(deadline=None, max_examples=12)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    world=st.integers(1, 64),
    workers=st.integers(0, 8),
    per_sample=st.integers(1, 3),
    lanes=st.sampled_from([1, 8, 64]),
    start=st.integers(0, 20),
)
def test_a_batch_is_the_same_whoever_reads_it(tiny, sizes, world, workers, per_sample, lanes, start):
    wanted = Data(shards=tiny(sizes), patch=8, batch=64, patches_per_sample=per_sample, lanes=lanes, workers=workers)
    make = partial(Stream, wanted, scale=2, seed=5)
    whole = list(islice(make()._read(range(64), 0), start + 3))[start:]
    streams = [make(rank=rank, world=world) for rank in range(world)]
    # As loader workers do, without the time that these take to start.
    readers = [
        stream._read(part(stream.places, worker, max(1, stream.workers)), start)
        for stream in streams
        for worker in range(max(1, stream.workers))
    ]
    for (batch,) in whole:
        assert torch.equal(torch.cat([next(reader)[0] for reader in readers]), batch)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Callable[[list[int]], str]:
    """Makes shards of so many samples each, of 16 x 16 pixels."""
    root, random = tmp_path_factory.mktemp("tiny"), np.random.default_rng(1)

    def make(sizes: list[int]) -> str:
        url = root / "-".join(map(str, sizes))
        entries = []
        for shard, size in enumerate(sizes) if not url.exists() else ():
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w") as tar:
                for number in range(size):
                    sample = io.BytesIO()
                    np.save(sample, random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
                    member = tarfile.TarInfo(f"{number}.npy")
                    member.size = len(sample.getvalue())
                    tar.addfile(member, io.BytesIO(sample.getvalue()))
            storage.write(str(url / f"{shard}.tar"), content.getvalue())
            sha256 = hashlib.sha256(content.getvalue()).hexdigest()
            entries.append(Shard(name=f"{shard}.tar", samples=size, bytes=len(content.getvalue()), sha256=sha256))
        if entries:
            facts = {"packing": Packing(source="tiny"), "shortest_side": 16, "skipped": (), "software": {}}
            storage.write(str(url / "manifest.json"), Manifest(shards=tuple(entries), **facts).encode())
        return str(url)

    return make


def test_ranks_share_the_batch_also_unequally(shards):
    shares = [take(Stream(data(shards), scale=4, seed=0, rank=rank, world=4), 2) for rank in range(4)]
    assert [share.shape[1] for share in shares] == [1, 2, 1, 2]
    assert torch.equal(torch.cat(shares, 1), take(Stream(data(shards), scale=4, seed=0), 2))


def test_patches_lie_on_the_lr_grid():
    image = np.arange(40 * 50).reshape(40, 50, 1)
    corners = set()
    for corner in np.random.default_rng(0).random((300, 2)):
        (patch,) = cut((image,), 16, 4, corner.tolist())
        top, left = divmod(int(patch[0, 0, 0]), 50)
        assert (top % 4, left % 4, patch.shape) == (0, 0, (16, 16, 1))
        corners.add((top, left))
    assert len(corners) == 7 * 9


@pytest.mark.parametrize(
    ("changes", "world", "words"),
    [
        ({"patch": 64}, 1, "too small for patches of 64 px and their margin \\(80 px\\)"),
        ({}, 7, "7 ranks can't share a batch of 6 patches: use fewer, or raise data.batch"),
        ({"accumulate": 4}, 2, r"2 ranks can't share a batch of 6 patches in 4 micro-batches \(data.accumulate\): use"),
    ],
)
def test_shards_that_do_not_fit(shards, changes, world, words):
    with pytest.raises(UserError, match=words):
        Stream(Data(**{"shards": shards, "patch": 16, "batch": 6, **changes}), scale=4, seed=0, world=world)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_named(shards, tmp_path, workers):
    copy = tmp_path / "shards"
    copy.mkdir()
    for file in Path(shards).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    content = bytearray((copy / "000001.tar").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "000001.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"000001.tar is not what its manifest says"):
        take(Stream(data(str(copy), workers=workers), scale=4, seed=0), 20)


def repacked(shards: str, folder: Path, damaged: set[int]) -> str:
    """A copy of shards some of whose samples, counted through, were damaged before their digests were taken."""
    manifest = load_manifest(shards)
    entries, number = [], 0
    for entry in manifest.shards:
        content = io.BytesIO()
        with tarfile.open(Path(shards, entry.name)) as old, tarfile.open(fileobj=content, mode="w") as new:
            for member in old:
                data = old.extractfile(member).read()
                if number in damaged:
                    data = data[:-200] + bytes(200)
                new.addfile(member, io.BytesIO(data))
                number += 1
        storage.write(str(folder / entry.name), content.getvalue())
        digest = hashlib.sha256(content.getvalue()).hexdigest()
        entries.append(entry.model_copy(update={"sha256": digest, "bytes": len(content.getvalue())}))
    storage.write(str(folder / "manifest.json"), manifest.model_copy(update={"shards": tuple(entries)}).encode())
    return str(folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_samples_are_replaced_and_counted(shards, tmp_path, workers):
    stream = Stream(data(repacked(shards, tmp_path, {1, 2, 14}), workers=workers), scale=4, seed=0)
    assert stream.metrics() == {"data/corrupt_samples": 0}
    batches = take(stream, 20)
    assert stream.metrics() == {"data/corrupt_samples": 3}
    whole = take(Stream(data(shards), scale=4, seed=0), 20)
    same = (batches == whole).flatten(2).all(2)
    # What takes their place is another sample, never one with a damaged part.
    assert 0 < (~same).sum() < 30
    assert not (batches[~same].flatten(1) == 0).all(1).any()
    assert torch.equal(take(stream, 7, start=13), batches[13:])


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_corrupt_samples_are_an_error_that_names_a_shard(shards, tmp_path, workers):
    stream = Stream(data(repacked(shards, tmp_path, {0, 4, 7, 9, 14}), workers=workers), scale=4, seed=0)
    with pytest.raises(
        UserError, match=r"^[45] of 23 samples can't be decoded, the last of them in .*/00000\d.tar \(.*pack"
    ):
        take(stream, 20)


def test_a_shard_without_a_sample_that_decodes_is_named(shards, tmp_path):
    first = range(load_manifest(shards).shards[0].samples)
    with pytest.raises(UserError, match=r"000000.tar.*pack the shards again"):
        take(Stream(data(repacked(shards, tmp_path, set(first))), scale=4, seed=0), 20)


def test_a_shard_that_arrives_damaged_is_read_once_more(shards, monkeypatch):
    whole, read, damaged = take(Stream(data(shards), scale=4, seed=0), 8), storage.read, set()

    def damaging(url: str) -> bytes:
        content = read(url)
        if url in damaged or not url.endswith(".tar"):
            return content
        damaged.add(url)
        return content[:-1] + b"!"

    monkeypatch.setattr(storage, "read", damaging)
    assert torch.equal(take(Stream(data(shards), scale=4, seed=0), 8), whole)
    assert len(damaged) > 1


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_a_reader_holds_two_windows_of_each_lane(shards, monkeypatch, lanes):
    made: list[weakref.ref[Encoded]] = []
    held: list[int] = []
    read = _Samples.shard

    def counting(self: _Samples, shard: int) -> Encoded:
        encoded = read(self, shard)
        made.append(weakref.ref(encoded))
        held.append(sum(one() is not None for one in made))
        return encoded

    monkeypatch.setattr(_Samples, "shard", counting)
    monkeypatch.setattr("srcluster.data.stream._DECODED_BYTES", 0)
    stream = Stream(data(shards, shuffle_shards=lanes, lanes=lanes), scale=4, seed=0)
    take(stream, 40)
    # Ten epochs of eight shards.
    assert len(made) > 60
    assert max(held) <= 2 * lanes
