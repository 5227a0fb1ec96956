"""Which cluster a verb works on: the one that is configured, or the embedded one of this machine."""

import os

from srcluster import local
from srcluster.errors import UserError

__all__ = ["ClusterError", "choose_cluster", "join"]


class ClusterError(UserError):
    """It is not said which cluster to use, or what it stores its results in."""


def join(address: str = "auto") -> str:
    """Choose the cluster, and make this process's environment that of it.

    Args:
        address: Of a Ray cluster; `local` for the embedded one, which is started if it is not running; `auto` for
            RAY_ADDRESS where it is set, as it is within `ray job submit`, and otherwise `local`.

    Returns:
        The address for ray.init. S3, MLflow and SRCLUSTER_STORAGE, the URL below which checkpoints, shards and
        results go, are in the environment.

    Raises:
        ClusterError: On a cluster of one's own, SRCLUSTER_STORAGE is not set.
        LocalError: The embedded cluster can't be started.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "local")
    if address == "local":
        cluster = local.up()
        # What else is said of S3 (a profile, a session token, an endpoint for S3 alone) is of another store.
        for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_CA_BUNDLE"]:
            del os.environ[name]
        os.environ.update(cluster.environment())
        return cluster.ray_address
    if not os.environ.get("SRCLUSTER_STORAGE"):
        raise ClusterError(
            f"say where the results of the cluster at {address} go: set SRCLUSTER_STORAGE to s3://bucket/prefix"
        )
    return address


def choose_cluster(address: str) -> str:
    """Choose the cluster of a verb that can do without one.

    Args:
        address: Of a Ray cluster; `none` for this process; `local` for the embedded one, whose environment is made
            that of this process; `auto` for RAY_ADDRESS where it is set, and otherwise `none`.

    Returns:
        The address for ray.init, or `none`.

    Raises:
        LocalError: The embedded cluster can't be started.
    """
    if address == "local":
        return join("local")
    return os.environ.get("RAY_ADDRESS", "none") if address == "auto" else address
