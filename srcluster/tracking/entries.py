"""What a run logs: its entries, as lines of a file and as requests to MLflow."""

import base64
import itertools
import json
import logging
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from mlflow import MlflowClient, entities

from srcluster.tracking.server import is_refusal, reason

Status = Literal["FINISHED", "FAILED", "KILLED"]

ALIVE_TAG = "srcluster.alive"
"""When the process that began the run last lived: seconds since 1970."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """One value of a metric; a result replaces another value at its step."""

    key: str
    value: float
    step: int
    time_ms: int
    result: bool = False


@dataclass(frozen=True)
class Tag:
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
    status: Status
    time_ms: int


Entry = Point | Tag | Artifact | Dataset | End

_KINDS = {kind.__name__: kind for kind in (Point, Tag, Dataset, End, Artifact)}
"""In the order of requests: artifacts last, since their store may fail by itself."""

_BATCH = {"Point": 1000, "Tag": 100}
"""What MLflow takes in one request."""


def to_line(entry: Entry) -> str:
    fields = asdict(entry)
    if isinstance(entry, Artifact):
        fields["content"] = base64.b64encode(entry.content).decode()
    return json.dumps([type(entry).__name__, fields]) + "\n"


def from_line(line: str) -> Entry:
    kind, fields = json.loads(line)
    if kind == Artifact.__name__:
        fields["content"] = base64.b64decode(fields["content"])
    return _KINDS[kind](**fields)


def deliver(
    client: MlflowClient, run_id: str, entries: Sequence[Entry], *, late: bool = False
) -> tuple[list[Entry], str]:
    """Send entries in as few requests as MLflow allows; sent twice, they are there once.

    Those that are `late` may be of a process that is gone: its `End` counts where the run has not ended or gone on.

    Returns:
        What has to be sent again, and why: nothing, unless MLflow is away.
    """
    requests = deque(_requests(entries))
    while requests:
        request = requests.popleft()
        try:
            _send(client, run_id, request, late)
        except Exception as error:  # Whatever the store of artifacts raises: the caller must outlive it.
            if not is_refusal(error):
                return [*request, *itertools.chain.from_iterable(requests)], reason(error)
            if len(request) > 1:
                requests.extendleft([entry] for entry in reversed(request))
            else:
                # Kept, it would hold up everything behind it for ever.
                _log.error("MLflow refuses a %s of run %s: %s", type(request[0]).__name__, run_id, reason(error))
    return [], ""


def _requests(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    for name, kind in _KINDS.items():
        alike = [entry for entry in entries if isinstance(entry, kind)]
        size = _BATCH.get(name, 1)
        yield from (alike[i : i + size] for i in range(0, len(alike), size))


def _send(client: MlflowClient, run_id: str, request: list, late: bool) -> None:
    match request[0]:
        case Point():
            points = [entities.Metric(p.key, p.value, p.time_ms, p.step) for p in request]
            client.log_batch(run_id, metrics=points, synchronous=True)
        case Tag():
            last = {tag.key: tag.value for tag in request}
            client.log_batch(run_id, tags=[entities.RunTag(*tag) for tag in last.items()], synchronous=True)
        case Dataset(name, source, digest, context):
            scheme = urlsplit(source).scheme or "local"
            where = json.dumps({"url" if scheme.startswith("http") else "uri": source})
            dataset = entities.Dataset(name, digest, "http" if scheme.startswith("http") else scheme, where)
            tag = entities.InputTag("mlflow.data.context", context)
            client.log_inputs(run_id, [entities.DatasetInput(dataset, [tag])])
        case End(status, time_ms):
            if not late or _still_runs(client.get_run(run_id), time_ms):
                client.set_terminated(run_id, status, time_ms)
        case Artifact(path, content):
            with tempfile.TemporaryDirectory() as root:
                folder, _, name = path.rpartition("/")
                Path(root, name).write_bytes(content)
                client.log_artifact(run_id, str(Path(root, name)), folder or None)


def _still_runs(run: entities.Run, end_ms: int) -> bool:
    return run.info.status == "RUNNING" and int(run.data.tags.get(ALIVE_TAG, 0)) * 1000 <= end_ms
