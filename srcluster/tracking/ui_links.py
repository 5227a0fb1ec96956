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


def runs_page(experiment_id: str) -> str:
    """The address of an experiment's runs, children folded into their parents."""
    return _page(experiment_id)


def charts_page(experiment_id: str, metric: str, *, ascending: bool = False) -> str:
    """The address of the learning curves of an experiment's runs, in the order of `metric`."""
    # Sorted, runs stand for themselves: a child that is folded into its parent has no curve.
    key, ascends = f"metrics.`{metric_name(metric)}`", str(ascending).lower()
    return _page(experiment_id, orderByKey=key, orderByAsc=ascends, compareRunsMode="CHART")


def table_page(experiment_id: str, metrics: Sequence[str], params: Sequence[str], *, ascending: bool = False) -> str:
    """Set the columns of an experiment's table of runs, which the first metric orders; returns its address.

    Raises:
        UserError: The server does not answer in time, or has no such experiment.
    """
    columns = [f"metrics.`{metric_name(name)}`" for name in metrics]
    columns += [f"params.`{metric_name(name)}`" for name in params]
    view = {
        "selectedColumns": ["attributes.`Duration`", *columns],
        "orderByKey": columns[0],
        "orderByAsc": ascending,
    }
    # What MLflow's own "Share" button stores: a view of the experiment, under a name, as a tag.
    client, tag = MlflowClient(address()), "mlflow.sharedViewState.srcluster"
    patiently(lambda: client.set_experiment_tag(experiment_id, tag, json.dumps(view)))
    return _page(experiment_id, viewStateShareKey="srcluster")


def _page(experiment_id: str, **query: str) -> str:
    page = os.environ.get("SRCLUSTER_MLFLOW_PAGE", "").rstrip("/") or address()
    # Without its type of workflow, MLflow shows its menu for language models.
    words = urlencode({**query, "workflowType": "machine_learning"}, quote_via=quote)
    return f"{page}/#/experiments/{experiment_id}/runs?{words}"
