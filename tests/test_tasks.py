"""Tasks on a cluster: what they give outlives it."""

import os
import subprocess
import sys

import pytest

TWICE = """
import sys
import numpy as np
from srcluster.tasks import starmap

first = list(starmap(np.full, [((1000, 1000), number) for number in (1, 2)], sys.argv[1]))
list(starmap(np.full, [((1000, 1000), number) for number in range(3, 9)], sys.argv[1]))
assert sorted(array.min() for array in first) == sorted(array.max() for array in first) == [1, 2]
"""


@pytest.mark.cluster
def test_arrays_outlive_the_cluster(shell):
    # In a process of its own: Ray reads its environment when it is imported.
    environment = os.environ | shell.cluster.environment()
    subprocess.run([sys.executable, "-c", TWICE, shell.cluster.ray_address], env=environment, check=True, timeout=120)
