"""Which pictures of a benchmark's folder are originals and which are their LR, in the layouts that people have.

Known are a flat folder; HR with LR_bicubic/X2..X8 (EDSR, torchSR, DIV2K); GTmod12 or original with LRbicx2..4 (BasicSR,
KAIR); and image_SRF_N with pictures ..._HR and ..._LR (SelfExSR). What is not understood is refused.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from srcluster.data.listing import Photo
from srcluster.data.pictures import PhotoError

_HR = re.compile(r"(^|[_-])(hr|gt)(?![a-z])|^gtmod\d+$|^originals?$")
_LR = re.compile(r"(^|[_-])(lr|lq)(?![a-z])|^lrbi")
_OTHER_LR = re.compile(r"unknown|mild|difficult|wild")
_SRF = re.compile(r"(.+)_SRF_(\d)_(.+)", re.IGNORECASE)
_STEM = re.compile(r"_(HR|LR(?:BI|bic)?)(?:[_-]?x\d)?$")
_SCALED = re.compile(r"[_-]?x(\d)$", re.IGNORECASE)

_ALONE = re.compile(r"hr|gt|gtmod\d+|originals?|image_srf_\d")
"""Folders of originals that a benchmark is not called by."""


@dataclass(frozen=True)
class Original:
    """A picture to measure on, its name within the benchmark, and the LR that the folder brings."""

    name: str
    photo: Photo
    lr: Photo | None


def name_parts(source: str) -> list[str]:
    """The folders of a source that may name a benchmark, the nearest last: `Set5` of `data/Set5/HR`."""
    parts = [part for part in PurePosixPath(source.partition("://")[2] or source).parts if part != "/"]
    while len(parts) > 1 and _ALONE.fullmatch(parts[-1].lower()):
        parts.pop()
    return [*parts[:-1], re.sub(r"\.zip$", "", parts[-1], flags=re.IGNORECASE)]


def originals(source: str, photos: Sequence[Photo], scale: int, given: bool) -> list[Original]:
    """The originals of a benchmark, by name.

    Args:
        source: Its folder.
        photos: All pictures in it.
        given: Whether the LR pictures are used: of BasicSR's two folders of originals they are of GTmod12.

    Raises:
        PhotoError: They can't be told from other pictures.
    """
    last = PurePosixPath(source).parts[-2:]
    if any(_LR.search(part.lower()) for part in last[-1:]) or (_scale(last[-1]) and _LR.search(last[0].lower())):
        raise PhotoError(f"{source} is a folder of LR pictures: name the originals, or the folder around both")
    paths = {photo: PurePosixPath(photo.name) for photo in photos}
    if any(_SRF.fullmatch(path.stem) for path in paths.values()):
        hr, lr = _self_ex_sr(source, paths, scale)
    else:
        hr, lr = _marked(source, paths, scale, given)
    if doubled := [name for name, count in Counter(hr.values()).items() if count > 1]:
        both = " and ".join(photo.name for photo, name in hr.items() if name == doubled[0])
        raise PhotoError(f"{source} has several originals of one name: {both}; keep one of them")
    brought: dict[str, Photo] = {}
    for photo, name in lr.items():
        if (other := brought.setdefault(name, photo)) is not photo:
            raise PhotoError(f"{source} has two LR pictures of {name}, {other.name} and {photo.name}: keep one of them")
    return [Original(name, photo, brought.get(name.lower())) for photo, name in hr.items()]


_Names = dict[Photo, str]


def _self_ex_sr(source: str, paths: dict[Photo, PurePosixPath], scale: int) -> tuple[_Names, _Names]:
    """Of image_SRF_4/img_001_SRF_4_HR.png and ..._LR.png; what other networks made of them stands beside them."""
    hr, lr, scales = {}, {}, set()
    for photo, path in paths.items():
        if not (match := _SRF.fullmatch(path.stem)):
            raise PhotoError(
                f"{source} has pictures ..._SRF_{scale}_HR and others, such as {photo.name}: move these away"
            )
        name, of, kind = match.groups()
        scales.add(of)
        if int(of) == scale and kind.upper() == "HR":
            hr[photo] = name
        elif int(of) == scale and kind.upper() == "LR":
            lr[photo] = name.lower()
    if not hr:
        raise PhotoError(f"{source} has pictures for x{', x'.join(sorted(scales))}, and no originals for x{scale}")
    return hr, lr


def _marked(source: str, paths: dict[Photo, PurePosixPath], scale: int, given: bool) -> tuple[_Names, _Names]:
    """By folders such as HR and LR_bicubic/X4; where no folder says that it has originals, all that is not LR is."""
    hr, lr, plain = dict[Photo, PurePosixPath](), _Names(), dict[Photo, PurePosixPath]()
    for photo, path in paths.items():
        folders, by_stem = path.parts[:-1], _STEM.search(path.stem)
        kinds = ["hr" if _HR.search(part.lower()) else "lr" if _LR.search(part.lower()) else "" for part in folders]
        kinds.append(by_stem[1].lower()[:2] if by_stem else "")
        first = next((i for i, kind in enumerate(kinds) if kind), None)
        if first is None:
            plain[photo] = path.parent
        elif kinds[first] == "hr":
            hr[photo] = PurePosixPath(*folders[: first + 1])
        elif not any(_OTHER_LR.search(part.lower()) for part in folders):
            scales = [number for part in (*folders[first:], path.stem) if (number := _scale(part))]
            if scale in (scales or [scale])[:1]:
                inside = [part for part in folders[first + 1 :] if not _scale(part)]
                lr[photo] = PurePosixPath(*inside, _STEM.sub("", path.stem)).as_posix().lower()
    if hr and plain:
        raise PhotoError(
            f"{source} has originals in {next(iter(hr.values()))} and other pictures beside them, such as "
            f"{next(iter(plain)).name}: move these away, or name the folder of the originals"
        )
    if not hr and not plain:
        raise PhotoError(f"{source} has LR pictures alone, such as {next(iter(paths)).name}: name the originals")
    homes = sorted(set(hr.values()))
    if len(homes) == 2 and {_kind(home) for home in homes} == {"gtmod", "original"}:
        homes = [home for home in homes if _kind(home) == ("gtmod" if given else "original")]
        hr = {photo: home for photo, home in hr.items() if home in homes}
    if len(homes) > 1:
        raise PhotoError(f"{source} has originals in {homes[0]} and in {homes[1]}: name one of them")
    home = homes[0] if homes else posixpath.commonpath(plain.values())
    names = {photo: paths[photo].relative_to(home).with_suffix("").as_posix() for photo in hr or plain}
    hr_names = {photo: _STEM.sub("", name) for photo, name in names.items()}
    known = {name.lower() for name in hr_names.values()}
    # matrix4.png may be the LR of matrix4 or, as matri with x4, of matri.
    return hr_names, {photo: name if name in known else _SCALED.sub("", name) for photo, name in lr.items()}


def _kind(home: PurePosixPath) -> str:
    return re.sub(r"\d+$|s$", "", home.name.lower())


def _scale(part: str) -> int | None:
    match = _SCALED.search(part)
    return int(match[1]) if match else None


def check_distinct(source: str, pictures: Sequence[tuple[str, np.ndarray]]) -> None:
    """Refuse pictures, H x W x 3 uint8, of which one is LR of another, or what a network made of it."""
    thumbnails = {name: _thumbnail(pixels) for name, pixels in pictures}
    sizes = {name: pixels.shape[1::-1] for name, pixels in pictures}
    ends = {name: PurePosixPath(name).name.lower() for name in thumbnails}
    for short in thumbnails:
        for long in thumbnails:
            rest = ends[long].removeprefix(ends[short])
            related = short != long and ends[long].startswith(ends[short]) and not rest[:1].isdigit()
            if related and float((thumbnails[short] * thumbnails[long]).mean()) > _ALIKE:
                said = " and ".join(f"{name} ({sizes[name][0]} x {sizes[name][1]})" for name in (short, long))
                raise PhotoError(
                    f"{source} has the same picture twice, {said}: keep originals alone, or in HR/, with their LR in "
                    "LR_bicubic/X4/"
                )


_ALIKE = 0.94
"""Correlation of 16 x 16 pixels from which on two pictures of related names are one.

On Set5, Set14 and BSD100 it is 0.96 or more with LR or bicubic SR, and 0.88 or less with another picture."""


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    """16 x 16, of mean 0 and mean square 1."""
    small = Image.fromarray(pixels).convert("L").resize((16, 16), Image.Resampling.BOX)
    plane = np.asarray(small, dtype=np.float64)
    plane -= plane.mean()
    return plane / (plane.std() or 1.0)
