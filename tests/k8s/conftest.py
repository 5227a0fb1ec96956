"""The manifests as `kubectl kustomize` builds them."""

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

K8S = Path(__file__).parents[2] / "k8s"
# The bases and overlays; a component can't be built alone.
KUSTOMIZATIONS = [
    *("base", "overlays/cloud", "overlays/cloud-jobs", "overlays/cloud-kueue", "overlays/local", "overlays/local-jobs")
]
JOBS = ["overlays/cloud-jobs", "overlays/cloud-kueue", "overlays/local-jobs"]
UNITS = {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}


def _amount(quantity: Any) -> float:
    """A quantity of Kubernetes: `500m`, `24Gi`, 2."""
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", str(quantity)).groups()
    return float(number) * UNITS[unit]


class Pod(NamedTuple):
    """A pod that a document asks for.

    `sidecars` are containers that KubeRay adds, as far as the document says what they are like.
    """

    name: str
    labels: dict[str, str]
    spec: dict[str, Any]
    sidecars: tuple[dict[str, Any], ...] = ()

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    @property
    def requests(self) -> tuple[float, float]:
        """Cores and bytes of memory."""
        asked = [container["resources"]["requests"] for container in self.containers]
        return sum(_amount(each["cpu"]) for each in asked), sum(_amount(each["memory"]) for each in asked)

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"], *self.sidecars]


@dataclass(frozen=True)
class Build:
    """What `kubectl apply -k` would send."""

    name: str
    documents: list[dict[str, Any]]

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        """The documents of a kind, by name."""
        return {document["metadata"]["name"]: document for document in self.documents if document["kind"] == kind}

    @property
    def variables(self) -> dict[str, str]:
        return self.of("ConfigMap")["srcluster"]["data"]

    @property
    def ray_specs(self) -> list[dict[str, Any]]:
        jobs = [job["spec"]["rayClusterSpec"] for job in self.of("RayJob").values()]
        return [cluster["spec"] for cluster in self.of("RayCluster").values()] + jobs

    @property
    def pods(self) -> list[Pod]:
        return [pod for document in self.documents for pod in _pods(document)]


def _pods(document: dict[str, Any]) -> Iterator[Pod]:
    name, spec = f"{document['kind']} {document['metadata']['name']}", document.get("spec", {})
    match document["kind"]:
        case "Deployment" | "StatefulSet" | "Job":
            yield _pod(name, spec["template"])
        case "RayCluster":
            yield from _ray_pods(name, spec)
        case "RayJob":
            yield from _ray_pods(name, spec["rayClusterSpec"])
            yield _pod(f"{name} submitter", spec["submitterPodTemplate"])


def _ray_pods(name: str, spec: dict[str, Any]) -> Iterator[Pod]:
    autoscaler = spec["autoscalerOptions"] | {"name": "autoscaler"} if spec["enableInTreeAutoscaling"] else None
    yield _pod(f"{name} head", spec["headGroupSpec"]["template"], *filter(None, [autoscaler]))
    for group in spec["workerGroupSpecs"]:
        yield _pod(f"{name} {group['groupName']}", group["template"])


def _pod(name: str, template: dict[str, Any], *sidecars: dict[str, Any]) -> Pod:
    return Pod(name, template["metadata"]["labels"], template["spec"], sidecars)


@functools.cache
def _build(name: str) -> Build:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl, which builds the manifests")
    asked = subprocess.run(
        ["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True, check=True, timeout=120
    )
    version = json.loads(asked.stdout)["clientVersion"]
    # The first with kustomize 5, which merges and replaces as the manifests want it.
    if (int(version["major"]), int(version["minor"].rstrip("+"))) < (1, 27):
        pytest.skip(f"kubectl is {version['gitVersion']}, and the manifests need 1.27")
    built = subprocess.run(["kubectl", "kustomize", str(K8S / name)], capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    return Build(name, list(yaml.safe_load_all(built.stdout)))


@pytest.fixture
def amount() -> Callable[[Any], float]:
    return _amount


@pytest.fixture(params=KUSTOMIZATIONS)
def build(request) -> Build:
    """Each kustomization in turn."""
    return _build(request.param)


@pytest.fixture(params=JOBS)
def whole(request) -> Build:
    """Each overlay with its jobs."""
    return _build(request.param)
