"""Files and objects by URL: plain paths, `file:` and `s3://bucket/key`.

The only module that speaks S3. Where the store is and who asks comes from the environment alone
(`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, ...): the same variables serve Ray and MLflow.

A store that goes away, or a connection that drops, is waited for: every function that takes `patience_s` goes on
until the store has answered nothing for that many seconds. Everything written appears whole or not at all.
"""

import functools
import os
import random
import re
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import boto3.session
import urllib3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)

from srcluster.errors import UserError

__all__ = [
    "StorageError",
    "check",
    "chunks",
    "delete",
    "download",
    "exists",
    "is_s3",
    "join",
    "make_bucket",
    "names",
    "read",
    "upload",
    "write",
]

PATIENCE_S = 120.0
CHUNK_BYTES = 1 << 20

T = TypeVar("T")

_AWAY = (ConnectionError, HTTPClientError, IncompleteReadError, urllib3.exceptions.HTTPError)
_RETRIED_STATUS = {429, 500, 502, 503, 504}
_FAILURES = (BotoCoreError, ClientError, urllib3.exceptions.HTTPError)


class StorageError(UserError):
    """A URL that can't be read or written, and what to do about it."""


def is_s3(url: str) -> bool:
    return url.startswith("s3://")


def join(url: str, *parts: str) -> str:
    """The URL of something below `url`."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts)])


def read(url: str, *, patience_s: float = PATIENCE_S) -> bytes:
    """The whole of a file or object. Raises StorageError if it is missing or can't be read."""
    return b"".join(chunks(url, patience_s=patience_s))


def chunks(url: str, chunk_bytes: int = CHUNK_BYTES, *, patience_s: float = PATIENCE_S) -> Iterator[bytes]:
    """Stream a file or object in pieces of at most `chunk_bytes`; no byte is lost or repeated.

    Where a connection drops, the next one continues at the same byte of the same version of the object.

    Raises:
        StorageError: The object is missing, may not be read, changed while it was read, or the store was away for
            more than `patience_s`.
    """
    if not is_s3(url):
        with _explaining(url), _path(url).open("rb") as file:
            yield from iter(functools.partial(file.read, chunk_bytes), b"")
        return

    place = _place(url)
    patience = _Patience(url, patience_s)
    offset, size, etag = 0, None, None
    while size is None or offset < size:
        try:
            rest = {} if etag is None else {"Range": f"bytes={offset}-", "IfMatch": etag}
            answer = _client().get_object(**place, **rest)
            with closing(answer["Body"]) as body:
                if etag is None:
                    size, etag = answer["ContentLength"], answer["ETag"]
                elif not answer.get("ContentRange", "").startswith(f"bytes {offset}-") or answer["ETag"] != etag:
                    # Not every store honours Range and If-Match; a mix of two versions must never be returned.
                    raise StorageError(f"{url} can't be continued at byte {offset}: read it again from its beginning")
                for chunk in body.iter_chunks(chunk_bytes):
                    offset += len(chunk)
                    patience.renew()
                    yield chunk
        except _FAILURES as error:
            patience.wait(error)


def download(url: str, path: Path, *, patience_s: float = PATIENCE_S) -> None:
    """Copy a file or object to `path`, which appears only once it is whole."""
    with _explaining(str(path)), _replacing(path) as file:
        for chunk in chunks(url, patience_s=patience_s):
            file.write(chunk)


def write(url: str, data: bytes, *, patience_s: float = PATIENCE_S) -> None:
    """Make or replace a file (and its folders) or an object."""
    if is_s3(url):
        place = _place(url)
        _patiently(url, lambda s3: s3.put_object(**place, Body=data), patience_s)
    else:
        with _explaining(url), _replacing(_path(url)) as file:
            file.write(data)


def upload(path: Path, url: str, *, patience_s: float = PATIENCE_S) -> None:
    """Copy a local file to `url`, in parallel parts where it is large."""
    if not is_s3(url):
        return download(str(path), _path(url))
    place = _place(url)

    def ask(s3: Any) -> None:
        with path.open("rb") as file:
            s3.upload_fileobj(file, **place)

    with _explaining(str(path)):
        _patiently(url, ask, patience_s)


def exists(url: str, *, patience_s: float = PATIENCE_S) -> bool:
    """Whether there is a file or object of this very name; a folder or a prefix is neither."""
    if not is_s3(url):
        return _path(url).is_file()
    place = _place(url)

    def ask(s3: Any) -> bool:
        try:
            s3.head_object(**place)
        except ClientError as error:
            if _status(error) == 404:
                return False
            raise
        return True

    return _patiently(url, ask, patience_s)


def names(url: str, *, patience_s: float = PATIENCE_S) -> list[str]:
    """The files or objects below a folder or prefix, relative to it, sorted; none if it does not exist."""
    if not is_s3(url):
        root = _path(url)
        files = (path for path in root.rglob("*") if path.is_file() and not _is_part(path))
        return sorted(path.relative_to(root).as_posix() for path in files)
    bucket, prefix = _split(url)
    prefix = f"{prefix.rstrip('/')}/" if prefix else ""

    def ask(s3: Any) -> list[str]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", ())]

    return sorted(name for name in _patiently(url, ask, patience_s) if name and not name.endswith("/"))


def delete(url: str, *, patience_s: float = PATIENCE_S) -> None:
    """Remove one file or object; one that is already gone is no error."""
    if is_s3(url):
        place = _place(url)
        _patiently(url, lambda s3: s3.delete_object(**place), patience_s)
    else:
        with _explaining(url):
            _path(url).unlink(missing_ok=True)


def make_bucket(url: str, *, patience_s: float = PATIENCE_S) -> None:
    """Make the bucket of an S3 URL; one that is already ours is no error."""
    bucket, _ = _split(url)

    def ask(s3: Any) -> None:
        region = s3.meta.region_name
        away_from_home = not _endpoint() and region not in (None, "aws-global", "us-east-1")
        where = {"CreateBucketConfiguration": {"LocationConstraint": region}} if away_from_home else {}
        with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
            s3.create_bucket(Bucket=bucket, **where)

    _patiently(url, ask, patience_s)


def check(url: str, write: bool = False) -> None:
    """Find out within seconds whether `url` can be used as a folder or prefix, before anything depends on it.

    Args:
        url: Where files or objects will be read or written.
        write: Also put a small object there and delete it; a local folder is made if it is missing.

    Raises:
        StorageError: The endpoint is unreachable, the credentials are missing or wrong, or there is no such bucket
            or folder.
    """
    probe = join(url, f".srcluster-check-{uuid.uuid4().hex}")
    if not is_s3(url):
        if write:
            with _explaining(url), _replacing(_path(probe)):
                pass
            delete(probe)
        elif not _path(url).is_dir():
            raise StorageError(f"there is no folder {url}: make it, or name another")
        return
    bucket, prefix = _split(url)
    try:
        s3 = _make_client(connect_timeout_s=3, read_timeout_s=5, attempts=1)
        # Unlike HeadBucket, a listing's refusal has a body that says which of key, secret or bucket is wrong.
        s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        if write:
            s3.put_object(**_place(probe), Body=b"")
            s3.delete_object(**_place(probe))
    except _FAILURES as error:
        raise _explained(url, error) from error


class _Patience:
    """The waits between attempts: exponential backoff with jitter, from the beginning after any progress."""

    def __init__(self, url: str, patience_s: float) -> None:
        self.url = url
        self.patience_s = patience_s
        self.renew()

    def renew(self) -> None:
        self.failures = 0

    def wait(self, error: Exception) -> None:
        """Sleep before the next attempt, or raise StorageError where another would be in vain."""
        if self.failures == 0:
            self.deadline = time.monotonic() + self.patience_s
        pause_s = random.uniform(0.5, 1) * min(0.2 * 2**self.failures, 10)
        if not _is_transient(error) or time.monotonic() + pause_s > self.deadline:
            raise _explained(self.url, error) from error
        time.sleep(pause_s)
        self.failures += 1


def _patiently(url: str, ask: Callable[[Any], T], patience_s: float) -> T:
    patience = _Patience(url, patience_s)
    while True:
        try:
            return ask(_client())
        except _FAILURES as error:
            patience.wait(error)


def _client() -> Any:
    settings = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    return _client_of(os.getpid(), settings)


@functools.lru_cache(maxsize=1)
def _client_of(pid: int, settings: frozenset[tuple[str, str]]) -> Any:
    """One client per process, as connections don't survive a fork, and per set of AWS variables."""
    # botocore's own attempts mend one part of a large upload; a store that is away is waited for by _Patience.
    return _make_client(connect_timeout_s=5, read_timeout_s=30, attempts=3)


def _make_client(connect_timeout_s: float, read_timeout_s: float, attempts: int) -> Any:
    # Virtual-host addressing needs a DNS name for every bucket, which self-hosted stores don't have.
    style = "path" if _endpoint() else "auto"
    config = Config(
        connect_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": attempts},
        s3={"addressing_style": style},
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except ValueError as error:
        raise StorageError(f"AWS_ENDPOINT_URL must be a URL such as http://host:8333, not {_endpoint()!r}") from error


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _status(error: Exception) -> int | None:
    return error.response["ResponseMetadata"]["HTTPStatusCode"] if isinstance(error, ClientError) else None


def _is_transient(error: Exception) -> bool:
    if isinstance(error, ClientError):
        return _status(error) in _RETRIED_STATUS or error.response["Error"]["Code"] == "RequestTimeout"
    return isinstance(error, _AWAY)


def _explained(url: str, error: Exception) -> StorageError:
    """What went wrong in words a person can act on; never a credential."""
    bucket, _ = _split(url)
    store = _endpoint() or "Amazon S3 (AWS_ENDPOINT_URL is not set)"
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    match code, _status(error):
        case "InvalidAccessKeyId", _:
            return StorageError(f"{store} does not know the key in AWS_ACCESS_KEY_ID: set it to a key of this store")
        case "SignatureDoesNotMatch", _:
            return StorageError(f"{store} refuses AWS_SECRET_ACCESS_KEY: set it to the secret of AWS_ACCESS_KEY_ID")
        case _, 401 | 403:
            return StorageError(f"{store} forbids access to {url}: give the key in AWS_ACCESS_KEY_ID the right to it")
        case "NoSuchBucket", _:
            make = f"""python -c "from srcluster import storage; storage.make_bucket('s3://{bucket}')\""""
            return StorageError(f"there is no bucket {bucket} at {store}: make it with `{make}`")
        case _, 404:
            return StorageError(f"there is no {url} at {store}: check its name")
        case _, 412:
            return StorageError(f"{url} changed while it was read: read it again, and let nothing overwrite it")
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StorageError(f"{url} needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if isinstance(error, _AWAY):
        return StorageError(f"no store answers at {store}: start it, or set AWS_ENDPOINT_URL to where it is")
    return StorageError(f"{store} failed on {url}: {error}")


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise StorageError(f"{url!r} names no bucket: write s3://bucket/key")
    return bucket, key


def _place(url: str) -> dict[str, str]:
    bucket, key = _split(url)
    if not key:
        raise StorageError(f"{url!r} names a bucket alone: write s3://bucket/key")
    return {"Bucket": bucket, "Key": key}


def _path(url: str) -> Path:
    if url.startswith("file:"):
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    if re.match(r"[a-z][a-z0-9+.-]*://", url):
        raise StorageError(f"{url} is neither an s3:// URL, a file: URL nor a path: copy it to one of these")
    return Path(url)


@contextmanager
def _explaining(url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"there is no {url}: check its name") from error
    except OSError as error:
        raise StorageError(f"{url} can't be used: {error.strerror or error}") from error


def _is_part(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".part")


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
