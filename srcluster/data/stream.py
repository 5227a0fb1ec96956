"""Shards to batches of HR patches: infinite, shuffled, shared by ranks, and a function of the step alone.

Which sample is at which place of which batch is arithmetic (see `order`). A rank makes a contiguous part of each batch,
and each of its loader workers a contiguous part of that. A reader is a loader worker, or a rank without any: it walks
the lanes of its places. In an epoch it reads each shard of these lanes once, and twice where one lane ends and the next
begins. Two readers of one lane both read it; with SRCLUSTER_CACHE each machine reads it once.

While the samples of one window of a lane are used, a thread reads the shards of the next, so that a step waits for the
store at the start alone. A reader holds at most two windows of each of its lanes, and all readers together, with the 8
lanes of one shard (64 MB) that are the default, 1 GB; a reader also keeps 512 MiB of decoded samples.
"""

import hashlib
import heapq
import itertools
import logging
import weakref
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from srcluster import storage
from srcluster.data.cache import Cache, cache_for
from srcluster.data.degradation import margin
from srcluster.data.order import Order, Window, part
from srcluster.data.prefetch import prefetch
from srcluster.data.samples import DAMAGES, Encoded, decode_sample, read_samples
from srcluster.data.shards import Manifest, load_manifest
from srcluster.errors import UserError
from srcluster.recipe import BICUBIC, Data, Degradation

_DECODED_BYTES = 512 << 20
"""Decoded samples that a reader keeps: small data sets are decoded once and never again."""

_AHEAD = 4
"""Batches prepared ahead of the training step."""

_CORRUPT_SHARE, _CORRUPT_FEW = 1 / 1000, 3
"""Training ends when more samples than the larger of these are corrupt."""

_log = logging.getLogger(__name__)


Batch: TypeAlias = tuple[Tensor, ...]
"""HR patches with their margin, and of pairs LR patches too: B x 3 x H x W and B x 3 x h x w, uint8."""


class _Samples:
    """The samples of one reader, by shard and index.

    Args:
        url: Of the shards.
        corrupt: Marks, one for each sample of the manifest, of those that were found not to decode.
        paired: Whether LR is wanted too.
    """

    def __init__(self, url: str, manifest: Manifest, cache: Cache | None, corrupt: Tensor, paired: bool = False):
        self.url, self.manifest, self.cache, self.corrupt, self.paired = url, manifest, cache, corrupt, paired
        self.first = np.cumsum([0, *(shard.samples for shard in manifest.shards)]).tolist()
        self.decoded: dict[tuple[int, int], tuple[np.ndarray, ...]] = {}
        self.decoded_bytes = 0
        self.held: weakref.WeakValueDictionary[int, Encoded] = weakref.WeakValueDictionary()

    def read(self, windows: Iterator[Window]) -> Iterator[tuple[Window, dict[int, Encoded]]]:
        """Each window with the shards of those of its samples that are not decoded yet."""
        for window in windows:
            wanted = {shard for shard, index in window.samples if (shard, index) not in self.decoded}
            yield window, {shard: self.held.get(shard) or self.shard(shard) for shard in wanted}

    def shard(self, shard: int) -> Encoded:
        """A shard from the store or the cache; a UserError if it is not what its manifest says, also read again."""
        entry, url = self.manifest.shards[shard], self._url(shard)

        def fetch() -> bytes:
            for _ in range(2):
                content = storage.read(url)
                if hashlib.sha256(content).hexdigest() == entry.sha256:
                    return content
            raise UserError(f"{url} is not what its manifest says, it was damaged or replaced: pack the shards again")

        content = self.cache.read(entry.sha256, fetch) if self.cache else fetch()
        encoded = read_samples(content, self.paired)
        self.held[shard] = encoded
        return encoded

    def pictures(self, shard: int, index: int, shards: dict[int, Encoded]) -> tuple[np.ndarray, ...]:
        """HR of a sample, and of pairs LR, each H x W x 3 uint8.

        In place of a sample that does not decode, it is the next of its shard that does.
        """
        pictures = self.decoded.get((shard, index))
        if pictures is None:
            pictures = self._decode(shard, index, shards[shard])
            size = sum(picture.nbytes for picture in pictures)
            if self.decoded_bytes + size <= _DECODED_BYTES:
                self.decoded[shard, index] = pictures
                self.decoded_bytes += size
        return pictures

    def _decode(self, shard: int, index: int, encoded: Encoded) -> tuple[np.ndarray, ...]:
        scale = (self.manifest.packing.scale or 1) if self.paired else None
        # Within the shard, so that the replacement is at hand, and the same wherever the stream began.
        for number in [*range(index, len(encoded)), *range(index)]:
            try:
                return decode_sample(encoded[number], self.manifest.shortest_side, scale)
            except DAMAGES as error:
                self._mark(shard, number, str(error))
        raise UserError(f"no sample of {self._url(shard)} can be decoded: pack the shards again")

    def _mark(self, shard: int, index: int, reason: str) -> None:
        sample = self.first[shard] + index
        if self.corrupt[sample]:
            return
        self.corrupt[sample] = True
        _log.warning("sample %d of %s can't be decoded (%s): another is read", index, self._url(shard), reason)
        number = int(self.corrupt.sum())
        if number > max(_CORRUPT_FEW, _CORRUPT_SHARE * len(self.corrupt)):
            raise UserError(
                f"{number} of {len(self.corrupt)} samples can't be decoded, the last of them in {self._url(shard)} "
                f"({reason}): pack the shards again"
            )

    def _url(self, shard: int) -> str:
        return storage.join(self.url, self.manifest.shards[shard].name)


def cut(pictures: tuple[np.ndarray, ...], side: int, scale: int, corner: Sequence[float]) -> Iterator[np.ndarray]:
    """Square patches of HR at a multiple of the scale, and of LR, if there is one, of what it shows: views.

    Args:
        pictures: HR, and LR or not.
        side: Of the HR patch.
        corner: (row, column) as shares, in [0, 1), of where it can be.
    """
    height, width, _ = pictures[0].shape
    top, left = int(corner[0] * ((height - side) // scale + 1)), int(corner[1] * ((width - side) // scale + 1))
    yield pictures[0][top * scale : top * scale + side, left * scale : left * scale + side]
    for lr in pictures[1:]:
        yield lr[top : top + side // scale, left : left + side // scale]


class Stream(IterableDataset):
    """HR patches of one rank, batch by batch, for ever, from the shards of a recipe's data.

    In a loader worker, iterating gives its part of the rank's part, or the error that ends it.

    Raises:
        UserError: There are no shards, or they don't fit the recipe.
    """

    def __init__(
        self, data: Data, *, scale: int, seed: int, rank: int = 0, world: int = 1, degradation: Degradation = BICUBIC
    ):
        url, manifest = data.shards, load_manifest(data.shards)
        self.url, self.manifest, self.data, self.scale = url, manifest, data, scale
        self.side = data.patch + 2 * margin(scale, degradation)
        self.paired = degradation.kind == "paired"
        if self.paired and manifest.packing.scale != scale:
            kind = f"pairs of scale {manifest.packing.scale}" if manifest.packing.scale else "no LR pictures"
            raise UserError(
                f"{url} has {kind}, and degradation.kind: paired trains on pairs of scale {scale}: pack HR and LR with "
                "python -m srcluster.pack HR --lr LR, or change the recipe's scale"
            )
        if data.batch < world * data.accumulate:
            micro = f" in {data.accumulate} micro-batches (data.accumulate)" if data.accumulate > 1 else ""
            raise UserError(
                f"{world} rank{'s' * (world > 1)} can't share a batch of {data.batch} patches{micro}: use fewer, or "
                "raise data.batch"
            )
        if manifest.shortest_side < self.side:
            raise UserError(
                f"{url} has samples of {manifest.shortest_side} px, too small for patches of {data.patch} px and their "
                f"margin ({self.side} px): lower data.patch, or pack with a larger --crop or --min-side"
            )
        self.places = part(range(data.batch), rank, world)
        self.workers = min(data.workers, len(self.places))
        sizes = tuple(shard.samples for shard in manifest.shards)
        self.order = Order(sizes, seed, data.batch, data.lanes, data.shuffle_shards, data.patches_per_sample)
        self.start = 0
        self.cache = cache_for(url)
        # Shared by the rank's loader processes, each of which marks what it finds.
        self.corrupt = torch.zeros(manifest.samples, dtype=torch.bool).share_memory_()

    def __iter__(self) -> Iterator[Batch | UserError]:
        info = get_worker_info()
        assert info is not None
        try:
            yield from self._read(part(self.places, info.id, info.num_workers), self.start)
        except UserError as error:
            # Raised here, it would reach the training process with a traceback for a message.
            yield error

    def _read(self, places: range, start: int) -> Iterator[Batch]:
        """These places of each batch from number `start` on."""
        order, samples = self.order, _Samples(self.url, self.manifest, self.cache, self.corrupt, self.paired)
        lanes = [order.lane(place) for place in places]
        starts: dict[int, int] = {}
        for lane, place in zip(lanes, places, strict=True):
            starts.setdefault(lane, order.number(start, place)[0])
        windows = heapq.merge(*(order.windows(*lane) for lane in starts.items()), key=order.begun)
        read = prefetch(samples.read(windows), len(starts))
        queues: defaultdict[int, deque[tuple[Window, dict[int, Encoded]]]] = defaultdict(deque)

        def pictures(lane: int, number: int) -> tuple[np.ndarray, ...]:
            queue = queues[lane]
            while not queue or number >= queue[0][0].end:
                if queue:
                    queue.popleft()
                else:
                    window, shards = next(read)
                    queues[window.lane].append((window, shards))
            window, shards = queue[0]
            return samples.pictures(*window.samples[number - window.first], shards)

        sides = [self.side, self.side // self.scale][: 1 + self.paired]
        current: list[tuple[np.ndarray, ...]] = []
        for step in itertools.count(start):
            corners = order.corners(step)[places.start : places.stop].tolist()
            batch = [np.empty((len(places), 3, side, side), np.uint8) for side in sides]
            for at, place in enumerate(places):
                number, is_new = order.number(step, place)
                if step == start:
                    current.append(pictures(lanes[at], number))
                elif is_new:
                    current[at] = pictures(lanes[at], number)
                for all_patches, patch in zip(batch, cut(current[at], self.side, self.scale, corners[at]), strict=True):
                    all_patches[at] = patch.transpose(2, 0, 1)
            yield tuple(map(torch.from_numpy, batch))

    def metrics(self) -> dict[str, float]:
        """What to report of the data read so far."""
        return {"data/corrupt_samples": float(self.corrupt.sum())}

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """This rank's part of each batch from number `start` on, prepared ahead."""
        if self.workers == 0:
            yield from prefetch(map(_pinned, self._read(self.places, start)), _AHEAD)
        self.start = start
        parts = iter(
            DataLoader(
                self,
                batch_size=None,
                num_workers=self.workers,
                prefetch_factor=_AHEAD,
                multiprocessing_context="spawn",
            )
        )
        while True:
            made: list[Batch] = []
            for each in itertools.islice(parts, self.workers):
                if isinstance(each, UserError):
                    raise each
                made.append(each)
            yield _pinned(tuple(map(torch.cat, zip(*made, strict=True))))


def _pinned(batch: Batch) -> Batch:
    return tuple(map(Tensor.pin_memory, batch)) if torch.cuda.is_available() else batch
