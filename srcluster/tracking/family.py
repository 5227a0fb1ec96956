"""The runs of a parent: those of a sweep's trials, found again by the next driver."""

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient, entities

from srcluster.tracking.names import metric_name
from srcluster.tracking.server import PATIENCE_S, address, patiently

__all__ = ["KEY_TAG", "PARENT_TAG", "RunInfo", "children", "curve", "quoted", "run_tags"]

KEY_TAG = "srcluster.key"
PARENT_TAG = "mlflow.parentRunId"


@dataclass(frozen=True)
class RunInfo:
    """What MLflow knows of a run: its status is RUNNING, FINISHED, FAILED or KILLED."""

    id: str
    name: str
    key: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


def children(parent_id: str, *, timeout_s: float = PATIENCE_S) -> list[RunInfo]:
    """The runs that were started with this parent, the oldest first.

    Raises:
        TrackingError: the server does not answer in time, or has no such run.
    """
    client = MlflowClient(address())

    def search() -> list[entities.Run]:
        experiment_ids = [client.get_run(parent_id).info.experiment_id]
        query, order = f"tags.`{PARENT_TAG}` = {quoted(parent_id)}", ["attributes.start_time ASC"]
        page = client.search_runs(experiment_ids, query, order_by=order)
        runs = list(page)
        while page.token:
            page = client.search_runs(experiment_ids, query, order_by=order, page_token=page.token)
            runs += page
        return runs

    return [
        RunInfo(
            id=run.info.run_id,
            name=run.info.run_name,
            key=run.data.tags.get(KEY_TAG, ""),
            status=run.info.status,
            params=run.data.params,
            metrics=run.data.metrics,
            tags=run.data.tags,
        )
        for run in patiently(search, timeout_s)
    ]


def curve(run_id: str, metric: str, *, timeout_s: float = PATIENCE_S) -> list[tuple[int, float]]:
    """Steps and values of a run's metric, in order.

    Raises:
        TrackingError: the server does not answer in time, or has no such run.
    """
    client = MlflowClient(address())
    return sorted(
        (point.step, point.value)
        for point in patiently(lambda: client.get_metric_history(run_id, metric_name(metric)), timeout_s)
    )


def run_tags(words: Mapping[str, str]) -> list[entities.RunTag]:
    return [entities.RunTag(key, value) for key, value in words.items()]


def quoted(text: str) -> str:
    """A string in MLflow's search language, which knows no escape."""
    if "'" in text and '"' in text:
        raise ValueError(f"a key can't hold both kinds of quotation marks: {text}")
    return f'"{text}"' if "'" in text else f"'{text}'"
