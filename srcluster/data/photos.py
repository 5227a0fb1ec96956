"""Where photographs come from, and what a usable one is."""

import importlib.util
import io
import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from srcluster import storage
from srcluster.data import archive
from srcluster.errors import UserError

__all__ = ["HELD_OUT", "Photo", "PhotoError", "data_folder", "decode", "find", "opened"]

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

# Colour photographs that ship inside the wheels of scikit-image and scikit-learn, by package folder.
_WHEELS = {
    "skimage/data": (
        "coffee.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "sklearn/datasets/images": ("china.jpg",),
}
HELD_OUT = {"skimage/data": ("astronaut.png", "chelsea.png"), "sklearn/datasets/images": ("flower.jpg",)}
"""The photographs of the wheels that are never trained on: the benchmark Wheel3."""


class PhotoError(UserError):
    """A picture can't be used as it is, or there is none."""


@dataclass(frozen=True)
class Photo:
    """A picture file: what it is called and where it is, so that any process can read it.

    Attributes:
        name: Within its source.
        place: The file or object, or the zip archive that it is in.
        version: Becomes another word when its content does.
        member: Its name within the archive.
    """

    name: str
    place: str
    version: str
    member: str | None = None

    def read(self) -> bytes:
        """Its content.

        Raises:
            StorageError: It can't be read.
            ArchiveError: The archive can't be read, or this member of it: that is a MemberError.
        """
        return storage.read(self.place) if self.member is None else archive.read(Path(self.place), self.member)

    def decode(self) -> np.ndarray:
        """`decode` of its content; what is damaged in the archive is a PhotoError too."""
        try:
            encoded = self.read()
        except archive.MemberError as error:
            raise PhotoError(str(error)) from error
        return decode(encoded, self.name)


def data_folder() -> Path | None:
    """The folder of data sets that SRCLUSTER_DATA names, if it is set.

    Raises:
        PhotoError: It is set, and there is no such folder.
    """
    named = os.environ.get("SRCLUSTER_DATA")
    if not named:
        return None
    folder = Path(named)
    if not folder.is_dir():
        raise PhotoError(f"SRCLUSTER_DATA names {folder}, which is no folder; correct it or unset it")
    return folder


def find(source: str) -> list[Photo]:
    """The photographs of a source, by name.

    Args:
        source: `wheels`, the colour photographs inside scikit-image and scikit-learn that are not held out for the
            benchmark; a folder; a zip archive; an s3:// URL; or the name of a folder or zip archive under
            SRCLUSTER_DATA, such as T91.

    Raises:
        PhotoError: There is no such source, or no picture in it.
        ArchiveError: The archive can't be read, or means harm.
        StorageError: The source can't be reached.
    """
    if source == "wheels":
        return in_wheels(_WHEELS)
    if storage.is_s3(source):
        if source.lower().endswith(".zip"):
            raise PhotoError(f"{source} is an archive, which is read from a local path alone: download or unpack it")
        storage.check(source)
        found = _stored(source)
    elif (path := _local(source)).is_file():
        found = [Photo(name, str(path), version, name) for name, version in archive.versions(path, _SUFFIXES).items()]
    else:
        found = _stored(str(path))
    if not found:
        raise PhotoError(f"no photographs in {source}: looked for {', '.join(_SUFFIXES)}")
    return found


def _local(source: str) -> Path:
    """The folder or archive of this name, here or under SRCLUSTER_DATA."""
    folder = data_folder()
    for path in (Path(source), *([folder / source] if folder else [])):
        if path.is_dir() or (path.suffix.lower() == ".zip" and path.is_file()):
            # Absolute, as it may be read by another process.
            return path.resolve()
    known = "SRCLUSTER_DATA is not set" if folder is None else f"nor is there a {folder / source}"
    raise PhotoError(
        f"there is no folder of photographs {source!r}, and {known}; give a folder, a .zip or an s3:// URL"
    )


def _stored(url: str) -> list[Photo]:
    versions = storage.versions(url).items()
    return [Photo(name, storage.join(url, name), word) for name, word in versions if name.lower().endswith(_SUFFIXES)]


def in_wheels(files: dict[str, tuple[str, ...]]) -> list[Photo]:
    """Pictures inside installed packages: file names by folder, the folder beginning with the package."""
    photos = []
    for folder, names in files.items():
        package, _, inside = folder.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise PhotoError(f"the default photographs are inside {package}: pip install 'srcluster[local]'")
        root = str(Path(spec.submodule_search_locations[0]) / inside)
        versions = storage.versions(root)
        photos += [Photo(name, storage.join(root, name), versions[name]) for name in names]
    return photos


def decode(encoded: bytes, name: str) -> np.ndarray:
    """Decode a picture file that a network can be trained or measured on.

    8-bit RGB, grey and palette pictures are taken, the latter two turned into RGB; an alpha channel is dropped if
    nothing in it is transparent; an EXIF rotation is applied.

    Args:
        encoded: The file's content.
        name: What to call it in an error.

    Returns:
        H x W x 3, uint8.

    Raises:
        PhotoError: It is no picture, is truncated, or its conversion to 8-bit RGB would have to guess.
    """
    with opened(encoded, name) as image:
        _refuse_guesses(image, name)
        image.load()
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            raise PhotoError(f"{name} has transparent pixels; flatten it onto a background first")
    return np.asarray(image.convert("RGB"))


@contextmanager
def opened(encoded: bytes, name: str) -> Iterator[Image.Image]:
    """The picture of a file that is still to be loaded, and what Pillow raises meanwhile as a PhotoError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield Image.open(io.BytesIO(encoded))
    except UnidentifiedImageError as error:
        raise PhotoError(f"{name} is not a picture that Pillow can read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(f"{name} is refused as a decompression bomb: {error}") from error
    # Of damaged files, and of their EXIF data, Pillow raises whatever comes of them.
    except (OSError, RuntimeError, SyntaxError, TypeError, ValueError, struct.error) as error:
        raise PhotoError(f"{name} is damaged or truncated ({error}); fetch it again or remove it") from error


def _refuse_guesses(image: Image.Image, name: str) -> None:
    # Pillow gives a 16-bit RGB PNG as 8 bits without a word; how it is stored is said by its raw mode alone: RGB;16B.
    # (BGR;16 is another thing, a BMP of 16 bits for all three channels.)
    stored = " ".join(str(tile[3]) for tile in image.tile)
    if image.mode.startswith(("I", "F")) or re.search(r";16[BLNS]", stored):
        raise PhotoError(f"{name} has 16 or more bits a channel; convert it to 8 bits first")
    if image.mode in ("CMYK", "LAB", "HSV", "YCbCr"):
        raise PhotoError(f"{name} is in {image.mode} colours; convert it to RGB with its colour profile first")
