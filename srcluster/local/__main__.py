"""`python -m srcluster.local up | status | down | env`: S3, MLflow and Ray on this machine."""

import os
import shlex
from pathlib import Path

from srcluster import cli, local
from srcluster.errors import UserError
from srcluster.local.services import address


def up(state: Path | None = None) -> None:
    """Start what is not running of S3, MLflow and Ray on this machine.

    SRCLUSTER_STORAGE and AWS_*, and MLFLOW_TRACKING_URI, name a store and a server of your own in place of these.
    """
    local.up(state)
    print('up; enter it from a shell with: eval "$(python -m srcluster.local env)"')


def down(state: Path | None = None) -> None:
    """End S3, MLflow and Ray; their data stays for the next `up`."""
    local.down(state)


def status(state: Path | None = None) -> None:
    """List the services."""
    cluster = local.load(local.state_folder(state))
    up = local.running(cluster, timeout_s=0) if cluster else []
    print(f"{'service':8} {'address':24} {'pid':>9}  state")
    for name in local.SERVICES:
        where = address(name, cluster) if cluster else "-"
        pid = cluster.processes[name][0] if cluster and name in up else "-"
        print(f"{name:8} {where:24} {pid:>9}  {'up' if name in up else 'down'}")


def env(state: Path | None = None) -> None:
    """Print the variables by which other programs find the cluster."""
    cluster = local.find(state)
    if cluster is None:
        where = local.state_folder(state)
        raise UserError(f"no whole cluster runs in {where}: start it with `python -m srcluster.local up`")
    joined = cluster.join(os.environ)
    for name in sorted(os.environ.keys() - joined.keys()):
        print(f"unset {name}")
    for name in cluster.environment():
        if name in joined:
            print(f"export {name}={shlex.quote(joined[name])}")


cli.run(up, down, status, env)
