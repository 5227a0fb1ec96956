"""Objects in S3, through dropped connections and restarts of the store. The only package that imports boto3."""

import functools
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError

from srcluster.storage import faults
from srcluster.storage.faults import StorageError, endpoint

T = TypeVar("T")

PATIENCE_S = 120.0

# botocore, too, can say so of checksums.
_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")


class ConflictError(StorageError):
    """A file or object is not of the version that its writer expected."""


class _Patience:
    """Waits after a failure that may pass; any other, and one that has not passed after `patience_s`, is explained.

    The waits are exponential with jitter, from their beginning after any progress.
    """

    def __init__(self, url: str, patience_s: float) -> None:
        self.url, self.patience_s = url, patience_s
        self.renew()

    def renew(self) -> None:
        self.failures = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if not isinstance(error, Exception) or not faults.is_failure(error):
            return False
        if self.failures == 0:
            self.deadline = time.monotonic() + self.patience_s
        pause_s = random.uniform(0.5, 1) * min(0.2 * 2**self.failures, 10)
        if not faults.is_transient(error) or time.monotonic() + pause_s > self.deadline:
            raise faults.explained(self.url, error) from error
        time.sleep(pause_s)
        self.failures += 1
        return True


def _patient(ask: Callable[..., T]) -> Callable[..., T]:
    """A function of a URL and `patience_s` from one of a client and a URL."""

    @functools.wraps(ask)
    def patiently(url: str, *args: Any, patience_s: float = PATIENCE_S) -> T:
        patience = _Patience(url, patience_s)
        while True:
            with patience:
                return ask(_client(), url, *args)

    return patiently


@_patient
def read_span(s3: Any, url: str, first: int, size: int) -> bytes:
    answer = s3.get_object(**_object(url), Range=f"bytes={first}-{first + size - 1}")
    with closing(answer["Body"]) as body:
        if not answer.get("ContentRange", "").startswith(f"bytes {first}-"):
            raise StorageError(f"{url} can't be read from byte {first} on: the store honours no Range")
        content: bytes = body.read()
    if len(content) != size:
        raise _cut_off()
    return content


def chunks(url: str, patience_s: float, chunk_bytes: int) -> Iterator[bytes]:
    """Stream an object, each connection going on where the last one broke off."""
    patience = _Patience(url, patience_s)
    offset, size, etag = 0, None, None
    while size is None or offset < size:
        with patience:
            rest = {"Range": f"bytes={offset}-", "IfMatch": etag}
            answer = _client().get_object(**_object(url), **(rest if etag else {}))
            with closing(answer["Body"]) as body:
                pieces = body.iter_chunks(chunk_bytes)
                piece = next(pieces, b"")
                # A header that was cut off looks like a short one: only what follows it proves it whole.
                if not piece and answer.get("ContentLength") != 0:
                    raise _cut_off()
                if etag is None:
                    size, etag = answer["ContentLength"], answer.get("ETag")
                elif answer["ETag"] != etag or not answer.get("ContentRange", "").startswith(f"bytes {offset}-"):
                    # Not every store honours If-Match and Range, and two versions must not be mixed.
                    raise StorageError(f"{url} can't be continued at byte {offset}: read it again from its beginning")
                while piece:
                    offset += len(piece)
                    patience.renew()
                    yield piece
                    piece = next(pieces, b"")


@_patient
def write(s3: Any, url: str, data: bytes, expected: str | None = None) -> None:
    condition = {} if expected is None else {"IfMatch": expected} if expected else {"IfNoneMatch": "*"}
    try:
        s3.put_object(**_object(url), **condition, Body=data)
    except ClientError as error:
        # Amazon says 404 of an expected object that is gone, and 409 where two write at once.
        if condition and faults.status(error) in (404, 409, 412) and error.response["Error"]["Code"] != "NoSuchBucket":
            raise ConflictError(f"{url} was replaced meanwhile") from error
        raise


@_patient
def upload(s3: Any, url: str, path: Path) -> None:
    with path.open("rb") as file:
        s3.upload_fileobj(file, **_object(url))


@_patient
def version(s3: Any, url: str) -> str:
    try:
        etag = s3.head_object(**_object(url)).get("ETag", '"')
    except ClientError as error:
        if faults.status(error) == 404:
            return ""
        raise
    if etag.count('"') == 1:
        raise _cut_off()
    return etag


@_patient
def versions(s3: Any, url: str) -> dict[str, str]:
    bucket, prefix = _split(url)
    prefix = prefix and f"{prefix.removesuffix('/')}/"
    found: dict[str, str] = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        # One whose header was cut off, or that is no listing, looks like one of nothing.
        if "IsTruncated" not in page:
            raise _cut_off()
        found |= {item["Key"].removeprefix(prefix): item["ETag"] for item in page.get("Contents", ())}
    # Keys that end in a slash stand for folders in some stores' own tools.
    return {name: found[name] for name in sorted(found) if name and not name.endswith("/")}


@_patient
def delete(s3: Any, url: str) -> None:
    s3.delete_object(**_object(url))


@_patient
def make_bucket(s3: Any, url: str) -> None:
    """Make the bucket of an S3 URL; one that is already ours is no error."""
    region = s3.meta.region_name
    # Amazon makes buckets in its first region unless told; other stores have no regions.
    elsewhere = not endpoint() and region not in (None, "aws-global", "us-east-1")
    where = {"CreateBucketConfiguration": {"LocationConstraint": region}} if elsewhere else {}
    with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=_split(url)[0], **where)


def check(url: str, probe: str | None) -> None:
    """List `url`, and put and delete an object `probe` if it is given, each tried once and for seconds at most."""
    bucket, prefix = _split(url)
    may_read = False
    try:
        s3 = _make_client(connect_timeout_s=3, read_timeout_s=5, attempts=1)
        # Unlike HeadBucket, a listing's refusal has a body that says which of key, secret or bucket is wrong.
        if "IsTruncated" not in s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1):
            raise _cut_off()
        may_read = True
        if probe:
            s3.put_object(**_object(probe), Body=b"")
            s3.delete_object(**_object(probe))
    except Exception as error:
        if not faults.is_failure(error):
            raise
        sentence = str(faults.explained(url, error))
        if may_read and s3.meta.config.request_checksum_calculation == "when_supported":
            sentence += (
                "; it lets itself be read, so if that is not it: set AWS_REQUEST_CHECKSUM_CALCULATION=when_required, "
                "as it may not know the newer checksums"
            )
        raise StorageError(sentence) from error


def _client() -> Any:
    settings = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    return _client_of(os.getpid(), settings)


@functools.lru_cache(maxsize=1)
def _client_of(pid: int, settings: frozenset[tuple[str, str]]) -> Any:
    """One client for each process, as connections don't survive a fork, and each set of AWS variables."""
    # botocore's own attempts mend one part of a large upload. A store that is away is waited for by _Patience: all
    # threads share botocore's attempts, and eight of them use these up within a second.
    return _make_client(connect_timeout_s=5, read_timeout_s=30, attempts=3)


def _make_client(connect_timeout_s: float, read_timeout_s: float, attempts: int) -> Any:
    # Stores other than Amazon's seldom have a DNS name for every bucket, and not all know the newer checksums.
    style = "path" if endpoint() else "auto"
    unsaid = [name for name in _CHECKSUMS if endpoint() and not os.environ.get(f"AWS_{name.upper()}")]
    config = Config(
        connect_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": attempts},
        s3={"addressing_style": style},
        **dict.fromkeys(unsaid, "when_required"),
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except ValueError as error:
        if isinstance(error, BotoCoreError):
            raise
        raise faults.endpoint_error() from error


def _cut_off() -> IncompleteReadError:
    return IncompleteReadError(actual_bytes=0, expected_bytes=1)


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise StorageError(f"{url!r} names no bucket: write s3://bucket/key")
    return bucket, key


def _object(url: str) -> dict[str, str]:
    bucket, key = _split(url)
    if not key:
        raise StorageError(f"{url!r} names a bucket alone: write s3://bucket/key")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise StorageError(f"{url!r} is no name for an object, as it is not UTF-8: rename the file") from error
    return {"Bucket": bucket, "Key": key}
