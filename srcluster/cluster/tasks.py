"""What is done on a Ray cluster: it is connected to, may be full, and calls one function many times, as tasks.

Ray reads its environment when this is imported.
"""

import copy
import itertools
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from srcluster.errors import UserError

__all__ = ["TaskError", "connect", "starmap", "warn_if_no_capacity"]

_RETRIES = 3
"""How often a task whose process or node died is begun again."""

_WAITING = 64
"""Tasks in flight on a cluster that is still small: what waits is what an autoscaler adds nodes for."""

_REACH_TIMEOUT_S = 5.0


class TaskError(UserError):
    """The cluster can't be reached, or can't finish a task."""


def connect(address: str, **options: Any) -> None:
    """Join a Ray cluster, with options of `ray.init`; who has a handler of SIGTERM keeps it, as Ray sets its own."""
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(address, log_to_driver=False, logging_level="warning", **options)
    if handler != signal.SIG_DFL:
        signal.signal(signal.SIGTERM, handler)


def starmap(
    function: Callable[..., Any],
    calls: Iterable[tuple],
    address: str,
    workers: int = 0,
    *,
    shared: Sequence[Any] = (),
    gpus: float = 0,
) -> Iterator[Any]:
    """`itertools.starmap` on a cluster: a task of one core for each call, its results in the order they are ready.

    Args:
        function: A pure one, so that a task that died can be begun again; it is imported by name there.
        calls: Arguments.
        address: Of the cluster.
        workers: Tasks at a time; 0 for as many as it has cores.
        shared: Arguments before those of every call, which are sent to a node once.
        gpus: That each task takes.

    Raises:
        TaskError: No cluster answers, or a task's process died again and again.
        UserError: What a task raised.
    """
    check_reachable(address)
    connect(address)
    warn_if_no_capacity({"CPU": 1, "GPU": gpus}, " (--address none: on this machine alone)")
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_RETRIES)(function)
    calls = iter(calls)
    running: list[ray.ObjectRef] = []
    try:
        sent = [ray.put(argument) for argument in shared]
        while True:
            # Asked each time, as a cluster may grow, and shrink.
            limit = workers or max(_WAITING, 2 * int(ray.cluster_resources().get("CPU", 0)))
            running += [task.remote(*sent, *call) for call in itertools.islice(calls, max(0, limit - len(running)))]
            if not running:
                return
            (ready,), running = ray.wait(running)
            yield _result(ready)
    finally:
        # Also ends what still runs.
        ray.shutdown()


def warn_if_no_capacity(wanted: Mapping[str, float], advice: str = "") -> None:
    """Say that what is wanted of the cluster is not free now: who waits for it in silence seems to hang."""
    free = ray.available_resources()
    if any(free.get(kind, 0) < amount for kind, amount in wanted.items()):
        print(f"the cluster has no room yet: waiting until it has{advice}", flush=True)


def check_reachable(address: str) -> None:
    """Find out within seconds whether anything listens there; Ray itself tries for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise TaskError(f"no Ray cluster answers at {address}: start it, or name another with --address") from error


def _result(task: ray.ObjectRef) -> Any:
    try:
        # Arrays lie in memory that Ray takes back when it is shut down.
        return copy.deepcopy(ray.get(task))
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            # Else a sentence for the user would come as a traceback of another process.
            raise error.cause from error
        raise
    except RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise TaskError(
            f"a task was begun {_RETRIES + 1} times, and its process died ({reason}): see Ray's logs"
        ) from error
