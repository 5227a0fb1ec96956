"""Shards to batches of HR patches: infinite, shuffled, split over ranks, and a pure function of the position.

What is read when is arithmetic (see `order`), so the stream starts at any batch without reading what comes before it.
While the samples of one window of shards are used, a thread reads the shards of the next, so that a step waits for the
store at the start alone. A reader holds at most two windows of shards, 2 * `shuffle_shards` * 64 MB as they are packed
by default, and 512 MiB of decoded samples.
"""

import hashlib
import io
import logging
import struct
import tarfile
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from srcluster import storage
from srcluster.data.cache import Cache, cache_for
from srcluster.data.degradation import margin
from srcluster.data.order import Before, Order, resharded
from srcluster.data.prefetch import prefetch
from srcluster.data.shards import Manifest, ShardError, load_manifest
from srcluster.errors import UserError
from srcluster.recipe import Data

__all__ = ["Stream", "open_stream", "patches"]

_DECODED_BYTES = 512 << 20
"""Decoded samples that a reader keeps: small data sets are decoded once and never again."""

_AHEAD = 4
"""Batches prepared ahead of the training step."""

_CORRUPT_SHARE, _CORRUPT_FEW = 1 / 1000, 3
"""Corrupt samples that are replaced, of all; however few all are, so many may be."""

_DAMAGES = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What decoders raise of bytes that are no picture."""

_log = logging.getLogger(__name__)

Encoded = list[tuple[str, memoryview]]
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

    def read(
        self, order: Iterator[tuple[int, list[tuple[int, int]]]]
    ) -> Iterator[tuple[int, list[tuple[int, int]], dict[int, Encoded]]]:
        """Each (epoch, window) with those of its shards that are not decoded whole."""
        shards: dict[int, Encoded] = {}
        for epoch, window in order:
            wanted = {shard for shard, index in window if (shard, index) not in self.decoded}
            shards = {shard: shards.get(shard) or self.shard(shard) for shard in wanted}
            yield epoch, window, shards

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
            return [
                (file.name.rpartition(".")[2], view[file.offset_data : file.offset_data + file.size]) for file in files
            ]

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
                return _decode(*encoded[number], self.manifest.shortest_side)
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
        self.start, self.history = 0, ()
        self.cache = cache_for(url)
        # Shared by the rank's loader processes, each of which marks what it finds.
        self.corrupt = torch.zeros(manifest.samples, dtype=torch.bool).share_memory_()
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

    def __iter__(self) -> Iterator[Tensor | UserError]:
        info = get_worker_info()
        workers = max(1, self.data.workers)
        # The loader asks its workers in turn, beginning with number 0, wherever the stream begins.
        worker = (self.start + (info.id if info else 0)) % workers
        begin, epoch, before = resharded(
            self.manifest.samples,
            self.history,
            self.start,
            self.world,
            batch=self.data.batch,
            workers=workers,
            patches_per_sample=self.data.patches_per_sample,
        )
        done = len(range(begin + (worker - begin) % workers, self.start, workers))
        flat = self._patches(self.rank * workers + worker, done * self.batch, epoch, before)
        try:
            while True:
                batch = np.empty((self.batch, 3, self.side, self.side), np.uint8)
                for patch in batch:
                    patch[:] = next(flat).transpose(2, 0, 1)
                yield torch.from_numpy(batch)
        except UserError as error:
            if info is None:
                raise
            # Raised here, it would reach the training process with a traceback for a message.
            yield error

    def _patches(self, reader: int, start: int, epoch: int, before: Before) -> Iterator[np.ndarray]:
        """One reader's patches, from the `start`-th on that it reads from `epoch` on, after what was read `before`."""
        counts = tuple(shard.samples for shard in self.manifest.shards)
        order = Order(counts, self.seed, reader, self.readers, self.data.shuffle_shards)
        samples = _Samples(self.url, self.manifest, self.cache, self.corrupt)
        first, skip = divmod(start, self.data.patches_per_sample)
        for now, window, shards in prefetch(samples.read(order.since(first, epoch, before)), 1):
            for shard, index in window:
                image = samples.image(shard, index, shards)
                random = np.random.default_rng([self.seed, now, shard, index])
                cut = patches(image, self.side, self.data.patches_per_sample, self.scale, random)
                yield from cut[skip:]
                skip = 0

    def metrics(self) -> dict[str, float]:
        """What to report of the data read so far."""
        return {"data/corrupt_samples": float(self.corrupt.sum())}

    def batches(self, start: int = 0, history: Sequence[tuple[int, int]] = ()) -> Iterator[Tensor]:
        """Batches from the `start`-th on, prepared ahead by the loader's workers or by a thread.

        Args:
            start: The first batch, counted from the beginning of the run.
            history: (ranks, batches) of each part of the run until then, in turn, where the number of ranks changed;
                what it does not tell of was read by as many ranks as there are now.
        """
        self.start, self.history = start, tuple(history)
        if self.data.workers == 0:
            batches = prefetch(map(Tensor.pin_memory, self) if torch.cuda.is_available() else iter(self), _AHEAD)
        else:
            batches = DataLoader(
                self,
                batch_size=None,
                num_workers=self.data.workers,
                prefetch_factor=_AHEAD,
                pin_memory=torch.cuda.is_available(),
                multiprocessing_context="spawn",
            )
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield batch


def open_stream(data: Data, *, scale: int, seed: int, rank: int = 0, world: int = 1) -> Stream:
    """Open the shards of a recipe for one rank, and check that they fit.

    Raises:
        ShardError: There are no shards, or they are too few or too small for the recipe.
        StorageError: The store can't be read.
    """
    manifest = load_manifest(data.shards)
    return Stream(data.shards, manifest, data, scale=scale, seed=seed, rank=rank, world=world)
