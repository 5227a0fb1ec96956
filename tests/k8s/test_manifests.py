"""What schemas don't see: that the manifests agree with each other, with the code, and with restricted pod security."""

import configparser
import importlib
import re
import shlex
from pathlib import Path
from string import Template
from typing import Any

import pytest
import typer

from srcluster import recipe
from srcluster.sweep.plan import Sweep, load_sweep

ROOT = Path(__file__).parents[2]
README = (ROOT / "k8s" / "README.md").read_text()
DOCKERFILE = (ROOT / "k8s" / "Dockerfile").read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()
JOBS = ["fetch", "pack-coco", "sweep-srcnn", "sweep-upsamplers", "train-perceptual", "train-srresnet"]

# The Secrets, which the README says how to make.
SECRETS = {
    "s3": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
    "mlflow": {"MLFLOW_TRACKING_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"},
    "postgres": {"POSTGRES_PASSWORD"},
}


def typed(build, job: str) -> list[str]:
    """The command of a job, as the submitter's shell makes words of it."""
    return shlex.split(Template(build.of("RayJob")[job]["spec"]["entrypoint"]).substitute(build.variables))


def parsed(words: list[str]) -> dict[str, Any]:
    """The arguments that a verb would be called with."""
    module = words[2].removeprefix("srcluster.")
    app = typer.Typer()
    app.command()(getattr(importlib.import_module(f"{words[2]}.__main__"), module))
    return typer.main.get_command(app).make_context(words[2], words[3:]).params


def sweep_of(said: dict[str, Any]) -> Sweep:
    """The sweep of a command's arguments: sweeps/ is in the image below /srcluster."""
    resources = {"workers": said["workers"], "cpu": said["cpus"], "gpu": said["gpus"]}
    overrides = recipe.parse_overrides(said["overrides"])
    return load_sweep(ROOT / said["file"].relative_to("/srcluster"), resources, overrides)


def test_ray_is_the_same_everywhere(build):
    (ray,) = re.findall(r"^ray==(\S+)$", (ROOT / "tools" / "constraints.txt").read_text(), re.MULTILINE)
    (ours,) = re.findall(r'^version = "(.+)"$', PROJECT, re.MULTILINE)
    for spec in build.ray_specs:
        assert spec["rayVersion"] == ray
    images = {container["image"] for pod in build.pods for container in pod.containers if "image" in container}
    images = {image for image in images if "srcluster" in image}
    devices = ("cpu",) if "local" in build.name else ("cpu", "cuda")
    assert {image.rpartition("/")[2] for image in images} == {
        f"srcluster-{device}:{ours}-ray{ray}" for device in devices
    }
    assert set(re.findall(r"srcluster-\w+:([\w.-]+\w)", DOCKERFILE + README)) == {f"{ours}-ray{ray}"}


def test_images_are_pinned(build):
    for pod in build.pods:
        for container in pod.containers:
            assert "image" not in container or re.search(r":[\w.-]*\d[\w.-]*$", container["image"]), pod.name


def test_what_is_named_is_there(build):
    maps = build.of("ConfigMap")
    for pod in build.pods:
        assert pod.spec["serviceAccountName"] in build.of("ServiceAccount"), pod.name
        volumes = pod.spec.get("volumes", [])
        # Of the volumes that restricted pod security allows.
        assert all(volume.keys() <= {"name", "emptyDir", "configMap"} for volume in volumes), pod.name
        assert {volume["configMap"]["name"] for volume in volumes if "configMap" in volume} <= maps.keys(), pod.name
        kind, owner = pod.name.split()[:2]
        claims = [claim["metadata"] for claim in build.of(kind)[owner]["spec"].get("volumeClaimTemplates", [])]
        for container in pod.containers:
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= {volume["name"] for volume in [*volumes, *claims]}, pod.name
            for source in container.get("envFrom", []):
                known = maps if "configMapRef" in source else SECRETS
                assert next(iter(source.values()))["name"] in known, pod.name
            for variable in container.get("env", []):
                if key := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert key["key"] in SECRETS[key["name"]], pod.name
                if key := variable.get("valueFrom", {}).get("configMapKeyRef"):
                    assert key["key"] in maps[key["name"]]["data"], pod.name


def test_everything_is_in_the_namespace(build):
    assert set(build.of("Namespace")) == {"srcluster"}
    assert {d["metadata"].get("namespace") for d in build.documents if d["kind"] != "Namespace"} == {"srcluster"}


def test_the_readme_says_how_to_make_the_secrets():
    for name, keys in SECRETS.items():
        assert f"create secret generic {name} " in README
        for key in keys:
            assert f"{key}=" in README


def test_no_secret_is_kept_here(build):
    assert not build.of("Secret")
    for name, value in build.variables.items():
        assert not re.search("KEY|SECRET|TOKEN|PASSWORD", name), name
        assert not re.search(r"://[^/]*:[^/]*@", value), name
    for pod in build.pods:
        for container in pod.containers:
            assert not re.search(r"://[^/]*:[^/]*@", " ".join(container.get("args", []))), pod.name
            for variable in container.get("env", []):
                if re.search("KEY|SECRET|TOKEN|PASSWORD", variable["name"]):
                    assert "value" not in variable, (pod.name, variable["name"])


def test_restricted_pod_security(build):
    labels = build.of("Namespace")["srcluster"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in build.pods:
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"], pod.name
        assert security["runAsUser"] > 0, pod.name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, pod.name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys(), pod.name
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, pod.name
            assert not any("hostPort" in port for port in container.get("ports", [])), pod.name


def test_only_heads_may_ask_kubernetes(build):
    for pod in build.pods:
        assert pod.spec.get("automountServiceAccountToken", True) == (pod.component == "head"), pod.name
        # A Service's variables are taken for options: MLFLOW_PORT=tcp://...
        assert pod.spec["enableServiceLinks"] is False, pod.name


def test_requests_fit_limits(build, amount):
    for pod in build.pods:
        for container in pod.containers:
            requests, limits = (container["resources"][kind] for kind in ("requests", "limits"))
            assert {"cpu", "memory"} <= requests.keys() <= limits.keys(), pod.name
            # Memory that is not asked for may not be there.
            assert requests["memory"] == limits["memory"], pod.name
            for kind, asked in requests.items():
                assert amount(asked) <= amount(limits[kind]), (pod.name, kind)
            if pod.component in ("head", "worker") and container["name"] == "ray":
                # Where several share a node, it is the limit that Ray counts as cores.
                assert requests == limits or "local" in build.name, pod.name
                assert amount(limits["cpu"]).is_integer(), pod.name


def test_what_ray_writes_has_room(build, amount):
    for pod in build.pods:
        if pod.component not in ("head", "worker"):
            continue
        (ray,) = pod.spec["containers"]
        volumes = {volume["name"]: volume["emptyDir"] for volume in pod.spec["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in ray["volumeMounts"]}
        assert {"/tmp", "/home/ray", "/dev/shm", build.variables["SRCLUSTER_CACHE"]} <= mounts.keys()
        assert ray["workingDir"] == "/home/ray"
        shm, memory = mounts["/dev/shm"], amount(ray["resources"]["limits"]["memory"])
        assert shm["medium"] == "Memory"
        # Ray's object store is 30 % of the memory.
        assert 0.3 * memory <= amount(shm["sizeLimit"]) < memory, pod.name
        if pod.component == "worker":
            cache_bytes = float(build.variables["SRCLUSTER_CACHE_GB"]) * 1e9
            assert cache_bytes < amount(mounts["/cache"]["sizeLimit"])
            assert cache_bytes < amount(ray["resources"]["limits"]["ephemeral-storage"])


def test_ray_asks_for_its_token_and_starts_with_no_workers(build):
    for spec in build.ray_specs:
        assert spec["authOptions"]["mode"] == "token"
        assert not spec["enableInTreeAutoscaling"] or spec["autoscalerOptions"]["version"] == "v2"
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for group in spec["workerGroupSpecs"]:
            assert group["minReplicas"] == group["replicas"] <= group["maxReplicas"]
    for group in build.of("RayCluster")["srcluster"]["spec"]["workerGroupSpecs"]:
        assert group["minReplicas"] == 0
        (container,) = group["template"]["spec"]["containers"]
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (group["groupName"] == "gpu")
        assert ("srcluster-cuda" in container["image"]) == (group["groupName"] == "gpu")


def test_mlflow_knows_its_own_name(build):
    (mlflow,) = build.of("Deployment")["mlflow"]["spec"]["template"]["spec"]["containers"]
    (hosts,) = (each["value"] for each in mlflow["env"] if each["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS")
    host = build.variables["MLFLOW_TRACKING_URI"].removeprefix("http://")
    assert host in hosts.split(",")
    name, port = host.split(":")
    assert build.of("Service")[name]["spec"]["ports"][0]["port"] == int(port)
    assert f"--port={port}" in mlflow["args"]
    assert "localhost:*" in hosts.split(",")


def test_mlflow_finds_its_database(build):
    (mlflow,) = build.of("Deployment")["mlflow"]["spec"]["template"]["spec"]["containers"]
    (postgres,) = build.of("StatefulSet")["postgres"]["spec"]["template"]["spec"]["containers"]
    said = {each["name"]: each.get("value") for each in postgres["env"]}
    port = build.of("Service")["postgres"]["spec"]["ports"][0]["port"]
    where = f"{said['POSTGRES_USER']}@postgres:{port}/{said['POSTGRES_DB']}"
    assert f"--backend-store-uri=postgresql+psycopg2://{where}" in mlflow["args"]


def test_mlflow_asks_who_is_there(build):
    (mlflow,) = build.of("Deployment")["mlflow"]["spec"]["template"]["spec"]["containers"]
    said = {each["name"]: each for each in mlflow["env"]}
    folder, _, file = said["MLFLOW_AUTH_CONFIG_PATH"]["value"].rpartition("/")
    assert folder in {mount["mountPath"] for mount in mlflow["volumeMounts"] if mount["name"] == "auth"}
    settings = configparser.ConfigParser()
    settings.read_string(build.of("ConfigMap")["mlflow"]["data"][file])
    assert "--app-name=basic-auth" in mlflow["args"]
    assert settings["mlflow"]["default_permission"] == "NO_PERMISSIONS"
    assert f"--backend-store-uri={settings['mlflow']['database_uri']}" in mlflow["args"]
    # Who logs has the password that it was started with, and no other key of it.
    assert said["MLFLOW_AUTH_ADMIN_USERNAME"]["valueFrom"]["configMapKeyRef"]["key"] == "MLFLOW_TRACKING_USERNAME"
    password = said["MLFLOW_AUTH_ADMIN_PASSWORD"]["valueFrom"]
    for pod in build.pods:
        if pod.component in ("head", "worker"):
            (ray,) = pod.spec["containers"]
            assert ray["env"] == [{"name": "MLFLOW_TRACKING_PASSWORD", "valueFrom": password}], pod.name


def test_the_jobs_are_these(whole):
    assert sorted(whole.of("RayJob")) == JOBS
    for name, job in whole.of("RayJob").items():
        assert job["metadata"]["labels"]["job"] == name
        assert job["spec"]["backoffLimit"] > 0
        assert job["spec"]["shutdownAfterJobFinishes"]
        own, base = job["spec"]["rayClusterSpec"], whole.of("RayCluster")["srcluster"]["spec"]
        assert own["headGroupSpec"] == base["headGroupSpec"]
        (submitter,) = job["spec"]["submitterPodTemplate"]["spec"]["containers"]
        assert submitter["image"] == own["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]


@pytest.mark.parametrize("whole", ["overlays/cloud-kueue"], indirect=True)
def test_kueue_admits_the_jobs(whole):
    """By the rules of its webhook, which refuses the others."""
    for job in whole.of("RayJob").values():
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] in whole.of("LocalQueue")
        assert job["spec"]["shutdownAfterJobFinishes"]
        assert "clusterSelector" not in job["spec"]
        assert not job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"]
        assert len(job["spec"]["rayClusterSpec"]["workerGroupSpecs"]) <= 7


@pytest.mark.parametrize("job", JOBS)
def test_the_commands_are_understood(whole, job: str):
    words = typed(whole, job)
    # They would end the submitter's command, or be opened by its shell.
    assert not re.search(r"[;&|<>(){}*?!`\"']", " ".join(words)), words
    assert words[:2] == ["python", "-m"]
    said = parsed(words)
    if job.startswith("sweep-"):
        assert sweep_of(said).trials()
    if job.startswith("train-"):
        assert recipe.load(said["recipe"], said["overrides"])


@pytest.mark.parametrize("job", [job for job in JOBS if job.startswith(("sweep-", "train-"))])
def test_a_trial_or_rank_fits_into_a_worker(whole, amount, job: str):
    said = parsed(typed(whole, job))
    if job.startswith("sweep-"):
        wanted = sweep_of(said).resources
        cpus, on_gpu = wanted.cpu, wanted.gpu > 0
        assert not (on_gpu and whole.name == "overlays/local-jobs")
    else:
        data, most = recipe.load(said["recipe"], said["overrides"]).data, int(said["workers"].rpartition(".")[2])
        assert data.batch % most == 0
        # Without a GPU it would be an equal share of the workers that are there, and none are.
        cpus, on_gpu = said["cpus"] or 1 + data.workers, said["gpu"]
        assert on_gpu or said["cpus"]
    groups = whole.of("RayJob")[job]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (group,) = (each for each in groups if each["groupName"] == ("gpu" if on_gpu else "cpu"))
    (container,) = group["template"]["spec"]["containers"]
    assert cpus <= amount(container["resources"]["limits"]["cpu"])
    # What waits brings the autoscaler to start it; without one it is there from the beginning.
    fewest = 0 if whole.of("RayJob")[job]["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] else 1
    assert fewest <= group["minReplicas"] <= group["maxReplicas"]
    assert group["maxReplicas"] > 0


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("python -m srcluster.sweep a.yaml --onse", "No such option: --onse"),
        ("python -m srcluster.pack a --to b --crop big", "valid integer"),
    ],
)
def test_what_is_misspelt_is_not_understood(command: str, words: str):
    with pytest.raises(Exception, match=words):
        parsed(command.split())


def test_a_job_reads_what_another_wrote(whole):
    fetch, pack = (parsed(typed(whole, job)) for job in ("fetch", "pack-coco"))
    assert pack["source"] in {f"{fetch['to']}/{name}" for name in fetch["names"]}
    assert whole.variables["SRCLUSTER_WEIGHTS"] == fetch["to"]
    for job in JOBS[2:]:
        words = typed(whole, job)
        assert f"data.shards={pack['to']}" in words
        (measured,) = (word.partition("=")[2] for word in words if word.startswith("evaluation.benchmarks="))
        assert set(measured.strip("[]").split(",")) == {f"{fetch['to']}/{name}" for name in ("Set5", "Set14", "BSD100")}
    assert fetch["to"].startswith(whole.variables["SRCLUSTER_STORAGE"])


def test_the_image_is_built_from_what_is_here():
    lines = (ROOT / "k8s" / "Dockerfile.dockerignore").read_text().splitlines()
    copied = {word for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]}
    assert copied == {line[1:] for line in lines if line.startswith("!")}
    assert all((ROOT / source).exists() for source in copied)
    (extras,) = re.findall(r'"\.\[(.+)\]"', DOCKERFILE)
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", PROJECT, re.MULTILINE)
    assert DOCKERFILE.rindex("USER 1000") > DOCKERFILE.rindex("RUN ")


def test_the_readme_names_what_is_here():
    for overlay in ("local", "cloud"):
        paths = re.findall(r"-[kf] (k8s/\S+)", README.replace("$OVERLAY", overlay))
        assert len(paths) >= 5
        for path in paths:
            assert (ROOT / path).exists(), path
    assert set(re.findall(r"-l job=(\S+)", README)) <= set(JOBS)
