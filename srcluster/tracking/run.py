"""A run in MLflow, seen from the process that logs to it."""

import io
import posixpath
import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient, entities

from srcluster.recipe import NEUTRAL, flatten
from srcluster.tracking.delivery import deliver
from srcluster.tracking.family import KEY_TAG, PARENT_TAG, quoted, run_tags
from srcluster.tracking.names import metric_name
from srcluster.tracking.outbox import Artifact, Dataset, End, Outbox, Point, Status, Tag
from srcluster.tracking.server import PATIENCE_S, TrackingError, address, patiently

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Run", "status"]

ERROR_TAG = "srcluster.error"
"""Why the run failed."""


class Run:
    """One run in MLflow. Made by `Run.start` or `Run.attach`.

    What is logged is sent by a thread of its own, in order, a few seconds later. While the server is away it is
    kept in memory: 256 MiB of it, and what is more in a spool file in SRCLUSTER_SPOOL (or ./.srcluster/spool). So
    only `start`, `attach`, `end` and `close` wait for the server. As a context manager it ends the run, unless that
    was done inside: FINISHED, FAILED after an exception, KILLED after Ctrl-C.

    Attributes:
        id: MLflow's id of the run, for `Run.attach` in another process.
        experiment_id: MLflow's id of its experiment.
    """

    def __init__(self, client: MlflowClient, run: entities.Run):
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        # The last point of each metric in an earlier life of this run. `data.metrics` would not tell the steps.
        self._logged = {metric.key: (metric.step, metric.value) for metric in run.data._metric_objs}
        server = f"MLflow at {client.tracking_uri}"
        self._outbox = Outbox(self.id, server, lambda entries: deliver(client, self.id, entries))

    @classmethod
    def start(
        cls,
        experiment: str,
        name: str,
        *,
        key: str,
        parent: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        timeout_s: float = PATIENCE_S,
    ) -> "Run":
        """Begin a run, or continue the one that was begun with the same key.

        Args:
            experiment: name of the experiment, created where it does not exist.
            name: what the run is called in MLflow.
            key: what makes it this run and no other, within the experiment: a restarted trial has the same key.
            parent: id of the run it belongs to.
            params: what was chosen, nested as it likes: see `recipe.flatten`.
            tags: words about the run.
            timeout_s: how long a server that is away is waited for.

        Raises:
            TrackingError: the server does not answer in time, refuses, or the run has other parameters.
        """
        client = MlflowClient(address())
        words = {KEY_TAG: key, **({PARENT_TAG: parent} if parent else {}), **(tags or {})}
        flat = {metric_name(key): value for key, value in flatten(params or {}).items()}

        def begin() -> entities.Run:
            experiment_id = _experiment_id(client, experiment)
            run = _found(client, experiment_id, key) or client.create_run(experiment_id, tags=words, run_name=name)
            known = run.data.params
            changed = sorted(k for k in flat.keys() & known.keys() - NEUTRAL if flat[k] != known[k])
            if changed:
                first = changed[0]
                raise TrackingError(
                    f"run {name!r} of experiment {experiment!r} was begun with {first} = {known[first]}, and now "
                    f"has {flat[first]}: use another name, or delete that run in MLflow"
                )
            new = [entities.Param(k, flat[k]) for k in flat.keys() - known.keys()]
            client.log_batch(run.info.run_id, params=new, tags=run_tags(words), synchronous=True)
            if ERROR_TAG in run.data.tags:
                client.delete_tag(run.info.run_id, ERROR_TAG)
            client.update_run(run.info.run_id, status="RUNNING")
            return run

        return cls(client, patiently(begin, timeout_s))

    @classmethod
    def attach(cls, run_id: str, *, timeout_s: float = PATIENCE_S) -> "Run":
        """Log to a run that another process has started.

        Raises:
            TrackingError: the server does not answer in time, or has no such run.
        """
        client = MlflowClient(address())
        return cls(client, patiently(lambda: client.get_run(run_id), timeout_s))

    def log(self, metrics: Mapping[str, float], step: int, *, replace: bool = False) -> None:
        """Log values at a step; does not wait for the server.

        A run that goes on from a checkpoint passes through steps that it has logged before: they are left as
        they are, so that no step has two points. NaN is kept as NaN; infinities as the largest doubles.

        Args:
            metrics: values by name.
            step: the training step they belong to.
            replace: whether they are results, of which MLflow is to show these where an earlier life of the run had
                others at this step.
        """
        now_ms = _now_ms()
        points = (Point(metric_name(key), float(value), step, now_ms) for key, value in metrics.items())
        self._outbox.put(*(point for point in points if self._is_new(point, replace)))

    def tag(self, **tags: str) -> None:
        """Set words about the run; `tag(**{"a.b": "c"})` where the key is no identifier."""
        self._outbox.put(*(Tag(key, str(value)) for key, value in tags.items()))

    def note(self, markdown: str) -> None:
        """Set the description that MLflow shows on the run's page."""
        self.tag(**{"mlflow.note.content": markdown})

    def dataset(self, name: str, source: str, digest: str, context: str) -> None:
        """Say which data the run read.

        Args:
            name: such as "Set5".
            source: its URL or folder.
            digest: which version of it.
            context: what for: "train" or "test".
        """
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
        stem = f"images/{name.replace('/', '~')}+step+{step}+timestamp+{_now_ms()}+{uuid.uuid4()}"
        preview = picture.copy()
        preview.thumbnail((256, 256))
        self.image(picture, f"{stem}.png")
        self._keep(f"{stem}+compressed.webp", _encoded(preview, "WEBP"))
        self.tag(**{"mlflow.loggedImages": "True"})

    @property
    def ended(self) -> bool:
        """Whether this process can log to it no more."""
        return self._outbox.closed

    def flush(self) -> None:
        """Send at once what would be sent in a few seconds, without waiting for it.

        For a process that may be killed at any moment now, as a scheduler stops a trial after an evaluation.
        """
        self._outbox.flush()

    def end(self, status: Status = "FINISHED", *, timeout_s: float = 60) -> Path | None:
        """End the run and send what is left.

        Args:
            status: how it ended.
            timeout_s: how long a server that is away is waited for.

        Returns:
            None, or the spool file with what the server did not get; a warning in the log says how to send it.
        """
        self._outbox.put(End(status, _now_ms()))
        return self.close(timeout_s=timeout_s)

    def fail(self, reason: str) -> Path | None:
        """End the run as FAILED, and say why in a tag, which is there until the run is continued; as `end`."""
        self.tag(**{ERROR_TAG: reason})
        return self.end("FAILED")

    def close(self, *, timeout_s: float = 60) -> Path | None:
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
        self._outbox.put(Artifact(re.sub("[?#%]", "_", path), content))

    def _is_new(self, point: Point, replace: bool) -> bool:
        last = self._logged.get(point.key)
        return last is None or point.step > last[0] or (replace and point.step == last[0] and point.value != last[1])


def status(experiment: str, key: str) -> str:
    """RUNNING, FINISHED, FAILED or KILLED, of the run that was begun with this key; empty where there is none.

    Raises:
        TrackingError: the server does not answer in time, or refuses.
    """
    client = MlflowClient(address())

    def ask() -> str:
        place = client.get_experiment_by_name(experiment)
        run = _found(client, place.experiment_id, key) if place else None
        return run.info.status if run else ""

    return patiently(ask, PATIENCE_S)


def _found(client: MlflowClient, experiment_id: str, key: str) -> entities.Run | None:
    return next(iter(client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = {quoted(key)}", max_results=1)), None)


def _experiment_id(client: MlflowClient, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return client.create_experiment(name)
    if experiment.lifecycle_stage != "active":
        raise TrackingError(f"experiment {name!r} is deleted in MLflow: restore it, or use another name")
    return experiment.experiment_id


def _encoded(picture: "Image", kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
