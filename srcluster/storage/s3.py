"""Objects in S3, through dropped connections and restarts of the store. The only module that imports boto3."""

import functools
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

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
from botocore.parsers import ResponseParserError

from srcluster.errors import UserError

__all__ = [
    "ConflictError",
    "StorageError",
    "check",
    "chunks",
    "delete",
    "make_bucket",
    "upload",
    "version",
    "versions",
    "write",
]

T = TypeVar("T")

# An answer that breaks off ends where its reader finds out: botocore, urllib3 or a parser, which raises ValueError.
_FAILURES = (BotoCoreError, ClientError, ResponseParserError, urllib3.exceptions.HTTPError, ValueError)
_AWAY = (ConnectionError, HTTPClientError, IncompleteReadError)
_AWAY_STATUS = {429, 500, 502, 503, 504}


class StorageError(UserError):
    """A URL that can't be read or written, and what to do about it."""


class ConflictError(StorageError):
    """A file or object is not of the version that its writer expected."""


def chunks(url: str, chunk_bytes: int, patience_s: float) -> Iterator[bytes]:
    """Stream an object, each connection going on where the last one broke off."""
    place = _place(url)
    patience = _Patience(url, patience_s)
    offset, size, etag = 0, None, None
    while size is None or offset < size:
        try:
            rest = {"Range": f"bytes={offset}-", "IfMatch": etag} if etag else {}
            answer = _client().get_object(**place, **rest)
            with closing(answer["Body"]) as body:
                pieces = body.iter_chunks(chunk_bytes)
                piece = next(pieces, b"")
                # A header that was cut off looks like a short one: only what follows it proves it whole.
                if not piece and answer.get("ContentLength") != 0:
                    raise IncompleteReadError(actual_bytes=0, expected_bytes=1)
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
        except _FAILURES as error:
            patience.wait(error)


def write(url: str, data: bytes, patience_s: float, expected: str | None = None) -> None:
    place = _place(url)
    condition = {} if expected is None else {"IfMatch": expected} if expected else {"IfNoneMatch": "*"}

    def ask(s3: Any) -> None:
        try:
            s3.put_object(**place, **condition, Body=data)
        except ClientError as error:
            # Amazon says 404 of an expected object that is gone, and 409 where two write at once.
            if condition and _status(error) in (404, 409, 412) and error.response["Error"]["Code"] != "NoSuchBucket":
                raise ConflictError(f"{url} was replaced meanwhile") from error
            raise

    _patiently(url, ask, patience_s)


def upload(path: Path, url: str, patience_s: float) -> None:
    place = _place(url)

    def ask(s3: Any) -> None:
        with path.open("rb") as file:
            s3.upload_fileobj(file, **place)

    _patiently(url, ask, patience_s)


def version(url: str, patience_s: float) -> str:
    place = _place(url)

    def ask(s3: Any) -> str:
        try:
            return s3.head_object(**place)["ETag"]
        except ClientError as error:
            if _status(error) == 404:
                return ""
            raise

    return _patiently(url, ask, patience_s)


def versions(url: str, patience_s: float) -> dict[str, str]:
    bucket, prefix = _split(url)
    prefix = f"{prefix.rstrip('/')}/" if prefix else ""

    def ask(s3: Any) -> dict[str, str]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        items = (item for page in pages for item in page.get("Contents", ()))
        return {item["Key"].removeprefix(prefix): item["ETag"] for item in items}

    # Keys that end in a slash stand for folders in some stores' own tools.
    found = _patiently(url, ask, patience_s)
    return {name: found[name] for name in sorted(found) if name and not name.endswith("/")}


def delete(url: str, patience_s: float) -> None:
    place = _place(url)
    _patiently(url, lambda s3: s3.delete_object(**place), patience_s)


def make_bucket(url: str, patience_s: float = 120.0) -> None:
    """Make the bucket of an S3 URL; one that is already ours is no error."""
    bucket, _ = _split(url)

    def ask(s3: Any) -> None:
        region = s3.meta.region_name
        # Amazon makes buckets in its first region unless told; other stores have no regions.
        elsewhere = not _endpoint() and region not in (None, "aws-global", "us-east-1")
        where = {"CreateBucketConfiguration": {"LocationConstraint": region}} if elsewhere else {}
        with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
            s3.create_bucket(Bucket=bucket, **where)

    _patiently(url, ask, patience_s)


def check(url: str, probe: str | None) -> None:
    """List `url`, and put and delete an object `probe` if it is given, each tried once and for seconds at most."""
    bucket, prefix = _split(url)
    try:
        s3 = _make_client(connect_timeout_s=3, read_timeout_s=5, attempts=1)
        # Unlike HeadBucket, a listing's refusal has a body that says which of key, secret or bucket is wrong.
        s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        if probe:
            s3.put_object(**_place(probe), Body=b"")
            s3.delete_object(**_place(probe))
    except _FAILURES as error:
        raise _explained(url, error) from error


class _Patience:
    """The waits between attempts: exponential backoff with jitter, from its beginning after any progress."""

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
    """One client for each process, as connections don't survive a fork, and each set of AWS variables."""
    # botocore's own attempts mend one part of a large upload; a store that is away is waited for by _Patience.
    return _make_client(connect_timeout_s=5, read_timeout_s=30, attempts=3)


def _make_client(connect_timeout_s: float, read_timeout_s: float, attempts: int) -> Any:
    config = Config(
        connect_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": attempts},
        # The other style needs a DNS name for every bucket, which stores other than Amazon's seldom have.
        s3={"addressing_style": "path" if _endpoint() else "auto"},
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except ValueError as error:
        example = "a URL such as http://host:8333"
        raise StorageError(f"{_endpoint_variable()} must be {example}, not {_endpoint()!r}") from error


def _endpoint() -> str | None:
    return os.environ.get(_endpoint_variable())


def _endpoint_variable() -> str:
    # botocore prefers the more particular one.
    return "AWS_ENDPOINT_URL_S3" if os.environ.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"


def _status(error: Exception) -> int | None:
    return error.response["ResponseMetadata"]["HTTPStatusCode"] if isinstance(error, ClientError) else None


def _is_transient(error: Exception) -> bool:
    if isinstance(error, ClientError):
        return _status(error) in _AWAY_STATUS or error.response["Error"]["Code"] == "RequestTimeout"
    return isinstance(error, _AWAY) or not isinstance(error, BotoCoreError)


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
            return StorageError(
                f"{store} forbids access to {url} ({code}): give the key in AWS_ACCESS_KEY_ID the right"
            )
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
        return StorageError(f"no store answers at {store}: start it, or set {_endpoint_variable()} to where it is")
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
