"""Which sample is at which place of which batch: arithmetic on the manifest alone, whoever reads it.

An epoch is every sample once, in an order that depends on (seed, epoch) alone: shards are shuffled, and samples are
shuffled within them. The lanes are equal contiguous spans of that order, walked side by side; each lane shuffles again
over a window of its shards. A batch takes equally many patches from every lane, place by place:

    places of a batch    0 1 | 2 3 | 4 5 | 6 7      batch 8 of 4 lanes
    lane                  0     1     2     3

A place keeps its sample for `patches_per_sample` batches; the lanes take their next samples in turn.

Remainder rule: with L lanes and N samples, a lane has N // L of them; the N mod L last of an epoch's order are left out
of it, others each epoch. There are as many lanes as the recipe says, or the next fewer that divide the batch and are no
more than the samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np


def part(places: range, number: int, parts: int) -> range:
    """Part `number` of `parts` of the places of a batch: contiguous, and no part is larger than another by 2."""
    return places[len(places) * number // parts : len(places) * (number + 1) // parts]


@dataclass(frozen=True)
class Window:
    """The samples of some shards of a lane, in the order in which it takes them.

    Attributes:
        first: Number of the first sample, counted over all epochs of the lane.
        samples: (shard, index in it).
    """

    lane: int
    first: int
    samples: list[tuple[int, int]]

    @property
    def end(self) -> int:
        return self.first + len(self.samples)


@dataclass(frozen=True)
class Order:
    """The order of samples in a run.

    Args:
        sizes: Samples of each shard.
        seed: Of the shuffles.
        batch: Patches of all ranks together.
        most_lanes: There may be fewer.
        shuffle_shards: Shards that are shuffled together, over all lanes; a lane takes at least one.
        patches_per_sample: Batches for which a place keeps its sample.
    """

    sizes: tuple[int, ...]
    seed: int
    batch: int
    most_lanes: int
    shuffle_shards: int
    patches_per_sample: int

    @cached_property
    def lanes(self) -> int:
        most = min(self.most_lanes, sum(self.sizes))
        return max(lanes for lanes in range(1, most + 1) if self.batch % lanes == 0)

    @cached_property
    def share(self) -> int:
        """Samples of a lane in an epoch."""
        return sum(self.sizes) // self.lanes

    @cached_property
    def window(self) -> int:
        """Shards of a lane that are shuffled together."""
        return max(1, self.shuffle_shards // self.lanes)

    def lane(self, place: int) -> int:
        return place * self.lanes // self.batch

    def number(self, step: int, place: int) -> tuple[int, bool]:
        """Which of its lane's samples is at a place of a batch, and whether it was not there a step before."""
        each = self.batch // self.lanes
        lane, within = divmod(place, each)
        turn, kept = divmod(step + lane * self.patches_per_sample // self.lanes, self.patches_per_sample)
        return turn * each + within, kept == 0

    def begun(self, window: Window) -> int:
        """The step at which a window's first sample comes to its place."""
        turn = window.first * self.lanes // self.batch
        return turn * self.patches_per_sample - window.lane * self.patches_per_sample // self.lanes

    def windows(self, lane: int, start: int = 0) -> Iterator[Window]:
        """The windows of a lane for ever, from the one that holds its sample number `start` on.

        To begin anywhere costs a shuffle of the names of the shards, and of the samples of one window.
        """
        epoch = start // self.share
        begin, end = lane * self.share, (lane + 1) * self.share
        while True:
            shards = _random(0, self.seed, epoch).permutation(len(self.sizes))
            sizes = np.take(self.sizes, shards)
            ends = np.cumsum(sizes)
            low, high = np.searchsorted(ends, [begin, end - 1], side="right")
            pieces = np.arange(low, high + 1)
            for at in range(0, len(pieces), self.window):
                inside = pieces[at : at + self.window]
                offsets = ends[inside] - sizes[inside]
                first, last = max(offsets[0], begin), min(ends[inside[-1]], end)
                if epoch * self.share + last - begin <= start:
                    continue
                samples: list[tuple[int, int]] = []
                for shard, size, offset in zip(shards[inside].tolist(), sizes[inside], offsets, strict=True):
                    indices = _random(1, self.seed, epoch, shard).permutation(size)
                    indices = indices[max(first - offset, 0) : last - offset]
                    samples += [(shard, index) for index in indices.tolist()]
                order = _random(2, self.seed, epoch, lane, at).permutation(len(samples))
                yield Window(lane, int(epoch * self.share + first - begin), [samples[index] for index in order])
            epoch += 1

    def corners(self, step: int) -> np.ndarray:
        """Where the patches of a batch are cut, as shares of where they can be: batch x (row, column), in [0, 1)."""
        return _random(3, self.seed, step).random((self.batch, 2))


def _random(*key: int) -> np.random.Generator:
    # What it is for comes first: numpy takes [7] and [7, 0] for the same.
    return np.random.default_rng(key)
