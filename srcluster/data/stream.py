"""Shards to batches of HR patches: infinite, shuffled, shared by ranks, and a function of the step alone.

Which sample is at which place of which batch is arithmetic (see `order`). A rank makes a contiguous part of each batch,
and so do its loader workers of the rank's: a reader, which is a worker or a rank without any, walks the lanes that its
places belong to. In an epoch it reads the shards of these lanes once, and the shard in which one lane ends and another
begins twice; two readers read a lane that they share, which SRCLUSTER_CACHE makes one reading for each machine.

While the samples of one window of a lane are used, a thread reads the shards of the next, so that a step waits for the
store at the start alone. A reader holds at most two windows of each of its lanes, and all readers together, with the 8
lanes of one shard (64 MB) that are the default, 1 GB; a reader also keeps 512 MiB of decoded samples.
"""

import hashlib
import heapq
import io
import itertools
import logging
import struct
import tarfile
import weakref
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from srcluster import storage
from srcluster.data.cache import Cache, cache_for
from srcluster.data.degradation import margin
from srcluster.data.order import Order, Window, part
from srcluster.data.prefetch import prefetch
from srcluster.data.shards import Manifest, ShardError, load_manifest
from srcluster.errors import UserError
from srcluster.recipe import Data

__all__ = ["Stream", "open_stream"]

_DECODED_BYTES = 512 << 20
"""Decoded samples that a reader keeps: small data sets are decoded once and never again."""

_AHEAD = 4
"""Batches prepared ahead of the training step."""

_CORRUPT_SHARE, _CORRUPT_FEW = 1 / 1000, 3
"""Corrupt samples that are replaced, of all; however few all are, so many may be."""

_DAMAGES = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What decoders raise of bytes that are no picture."""

_log = logging.getLogger(__name__)


class Encoded(list[tuple[str, memoryview]]):
    """The samples of a shard: (file ending, content), views of its bytes."""


class _Samples:
    """The samples of one reader, by shard and index.

    Args:
        url: Of the shards.
        manifest: Theirs.
        cache: Of this machine, if it has one.
        corrupt: Marks, one for each sample of the manifest, of those that were found not to decode.
    """

    def __init__(self, url: str, manifest: Manifest, cache: Cache | None, corrupt: Tensor):
        self.url, self.manifest, self.cache, self.corrupt = url, manifest, cache, corrupt
        self.first = np.cumsum([0, *(shard.samples for shard in manifest.shards)]).tolist()
        self.decoded: dict[tuple[int, int], np.ndarray] = {}
        self.decoded_bytes = 0
        self.held: weakref.WeakValueDictionary[int, Encoded] = weakref.WeakValueDictionary()

    def read(self, windows: Iterator[Window]) -> Iterator[tuple[Window, dict[int, Encoded]]]:
        """Each window with those of its shards that are not decoded whole."""
        for window in windows:
            wanted = {shard for shard, index in window.samples if (shard, index) not in self.decoded}
            yield window, {shard: self.held.get(shard) or self.shard(shard) for shard in wanted}

    def shard(self, shard: int) -> Encoded:
        """A shard from the store or the cache, as its manifest says it is.

        Raises:
            ShardError: It is something else, also when read again.
            StorageError: The store can't be read.
        """
        entry = self.manifest.shards[shard]
        place = storage.join(self.url, entry.name)

        def fetch() -> bytes:
            for _ in range(2):
                content = storage.read(place)
                if hashlib.sha256(content).hexdigest() == entry.sha256:
                    return content
            raise ShardError(
                f"{place} is not what its manifest says, it was damaged or replaced: pack the shards again"
            )

        content = self.cache.read(entry.sha256, fetch) if self.cache else fetch()
        view = memoryview(content)
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as files:
            encoded = Encoded(
                (file.name.rpartition(".")[2], view[file.offset_data : file.offset_data + file.size]) for file in files
            )
        self.held[shard] = encoded
        return encoded

    def image(self, shard: int, index: int, shards: dict[int, Encoded]) -> np.ndarray:
        """A sample, H x W x 3 uint8; in place of one that does not decode, the next of its shard that does."""
        image = self.decoded.get((shard, index))
        if image is None:
            image = self._decode(shard, index, shards[shard])
            if self.decoded_bytes + image.nbytes <= _DECODED_BYTES:
                self.decoded[shard, index] = image
                self.decoded_bytes += image.nbytes
        return image

    def _decode(self, shard: int, index: int, encoded: Encoded) -> np.ndarray:
        # Within the shard, so that the replacement is at hand, and the same wherever the stream began.
        for number in [*range(index, len(encoded)), *range(index)]:
            try:
                ending, content = encoded[number]
                return _decode(ending, content, self.manifest.shortest_side)
            except _DAMAGES as error:
                self._mark(shard, number, str(error))
        raise ShardError(f"no sample of {self._place(shard)} can be decoded: pack the shards again")

    def _mark(self, shard: int, index: int, reason: str) -> None:
        sample = self.first[shard] + index
        if self.corrupt[sample]:
            return
        self.corrupt[sample] = True
        _log.warning("sample %d of %s can't be decoded (%s): another is read", index, self._place(shard), reason)
        number = int(self.corrupt.sum())
        if number > max(_CORRUPT_FEW, _CORRUPT_SHARE * len(self.corrupt)):
            raise ShardError(
                f"{number} of {len(self.corrupt)} samples can't be decoded, the last of them in {self._place(shard)} "
                f"({reason}): pack the shards again"
            )

    def _place(self, shard: int) -> str:
        return storage.join(self.url, self.manifest.shards[shard].name)


def _decode(ending: str, content: memoryview, shortest_side: int) -> np.ndarray:
    """H x W x 3 uint8 of a sample; one of _DAMAGES is raised if it is anything else."""
    if ending == "npy":
        image = np.load(io.BytesIO(content), allow_pickle=False)
    else:
        picture = Image.open(io.BytesIO(content), formats=[Image.registered_extensions()[f".{ending}"]])
        # To convert what is RGB already is to copy it.
        image = np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    if image.dtype != np.uint8 or image.shape[2:] != (3,) or min(image.shape[:2]) < shortest_side:
        raise ValueError(f"it is {image.dtype} of {image.shape}")
    return image


def cut(image: np.ndarray, side: int, align: int, corner: Sequence[float]) -> np.ndarray:
    """A square patch at a multiple of `align`, a side x side x 3 view; `corner` is in [0, 1) of where it can be."""
    top, left = (
        int(at * ((length - side) // align + 1)) * align for at, length in zip(corner, image.shape[:2], strict=True)
    )
    return image[top : top + side, left : left + side]


class Stream(IterableDataset):
    """HR patches of one rank, batch by batch, for ever.

    In a loader worker, iterating gives its part of the rank's part, or the error that ends it.
    """

    def __init__(self, url: str, manifest: Manifest, data: Data, *, scale: int, seed: int, rank: int, world: int):
        self.url, self.manifest, self.data, self.scale = url, manifest, data, scale
        self.side = data.patch + 2 * margin(scale)
        if data.batch < world * data.accumulate:
            micro = f" in {data.accumulate} micro-batches (data.accumulate)" if data.accumulate > 1 else ""
            raise UserError(
                f"{world} rank{'s' * (world > 1)} can't share a batch of {data.batch} patches{micro}: use fewer, or "
                "raise data.batch"
            )
        if manifest.shortest_side < self.side:
            raise ShardError(
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

    def __iter__(self) -> Iterator[Tensor | UserError]:
        info = get_worker_info()
        assert info is not None
        try:
            yield from self._read(part(self.places, info.id, info.num_workers), self.start)
        except UserError as error:
            # Raised here, it would reach the training process with a traceback for a message.
            yield error

    def _read(self, places: range, start: int) -> Iterator[Tensor]:
        """These places of each batch from number `start` on."""
        order, samples = self.order, _Samples(self.url, self.manifest, self.cache, self.corrupt)
        lanes = [order.lane(place) for place in places]
        starts: dict[int, int] = {}
        for lane, place in zip(lanes, places, strict=True):
            starts.setdefault(lane, order.number(start, place)[0])
        windows = heapq.merge(*(order.windows(*lane) for lane in starts.items()), key=order.begun)
        read = prefetch(samples.read(windows), len(starts))
        queues: defaultdict[int, deque[tuple[Window, dict[int, Encoded]]]] = defaultdict(deque)

        def image(lane: int, number: int) -> np.ndarray:
            queue = queues[lane]
            while not queue or number >= queue[0][0].end:
                if queue:
                    queue.popleft()
                else:
                    window, shards = next(read)
                    queues[window.lane].append((window, shards))
            window, shards = queue[0]
            return samples.image(*window.samples[number - window.first], shards)

        images: list[np.ndarray] = []
        for step in itertools.count(start):
            corners = order.corners(step)[places.start : places.stop].tolist()
            batch = np.empty((len(places), 3, self.side, self.side), np.uint8)
            for at, place in enumerate(places):
                number, is_new = order.number(step, place)
                if step == start:
                    images.append(image(lanes[at], number))
                elif is_new:
                    images[at] = image(lanes[at], number)
                batch[at] = cut(images[at], self.side, self.scale, corners[at]).transpose(2, 0, 1)
            yield torch.from_numpy(batch)

    def metrics(self) -> dict[str, float]:
        """What to report of the data read so far."""
        return {"data/corrupt_samples": float(self.corrupt.sum())}

    def batches(self, start: int = 0) -> Iterator[Tensor]:
        """This rank's part of each batch from number `start` on, prepared ahead: B x 3 x side x side, uint8."""
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
            batch = list(itertools.islice(parts, self.workers))
            for made in batch:
                if isinstance(made, UserError):
                    raise made
            yield _pinned(torch.cat(batch))


def _pinned(batch: Tensor) -> Tensor:
    return batch.pin_memory() if torch.cuda.is_available() else batch


def open_stream(data: Data, *, scale: int, seed: int, rank: int = 0, world: int = 1) -> Stream:
    """Open the shards of a recipe for one rank, and check that they fit.

    Raises:
        ShardError: There are no shards, or they are too few or too small for the recipe.
        StorageError: The store can't be read.
    """
    manifest = load_manifest(data.shards)
    return Stream(data.shards, manifest, data, scale=scale, seed=seed, rank=rank, world=world)
