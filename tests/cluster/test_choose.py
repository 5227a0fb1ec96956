"""Which cluster, store and MLflow a verb works with, and what it says where something that is set is not used."""

import os
from pathlib import Path

import pytest

from srcluster import local
from srcluster.cluster.choose import choose_cluster
from srcluster.errors import UserError
from srcluster.local.cluster import FOREIGN, PORTS, Cluster

EMBEDDED = Cluster(Path("/nowhere"), {name: 20_000 + n for n, name in enumerate(PORTS)}, "key", "secret")
OWN_STORE = {"AWS_ENDPOINT_URL": "http://store", "AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "hush"}


@pytest.fixture
def given(monkeypatch):
    """Sets this process's environment, in which nothing else names a cluster."""
    monkeypatch.setattr(local, "up", lambda: EMBEDDED)

    def give(**variables: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "SRCLUSTER_STORAGE"):
            clean.pop(name, None)
        monkeypatch.setattr(os, "environ", clean | variables)

    return give


def test_without_anything_it_is_the_embedded_one_or_none(given, capsys):
    given()
    assert choose_cluster("auto") == "none"
    assert choose_cluster("auto", required=True) == EMBEDDED.ray_address
    assert EMBEDDED.environment().items() <= os.environ.items()
    assert capsys.readouterr().err == ""


def test_a_store_that_is_not_used_is_named(given, capsys):
    given(**OWN_STORE, AWS_PROFILE="work", AWS_SESSION_TOKEN="old", RAY_AUTH_TOKEN="another")
    choose_cluster("local")
    assert {name: value for name, value in os.environ.items() if name.startswith(FOREIGN)} == {
        name: value for name, value in EMBEDDED.environment().items() if name.startswith(FOREIGN)
    }
    said = capsys.readouterr().err
    assert "not to the store of AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_PROFILE: set SRCLUSTER_STORAGE" in said
    assert "hush" not in said


def test_a_store_and_an_mlflow_of_ones_own_serve_the_embedded_ray(given, capsys):
    own = OWN_STORE | {"SRCLUSTER_STORAGE": "s3://mine/all", "MLFLOW_TRACKING_URI": "http://mlflow"}
    given(**own)
    assert EMBEDDED.services(os.environ) == ["ray"]
    assert choose_cluster("local", required=True) == EMBEDDED.ray_address
    assert own.items() <= os.environ.items()
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(EMBEDDED.ray_token_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("own", "services"),
    [
        ({}, ["s3", "mlflow", "ray"]),
        # It keeps its artefacts in the embedded S3.
        ({"SRCLUSTER_STORAGE": "s3://mine"}, ["s3", "mlflow", "ray"]),
        ({"MLFLOW_TRACKING_URI": "http://mlflow"}, ["s3", "ray"]),
        # As `eval "$(python -m srcluster.local env)"` leaves it.
        (EMBEDDED.environment(), ["s3", "mlflow", "ray"]),
    ],
)
def test_what_is_not_ones_own_is_embedded(given, own, services):
    given(**own)
    assert EMBEDDED.services(os.environ) == services
    choose_cluster("local")
    assert own.items() <= os.environ.items()
    assert os.environ["SRCLUSTER_STORAGE"]
    assert os.environ["MLFLOW_TRACKING_URI"]


def test_a_folder_is_a_store_and_means_the_same_elsewhere(given):
    given(SRCLUSTER_STORAGE="~/results")
    choose_cluster("local")
    assert os.environ["SRCLUSTER_STORAGE"] == str(Path.home() / "results")


def test_a_cluster_of_ones_own_needs_a_store(given):
    given(RAY_ADDRESS="head:6379")
    assert choose_cluster("auto") == "head:6379"
    with pytest.raises(UserError, match="results of the cluster at head:6379 go: set SRCLUSTER_STORAGE"):
        choose_cluster("auto", required=True)
    given(RAY_ADDRESS="head:6379", SRCLUSTER_STORAGE="s3://mine")
    assert choose_cluster("auto", required=True) == "head:6379"
