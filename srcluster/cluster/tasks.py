"""What is done on a Ray cluster: it is connected to, may be full, and calls one function many times, as tasks.

Ray reads its environment when this is imported.
"""

import copy
import itertools
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import grpc
import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import RayError, RayTaskError

from srcluster.errors import UserError

_RETRIES = 3
"""How often a task whose process or node died is begun again."""

_WAITING = 64
"""Tasks in flight on a cluster that is still small: what waits is what an autoscaler adds nodes for."""

_REACH_TIMEOUT_S = 5.0


def connect(address: str, **options: Any) -> None:
    """Join a Ray cluster, with options of `ray.init`.

    Raises:
        UserError: No cluster answers, or it does not let us in.
    """
    _check_reachable(address)
    # Ray sets its own.
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level="warning", **options)
    except ConnectionError as error:
        raise UserError(
            f"the Ray cluster at {address} does not let us in, or another server is there: give its token in "
            "RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token, and its head's address, HOST:6379, with --address"
        ) from error
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        raise UserError(f"the Ray cluster at {address} has other versions: {error}") from error
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
        UserError: No cluster answers, a task's process died again and again, or what a task raised.
    """
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


def _check_reachable(address: str) -> None:
    """Find out within seconds whether a gRPC server answers there: Ray tries for 14 minutes, and ends the process."""
    found = canonicalize_bootstrap_address(address) if address == "auto" else address.removeprefix("ray://")
    if found is None:
        return
    with grpc.insecure_channel(found, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(_REACH_TIMEOUT_S)
        except grpc.FutureTimeoutError as error:
            raise UserError(
                f"no Ray cluster answers at {found}: start it, or name another's head, HOST:6379, with --address or "
                "RAY_ADDRESS"
            ) from error


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
        raise UserError(
            f"a task was begun {_RETRIES + 1} times, and its process died ({reason}): see Ray's logs"
        ) from error
