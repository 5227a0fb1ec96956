"""What the tests of tracking share."""

import os

import pytest
from mlflow import MlflowClient


@pytest.fixture
def client(mlflow_server):
    return MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


@pytest.fixture
def absent(monkeypatch):
    """The address of a server that does not exist."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    return "http://127.0.0.1:9"
