"""Faults of a store, each of which a small server plays: what is tried again, and what is said of what is not."""

import http.server
import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from srcluster import storage
from srcluster.storage import StorageError, faults

LISTING = (
    b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
    b"<IsTruncated>false</IsTruncated><Contents><Key>x/1.png</Key><ETag>&quot;e&quot;</ETag></Contents>"
    b"</ListBucketResult>"
)


@pytest.fixture
def store(monkeypatch) -> Iterator[Callable[[Callable[[http.server.BaseHTTPRequestHandler], tuple[int, bytes]]], None]]:
    """Starts a store whose answer to a request is told; AWS_* name it."""
    servers = []
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)

    def start(answer: Callable[[http.server.BaseHTTPRequestHandler], tuple[int, bytes]]) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, body = answer(self)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else body)

            def log_message(self, *_: object) -> None:
                pass

            do_GET = do_PUT = do_HEAD = do_DELETE = do  # noqa: N815

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True, args=(0.01,)).start()
        _name(monkeypatch, servers[-1].server_port)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _name(monkeypatch, port: int) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_CONFIG_FILE": os.devnull}
    for name, value in (keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}).items():
        monkeypatch.setenv(name, value)


def refusal(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>hush</Message></Error>".encode()


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (403, "RequestTimeTooSkewed", "the clocks of this machine and of .* differ by minutes"),
        (403, "SignatureDoesNotMatch", "refuses AWS_SECRET_ACCESS_KEY: set it"),
        (403, "AccessDenied", r"forbids access to s3://b/x \(AccessDenied\)"),
        (400, "ExpiredToken", "AWS_ACCESS_KEY_ID has expired: get another"),
        (400, "InvalidToken", "does not know AWS_SESSION_TOKEN"),
        (400, "AuthorizationHeaderMalformed", "in another region of .*: set AWS_DEFAULT_REGION"),
        (404, "NoSuchBucket", "there is no bucket b at"),
        (507, "XMinioStorageFull", "has no room left"),
        (507, "Unheard", "has no room left"),
    ],
)
def test_a_refusal_says_what_to_do(store, status, code, sentence):
    store(lambda _: (status, refusal(code)))
    with pytest.raises(StorageError, match=sentence) as caught:
        storage.check("s3://b/x")
    assert "hush" not in str(caught.value)
    with pytest.raises(StorageError, match=sentence):
        storage.names("s3://b/x")


@pytest.mark.parametrize(
    "refused", [(403, "SignatureDoesNotMatch"), (501, "NotImplemented"), (400, "XAmzContentSHA256Mismatch")]
)
def test_a_store_that_does_not_know_the_newer_checksums_is_written_to(store, monkeypatch, refused):
    status, code = refused

    def answer(request: http.server.BaseHTTPRequestHandler) -> tuple[int, bytes]:
        if "x-amz-sdk-checksum-algorithm" in request.headers:
            return status, refusal(code)
        return 200, LISTING if request.command == "GET" else b""

    store(answer)
    storage.check("s3://b/x", write=True)
    storage.write("s3://b/x/1", b"content")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    with pytest.raises(StorageError, match="set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"):
        storage.check("s3://b/x", write=True)


def test_a_listed_name_whose_parts_are_empty_is_not_that_of_another(store):
    keys = ["x/a.png", "x//a.png", "x/b//a.png"]

    def answer(request: http.server.BaseHTTPRequestHandler) -> tuple[int, bytes]:
        if "list-type" in request.path:
            items = "".join(f"<Contents><Key>{key}</Key><ETag>e</ETag></Contents>" for key in keys)
            return 200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode()
        return 200, request.path.encode()

    store(answer)
    for url in ("s3://b/x", "s3://b/x/"):
        assert storage.names(url) == sorted(key.removeprefix("x/") for key in keys)
        for name in storage.names(url):
            assert storage.read(storage.join(url, name)) == f"/b/x/{name}".encode()


def test_what_is_no_store_is_not_an_empty_one(store):
    store(lambda _: (200, b"<html>welcome</html>"))
    for ask in (lambda: storage.check("s3://b/x"), lambda: storage.names("s3://b/x", patience_s=0)):
        with pytest.raises(StorageError, match="is no S3 store: correct AWS_ENDPOINT_URL"):
            ask()


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"AWS_ACCESS_KEY_ID": "key\n"}, "AWS_ACCESS_KEY_ID or AWS_SESSION_TOKEN has a character"),
        ({"AWS_SESSION_TOKEN": "hush\n"}, "AWS_ACCESS_KEY_ID or AWS_SESSION_TOKEN has a character"),
        ({"AWS_DEFAULT_REGION": "us east"}, "region_name 'us east' doesn't match"),
        ({"AWS_ENDPOINT_URL": "http://host:port"}, "AWS_ENDPOINT_URL must be a URL such as"),
        ({"AWS_ENDPOINT_URL_S3": "http://[::1"}, "AWS_ENDPOINT_URL_S3 must be a URL such as"),
        ({"http_proxy": "http://127.0.0.1:1", "no_proxy": "", "NO_PROXY": ""}, "no proxy answers on the way"),
        ({"AWS_ENDPOINT_URL": "https://127.0.0.1:{port}"}, r"can't be spoken to by TLS .*: set AWS_CA_BUNDLE"),
    ],
)
def test_what_waiting_does_not_mend_is_said_at_once(store, monkeypatch, variables, sentence):
    store(lambda _: (200, LISTING))
    port = os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2]
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(port=port))
    with pytest.raises(StorageError, match=sentence) as caught:
        storage.names("s3://b/x", patience_s=0 if "http_proxy" in variables else 100)
    assert "hush" not in str(caught.value)


def test_a_name_that_no_object_can_have_is_said_at_once(store):
    store(lambda _: (200, b""))
    with pytest.raises(StorageError, match="not UTF-8: rename the file"):
        storage.write("s3://b/x/\udcff.png", b"", patience_s=100)


@pytest.fixture
def cut(monkeypatch) -> Iterator[Callable[[bytes, int], None]]:
    """Answers every request with so many bytes of an answer."""
    answer = [b""]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(1 << 16)
                    client.sendall(answer[0])

        threading.Thread(target=serve, daemon=True).start()
        _name(monkeypatch, server.getsockname()[1])

        def cut(whole: bytes, length: int) -> None:
            answer[0] = whole[:length]

        yield cut
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("ask", "body", "expected"),
    [
        (storage.names, LISTING, ["1.png"]),
        (storage.version, b"", '"9a03"'),
        (storage.read, b"content" * 9, b"content" * 9),
    ],
)
def test_an_answer_that_is_cut_off_anywhere_is_not_taken_for_a_whole_one(cut, monkeypatch, ask, body, expected):
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nContent-Type: application/xml\r\n"
        'Etag: "9a03"\r\nLast-Modified: Sun, 29 Nov 2026 18:20:00 GMT\r\nServer: store\r\n\r\n'
    )
    whole = head.encode() + body
    cut(whole, len(whole))
    assert ask("s3://b/x", patience_s=0) == expected
    for length in range(0, len(whole), 5):
        cut(whole, length)
        failure = None
        try:
            assert ask("s3://b/x", patience_s=0) == expected
        except StorageError as error:
            failure = error.__cause__
        assert failure is None or faults.is_transient(failure), length
