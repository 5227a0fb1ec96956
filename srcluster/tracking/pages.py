"""The pages of MLflow on which runs are compared: their addresses, and the columns of their tables."""

import json
from collections.abc import Sequence
from urllib.parse import quote, urlencode

from mlflow import MlflowClient

from srcluster.tracking.names import metric_name
from srcluster.tracking.server import PATIENCE_S, address, patiently

__all__ = ["charts_page", "runs_page", "table_page"]

TRAINING = {"workflowType": "machine_learning"}
"""Without it, MLflow shows its menu for language models."""

VIEW = "srcluster"


def runs_page(experiment_id: str) -> str:
    """The address of an experiment's runs, children folded into their parents."""
    return _page(f"experiments/{experiment_id}/runs", {})


def charts_page(experiment_id: str, metric: str) -> str:
    """The address of the learning curves of an experiment's runs, the highest value of `metric` first."""
    # Sorted, runs stand for themselves: a child that is folded into its parent has no curve.
    order = {"orderByKey": f"metrics.`{metric_name(metric)}`", "orderByAsc": "false", "compareRunsMode": "CHART"}
    return _page(f"experiments/{experiment_id}/runs", order)


def table_page(
    experiment_id: str, metrics: Sequence[str], params: Sequence[str], *, timeout_s: float = PATIENCE_S
) -> str:
    """Set the columns of an experiment's table of runs.

    Args:
        experiment_id: MLflow's id of the experiment.
        metrics: the metrics that are columns; the first one orders the runs, the highest value first.
        params: the parameters that are columns.
        timeout_s: how long a server that is away is waited for.

    Returns:
        The address of the table.

    Raises:
        TrackingError: the server does not answer in time, or has no such experiment.
    """
    # What MLflow's own "Share" button stores: a view of the experiment, under a name, as a tag.
    columns = [f"metrics.`{metric_name(name)}`" for name in metrics]
    columns += [f"params.`{metric_name(name)}`" for name in params]
    view = {
        "selectedColumns": ["attributes.`Duration`", *columns],
        "orderByKey": columns[0],
        "orderByAsc": False,
    }
    client = MlflowClient(address())
    patiently(
        lambda: client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{VIEW}", json.dumps(view)),
        timeout_s,
    )
    return _page(f"experiments/{experiment_id}/runs", {"viewStateShareKey": VIEW})


def _page(path: str, query: dict[str, str]) -> str:
    return f"{address()}/#/{path}?{urlencode(query | TRAINING, quote_via=quote)}"
