"""Who may speak to whom: the NetworkPolicies, read as Kubernetes reads them."""

from typing import Any

import pytest

PUBLIC = {"public": "address"}
"""Stands for an address outside, which no pod selector matches."""

EVERYWHERE = [
    ("head", "worker", 31337, True),
    ("worker", "head", 6379, True),
    ("worker", "worker", 40001, True),
    ("head", "mlflow", 5000, True),
    ("worker", "mlflow", 5000, True),
    ("mlflow", "postgres", 5432, True),
    ("submitter", "head", 8265, True),
    ("submitter", "head", 6379, False),
    ("submitter", "mlflow", 5000, False),
    ("mlflow", "head", 8265, False),
    ("worker", "postgres", 5432, False),
    ("head", "postgres", 5432, False),
    ("postgres", "mlflow", 5000, False),
    ("head", PUBLIC, 443, True),
    ("head", PUBLIC, 80, True),
    ("worker", PUBLIC, 80, False),
    ("postgres", PUBLIC, 443, False),
    ("submitter", PUBLIC, 443, False),
    *((component, PUBLIC, 53, True) for component in ("head", "worker", "mlflow", "postgres", "submitter")),
]
LOCAL = [
    *((component, "seaweedfs", 8333, True) for component in ("head", "worker", "mlflow", "bucket")),
    ("postgres", "seaweedfs", 8333, False),
    # The filer, which asks for no key.
    ("worker", "seaweedfs", 8888, False),
    ("worker", PUBLIC, 443, False),
]
CLOUD = [("worker", PUBLIC, 443, True), ("mlflow", PUBLIC, 443, True)]


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions)
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )


def lets(policies: list[dict], side: str, mine: dict[str, str], other: dict[str, str], port: int) -> bool:
    """Whether a pod may begin (`egress`) or take (`ingress`) a connection."""
    rules = [
        rule
        for policy in policies
        if matches(policy["podSelector"], mine) and side.capitalize() in policy["policyTypes"]
        for rule in policy.get(side, [])
    ]
    return any(_lets(rule, "to" if side == "egress" else "from", other, port) for rule in rules)


def _lets(rule: dict[str, Any], key: str, other: dict[str, str], port: int) -> bool:
    peers = rule.get(key)
    peer = peers is None or any(
        ("ipBlock" in peer and other == PUBLIC)
        # One with a namespaceSelector is of another namespace.
        or ("podSelector" in peer and "namespaceSelector" not in peer and matches(peer["podSelector"], other))
        for peer in peers
    )
    return peer and ("ports" not in rule or any(allowed["port"] == port for allowed in rule["ports"]))


def test_connections(whole):
    policies = [policy["spec"] for policy in whole.of("NetworkPolicy").values()]
    labels = {pod.component: pod.labels for pod in whole.pods}
    for source, target, port, expected in EVERYWHERE + (LOCAL if "local" in whole.name else CLOUD):
        there = target if target == PUBLIC else labels[target]
        answer = lets(policies, "egress", labels[source], there, port) and (
            there == PUBLIC or lets(policies, "ingress", there, labels[source], port)
        )
        assert answer == expected, (source, target, port)


def test_every_selector_selects_something(whole):
    everyone = [pod.labels for pod in whole.pods]
    for name, policy in whole.of("NetworkPolicy").items():
        selectors = [policy["spec"]["podSelector"]]
        for side, key in (("ingress", "from"), ("egress", "to")):
            peers = [peer for rule in policy["spec"].get(side, []) for peer in rule.get(key, [])]
            selectors += [peer["podSelector"] for peer in peers if "podSelector" in peer and len(peer) == 1]
        for selector in selectors:
            assert any(matches(selector, labels) for labels in everyone), (name, selector)
    (budget,) = whole.of("PodDisruptionBudget").values()
    assert any(matches(budget["spec"]["selector"], labels) for labels in everyone)


def test_nobody_asks_the_nodes_metadata_service(whole):
    """It is an address like any other to a rule, and hands out the node's credentials."""
    for name, policy in whole.of("NetworkPolicy").items():
        for rule in policy["spec"].get("egress", []):
            if "to" not in rule:
                assert {port["port"] for port in rule["ports"]} == {53}, name
            for peer in rule.get("to", []):
                assert "ipBlock" not in peer or "169.254.169.254/32" in peer["ipBlock"]["except"], name


def test_services_find_their_pods(whole):
    for name, service in whole.of("Service").items():
        pods = [pod for pod in whole.pods if matches({"matchLabels": service["spec"]["selector"]}, pod.labels)]
        assert len(pods) == 1, name
        named = {port["name"]: port["containerPort"] for port in pods[0].containers[0]["ports"]}
        for port in service["spec"]["ports"]:
            assert named[port["targetPort"]] == port["port"], name


@pytest.mark.parametrize("port", [5000, 8265])
def test_nobody_else_comes_in(whole, port: int):
    policies = [policy["spec"] for policy in whole.of("NetworkPolicy").values()]
    for pod in whole.pods:
        assert not lets(policies, "ingress", pod.labels, {"app.kubernetes.io/component": "stranger"}, port), pod.name
