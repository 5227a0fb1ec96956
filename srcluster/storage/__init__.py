"""Files and objects by URL: plain paths, `file:` and `s3://bucket/key`.

Which S3 store, and by whose key, comes from the environment alone (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, ...): the
same variables serve Ray and MLflow. Whatever is written appears whole or not at all. A store that goes away is waited
for: `patience_s` is for how many seconds it may answer nothing before StorageError is raised.
"""

import fcntl
import functools
import io
import os
import re
import tempfile
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

from srcluster.storage import s3
from srcluster.storage.faults import StorageError
from srcluster.storage.s3 import PATIENCE_S, ConflictError, make_bucket

CHUNK_BYTES = 1 << 20
_SCHEME = r"[a-z][a-z0-9+.-]*:/"


def is_s3(url: str) -> bool:
    return url.startswith("s3://")


def join(url: str, *parts: str) -> str:
    """The URL of something below `url`. A part may be one of `names`, which may have two slashes in a row."""
    if url.startswith("file:"):
        parts = tuple(map(urllib.parse.quote, parts))
    return "/".join([url.removesuffix("/"), *parts])


def absolute(url: str) -> str:
    """The URL for processes that have another working folder or user."""
    return url if re.match(_SCHEME, url) else os.path.abspath(os.path.expanduser(url))


def read(url: str, *, patience_s: float = PATIENCE_S) -> bytes:
    """The whole of a file or object; StorageError if it is missing or may not be read."""
    content = io.BytesIO()
    for chunk in chunks(url, patience_s=patience_s):
        content.write(chunk)
    # Without a copy, unlike joined chunks: these would take twice the memory, and half as long again.
    return content.getvalue()


def read_span(url: str, first: int, size: int, *, patience_s: float = PATIENCE_S) -> bytes:
    """`size` bytes of a file or object, from byte `first` on."""
    if is_s3(url):
        return s3.read_span(url, first, size, patience_s=patience_s)
    with _explaining(url), _path(url).open("rb") as file:
        file.seek(first)
        return file.read(size)


def chunks(url: str, chunk_bytes: int = CHUNK_BYTES, *, patience_s: float = PATIENCE_S) -> Iterator[bytes]:
    """Stream a file or object in pieces of at most `chunk_bytes`; no byte is lost or repeated.

    Where a connection drops, the next one continues at the same byte of the same version of the object.

    Raises:
        StorageError: The object is missing, may not be read, changed while it was read, or the store sent nothing for
            `patience_s`.
    """
    if is_s3(url):
        yield from s3.chunks(url, patience_s, chunk_bytes)
    else:
        with _explaining(url), _path(url).open("rb") as file:
            yield from iter(functools.partial(file.read, chunk_bytes), b"")


def download(url: str, path: Path, *, patience_s: float = PATIENCE_S) -> None:
    """Copy a file or object to `path`, which appears only once it is whole."""
    with _explaining(str(path)), _replacing(path) as file:
        for chunk in chunks(url, patience_s=patience_s):
            file.write(chunk)


def write(url: str, data: bytes, *, expected: str | None = None, patience_s: float = PATIENCE_S) -> None:
    """Make or replace an object, or a file and the folders above it.

    `expected` is the `version` that it replaces, "" for none; None replaces any.

    Raises:
        ConflictError: There is another version than the expected one.
    """
    if is_s3(url):
        s3.write(url, data, expected, patience_s=patience_s)
        return
    path = _path(url)
    with _explaining(url), nullcontext() if expected is None else _locked(path), _replacing(path) as file:
        if expected not in (None, version(url)):
            raise ConflictError(f"{url} was replaced meanwhile")
        file.write(data)


def honours_conditions(url: str) -> bool:
    """Whether the store of `url` honours `expected` of `write`; not every S3 store does."""
    probe = join(url, f".srcluster-check-{uuid.uuid4().hex}")
    write(probe, b"")
    try:
        for unmet in ("", '"0"'):
            with suppress(ConflictError):
                write(probe, b"", expected=unmet)
                return False
        return True
    except StorageError:
        # Some say that they don't know what they are asked.
        return False
    finally:
        delete(probe)


@contextmanager
def writing(url: str) -> Iterator[IO[bytes]]:
    """A file that becomes, or replaces, the object or file `url` once it is whole."""
    if is_s3(url):
        with _explaining(tempfile.gettempdir()), tempfile.NamedTemporaryFile() as file:
            yield file
            file.flush()
            upload(Path(file.name), url)
    else:
        with _explaining(url), _replacing(_path(url)) as file:
            yield file


def upload(path: Path, url: str, *, patience_s: float = PATIENCE_S) -> None:
    """Copy a local file to `url`; a large one goes to S3 in parallel parts."""
    if is_s3(url):
        with _explaining(str(path)):
            s3.upload(url, path, patience_s=patience_s)
    else:
        download(str(path), _path(url))


def exists(url: str, *, patience_s: float = PATIENCE_S) -> bool:
    """Whether there is a file or object of this very name; a folder or a prefix is neither."""
    return version(url, patience_s=patience_s) != ""


def version(url: str, *, patience_s: float = PATIENCE_S) -> str:
    """A string that changes when the file or object is replaced; "" where there is none."""
    if is_s3(url):
        return s3.version(url, patience_s=patience_s)
    path = _path(url)
    return _version(path) if path.is_file() else ""


def names(url: str, *, patience_s: float = PATIENCE_S) -> list[str]:
    """The files or objects below a folder or prefix, relative to it, sorted; none if it does not exist."""
    return list(versions(url, patience_s=patience_s))


def versions(url: str, *, patience_s: float = PATIENCE_S) -> dict[str, str]:
    """The `names` below a folder or prefix, each with its `version`."""
    if is_s3(url):
        return s3.versions(url, patience_s=patience_s)
    root = _path(url)
    files = (
        path
        for path in root.rglob("*")
        if path.is_file() and not (path.name.startswith(".") and path.suffix == ".part")
    )
    with _explaining(url):
        return dict(sorted((path.relative_to(root).as_posix(), _version(path)) for path in files))


def delete(url: str, *, patience_s: float = PATIENCE_S) -> None:
    """Remove one file or object; one that is already gone is no error."""
    if is_s3(url):
        s3.delete(url, patience_s=patience_s)
    else:
        with _explaining(url):
            _path(url).unlink(missing_ok=True)


def check(url: str, write: bool = False) -> None:
    """Find out within seconds whether `url` can be used as a folder or prefix, before anything depends on it.

    To `write`, a small object is put there and deleted, and a local folder is made if it is missing.
    """
    probe = join(url, f".srcluster-check-{uuid.uuid4().hex}")
    if is_s3(url):
        s3.check(url, probe if write else None)
    elif write:
        with _explaining(url), _replacing(_path(probe)):
            pass
        delete(probe)
    elif not _path(url).is_dir():
        raise StorageError(f"there is no folder {url}: make it, or name another")


def _path(url: str) -> Path:
    if url.startswith("file:"):
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    if re.match(_SCHEME, url):
        raise StorageError(f"{url} is neither an s3:// URL, a file: URL nor a path: copy it to one of these")
    # What follows `=` on a command line is not expanded by the shell.
    return Path(url).expanduser()


def _version(path: Path) -> str:
    status = path.stat()
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that all processes have in common, on every host that has the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock.part").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _explaining(url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"there is no {url}: check its name") from error
    except OSError as error:
        raise StorageError(f"{url} can't be used: {error.strerror or error}") from error
