"""The pictures of a folder, an S3 prefix or a zip archive, and what else is there and is not taken."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from srcluster import storage
from srcluster.data import archive
from srcluster.data.pictures import PhotoError, decode, endings

_RUBBISH_FOLDERS = {"__macosx", "@eadir", "$recycle.bin", "#recycle", "system volume information", "lost+found"}
_RUBBISH = re.compile(
    r"thumbs\.db|ehthumbs.*\.db|desktop\.ini|icon\r|(readme|licen[sc]e|copying|changelog)(\..*)?|.*sums?(\.txt)?"
    r"|.*\.(txt|md|rst|jsonl?|csv|tsv|xml|html?|ya?ml|log|md5|sha\d+|sfv|asc|sig)"
)
"""Files that stand beside pictures and are none: they are passed over without a word, as hidden ones are."""

_EMPTY = ("0-", '"d41d8cd98f00b204e9800998ecf8427e"')
"""How the version of an empty file begins: its size, or the MD5 of nothing."""


@dataclass(frozen=True)
class Photo:
    """A picture file: what it is called and where it is, so that any process can read it.

    Attributes:
        name: Within its source, with `/` between folders; unique there, and always valid UTF-8.
        url: The file or object, or the zip archive that it is in.
        version: Changes when its content does.
        member: Its name within the archive.
        span: Its first byte in a tar file, and how many bytes it has.
    """

    name: str
    url: str
    version: str
    member: str | None = None
    span: tuple[int, int] | None = None

    def read(self) -> bytes:
        if self.span:
            return storage.read_span(self.url, *self.span)
        return storage.read(self.url) if self.member is None else archive.read(Path(self.url), self.member)

    def decode(self) -> np.ndarray:
        """`decode` of its content; what is damaged in the archive is a PhotoError too."""
        try:
            encoded = self.read()
        except archive.MemberError as error:
            raise PhotoError(str(error)) from error
        return decode(encoded, self.name)


class Listing(list[Photo]):
    """Pictures, and how many files beside them are not taken, by their ending or the reason."""

    def __init__(self, photos: Iterable[Photo], left_out: Counter[str]):
        super().__init__(photos)
        self.left_out = left_out

    @property
    def note(self) -> str:
        """What is not taken, as `12 files not taken: 9 .heic, 2 .mp4, 1 unreadable`; empty where all is."""
        total = self.left_out.total()
        kinds = sorted(self.left_out.items(), key=lambda kind: (-kind[1], kind[0]))
        words = ", ".join(f"{count} {kind}" for kind, count in kinds)
        return f"{total} {'file' if total == 1 else 'files'} not taken: {words}" if total else ""


def list_pictures(url: str) -> Listing:
    """The pictures below a folder or an s3:// prefix, or in a zip archive, sorted by name.

    Links are followed, and each folder is listed once. Hidden files, checksums, text, and what macOS, Windows and
    Synology leave behind are passed over. All else is counted: other endings, empty pictures, what can't be read.

    Raises:
        ArchiveError: The archive can't be read, or means harm.
    """
    left_out: Counter[str] = Counter()
    if storage.is_s3(url):
        # Keys may have empty parts, which `storage.join` would lose.
        found = [Photo(name, f"{url.rstrip('/')}/{name}", word) for name, word in storage.versions(url).items()]
    elif os.path.isfile(url):
        found = [Photo(name, url, word, name) for name, word in archive.versions(Path(url))]
    else:
        found = [Photo(printable(name), f"{url}/{name}", word) for name, word in _files(url, left_out)]
    return select(found, left_out)


def select(found: Iterable[Photo], left_out: Counter[str] | None = None) -> Listing:
    """Of files of all kinds those that are pictures."""
    left_out = Counter() if left_out is None else left_out
    photos: dict[str, Photo] = {}
    for photo in found:
        *folders, name = re.split(r"[/\\]", photo.name.lower())
        ending = PurePosixPath(name).suffix
        if name.startswith(".") or _RUBBISH.fullmatch(name) or any(map(_is_rubbish_folder, folders)):
            continue
        if ending not in endings():
            left_out[ending or "without ending"] += 1
        elif photo.version.startswith(_EMPTY):
            left_out["empty"] += 1
        elif photos.setdefault(photo.name, photo) is not photo:
            left_out["of the same name"] += 1
    return Listing((photos[name] for name in sorted(photos)), left_out)


def _is_rubbish_folder(name: str) -> bool:
    # In S3 a key may have `..` as a part, which hides nothing.
    return (name.startswith(".") and name not in (".", "..")) or name in _RUBBISH_FOLDERS


def printable(name: str) -> str:
    """A file's name as valid UTF-8: other bytes are written as code points from U+DC80 on."""
    return name.encode("utf-8", "backslashreplace").decode()


def _files(root: str, left_out: Counter[str]) -> Iterator[tuple[str, str]]:
    """The names of files below a folder, each with a string that changes when its content does."""
    folders, links, seen = [""], list[str](), set[str]()
    while folders or links:
        # What is reached both ways has its name without the link.
        inside = folders.pop() if folders else links.pop(0)
        here = os.path.realpath(f"{root}/{inside}")
        if here in seen:
            continue
        seen.add(here)
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError:
            left_out["unreadable folder"] += 1
            continue
        for entry in entries:
            name = f"{inside}{entry.name}"
            try:
                if not entry.is_dir():
                    status = entry.stat()
                    if entry.is_file() and os.access(entry.path, os.R_OK):
                        yield name, f"{status.st_size}-{status.st_mtime_ns}"
                    elif entry.is_file():
                        left_out["unreadable"] += 1
                elif _is_rubbish_folder(entry.name.lower()):
                    continue
                elif not entry.is_symlink():
                    folders.append(f"{name}/")
                elif f"{here}/".startswith(f"{os.path.realpath(entry.path)}/".replace("//", "/")):
                    left_out["link to a folder around it"] += 1
                else:
                    links.append(f"{name}/")
            except OSError:
                left_out["broken link" if entry.is_symlink() else "unreadable"] += 1
