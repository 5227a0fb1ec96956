"""What a run logs, on its way to a tracking server that may be away.

A training must neither wait for the server nor lose what it measured. So entries are put into a buffer, which
one daemon thread empties; while the server is away they stay in the buffer, and what could not be sent by the
end goes to a spool file for later. This module knows no server: `deliver` is the door to it.
"""

import atexit
import base64
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Artifact", "Dataset", "End", "Entry", "Outbox", "Point", "Status", "Tag", "UndeliveredError", "read_spool"]

Status = Literal["FINISHED", "FAILED", "KILLED"]

FLUSH_S = 2.0
"""Seconds between two deliveries while the server answers."""

LONGEST_PAUSE_S = 15.0
"""Seconds between two attempts, at most, while it does not."""

BATCH = 1000
"""Entries that are not kept waiting for the next flush."""

BUFFER_BYTES = 256 << 20
"""What a run keeps in memory for an absent server (about a million points); beyond it, it writes a spool file."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """One value of a metric."""

    key: str
    value: float
    step: int
    time_ms: int


@dataclass(frozen=True)
class Tag:
    """A word about the run; the last value of a key counts."""

    key: str
    value: str


@dataclass(frozen=True)
class Artifact:
    """A file of the run: its path inside the run and its bytes."""

    path: str
    content: bytes


@dataclass(frozen=True)
class Dataset:
    """A data set that the run read: what it is called, where it lies, which version, and what it was for."""

    name: str
    source: str
    digest: str
    context: str


@dataclass(frozen=True)
class End:
    """The end of the run."""

    status: Status
    time_ms: int


Entry = Point | Tag | Artifact | Dataset | End


class UndeliveredError(Exception):
    """The server is away.

    Args:
        entries: what it did not get, in order.
        reason: what became of the attempt, in a few words.
    """

    def __init__(self, entries: Sequence[Entry], reason: str):
        super().__init__(reason)
        self.entries = entries
        self.reason = reason


class Outbox:
    """The entries of one run that have not arrived yet.

    Args:
        run_id: the run they belong to.
        server: what the server is called in the log.
        deliver: sends entries; raises `UndeliveredError` with what has to be tried again. Entries may be sent twice,
            when an attempt arrived and its answer did not, so that receiving one twice must do no harm.
    """

    def __init__(self, run_id: str, server: str, deliver: Callable[[Sequence[Entry]], None]):
        self._run_id = run_id
        self._server = server
        self._deliver = deliver
        folder = os.environ.get("SRCLUSTER_SPOOL") or ".srcluster/spool"
        self._spool = Path(folder).absolute() / f"{run_id}.jsonl"
        self._pending: list[Entry] = []
        self._bytes = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, name=f"outbox-{run_id}", daemon=True)
        self._thread.start()
        # A process that ends by an exception, and forgets its runs, still sends what it knows.
        atexit.register(self.close, timeout_s=5)

    def put(self, *entries: Entry) -> None:
        """Queue entries; never waits for the server."""
        with self._lock:
            if self._closing:
                raise RuntimeError("the run has ended: nothing can be logged to it any more")
            before = len(self._pending)
            self._pending.extend(entries)
            self._bytes += sum(map(_size, entries))
        if before < BATCH <= before + len(entries):
            self._wake.set()

    @property
    def closed(self) -> bool:
        return self._closing

    def flush(self) -> None:
        """Deliver now rather than after `FLUSH_S`; does not wait for it."""
        self._wake.set()

    def close(self, timeout_s: float) -> Path | None:
        """Send what is left; nothing can be put afterwards.

        Args:
            timeout_s: how long to wait for a server that is away.

        Returns:
            The spool file, if one holds entries that were not sent.
        """
        with self._lock:
            self._closing = True
        self._wake.set()
        atexit.unregister(self.close)
        try:
            self._thread.join(timeout_s)
        finally:  # A second Ctrl-C ends the waiting and loses nothing.
            with self._lock:
                self._abandoned = True
            self._spill()
        return self._spool if self._spool.exists() else None

    def _work(self) -> None:
        pause_s, away = FLUSH_S, False
        while not (self._abandoned or (self._closing and not self._pending)):
            self._wake.wait(min(pause_s, 1.0) if self._closing else pause_s)
            self._wake.clear()
            with self._lock:
                # They stay in the buffer until they have arrived: close() may have to spool them meanwhile.
                entries = list(self._pending)
            if not entries:
                continue
            reason = ""
            try:
                self._deliver(entries)
                left: Sequence[Entry] = ()
            except UndeliveredError as error:
                left, reason = error.entries, error.reason
            sent_bytes = sum(map(_size, entries)) - sum(map(_size, left))
            with self._lock:
                if self._abandoned:
                    return
                self._pending[: len(entries)] = left
                self._bytes -= sent_bytes
            if not reason:
                if away:
                    _log.info("%s is back; what run %s logged meanwhile has arrived", self._server, self._run_id)
                pause_s, away = FLUSH_S, False
                continue
            if not away:
                _log.warning("%s is away (%s); what run %s logs is kept", self._server, reason, self._run_id)
            pause_s, away = min(2 * pause_s, LONGEST_PAUSE_S) if away else 1.0, True
            if self._bytes > BUFFER_BYTES:
                self._spill()

    def _spill(self) -> None:
        """Move the buffer into the spool file."""
        with self._lock:
            entries, self._pending, self._bytes = self._pending, [], 0
        if not entries:
            return
        try:
            self._spool.parent.mkdir(parents=True, exist_ok=True)
            with self._spool.open("a") as file:
                file.writelines(_to_line(self._run_id, entry) for entry in entries)
        except OSError as error:
            _log.error("%d entries of run %s are lost: %s", len(entries), self._run_id, error)
            return
        _log.warning(
            "%s did not answer in time; %d entries of run %s are in %s: send them with "
            "`python -m srcluster.tracking %s`",
            *(self._server, len(entries), self._run_id, self._spool, self._spool),
        )


def read_spool(lines: Iterable[str]) -> dict[str, list[Entry]]:
    """The entries of a spool file, by run id.

    Raises:
        ValueError: a line that no outbox wrote.
    """
    entries: dict[str, list[Entry]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            run_id, kind, fields = json.loads(line)
            if kind == Artifact.__name__:
                fields["content"] = base64.b64decode(fields["content"])
            entry = {cls.__name__: cls for cls in (Point, Tag, Artifact, Dataset, End)}[kind](**fields)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} is not an entry of a run") from error
        entries.setdefault(run_id, []).append(entry)
    return entries


def _to_line(run_id: str, entry: Entry) -> str:
    fields = asdict(entry)
    if isinstance(entry, Artifact):
        fields["content"] = base64.b64encode(entry.content).decode()
    return json.dumps([run_id, type(entry).__name__, fields]) + "\n"


def _size(entry: Entry) -> int:
    """Bytes of memory, roughly."""
    return len(entry.content) if isinstance(entry, Artifact) else 256
