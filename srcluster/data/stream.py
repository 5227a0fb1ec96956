"""Shards to batches of HR patches: infinite, shuffled, split over ranks, and a pure function of the position.

One epoch is every sample once, in an order that depends on (seed, epoch) alone: shards are shuffled, samples are
shuffled within them. The readers, one for each loader worker of each rank, take equal contiguous spans of that order,
so that each reads few shards, and shards are divided between readers where there are fewer of them. Within its span,
a reader shuffles again over a window of several shards. Because all of this is arithmetic on the manifest, the stream
starts at any batch without reading what comes before it.

Remainder rule: with R readers and N samples, each reader takes N // R of them; the N mod R last of an epoch's order
are left out of it, others each epoch.
"""

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from queue import Empty, Full, Queue

import numpy as np
import torch
import webdataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from srcluster import storage
from srcluster.data.degradation import margin
from srcluster.data.shards import Manifest, ShardError, load_manifest
from srcluster.recipe import Data

__all__ = ["Order", "Stream", "open_stream", "patches"]

_DECODED_BYTES = 512 << 20
"""Decoded samples that a reader keeps: small data sets are decoded once and never again."""

_AHEAD = 4
"""Batches prepared ahead of the training step."""


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

    @property
    def per_epoch(self) -> int:
        """Samples a reader reads in an epoch; the same for each."""
        return sum(self.samples) // self.readers

    def epoch(self, epoch: int) -> list[list[tuple[int, int]]]:
        """This reader's (shard, index in it) pairs of an epoch, window by window."""
        random = np.random.default_rng([self.seed, epoch])
        start, stop = self.reader * self.per_epoch, (self.reader + 1) * self.per_epoch
        pieces, position = [], 0
        for shard in random.permutation(len(self.samples)).tolist():
            first, position = position, position + self.samples[shard]
            if first < stop and position > start:
                inside = np.random.default_rng([self.seed, epoch, shard]).permutation(self.samples[shard])
                pieces.append([(shard, int(i)) for i in inside[max(start - first, 0) : stop - first]])
        windows = []
        for first in range(0, len(pieces), self.window):
            together = [pair for piece in pieces[first : first + self.window] for pair in piece]
            shuffled = np.random.default_rng([self.seed, epoch, self.reader, first]).permutation(len(together))
            windows.append([together[i] for i in shuffled])
        return windows

    def since(self, start: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """(epoch, window) for ever, from the reader's `start`-th sample on."""
        for epoch in count(start // self.per_epoch):
            skip = max(start - epoch * self.per_epoch, 0)
            for window in self.epoch(epoch):
                if window[skip:]:
                    yield epoch, window[skip:]
                skip = max(skip - len(window), 0)


class _Shards:
    """Samples by shard and index; the last few shards are kept encoded, and as many samples as fit decoded."""

    def __init__(self, url: str, manifest: Manifest, keep: int):
        self.url, self.manifest, self.keep = url, manifest, keep
        self.encoded: OrderedDict[int, list[tuple[str, bytes]]] = OrderedDict()
        self.decoded: dict[tuple[int, int], np.ndarray] = {}
        self.decoded_bytes = 0

    def get(self, shard: int, index: int) -> np.ndarray:
        """H x W x 3, uint8."""
        image = self.decoded.get((shard, index))
        if image is None:
            image = _decode(*self._sample(shard, index))
            if self.decoded_bytes + image.nbytes <= _DECODED_BYTES:
                self.decoded[shard, index] = image
                self.decoded_bytes += image.nbytes
        return image

    def _sample(self, shard: int, index: int) -> tuple[str, bytes]:
        """(file ending, content)."""
        if shard not in self.encoded:
            self.encoded[shard] = self._read(shard)
            if len(self.encoded) > self.keep:
                self.encoded.popitem(last=False)
        self.encoded.move_to_end(shard)
        return self.encoded[shard][index]

    def _read(self, shard: int) -> list[tuple[str, bytes]]:
        entry = self.manifest.shards[shard]
        place = storage.join(self.url, entry.name)
        content = storage.read(place)
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise ShardError(
                f"{place} is not what its manifest says, it was damaged or replaced: pack the shards again"
            )
        files = webdataset.tariterators.tar_file_iterator(io.BytesIO(content))
        return [(file["fname"].rpartition(".")[2], file["data"]) for file in files]


def _decode(ending: str, content: bytes) -> np.ndarray:
    """H x W x 3 uint8 of a sample."""
    if ending == "npy":
        return np.load(io.BytesIO(content), allow_pickle=False)
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def patches(image: np.ndarray, side: int, number: int, align: int, random: np.random.Generator) -> list[np.ndarray]:
    """Cut `number` square patches of `side` pixels at random multiples of `align`: side x side x 3 views."""
    rows, columns = ((length - side) // align + 1 for length in image.shape[:2])
    corners = random.integers((rows, columns), size=(number, 2)) * align
    return [image[top : top + side, left : left + side] for top, left in corners]


class Stream(IterableDataset):
    """HR patches of one rank, batch by batch, for ever.

    Iterating gives Tensors B x 3 x (P + 2 margin) x (P + 2 margin), uint8, for B the rank's share of the batch.
    With loader workers, worker w makes the batches w, w + workers, ... and the order of batches is fixed.
    """

    def __init__(self, url: str, manifest: Manifest, data: Data, *, scale: int, seed: int, rank: int, world: int):
        self.url, self.manifest, self.data = url, manifest, data
        self.scale, self.seed, self.rank, self.world = scale, seed, rank, world
        self.side = data.patch + 2 * margin(scale)
        self.batch = data.batch // world
        self.readers = world * max(1, data.workers)
        self.start = 0
        if data.batch % world:
            raise ShardError(f"data.batch {data.batch} is not divisible over {world} ranks")
        if manifest.shortest_side < self.side:
            raise ShardError(
                f"{url} has samples of {manifest.shortest_side} px, too small for patches of {data.patch} px and their "
                f"margin ({self.side} px): lower data.patch, or pack with a larger --crop or --min-side"
            )
        if manifest.samples < self.readers:
            raise ShardError(
                f"{url} has {manifest.samples} samples, too few for {self.readers} readers ({world} ranks of "
                f"{max(1, data.workers)} loader workers): use fewer, or pack more"
            )

    def __iter__(self) -> Iterator[Tensor]:
        info = get_worker_info()
        workers = max(1, self.data.workers)
        # The loader asks its workers in turn, beginning with number 0, wherever the stream begins.
        worker = (self.start + (info.id if info else 0)) % workers
        done = (self.start - worker + workers - 1) // workers
        flat = self._patches(self.rank * workers + worker, done * self.batch)
        while True:
            batch = np.stack([next(flat) for _ in range(self.batch)])
            yield torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()

    def _patches(self, reader: int, start: int) -> Iterator[np.ndarray]:
        """One reader's patches, from its `start`-th on."""
        counts = tuple(shard.samples for shard in self.manifest.shards)
        order = Order(counts, self.seed, reader, self.readers, self.data.shuffle_shards)
        shards = _Shards(self.url, self.manifest, self.data.shuffle_shards)
        first, skip = divmod(start, self.data.patches_per_sample)
        for epoch, window in order.since(first):
            for shard, index in window:
                image = shards.get(shard, index)
                random = np.random.default_rng([self.seed, epoch, shard, index])
                cut = patches(image, self.side, self.data.patches_per_sample, self.scale, random)
                yield from cut[skip:]
                skip = 0

    def batches(self, start: int = 0) -> Iterator[Tensor]:
        """Batches from the `start`-th on, prepared ahead by the loader's workers or by a thread."""
        self.start = start
        if self.data.workers == 0:
            return _ahead(iter(self))
        return iter(
            DataLoader(
                self,
                batch_size=None,
                num_workers=self.data.workers,
                prefetch_factor=_AHEAD,
                pin_memory=torch.cuda.is_available(),
                multiprocessing_context="spawn",
            )
        )


def open_stream(data: Data, *, scale: int, seed: int, rank: int = 0, world: int = 1) -> Stream:
    """Open the shards of a recipe for one rank, and check that they fit.

    Raises:
        ShardError: There are no shards, or they are too few or too small for the recipe.
        StorageError: The store can't be read.
    """
    manifest = load_manifest(data.shards)
    return Stream(data.shards, manifest, data, scale=scale, seed=seed, rank=rank, world=world)


def _ahead(items: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same items, made in a thread, a few ahead; it ends with its consumer."""
    queue: Queue = Queue(_AHEAD)
    closed = threading.Event()

    def put(item: object) -> bool:
        while not closed.is_set():
            try:
                queue.put(item, timeout=0.2)
            except Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:
            put(error)

    threading.Thread(target=work, daemon=True, name="stream").start()
    try:
        while True:
            try:
                item = queue.get(timeout=0.2)
            except Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
