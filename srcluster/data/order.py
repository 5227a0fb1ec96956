"""Which samples are read by whom, and when: arithmetic on the manifest alone, the same at any position.

One epoch is every sample once, in an order that depends on (seed, epoch) alone: shards are shuffled, samples are
shuffled within them. The readers, one for each loader worker of each rank, take equal contiguous spans of that order,
so that each reads few shards, and shards are divided between readers where there are fewer of them. Within its span,
a reader shuffles again over a window of several shards.

Remainder rule: with R readers and N samples, each reader takes N // R of them; the N mod R last of an epoch's order
are left out of it, others each epoch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Order"]


@dataclass(frozen=True)
class Order:
    """Which samples a reader reads, in which order.

    The number of readers may change in the middle of an epoch. What was read of it until then is said by `before`:
    for each change, in turn, how many samples each of the readers until then had read. The samples that are left are
    divided anew, by the same rule.

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

    @property
    def per_epoch(self) -> int:
        """Samples a reader reads in a whole epoch; the same for each."""
        return sum(self.samples) // self.readers

    def epoch(self, epoch: int, before: Sequence[Sequence[int]] = ()) -> list[list[tuple[int, int]]]:
        """This reader's (shard, index in it) pairs of an epoch, window by window."""
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
        self, start: int, epoch: int = 0, before: Sequence[Sequence[int]] = ()
    ) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """(epoch, window) for ever, from the `start`-th sample on that this reader reads after `before` of `epoch`."""
        left = (sum(self.samples) - sum(map(sum, before))) // self.readers
        if start >= left:
            passed, start = divmod(start - left, self.per_epoch)
            epoch, before = epoch + 1 + passed, ()
        while True:
            for window in self.epoch(epoch, before):
                if window[start:]:
                    yield epoch, window[start:]
                start = max(start - len(window), 0)
            epoch, before = epoch + 1, ()
