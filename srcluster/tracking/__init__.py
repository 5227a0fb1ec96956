"""Runs in MLflow: the only package that imports mlflow.

A `Run` never makes a training wait: what it logs goes through an `Outbox`, and arrives when the server can take
it. Run ids are explicit and MLflow's global "active run" is not used, so that a driver can hold many runs and a
worker continues the one that its driver, or its own previous life, began.
"""

from srcluster.tracking.environment import environment_tags
from srcluster.tracking.family import RunInfo, children, curve
from srcluster.tracking.liveness import alive, end_abandoned
from srcluster.tracking.models import download_model
from srcluster.tracking.names import metric_name
from srcluster.tracking.pages import charts_page, runs_page, table_page
from srcluster.tracking.registry import register
from srcluster.tracking.run import Run, status
from srcluster.tracking.server import TrackingError, check

__all__ = [
    "Run",
    "RunInfo",
    "TrackingError",
    "alive",
    "charts_page",
    "check",
    "children",
    "curve",
    "download_model",
    "end_abandoned",
    "environment_tags",
    "metric_name",
    "register",
    "runs_page",
    "status",
    "table_page",
]
