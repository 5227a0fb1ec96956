"""What runs at the same time, at every moment of every job, and whether it fits."""

import re
from pathlib import Path
from string import Template

import pytest

README = (Path(__file__).parents[2] / "k8s" / "README.md").read_text()
GIB = 2**30

MACHINE = (4, 16e9)
"""Cores, and bytes, of the machine that overlays/local is for."""

KUBERNETES = (1.05, 0.8 * GIB)
"""What the pods of Kubernetes itself on kind (0.95 cores, 290 MiB) and of KubeRay's operator (0.1, 512 MiB) ask for."""


def total(pods) -> tuple[float, float]:
    """Cores and bytes that some pods, each with how many of it there are, ask for."""
    asked = [(pod.requests, count) for pod, count in pods]
    return sum(cores * count for (cores, _), count in asked), sum(size * count for (_, size), count in asked)


def staying(build) -> list:
    """The pods that are there without any job."""
    hands = [] if build.of("RayCluster")["srcluster"]["spec"].get("suspend") else ["RayCluster srcluster head"]
    return [(pod, 1) for pod in build.pods if pod.name.startswith(("Deployment", "StatefulSet")) or pod.name in hands]


def of_job(build, job: str) -> list:
    """The pods of a job when it has all the workers that it can get."""
    spec = build.of("RayJob")[job]["spec"]["rayClusterSpec"]
    command = Template(build.of("RayJob")[job]["spec"]["entrypoint"]).substitute(build.variables)
    counts = {"head": 1, "submitter": 1}
    if job != "fetch":
        for_gpu = "--gpu " in command or (job == "sweep-upsamplers" and "--gpus 0" not in command)
        (group,) = (each for each in spec["workerGroupSpecs"] if each["groupName"] == ("gpu" if for_gpu else "cpu"))
        ranks = re.search(r"--workers (?:\d+\.\.)?(\d+)", command)
        most = min(int(ranks[1]) if ranks else 1000, group["maxReplicas"])
        counts[group["groupName"]] = most if spec["enableInTreeAutoscaling"] else group["replicas"]
    pods = {pod.name.removeprefix(f"RayJob {job} "): pod for pod in build.pods if pod.name.startswith(f"RayJob {job} ")}
    return [(pods[name], count) for name, count in counts.items()]


def moments(build) -> dict[str, list]:
    """The pods at each moment; a job may begin when the one before it has just ended."""
    jobs = build.of("RayJob")
    found = {"without a job": staying(build)}
    for job, document in jobs.items():
        found[f"`{job}`"] = staying(build) + of_job(build, job)
        for before in jobs if document["spec"]["ttlSecondsAfterFinished"] else ():
            # Its submitter has ended; its cluster has not.
            rest = [(pod, count) for pod, count in of_job(build, before) if "submitter" not in pod.name]
            found[f"{job} after {before}"] = staying(build) + of_job(build, job) + rest
    return found


@pytest.mark.parametrize("whole", ["overlays/local-jobs"], indirect=True)
def test_every_moment_of_every_job_fits_into_the_small_machine(whole):
    for name, pods in moments(whole).items():
        for asked, kubernetes, there in zip(total(pods), KUBERNETES, MACHINE, strict=True):
            assert asked + kubernetes <= there, name


def test_every_pod_fits_into_a_node_of_its_overlay(whole):
    cores, size = MACHINE if "local" in whole.name else (8, 32 * GIB)
    for pod in whole.pods:
        asked = pod.requests
        assert asked[0] <= cores - 0.5, pod.name
        assert asked[1] <= size - GIB, pod.name


@pytest.mark.parametrize("whole", ["overlays/local-jobs", "overlays/cloud-jobs"], indirect=True)
def test_the_readme_says_what_is_asked_for(whole):
    """The rows of its table: a moment, cores and GiB on `local`, cores and GiB on `cloud`."""
    rows = {
        row[0]: row[1:]
        for row in re.findall(r"^\| (.+?) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|$", README, re.MULTILINE)
    }
    for name, pods in moments(whole).items():
        if " after " not in name:
            cores, size = total(pods)
            mine = rows[name][:2] if "local" in whole.name else rows[name][2:]
            assert mine == (f"{cores:.4g}", f"{size / GIB:.4g}"), name
