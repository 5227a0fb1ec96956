"""Photographs that are kept out of the shards, to choose weights and trials by."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from srcluster import storage
from srcluster.data.listing import Photo
from srcluster.data.pairs import Pair
from srcluster.data.pictures import PhotoError
from srcluster.data.samples import encode_picture
from srcluster.data.shards import HeldOut, Packing, decode_usable, load_manifest
from srcluster.errors import UserError

VALIDATION = "validation"
"""The folder of them, beside the shards."""

_MEASURABLE_PX = 48
"""Shortest side of what can be measured at x8."""

P = TypeVar("P", bound=Photo | Pair)


def hold_out(photos: Sequence[P], packing: Packing, url: str) -> tuple[list[P], tuple[HeldOut, ...]]:
    """Store photographs as validation pictures, in the order of a hash of their names.

    Returns:
        The other photographs, and what is held out. Which these are depends on the names and the seed alone.
    """
    held: dict[P, HeldOut] = {}

    def place_of(photo: P) -> bytes:
        return hashlib.sha256(f"{packing.seed} {photo.name}".encode()).digest()

    for photo in sorted(photos, key=place_of):
        if len(held) == packing.holdout:
            break
        try:
            # One that is too small to be a sample may be too small to be measured.
            content = encode_picture(decode_usable(photo, max(packing.needed_side, _MEASURABLE_PX))[0], "png")
        except PhotoError:  # It is skipped, and said, where the shards are made.
            continue
        name = f"{VALIDATION}/{len(held):06d}.png"
        storage.write(storage.join(url, name), content)
        sha256 = hashlib.sha256(content).hexdigest()
        held[photo] = HeldOut(photo=photo.name, name=name, bytes=len(content), sha256=sha256)
    if len(held) < packing.holdout:
        raise UserError(f"{packing.source} has {len(held)} photographs that can be held out, not {packing.holdout}")
    return [photo for photo in photos if photo not in held], tuple(held.values())


def held_out(url: str) -> str:
    """The folder of the photographs that are held out of the shards below a URL; empty where there are none."""
    if storage.exists(storage.join(url, "manifest.json")) and load_manifest(url).holdout:
        return storage.join(url, VALIDATION)
    return ""
