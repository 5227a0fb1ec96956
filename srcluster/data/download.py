"""A file over HTTP, continued where it broke off: in this run or in the next.

`requests` does the talking, through proxies, redirects and TLS. What continues is written here, as no well-kept library
offers it for any server: pooch and torch.hub begin anew, and huggingface_hub continues only for its own hub.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import requests
import urllib3

from srcluster.errors import UserError

PATIENCE_S = 120.0
PAUSE_S = 1.0
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
CHUNK_BYTES = 1 << 18

_BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.HTTPError,
    # What breaks off in mid-file comes from below `requests`, as the raw bytes are read.
    urllib3.exceptions.HTTPError,
)


class DownloadError(UserError):
    """An address gives no file, or another one than it should."""


def download(
    url: str,
    path: Path,
    *,
    size_bytes: int | None = None,
    patience_s: float = PATIENCE_S,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> None:
    """Fetch a file to `path`, which appears only once it is whole; until then it grows in `path` + `.part`.

    Args:
        url: An http or https address.
        path: Where the file goes; folders above it are made.
        size_bytes: How long it is known to be; a server that offers another length is refused before anything is read.
        patience_s: For how long a server that has begun may stay away. One that never began is not waited for.
        progress: Told how many bytes are there, and of how many, if the server says.

    Raises:
        DownloadError: The address can't be reached, refuses, or offers another length; or `path` can't be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            _fill(file, url, size_bytes, patience_s, progress)
        part.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise DownloadError(f"{part} can't be written ({reason}): make room or name another --downloads") from error


def _fill(
    file: IO[bytes],
    url: str,
    size_bytes: int | None,
    patience_s: float,
    progress: Callable[[int, int | None], None],
) -> None:
    # Only a new byte renews the patience, or a server that always breaks off and can't continue would be asked forever.
    farthest, deadline = 0, time.monotonic()
    with requests.Session() as session:
        while True:
            try:
                for done, total in _receive(session, url, file, size_bytes):
                    progress(done, total)
                    if done > farthest:
                        farthest, deadline = done, time.monotonic() + patience_s
                return
            except _BROKEN as error:
                if time.monotonic() + PAUSE_S > deadline:
                    raise DownloadError(_given_up(url, farthest, error)) from error
            except requests.RequestException as error:
                raise DownloadError(f"{url} can't be fetched: {error}; correct the address") from error
            time.sleep(PAUSE_S)


def _receive(
    session: requests.Session, url: str, file: IO[bytes], size_bytes: int | None
) -> Iterator[tuple[int, int | None]]:
    """Append what is missing of the file, and yield after each chunk how long it is and how long it will be."""
    done = file.seek(0, os.SEEK_END)
    if done == size_bytes:
        return
    # Ranges count the bytes that are sent; compressed on the way, they would be others each time.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    timeouts_s = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    with session.get(url, headers=headers, stream=True, timeout=timeouts_s) as answer:
        _refuse_errors(answer, url)
        match answer.status_code:
            case 206 if answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
                begin = done
            case 200:
                begin = 0
            case _ if done:
                # What is there can't be the beginning of what the server has.
                file.truncate(0)
                yield from _receive(session, url, file, size_bytes)
                return
            case status:
                raise DownloadError(f"{url} is answered with {status} and no file: name a mirror with --from")
        length = answer.headers.get("Content-Length")
        total = begin + int(length) if length else None
        if size_bytes is not None and total not in (None, size_bytes):
            raise DownloadError(f"{url} has {total} bytes instead of {size_bytes}: name a mirror with --from")
        file.truncate(begin)
        done = begin
        for chunk in answer.raw.stream(CHUNK_BYTES, decode_content=False):
            file.write(chunk)
            done += len(chunk)
            yield done, total
    if total is not None and done < total:
        raise requests.ConnectionError(f"closed after {done} of {total} bytes")


def _refuse_errors(answer: requests.Response, url: str) -> None:
    """Raise DownloadError for what another attempt won't change, and requests.HTTPError for what it may."""
    status = f"{answer.status_code} {answer.reason}"
    match answer.status_code:
        case 404 | 410:
            raise DownloadError(f"there is no {url} ({status}): check the address, or name a mirror with --from")
        case 416:
            pass
        case code if 400 <= code < 500 and code not in (408, 429):
            raise DownloadError(f"{url} is refused ({status}): name a mirror with --from")
        case _:
            answer.raise_for_status()


def _given_up(url: str, done: int, error: Exception) -> str:
    match error:
        case requests.HTTPError():
            reason = f"{error.response.status_code} {error.response.reason}"
        case requests.Timeout() | urllib3.exceptions.TimeoutError():
            reason = "it does not answer in time"
        case requests.exceptions.SSLError():
            reason = "its certificate can't be verified"
        case _:
            reason = "no connection"
    if done:
        return f"{url} broke off after {done} bytes ({reason}): fetch again to continue, or name a mirror with --from"
    return f"{url} can't be reached ({reason}): check the network and HTTPS_PROXY, or name a mirror with --from"
