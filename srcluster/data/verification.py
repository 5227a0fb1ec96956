"""Whether shards are still what their manifest says, by reading all of every one."""

import hashlib
import io
import itertools
import tarfile
from pathlib import PurePosixPath

import numpy as np
from pydantic import BaseModel, ConfigDict

from srcluster import storage
from srcluster.data import pictures
from srcluster.data.pictures import PhotoError
from srcluster.data.shards import LR_FIELD, HeldOut, Manifest, Packing, Run, Shard, load_manifest


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
        url: What was packed.
        run: Calls `check_shard` for each shard.

    Returns:
        The manifest, and the shards by name.

    Raises:
        ShardError: There is no manifest.
        StorageError: The store can't be read.
    """
    manifest = load_manifest(url)
    calls = [(shard, manifest.packing, manifest.shortest_side, url) for shard in manifest.shards]
    checked = [_check_held_out(held, url) for held in manifest.holdout]
    return manifest, sorted([*run(check_shard, calls), *checked], key=lambda checked: checked.name)


def _check_held_out(held: HeldOut, url: str) -> Checked:
    place, fault = storage.join(url, held.name), None
    if not storage.exists(place):
        fault = "is missing"
    elif hashlib.sha256(storage.read(place)).hexdigest() != held.sha256:
        fault = "has another SHA-256 than its manifest says: it was damaged or replaced"
    return Checked(name=held.name, samples=0, fault=fault)


def check_shard(shard: Shard, packing: Packing, shortest_side: int, url: str) -> Checked:
    """Compare one shard with its manifest entry: size, SHA-256, number of samples, and that each decodes to its size.

    Args:
        shard: What the manifest says of it.
        packing: How it was made.
        shortest_side: Of any sample, in pixels.
        url: Where it is.

    Raises:
        StorageError: The store can't be read; a shard that is missing is a fault.
    """
    samples, fault = 0, None
    place = storage.join(url, shard.name)
    if not storage.exists(place):
        return Checked(name=shard.name, samples=0, fault="is missing")
    content = storage.read(place)
    if len(content) != shard.bytes:
        fault = f"has {len(content)} bytes instead of {shard.bytes}"
    elif hashlib.sha256(content).hexdigest() != shard.sha256:
        fault = "has another SHA-256 than its manifest says: it was damaged or replaced"
    else:
        try:
            samples = _count(content, packing, shortest_side)
        except (PhotoError, tarfile.TarError) as error:
            fault = f"can't be used: {error}"
        else:
            if samples != shard.samples:
                fault = f"has {samples} samples instead of {shard.samples}"
    return Checked(name=shard.name, samples=samples, fault=fault)


def _count(content: bytes, packing: Packing, shortest_side: int) -> int:
    samples = 0
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is None:
                raise PhotoError(f"{member.name} is no file")
            image = _decode(file.read(), member.name)
            is_lr = PurePosixPath(member.name).name.partition(".")[2].startswith(LR_FIELD)
            scale = packing.scale or 1 if is_lr else 1
            height, width = (length * scale for length in image.shape[:2])
            side = packing.side
            if (side and (height, width) != (side, side)) or min(height, width) < shortest_side:
                raise PhotoError(
                    f"{member.name} is {width} x {height}, not {side or f'{shortest_side} or more'} a side"
                )
            samples += not is_lr
    return samples


def _decode(content: bytes, name: str) -> np.ndarray:
    if PurePosixPath(name).suffix != ".npy":
        return pictures.decode(content, name)
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise PhotoError(f"{name} is no array ({error})") from error
