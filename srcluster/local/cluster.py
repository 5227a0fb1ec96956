"""What an embedded cluster is: a folder, ports on loopback and keys; by these everything else finds it."""

import hashlib
import itertools
import json
import os
import random
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from srcluster import storage

HOST = "127.0.0.1"

# Every port a service listens on: one it chose itself could be another cluster's on this machine.
PORTS = (
    *("s3", "s3_grpc", "filer", "filer_grpc", "master", "master_grpc", "volume", "volume_grpc"),
    "mlflow",
    *("gcs", "client", "dashboard", "dashboard_metrics", "agent", "agent_grpc", "metrics", "autoscaler_metrics"),
)

FOREIGN = ("AWS_", "MLFLOW_TRACKING_", "RAY_AUTH_")
"""What the variables begin with that name a store, an MLflow server and a Ray cluster, and the keys to them."""


@dataclass(frozen=True)
class Cluster:
    """Where the services of one state folder are, and the keys to them.

    Attributes:
        ports: The port of each name in `PORTS`.
        processes: Process id and start time (seconds since 1970) of the first process of each service.
        joined: The digest of the store and MLflow that Ray was started with.
    """

    state: Path
    ports: dict[str, int] = field(repr=False)
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    processes: dict[str, tuple[int, float]] = field(default_factory=dict, repr=False)
    joined: str = ""
    bucket: str = "srcluster"

    @property
    def s3_endpoint(self) -> str:
        return f"http://{HOST}:{self.ports['s3']}"

    @property
    def mlflow_uri(self) -> str:
        return f"http://{HOST}:{self.ports['mlflow']}"

    @property
    def ray_address(self) -> str:
        return f"{HOST}:{self.ports['gcs']}"

    @property
    def dashboard_url(self) -> str:
        return f"http://{HOST}:{self.ports['dashboard']}"

    @property
    def ray_token_path(self) -> Path:
        return self.state / "ray_token"

    def environment(self) -> dict[str, str]:
        """The variables by which boto3, MLflow and Ray find and enter this cluster; set them before importing Ray."""
        # Proxies are for other hosts; of the two spellings some libraries read one, some the other.
        others = os.environ.get("NO_PROXY", os.environ.get("no_proxy", "")).split(",")
        direct = ",".join(dict.fromkeys([*filter(None, others), HOST, "localhost"]))
        return {
            "AWS_ENDPOINT_URL": self.s3_endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            # One that the shell has for another store would be sent to this one.
            "AWS_SESSION_TOKEN": "",
            "AWS_DEFAULT_REGION": "us-east-1",
            # Files may name a store as well.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "SRCLUSTER_STORAGE": f"s3://{self.bucket}",
            "MLFLOW_TRACKING_URI": self.mlflow_uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "RAY_ADDRESS": self.ray_address,
            "RAY_API_SERVER_ADDRESS": self.dashboard_url,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.ray_token_path),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray replaces 127.0.0.1 by the machine's outer address, and listens on all, unless this is off.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "NO_PROXY": direct,
            "no_proxy": direct,
        }

    def join(self, given: Mapping[str, str]) -> dict[str, str]:
        """The environment `given` with this cluster in it, but for a store or MLflow of its own.

        SRCLUSTER_STORAGE says that AWS_* name a store of one's own, MLFLOW_TRACKING_URI an MLflow server.
        """
        kept = tuple(itertools.compress(("AWS_", "MLFLOW_TRACKING_"), self._own(given)))
        ours = {name: value for name, value in self.environment().items() if not name.startswith(kept)}
        if url := given.get("SRCLUSTER_STORAGE"):
            ours["SRCLUSTER_STORAGE"] = storage.absolute(url)
        foreign = tuple(set(FOREIGN) - set(kept))
        return {name: value for name, value in given.items() if not name.startswith(foreign)} | ours

    def services(self, given: Mapping[str, str]) -> list[str]:
        """The services that `join(given)` needs; MLflow keeps its artefacts in the S3 of this cluster."""
        match self._own(given):
            case True, True:
                return ["ray"]
            case _, True:
                return ["s3", "ray"]
            case _:
                return ["s3", "mlflow", "ray"]

    def _own(self, given: Mapping[str, str]) -> tuple[bool, bool]:
        """Whether `given` names another store, and another MLflow server."""
        store = bool(given.get("SRCLUSTER_STORAGE")) and given.get("AWS_ENDPOINT_URL") != self.s3_endpoint
        return store, given.get("MLFLOW_TRACKING_URI", "") not in ("", self.mlflow_uri)


def digest(environment: Mapping[str, str]) -> str:
    """A word for which store and MLflow an environment names, and by which keys."""
    told = {name: value for name, value in environment.items() if name.startswith(("SRCLUSTER_STORAGE", *FOREIGN))}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def load(state: Path) -> Cluster | None:
    """The cluster that was last up in this folder, whether or not it still is; None if none ever was."""
    try:
        known = json.loads((state / "services.json").read_text())
    except FileNotFoundError:
        return None
    known["processes"] = {name: tuple(leader) for name, leader in known["processes"].items()}
    return Cluster(**known | {"state": state})


def save(cluster: Cluster) -> None:
    known = asdict(cluster) | {"state": str(cluster.state)}
    write_private(cluster.state / "services.json", json.dumps(known, indent=2))


def write_private(path: Path, text: str) -> None:
    """Make or replace a file that only its owner may read."""
    part = path.with_name(f"{path.name}.part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    part.replace(path)


def new_ports() -> dict[str, int]:
    # Below those from which the kernel takes the ports of outgoing connections, above those of Ray's workers.
    candidates = random.sample(range(20_000, 32_000), 1_000)
    return dict(zip(PORTS, filter(is_free, candidates), strict=False))


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of loopback."""
    with socket.socket() as probe:
        # Else a port would seem taken for a minute after its service has ended.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
