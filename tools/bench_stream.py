"""Patches a second that one core reads, and what reading costs a training step.

    python tools/bench_stream.py FOLDER_OF_PHOTOGRAPHS

Patches of 96 px with their margin, out of 288 px crops in shards of each format: from the embedded S3 store, from the
cache of this machine and from local files. Beside them what one would otherwise write, a Dataset of the photographs
with PIL's random crops, and litdata, where it can be imported (`pip install --target LIBS --no-deps litdata
lightning-utilities obstore tifffile`, then PYTHONPATH=LIBS). All of them take turns on one core of one process, none
while another still prepares what it gives next; what is compared are the ratios of medians. Nothing is kept decoded,
as little of a large data set would be.
"""

import importlib.util
import io
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from srcluster import local, models, storage
from srcluster.data import stream
from srcluster.data.degradation import margin
from srcluster.data.photos import decode, find
from srcluster.data.shards import _BYTES_PER_PIXEL, Packing, _crops, _encode, pack
from srcluster.recipe import Data, load
from srcluster.training.checkpoint import State
from srcluster.training.loop import Step
from srcluster.training.optimizer import make_optimizer
from srcluster.training.precision import choose
from srcluster.training.ranks import Ranks

PATCH, SCALE, BATCH = 96, 4, 16
SIDE = PATCH + 2 * margin(SCALE)
PATCHES, READING_S, STEPS, STEPPING_S = 480, 100, 6, 20
CROPS_PER_PHOTO = 2
FORMATS = ("tiff", "webp", "jpg", "npy")
DEFAULT = FORMATS[0]


def random_patch(encoded: io.IOBase) -> np.ndarray:
    """A patch of a picture, as in a tutorial."""
    image = Image.open(encoded).convert("RGB")
    left, top = random.randrange(image.width - SIDE + 1), random.randrange(image.height - SIDE + 1)
    return np.array(image.crop((left, top, left + SIDE, top + SIDE)))


class Photographs(Dataset):
    """The plain way: open, decode and crop a photograph for each patch."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with self.paths[index].open("rb") as file:
            return torch.from_numpy(random_patch(file)).permute(2, 0, 1).contiguous()


def for_ever(loader: DataLoader) -> Iterator[torch.Tensor]:
    return chain.from_iterable(repeat(loader))


def streamed(url: str, per_sample: int) -> Iterator[stream.Batch]:
    data = Data(shards=url, patch=PATCH, batch=BATCH, patches_per_sample=per_sample, shuffle_shards=2)
    return stream.Stream(data, scale=SCALE, seed=0).batches()


def samples_of(url: str) -> list[tuple[str, memoryview]]:
    opened = stream.Stream(Data(shards=url), scale=SCALE, seed=0)
    reader = stream._Samples(url, opened.manifest, None, opened.corrupt)
    return [sample for shard in range(len(opened.manifest.shards)) for (sample,) in reader.shard(shard)]


def litdata_of(contents: list[bytes], folder: Path) -> Iterator[torch.Tensor]:
    """Litdata over the same bytes, from local files."""
    import litdata
    from litdata.streaming.cache import Cache

    cache = Cache(str(folder), chunk_bytes=4_000_000)
    for index, content in enumerate(contents):
        cache[index] = content
    cache.done()
    cache.merge()
    patch = lambda content: torch.from_numpy(random_patch(io.BytesIO(content))).permute(2, 0, 1).contiguous()  # noqa: E731
    dataset = litdata.StreamingDataset(str(folder), shuffle=True, transform=patch)
    return for_ever(litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0))


def settle() -> float:
    """Wait until nothing is made ahead any more; the processor time used until then."""
    while True:
        used_s = time.process_time()
        time.sleep(0.1)
        if time.process_time() - used_s < 0.002:
            return used_s


def patches_per_s(batches: Iterator[torch.Tensor]) -> tuple[float, float]:
    """In a second, and in a second of this process's processor time."""
    began_cpu = settle()
    # These were ready.
    for _ in range(stream._AHEAD + 1):
        next(batches)
    began = time.perf_counter()
    for _ in range(PATCHES // BATCH):
        next(batches)
    took_s = time.perf_counter() - began
    return PATCHES / took_s, (PATCHES + (stream._AHEAD + 1) * BATCH) / (settle() - began_cpu)


def bench_formats(photographs: list[Path]) -> None:
    """What a core encodes and decodes of each format."""
    packing = Packing(source="bench")
    crops = [
        crop for path in photographs[:50] for (crop,) in _crops((decode(path.read_bytes(), ""),), path.name, packing)
    ]
    spent: dict[str, list[tuple[float, float, float]]] = {format: [] for format in (*FORMATS, "png")}
    for _ in range(3):
        for format, measured in spent.items():
            began_s = time.process_time()
            encoded = [_encode(crop, format) for crop in crops]
            encoded_s = time.process_time()
            for content in encoded:
                stream._decode(format, memoryview(content))
            measured.append((encoded_s - began_s, time.process_time() - encoded_s, sum(map(len, encoded))))
    print(f"{len(crops)} crops         encoded/s  decoded/s     kB")
    for format, measured in spent.items():
        encoding_s, decoding_s, size = (median(column) / len(crops) for column in zip(*measured, strict=True))
        print(f"  {format:14} {1 / encoding_s:10.0f} {1 / decoding_s:10.0f} {size / 1000:6.0f}")


def bench_reading(photographs: list[Path], remote: str, near: str, folder: Path) -> None:
    readers = {"Dataset of photographs": for_ever(DataLoader(Photographs(photographs), BATCH, shuffle=True))}
    if importlib.util.find_spec("litdata"):
        readers["litdata, photographs"] = litdata_of([path.read_bytes() for path in photographs], folder / "litdata")
        for format in ("webp", DEFAULT):
            contents = [bytes(content) for _, content in samples_of(storage.join(near, format))]
            readers[f"litdata, {format}"] = litdata_of(contents, folder / f"litdata-{format}")
    else:
        print("litdata can't be imported: left out")
    for per_sample in (1, 4, 8):
        readers[f"{DEFAULT}, S3, {per_sample} a sample"] = streamed(storage.join(remote, DEFAULT), per_sample)
    readers[f"{DEFAULT}, local files, 4 a sample"] = streamed(storage.join(near, DEFAULT), 4)
    os.environ["SRCLUSTER_CACHE"] = str(folder / "cache")
    cached = readers[f"{DEFAULT}, cache, 4 a sample"] = streamed(storage.join(remote, DEFAULT), 4)
    # It is looked for when a stream begins, and an epoch fills it.
    for _ in islice(cached, 4 * CROPS_PER_PHOTO * len(photographs) // BATCH):
        pass
    del os.environ["SRCLUSTER_CACHE"]
    for format in FORMATS[1:]:
        for per_sample in (1, 4):
            readers[f"{format}, S3, {per_sample} a sample"] = streamed(storage.join(remote, format), per_sample)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    stop_at_step = time.monotonic() + READING_S
    while time.monotonic() < stop_at_step:
        for name, batches in readers.items():
            rates[name].append(patches_per_s(batches))
    base, base_cpu = (median(column) for column in zip(*rates["Dataset of photographs"], strict=True))
    rounds = len(rates["Dataset of photographs"])
    print(f"{f'patches, {rounds} rounds':30} {'a second':>9} {'ratio':>6} {'a CPU second':>13} {'ratio':>6}")
    for name, measured in rates.items():
        rate, cpu = (median(column) for column in zip(*measured, strict=True))
        print(f"  {name:28} {rate:9.0f} {rate / base:6.2f} {cpu:13.0f} {cpu / base_cpu:6.2f}")


def bench_step(remote: str, near: str) -> None:
    recipe = load("srcnn", ["compile=false"])
    precision = choose(recipe.precision)
    network = precision.prepare(models.build(recipe.model, recipe.scale), False)
    step = Step(recipe, State(network, make_optimizer(network, recipe.optimizer), average={}), precision, Ranks(0, 1))
    sources = {}
    for name, url in (("S3", remote), ("local files", near)):
        data = recipe.data.model_copy(update={"shards": url})
        sources[name] = stream.Stream(data, scale=recipe.scale, seed=0).batches()
        step(next(sources[name]))
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in sources}
    stop_at_step = time.monotonic() + STEPPING_S
    while time.monotonic() < stop_at_step:
        for name, batches in sources.items():
            for _ in range(STEPS):
                began = time.perf_counter()
                batch = next(batches)
                waited_s = time.perf_counter() - began
                step(batch)
                step.check()
                measured[name].append((time.perf_counter() - began, waited_s))
    print(f"a step of srcnn, {torch.get_num_threads()} threads")
    for name, times in measured.items():
        total_s, waited_s = (sum(column) for column in zip(*times, strict=True))
        print(f"  {name:26} {median(total for total, _ in times):9.4f} s, waiting {waited_s / total_s:.2%}")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    # A time limit ends the store too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    stream._DECODED_BYTES = 0
    torch.set_num_threads(1)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        near = str(folder / "shards")
        for format in FORMATS:
            # As many samples in a shard of each.
            size = int(4_000_000 * _BYTES_PER_PIXEL[format] / _BYTES_PER_PIXEL[DEFAULT])
            packing = Packing(source="bench", crops_per_photo=CROPS_PER_PHOTO, shard_bytes=size, format=format)
            manifest = pack(find(sys.argv[1]), packing, storage.join(near, format), skip_share=1)
        unusable = {skipped.photo for skipped in manifest.skipped}
        photographs = [path for path in sorted(Path(sys.argv[1]).glob("*.*")) if path.name not in unusable]
        cluster = local.start(["s3"], folder / "state")
        try:
            os.environ.update(cluster.environment())
            os.environ.pop("SRCLUSTER_CACHE", None)
            remote = f"s3://{cluster.bucket}/bench"
            for name in storage.names(near):
                storage.upload(Path(near, name), storage.join(remote, name))
            print(f"{len(photographs)} photographs, {manifest.samples} samples in {len(manifest.shards)} shards")
            cores = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {max(cores)})
            bench_formats(photographs)
            bench_reading(photographs, remote, near, folder)
            os.sched_setaffinity(0, cores)
            torch.set_num_threads(len(cores))
            bench_step(storage.join(remote, DEFAULT), storage.join(near, DEFAULT))
        finally:
            local.stop(["s3"], folder / "state", timeout_s=0)


if __name__ == "__main__":
    main()
