"""Which samples are read by whom, and when: arithmetic on the manifest alone, the same at any position.

One epoch is every sample once, in an order that depends on (seed, epoch) alone: shards are shuffled, samples are
shuffled within them. The readers, one for each loader worker of each rank, take equal contiguous spans of that order,
so that each reads few shards, and shards are divided between readers where there are fewer of them. Within its span,
a reader shuffles again over a window of several shards.

Remainder rule: with R readers and N samples, each reader takes N // R of them; the N mod R last of an epoch's order
are left out of it, others each epoch.

The number of ranks may change at any batch. What is left of an epoch is then divided anew, by the same rules, between
the readers there are; a sample of which any patch was used counts as read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TypeAlias

import numpy as np

__all__ = ["Before", "Order", "resharded"]

Before: TypeAlias = Mapping[int, Sequence[Sequence[int]]]
"""What was read of an epoch before the readers changed: for each change, in turn, how many samples each of the readers
until then had read."""


@dataclass(frozen=True)
class Order:
    """Which samples a reader reads, in which order.

    Args:
        samples: How many samples each shard has.
        seed: Of the shuffles.
        reader: Which of the `readers` this is, from 0.
        readers: Loader workers over all ranks.
        window: Shards whose samples are shuffled together.
    """

    samples: tuple[int, ...]
    seed: int
    reader: int
    readers: int
    window: int

    def epoch(self, epoch: int, before: Sequence[Sequence[int]] = ()) -> list[list[tuple[int, int]]]:
        """This reader's (shard, index in it) pairs of an epoch, window by window, after what was read `before`."""
        shards = np.random.default_rng([self.seed, epoch]).permutation(len(self.samples))
        sizes = np.take(self.samples, shards)
        ends = np.cumsum(sizes)
        left = np.arange(ends[-1])
        for read in before:
            taken = [
                np.concatenate(self._windows(epoch, left, ends, reader, len(read)))[:number]
                for reader, number in enumerate(read)
            ]
            left = np.setdiff1d(left, np.concatenate(taken), assume_unique=True)
        windows = self._windows(epoch, left, ends, self.reader, self.readers)
        index = np.empty(ends[-1], int)
        for place in np.unique(np.searchsorted(ends, np.concatenate(windows), side="right")):
            inside = np.random.default_rng([self.seed, epoch, shards[place]]).permutation(sizes[place])
            index[ends[place] - sizes[place] : ends[place]] = inside
        shard = np.repeat(shards, sizes)
        return [list(zip(shard[window].tolist(), index[window].tolist(), strict=True)) for window in windows]

    def _windows(self, epoch: int, left: np.ndarray, ends: np.ndarray, reader: int, readers: int) -> list[np.ndarray]:
        """What a reader reads of the samples that are left, given as positions in the epoch's order of shards."""
        share = len(left) // readers
        span = left[reader * share : (reader + 1) * share]
        pieces = np.flatnonzero(np.diff(np.searchsorted(ends, span, side="right"), prepend=-1))
        windows = np.split(span, pieces[self.window :: self.window])
        shuffled = []
        for number, window in enumerate(windows):
            random = np.random.default_rng([self.seed, epoch, reader, number * self.window])
            shuffled.append(window[random.permutation(len(window))])
        return shuffled

    def since(
        self, start: int, epoch: int = 0, before: Before | None = None
    ) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """(epoch, window) for ever, from the `start`-th sample on that this reader reads from `epoch` on."""
        before = before or {}
        *_, (epoch, start) = _by_epoch(start, epoch, before, sum(self.samples), self.readers)
        while True:
            for window in self.epoch(epoch, before.get(epoch, ())):
                if window[start:]:
                    yield epoch, window[start:]
                start = max(start - len(window), 0)
            epoch += 1


def _by_epoch(number: int, epoch: int, before: Before, samples: int, readers: int) -> Iterator[tuple[int, int]]:
    """(epoch, how many samples of it) for the first `number` that a reader reads; it stands in the last of them."""
    while number >= (share := (samples - sum(map(sum, before.get(epoch, ())))) // readers):
        yield epoch, share
        epoch, number = epoch + 1, number - share
    yield epoch, number


def resharded(
    samples: int,
    history: Sequence[tuple[int, int]],
    start: int,
    world: int,
    *,
    batch: int,
    workers: int,
    patches_per_sample: int,
) -> tuple[int, int, Before]:
    """Where a run stands whose number of ranks has changed.

    Args:
        samples: Of an epoch.
        history: (ranks, batches) of each part of the run, in turn. What is missing up to `start` was read by as many
            ranks as there are now.
        start: The batch to go on with, counted from the beginning of the run.
        world: Ranks there are now.
        batch: Patches of all ranks together.
        workers: Readers of a rank; number w of them makes the batches w, w + workers, ...
        patches_per_sample: Cut from a sample by the reader that begins it.

    Returns:
        The batch at which there came to be as many ranks as there are now, the first epoch that was not over then, and
        what had been read of it and of those after it, which some readers may have reached.
    """
    parts = [part for part in history if part[1]]
    parts.append((world, start - sum(number for _, number in parts)))
    assert parts[-1][1] >= 0, "a history ends where the run goes on, or before"
    merged = [(ranks, sum(number for _, number in same)) for ranks, same in groupby(parts, itemgetter(0))]
    begin, epoch, before = 0, 0, {}
    for ranks, number in merged[:-1]:
        steps = range(begin, begin + number)
        patches = [len(steps[(worker - begin) % workers :: workers]) * (batch // ranks) for worker in range(workers)]
        # Rounded up: a sample that was begun counts as read.
        read = [-(-each // patches_per_sample) for each in patches]
        counts = [dict(_by_epoch(each, epoch, before, samples, ranks * workers)) for each in read]
        for later in sorted(set().union(*counts)):
            before[later] = [*before.get(later, ()), [count.get(later, 0) for count in counts] * ranks]
        begin, epoch = steps.stop, min(map(max, counts))
    return begin, epoch, before
