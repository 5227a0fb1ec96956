"""The stream: an exact partition, repeatable from any position, and what is said where shards don't fit."""

from collections import Counter
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from srcluster.data.order import Order
from srcluster.data.photos import find
from srcluster.data.shards import Packing, ShardError, pack
from srcluster.data.stream import open_stream, patches
from srcluster.recipe import Data

SHARDS = st.lists(st.integers(1, 60), min_size=1, max_size=12)


@settings(deadline=None, max_examples=150)
@given(samples=SHARDS, world=st.integers(1, 64), workers=st.integers(0, 8), window=st.integers(1, 5))
def test_an_epoch_is_every_sample_once(samples, world, workers, window):
    readers = world * max(1, workers)
    orders = [Order(tuple(samples), 7, reader, readers, window) for reader in range(readers)]
    share = sum(samples) // readers
    for epoch in (0, 3):
        read = [list(chain.from_iterable(order.epoch(epoch))) for order in orders]
        assert {len(one) for one in read} == {share}
        seen = Counter(chain.from_iterable(read))
        assert set(seen.values()) <= {1}
        assert sum(samples) - len(seen) == sum(samples) % readers
        assert all(0 <= index < samples[shard] for shard, index in seen)


def test_every_epoch_has_another_order_and_leaves_out_others():
    samples = (40, 40, 41)
    everything = {(shard, index) for shard, size in enumerate(samples) for index in range(size)}
    orders = [Order(samples, 0, reader, 4, 2) for reader in range(4)]
    epochs = [[pair for order in orders for pair in chain.from_iterable(order.epoch(epoch))] for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(set.union(*(everything - set(epoch) for epoch in epochs))) > 1


@settings(deadline=None, max_examples=50)
@given(samples=SHARDS, readers=st.integers(1, 4), window=st.integers(1, 5), start=st.integers(0, 200))
def test_starting_late_is_skipping(samples, readers, window, start):
    if sum(samples) < readers:
        return
    order = Order(tuple(samples), 1, readers - 1, readers, window)
    flat = lambda start: chain.from_iterable(((epoch, pair) for pair in pairs) for epoch, pairs in order.since(start))  # noqa: E731
    assert list(islice(flat(start), 40)) == list(islice(flat(0), start, start + 40))


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
