"""A folder on the local disk that keeps shards read from S3, for all processes of the machine.

It is a property of the machine and not of an experiment, so the environment says it: SRCLUSTER_CACHE is the folder,
SRCLUSTER_CACHE_GB how large it may become. Files are named by their SHA-256, so that data sets that share shards share
them here too, and a file is checked each time it is read. What was used longest ago is removed first.
"""

import fcntl
import hashlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from srcluster import storage
from srcluster.errors import UserError

__all__ = ["Cache", "CacheError", "cache_for"]

_DEFAULT_GB = 20.0
"""Room for all of COCO's train2017 at the packing's defaults."""

_log = logging.getLogger(__name__)


class CacheError(UserError):
    """The cache that the environment asks for can't be had."""


def cache_for(url: str) -> "Cache | None":
    """The cache for the shards below a URL: None if they are local files, or SRCLUSTER_CACHE is not set.

    Raises:
        CacheError: The folder can't be written, or the limit is no number of gigabytes.
    """
    folder = os.environ.get("SRCLUSTER_CACHE")
    if not folder or not storage.is_s3(url):
        return None
    said = os.environ.get("SRCLUSTER_CACHE_GB") or str(_DEFAULT_GB)
    try:
        limit_bytes = int(float(said) * 1e9)
    except (ValueError, OverflowError):
        limit_bytes = 0
    if limit_bytes <= 0:
        raise CacheError(f"SRCLUSTER_CACHE_GB is a number of gigabytes such as 20, not {said!r}")
    cache = Cache(Path(folder), limit_bytes)
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        with cache._lock("store"):
            pass
    except OSError as error:
        raise CacheError(
            f"SRCLUSTER_CACHE names {folder}, which can't be written ({error.strerror}): name another folder, or unset it"
        ) from error
    return cache


@dataclass(frozen=True)
class Cache:
    """Content by its SHA-256, in a folder of at most `limit_bytes`."""

    folder: Path
    limit_bytes: int

    def read(self, sha256: str, fetch: Callable[[], bytes]) -> bytes:
        """The content of this digest: from the folder, or from `fetch`, which checks it, and then kept.

        Of several processes that want the same content one fetches it, while the others wait. A damaged file is
        fetched again. Where the disk is full or fails, the content is not kept: training goes on without it.
        """
        path = self.folder / sha256
        if (content := _intact(path)) is None:
            # Few locks for all shards: files that locks are made of can't be removed safely.
            with self._lock(sha256[:2]):
                if (content := _intact(path)) is None:
                    content = fetch()
                    self._store(path, content)
        return content

    def _store(self, path: Path, content: bytes) -> None:
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        try:
            with self._lock("store"):
                if self._make_room(len(content)):
                    part.write_bytes(content)
                    part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            _log.warning("the cache in %s can't keep a shard, which will be read from S3 again: %s", self.folder, error)

    def _make_room(self, size_bytes: int) -> bool:
        """Remove what was used longest ago until so much more fits; False if it never does."""
        files = []
        for path in self.folder.iterdir():
            if path.suffix == ".part":
                # Its writer was killed, or it would hold the lock that is held here.
                path.unlink()
            elif path.suffix != ".lock":
                facts = path.stat()
                files.append((facts.st_mtime_ns, facts.st_size, path))
        total_bytes = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total_bytes + size_bytes <= self.limit_bytes:
                break
            path.unlink()
            total_bytes -= size
        return total_bytes + size_bytes <= self.limit_bytes

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """Hold a lock that ends with this process at the latest."""
        with (self.folder / f"{name}.lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _intact(path: Path) -> bytes | None:
    """The content of a file that is there and is what its name says; it counts as used now."""
    try:
        content = path.read_bytes()
        os.utime(path)
    except FileNotFoundError:
        return None
    if hashlib.sha256(content).hexdigest() == path.name:
        return content
    _log.warning("%s is damaged: fetching the shard again", path)
    path.unlink(missing_ok=True)
    return None
