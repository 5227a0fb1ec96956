"""Whether shards are still what their manifest says, by reading all of every one."""

import hashlib
import itertools
import tarfile

from pydantic import BaseModel, ConfigDict

from srcluster import storage
from srcluster.data.samples import DAMAGES, decode_sample, read_samples
from srcluster.data.shards import HeldOut, Manifest, Packing, Run, Shard, load_manifest


class Checked(BaseModel):
    """A shard that was read again.

    Attributes:
        name: Of its file.
        samples: How many are fit to be trained on.
        fault: What is wrong with it, or None.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    samples: int
    fault: str | None


def verify(url: str, *, run: Run = itertools.starmap) -> tuple[Manifest, list[Checked]]:
    """Read every shard below a URL; memory holds one at a time.

    Args:
        run: Calls `check_shard` for each shard.

    Returns:
        The manifest, and the shards by name.
    """
    manifest = load_manifest(url)
    calls = [(shard, manifest.packing, manifest.shortest_side, url) for shard in manifest.shards]
    checked = [_check_held_out(held, url) for held in manifest.holdout]
    return manifest, sorted([*run(check_shard, calls), *checked], key=lambda checked: checked.name)


def _check_held_out(held: HeldOut, url: str) -> Checked:
    file, fault = storage.join(url, held.name), None
    if not storage.exists(file):
        fault = "is missing"
    elif hashlib.sha256(storage.read(file)).hexdigest() != held.sha256:
        fault = "has another SHA-256 than its manifest says: it was damaged or replaced"
    return Checked(name=held.name, samples=0, fault=fault)


def check_shard(shard: Shard, packing: Packing, shortest_side: int, url: str) -> Checked:
    """Compare one shard with its manifest entry: size, SHA-256, number of samples, and that each decodes to its size.

    Args:
        shortest_side: Of any sample, in pixels.
        url: Of the shards.
    """
    samples, fault = 0, None
    file = storage.join(url, shard.name)
    if not storage.exists(file):
        return Checked(name=shard.name, samples=0, fault="is missing")
    content = storage.read(file)
    if len(content) != shard.bytes:
        fault = f"has {len(content)} bytes instead of {shard.bytes}"
    elif hashlib.sha256(content).hexdigest() != shard.sha256:
        fault = "has another SHA-256 than its manifest says: it was damaged or replaced"
    else:
        try:
            samples = _count(content, packing, shortest_side)
        except (*DAMAGES, tarfile.TarError) as error:
            fault = f"can't be used: {error}"
        else:
            if samples != shard.samples:
                fault = f"has {samples} samples instead of {shard.samples}"
    return Checked(name=shard.name, samples=samples, fault=fault)


def _count(content: bytes, packing: Packing, shortest_side: int) -> int:
    samples = read_samples(content, paired=packing.lr is not None)
    for number, sample in enumerate(samples):
        height, width, _ = decode_sample(sample, shortest_side, packing.scale)[0].shape
        if packing.side and (height, width) != (packing.side, packing.side):
            raise ValueError(f"sample {number} is {width} x {height}, not {packing.side} a side")
    return len(samples)
