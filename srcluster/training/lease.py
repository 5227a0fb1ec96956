"""A lease on a run's name, so that never two drivers write one run: an attempt that is tried again while the one before
it still lives, or two people.

lease.json says who holds it, and changes with every beat of its holder. A write succeeds only if nobody else wrote
meanwhile. No clock is compared with another: who waits counts its own looks at a file that stays the same.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from srcluster import storage
from srcluster.errors import UserError
from srcluster.storage import ConflictError, StorageError

_BEAT_S = float(os.environ.get("SRCLUSTER_LEASE_BEAT_S", "5"))
"""Of both the holder and who waits; the tests shorten it."""
_PATIENCE_S = 10.0
_LOOKS = 6
"""Looks, a beat apart, after which a holder that was not seen to beat is taken for dead."""


class LeaseError(UserError):
    """Another driver has taken the run over."""


@dataclass(frozen=True)
class Holder:
    """Who holds the lease of a URL; its workers are told, and write to the run only for as long as it does."""

    url: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def check(self) -> None:
        """Make sure that the run is still this holder's to write.

        Raises:
            LeaseError: Another took it over, or this one gave it up.
        """
        _, content = self.read()
        if content.get("id") != self.id:
            raise self.lost_to(content)

    def read(self, patience_s: float = storage.PATIENCE_S) -> tuple[str, dict]:
        """The version of the lease and what it says; both are empty where nobody holds it."""
        url = self.file
        while version := storage.version(url, patience_s=patience_s):
            try:
                return version, json.loads(storage.read(url, patience_s=patience_s))
            except StorageError:
                # It may have been given up between the two, and taken by another since.
                if storage.version(url, patience_s=patience_s) == version:
                    raise
        return "", {}

    @property
    def file(self) -> str:
        return storage.join(self.url, "lease.json")

    def lost_to(self, content: dict) -> LeaseError:
        # Only a successor that has ended removes it.
        who = content.get("who", "a driver that has ended since")
        return LeaseError(
            f"{self.url} was taken over by {who} while this process could not be heard: leave it to that one"
        )


class Lease:
    """The right to write a run, held while the context lasts.

    To enter waits for as long as another holds it.

    Args:
        url: Where the run keeps its files.
        log: Is given a line if it has to wait.
        beat_s: Seconds between two signs of life.
    """

    def __init__(self, url: str, log: Callable[[str], None], *, beat_s: float = _BEAT_S):
        self.holder = Holder(url)
        self._log, self._beat_s = log, beat_s
        self._ended = threading.Event()
        self._lost: LeaseError | None = None
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        self._conditional = storage.honours_conditions(self.holder.url)
        if not self._conditional:
            self._log(
                f"the store of {self.holder.url} knows no conditional writes (If-None-Match, If-Match): two drivers "
                f"that begin this run within {self._beat_s:g} s are noticed only after that"
            )
        while True:
            with suppress(ConflictError):
                self._write(0, self._wait())
                break
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        # In a store that is away, it stays until it was silent for long enough.
        with suppress(StorageError):
            self._look()
            if not self._lost:
                storage.delete(self.holder.file, patience_s=_PATIENCE_S)

    def check(self) -> None:
        """Make sure that the run is still this process's to write, by what the last beat found.

        Raises:
            LeaseError: Another took it over, since this one gave no sign of life.
        """
        if self._lost:
            raise self._lost

    def _wait(self) -> str:
        """The version of the lease to replace, once nobody holds it."""
        (version, seen), looks = self.holder.read(), 0
        if seen and seen["id"] != self.holder.id:
            self._log(
                f"{self.holder.url} is held by {seen['who']}: waiting until that ends, or was silent for "
                f"{_LOOKS * self._beat_s:.0f} s"
            )
        while seen and seen["id"] != self.holder.id and looks < _LOOKS:
            time.sleep(self._beat_s)
            version, now = self.holder.read()
            seen, looks = now, looks + 1 if now == seen else 0
        return version

    def _beat(self) -> None:
        beats = 0
        while not (self._lost or self._ended.wait(self._beat_s)):
            # Nobody else can write to a store that is away; a conflict is looked at with the next beat.
            with suppress(StorageError):
                version = self._look()
                if not self._lost:
                    self._write(beats := beats + 1, version)

    def _look(self) -> str:
        """The version of the lease, whoever holds it."""
        version, content = self.holder.read(_PATIENCE_S)
        if content.get("id") != self.holder.id:
            self._lost = self.holder.lost_to(content)
        return version

    def _write(self, beats: int, version: str) -> None:
        who = f"process {os.getpid()} on {socket.gethostname()}"
        content = json.dumps({"id": self.holder.id, "who": who, "beats": beats}).encode()
        expected = version if self._conditional else None
        storage.write(self.holder.file, content, expected=expected, patience_s=_PATIENCE_S)
