"""What a run keeps in storage, below a URL of its own: its recipe, its checkpoints, and at its end what came of it.

recipe.json                  what the run is; only its steps change, when it is extended
lease.json                   who trains it now: see lease.py
step-00001000/...            a checkpoint: sha256.json has its files' digests; without state.json, the last, it is none
model.safetensors            the best network
result.json                  its metrics; with it the run is finished
result-00001000.json         the metrics at a step that it was to stop at, or ended at before it was extended
"""

import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from pydantic import ValidationError

from srcluster import storage
from srcluster.errors import UserError
from srcluster.recipe import NEUTRAL, Recipe, flatten
from srcluster.recipe.validation import explain
from srcluster.storage import StorageError
from srcluster.training.lease import Holder

_LAST = "state.json"
_DIGESTS = "sha256.json"

_LEASE_EVERY_S = 5.0
"""Seconds between two looks at the lease while nothing is written."""

_log = logging.getLogger(__name__)


class RunStore:
    """The files of one run. Checkpoints are uploaded by a thread, one at a time, so that training goes on meanwhile.

    They are kept in memory until then: a local disk may be full, and a process that is killed leaves nothing there.
    A store that is away is waited for as long as `storage` does. A checkpoint that can't be uploaded is given up with
    a warning: the next is tried anew.

    Args:
        url: Where the run keeps its files.
        keep: How many of the latest checkpoints stay.
        holder: Who may write the run; None where nobody else could.
    """

    def __init__(self, url: str, keep: int = 1, holder: Holder | None = None):
        self.url, self.keep, self.holder = url, keep, holder
        self.before_upload: Callable[[], None] = lambda: None
        """Called before each checkpoint is kept: what was logged until then must outlive this process."""
        self._uploader = ThreadPoolExecutor(1, "checkpoints")
        self._jobs: list[Future] = []
        self._waiting: tuple[int, dict[str, bytes]] | None = None
        self._lock = threading.Lock()
        self._looked_s = 0.0

    def claim(self, recipe: Recipe, extend: bool = False) -> Recipe:
        """Begin the run of a recipe here, or continue it.

        Args:
            recipe: The run's.
            extend: Whether the run may be a finished one of fewer steps, which `extend` lets go on.

        Returns:
            The recipe that the run has so far.

        Raises:
            UserError: The run that was begun here has another recipe, or can't be extended to this one.
        """
        url = storage.join(self.url, "recipe.json")
        if not storage.exists(url):
            if extend:
                raise UserError(f"there is no run {self.url} to extend: begin it without --extend")
            storage.write(url, recipe.model_dump_json(indent=1).encode())
            return recipe
        try:
            begun = Recipe.model_validate_json(storage.read(url))
        except ValidationError as error:
            raise UserError(
                f"the run {self.url} was begun by another version of srcluster, whose recipes have other keys "
                f"({explain(error, Recipe)}): give this run another --name"
            ) from error
        if begun.digest() == recipe.digest() or (extend and self._extensible(begun, recipe)):
            return begun
        hint = f", or --extend {recipe.steps}" * recipe.extends(begun)
        if extend:
            begun = begun.model_copy(update={"steps": recipe.steps})
        raise UserError(
            f"the run {self.url} was begun with another recipe ({_difference(begun, recipe)}): give this one another "
            f"--name, or the recipe of that one{hint}"
        )

    def _extensible(self, begun: Recipe, recipe: Recipe) -> bool:
        if not (self.result() or self.result(begun.steps)):
            raise UserError(f"the run {self.url} has not come to its end yet: extend it when it is finished")
        if recipe.steps < begun.steps:
            raise UserError(f"the run {self.url} has {begun.steps} steps already: --extend takes more than that")
        if recipe.schedule.kind == begun.schedule.kind == "cosine":
            raise UserError(
                f"the learning rate of {self.url} fell along a cosine until step {begun.steps}, so a longer run is "
                "another from its first step on: begin that from its weights, by start.weights=NAME and a new --name"
            )
        return recipe.extends(begun)

    def extend(self, begun: Recipe, recipe: Recipe) -> None:
        """Let a finished run go on to the steps of a recipe that extends its own.

        Its network stays until there is another.
        """
        self.check_lease()
        if result := self.result():
            self.stop(result, begun.steps)
        if begun.evaluation.select != "last" and begun.steps % begun.evaluation.every_steps:
            # The recipe measures no weights there: the run goes on from the checkpoint before.
            self._delete(begun.steps)
        storage.delete(self._result_url(None))
        storage.write(storage.join(self.url, "recipe.json"), recipe.model_dump_json(indent=1).encode())

    def result(self, stop_at_step: int | None = None) -> dict[str, float] | None:
        """The metrics of a finished run, or of one that was to stop at a step, once it did."""
        url = self._result_url(stop_at_step)
        return json.loads(storage.read(url)) if storage.exists(url) else None

    def finish(self, model: bytes, metrics: dict[str, float]) -> None:
        """Keep the best network and its metrics; the run is finished."""
        self.check_lease()
        storage.write(storage.join(self.url, "model.safetensors"), model)
        self.stop(metrics)

    def stop(self, metrics: dict[str, float], stop_at_step: int | None = None) -> None:
        """Keep the metrics of a step that the run was to stop at."""
        self.check_lease()
        storage.write(self._result_url(stop_at_step), json.dumps(metrics, indent=1).encode())

    def steps(self) -> list[int]:
        """Steps of the checkpoints, the latest last."""
        found = (re.fullmatch(rf"step-(\d+)/{_LAST}", name) for name in storage.names(self.url))
        return sorted(int(match[1]) for match in found if match)

    def latest(self) -> dict[str, bytes] | None:
        """The files of the latest whole checkpoint, if there is one."""
        for step in reversed(self.steps()):
            url = self._checkpoint_url(step)
            files = {name: storage.read(storage.join(url, name)) for name in storage.names(url)}
            digests = files.pop(_DIGESTS, b"")
            if digests == _digests(files):
                return files
            _log.warning("the checkpoint %s is damaged: the run goes on from the one before it, if there is one", url)
        return None

    def save(self, step: int, files: dict[str, bytes]) -> None:
        """Upload a checkpoint behind the caller's back.

        Raises:
            Exception: What `check` raises.
        """
        self.check()
        with self._lock:
            # The store may be slower than the run: only the latest is worth the wait.
            self._waiting = step, files
        self._jobs.append(self._uploader.submit(self._upload_latest))

    def check(self) -> None:
        """Look, behind the caller's back, whether the run is still this process's to write, and raise what was found.

        Raises:
            LeaseError: Another driver took the run over.
            Exception: What ended an upload, other than a store that is away.
        """
        self._raise(job for job in self._jobs if job.done())
        if time.monotonic() > self._looked_s + _LEASE_EVERY_S:
            self._looked_s = time.monotonic()
            self._jobs.append(self._uploader.submit(self._look))

    def close(self) -> None:
        """Wait for what is being uploaded, and raise what `check` would."""
        self._raise(self._jobs)

    def _raise(self, jobs: Iterable[Future]) -> None:
        for job in list(jobs):
            self._jobs.remove(job)
            job.result()

    def check_lease(self) -> None:
        """Make sure that the run is still this process's to write.

        Raises:
            LeaseError: Another driver took the run over.
        """
        if self.holder:
            self.holder.check()

    def _look(self) -> None:
        # Nobody else can write to a store that is away.
        with suppress(StorageError):
            self.check_lease()

    def _upload_latest(self) -> None:
        with self._lock:
            checkpoint, self._waiting = self._waiting, None
        if checkpoint is None:
            return
        step, files = checkpoint
        try:
            self._upload(step, files)
        except StorageError as error:
            _log.warning("the checkpoint of step %d is not kept, the run goes on without it: %s", step, error)

    def _upload(self, step: int, files: dict[str, bytes]) -> None:
        self.check_lease()
        self.before_upload()
        files = files | {_DIGESTS: _digests(files)}
        for name in sorted(files, key=lambda name: name == _LAST):
            storage.write(storage.join(self._checkpoint_url(step), name), files[name])
        self.check_lease()
        # One of a later step was damaged, since this run began before it.
        steps = self.steps()
        for old in set(steps) - set([one for one in steps if one <= step][-self.keep :]):
            self._delete(old)

    def _delete(self, step: int) -> None:
        url = self._checkpoint_url(step)
        for name in sorted(storage.names(url), key=lambda name: name != _LAST):
            storage.delete(storage.join(url, name))

    def _checkpoint_url(self, step: int) -> str:
        return storage.join(self.url, f"step-{step:08d}")

    def _result_url(self, stop_at_step: int | None) -> str:
        return storage.join(self.url, f"result-{stop_at_step:08d}.json" if stop_at_step else "result.json")


def _digests(files: dict[str, bytes]) -> bytes:
    return json.dumps({name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}).encode()


def _difference(begun: Recipe, now: Recipe) -> str:
    """The first key in which two recipes differ, in words."""
    before, after = (flatten(recipe.model_dump(mode="json")) for recipe in (begun, now))
    key = next(key for key in before | after if before.get(key) != after.get(key) and key not in NEUTRAL)
    return f"{key} = {before.get(key, 'not set')}, and now {after.get(key, 'not set')}"
