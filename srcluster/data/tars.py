"""The pictures inside tar files: shards of the WebDataset format as img2dataset and others make them."""

import fnmatch
import functools
import io
import itertools
import re
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from srcluster import storage
from srcluster.data.listing import Listing, Photo, printable, select
from srcluster.data.pictures import PhotoError

_BLOCK = 512
_AT_A_TIME = 8


def tar_urls(source: str) -> list[str]:
    """The tar files of a name: `train/{00000..00099}.tar`, `s3://bucket/train/*.tar`, or one alone.

    Raises:
        PhotoError: There is none.
    """
    if numbers := re.search(r"\{(\d+)\.\.(\d+)\}", source):
        before, after = source[: numbers.start()], source[numbers.end() :]
        first, last = numbers.groups()
        names = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
        return [url for name in names for url in tar_urls(f"{before}{name}{after}")]
    url = storage.absolute(source)
    if not (glob := re.search(r"[*?\[]", url)):
        return [url]
    folder = url[: glob.start()].rpartition("/")[0]
    urls = [storage.join(folder, name) for name in storage.names(folder)]
    if not (urls := sorted(fnmatch.filter(urls, url))):
        raise PhotoError(f"no file has a name like {source}")
    return urls


def list_tars(urls: list[str]) -> Listing:
    """The pictures in tar files, by the names of the tar file and of the picture in it.

    A tar file is streamed once to find where its pictures begin, and nothing is unpacked: a picture is then read from
    the middle of its tar file.

    Raises:
        PhotoError: One of them is no tar file, or is cut.
    """
    folders = zip(*(url.split("/")[:-1] for url in urls), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, folders))
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        listed = threads.map(functools.partial(_list, shared), urls)
        return select(photo for photos in listed for photo in photos)


def _list(shared: int, url: str) -> list[Photo]:
    """Without as many folders in their names as all tar files share."""
    version, stream = storage.version(url), _Stream(url)
    folder = "/".join(url.split("/")[shared:])
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            found = [
                Photo(
                    name=printable(f"{folder}/{file.name}"),
                    url=url,
                    version=f"{file.size}-{file.offset_data}-{version}",
                    span=(file.offset_data, file.size),
                )
                for file in tar
                if file.isfile()
            ]
    except (tarfile.TarError, EOFError) as error:
        whole = "is cut" if "end of data" in str(error) else "is no tar file"
        raise PhotoError(f"{url} {whole} ({error}): fetch it again, or leave it out") from error
    if stream.drain() != bytes(_BLOCK):
        raise PhotoError(f"{url} is cut after {found[-1].name if found else 'its beginning'}: fetch it again")
    return found


class _Stream(io.RawIOBase):
    """What tarfile reads from."""

    def __init__(self, url: str):
        self.chunks: Iterator[bytes] = storage.chunks(url)
        self.rest = self.last = b""

    def read(self, size: int = -1) -> bytes:
        while len(self.rest) < size and (chunk := next(self.chunks, b"")):
            self.rest += chunk
        data, self.rest = self.rest[:size], self.rest[size:]
        self.last = (self.last + data)[-_BLOCK:]
        return data

    def drain(self) -> bytes:
        """The last block of the file, which is empty if it is whole."""
        while self.read(storage.CHUNK_BYTES):
            pass
        return self.last
