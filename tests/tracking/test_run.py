"""What a run logs is in MLflow."""

import json
import math
import re
import sys
import time

import pytest
from PIL import Image

from srcluster.errors import UserError
from srcluster.tracking import Run, curve, metric_name

pytestmark = pytest.mark.cluster


def test_a_restart_continues_the_run(client):
    params = {"optimizer": {"lr": 1e-4}, "steps": 100}
    with Run.start("restart", "trial", key="k", params=params) as first:
        first.log({"loss": 1.0}, 10)
        first.log({"loss": 0.5, "best": 28.0}, 20)
    again = Run.start("restart", "trial", key="k", params=params)
    assert again.id == first.id
    assert client.get_run(first.id).info.status == "RUNNING"
    again.log({"loss": 1.0}, 10)
    again.log({"loss": 0.6}, 20)
    # A worker and its driver both tell a result.
    for run in (Run.attach(again.spec), again):
        run.log({"best": 29.0}, 20, replace=True)
        run.save()
    again.log({"loss": 0.4, "psnr": 28.0}, 30)
    again.end()

    assert curve(first.id, "loss") == [(10, 1.0), (20, 0.5), (30, 0.4)]
    assert curve(first.id, "psnr") == [(30, 28.0)]
    assert curve(first.id, "best") == [(20, 28.0), (20, 29.0)]
    assert client.get_run(first.id).data.metrics["best"] == 29.0
    assert Run.start("restart", "trial", key="other").id != first.id


def test_another_parameter_is_another_run(mlflow_server):
    Run.start("params", "trial", key="k", params={"optimizer": {"lr": 1e-4}})
    with pytest.raises(UserError, match=r"optimizer.lr = 0.0001, and now has 0.001"):
        Run.start("params", "trial", key="k", params={"optimizer": {"lr": 1e-3}})


def test_parameters_beyond_one_request(client):
    run = Run.start("params", "many", key="many", params={f"p{i}": i for i in range(250)})
    assert len(client.get_run(run.id).data.params) == 250


def test_what_is_logged_is_there(client):
    run = Run.start("everything", "trial", key="k", tags={"model": "srcnn"})
    run.log({"nan": math.nan, "inf": math.inf}, 1)
    run.note("| trial | PSNR |")
    run.dataset("Set5", "s3://bucket/Set5", "0123abcd", "test")
    run.dataset("Set5", "s3://bucket/Set5", "0123abcd", "test")
    run.image(Image.new("RGB", (8, 8), "blue"), "Set5/baby.png")
    run.image(Image.new("RGB", (8, 8), "red"), "top.png")
    assert run.end("KILLED")

    stored = client.get_run(run.id)
    assert stored.info.status == "KILLED"
    assert stored.data.tags.items() >= {"model": "srcnn", "mlflow.note.content": "| trial | PSNR |"}.items()
    assert math.isnan(stored.data.metrics["nan"])
    assert stored.data.metrics["inf"] == sys.float_info.max
    (given,) = stored.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest, given.tags[0].value) == ("Set5", "0123abcd", "test")
    assert json.loads(given.dataset.source) == {"uri": "s3://bucket/Set5"}
    picture = Image.open(client.download_artifacts(run.id, "Set5/baby.png"))
    assert picture.getpixel((0, 0)) == (0, 0, 255)
    assert client.download_artifacts(run.id, "top.png")


def test_a_series_of_pictures_has_the_names_that_the_charts_look_for(client):
    run = Run.start("series", "trial", key="k")
    run.image_at(Image.new("RGB", (600, 400), "blue"), "Set5/baby", 100)
    run.end()

    preview, full = sorted(file.path for file in client.list_artifacts(run.id, "images"))
    assert re.fullmatch(r"images/Set5~baby\+step\+100\+timestamp\+\d+\+[0-9a-f-]{36}\.png", full)
    assert preview == full.removesuffix(".png") + "+compressed.webp"
    assert Image.open(client.download_artifacts(run.id, full)).size == (600, 400)
    assert Image.open(client.download_artifacts(run.id, preview)).size == (256, 171)
    assert client.get_run(run.id).data.tags["mlflow.loggedImages"] == "True"


def test_the_driver_and_the_worker_log_to_one_run(client):
    run = Run.start("attached", "trial", key="k")
    worker = Run.attach(run.spec)
    worker.log({"loss": 1.0}, 1)
    worker.close()
    assert client.get_run(run.id).info.status == "RUNNING"
    run.log({"best": 28.0}, 1)
    run.end()
    assert client.get_run(run.id).data.metrics == {"loss": 1.0, "best": 28.0}


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_how_it_ended_is_told(client, error, status):
    with pytest.raises(error), Run.start("ends", status, key=status) as run:
        raise error
    assert client.get_run(run.id).info.status == status


def test_a_run_that_ended_inside_its_context_stays_so(client):
    with Run.start("ends", "inside", key="inside") as run:
        run.end("KILLED")
    assert client.get_run(run.id).info.status == "KILLED"


def test_why_it_failed_is_told_until_it_is_continued(client):
    run = Run.start("ends", "failed", key="failed")
    run.fail("the loss was not finite")
    told = client.get_run(run.id)
    assert (told.info.status, told.data.tags["srcluster.error"]) == ("FAILED", "the loss was not finite")
    with Run.start("ends", "failed", key="failed") as again:
        assert again.id == run.id
    told = client.get_run(run.id)
    assert told.info.status == "FINISHED"
    assert "srcluster.error" not in told.data.tags


def test_a_flush_sends_before_the_next_delivery_is_due(client):
    run = Run.start("flush", "trial", key="k")
    for step in range(3):
        run.log({"loss": 1.0}, step)
        run.flush()
        deadline = time.monotonic() + 1.5
        while len(curve(run.id, "loss")) <= step and time.monotonic() < deadline:
            time.sleep(0.05)
    assert len(curve(run.id, "loss")) == 3


def test_one_refused_entry_takes_no_others_with_it(client, caplog):
    run = Run.start("refused", "trial", key="k")
    run.log({"loss": 1.0}, 1)
    run.tag(**{"no@name": "x", "name": "x"})
    run.text("y", "c.txt")
    run.end()
    assert caplog.text.count("MLflow refuses a Tag") == 1
    assert client.get_run(run.id).data.tags["name"] == "x"
    assert client.get_run(run.id).data.metrics == {"loss": 1.0}
    assert [file.path for file in client.list_artifacts(run.id)] == ["c.txt"]


def test_a_file_keeps_its_name_as_far_as_an_address_can_hold_it(client):
    run = Run.start("files", "trial", key="k")
    run.text("x", "my set (1)/50% #1?.txt")
    run.end()
    assert [file.path for file in client.list_artifacts(run.id, "my set (1)")] == ["my set (1)/50_ _1_.txt"]


def test_names_that_mlflow_would_refuse(client):
    odd = ("psnr_y/Set5 (copy)", "psnr_y/Set5 [copy]", "a//b", "../a", "x" * 251)
    run = Run.start("names", "trial", key="k", params={"layer (1)": {"lr": 1}})
    run.log(dict.fromkeys(odd, 28.0), 1)
    for path in ("/a.png", "../a.png", "a//b.png", "."):
        with pytest.raises(ValueError, match="not a path inside a run"):
            run.text("", path)
    run.end()
    assert [curve(run.id, name) for name in odd] == [[(1, 28.0)]] * len(odd)
    assert client.get_run(run.id).data.params == {metric_name("layer (1).lr"): "1"}
    with pytest.raises(RuntimeError, match="has ended"):
        run.log({"loss": 1.0}, 2)
