"""Tasks on a cluster: what they give outlives it; a cluster that is not there is known within seconds."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srcluster.cluster import tasks
from srcluster.errors import UserError

ROOT = Path(__file__).parents[2] / "srcluster"


@pytest.mark.parametrize("address", ["{}", "ray://{}", "127.0.0.1:1", "nowhere", "nowhere.invalid:6379"])
def test_a_dead_address_is_known_within_seconds(monkeypatch, address):
    """Also where something listens that is no gRPC server."""
    monkeypatch.setattr(tasks, "_REACH_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = address.format(f"127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(UserError, match=r"no Ray cluster answers at .*: start it"):
            tasks.connect(address)
    assert time.monotonic() - began < 5


def test_every_verb_joins_ray_by_connect():
    joins = [path for path in ROOT.rglob("*.py") if re.search(r"\bray\.init\(", path.read_text())]
    assert joins == [ROOT / "cluster" / "tasks.py"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConnectionError("Failed to connect"), "does not let us in, or another server is there: give its token"),
        (RuntimeError("Version mismatch: the cluster was started with Ray: 2.50.0"), "other versions: .*Ray: 2.50.0"),
    ],
)
def test_a_cluster_that_refuses_is_no_defect(monkeypatch, error, sentence):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(tasks, "check_reachable", lambda address: None)
    monkeypatch.setattr(tasks.ray, "init", refuse)
    with pytest.raises(UserError, match=sentence):
        tasks.connect("head:6379")


TWICE = """
import sys
import numpy as np
from srcluster.cluster.tasks import starmap

first = list(starmap(np.full, [((1000, 1000), number) for number in (1, 2)], sys.argv[1]))
list(starmap(np.full, [((1000, 1000), number) for number in range(3, 9)], sys.argv[1]))
assert sorted(array.min() for array in first) == sorted(array.max() for array in first) == [1, 2]
"""


@pytest.mark.cluster
def test_arrays_outlive_the_cluster(shell):
    # In a process of its own: Ray reads its environment when it is imported.
    environment = os.environ | shell.cluster.environment()
    subprocess.run([sys.executable, "-c", TWICE, shell.cluster.ray_address], env=environment, check=True, timeout=120)


DYING = """
import os
import sys
from srcluster.cluster.tasks import starmap

def die(number):
    return number if number < 3 else os._exit(1)

given = starmap(die, [(number,) for number in range(4)], sys.argv[1], on_death=lambda number, reason: reason)
assert sorted(map(str, given))[:3] == ["0", "1", "2"], given
"""


@pytest.mark.cluster
def test_a_call_whose_process_dies_ends_no_other(shell):
    environment = os.environ | shell.cluster.environment()
    subprocess.run([sys.executable, "-c", DYING, shell.cluster.ray_address], env=environment, check=True, timeout=120)


def test_workers_are_told_what_decides_which_pictures_are_taken(tmp_path):
    code = "from srcluster.cluster.tasks import worker_env; print(worker_env())"
    told = {"SRCLUSTER_DATA": str(tmp_path), "SRCLUSTER_PICTURE_GB": "3", "AWS_SECRET_ACCESS_KEY": "a secret"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | told, check=True, capture_output=True, text=True
    )
    assert str(tmp_path) in said.stdout
    assert "'SRCLUSTER_PICTURE_GB': '3'" in said.stdout
    assert "secret" not in said.stdout


BUSY = """
import sys
import ray

@ray.remote(num_cpus=0)
class Everything:
    def held(self):
        return True

ray.init(sys.argv[1], log_to_driver=False)
holder = Everything.options(num_cpus=ray.cluster_resources()["CPU"]).remote()
assert ray.get(holder.held.remote())
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.cluster
def test_a_full_cluster_is_waited_for_and_said_to_be(shell):
    environment = os.environ | shell.cluster.environment()
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, shell.cluster.ray_address],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert "held" in holder.stdout.readline()
        evaluation = shell.start("srcluster.evaluate", "nearest", "--on", "pieces", "--address", "local")
        assert "has no room yet: waiting until it has (--address none" in evaluation.stdout.readline()
        assert evaluation.poll() is None
    assert "nearest" in shell.finish(evaluation)
    assert evaluation.returncode == 0
