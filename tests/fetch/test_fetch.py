"""Data sets from a real HTTP server that breaks off and lies."""

import functools
import hashlib
import io
import random
import re
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from srcluster import cli, storage
from srcluster.data import benchmarks, download
from srcluster.data.archive import ArchiveError
from srcluster.data.download import DownloadError
from srcluster.errors import UserError
from srcluster.fetch import __main__ as fetch
from srcluster.fetch.__main__ import Source
from srcluster.storage import StorageError

FILE = random.Random(0).randbytes(3_000_000)


class Host:
    """A web server of a few files, and how it fails.

    Attributes:
        files: Their contents by name; a number is the status that is answered instead.
        ranges: Whether it can begin in mid-file.
        cuts: After how many bytes of its body each answer breaks off, in turn; then none does.
        asked: The name and the Range header of each request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes | int] = {}
        self.ranges = True
        self.cuts: Iterator[int] = iter(())
        self.asked: list[tuple[str, str | None]] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Clients that hang up are what the tests are about."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name, asked = request.path.lstrip("/"), request.headers.get("Range")
        self.asked.append((name, asked))
        content = self.files.get(name, 404)
        if isinstance(content, int):
            request.send_error(content)
            return
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if begin and begin >= len(content):
            request.send_error(416)
            return
        request.send_response(206 if begin else 200)
        if begin:
            request.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - begin))
        request.end_headers()
        request.wfile.write(content[begin:][: next(self.cuts, None)])

    def ranges_asked(self) -> list[str | None]:
        return [asked for _, asked in self.asked]


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_S", 0.01)
    host = Host()
    yield host
    host.server.shutdown()
    host.server.server_close()


@pytest.fixture
def downloads(tmp_path):
    return tmp_path / "downloads"


def bitmap(seed: int) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)).save(encoded, "BMP")
    return encoded.getvalue()


PICTURES = {f"{name}.bmp": bitmap(seed) for seed, name in enumerate(["baby", "bird", "butterfly", "head", "woman"])}


def zipped(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return packed.getvalue()


SET5 = zipped({f"SRCNN/Set5/{name}": content for name, content in PICTURES.items()} | {"SRCNN/demo.m": b"demo"})


@pytest.fixture
def offer(host, monkeypatch):
    """Make the host the home of Set5."""

    def begin(packed: bytes, promised: bytes | None = None, file: str = "SRCNN_v1.zip", **changes: object) -> None:
        promised = packed if promised is None else promised
        host.files[file] = packed
        what = {"sha256": hashlib.sha256(promised).hexdigest(), "size_bytes": len(promised)}
        source = Source(f"{host.url}/{file}", **(what | {"pictures": "Set5/*.bmp", "count": 5} | changes))
        monkeypatch.setitem(fetch.SOURCES, "Set5", source)

    return begin


def test_a_connection_that_breaks_continues_at_the_same_byte(host, tmp_path):
    host.files["file"], host.cuts = FILE, iter([1_000_000, 700_000])
    told = []
    download.download(f"{host.url}/file", tmp_path / "file", progress=lambda *so_far: told.append(so_far))
    assert (tmp_path / "file").read_bytes() == FILE
    assert host.ranges_asked() == [None, "bytes=1000000-", "bytes=1700000-"]
    assert told == sorted(told)
    assert told[-1] == (len(FILE), len(FILE))


def test_the_next_run_continues_too(host, tmp_path):
    host.files["file"], host.cuts = FILE, iter([1_000_000])
    with pytest.raises(DownloadError, match=r"broke off after 1000000 bytes .*: fetch again to continue"):
        download.download(f"{host.url}/file", tmp_path / "file", patience_s=0)
    assert [path.name for path in tmp_path.iterdir()] == ["file.part"]
    download.download(f"{host.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == FILE
    assert host.ranges_asked() == [None, "bytes=1000000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_server_without_ranges_begins_anew(host, tmp_path):
    host.files["file"], host.ranges, host.cuts = FILE, False, iter([1_000_000])
    download.download(f"{host.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == FILE


def test_a_server_that_never_gets_further_is_given_up(host, tmp_path):
    host.files["file"], host.ranges, host.cuts = FILE, False, iter([1_000_000] * 1000)
    with pytest.raises(DownloadError, match="broke off"):
        download.download(f"{host.url}/file", tmp_path / "file", patience_s=0.2)


@pytest.mark.parametrize("beginning", [FILE, FILE + b"more"])
def test_what_can_be_no_beginning_is_dropped(host, tmp_path, beginning):
    host.files["file"] = FILE
    (tmp_path / "file.part").write_bytes(beginning)
    download.download(f"{host.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == FILE


def test_a_whole_file_that_was_not_yet_renamed_is_taken(host, tmp_path):
    (tmp_path / "file.part").write_bytes(FILE)
    download.download(f"{host.url}/file", tmp_path / "file", size_bytes=len(FILE))
    assert (tmp_path / "file").read_bytes() == FILE
    assert host.asked == []


def test_a_server_that_is_away_for_a_moment_is_waited_for(host, tmp_path, monkeypatch):
    host.files["file"], host.cuts = FILE, iter([1_000_000])
    answer, away = host.answer, iter([503, 503, 429])

    def moody(request: BaseHTTPRequestHandler) -> None:
        status = next(away, None) if request.headers.get("Range") else None
        request.send_error(status) if status else answer(request)

    monkeypatch.setattr(host, "answer", moody)
    download.download(f"{host.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == FILE


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (404, r"there is no http://.*/file \(404 Not Found\): check the address, or name a mirror with --from"),
        (403, r"http://.*/file is refused \(403 Forbidden\): name a mirror"),
        (503, r"http://.*/file can't be reached \(503 Service Unavailable\)"),
        (204, r"http://.*/file is answered with 204 and no file"),
    ],
)
def test_a_refusal_is_one_sentence(host, tmp_path, status, sentence):
    host.files["file"] = status
    with pytest.raises(DownloadError, match=sentence):
        download.download(f"{host.url}/file", tmp_path / "file")


def test_nobody_at_the_address(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
        with pytest.raises(DownloadError, match=rf"{url} can't be reached \(no connection\): check the network"):
            download.download(url, tmp_path / "file")


def test_another_length_is_refused_before_anything_is_read(host, tmp_path):
    host.files["file"] = FILE
    with pytest.raises(DownloadError, match="has 3000000 bytes instead of 5: name a mirror"):
        download.download(f"{host.url}/file", tmp_path / "file", size_bytes=5)
    assert (tmp_path / "file.part").read_bytes() == b""


def test_a_data_set_is_found_by_the_rest_and_fetched_once(host, offer, tmp_path, downloads, monkeypatch, capsys):
    offer(SET5)
    host.cuts = iter([5_000])
    data = tmp_path / "data"
    fetch.fetch(["Set5"], str(data), downloads=downloads)
    assert {path.name: path.read_bytes() for path in (data / "Set5").iterdir()} == PICTURES
    assert list(downloads.iterdir()) == []
    assert capsys.readouterr().out == f"Set5: 5 files in {data}/Set5\n"
    monkeypatch.setenv("SRCLUSTER_DATA", str(data))
    assert [image.name for image in benchmarks.load("Set5", scale=4).images] == [name[:-4] for name in PICTURES]

    host.asked.clear()
    fetch.fetch(["Set5"], str(data), downloads=downloads)
    assert capsys.readouterr().out == f"Set5: in {data}/Set5 already\n"
    assert host.asked == []


def test_two_data_sets_of_one_archive_are_downloaded_once(host, offer, tmp_path, downloads, monkeypatch):
    offer(SET5)
    monkeypatch.setitem(fetch.SOURCES, "Set14", fetch.SOURCES["Set5"])
    fetch.fetch(["Set5", "Set14", "Set5"], str(tmp_path / "data"), downloads=downloads)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"Set5", "Set14"}
    assert len(host.asked) == 1


@pytest.mark.parametrize(
    ("packed", "sentence"),
    [
        (zipped({f"Set5/../{name}": content for name, content in PICTURES.items()}), "leads outside"),
        (zipped({f"Set5/{number}.bmp": bytes(10_000_000) for number in range(5)}), "decompression bomb"),
        (SET5[:-100], "can't be read as a zip or tgz archive"),
    ],
)
def test_a_harmful_archive_writes_nothing_and_is_removed(offer, tmp_path, downloads, packed, sentence):
    offer(packed)
    with pytest.raises(ArchiveError, match=sentence):
        fetch.fetch(["Set5"], str(tmp_path / "data"), downloads=downloads)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_wrong_checksum_is_refused_and_the_file_removed(offer, tmp_path, downloads):
    offer(SET5[::-1], promised=SET5)
    with pytest.raises(ArchiveError, match=r"SRCNN_v1.zip is not the file that it should be: its SHA-256 is .*, not "):
        fetch.fetch(["Set5"], str(tmp_path / "data"), downloads=downloads)
    assert list(downloads.iterdir()) == list((tmp_path / "data").iterdir()) == []
    offer(SET5)
    fetch.fetch(["Set5"], str(tmp_path / "data"), downloads=downloads)


def test_what_nobody_published_is_printed(offer, tmp_path, downloads, capsys):
    offer(SET5, sha256=None, size_bytes=None)
    fetch.fetch(["Set5"], str(tmp_path / "data"), downloads=downloads)
    assert (
        f"no checksum is published; this one has SHA-256 {hashlib.sha256(SET5).hexdigest()}" in capsys.readouterr().out
    )


def test_another_number_of_pictures_is_refused(offer, tmp_path, downloads):
    offer(SET5, count=14)
    with pytest.raises(ArchiveError, match=r"holds 5 Set5/\*.bmp, not 14"):
        fetch.fetch(["Set5"], str(tmp_path / "data"), downloads=downloads)


def test_pictures_of_another_origin_are_not_mixed_in(offer, tmp_path, downloads):
    offer(SET5)
    storage.write(str(tmp_path / "data" / "Set5" / "mine.png"), b"mine")
    with pytest.raises(UserError, match=r"holds mine\.png, which is not of this data set; move it"):
        fetch.fetch(["Set5"], str(tmp_path / "data"), downloads=downloads)
    assert [path.name for path in (tmp_path / "data" / "Set5").iterdir()] == ["mine.png"]


def test_an_interrupted_unpacking_is_done_again_without_a_download(host, offer, tmp_path, downloads, monkeypatch):
    offer(SET5)

    write = storage.write

    def write_until_full(url: str, data: bytes) -> None:
        if url.endswith("head.bmp"):
            raise StorageError("the disk is full")
        write(url, data)

    monkeypatch.setattr(storage, "write", write_until_full)
    with pytest.raises(StorageError):
        fetch.fetch(["Set5"], str(tmp_path / "data"), downloads=downloads)
    monkeypatch.setattr(storage, "write", write)
    fetch.fetch(["Set5"], str(tmp_path / "data"), downloads=downloads)
    assert len(list((tmp_path / "data" / "Set5").iterdir())) == 5
    assert len(host.asked) == 1


def test_a_file_that_is_no_archive_is_kept_as_it_is(host, offer, tmp_path, downloads, capsys):
    offer(FILE, file="vgg16-397923af.pth", pictures=None, count=1)
    kept = tmp_path / "data" / "vgg16-397923af.pth"
    for _ in range(2):
        fetch.fetch(["Set5"], str(kept.parent), downloads=downloads)
    assert kept.read_bytes() == FILE
    assert capsys.readouterr().out == f"Set5: 1 file in {kept}\nSet5: in {kept} already\n"
    assert len(host.asked) == 1


def test_a_mirror_may_be_another_host(host, offer, tmp_path, downloads, monkeypatch):
    offer(SET5)
    host.files = {"mirror/SRCNN_v1.zip": SET5}
    options = ["--to", f"{tmp_path}/data", "--from", f"{host.url}/mirror/", "--downloads", str(downloads)]
    monkeypatch.setattr(sys, "argv", ["fetch", "Set5", *options])
    with pytest.raises(SystemExit, match="0"):
        cli.run(fetch.fetch)
    assert host.asked == [("mirror/SRCNN_v1.zip", None)]
    assert len(list((tmp_path / "data" / "Set5").iterdir())) == 5


def test_a_mirror_may_be_a_folder_which_stays_as_it_is(host, offer, tmp_path):
    offer(SET5)
    folder = tmp_path / "mirror"
    storage.write(str(folder / "SRCNN_v1.zip"), SET5[::-1])
    with pytest.raises(ArchiveError, match="is not the file"):
        fetch.fetch(["Set5"], str(tmp_path / "data"), mirror=str(folder), downloads=folder)
    storage.write(str(folder / "SRCNN_v1.zip"), SET5)
    fetch.fetch(["Set5"], str(tmp_path / "data"), mirror=str(folder), downloads=folder)
    assert [path.name for path in folder.iterdir()] == ["SRCNN_v1.zip"]
    assert host.asked == []


def test_what_a_mirror_lacks_is_said(offer, tmp_path, downloads):
    offer(SET5)
    with pytest.raises(UserError, match=r"there is no .*SRCNN_v1.zip; put http://.* there"):
        fetch.fetch(["Set5"], str(tmp_path / "data"), mirror=str(tmp_path), downloads=downloads)
    with pytest.raises(UserError, match="--from nowhere is neither a folder nor an http"):
        fetch.fetch(["Set5"], str(tmp_path / "data"), mirror="nowhere", downloads=downloads)


def test_places_that_cannot_be_written_are_named(host, offer, tmp_path):
    offer(SET5)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"file/data can't be used: Not a directory"):
        fetch.fetch(["Set5"], str(tmp_path / "file" / "data"), downloads=tmp_path / "downloads")
    assert host.asked == []
    with pytest.raises(DownloadError, match=r"can't be written \(Not a directory\): make room or name another --downl"):
        fetch.fetch(["Set5"], str(tmp_path / "data"), downloads=tmp_path / "file" / "downloads")


def test_progress_is_shown_on_a_terminal_and_in_a_log(offer, tmp_path, downloads, monkeypatch, capsys):
    offer(SET5)
    monkeypatch.setattr(fetch, "progress", functools.partial(fetch.progress, every_s=0))
    fetch.fetch(["Set5"], str(tmp_path / "a"), downloads=downloads)
    lines = re.findall(r"(\w+) SRCNN_v1.zip: (\d+ of \d+ \w+)", capsys.readouterr().out)
    assert lines[:2] == [("fetching", "0 of 1 MB"), ("checking", "0 of 1 MB")]
    assert lines[-1] == ("unpacking", "5 of 5 pictures")
    monkeypatch.setenv("FORCE_COLOR", "1")
    fetch.fetch(["Set5"], str(tmp_path / "b"), downloads=downloads)
    assert "unpacking SRCNN_v1.zip" in capsys.readouterr().out


@pytest.mark.cluster
def test_pictures_go_to_s3(s3, offer, tmp_path, downloads, capsys):
    offer(SET5)
    to = storage.join(s3.bucket_url, tmp_path.name)
    for _ in range(2):
        fetch.fetch(["Set5"], to, downloads=downloads)
    assert {name: storage.read(storage.join(to, "Set5", name)) for name in storage.names(f"{to}/Set5")} == PICTURES
    assert capsys.readouterr().out == f"Set5: 5 files in {to}/Set5\nSet5: in {to}/Set5 already\n"


def test_an_unknown_name_is_corrected_on_the_command_line(tmp_path):
    command = [sys.executable, "-m", "srcluster.fetch", "Set5", "coco-train2071", "--to", str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith("lpips-vgg, not 'coco-train2071', did you mean 'coco-train2017'?\n")
    assert not (tmp_path / "data").exists()
