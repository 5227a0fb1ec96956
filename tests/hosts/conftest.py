"""Several hosts on one machine: network namespaces with addresses of their own, on a bridge.

The root namespace is the laptop that jobs are submitted from. Each host has its own network, name, folder of Ray and
/dev/shm; what they share is the disk with Python and the benchmark.
"""

import fcntl
import heapq
import itertools
import json
import os
import re
import secrets
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image

from srcluster import storage
from srcluster.data import benchmarks
from srcluster.local.cluster import write_private

REPOSITORY = Path(__file__).parents[2]
PREFIX = "srhosts"
RAY = (sys.executable, "-m", "ray.scripts.scripts")
# So that a test need not wait as long as is wise on a real network.
IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    "SRCLUSTER_RESIZE_S": "5",
}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Host:
    """A namespace on the bridge, and what runs in it."""

    def __init__(self, net: "Net", name: str, number: int, stack: ExitStack):
        self.net, self.name, self.address = net, name, f"{net.subnet}.{number}"
        self.space = f"{PREFIX}{os.getpid()}-{name}"
        # At most 15 letters.
        self.plug = f"sr{os.getpid()}{name[:1]}{number}"
        self.folder = net.folder / name
        (self.folder / "ray").mkdir(parents=True)
        stack.callback(self.remove)
        etc = Path("/etc/netns", self.space)
        etc.mkdir(parents=True)
        # As Debian's installer writes it: a host's own name is no address that others reach it by.
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        ip("netns", "add", self.space)
        ip("link", "add", self.plug, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        ip("link", "set", self.plug, "master", net.bridge, "up")
        ip("-n", self.space, "link", "set", "lo", "up")
        ip("-n", self.space, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.space, "link", "set", "eth0", "up")

    def start(self, log: str, *command: str, **environment: str) -> subprocess.Popen:
        own = ("AWS_", "RAY_", "MLFLOW_", "SRCLUSTER_", "PYTHONPATH")
        inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        inherited = {name: value for name, value in inherited.items() if not name.startswith(own)}
        # A name and temporary folders of its own, as another machine has them.
        script = f'hostname {self.name}; mount --bind {self.folder}/ray "$0"; mount -t tmpfs shm /dev/shm; exec "$@"'
        inside = ["ip", "netns", "exec", self.space, "unshare", "--uts", "--mount", "sh", "-ec", script]
        with (self.folder / f"{log}.log").open("ab") as output:
            return subprocess.Popen(
                [*inside, str(self.net.ray_folder), *command],
                cwd=self.folder,
                env=inherited | self.net.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def processes(self) -> list[int]:
        listed = subprocess.run(["ip", "netns", "pids", self.space], capture_output=True, text=True, check=False)
        return [int(pid) for pid in listed.stdout.split()]

    def kill(self) -> None:
        """As a machine that loses its power."""
        while pids := self.processes():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def cable(self, state: str) -> None:
        """Pull it out, `down`, or plug it in, `up`."""
        ip("link", "set", self.plug, state)

    @contextmanager
    def far_away(self, delay_s: float) -> Iterator[None]:
        """Lay a cable to a host that takes `delay_s` each way, of two taps and a thread between them.

        Where the kernel has netem, `tc` could do this; it rarely has in a container.
        """
        inner, outer = f"{self.plug}a", f"{self.plug}b"
        taps = [_tap(inner), _tap(outer)]
        ip("link", "set", inner, "netns", self.space)
        (link,) = json.loads(subprocess.check_output(["ip", "-j", "-n", self.space, "link", "show", "eth0"]))
        ip("-n", self.space, "link", "del", "eth0")
        ip("-n", self.space, "link", "set", inner, "name", "eth0", "address", link["address"])
        ip("-n", self.space, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.space, "link", "set", "eth0", "up")
        ip("link", "set", outer, "master", self.net.bridge, "up")
        self.delay_s = delay_s
        ended = threading.Event()
        thread = threading.Thread(target=_carry, args=(taps, lambda: self.delay_s, ended))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            for tap in taps:
                os.close(tap)

    def is_counted_on(self) -> bool:
        """Whether Ray takes it for alive."""
        head = f"http://{self.net.head.address}:8265"
        token = Path(self.net.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(f"{head}/api/v0/nodes", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            nodes = json.load(answer)["data"]["result"]["result"]
        return (self.address, "ALIVE") in [(node["node_ip"], node["state"]) for node in nodes]

    def remove(self) -> None:
        self.kill()
        # A namespace lives on for a while in connections that nobody has closed.
        for made in (("link", "del", self.plug), ("netns", "del", self.space)):
            subprocess.run(["ip", *made], capture_output=True, check=False)
        shutil.rmtree(Path("/etc/netns", self.space), ignore_errors=True)


class Net:
    """A head without cores, workers of one core each, and a host of S3 and MLflow, on one bridge."""

    def __init__(self, folder: Path, stack: ExitStack):
        self.folder, self.bridge, self.stack = folder, f"sr{os.getpid()}", stack
        self.subnet = f"10.{200 + os.getpid() % 50}.{secrets.randbelow(250)}"
        # SeaweedFS names sockets in /tmp by these, and the disk is shared.
        self.s3_port = 10_000 + 2 * (os.getpid() % 10_000)
        self.ray_folder = Path("/tmp", f"{PREFIX}{os.getpid()}")
        self.ray_folder.mkdir()
        stack.callback(self.ray_folder.rmdir)
        ip("link", "add", self.bridge, "type", "bridge")
        stack.callback(ip, "link", "del", self.bridge)
        ip("addr", "add", f"{self.subnet}.1/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        write_private(folder / "token", secrets.token_hex(32))
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{self.subnet}.2:{self.s3_port}",
            "AWS_ACCESS_KEY_ID": secrets.token_hex(10),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_TRACKING_URI": f"http://{self.subnet}.2:5000",
            "MLFLOW_TRACKING_USERNAME": "hosts",
            "MLFLOW_TRACKING_PASSWORD": secrets.token_hex(20),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "SRCLUSTER_STORAGE": "s3://hosts",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.services, self.head, self.first, self.second, self.third = (
            Host(self, name, number, stack)
            for number, name in enumerate(("services", "head", "first", "second", "third"), start=2)
        )
        self.workers = (self.first, self.second, self.third)
        (folder / "pieces").mkdir()
        image = benchmarks.load("Wheel3", 4).images[0]
        Image.fromarray(image.hr[80:144, 120:184]).save(folder / "pieces" / "piece.png")

    def serve(self) -> None:
        """Start S3 and MLflow."""
        host, environment = self.services, self.environment
        key = {"accessKey": environment["AWS_ACCESS_KEY_ID"], "secretKey": environment["AWS_SECRET_ACCESS_KEY"]}
        identity = {"name": "hosts", "credentials": [key], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        write_private(host.folder / "identities.json", json.dumps({"identities": [identity]}))
        weed = Path(sys.executable).parent / "weed"
        options = {
            **{"dir": ".", "ip": host.address, "ip.bind": host.address, "master.telemetry": "false"},
            **{"master.electionTimeout": "1s", "master.volumeSizeLimitMB": 64, "volume.max": 0, "filer": "true"},
            **{"s3": "true", "s3.config": "identities.json", "s3.port.iceberg": 0, "s3.port.lance": 0},
            **{"s3.port": self.s3_port, "filer.port": self.s3_port + 1},
        }
        flags = (f"-{name}={value}" for name, value in options.items())
        host.start("s3", str(weed), "-logtostderr", "server", *flags, HOME=str(host.folder))
        # With a login, as in k8s/.
        settings = (REPOSITORY / "k8s/base/basic_auth.ini").read_text()
        login = re.sub("(?m)^database_uri = .*$", "database_uri = sqlite:///mlflow.db", settings)
        (host.folder / "basic_auth.ini").write_text(login)
        server = ("mlflow", "server", "--serve-artifacts", "--workers=1", f"--host={host.address}")
        where = ("--backend-store-uri=sqlite:///mlflow.db", "--artifacts-destination=s3://hosts/mlflow")
        host.start(
            "mlflow",
            *(sys.executable, "-m", *server, *where, "--app-name=basic-auth"),
            MLFLOW_AUTH_CONFIG_PATH="basic_auth.ini",
            MLFLOW_AUTH_ADMIN_USERNAME=environment["MLFLOW_TRACKING_USERNAME"],
            MLFLOW_AUTH_ADMIN_PASSWORD=environment["MLFLOW_TRACKING_PASSWORD"],
            MLFLOW_FLASK_SERVER_SECRET_KEY=secrets.token_hex(20),
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
            MLFLOW_TRACKING_URI="",
        )

    @staticmethod
    def wait_for(condition: Callable[[], object], timeout_s: float = 600) -> float:
        """Seconds it took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < timeout_s
            time.sleep(0.2)
        return time.monotonic() - began

    def submit(self, *command: str) -> "Job":
        job = Job(self, *command)
        self.stack.callback(job.process.kill)
        return job

    def start_ray(self, host: Host) -> None:
        common = ("start", "--block", "--disable-usage-stats", f"--node-ip-address={host.address}")
        small = ("--object-store-memory=100000000",)
        if host is self.head:
            role = ("--head", "--port=6379", "--num-cpus=0", f"--dashboard-host={host.address}")
            role += (f"--temp-dir={self.ray_folder}",)
        else:
            role = (f"--address={self.head.address}:6379", "--num-cpus=1")
        # A supervisor that starts it whenever it has ended, as on a real host.
        forever = ("sh", "-c", 'while :; do "$@"; sleep 1; done', "ray")
        host.start("ray", *forever, *RAY, *common, *small, *role, **IMPATIENT)


def _tap(name: str) -> int:
    """A network interface whose cable ends in a file."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    set_interface, is_tap, without_header = 0x400454CA, 0x0002, 0x1000
    fcntl.ioctl(tap, set_interface, struct.pack("16sH22x", name.encode(), is_tap | without_header))
    return tap


def _carry(taps: list[int], delay_s: Callable[[], float], ended: threading.Event) -> None:
    """Pass frames from each tap to the other, later."""
    others = dict(zip(taps, reversed(taps), strict=True))
    waiting: list[tuple[float, int, int, bytes]] = []
    for number in itertools.count():
        if ended.is_set():
            return
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.1
        for tap in select.select(taps, [], [], pause)[0]:
            with suppress(OSError):
                heapq.heappush(waiting, (time.monotonic() + delay_s(), number, others[tap], os.read(tap, 1 << 16)))
        while waiting and waiting[0][0] <= time.monotonic():
            *_, tap, frame = heapq.heappop(waiting)
            with suppress(OSError):
                os.write(tap, frame)


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Iterator[Net]:
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces take root and iproute2")
    probe = f"{PREFIX}{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
    ip("netns", "del", probe)
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        net = Net(tmp_path_factory.mktemp("hosts"), stack)
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        for name, value in net.environment.items():
            patch.setenv(name, value)
        # The tests ask it themselves, by connections that a pulled cable may have left dead.
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        net.serve()
        net.start_ray(net.head)
        net.wait_for(lambda: answers(f"{net.environment['AWS_ENDPOINT_URL']}/healthz"))
        storage.make_bucket("s3://hosts")
        net.wait_for(lambda: answers(f"http://{net.services.address}:5000/health"))
        net.wait_for(lambda: answers(f"http://{net.head.address}:52365/api/healthz"))
        net.start_ray(net.first)
        net.start_ray(net.second)
        yield net


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=2):
        return True
    return False


class Job:
    """A command submitted from outside, and what it says, each line with the time since."""

    def __init__(self, net: Net, *command: str):
        self.net, self.began, self.lines = net, time.monotonic(), []
        submit = [*RAY, "job", "submit", "--working-dir", str(REPOSITORY), "--", "python", "-m", *command]
        address = f"http://{net.head.address}:8265"
        # `ray job submit` would pass a job's lines on to a pipe at the job's end.
        environment = os.environ | {"RAY_API_SERVER_ADDRESS": address, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            submit, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append((time.monotonic() - self.began, line.rstrip()))
            print(f"{self.lines[-1][0]:7.1f}  {self.lines[-1][1]}")

    def times(self, pattern: str) -> list[float]:
        """When it said something."""
        return [seconds for seconds, line in self.lines if re.search(pattern, line)]

    def wait_until(self, condition: Callable[[], object]) -> float:
        """Seconds until the condition holds; the job must not end before."""

        def holds() -> object:
            assert self.process.poll() is None
            return condition()

        return self.net.wait_for(holds)

    def wait_for(self, pattern: str, count: int = 1) -> None:
        self.wait_until(lambda: len(self.times(pattern)) >= count)

    def finish(self) -> None:
        assert self.process.wait(timeout=600) == 0
        self.reader.join()
