"""What Ray's own planner makes of the manifests: which pods it adds for work that waits."""

import re
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.common_pb2 import LabelSelectorOperator

from srcluster.cluster.tasks import CPU_NODES

SOURCE = Path(__file__).parents[2] / "srcluster"


def pods_for(cluster: dict[str, Any], count: int, resources: dict[str, float], nodes: dict[str, str]) -> dict[str, int]:
    """The pods, by group, that the autoscaler of a new cluster asks for when `count` tasks wait."""
    config = AutoscalingConfig(_derive_autoscaling_config_from_ray_cr(cluster))
    # As Ray reads `!value` in a selector of labels.
    not_in = LabelSelectorOperator.LABEL_OPERATOR_NOT_IN
    selector = [(name, not_in, [value.removeprefix("!")]) for name, value in nodes.items()]
    asked = ResourceRequestUtil.make(resources, label_selectors=[selector] if selector else None)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([asked] * count),
    )
    launches = ResourceDemandScheduler(event_logger=None).schedule(request).to_launch
    return {launch.instance_type: launch.count for launch in launches if launch.instance_type != "headgroup"}


def test_all_that_asks_for_cores_alone_asks_for_cpu_nodes():
    asks = [
        path
        for path in SOURCE.rglob("*.py")
        if re.search(r"ScalingConfig\(|with_resources\(|num_cpus=[1-9]", path.read_text())
    ]
    assert len(asks) == 3
    for path in asks:
        assert len(re.findall(r"label_selector=.*(CPU_NODES|nodes)", path.read_text())) == 1, path
        assert "else CPU_NODES" in path.read_text(), path


@pytest.mark.parametrize("waiting", [1, 112, 1000])
def test_work_without_a_gpu_never_asks_for_gpu_pods(whole, waiting):
    cluster = whole.of("RayCluster")["srcluster"]
    (group,) = (group for group in cluster["spec"]["workerGroupSpecs"] if group["groupName"] == "cpu")
    pods = pods_for(cluster, waiting, {"CPU": 1}, CPU_NODES)
    cores = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert pods == {"cpu": min(group["maxReplicas"], -(-waiting // cores))}


def test_without_the_label_it_would_once_the_cpu_group_is_full(whole):
    groups = [group["groupName"] for group in whole.of("RayCluster")["srcluster"]["spec"]["workerGroupSpecs"]]
    asked = pods_for(whole.of("RayCluster")["srcluster"], 1000, {"CPU": 1}, {})
    assert asked.get("gpu", 0) == (8 if "gpu" in groups else 0)


def test_work_with_a_gpu_asks_for_gpu_pods_alone(whole):
    cluster = whole.of("RayCluster")["srcluster"]
    if whole.name.startswith("overlays/cloud"):
        assert pods_for(cluster, 100, {"CPU": 7, "GPU": 1}, {}) == {"gpu": 8}
