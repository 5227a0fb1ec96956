"""Photographs to WebDataset shards: tar files of HR samples, and a manifest that is written last.

A sample is a square crop of a photograph with a margin around it (see `degradation`), or a whole photograph. Which
photographs make which shard, and where each is cut, depends on the settings alone, so that shards can be made in any
order by any number of workers and come out the same, byte for byte. Beside each shard stays a record of what it was
made of: by these, packing that was interrupted continues, and makes no shard again.
"""

import hashlib
import io
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import PIL
import webdataset
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator

from srcluster import __version__, storage
from srcluster.data.listing import Photo
from srcluster.data.pairs import Pair
from srcluster.data.pictures import PhotoError
from srcluster.data.samples import LR_FIELD, encode_picture
from srcluster.errors import UserError

Run: TypeAlias = Callable[[Callable[..., Any], Sequence[tuple]], Iterable[Any]]
"""`itertools.starmap`, or what does the same with many workers: results may come in any order."""

MARGIN = 8
"""HR pixels kept around a crop: what `degradation.margin` asks for at x4, the most of any scale."""

_ALIGN = 12
"""Crops begin at a multiple of every scale, so that their LR lies on the LR grid of the photograph."""

_BYTES_PER_PIXEL = {"tiff": 1.8, "webp": 1.4, "png": 1.7, "npy": 3.0, "jpg": 0.6}
"""About, of photographs; it says how many samples fill a shard."""

_MANIFEST = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Packing(_Record):
    """How photographs become shards."""

    source: str
    """What the photographs are called."""
    crop: int | None = Field(288, ge=8)
    """Side of the crops in pixels, without the margin; None keeps whole photographs."""
    crops_per_photo: int = Field(1, ge=1)
    min_side: int = Field(0, ge=0)
    """Photographs with a side shorter than this are skipped; at least what the crop and its margin need."""
    format: Literal["tiff", "webp", "png", "npy", "jpg"] = "tiff"
    """All are lossless, `npy` is raw, but `jpg`, which is quality 95 without chroma subsampling."""
    shard_bytes: int = Field(64_000_000, ge=1)
    """About how large a shard becomes."""
    seed: int = Field(0, ge=0)
    holdout: int = Field(0, ge=0)
    """Photographs that are kept out of the shards, and stored whole beside them as validation pictures."""
    lr: str | None = None
    """What the LR pictures of pairs are called; None where there are none."""
    scale: int | None = None
    """HR pixels per LR pixel of pairs."""

    @model_validator(mode="after")
    def _fits(self) -> "Packing":
        if self.crop and self.scale and self.crop % self.scale:
            raise ValueError(f"crop is a multiple of the pairs' scale {self.scale}, not {self.crop}")
        if self.lr and self.holdout:
            raise ValueError("holdout is of photographs, not of pairs: name pictures by evaluation.validation instead")
        return self

    @model_serializer(mode="wrap")
    def _dump(self, dump: Callable[["Packing"], dict[str, Any]]) -> dict[str, Any]:
        # What is not about pairs or a holdout has the digest that it had before there were any.
        return {key: value for key, value in dump(self).items() if key not in ("lr", "scale", "holdout") or value}

    @property
    def side(self) -> int | None:
        """Of a sample, in pixels: a pair has its LR, and needs no margin to make it of."""
        return self.crop and self.crop + (0 if self.lr else 2 * MARGIN)

    @property
    def needed_side(self) -> int:
        """The shortest side of a photograph that can be used, in pixels."""
        return max(self.min_side, self.side or 1)

    @property
    def photos_per_shard(self) -> int:
        sample_bytes = _BYTES_PER_PIXEL[self.format] * (self.side or 512) ** 2 * (1 + (self.scale or math.inf) ** -2)
        return max(1, int(self.shard_bytes / sample_bytes / (self.crops_per_photo if self.crop else 1)))


class Shard(_Record):
    """One tar file."""

    name: str
    samples: int
    bytes: int
    sha256: str


class Skipped(_Record):
    """A photograph that could not be used, and why."""

    photo: str
    reason: str


class HeldOut(_Record):
    """A photograph that is kept out of the shards, and the file of it."""

    photo: str
    name: str
    bytes: int
    sha256: str


class Manifest(_Record):
    """What was packed, how, and into what."""

    version: Literal[1] = 1
    packing: Packing
    shortest_side: int
    """Of any sample, in pixels."""
    shards: tuple[Shard, ...]
    skipped: tuple[Skipped, ...]
    software: dict[str, str]
    """Versions of what wrote the shards: their bytes depend on them."""
    holdout: tuple[HeldOut, ...] = ()

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def encode(self) -> bytes:
        # Shards of before there was a holdout keep their digest.
        absent = None if self.holdout else {"holdout"}
        return (self.model_dump_json(indent=1, exclude=absent) + "\n").encode()

    def digest(self) -> str:
        """12 hexadecimal digits that name this very data set."""
        return hashlib.sha256(self.encode()).hexdigest()[:12]


class ShardRecord(_Record):
    """What one shard was made of, and which of its photographs could not be used."""

    index: int
    inputs: str
    """Digest of all that the shard depends on."""
    shard: Shard | None
    """None where no photograph of it could be used."""
    shortest_side: int
    skipped: tuple[Skipped, ...]

    @property
    def samples(self) -> int:
        return self.shard.samples if self.shard else 0


def _crops(pictures: tuple[np.ndarray, ...], name: str, packing: Packing) -> Iterable[tuple[np.ndarray, ...]]:
    """Crops of a photograph, or of a pair, HR and LR of which are cut alike."""
    if packing.side is None:
        yield pictures
        return
    side, scales = packing.side, (1, packing.scale or 1)
    align = math.lcm(_ALIGN, scales[1])
    random = np.random.default_rng([packing.seed, *name.encode()])
    for _ in range(packing.crops_per_photo):
        top, left = (align * int(random.integers((length - side) // align + 1)) for length in pictures[0].shape[:2])
        yield tuple(
            picture[top // scale : (top + side) // scale, left // scale : (left + side) // scale]
            for picture, scale in zip(pictures, scales, strict=False)
        )


def decode_usable(photo: Photo | Pair, needed_side: int) -> tuple[np.ndarray, ...]:
    """A photograph, or HR and LR of a pair; a PhotoError if a side is shorter than `needed_side` pixels."""
    pictures = photo.decode() if isinstance(photo, Pair) else (photo.decode(),)
    height, width = pictures[0].shape[:2]
    if min(height, width) < needed_side:
        raise PhotoError(f"{photo.name} is {width} x {height}; each side must have {needed_side} pixels or more")
    return pictures


def make_shard(photos: Sequence[Photo | Pair], index: int, packing: Packing, url: str) -> ShardRecord:
    """Make the shard of this index of these photographs, and store it below `url` with a record of it.

    Photographs that can't be used are skipped and said; memory holds this one shard and one photograph.
    """
    tar = io.BytesIO()
    samples, shortest, skipped = 0, 1 << 30, []
    with webdataset.TarWriter(tar, encoder=False, mtime=0, user="srcluster", group="srcluster") as writer:
        for photo in photos:
            try:
                pictures = decode_usable(photo, packing.needed_side)
            except PhotoError as error:
                skipped.append(Skipped(photo=photo.name, reason=str(error)))
                continue
            for crop in _crops(pictures, photo.name, packing):
                sample: dict[str, str | bytes] = {"__key__": f"{index:06d}-{samples:06d}"}
                for picture, field in zip(crop, ("", LR_FIELD), strict=False):
                    sample[f"{field}{packing.format}"] = encode_picture(picture, packing.format)
                writer.write(sample)
                samples += 1
                shortest = min(shortest, *crop[0].shape[:2])
    shard, record = None, storage.join(url, _record_name(index))
    # At no moment may a record stand beside another shard than its own.
    storage.delete(record)
    if samples:
        content = tar.getvalue()
        sha256 = hashlib.sha256(content).hexdigest()
        shard = Shard(name=f"{index:06d}.tar", samples=samples, bytes=len(content), sha256=sha256)
        storage.write(storage.join(url, shard.name), content)
    inputs = _inputs(photos, index, packing)
    made = ShardRecord(index=index, inputs=inputs, shard=shard, shortest_side=shortest, skipped=skipped)
    storage.write(record, made.model_dump_json(indent=1).encode())
    return made


def _record_name(index: int) -> str:
    return f"{index:06d}.json"


def _inputs(photos: Sequence[Photo | Pair], index: int, packing: Packing) -> str:
    photographs = [(photo.name, photo.version) for photo in photos]
    settings = {key: value for key, value in packing.model_dump().items() if key != "holdout"}
    everything = [index, settings, _software(), photographs]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()


def _software() -> dict[str, str]:
    return {"srcluster": __version__, "pillow": PIL.__version__, "numpy": np.__version__}


def pack(
    photos: Sequence[Photo | Pair],
    packing: Packing,
    url: str,
    *,
    run: Run = itertools.starmap,
    skip_share: float = 0.1,
    holdout: tuple[HeldOut, ...] = (),
) -> Manifest:
    """Make every shard below a URL that is not there yet, then the manifest.

    Args:
        run: Calls `make_shard` for each shard that is missing.
        skip_share: The largest share of photographs that may be unusable.
        holdout: What was held out before.

    Raises:
        UserError: Too many photographs are unusable, or the workers' software would make other shards than ours.
    """
    storage.check(url, write=True)
    each = packing.photos_per_shard
    parts = [photos[first : first + each] for first in range(0, len(photos), each)]
    inputs = [_inputs(part, index, packing) for index, part in enumerate(parts)]
    made = {one.index: one for one in _recorded(url, len(parts)) if one.inputs == inputs[one.index]}
    missing = [(part, index, packing, url) for index, part in enumerate(parts) if index not in made]
    if missing:
        # It may tell of shards that are about to be replaced.
        storage.delete(storage.join(url, _MANIFEST))
    skipped = 0
    for one in itertools.chain(list(made.values()), run(make_shard, missing)):
        if one.inputs != inputs[one.index]:
            raise UserError("the workers have other versions of srcluster, Pillow or NumPy: install the same on all")
        made[one.index] = one
        skipped += len(one.skipped)
        if skipped > skip_share * len(photos):
            raise UserError(
                f"{skipped} of {len(photos)} photographs of {packing.source} can't be used, more than the "
                f"{skip_share:.0%} that may be: replace them, or raise --skip-share; the last: {one.skipped[-1].reason}"
            )
    manifest = _manifest([made[index] for index in range(len(parts))], packing, holdout)
    storage.write(storage.join(url, _MANIFEST), manifest.encode())
    return manifest


def _recorded(url: str, count: int) -> Iterator[ShardRecord]:
    """What is known of the first `count` shards that are there."""
    there = set(storage.names(url))
    for index in range(count):
        if _record_name(index) not in there:
            continue
        try:
            made = ShardRecord.model_validate_json(storage.read(storage.join(url, _record_name(index))))
        except ValidationError:  # Another version's: the shard is made anew.
            continue
        if made.shard is None or made.shard.name in there:
            yield made


def _manifest(made: Sequence[ShardRecord], packing: Packing, holdout: tuple[HeldOut, ...]) -> Manifest:
    shards = [one.shard for one in made if one.shard]
    if not made:
        raise UserError(f"no photograph of {packing.source} is left for shards: lower --holdout")
    if not shards:
        raise UserError(f"no photograph of {packing.source} can be used; the first: {made[0].skipped[0].reason}")
    return Manifest(
        packing=packing,
        shortest_side=min(one.shortest_side for one in made),
        shards=shards,
        skipped=[skip for one in made for skip in one.skipped],
        software=_software(),
        holdout=holdout,
    )


def load_manifest(url: str) -> Manifest:
    """The manifest of the shards below a URL.

    Raises:
        UserError: There is none, or it is not one of ours.
    """
    storage.check(url)
    file = storage.join(url, _MANIFEST)
    if not storage.exists(file):
        raise UserError(f"there is no {file}: make the shards with python -m srcluster.pack, and let it finish")
    try:
        return Manifest.model_validate_json(storage.read(file))
    except ValidationError as error:
        raise UserError(f"{file} is no manifest of version 1; pack the shards again") from error
