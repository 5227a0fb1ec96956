"""Entries of an outbox, sent to MLflow in as few requests as it allows."""

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient, entities

from srcluster.tracking.outbox import Artifact, Dataset, End, Entry, Point, Tag, UndeliveredError
from srcluster.tracking.server import is_refusal, reason

__all__ = ["deliver"]

BATCH = {Point: 1000, Tag: 100}
"""What MLflow takes in one request."""

_log = logging.getLogger(__name__)


def deliver(client: MlflowClient, run_id: str, entries: Sequence[Entry]) -> None:
    """Send entries in as few requests as MLflow allows.

    Raises:
        UndeliveredError: with those that have to be sent again.
    """
    requests = list(_requests(entries))
    for number, request in enumerate(requests):
        try:
            _send(client, run_id, request)
        except Exception as error:  # Whatever the store of artifacts raises: the caller must outlive it.
            if not is_refusal(error):
                left = [entry for waiting in requests[number:] for entry in waiting]
                raise UndeliveredError(left, reason(error)) from error
            # Kept, it would hold up everything behind it for ever.
            what = f"{len(request)} x {type(request[0]).__name__.lower()}"
            _log.error("MLflow refuses %s of run %s: %s", what, run_id, reason(error))


def _requests(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Entries grouped by request: numbers first, and artifacts last, since their store may fail by itself."""
    for kind in (Point, Tag, Dataset, End, Artifact):
        alike = [entry for entry in entries if isinstance(entry, kind)]
        size = BATCH.get(kind, 1)
        yield from (alike[i : i + size] for i in range(0, len(alike), size))


def _send(client: MlflowClient, run_id: str, request: list[Entry]) -> None:
    match request[0]:
        case Point():
            points = [entities.Metric(p.key, p.value, p.time_ms, p.step) for p in request]
            client.log_batch(run_id, metrics=points, synchronous=True)
        case Tag():
            client.log_batch(run_id, tags=[entities.RunTag(t.key, t.value) for t in request], synchronous=True)
        case Dataset(name, source, digest, context):
            scheme = urlsplit(source).scheme or "local"
            where = json.dumps({"url" if scheme.startswith("http") else "uri": source})
            dataset = entities.Dataset(name, digest, "http" if scheme.startswith("http") else scheme, where)
            tag = entities.InputTag("mlflow.data.context", context)
            client.log_inputs(run_id, [entities.DatasetInput(dataset, [tag])])
        case End(status, time_ms):
            client.set_terminated(run_id, status, time_ms)
        case Artifact(path, content):
            with tempfile.TemporaryDirectory() as root:
                folder, _, name = path.rpartition("/")
                Path(root, name).write_bytes(content)
                client.log_artifact(run_id, str(Path(root, name)), folder or None)
