"""What several tests share: real services, one by one, and the benchmark pictures."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from PIL import Image

from srcluster import cli, local
from srcluster.data import benchmarks

TINY_SWEEP = {
    "recipe": "srcnn",
    "overrides": {
        "model": {"kind": "srcnn", "kernel_sizes": [5, 1, 3], "features": [4, 4]},
        "steps": 40,
        "data.patch": 32,
        "data.batch": 2,
        "log_every_steps": 10,
        "evaluation": {"benchmarks": ["pieces"], "every_steps": 20, "pictures": 1},
        "checkpoint.every_steps": 20,
    },
    "parameters": {"optimizer": {"grid": [{"kind": "adam", "lr": 1e-3}, {"kind": "sgd", "lr": 1e30}]}},
}

IMPATIENT = {"SRCLUSTER_LEASE_BEAT_S": "1", "SRCLUSTER_RESIZE_S": "5"}
"""So that a test need not wait as long as is wise elsewhere: for a driver that died, and for a worker that may join."""

LONGEST = ("train/test_train.py", "sweep/test_sweep.py", "hosts/", "train/", "sweep/", "tracking/", "upscale/", "pack/")
"""The files that come first, so that of several processes none is left alone with one of them at the end."""

# Several processes share the cores, and torch's threads would wait for one another: tiles took nine times as long.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# Where the tests run in a shell's background it is ignored, and so it would be by what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="Run the tests that are marked slow as well.")


_RUN = "SUITE_RUN"
"""The variable by which what a run of the tests started is known, whatever became of who started it."""


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        os.environ[_RUN] = uuid.uuid4().hex


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what is left: at Ctrl-C the processes of xdist are killed, and what they had started is not."""
    if hasattr(config, "workerinput"):
        return
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(_RUN) == os.environ[_RUN]:
                process.kill()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: tools/test --slow"))
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    if not any(map(item.get_closest_marker, ("hosts", "cluster"))):
        return len(LONGEST) + 1
    file = item.path.relative_to(Path(__file__).parent).as_posix()
    return next((turn for turn, start in enumerate(LONGEST) if file.startswith(start)), len(LONGEST))


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


class Cutter:
    """A TCP proxy before the store that cuts each connection after it has passed on some bytes of the answer."""

    def __init__(self, endpoint: str, limits: list[int]) -> None:
        host, port = endpoint.removeprefix("http://").split(":")
        self.target = (host, int(port))
        self.limits = itertools.chain(limits, itertools.repeat(1 << 40))
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            store = socket.create_connection(self.target)
            threading.Thread(target=self._pass, args=(client, store, 1 << 40), daemon=True).start()
            threading.Thread(target=self._pass, args=(store, client, next(self.limits)), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket, limit: int) -> None:
        with suppress(OSError):
            while limit > 0 and (data := source.recv(min(limit, 1 << 16))):
                sink.sendall(data)
                limit -= len(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def cut(s3, monkeypatch):
    """Put a Cutter between the test and the store."""
    cutters = []

    def begin(*limits: int) -> Cutter:
        cutters.append(Cutter(s3.cluster.s3_endpoint, list(limits)))
        monkeypatch.setenv("AWS_ENDPOINT_URL", cutters[-1].endpoint)
        return cutters[-1]

    yield begin
    for cutter in cutters:
        cutter.listener.close()


@pytest.fixture(scope="session")
def data_sets() -> Path:
    """The folder of Set5, Set14, BSD100, T91 and coco."""
    folder = os.environ.get("SRCLUSTER_DATA")
    if folder is None:
        pytest.skip("SRCLUSTER_DATA names no folder of benchmark pictures")
    return Path(folder)


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """The folder of VGG16's weights of ImageNet."""
    folder = Path(os.environ.get("SRCLUSTER_WEIGHTS", ""))
    if not (folder / "vgg16_features_conv2_2.pth").is_file():
        pytest.skip("SRCLUSTER_WEIGHTS names no folder with vgg16_features_conv2_2.pth")
    return folder


@pytest.fixture
def typed(monkeypatch, capsys) -> Callable[..., tuple[object, str]]:
    """Runs the command `srcluster` with some words, in this process; gives its status, and what it printed."""

    def run(*words: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["srcluster", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, "".join(capsys.readouterr())

    return run


@dataclass(frozen=True)
class Shell:
    """Runs verbs as a person does, in a folder with an embedded cluster of its own and a small benchmark, `pieces`."""

    home: Path
    cluster: local.Cluster

    def start(self, verb: str, *arguments: str) -> subprocess.Popen:
        own = ("AWS_", "RAY_", "MLFLOW_", "SRCLUSTER_")
        return self._run(
            {name: value for name, value in os.environ.items() if not name.startswith(own)}, verb, *arguments
        )

    def start_on(self, address: str, verb: str, *arguments: str) -> subprocess.Popen:
        """On a Ray cluster of one's own, with the embedded cluster's S3 and MLflow."""
        own = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_ADDRESS": address}
        return self._run(os.environ | self.cluster.environment() | own, verb, *arguments)

    def _run(self, environment: dict[str, str], verb: str, *arguments: str) -> subprocess.Popen:
        environment = environment | IMPATIENT
        command = [sys.executable, "-m", verb, *arguments]
        return subprocess.Popen(
            command, cwd=self.home, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def write_sweep(self, file: str, **content: object) -> str:
        """A sweep of seconds, with what is given instead of its own; returns the file's name.

        `overrides` are added to its own.
        """
        overrides = TINY_SWEEP["overrides"] | content.pop("overrides", {})
        (self.home / file).write_text(yaml.safe_dump(TINY_SWEEP | content | {"overrides": overrides}))
        return file

    def finish(self, process: subprocess.Popen) -> str:
        """What it printed."""
        printed, _ = process.communicate(timeout=240)
        print(printed)
        return printed

    def wait_for(self, condition: Callable[[], bool], process: subprocess.Popen, timeout_s: float = 180) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                process.kill()
            assert process.poll() is None, self.finish(process)
            time.sleep(0.5)


class RayCluster:
    """A Ray cluster that nodes may join, with the embedded cluster's S3 and MLflow.

    The embedded cluster itself keeps to loopback, and has room for no second node.
    """

    def __init__(self, shell: Shell, folder: Path, *options: str):
        # Ray reads its environment when it is imported.
        import ray

        with socket.create_server(("", 0)) as probe:
            port = probe.getsockname()[1]
        self.address = f"{ray.util.get_node_ip_address()}:{port}"
        self.folder, self.nodes = folder, []
        # The first is Ray's for macOS, and what keeps the embedded cluster to loopback.
        own = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_health_check_period_ms": "1000"}
        self.environment = os.environ | shell.cluster.environment() | own
        self._start("--head", f"--port={port}", "--dashboard-port=0", f"--temp-dir={folder}", *options)

    def join(self, *options: str) -> psutil.Popen:
        """Start a node."""
        return self._start(f"--address={self.address}", *options)

    def _start(self, *options: str) -> psutil.Popen:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *options]
        with (self.folder / "nodes.log").open("a") as log:
            self.nodes.append(psutil.Popen(command, env=self.environment, stdout=log, stderr=log))
        return self.nodes[-1]

    @staticmethod
    def kill(node: psutil.Popen) -> None:
        """As a machine that loses its power."""
        if node.is_running():
            for process in [*node.children(recursive=True), node]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            node.wait()

    def end(self) -> None:
        for node in self.nodes:
            self.kill(node)
        # For whoever reads why a test failed.
        print((self.folder / "nodes.log").read_text())


@pytest.fixture
def ray_cluster(shell) -> Iterator[Callable[..., RayCluster]]:
    """Starts a cluster, its head with some options of `ray start`."""
    with ExitStack() as stack:

        def begin(*options: str) -> RayCluster:
            # Paths of sockets end at 107 bytes, of which Ray's own part is 70: pytest's folders are too deep. Where the
            # dashboard can't open its socket it ends, and after a minute the whole head.
            short = tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True)
            cluster = RayCluster(shell, Path(stack.enter_context(short)), *options)
            stack.callback(cluster.end)
            return cluster

        yield begin


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    (folder / "pieces").mkdir()
    for image in benchmarks.load("Wheel3", 4).images[:2]:
        Image.fromarray(image.hr[80:144, 120:184]).save(folder / "pieces" / f"{image.name}.png")
    yield folder
    local.stop(local.SERVICES, folder / ".srcluster", timeout_s=0)


@pytest.fixture
def shell(home, monkeypatch) -> Shell:
    """This process is a client of the same cluster."""
    monkeypatch.chdir(home)
    # Else it would have a store or MLflow of its own.
    for name in ("SRCLUSTER_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    cluster = local.up(home / ".srcluster")
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    return Shell(home, cluster)
