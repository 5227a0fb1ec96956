"""Evaluation: the papers' baseline, other tools' pictures by the same protocol, and what is written about it."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from srcluster import models
from srcluster.cli import _repeated
from srcluster.data import benchmarks
from srcluster.errors import UserError
from srcluster.evaluate.__main__ import evaluate
from srcluster.models.saved import save_weights
from srcluster.pixels.resize import imresize
from srcluster.recipe import recipe_from


def recipe(name: str = "mine", **model):
    return recipe_from({"name": name, "steps": 1, "scale": 4, "model": {"kind": "srcnn", **model}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A benchmark of two pictures, and a network's file."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("evaluate") / "mine"
    (folder / "Two").mkdir(parents=True)
    for i, name in enumerate(("bird", "bird_nest")):
        noise = np.random.default_rng(i).integers(0, 256, (9, 11, 3), dtype=np.uint8)
        Image.fromarray(imresize(noise, 6)).save(folder / "Two" / f"{name}.png")
    # What the person calls it counts, and not its recipe's name.
    mine = recipe("theirs", init="he")
    save_weights(folder / "model.safetensors", models.build(mine.model, 4).state_dict(), mine)
    return folder


def run(folder, *entries: str, on=None, **options) -> dict[str, dict]:
    evaluate(list(entries), on=on or [str(folder / "Two")], json=folder / "all.json", address="none", **options)
    return {entry["model"]: entry for entry in json.loads((folder / "all.json").read_text())["models"]}


@pytest.mark.parametrize(("name", "published"), [("Set5", 28.42), ("Set14", 25.99), ("BSD100", 25.96)])
def test_bicubic_is_the_published_baseline(data_sets, tmp_path, capsys, name, published):
    made = run(tmp_path, "bicubic", on=[name])
    assert made["bicubic"]["means"][f"psnr_y/{name}"] == pytest.approx(published, abs=0.01)
    assert "Ledig et al., CVPR 2017" in capsys.readouterr().out


def test_a_network_is_measured_image_by_image(folder, capsys):
    made = run(folder, "bicubic", str(folder / "model.safetensors"), f"again={folder}", csv=folder / "all.csv")
    assert list(made) == ["bicubic", "mine", "again"]
    assert made["mine"]["means"] == made["again"]["means"] != made["bicubic"]["means"]
    assert made["mine"]["parameters"] == 57184 + 97
    assert made["mine"]["seconds_per_megapixel"] > 0
    rows = list(csv.DictReader((folder / "all.csv").open()))
    assert [(row["model"], row["image"]) for row in rows[:3]] == [
        ("bicubic", "bird"),
        ("bicubic", "bird_nest"),
        ("mine", "bird"),
    ]
    mean = np.mean([float(row["psnr_y"]) for row in rows[2:4]])
    assert mean == pytest.approx(made["mine"]["means"]["psnr_y/Two"])
    assert f"{mean:.2f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "form", ["{}.png", "{}_x4.png", "{}x4.png", "{}x4_SR.bmp", "{}_SRF_4_HR.png", "two/{}-out.png", "{}.PNG"]
)
def test_another_tools_pictures(folder, tmp_path, form):
    for image in benchmarks.load(str(folder / "Two"), 4).images:
        path = tmp_path / "tool" / form.format(image.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(imresize(image.lr, 4)).save(path)
    made = run(folder, "bicubic", str(tmp_path / "tool"))
    assert made["tool"]["means"] == made["bicubic"]["means"]
    assert made["tool"]["parameters"] is None


def test_options_of_several_words():
    typed = ["bicubic", "--on", "Set5", "Set14", "--csv", "a", "--on=b", "--image", "c"]
    assert list(_repeated(typed, ("--on", "--image"))) == [
        *("bicubic", "--on", "Set5", "--on", "Set14", "--csv", "a", "--on=b", "--image", "c")
    ]
    assert list(_repeated(["a", "--on"], ("--on",))) == ["a", "--on"]


def test_pictures_that_do_not_fit(folder, tmp_path):
    Image.new("RGB", (64, 52)).save(tmp_path / "bird.png")
    with pytest.raises(UserError, match=r"one picture of Two's bird_nest, .* and has none"):
        run(folder, str(tmp_path))
    for form in ("x4", "_x4"):
        Image.new("RGB", (64, 52)).save(tmp_path / f"bird_nest{form}.png")
    with pytest.raises(UserError, match=r"has bird_nest_x4.png and bird_nestx4.png"):
        run(folder, str(tmp_path))
    Image.new("RGB", (60, 52)).save(tmp_path / "bird.png")
    with pytest.raises(UserError, match="has 60 x 52 pixels, and the original has 64 x 52"):
        run(folder, str(tmp_path))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["bicubbic"], "no model 'bicubbic'"),
        (["bicubic", "bicubic"], "LABEL=MODEL"),
        (["bicubic", "other={folder}/x2.safetensors", "{folder}/model.safetensors"], "enlarge differently"),
        (["models:/nonsense"], "MLFLOW_TRACKING_URI|no model's name"),
        (["{folder}/gone.safetensors"], "no model .*gone.safetensors"),
    ],
)
def test_what_can_not_be_evaluated(folder, entries, words, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    other = recipe_from({"name": "x2", "steps": 1, "scale": 2, "model": {"kind": "srcnn"}})
    save_weights(folder / "x2.safetensors", models.build(other.model, 2).state_dict(), other)
    with pytest.raises(UserError, match=words):
        run(folder, *(entry.format(folder=folder) for entry in entries))


def test_the_picture_has_a_column_for_each_model(folder, tmp_path):
    widths = []
    for entries in (["nearest"], ["nearest", "bilinear", "bicubic"]):
        run(folder, *entries, picture=tmp_path / "a.png", image=["bird"])
        with Image.open(tmp_path / "a.png") as page:
            widths.append(page.width)
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.05)
    with pytest.raises(UserError, match="has an image 'fish'"):
        run(folder, "nearest", picture=tmp_path / "a.png", image=["fish"])


def test_the_pictures_detail_is_chosen(folder, tmp_path):
    """What there is to choose is checked before anything is measured."""
    shown = []
    for crop in (None, (0, 4, 16, 12)):
        run(folder, "nearest", "bicubic", picture=tmp_path / "a.png", image=["bird"], crop=crop)
        with Image.open(tmp_path / "a.png") as page:
            shown.append(np.asarray(page))
    # Beside the original its first pixels, magnified 18 times.
    detail = shown[1][-8 - 12 * 18 : -8, -8 - 16 * 18 : -8][::18, ::18]
    assert np.array_equal(detail, benchmarks.load(str(folder / "Two"), 4).images[0].hr[4:16, :16])
    assert shown[0].shape != shown[1].shape or (shown[0] != shown[1]).any()
    with pytest.raises(UserError, match=r"--crop \(50, 0, 16, 12\) is not inside bird, which has 64 x 52 pixels"):
        run(folder, "nearest", picture=tmp_path / "a.png", image=["bird"], crop=(50, 0, 16, 12))


def test_a_page_of_results_makes_itself(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["evaluate", "bicubic", "--report", "RESULTS.md"])
    run(folder, "bicubic", str(folder / "model.safetensors"), report=tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| model | Two PSNR-Y, dB |" in text
    # 57,184 weights at each of 1280 x 720 pixels are 52.7 G; the padded border and bicubic come on top.
    assert "| mine | 53.3 G |" in text
    assert text.endswith("python -m srcluster.evaluate bicubic --report RESULTS.md\n")
    with Image.open(tmp_path / "RESULTS.png") as grid:
        assert grid.width > 500


@pytest.mark.cluster
def test_models_in_storage_and_mlflow(folder, s3, mlflow_server):
    import mlflow

    from srcluster import storage

    prefix = f"{s3.bucket_url}/run"
    for name in ("best", "average", "network"):
        storage.upload(folder / "model.safetensors", f"{prefix}/checkpoint/{name}.safetensors")
    storage.upload(folder / "model.safetensors", f"{prefix}/model.safetensors")
    client = mlflow.MlflowClient()
    run_id = client.create_run(client.create_experiment("evaluated")).info.run_id
    client.log_artifact(run_id, str(folder / "model.safetensors"), "weights")
    client.create_registered_model("srcnn")
    client.create_model_version("srcnn", client.get_run(run_id).info.artifact_uri, run_id)
    client.set_registered_model_alias("srcnn", "best", "1")
    names = [
        f"{prefix}/model.safetensors", prefix, f"{prefix}/checkpoint", run_id,
        "models:/srcnn/1", "models:/srcnn/latest", "models:/srcnn@best",
    ]  # fmt: skip
    made = run(folder, "plain=" + str(folder), *(f"{i}={name}" for i, name in enumerate(names)), mlflow="evaluated")
    assert len({tuple(entry["means"].items()) for entry in made.values()}) == 1
    with pytest.raises(UserError, match="refuses"):
        run(folder, "models:/srcnn/7")
    with pytest.raises(UserError, match="no registered model 'none'"):
        run(folder, "models:/none/latest")
    found = client.search_runs([client.get_experiment_by_name("evaluated").experiment_id])
    logged = {run.info.run_name: run.data.metrics for run in found}
    assert logged["plain"]["psnr_y/Two"] == pytest.approx(made["plain"]["means"]["psnr_y/Two"])
