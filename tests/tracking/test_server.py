"""The MLflow server: found, refused, and the addresses of its pages."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from srcluster.errors import UserError
from srcluster.tracking import Run, charts_page, check, runs_page, table_page

pytestmark = pytest.mark.cluster


class TestCheck:
    def test_a_server_that_answers(self, mlflow_server, monkeypatch):
        uri = os.environ["MLFLOW_TRACKING_URI"]
        assert check() == uri
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{uri}/")
        assert check() == uri

    def test_no_address(self, monkeypatch):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI.*python -m srcluster.local up"):
            check()

    def test_nothing_there(self, absent):
        before = time.monotonic()
        with pytest.raises(UserError, match=f"no MLflow server answers at {absent} .*Connection refused"):
            check()
        assert time.monotonic() - before < 2

    @pytest.mark.parametrize("uri", ["file:/tmp/mlruns", "sqlite:///mlflow.db", "mlruns", "databricks"])
    def test_a_store_that_is_no_server(self, uri, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(UserError, match="which the workers of a cluster can't share"):
            check()

    @pytest.mark.parametrize("uri", ["https://anna:s3cret@mlflow.example", "postgresql://anna:s3cret@db/mlflow"])
    def test_a_password_is_not_for_addresses_which_are_printed(self, uri, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD") as caught:
            check()
        assert "s3cret" not in str(caught.value)

    def test_another_kind_of_server(self, monkeypatch):
        with subprocess.Popen(
            [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as other:
            port = other.stdout.readline().split("port ")[1].split()[0]
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            try:
                with pytest.raises(UserError, match=r"no MLflow server answers at .* error code 501 != 200\)"):
                    check()
            finally:
                other.kill()

    def test_a_server_that_knows_no_health(self, mlflow_server, monkeypatch):
        """As behind a gateway that passes on MLflow's API alone."""
        upstream = os.environ["MLFLOW_TRACKING_URI"]

        class Gateway(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = requests.post(upstream + self.path, body, headers={"Content-Type": "application/json"})
                self.send_response(answer.status_code)
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, *_):
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as gateway:
            threading.Thread(target=gateway.serve_forever, daemon=True).start()
            uri = f"http://127.0.0.1:{gateway.server_address[1]}"
            assert requests.get(f"{uri}/health").status_code == 501
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            assert check() == uri
            gateway.shutdown()

    def test_a_server_that_refuses_our_name_for_it(self, mlflow_server, monkeypatch):
        port = check().rpartition(":")[2]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.1:{port}")
        # It leads to this machine and is not on the server's list.
        with pytest.raises(UserError, match=r"refuses .* 127\.1:.* MLFLOW_SERVER_ALLOWED_HOSTS"):
            check()


def test_links_are_for_a_person(mlflow_server, monkeypatch):
    monkeypatch.setenv("SRCLUSTER_MLFLOW_PAGE", "https://mlflow.example/")
    assert runs_page("3") == "https://mlflow.example/#/experiments/3/runs?workflowType=machine_learning"


def test_pages(client):
    run = Run.start("columns", "sweep", key="sweep")
    uri, number = check(), run.experiment_id

    charts = charts_page(number, "psnr_y/Set5")
    table = table_page(number, ["psnr_y/Set5"], ["optimizer.lr"])

    assert charts.startswith(f"{uri}/#/experiments/{number}/runs?orderByKey=metrics.%60psnr_y%2FSet5%60&")
    key = re.search("viewStateShareKey=([a-z]+)", table)[1]
    view = json.loads(client.get_experiment(number).tags[f"mlflow.sharedViewState.{key}"])
    assert view["selectedColumns"][1:] == ["metrics.`psnr_y/Set5`", "params.`optimizer.lr`"]
    assert view["orderByKey"] == "metrics.`psnr_y/Set5`"
    with pytest.raises(UserError, match="999999"):
        table_page("999999", ["psnr_y/Set5"], [])
