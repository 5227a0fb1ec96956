"""What several tests share: real services, one by one, and the benchmark pictures."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from srcluster import local


@dataclass(frozen=True)
class Server:
    """A service of an embedded cluster that tests may kill and start again, with the same address and data."""

    name: str
    cluster: local.Cluster

    @property
    def bucket_url(self) -> str:
        return f"s3://{self.cluster.bucket}"

    def stop(self) -> None:
        """Kill it, as a crash would."""
        local.stop([self.name], self.cluster.state, timeout_s=0)

    def start(self) -> None:
        local.start([self.name], self.cluster.state)


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of the services that tests share."""
    folder = tmp_path_factory.mktemp("cluster")
    yield folder
    local.stop(local.SERVICES, folder, timeout_s=0)


@pytest.fixture(scope="session")
def s3(state: Path) -> Iterator[Server]:
    """A real S3 store, which the AWS variables name."""
    yield from _served("s3", state, ("AWS_",))


@pytest.fixture(scope="session")
def mlflow_server(state: Path, s3: Server) -> Iterator[Server]:
    """A real tracking server, which MLFLOW_TRACKING_URI names; it keeps its artefacts in the S3 store."""
    yield from _served("mlflow", state, ("MLFLOW_", "DO_NOT_TRACK"))


def _served(name: str, state: Path, prefixes: tuple[str, ...]) -> Iterator[Server]:
    cluster = local.start([name], state)
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in cluster.environment().items():
            if variable.startswith((*prefixes, "NO_PROXY", "no_proxy")):
                patch.setenv(variable, value)
        yield Server(name, cluster)


@pytest.fixture(scope="session")
def data_sets() -> Path:
    """The folder of Set5, Set14, BSD100, T91 and coco."""
    folder = os.environ.get("SRCLUSTER_DATA")
    if folder is None:
        pytest.skip("SRCLUSTER_DATA names no folder of benchmark pictures")
    return Path(folder)
