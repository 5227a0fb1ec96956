"""The stream: repeatable from any position, through damage, and what is said where shards don't fit."""

import hashlib
import io
import tarfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from srcluster import storage
from srcluster.data.photos import find
from srcluster.data.shards import Packing, ShardError, load_manifest, pack
from srcluster.data.stream import open_stream, patches
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
    return torch.stack(list(islice(stream.batches(start), number)))


def test_batches_are_hr_patches_with_their_margin(shards):
    batches = take(open_stream(data(shards), scale=4, seed=0), 3)
    assert batches.shape == (3, 6, 3, 32, 32)
    assert batches.dtype == torch.uint8


@pytest.mark.parametrize("per_sample", [1, 4])
def test_a_position_restores_exactly(shards, per_sample):
    stream = open_stream(data(shards, patches_per_sample=per_sample), scale=4, seed=0)
    batches = take(stream, 20)
    for start in (1, 7, 13):
        assert torch.equal(take(stream, 20 - start, start), batches[start:])


def test_seeds_differ(shards):
    first, again, other = (take(open_stream(data(shards), scale=4, seed=seed), 3) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_loader_processes_give_a_fixed_order_from_any_position(shards):
    stream = open_stream(data(shards, workers=2), scale=4, seed=0)
    batches = take(stream, 9)
    assert len(batches.unique(dim=0)) == 9
    assert torch.equal(take(stream, 4, start=5), batches[5:])


def test_ranks_share_the_batch(shards):
    for rank in range(3):
        assert take(open_stream(data(shards), scale=4, seed=0, rank=rank, world=3), 2).shape[1] == 2


def test_ranks_that_come_and_go_read_every_sample_once(tmp_path):
    for shade in range(21):
        Image.new("RGB", (32, 32), (shade,) * 3).save(tmp_path / f"{shade:02}.png")
    pack(find(str(tmp_path)), Packing(source="21", crop=None, shard_bytes=3 * 512**2 * 2), str(tmp_path / "shards"))
    few = data(str(tmp_path / "shards"), patches_per_sample=2).model_copy(update={"batch": 4})
    history, shades = [], []
    for world, number in ((2, 3), (1, 2), (4, 2), (2, 3)):
        start = sum(number for _, number in history)
        for rank in range(world):
            stream = open_stream(few, scale=4, seed=0, rank=rank, world=world)
            batches = torch.stack(list(islice(stream.batches(start, history), number)))
            shades.extend(batches[:, :, 0, 0, 0].flatten().tolist())
        history.append((world, number))
    assert list(Counter(shades).values()) == [2] * 20


def test_patches_lie_on_the_lr_grid():
    image = np.arange(40 * 50).reshape(40, 50, 1)
    for patch in patches(image, 16, 100, 4, np.random.default_rng(0)):
        top, left = divmod(int(patch[0, 0, 0]), 50)
        assert (top % 4, left % 4, patch.shape) == (0, 0, (16, 16, 1))


@pytest.mark.parametrize(
    ("changes", "world", "words"),
    [
        ({"patch": 64}, 1, "too small for patches of 64 px and their margin \\(80 px\\)"),
        ({"workers": 4}, 6, "23 samples, too few for 24 readers"),
        ({}, 4, "data.batch 6 is not divisible over 4 ranks"),
    ],
)
def test_shards_that_do_not_fit(shards, changes, world, words):
    with pytest.raises(ShardError, match=words):
        open_stream(Data(**{"shards": shards, "patch": 16, "batch": 6, **changes}), scale=4, seed=0, world=world)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_named(shards, tmp_path, workers):
    copy = tmp_path / "shards"
    copy.mkdir()
    for file in Path(shards).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    content = bytearray((copy / "000001.tar").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "000001.tar").write_bytes(content)
    with pytest.raises(ShardError, match=r"000001.tar is not what its manifest says"):
        take(open_stream(data(str(copy), workers=workers), scale=4, seed=0), 20)


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
    stream = open_stream(data(repacked(shards, tmp_path, {1, 2, 14}), workers=workers), scale=4, seed=0)
    assert stream.metrics() == {"data/corrupt_samples": 0}
    batches = take(stream, 20)
    assert stream.metrics() == {"data/corrupt_samples": 3}
    whole = take(open_stream(data(shards, workers=workers), scale=4, seed=0), 20)
    same = (batches == whole).flatten(2).all(2)
    # What takes their place is another sample, never one with a damaged part.
    assert 0 < (~same).sum() < 30
    assert not (batches[~same].flatten(1) == 0).all(1).any()
    assert torch.equal(take(stream, 7, start=13), batches[13:])


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_corrupt_samples_are_an_error_that_names_a_shard(shards, tmp_path, workers):
    stream = open_stream(data(repacked(shards, tmp_path, {0, 4, 7, 9, 14}), workers=workers), scale=4, seed=0)
    with pytest.raises(
        ShardError, match=r"^[45] of 23 samples can't be decoded, the last of them in .*/00000\d.tar \(.*pack"
    ):
        take(stream, 20)


def test_a_shard_without_a_sample_that_decodes_is_named(shards, tmp_path):
    first = range(load_manifest(shards).shards[0].samples)
    with pytest.raises(ShardError, match=r"000000.tar.*pack the shards again"):
        take(open_stream(data(repacked(shards, tmp_path, set(first))), scale=4, seed=0), 20)


def test_a_shard_that_arrives_damaged_is_read_once_more(shards, monkeypatch):
    whole, read, damaged = take(open_stream(data(shards), scale=4, seed=0), 8), storage.read, set()

    def damaging(url: str) -> bytes:
        content = read(url)
        if url in damaged or not url.endswith(".tar"):
            return content
        damaged.add(url)
        return content[:-1] + b"!"

    monkeypatch.setattr(storage, "read", damaging)
    assert torch.equal(take(open_stream(data(shards), scale=4, seed=0), 8), whole)
    assert len(damaged) > 1


def test_the_next_window_is_read_while_one_is_used_and_no_other(shards, monkeypatch):
    read, used = storage.read, []
    monkeypatch.setattr(storage, "read", lambda url: used.append(url) or read(url))
    batches = open_stream(data(shards, shuffle_shards=2).model_copy(update={"batch": 1}), scale=4, seed=0).batches()
    next(batches)
    deadline = time.monotonic() + 10
    while len(used) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    # The manifest, and two windows of two shards.
    assert len(used) == 5
