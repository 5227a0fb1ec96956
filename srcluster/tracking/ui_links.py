"""Links to MLflow's pages on which runs are compared, and the columns of their tables.

SRCLUSTER_MLFLOW_PAGE is the address by which a person reaches MLflow, where that is not the workers' address.
"""

import json
import os
from collections.abc import Sequence
from urllib.parse import quote, urlencode

from mlflow import MlflowClient

from srcluster.tracking.names import metric_name
from srcluster.tracking.server import address, patiently

TRAINING = {"workflowType": "machine_learning"}
"""Without it, MLflow shows its menu for language models."""

VIEW = "srcluster"


def runs_page(experiment_id: str) -> str:
    """The address of an experiment's runs, children folded into their parents."""
    return _page(f"experiments/{experiment_id}/runs", {})


def charts_page(experiment_id: str, metric: str, *, ascending: bool = False) -> str:
    """The address of the learning curves of an experiment's runs, in the order of `metric`."""
    # Sorted, runs stand for themselves: a child that is folded into its parent has no curve.
    order = {
        "orderByKey": f"metrics.`{metric_name(metric)}`",
        "orderByAsc": str(ascending).lower(),
        "compareRunsMode": "CHART",
    }
    return _page(f"experiments/{experiment_id}/runs", order)


def table_page(experiment_id: str, metrics: Sequence[str], params: Sequence[str], *, ascending: bool = False) -> str:
    """Set the columns of an experiment's table of runs.

    Args:
        experiment_id: MLflow's id of the experiment.
        metrics: The metrics that are columns; the first one orders the runs.
        params: The parameters that are columns.
        ascending: Whether the lowest value is first.

    Returns:
        The address of the table.

    Raises:
        TrackingError: The server does not answer in time, or has no such experiment.
    """
    # What MLflow's own "Share" button stores: a view of the experiment, under a name, as a tag.
    columns = [f"metrics.`{metric_name(name)}`" for name in metrics]
    columns += [f"params.`{metric_name(name)}`" for name in params]
    view = {
        "selectedColumns": ["attributes.`Duration`", *columns],
        "orderByKey": columns[0],
        "orderByAsc": ascending,
    }
    client = MlflowClient(address())
    key, value = f"mlflow.sharedViewState.{VIEW}", json.dumps(view)
    patiently(lambda: client.set_experiment_tag(experiment_id, key, value))
    return _page(f"experiments/{experiment_id}/runs", {"viewStateShareKey": VIEW})


def _page(path: str, query: dict[str, str]) -> str:
    page = os.environ.get("SRCLUSTER_MLFLOW_PAGE", "").rstrip("/") or address()
    return f"{page}/#/{path}?{urlencode(query | TRAINING, quote_via=quote)}"
