"""The embedded cluster of one machine: S3 (SeaweedFS), an MLflow server and Ray.

Everything is kept in one state folder, `SRCLUSTER_STATE` or `.srcluster` here: data, logs, ports and keys. The
services listen on loopback alone and run on when the process that started them has ended. S3, MLflow and Ray ask for
keys or a token; SeaweedFS' own inner ports and MLflow ask for nothing, so share the machine only with people you trust.
"""

import fcntl
import http.client
import os
import secrets
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from srcluster import storage
from srcluster.errors import UserError
from srcluster.local import processes
from srcluster.local.cluster import Cluster, digest, is_free, load, new_ports, save
from srcluster.local.services import SERVICES, address, clean_tmp, health_url, prepare, ray_folder

START_TIMEOUT_S = 120.0
# A busy machine may keep a service from answering; one that is restarted ends what uses it.
ANSWER_TIMEOUT_S = 20.0
# SeaweedFS takes 15 s to close its files in order.
STOP_TIMEOUT_S = 20.0


def up(state: Path | None = None) -> Cluster:
    """Start what does not answer of Ray, and of S3 and MLflow where this process has none of its own.

    Raises:
        UserError: A service can't be started, those that were stay up; or Ray runs with another store or MLflow.
    """
    return start(None, state)


def down(state: Path | None = None) -> None:
    """End S3, MLflow and Ray, and nothing else; their data stays for the next `up`."""
    stop(SERVICES, state)


def find(state: Path | None = None) -> Cluster | None:
    """The cluster of a state folder, or None unless all that `up` starts answers."""
    cluster = load(state_folder(state))
    return cluster if cluster and set(cluster.services(os.environ)) <= set(running(cluster)) else None


def running(cluster: Cluster, timeout_s: float = ANSWER_TIMEOUT_S) -> list[str]:
    """The names of those services that answer, each within `timeout_s`."""
    return [name for name in SERVICES if _answers(name, cluster, timeout_s)]


def start(names: Iterable[str] | None, state: Path | None = None) -> Cluster:
    """Start some services, or those of `up`, each unless it answers, and wait until all do.

    Raises:
        UserError: As of `up`.
    """
    folder = state_folder(state)
    with _locked(folder):
        began = time.monotonic()
        cluster = _known(folder)
        names = list(names or cluster.services(os.environ))
        missing = [name for name in names if not _answers(name, cluster, ANSWER_TIMEOUT_S)]
        if "ray" in names and "ray" not in missing and cluster.joined != digest(cluster.join(os.environ)):
            raise UserError(
                "the embedded Ray was started for another store or MLflow than SRCLUSTER_STORAGE, AWS_* and "
                "MLFLOW_TRACKING_URI name now: end it with `python -m srcluster.local down`"
            )
        for name in missing:
            cluster = _launch(name, cluster)
        for name in missing:
            if not _answers(name, cluster, START_TIMEOUT_S):
                raise UserError(_fault(name, cluster))
            print(f"{name:7} {address(name, cluster)}, {time.monotonic() - began:.1f} s", file=sys.stderr)
        if "s3" in names:
            with _environment(cluster):
                storage.make_bucket(f"s3://{cluster.bucket}")
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
        raise UserError(f"{folder} can't be used ({error.strerror}): set SRCLUSTER_STATE to another folder") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _environment(cluster: Cluster) -> Iterator[None]:
    """This process's environment is that of the cluster, whatever store it names."""
    given = dict(os.environ)
    try:
        for name in [name for name in given if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(cluster.environment())
        yield
    finally:
        os.environ.clear()
        os.environ.update(given)


def _known(folder: Path) -> Cluster:
    """The cluster of a folder with the keys and ports of last time, or new ones if another took a port since."""
    cluster = load(folder) or Cluster(folder, new_ports(), secrets.token_hex(10), secrets.token_hex(20))
    if not any(map(processes.is_alive, cluster.processes.values())) and not all(map(is_free, cluster.ports.values())):
        return replace(cluster, ports=new_ports())
    return cluster


def _launch(name: str, cluster: Cluster) -> Cluster:
    if name in cluster.processes:
        # One that no longer answers, or what a leader that was killed has left of its session.
        processes.end([cluster.processes[name]], timeout_s=0)
    command, environment = prepare(name, cluster)
    folder = cluster.state / name
    folder.mkdir(exist_ok=True)
    leader = processes.launch(command, folder, environment, _log(name, cluster))
    cluster = replace(cluster, processes=cluster.processes | {name: leader})
    if name == "ray":
        cluster = replace(cluster, joined=digest(environment))
    save(cluster)
    return cluster


def _answers(name: str, cluster: Cluster, timeout_s: float) -> bool:
    """Whether a service answers within `timeout_s`, unless it ends before."""
    deadline = time.monotonic() + timeout_s
    while name in cluster.processes and processes.is_alive(cluster.processes[name]):
        # Without its sockets Ray answers, and takes no driver.
        if _is_healthy(health_url(name, cluster)) and (name != "ray" or ray_folder(cluster).exists()):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return False


def _is_healthy(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2):
            return True
    except (OSError, http.client.HTTPException):
        return False


def _fault(name: str, cluster: Cluster) -> str:
    alive = processes.is_alive(cluster.processes[name])
    fault = f"does not answer after {START_TIMEOUT_S:.0f} s" if alive else "ended as soon as it was started"
    tail = "\n".join(_log(name, cluster).read_text(errors="replace").splitlines()[-15:])
    return f"{name} {fault}: see the end of its log, {_log(name, cluster)}\n{tail}"


def _log(name: str, cluster: Cluster) -> Path:
    return cluster.state / f"{name}.log"
