"""The pictures inside a zip or tgz archive that may mean harm.

Nothing is extracted by the names in it: pictures are given as bytes under their last name alone, and an archive with
any name or kind of member that an honest one doesn't have is refused as a whole.
"""

import functools
import gzip
import io
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from srcluster.errors import UserError

# MS-COCO's largest archive has 118,287 files in 19 GB. Pictures hardly shrink: bitmaps to a half, photographs not.
FILES = 250_000
UNPACKED_BYTES = 64 * 10**9
RATIO = 20

_Member = tuple[str, int, Callable[[], bytes]]


class ArchiveError(UserError):
    """An archive is damaged, hostile, or another one than it should be."""


class MemberError(ArchiveError):
    """One member of an archive is damaged, or asks for a password."""


def names(path: Path, pattern: str) -> list[str]:
    """The last names of the pictures in a zip or tgz archive, once each of its members has been found harmless.

    Args:
        pattern: What their paths end with, as in `PurePath.match`: `images/test/*.jpg`. Case doesn't matter.

    Raises:
        ArchiveError: It can't be read, unpacks to too much, or holds a link, a device or a path that leads outside.
    """
    with _explaining(path):
        return [name for name, _ in _matching(path, pattern)]


def pictures(path: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """The last name and the content of each picture, in the archive's order; arguments and errors as for `names`."""
    with _explaining(path):
        for name, read in _matching(path, pattern):
            yield name, read()


def versions(path: Path) -> list[tuple[str, str]]:
    """The full names of the files in a zip archive, each with a string that changes when its content does.

    A name that comes twice stands for the last file of it, as when an archive is unpacked.
    """
    with _explaining(path):
        wanted = [name for name, _ in _harmless(path)]
        members = [_opened(path, path.stat().st_mtime_ns).getinfo(name) for name in wanted]
        return [(member.filename, f"{member.file_size}-{member.CRC:08x}") for member in members]


def read(path: Path, name: str) -> bytes:
    """The content of a picture that `versions` named; a MemberError if it is damaged, or asks for a password."""
    with _explaining(path):
        archive = _opened(path, path.stat().st_mtime_ns)
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:
            raise MemberError(f"{name} can't be read from {path.name} ({error})") from error


@functools.lru_cache(maxsize=1)
def _opened(path: Path, mtime_ns: int) -> zipfile.ZipFile:
    """The archive, kept open: its table of contents is read once, not for each of its pictures."""
    return zipfile.ZipFile(path)


def _matching(path: Path, pattern: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for full_name, read in _harmless(path):
        name = PurePosixPath(full_name).name
        # A Mac puts a `._a.jpg` of its own beside each `a.jpg`.
        if PurePosixPath(full_name.lower()).match(pattern.lower()) and not name.startswith("."):
            yield name, read


def _harmless(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    # The mebibyte is for the padding of small tar archives.
    limit_bytes = min(UNPACKED_BYTES, RATIO * path.stat().st_size + (1 << 20))
    members = _in_zip(path) if zipfile.is_zipfile(path) else _in_tgz(path, limit_bytes)
    unpacked_bytes = 0
    for count, (name, size_bytes, read) in enumerate(members, 1):
        unpacked_bytes += size_bytes
        if unpacked_bytes > limit_bytes or count > FILES:
            raise _bomb()
        # Windows takes both slashes, and a letter before a colon is a drive; elsewhere these may stand in names.
        first, *_ = parts = re.split(r"[/\\]", name)
        if not first or ".." in parts or re.fullmatch("[A-Za-z]:", first):
            raise ArchiveError(f"it holds {name!r}, a path that leads outside")
        yield name, read


def _in_zip(path: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            # The upper half has a Unix mode, or nothing if another system made the archive.
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(f"it holds {info.filename!r}, a link or device")
            if not info.is_dir():
                yield info.filename, info.file_size, functools.partial(archive.read, info)


def _in_tgz(path: Path, limit_bytes: int) -> Iterator[_Member]:
    with gzip.open(path) as file:
        bounded = _Bounded(file, limit_bytes)
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for member in archive:
                if not member.isfile() and not member.isdir():
                    raise ArchiveError(f"it holds {member.name!r}, a link or device")
                if content := archive.extractfile(member):
                    yield member.name, member.size, content.read
        # gzip's checksum comes after the last byte.
        while bounded.read(1 << 20):
            pass


class _Bounded(io.BufferedIOBase):
    """A stream that gives so much and no more: tarfile reads some headers whole, however long they are."""

    def __init__(self, file: gzip.GzipFile, limit_bytes: int) -> None:
        self.file = file
        self.left_bytes = limit_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        data = self.file.read(size)
        self.left_bytes -= len(data)
        if self.left_bytes < 0:
            raise _bomb()
        return data


def _bomb() -> ArchiveError:
    return ArchiveError("it unpacks to far more than pictures do, as a decompression bomb")


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except MemberError:
        raise
    except ArchiveError as error:
        raise ArchiveError(f"{path} is refused: {error}; get it from its authors or from a mirror you trust") from error
    # zipfile raises RuntimeError for a password and for a compression it doesn't know, ValueError for a broken name.
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, zlib.error, RuntimeError, ValueError) as error:
        raise ArchiveError(f"{path} can't be read as a zip or tgz archive ({error}); fetch it again") from error
