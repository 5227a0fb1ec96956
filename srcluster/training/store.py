"""What a run keeps in storage, below a URL of its own: its recipe, its checkpoints, and at its end what came of it.

recipe.json                  what the run is; it never changes
lease.json                   who trains it now: see lease.py
step-00001000/...            a checkpoint; state.json comes last, and without it there is none
model.safetensors            the best network
result.json                  its metrics; with it the run is finished
result-00001000.json         the metrics at a step that it was to stop at
"""

import json
import logging
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from srcluster import storage
from srcluster.errors import UserError
from srcluster.recipe import Recipe, flatten
from srcluster.storage import StorageError

__all__ = ["RunError", "RunStore"]

_LAST = "state.json"
_NOT_KEPT = "%s is not kept, the run goes on without it: %s"

_log = logging.getLogger(__name__)


class RunError(UserError):
    """A run of that name is another one."""


class RunStore:
    """The files of one run. Checkpoints are uploaded by a thread, one at a time, so that training goes on meanwhile.

    A store that is away is waited for as long as `storage` does. A checkpoint that can't be written or uploaded is
    given up with a warning: the next is tried anew.

    Args:
        url: Where the run keeps its files.
        keep: How many of the latest checkpoints stay.
    """

    def __init__(self, url: str, keep: int = 1):
        self.url, self.keep = url, keep
        self._uploader = ThreadPoolExecutor(1, "checkpoints")
        self._uploads: list[Future] = []
        self._waiting: tempfile.TemporaryDirectory | None = None
        self._lock = threading.Lock()

    def claim(self, recipe: Recipe) -> None:
        """Begin the run of a recipe here, or continue it.

        Raises:
            RunError: The run that was begun here has another recipe.
        """
        place = storage.join(self.url, "recipe.json")
        if not storage.exists(place):
            storage.write(place, recipe.model_dump_json(indent=1).encode())
            return
        begun = Recipe.model_validate_json(storage.read(place))
        if begun.digest() != recipe.digest():
            raise RunError(
                f"the run {self.url} was begun with another recipe ({_difference(begun, recipe)}): give this one "
                "another --name, or the recipe of that one"
            )

    def result(self, stop_at_step: int | None = None) -> dict[str, float] | None:
        """The metrics of a finished run, or of one that was to stop at a step, once it did."""
        place = self._result(stop_at_step)
        return json.loads(storage.read(place)) if storage.exists(place) else None

    def finish(self, model: Path, metrics: dict[str, float]) -> None:
        """Keep the best network and its metrics; the run is finished."""
        storage.upload(model, storage.join(self.url, "model.safetensors"))
        self.stop(metrics)

    def stop(self, metrics: dict[str, float], stop_at_step: int | None = None) -> None:
        """Keep the metrics of a step that the run was to stop at."""
        storage.write(self._result(stop_at_step), json.dumps(metrics, indent=1).encode())

    def _result(self, stop_at_step: int | None) -> str:
        return storage.join(self.url, f"result-{stop_at_step:08d}.json" if stop_at_step else "result.json")

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, the latest last."""
        found = (re.fullmatch(rf"step-(\d+)/{_LAST}", name) for name in storage.names(self.url))
        return sorted(int(match[1]) for match in found if match)

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        """A folder with the latest checkpoint, if there is one, for as long as the context lasts."""
        steps = self.steps()
        with tempfile.TemporaryDirectory(prefix="srcluster-") as folder:
            if steps:
                place = self._place(steps[-1])
                for name in storage.names(place):
                    storage.download(storage.join(place, name), Path(folder, name))
            yield Path(folder) if steps else None

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Have a checkpoint written to a local folder, and upload it behind the caller's back.

        Args:
            step: Which it is.
            write: Writes it to a folder.

        Raises:
            Exception: What ended an earlier upload, other than a store that is away.
        """
        self._raise(upload for upload in self._uploads if upload.done())
        folder = tempfile.TemporaryDirectory(prefix="srcluster-")
        checkpoint = Path(folder.name, f"step-{step:08d}")
        try:
            write(checkpoint)
        except UserError as error:
            folder.cleanup()
            _log.warning(_NOT_KEPT, checkpoint.name, error)
            return
        with self._lock:
            if self._waiting:
                # The store is slower than the run: only the latest is worth the wait.
                self._waiting.cleanup()
            self._waiting = folder
        self._uploads.append(self._uploader.submit(self._upload_latest))

    def close(self) -> None:
        """Wait for what is being uploaded, and raise what `save` would."""
        self._raise(self._uploads)

    def _raise(self, uploads: Iterable[Future]) -> None:
        for upload in list(uploads):
            self._uploads.remove(upload)
            upload.result()

    def _upload_latest(self) -> None:
        with self._lock:
            folder, self._waiting = self._waiting, None
        if folder is None:
            return
        with folder:
            (checkpoint,) = Path(folder.name).iterdir()
            try:
                self._upload(checkpoint)
            except StorageError as error:
                _log.warning(_NOT_KEPT, checkpoint.name, error)

    def _upload(self, checkpoint: Path) -> None:
        for file in sorted(checkpoint.iterdir(), key=lambda file: file.name == _LAST):
            storage.upload(file, storage.join(self.url, checkpoint.name, file.name))
        for step in self.steps()[: -self.keep]:
            place = self._place(step)
            for name in sorted(storage.names(place), key=lambda name: name != _LAST):
                storage.delete(storage.join(place, name))

    def _place(self, step: int) -> str:
        return storage.join(self.url, f"step-{step:08d}")


def _difference(begun: Recipe, now: Recipe) -> str:
    """The first key in which two recipes differ, in words."""
    before, after = (flatten(recipe.model_dump(mode="json")) for recipe in (begun, now))
    key = next(key for key in before | after if before.get(key) != after.get(key))
    return f"{key} = {before.get(key, 'not set')}, and now {after.get(key, 'not set')}"
