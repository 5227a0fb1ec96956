"""Tasks on a cluster: what they give outlives it."""

import numpy as np
import pytest


@pytest.mark.cluster
def test_arrays_outlive_the_cluster(shell):
    from srcluster.tasks import starmap

    shape = (1000, 1000)
    first = list(starmap(np.full, [(shape, 1), (shape, 2)], shell.cluster.ray_address))
    list(starmap(np.full, [(shape, number) for number in range(3, 9)], shell.cluster.ray_address))
    assert sorted(array.min() for array in first) == sorted(array.max() for array in first) == [1, 2]
    first[0][:] = 0
