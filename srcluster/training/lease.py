"""A lease on a run's name, so that never two drivers write one run: an attempt that is tried again while the one before
it still lives, or two people.

lease.json says who holds it, and changes with every beat of its holder. Nobody's clock is compared with another's: who
waits counts its own looks at a file that stays the same.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

from srcluster import storage
from srcluster.errors import UserError
from srcluster.storage import StorageError

__all__ = ["Lease", "LeaseError"]

_BEAT_S = 5.0
_PATIENCE_S = 10.0
_LOOKS = 6
"""Looks, a beat apart, after which a holder that was not seen to beat is taken for dead."""


class LeaseError(UserError):
    """Another driver has taken the run over."""


class Lease:
    """The right to write a run, held while the context lasts.

    To enter waits for as long as another holds it.

    Args:
        url: Where the run keeps its files.
        tell: Is told, in one line, if it has to wait.
        beat_s: Seconds between two signs of life.
    """

    def __init__(self, url: str, tell: Callable[[str], None], *, beat_s: float = _BEAT_S):
        self._url, self._place = url, storage.join(url, "lease.json")
        self._tell, self._beat_s = tell, beat_s
        self._holder = {"id": uuid.uuid4().hex, "who": f"process {os.getpid()} on {socket.gethostname()}"}
        self._ended = threading.Event()
        self._successor = ""
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        self._wait()
        self._write(0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        # In a store that is away, it stays until it was silent for long enough.
        with suppress(StorageError):
            if self._is_mine():
                storage.delete(self._place, patience_s=_PATIENCE_S)

    def check(self) -> None:
        """Make sure that the run is still this process's to write.

        Raises:
            LeaseError: Another took it over, since this one gave no sign of life.
        """
        if self._successor:
            raise LeaseError(
                f"{self._url} was taken over by {self._successor} while this process could not be heard: "
                "leave it to that one"
            )

    def _wait(self) -> None:
        seen, looks = self._read(), 0
        if seen:
            self._tell(
                f"{self._url} is held by {seen['who']}: waiting until that ends, or was silent for "
                f"{_LOOKS * self._beat_s:.0f} s"
            )
        while seen and looks < _LOOKS:
            time.sleep(self._beat_s)
            now = self._read()
            seen, looks = now, looks + 1 if now == seen else 0

    def _beat(self) -> None:
        beats = 0
        while not self._ended.wait(self._beat_s):
            # Nobody else can write to a store that is away.
            with suppress(StorageError):
                if not self._is_mine():
                    return
                self._write(beats := beats + 1)

    def _is_mine(self) -> bool:
        holder = self._read(_PATIENCE_S)
        if holder and holder["id"] != self._holder["id"]:
            self._successor = holder["who"]
        return not self._successor

    def _read(self, patience_s: float = storage.PATIENCE_S) -> dict:
        while storage.exists(self._place, patience_s=patience_s):
            try:
                return json.loads(storage.read(self._place, patience_s=patience_s))
            except StorageError:
                # It may have been given up between the two.
                if storage.exists(self._place, patience_s=patience_s):
                    raise
        return {}

    def _write(self, beats: int) -> None:
        holder = json.dumps(self._holder | {"beats": beats})
        storage.write(self._place, holder.encode(), patience_s=_PATIENCE_S)
