"""HR pictures and the LR pictures that belong to them, matched by name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from srcluster.data.listing import Photo
from srcluster.data.pictures import PhotoError


@dataclass(frozen=True)
class Pair:
    """An HR picture and its LR picture, None where none has its name.

    Attributes:
        scale: HR pixels per LR pixel.
    """

    hr: Photo
    lr: Photo | None
    scale: int

    @property
    def name(self) -> str:
        return self.hr.name

    @property
    def version(self) -> str:
        return f"{self.hr.version} {self.lr.version if self.lr else ''}"

    def decode(self) -> tuple[np.ndarray, np.ndarray]:
        """HR, cut at the right and the bottom to what LR shows, and LR: H x W x 3 uint8.

        Raises:
            PhotoError: There is no LR picture, one of the two can't be used, or their sizes don't fit.
        """
        if self.lr is None:
            raise PhotoError(f"{self.name} has no LR picture of its name")
        hr, lr = self.hr.decode(), self.lr.decode()
        height, width = (length // self.scale for length in hr.shape[:2])
        if lr.shape[:2] != (height, width):
            raise PhotoError(
                f"{self.name} is {hr.shape[1]} x {hr.shape[0]} and its LR picture {self.lr.name} is {lr.shape[1]} x "
                f"{lr.shape[0]}, not {width} x {height} as at x{self.scale}"
            )
        return hr[: height * self.scale, : width * self.scale], lr


def match(hr: Sequence[Photo], lr: Sequence[Photo]) -> list[tuple[Photo, Photo | None]]:
    """Each HR picture with the LR picture of its name: `0001.png` with `0001.png`, `0001x4.png` or `0001.jpg`."""
    names = {_stem(photo) for photo in hr}
    by_name: dict[str, Photo] = {}
    for photo in lr:
        name = _stem(photo)
        name = name if name in names else re.sub(r"_?x\d+$", "", name, flags=re.IGNORECASE)
        if other := by_name.get(name):
            raise PhotoError(f"{other.name} and {photo.name} are both the LR picture of {name}: leave one of them out")
        by_name[name] = photo
    if len(names) < len(hr):
        raise PhotoError("two HR pictures differ in their ending alone: leave one of them out")
    if not names & by_name.keys():
        raise PhotoError(f"no LR picture has the name of an HR picture, as {hr[0].name} and {lr[0].name} show")
    return [(photo, by_name.get(_stem(photo))) for photo in hr]


def scale_of(pairs: Sequence[tuple[Photo, Photo | None]]) -> int:
    """HR pixels per LR pixel, by the first pair that can be read and fits; PhotoError without one."""
    misfit = ""
    for hr, lr in pairs:
        try:
            sizes = (hr.decode().shape[:2], lr.decode().shape[:2]) if lr else None
        except PhotoError:
            continue
        if sizes:
            scale = sizes[0][0] // sizes[1][0]
            if scale and [length // scale for length in sizes[0]] == list(sizes[1]):
                return scale
            (height, width), (lr_height, lr_width) = sizes
            misfit = misfit or (
                f"{hr.name} is {width} x {height} and its LR picture {lr_width} x {lr_height}: the first must be a "
                "whole multiple of the second"
            )
    raise PhotoError(misfit or "no pair of pictures can be read")


def _stem(photo: Photo) -> str:
    return str(PurePosixPath(photo.name).with_suffix(""))
