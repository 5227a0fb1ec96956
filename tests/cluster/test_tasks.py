"""Tasks on a cluster: what they give outlives it."""

import os
import subprocess
import sys

import pytest

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
