"""Which Ray cluster, S3 store and MLflow server a verb works with, and calls on that cluster."""

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from srcluster import local
from srcluster.errors import UserError

_STORE = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_PROFILE")


def choose_cluster(address: str, required: bool = False) -> str:
    """The address for ray.init, or `none`; what belongs to the cluster is put into this process's environment.

    The embedded Ray works with the store of SRCLUSTER_STORAGE and AWS_*, and with the server of MLFLOW_TRACKING_URI,
    and where they are not set with embedded ones.

    Args:
        address: Of a Ray cluster; `none` for this process; `local` for the embedded one, which is started if it is not
            running; `auto` for RAY_ADDRESS where it is set, as it is within `ray job submit`, and else `none`.
        required: Whether the verb needs a cluster, and puts its results into SRCLUSTER_STORAGE; `auto` is then
            RAY_ADDRESS, and else `local`.

    Raises:
        UserError: SRCLUSTER_STORAGE is needed and not set, or the embedded cluster can't be started.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or ("local" if required else "none")
    if address == "local":
        return _join_embedded()
    if required and not os.environ.get("SRCLUSTER_STORAGE"):
        raise UserError(
            f"say where the results of the cluster at {address} go: set SRCLUSTER_STORAGE to s3://bucket/prefix"
        )
    return address


def starmap(
    function: Callable[..., Any], calls: Iterable[tuple], address: str, *, shared: Sequence[Any] = (), **options: Any
) -> Iterator[Any]:
    """`tasks.starmap` with its options; in this process where the address is `none`."""
    if address == "none":
        return itertools.starmap(function, ((*shared, *call) for call in calls))
    # Ray reads its environment when it is imported.
    from srcluster.cluster import tasks

    return tasks.starmap(function, calls, address, shared=shared, **options)


def _join_embedded() -> str:
    cluster = local.up()
    joined = cluster.join(os.environ)
    if unused := [name for name in _STORE if os.environ.get(name) and os.environ[name] != joined.get(name)]:
        print(
            f"results go to the embedded S3, not to the store of {', '.join(unused)}: set SRCLUSTER_STORAGE to "
            "s3://bucket/prefix to use that",
            file=sys.stderr,
        )
    for name in os.environ.keys() - joined.keys():
        del os.environ[name]
    os.environ.update(joined)
    return cluster.ray_address
