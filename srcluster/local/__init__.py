"""The embedded cluster of one machine: S3 (SeaweedFS), an MLflow server and Ray.

Everything is kept in one state folder, `SRCLUSTER_STATE` or `.srcluster` here: data, logs, ports and keys. The
services listen on loopback alone and run on when the process that started them has ended. S3, MLflow and Ray ask for
keys or a token; SeaweedFS' own inner ports and MLflow ask for nothing, so share the machine only with people you trust.
"""

import fcntl
import http.client
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from srcluster.local import processes
from srcluster.local.cluster import Cluster, LocalError, is_free, load, new_keys, new_ports, save
from srcluster.local.services import SERVICES, address, clean_tmp, health_url, prepare

__all__ = [
    "SERVICES",
    "Cluster",
    "LocalError",
    "down",
    "find",
    "load",
    "running",
    "start",
    "state_folder",
    "stop",
    "up",
]

START_TIMEOUT_S = 120.0
# SeaweedFS takes 15 s to close its files in order.
STOP_TIMEOUT_S = 20.0


def up(state: Path | None = None) -> Cluster:
    """Start what is not running of S3, MLflow and Ray, and wait until all answer.

    Raises:
        LocalError: A service can't be started; those that were stay up.
    """
    return start(SERVICES, state)


def down(state: Path | None = None) -> None:
    """End S3, MLflow and Ray, and nothing else; their data stays for the next `up`."""
    stop(SERVICES, state)


def find(state: Path | None = None) -> Cluster | None:
    """The cluster of a state folder, or None unless all of it is running."""
    cluster = load(state_folder(state))
    return cluster if cluster and running(cluster) == list(SERVICES) else None


def running(cluster: Cluster) -> list[str]:
    """The names of those services that are running."""
    return [name for name in SERVICES if name in cluster.processes and processes.is_alive(cluster.processes[name])]


def start(names: Iterable[str], state: Path | None = None) -> Cluster:
    """Start some services, each unless it is running, and wait until they answer.

    Raises:
        LocalError: A service can't be started.
    """
    folder = state_folder(state)
    with _locked(folder):
        began = time.monotonic()
        cluster = _known(folder)
        alive = running(cluster)
        missing = [name for name in names if name not in alive]
        for name in missing:
            cluster = _launch(name, cluster)
        for name in missing:
            _await(name, cluster)
            print(f"{name:7} {address(name, cluster)}, {time.monotonic() - began:.1f} s", file=sys.stderr)
        return cluster


def stop(names: Iterable[str], state: Path | None = None, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Ask some services to end; what is left of them after `timeout_s` is killed, at 0 at once."""
    folder = state_folder(state)
    with _locked(folder):
        cluster = load(folder)
        if cluster is None:
            return
        ended = [name for name in names if name in cluster.processes]
        if ended and timeout_s > 0:
            print(f"ending {', '.join(ended)} within {timeout_s:.0f} s", file=sys.stderr)
        processes.end([cluster.processes[name] for name in ended], timeout_s)
        for name in ended:
            clean_tmp(name, cluster)
        save(replace(cluster, processes={k: v for k, v in cluster.processes.items() if k not in ended}))


def state_folder(state: Path | None = None) -> Path:
    return (state or Path(os.environ.get("SRCLUSTER_STATE", ".srcluster"))).resolve()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise LocalError(f"{folder} can't be used ({error.strerror}): set SRCLUSTER_STATE to another folder") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _known(folder: Path) -> Cluster:
    """The cluster of a folder with the keys and ports of last time, or new ones if another took a port since."""
    cluster = load(folder) or Cluster(folder, new_ports(), *new_keys())
    if not running(cluster) and not all(map(is_free, cluster.ports.values())):
        return replace(cluster, ports=new_ports())
    return cluster


def _launch(name: str, cluster: Cluster) -> Cluster:
    if name in cluster.processes:
        # A leader that was killed may have left others of its session behind.
        processes.end([cluster.processes[name]], timeout_s=0)
    command, environment = prepare(name, cluster)
    home = cluster.state / name
    home.mkdir(exist_ok=True)
    leader = processes.launch(command, home, environment, _log(name, cluster))
    cluster = replace(cluster, processes=cluster.processes | {name: leader})
    save(cluster)
    return cluster


def _await(name: str, cluster: Cluster) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers(health_url(name, cluster)):
        alive = name in running(cluster)
        if not alive or time.monotonic() > deadline:
            fault = f"does not answer after {START_TIMEOUT_S:.0f} s" if alive else "ended as soon as it was started"
            tail = "\n".join(_log(name, cluster).read_text(errors="replace").splitlines()[-15:])
            raise LocalError(f"{name} {fault}: see the end of its log, {_log(name, cluster)}\n{tail}")
        time.sleep(0.1)
    if name == "s3":
        _make_bucket(cluster)


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2):
            return True
    except (OSError, http.client.HTTPException):
        return False


def _make_bucket(cluster: Cluster) -> None:
    # In a process of its own, as srcluster.storage finds the store by its environment.
    code = f"from srcluster import storage; storage.make_bucket('s3://{cluster.bucket}')"
    subprocess.run([sys.executable, "-c", code], env=os.environ | cluster.environment(), check=True)


def _log(name: str, cluster: Cluster) -> Path:
    return cluster.state / f"{name}.log"
