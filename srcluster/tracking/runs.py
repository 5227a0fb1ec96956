"""The runs that MLflow has: found by experiment and key, begun, listed, and ended for those who can't."""

import time
from dataclasses import dataclass, field

from mlflow import MlflowClient, entities

from srcluster.errors import UserError
from srcluster.recipe import NEUTRAL
from srcluster.tracking.entries import ALIVE_TAG, Status
from srcluster.tracking.names import metric_name
from srcluster.tracking.server import address, patiently

KEY_TAG = "srcluster.key"
PARENT_TAG = "mlflow.parentRunId"
ERROR_TAG = "srcluster.error"
"""Why the run failed."""

SILENT_S = 900.0
"""How long no word may come from a process that lives: MLflow may have been away, and clocks differ."""


@dataclass(frozen=True)
class RunSpec:
    """Which run it is, and all that is needed to begin it.

    Attributes:
        experiment: The name of its experiment, created where it does not exist.
        key: What makes it this run and no other, within the experiment: a restarted trial has the same key.
        parent: MLflow's id of the run that it belongs to.
        params: By names that MLflow takes.
    """

    experiment: str
    key: str
    name: str
    parent: str = ""
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def find(self, client: MlflowClient) -> entities.Run | None:
        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is None:
            return None
        query = f"tags.`{KEY_TAG}` = {quoted(self.key)}"
        return next(iter(client.search_runs([experiment.experiment_id], query, max_results=1)), None)

    def begin(self, client: MlflowClient, *, reopen: bool) -> entities.Run:
        """Create the run where there is none; `reopen` one that there is, which is RUNNING again.

        Raises:
            UserError: The experiment is deleted, or the run to reopen has other parameters.
        """
        run = self.find(client)
        if run is None:
            tags = {KEY_TAG: self.key, ALIVE_TAG: "0"} | ({PARENT_TAG: self.parent} if self.parent else {}) | self.tags
            run = client.create_run(_experiment_id(client, self.experiment), tags=tags, run_name=self.name)
        known = run.data.params
        for key in sorted((self.params.keys() & known.keys()) - NEUTRAL if reopen else ()):
            if self.params[key] != known[key]:
                raise UserError(
                    f"run {self.name!r} of experiment {self.experiment!r} was begun with {key} = {known[key]}, and now "
                    f"has {self.params[key]}: use another name, or delete that run in MLflow"
                )
        new = [entities.Param(key, value) for key, value in self.params.items() if key not in known]
        tags = self.tags | {ALIVE_TAG: str(int(time.time()))} if reopen else {}
        run_tags = [entities.RunTag(*tag) for tag in tags.items()]
        client.log_batch(run.info.run_id, params=new, tags=run_tags, synchronous=True)
        if reopen:
            if ERROR_TAG in run.data.tags:
                client.delete_tag(run.info.run_id, ERROR_TAG)
            client.update_run(run.info.run_id, status="RUNNING")
        return run


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


def children(parent_id: str) -> list[RunInfo]:
    """The runs that were started with this parent, the oldest first.

    Raises:
        UserError: The server does not answer in time, or has no such run.
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

    found = [(run.info, run.data) for run in patiently(search)]
    return [
        RunInfo(
            info.run_id, info.run_name, data.tags.get(KEY_TAG, ""), info.status, data.params, data.metrics, data.tags
        )
        for info, data in found
    ]


def curve(run_id: str, metric: str) -> list[tuple[int, float]]:
    """Steps and values of a run's metric, in order.

    Raises:
        UserError: The server does not answer in time, or has no such run.
    """
    client = MlflowClient(address())
    points = patiently(lambda: client.get_metric_history(run_id, metric_name(metric)))
    return sorted((point.step, point.value) for point in points)


def end_abandoned(experiment: str) -> None:
    """End as KILLED the RUNNING runs of an experiment whose processes have given no sign of life.

    A process that was only silent, as that of a computer that slept, goes on logging, and ends its run as it would.

    Raises:
        UserError: The server does not answer in time.
    """
    client = MlflowClient(address())

    def end() -> None:
        found = client.get_experiment_by_name(experiment)
        for run in client.search_runs([found.experiment_id], "attributes.status = 'RUNNING'") if found else ():
            alive = run.data.tags.get(ALIVE_TAG)
            if alive and int(alive) < time.time() - SILENT_S:
                client.set_terminated(run.info.run_id, "KILLED")

    patiently(end)


def free_key(experiment: str, key: str, other: str) -> None:
    """Give the run of a key another key, so that the next run of that key is a new one.

    Raises:
        UserError: The server does not answer in time.
    """
    client = MlflowClient(address())

    def rename() -> None:
        if run := RunSpec(experiment, key, key).find(client):
            client.set_tag(run.info.run_id, KEY_TAG, other)

    patiently(rename)


def close_run(run_id: str, status: Status, **tags: str) -> None:
    """End a run whose process can't, and set tags.

    Raises:
        UserError: The server does not answer in time, or has no such run.
    """
    client = MlflowClient(address())
    run_tags = [entities.RunTag(*tag) for tag in tags.items()]

    def close() -> None:
        client.log_batch(run_id, tags=run_tags, synchronous=True)
        if client.get_run(run_id).info.status != status:
            client.set_terminated(run_id, status)

    patiently(close)


def quoted(text: str) -> str:
    """A string in MLflow's search language, which knows no escape."""
    if "'" in text and '"' in text:
        raise ValueError(f"a key can't hold both kinds of quotation marks: {text}")
    return f'"{text}"' if "'" in text else f"'{text}'"


def _experiment_id(client: MlflowClient, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return client.create_experiment(name)
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"experiment {name!r} is deleted in MLflow: restore it with `MLFLOW_TRACKING_URI={address()} mlflow "
            f"experiments restore --experiment-id {experiment.experiment_id}`"
        )
    return experiment.experiment_id
