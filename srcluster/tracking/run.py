"""A run in MLflow, seen from the process that logs to it."""

import functools
import io
import json
import posixpath
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient, entities
from mlflow.exceptions import MlflowException

from srcluster import storage
from srcluster.recipe import flatten
from srcluster.tracking.entries import Artifact, Dataset, End, Entry, Point, Status, Tag, deliver
from srcluster.tracking.names import metric_name
from srcluster.tracking.outbox import PACE, Outbox, Pace
from srcluster.tracking.runs import ERROR_TAG, RunSpec
from srcluster.tracking.server import PATIENCE_S, AwayError, address, patiently, reason

if TYPE_CHECKING:
    from PIL.Image import Image

_UNSENT = re.compile(r"(^|/)unsent/[^/]+\.jsonl$")


class Run:
    """One run in MLflow. Made by `Run.start` or `Run.attach`.

    What is logged is sent by a thread of its own, in order, a few seconds later, and kept while the server is away: see
    `Outbox`. Only `start`, `id`, `end` and `close` wait for the server. As a context manager it ends the run, unless
    that was done inside: FINISHED, FAILED after an exception, KILLED after Ctrl-C.

    Attributes:
        spec: Which run it is, for `Run.attach` in another process.
    """

    def __init__(
        self,
        spec: RunSpec,
        url: str,
        begin: Callable[[MlflowClient], entities.Run],
        *,
        timeout_s: float = 0,
        beats: bool = False,
        pace: Pace = PACE,
    ):
        self.spec = spec
        self._client, self._begin = MlflowClient(address()), begin
        self._info: entities.RunInfo | None = None
        self._lock = threading.Lock()
        self._last: dict[str, tuple[int, float]] | None = None
        """Step and value of each metric's last point; None where MLflow is to be asked."""
        try:
            patiently(self._connect, timeout_s)
        except AwayError:
            if timeout_s:
                raise
        unsent = storage.join(url, "unsent") if url else ""
        self._outbox = Outbox(asdict(spec), unsent, self._send, beats=beats, pace=pace)

    @classmethod
    def start(
        cls,
        experiment: str,
        name: str,
        *,
        key: str,
        parent: str = "",
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        url: str = "",
        timeout_s: float = PATIENCE_S,
        pace: Pace = PACE,
    ) -> "Run":
        """Begin a run, or continue the one that was begun with the same key; until it ends, it gives signs of life.

        `RunSpec` says what makes a run; `params` may be nested, see `recipe.flatten`. What can't be sent is kept in
        `unsent/` of the `url` where the run has its files, and sent by the next process that opens the run. A server
        that is away is waited for; with a `timeout_s` of 0 the run goes on without it, and begins when it is back.

        Raises:
            UserError: The server does not answer in time, refuses, or the run has other parameters.
        """
        # MLflow cuts longer values.
        flat = {metric_name(key): value[:6000] for key, value in flatten(params or {}).items()}
        spec = RunSpec(experiment, key, name, parent, flat, dict(tags or {}))
        begin = functools.partial(spec.begin, reopen=True)
        return cls(spec, url, begin, timeout_s=timeout_s, beats=True, pace=pace)

    @classmethod
    def attach(cls, spec: RunSpec, url: str = "", *, pace: Pace = PACE) -> "Run":
        """Log to a run that another process has started, or will once the server is back."""

        def find(client: MlflowClient) -> entities.Run:
            if run := spec.find(client):
                return run
            raise MlflowException(f"there is no run {spec.key} of experiment {spec.experiment!r} yet")

        return cls(spec, url, find, pace=pace)

    @property
    def id(self) -> str:
        """MLflow's id of the run; waits for the server where it has not begun.

        Raises:
            UserError: The server does not answer in time, or refuses.
        """
        return self._begun().run_id

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the run's experiment; waits as `id`."""
        return self._begun().experiment_id

    def log(self, metrics: Mapping[str, float], step: int, *, replace: bool = False) -> None:
        """Log values at a step; does not wait for the server.

        A run that goes on from a checkpoint passes through steps that it has logged before: they are left as
        they are, so that no step has two points. NaN is kept as NaN; infinities as the largest doubles.

        With `replace` they are results: MLflow shows these where an earlier life of the run had others at this step.
        """
        now_ms = _now_ms()
        self._outbox.put(*(Point(metric_name(k), float(v), step, now_ms, replace) for k, v in metrics.items()))

    def tag(self, **tags: str) -> None:
        """Set tags; `tag(**{"a.b": "c"})` where the key is no identifier."""
        self._outbox.put(*(Tag(key, str(value)) for key, value in tags.items()))

    def note(self, markdown: str) -> None:
        """Set the description that MLflow shows on the run's page."""
        self.tag(**{"mlflow.note.content": markdown})

    def dataset(self, name: str, source: str, digest: str, context: str) -> None:
        """Say which data the run read: its URL or folder, which version, and what for: "train" or "test"."""
        self._outbox.put(Dataset(name, source, digest, context))

    def text(self, text: str, path: str) -> None:
        """Keep a text file, such as "recipe.yaml", among the run's artifacts."""
        self._keep(path, text.encode())

    def image(self, picture: "Image", path: str) -> None:
        """Keep a picture as a PNG file, such as "Set5/baby.png", among the run's artifacts."""
        self._keep(path, _encoded(picture, "PNG"))

    def image_at(self, picture: "Image", name: str, step: int) -> None:
        """Keep a picture of a series, such as "Set5/baby" at each evaluation.

        MLflow shows it among the run's artifacts and, with a slider for the step, in an image grid, which is added to
        its page of charts.
        """
        # The names by which MLflow's page of charts knows such a picture, and its preview.
        stem = f"images/{metric_name(name).replace('/', '~')}+step+{step}+timestamp+{_now_ms()}+{uuid.uuid4()}"
        preview = picture.copy()
        preview.thumbnail((256, 256))
        self.image(picture, f"{stem}.png")
        self._keep(f"{stem}+compressed.webp", _encoded(preview, "WEBP"))
        self.tag(**{"mlflow.loggedImages": "True"})

    def flush(self) -> None:
        """Send at once what would be sent in a few seconds, without waiting for it."""
        self._outbox.flush()

    def save(self) -> None:
        """Make sure that what was logged outlives this process: return once MLflow or the storage has it."""
        self._outbox.save()

    def end(self, status: Status = "FINISHED", *, timeout_s: float = 60) -> bool:
        """End the run and send what is left; whether all of it arrived before `timeout_s`: the rest is kept."""
        self._outbox.put(End(status, _now_ms()))
        return self.close(timeout_s=timeout_s)

    def fail(self, reason: str) -> bool:
        """End the run as FAILED, and say why in a tag, which is there until the run is continued; as `end`."""
        self.tag(**{ERROR_TAG: reason})
        return self.end("FAILED")

    def close(self, *, timeout_s: float = 60) -> bool:
        """Send what is left and leave the run as it is, for the process that started it to end; as `end`."""
        return self._outbox.close(timeout_s)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._outbox.closed:
            return
        if kind is None:
            self.end("FINISHED")
        elif issubclass(kind, Exception):
            self.end("FAILED")
        else:
            self.end("KILLED", timeout_s=10)

    def _keep(self, path: str, content: bytes) -> None:
        if path == "." or posixpath.normpath(path) != path or path.startswith(("/", "..")):
            raise ValueError(f"not a path inside a run: {path!r}")
        # MLflow puts the path into a URL as it is: the rest of the name would be lost.
        self._outbox.put(Artifact(re.sub(r"[?#%\\\x00-\x1f\x7f\ud800-\udfff]", "_", path), content))

    def _begun(self) -> entities.RunInfo:
        return self._info or patiently(self._connect)

    def _connect(self) -> entities.RunInfo:
        """Find or begin the run, and ask what it has."""
        with self._lock:
            run = self._client.get_run(self._info.run_id) if self._info else self._begin(self._client)
            self._info = run.info
            # `data.metrics` would not tell the steps.
            self._last = {metric.key: (metric.step, metric.value) for metric in run.data._metric_objs}
            return run.info

    def _send(self, entries: Sequence[Entry], late: bool) -> tuple[list[Entry], str]:
        """Deliver what MLflow does not have; returns what is left, and why."""
        try:
            # A result may be told by another process of the run as well.
            if late or self._last is None or any(isinstance(entry, Point) and entry.result for entry in entries):
                self._connect()
        except Exception as error:  # Also what MLflow refuses: the run may be restored.
            return list(entries), reason(error)
        assert self._last is not None
        last, new = dict(self._last), []
        for entry in entries:
            if isinstance(entry, Point):
                step, value = last.get(entry.key, (-1, 0.0))
                if entry.step < step or (entry.step == step and not (entry.result and entry.value != value)):
                    continue
                last[entry.key] = entry.step, entry.value
            new.append(entry)
        left, away = deliver(self._client, self.id, new, late=late)
        self._last = None if away else last
        return left, away


def send_unsent(url: str, *, timeout_s: float = PATIENCE_S) -> dict[str, bool]:
    """Send what runs below a URL had to leave in storage, up to the first of which not all arrives in time.

    Returns:
        By the runs' keys, whether all of it arrived.
    """
    files = {name.rpartition("unsent/")[0]: name for name in storage.names(url) if _UNSENT.search(name)}
    sent: dict[str, bool] = {}
    for folder, file in files.items():
        header, _, _ = storage.read(storage.join(url, file)).partition(b"\n")
        spec = RunSpec(**json.loads(header))
        run = Run(spec, storage.join(url, folder), functools.partial(spec.begin, reopen=False))
        sent[spec.key] = run.close(timeout_s=timeout_s)
        if not sent[spec.key]:
            break
    return sent


def _encoded(picture: "Image", kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
