"""What is done on a Ray cluster: it is connected to, may be full, and calls one function many times, as tasks.

Ray reads its environment when this is imported.
"""

import copy
import itertools
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import grpc
import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import RayError, RayTaskError

from srcluster.data.photos import data_folder
from srcluster.errors import UserError
from srcluster.revision import commit

_TOLD = ("SRCLUSTER_PICTURE_GB",)
"""Variables whose values here are those of the cluster's processes."""

_RETRIES = 3
"""How often a task whose process or node died is begun again."""

_WAITING = 64
"""Tasks in flight on a cluster that is still small: what waits is what an autoscaler adds nodes for."""

_REACH_TIMEOUT_S = 5.0

CPU_NODES = {"srcluster-gpu-only": "!true"}
"""The nodes for work without a GPU: those that do not bear this label, which k8s/ gives to its GPU nodes. An autoscaler
would add these, too, once it may add no others."""


class _DeathError(UserError):
    """A task's process died each time."""


def connect(address: str, **options: Any) -> None:
    """Join a Ray cluster, with options of `ray.init`; its processes are told of this one by `worker_env`.

    Raises:
        UserError: No cluster answers, or it does not let us in.
    """
    check_reachable(address)
    # `ray job submit` may have been told the same, which is no conflict.
    os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"
    told = {"env_vars": worker_env()}
    # Ray sets its own.
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level="warning", runtime_env=told, **options)
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


def worker_env() -> dict[str, str]:
    """What the cluster's processes are told of this one, as environment variables.

    Credentials are not: they are the cluster's own, and what is said to a job can be read by whoever may see it.
    """
    env = {name: os.environ[name] for name in _TOLD if name in os.environ}
    if folder := data_folder():
        env["SRCLUSTER_DATA"] = str(folder.resolve())
    return env | {"SRCLUSTER_GIT_COMMIT": commit()}


def starmap(
    function: Callable[..., Any],
    calls: Iterable[tuple],
    address: str,
    workers: int = 0,
    *,
    shared: Sequence[Any] = (),
    gpus: float = 0,
    on_death: Callable[..., Any] | None = None,
) -> Iterator[Any]:
    """`itertools.starmap` on a cluster: a task of one core for each call, its results in the order they are ready.

    Args:
        function: A pure one, so that a task that died can be begun again; it is imported by name there.
        workers: Tasks at a time; 0 for as many as it has cores.
        shared: Arguments before those of every call, which are sent to a node once.
        on_death: Gives the result of a call whose process died again and again, from its arguments and a `reason`;
            None raises it.

    Raises:
        UserError: No cluster answers, a task's process died again and again, or what a task raised.
    """
    connect(address)
    warn_if_no_capacity({"CPU": 1, "GPU": gpus}, " (--address none: on this machine alone)")
    nodes = None if gpus else CPU_NODES
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_RETRIES, label_selector=nodes)(function)
    calls = iter(calls)
    running: dict[ray.ObjectRef, tuple] = {}
    try:
        sent = [ray.put(argument) for argument in shared]
        while True:
            # Asked each time, as a cluster may grow, and shrink.
            limit = workers or max(_WAITING, 2 * int(ray.cluster_resources().get("CPU", 0)))
            due = itertools.islice(calls, max(0, limit - len(running)))
            running |= {task.remote(*sent, *call): call for call in due}
            if not running:
                return
            (ready,), _ = ray.wait(list(running))
            call = running.pop(ready)
            try:
                result = _result(ready)
            except _DeathError as error:
                if on_death is None:
                    raise
                result = on_death(*call, reason=str(error))
            yield result
    finally:
        # Also ends what still runs.
        ray.shutdown()


def warn_if_no_capacity(wanted: Mapping[str, float], advice: str = "") -> None:
    """Say that what is wanted of the cluster is not free now: who waits for it in silence seems to hang."""
    free = ray.available_resources()
    if any(free.get(kind, 0) < amount for kind, amount in wanted.items()):
        print(f"the cluster has no room yet: waiting until it has{advice}", flush=True)


def check_reachable(address: str) -> None:
    """Find out within seconds whether a gRPC server answers there: Ray tries for 14 minutes, and ends the process."""
    found = canonicalize_bootstrap_address(address) if address == "auto" else address.removeprefix("ray://")
    # By TLS it says nothing to who does not.
    if found is None or os.environ.get("RAY_USE_TLS") == "1":
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
        raise _DeathError(
            f"a task was begun {_RETRIES + 1} times, and its process died ({reason}): see Ray's logs"
        ) from error
