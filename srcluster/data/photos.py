"""Where photographs come from, by the name of their source."""

import importlib.util
import os
from collections import Counter
from pathlib import Path

from srcluster import storage
from srcluster.data.listing import Listing, Photo, list_pictures
from srcluster.data.pictures import PhotoError, endings
from srcluster.data.tars import list_tars, tar_urls

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


def data_folder() -> Path | None:
    """The folder of data sets that SRCLUSTER_DATA names, if it is set."""
    named = os.environ.get("SRCLUSTER_DATA")
    if not named:
        return None
    folder = Path(named)
    if not folder.is_dir():
        raise PhotoError(f"SRCLUSTER_DATA names {folder}, which is no folder; correct it or unset it")
    return folder


def find(source: str) -> Listing:
    """The photographs of a source, by name.

    Args:
        source: `wheels`, the colour photographs inside scikit-image and scikit-learn that are not held out for the
            benchmark; a folder; a zip archive; an s3:// URL; tar files, as `tars.tar_urls` takes them, or a folder
            that holds nothing else; or the name of a folder or zip archive under
            SRCLUSTER_DATA, such as T91.

    Raises:
        PhotoError: There is no such source, or no picture in it.
    """
    if source == "wheels":
        return Listing(in_wheels(_WHEELS), Counter())
    if storage.is_s3(source):
        if source.lower().endswith(".zip"):
            raise PhotoError(f"{source} is an archive, which is read from a local path alone: download or unpack it")
        storage.check(source)
    if source.lower().endswith(".tar"):
        found = list_tars(tar_urls(source))
    else:
        url = source if storage.is_s3(source) else str(_local(source))
        found = list_pictures(url)
        if not found and found.left_out[".tar"]:
            found = list_tars(tar_urls(storage.join(url, "*.tar")))
    if not found:
        reason = found.note or f"looked for {', '.join(sorted(endings()))}"
        raise PhotoError(f"no photographs in {source}: {reason}")
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


def in_wheels(files: dict[str, tuple[str, ...]]) -> list[Photo]:
    """Pictures inside installed packages: file names by folder, the folder beginning with the package."""
    photos: list[Photo] = []
    for folder, names in files.items():
        package, _, inside = folder.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise PhotoError(f"the default photographs are inside {package}: pip install 'srcluster[local]'")
        there = list_pictures(str(Path(spec.submodule_search_locations[0]) / inside))
        photos += [photo for photo in there if photo.name in names]
    return photos
