"""Runs in MLflow: the only package that imports mlflow.

A `Run` never makes a training wait: what it logs goes through an `Outbox`, and arrives when the server can take it.
Runs are found by experiment and key, and MLflow's global "active run" is not used, so that a driver can hold many runs
and a worker continues the one that its driver, or its own previous life, began.
"""

from srcluster.tracking.entries import Status
from srcluster.tracking.environment import environment_tags
from srcluster.tracking.models import download_model
from srcluster.tracking.names import metric_name
from srcluster.tracking.registry import register
from srcluster.tracking.run import Run, send_unsent
from srcluster.tracking.runs import RunInfo, RunSpec, children, close_run, curve, end_abandoned, free_key
from srcluster.tracking.server import check
from srcluster.tracking.ui_links import charts_page, runs_page, table_page

__all__ = [
    "Run",
    "RunInfo",
    "RunSpec",
    "Status",
    "charts_page",
    "check",
    "children",
    "close_run",
    "curve",
    "download_model",
    "end_abandoned",
    "environment_tags",
    "free_key",
    "metric_name",
    "register",
    "runs_page",
    "send_unsent",
    "table_page",
]
