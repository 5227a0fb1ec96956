"""A folder on the local disk that keeps what was read from S3, for all processes of the machine.

It is a property of the machine and not of an experiment, so the environment says it: SRCLUSTER_CACHE is the folder,
SRCLUSTER_CACHE_GB how large it may become. Files are named by their SHA-256, so that data sets that share shards share
them here too, and a file is checked each time it is read. What was used longest ago is removed first.
"""

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from srcluster.errors import UserError

_DEFAULT_GB = 20.0
"""Room for all of COCO's train2017 at the packing's defaults."""

_FREE_BYTES = 2 << 30
"""What the cache leaves free on its disk, for checkpoints and logs."""

_DIGEST = "[0-9a-f]" * 64
"""The names of its files: nothing else in the folder is ever touched."""

_log = logging.getLogger(__name__)


def cache_for(url: str, otherwise: Path | None = None) -> "Cache | None":
    """The cache for the content of a URL, or None: for local files, and where no folder is named.

    Args:
        otherwise: The folder where SRCLUSTER_CACHE is not set.

    Raises:
        UserError: The folder can't be written, or the limit is no number of gigabytes.
    """
    folder = os.environ.get("SRCLUSTER_CACHE") or otherwise
    if not folder or not url.startswith(("s3://", "https://", "http://")):
        return None
    said = os.environ.get("SRCLUSTER_CACHE_GB") or str(_DEFAULT_GB)
    try:
        limit_bytes = int(float(said) * 1e9)
    except (ValueError, OverflowError):
        limit_bytes = 0
    if limit_bytes <= 0:
        raise UserError(f"SRCLUSTER_CACHE_GB is a number of gigabytes such as 20, not {said!r}")
    cache = Cache(Path(folder), limit_bytes)
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        with cache.lock("write"):
            pass
    except OSError as error:
        raise UserError(
            f"the cache {folder} can't be written ({error.strerror}): name another by SRCLUSTER_CACHE, or unset it"
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
        fetched again. Where the disk is full or fails, that is a warning, and the content is not kept.
        """
        path = self.folder / sha256
        content = None
        try:
            if (content := _intact(path)) is None:
                # A few locks for all files, as a lock that others may be waiting for can't be removed.
                with self.lock(sha256[:2]):
                    if (content := _intact(path)) is None:
                        content = fetch()
                        self._keep(path, content)
        except OSError as error:
            _log.warning("the cache %s fails, reading from S3 instead: %s", self.folder, error)
        return fetch() if content is None else content

    def _keep(self, path: Path, content: bytes) -> None:
        with self.lock("write"):
            if not self._make_room(len(content)):
                _log.warning("%s has no room for a shard: give SRCLUSTER_CACHE a larger disk or limit", self.folder)
                return
            part = path.with_name(f"{path.name}.part")
            try:
                part.write_bytes(content)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def _make_room(self, size_bytes: int) -> bool:
        """Remove what was used longest ago until so much more fits; False if it never does."""
        for abandoned in self.folder.glob(f"{_DIGEST}.part"):
            abandoned.unlink()
        files = []
        for path in self.folder.glob(_DIGEST):
            # Another process may have found it damaged just now.
            with suppress(FileNotFoundError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        total_bytes = sum(size for _, size, _ in files)
        spare_bytes = shutil.disk_usage(self.folder).free - _FREE_BYTES
        excess_bytes = size_bytes - min(self.limit_bytes - total_bytes, spare_bytes)
        for _, size, path in sorted(files):
            if excess_bytes <= 0:
                break
            path.unlink()
            excess_bytes -= size
        return excess_bytes <= 0

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold one of the folder's locks; it ends with this process at the latest."""
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
