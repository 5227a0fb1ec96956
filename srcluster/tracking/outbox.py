"""What a run logs, on its way to a server that may be away.

Entries are put into memory, and one thread sends them. While the server is away they stay there; with each checkpoint,
at the end, and where they grow too many, they are written to files in storage: `000001-5f0c3a9e.jsonl` and so on, the
run's spec in the first line. Whoever opens the outbox of that URL next sends these first. So a process that is killed
loses only what it logged since its last checkpoint, and logs that again when it goes on from there.
"""

import atexit
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srcluster import storage
from srcluster.storage import StorageError
from srcluster.tracking.entries import ALIVE_TAG, Artifact, Entry, Tag, from_line, to_line

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How often an outbox does what, and how much it keeps in memory."""

    flush_s: float = 2.0
    """Between two deliveries while the server answers."""
    retry_s: float = 15.0
    """Between two attempts, at most, while it does not."""
    beat_s: float = 60.0
    """Between two signs of life."""
    memory_bytes: int = 64 << 20
    """Kept in memory; what is more goes to storage."""


PACE = Pace()


class Outbox:
    """The entries of one run that have not arrived yet.

    Args:
        spec: Says which run it is, to the process that sends these entries later.
        url: Where unsent entries are kept; without one, what can't be sent by the end is lost, with a count.
        send: Sends entries, `late` where they come from storage; returns those to send again, and why. It may be given
            an entry twice, where the first attempt arrived and its answer did not.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        url: str,
        send: Callable[[Sequence[Entry], bool], tuple[list[Entry], str]],
        *,
        beats: bool = False,
        pace: Pace = PACE,
    ):
        self._spec, self._url, self._send, self._pace = spec, url, send, pace
        self._name = spec.get("key", "")
        self._writer = uuid.uuid4().hex[:8]
        self._pending: list[Entry] = []
        self._stored = bool(url)  # There may be something of an earlier process.
        self._away = ""
        self._next_beat_s = 0.0 if beats else float("inf")
        self._closing = self._abandoned = False
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"outbox-{self._name}", daemon=True)
        self._thread.start()
        # A process that ends by an exception, and forgets its runs, still sends what it knows.
        atexit.register(self.close, timeout_s=5)

    def put(self, *entries: Entry) -> None:
        """Queue entries; never waits for the server."""
        with self._lock:
            if self._closing:
                raise RuntimeError("the run has ended: nothing can be logged to it any more")
            self._pending.extend(entries)

    @property
    def closed(self) -> bool:
        return self._closing

    def flush(self) -> None:
        """Send now rather than in a few seconds; does not wait for it."""
        self._wake.set()

    def save(self) -> None:
        """Return once the server or the storage has what this process put, and what others of the run stored."""
        with self._turn:
            self._stored = bool(self._url)
            if not self._away:
                self._attempt()
            self._store()

    def close(self, timeout_s: float) -> bool:
        """Send what is left, or keep it in storage; nothing can be put afterwards.

        Returns:
            Whether the server has everything; one that is away is waited for `timeout_s`.
        """
        with self._lock:
            if self._closing:
                return not self._stored
            self._closing = True
            self._stored = bool(self._url)  # Of processes of the run that ended before this one.
        self._wake.set()
        atexit.unregister(self.close)
        try:
            self._thread.join(timeout_s)
        finally:  # A second Ctrl-C ends the waiting and loses nothing.
            with self._lock:
                self._abandoned = True
            self._store(patience_s=10)
            if self._stored:
                _log.warning(
                    "MLflow did not answer in time; what run %s logged is kept in %s: the next driver of this run "
                    "sends it, or `python -m srcluster.tracking %s`",
                    *(self._name, self._url, self._url.removesuffix("/unsent")),
                )
        return not self._stored

    def _work(self) -> None:
        pause_s = self._pace.flush_s
        while not (self._abandoned or (self._closing and not self._stored and not self._pending)):
            self._wake.wait(min(pause_s, 1.0) if self._closing else pause_s)
            self._wake.clear()
            with self._turn:
                self._attempt()
            pause_s = min(2 * pause_s, self._pace.retry_s) if self._away else self._pace.flush_s

    def _attempt(self) -> None:
        """Send what is in storage, and then what is in memory."""
        with self._lock:
            # They stay in memory until they have arrived: `close` may have to store them meanwhile.
            entries = list(self._pending)
        beat = []
        if time.monotonic() >= self._next_beat_s:
            self._next_beat_s = time.monotonic() + self._pace.beat_s
            beat = [Tag(ALIVE_TAG, str(int(time.time())))]
        left, away = entries, self._send_stored() if self._stored else ""
        if not away:
            left, away = self._send([*entries, *beat], False) if entries or beat else ([], "")
        with self._lock:
            if self._abandoned:
                return
            self._pending[: len(entries)] = [entry for entry in left if entry not in beat]
            full = sum(map(_size, self._pending)) > self._pace.memory_bytes
        if away and not self._away:
            _log.warning("MLflow is away (%s); what run %s logs is kept", away, self._name)
        elif self._away and not away:
            _log.info("MLflow is back; what run %s logged meanwhile has arrived", self._name)
        self._away = away
        if away and full:
            self._store()

    def _send_stored(self) -> str:
        """Send and remove the files in storage; returns what prevents it, or nothing."""
        try:
            for name in storage.names(self._url):
                file = storage.join(self._url, name)
                try:
                    entries = read_entries(file)
                except StorageError:
                    if storage.exists(file):
                        raise
                    continue  # Another process of the run has sent it.
                except (ValueError, KeyError, TypeError) as error:
                    _log.error("%s can't be understood, and is left as it is: %s", file, error)
                    continue
                _, away = self._send(entries, True)
                if away:
                    return away
                storage.delete(file)
        except StorageError as error:
            return str(error)
        self._stored = False
        return ""

    def _store(self, patience_s: float = storage.PATIENCE_S) -> None:
        """Move what is in memory to storage."""
        with self._lock:
            entries, self._pending = self._pending, []
        if not entries:
            return
        try:
            if not self._url:
                raise StorageError("it has no place in storage")
            names = storage.names(self._url, patience_s=patience_s)
            number = max((int(name[:6]) for name in names if name[:6].isdigit()), default=0) + 1
            file = storage.join(self._url, f"{number:06d}-{self._writer}.jsonl")
            lines = [json.dumps(self._spec) + "\n", *map(to_line, entries)]
            storage.write(file, "".join(lines).encode(), patience_s=patience_s)
            self._stored = True
        except StorageError as error:
            if self._closing or sum(map(_size, entries)) > 4 * self._pace.memory_bytes:
                _log.error("%d entries of run %s are lost: %s; %s", len(entries), self._name, self._away, error)
                return
            with self._lock:
                self._pending = entries + self._pending


def read_entries(file: str) -> list[Entry]:
    _, *lines = storage.read(file).decode().splitlines()
    return list(map(from_line, lines))


def _size(entry: Entry) -> int:
    """Bytes of memory, roughly."""
    match entry:
        case Artifact(_, content):
            return len(content)
        case Tag(_, value):
            return 256 + len(value)
    return 256
