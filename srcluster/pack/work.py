"""Where shards are worked on, and what a person sees of it."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from srcluster.progress import progress


class Work:
    """Calls of one function for every shard, here or on a cluster, with a bar or lines that say how far they are.

    Args:
        doing: A word for it: `packing`.
        address: As from `choose_cluster`. A single call is not worth a cluster, and is always made here.
        workers: How many calls at a time on a cluster; 0 for as many as it has cores.
        trouble: A word for what can be amiss: `photographs skipped`.
        troubles: How much of it a result has.

    Attributes:
        shards: Calls that have returned.
        samples: In their results, which say so as `samples`.
        seconds: That they took.
    """

    def __init__(self, doing: str, address: str, workers: int, *, trouble: str, troubles: Callable[[Any], int]) -> None:
        self.doing, self.address, self.workers = doing, address, workers
        self.trouble, self.troubles = trouble, troubles
        self.shards, self.samples, self.seconds = 0, 0, 0.0

    @property
    def samples_per_s(self) -> float:
        return self.samples / max(self.seconds, 1e-9)

    def run(self, function: Callable[..., Any], calls: Sequence[tuple]) -> Iterator[Any]:
        """What `shards.pack` and `verification.verify` call their functions by."""
        began, troubles = time.monotonic(), 0
        with progress(self.doing, len(calls), "shards") as show:
            for result in self._results(function, calls):
                self.shards += 1
                self.samples += result.samples
                self.seconds = time.monotonic() - began
                troubles += self.troubles(result)
                show(self.shards, f"{self.samples_per_s:.0f} samples/s, {troubles} {self.trouble}")
                yield result

    def _results(self, function: Callable[..., Any], calls: Sequence[tuple]) -> Iterator[Any]:
        if self.address == "none" or len(calls) < 2:
            return itertools.starmap(function, calls)
        # Not before the environment is settled.
        from srcluster.cluster import tasks

        return tasks.starmap(function, calls, self.address, self.workers)
