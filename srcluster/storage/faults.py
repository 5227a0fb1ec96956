"""What a failure of an S3 store means: whether it may pass, and what a person can do about it."""

import os
import traceback

import urllib3
from botocore import exceptions as boto
from botocore.exceptions import ClientError

from srcluster.errors import UserError

_AWAY = (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError, urllib3.exceptions.HTTPError)
_AWAY_STATUS = {429, 500, 502, 503, 504}

_REGION = "the bucket {bucket} is in another region of {store}: set AWS_DEFAULT_REGION to that"
_EXPIRED = (
    "the key in AWS_ACCESS_KEY_ID has expired: get another, and set AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN with it"
)
_FULL = "{store} has no room left for {url}: delete something, or raise its quota"
_SENTENCES = {
    "InvalidAccessKeyId": "{store} does not know the key in AWS_ACCESS_KEY_ID: set it to a key of this store",
    "SignatureDoesNotMatch": "{store} refuses AWS_SECRET_ACCESS_KEY: set it to the secret of AWS_ACCESS_KEY_ID",
    "InvalidToken": "{store} does not know AWS_SESSION_TOKEN: unset it unless AWS_ACCESS_KEY_ID came with one",
    "ExpiredToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestTimeTooSkewed": "the clocks of this machine and of {store} differ by minutes: set the one that is wrong",
    "NoSuchBucket": "there is no bucket {bucket} at {store}: make it with "
    """`python -c "from srcluster import storage; storage.make_bucket('s3://{bucket}')"`""",
    "AllAccessDisabled": "{store} has closed the bucket {bucket}: ask who runs it",
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "PermanentRedirect": _REGION,
    "301": _REGION,
    "InvalidObjectState": "{url} is archived: restore it first",
    "QuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "507": _FULL,
    "401": "{store} forbids access to {url} ({code}): give the key in AWS_ACCESS_KEY_ID the right",
    "403": "{store} forbids access to {url} ({code}): give the key in AWS_ACCESS_KEY_ID the right",
    "404": "there is no {url} at {store}: check its name",
    "412": "{url} changed while it was read: read it again, and let nothing overwrite it",
}
"""By the code of S3's answer, or else its status."""


class StorageError(UserError):
    """A URL that can't be read or written, and what to do about it."""


def endpoint() -> str | None:
    """The URL of the store, or None for Amazon's."""
    return os.environ.get(_endpoint_variable())


def endpoint_error() -> StorageError:
    return StorageError(f"{_endpoint_variable()} must be a URL such as http://host:8333, not {endpoint()!r}")


def status(error: Exception) -> int | None:
    """The HTTP status of a refusal."""
    return error.response["ResponseMetadata"]["HTTPStatusCode"] if isinstance(error, ClientError) else None


def is_failure(error: BaseException | None) -> bool:
    """Whether an exception tells of the store or the way to it, and not of a defect."""
    return isinstance(error, boto.BotoCoreError | ClientError | urllib3.exceptions.HTTPError) or _is_cut(error)


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, ClientError):
        return status(error) in _AWAY_STATUS or error.response["Error"]["Code"] == "RequestTimeout"
    if isinstance(error, boto.SSLError):
        return "CERTIFICATE_VERIFY_FAILED" not in str(error) and "WRONG_VERSION" not in str(error)
    return (isinstance(error, _AWAY) and not _is_unsendable(error)) or _is_cut(error)


def explained(url: str, error: Exception) -> StorageError:
    """What went wrong, in words a person can act on; never a credential."""
    store = endpoint() or "Amazon S3 (AWS_ENDPOINT_URL is not set)"
    if isinstance(error, ClientError):
        code = error.response["Error"]["Code"]
        if sentence := _SENTENCES.get(code) or _SENTENCES.get(str(status(error))):
            bucket = url.removeprefix("s3://").partition("/")[0]
            return StorageError(sentence.format(store=store, url=url, bucket=bucket, code=code))
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return StorageError(f"{url} needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if isinstance(error, boto.EndpointResolutionError):
        return endpoint_error()
    if isinstance(error, boto.SSLError):
        return StorageError(
            f"{store} can't be spoken to by TLS ({error.kwargs.get('error')}): set AWS_CA_BUNDLE to the certificates "
            f"of who signed its own, or {_endpoint_variable()} to http://... if it has none"
        )
    if isinstance(error, boto.ProxyConnectionError):
        return StorageError(f"no proxy answers on the way to {store}: correct HTTP_PROXY and HTTPS_PROXY, or NO_PROXY")
    if _is_unsendable(error):
        return StorageError(
            "AWS_ACCESS_KEY_ID or AWS_SESSION_TOKEN has a character that can't be sent: look for a line's end in it"
        )
    if isinstance(error, boto.IncompleteReadError) or _is_cut(error):
        return StorageError(f"what answers at {store} breaks off, or is no S3 store: correct {_endpoint_variable()}")
    if isinstance(error, _AWAY):
        return StorageError(f"no store answers at {store}: start it, or set {_endpoint_variable()} to where it is")
    return StorageError(f"{store} failed on {url}: {error}")


def _endpoint_variable() -> str:
    # botocore prefers the more particular one.
    return "AWS_ENDPOINT_URL_S3" if os.environ.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"


def _is_unsendable(error: Exception) -> bool:
    return isinstance(error, boto.HTTPClientError) and isinstance(error.kwargs.get("error"), ValueError)


def _is_cut(error: BaseException | None) -> bool:
    """Whether an answer's header or body ended where botocore's parser, or s3transfer, did not expect it."""
    if not isinstance(error, Exception):
        return False
    modules = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)}
    in_s3transfer = any(module.startswith("s3transfer.") for module in modules)
    return "botocore.parsers" in modules or (isinstance(error, KeyError) and in_s3transfer)
