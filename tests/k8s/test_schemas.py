"""Every manifest against its schema: those of Kubernetes, and those of KubeRay."""

import copy
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

KUBERNETES = "1.34"


def closed(schema: Any) -> Any:
    """A structural schema of a CRD that refuses what Kubernetes would silently drop: fields that it does not know."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {key: value for key, value in schema.items() if key != "type"}
    # Below `properties` the keys are fields, which may be called like words of a schema.
    shut = {
        key: {name: closed(part) for name, part in value.items()} if key == "properties" else closed(value)
        for key, value in schema.items()
    }
    if schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        shut.setdefault("additionalProperties", False)
    if schema.get("nullable"):
        return {"anyOf": [shut, {"type": "null"}]}
    return shut


@cache
def ray_validator(kind: str) -> jsonschema.Draft202012Validator:
    folder = os.environ.get("SRCLUSTER_CRDS")
    if folder is None:
        pytest.skip("SRCLUSTER_CRDS names no folder of KubeRay's CRDs")
    text = (Path(folder) / f"ray.io_{kind.lower()}s.yaml").read_text()
    # The one in C reads a megabyte in a second.
    versions = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
    (schema,) = (version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1")
    schema = closed(schema)
    # That of every object, which Kubernetes checks by itself.
    schema["properties"]["metadata"] = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 47}, "namespace": {}, "labels": {}, "annotations": {}},
        "additionalProperties": False,
    }
    return jsonschema.Draft202012Validator(schema)


def check(document: dict[str, Any]) -> None:
    if document["kind"] == "LocalQueue":
        # Its schema is Kueue's own.
        assert document["apiVersion"] == "kueue.x-k8s.io/v1beta1"
        assert document["spec"].keys() == {"clusterQueue"}
    elif document["apiVersion"].startswith("ray.io/"):
        assert document["apiVersion"] == "ray.io/v1"
        ray_validator(document["kind"]).validate(document)
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_core_kinds(whole):
    documents = [document for document in whole.documents if not document["apiVersion"].startswith("ray.io/")]
    assert len(documents) > 10
    for document in documents:
        check(document)


def test_ray_kinds(whole):
    documents = [document for document in whole.documents if document["apiVersion"].startswith("ray.io/")]
    assert documents
    for document in documents:
        check(document)


def _worker(document: dict[str, Any]) -> dict[str, Any]:
    return document["spec"]["workerGroupSpecs"][0]


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("Deployment", lambda it: it["spec"].update(replica=2)),
        ("Deployment", lambda it: it["spec"]["template"]["spec"]["containers"][0].update(envfrom=[])),
        ("NetworkPolicy", lambda it: it["spec"].update(policyTypes="Ingress")),
        ("RayCluster", lambda it: it["spec"].update(autoscalerOption={})),
        ("RayCluster", lambda it: it["spec"]["authOptions"].update(mode="tokens")),
        ("RayCluster", lambda it: _worker(it).update(minReplicas="0")),
        ("RayCluster", lambda it: _worker(it)["rayStartParams"].update({"num-cpus": 0})),
        ("RayCluster", lambda it: _worker(it)["template"]["spec"].update(toleration=[])),
        ("RayCluster", lambda it: _worker(it)["template"]["spec"]["containers"][0].pop("name")),
        ("RayCluster", lambda it: it["metadata"].update(label={})),
        ("RayJob", lambda it: it["spec"].update(entryPoint="")),
        ("RayJob", lambda it: it["spec"].update(preRunningDeadlineSeconds=0)),
        ("RayJob", lambda it: it["spec"]["rayClusterSpec"].update(rayVersions="2.60.0")),
    ],
)
def test_what_is_misspelt_is_refused(whole, kind: str, spoil: Callable[[dict], Any]):
    document = copy.deepcopy(next(iter(whole.of(kind).values())))
    check(document)
    spoil(document)
    with pytest.raises(jsonschema.ValidationError):
        check(document)
