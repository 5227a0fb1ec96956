"""Networks that come with the package: known by name, never mixed up with a person's own, and as their cards say."""

import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from srcluster import tracking
from srcluster.data import benchmarks
from srcluster.errors import UserError
from srcluster.evaluate.candidates import candidate
from srcluster.models import build, shipped
from srcluster.models.find import _label, find_model
from srcluster.models.saved import load_model, save_weights, weights_bytes
from srcluster.models.start import resolve_start
from srcluster.recipe import Recipe, Start, recipe_from
from srcluster.training.evaluation import evaluate
from srcluster.training.store import RunStore


def save(path, seed: int, half: bool = False) -> Recipe:
    recipe = recipe_from({"name": "tiny", "steps": 1, "model": {"kind": "compact", "features": 4, "convs": 2}})
    torch.manual_seed(seed)
    weights = build(recipe.model, 4).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, {key: tensor.half() if half else tensor for key, tensor in weights.items()}, recipe)
    return recipe


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Two networks that are shipped, `better` and `worse`, and an empty storage."""
    folder = tmp_path / "weights"
    for seed, (name, psnr) in enumerate({"worse": 27.0, "better": 31.0}.items()):
        save(folder / f"{name}.safetensors", seed, half=True)
        (folder / f"{name}.json").write_text(json.dumps({"scale": 4, "srcluster": {"scores": {"psnr_y/Set5": psnr}}}))
    monkeypatch.setattr(shipped, "FOLDER", folder)
    monkeypatch.setenv("SRCLUSTER_STORAGE", str(tmp_path / "storage"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def first_weight(name: str) -> torch.Tensor:
    return next(find_model(name).network.parameters())


def test_they_are_known_where_a_model_is_named(two):
    assert candidate("better", 4).label == candidate("shipped:better", 4).label == "better"
    assert first_weight("better").dtype == torch.float32
    assert torch.equal(first_weight("better"), first_weight("shipped:better"))
    assert not torch.equal(first_weight("better"), first_weight("worse"))
    with pytest.raises(UserError, match="no network 'none' comes with srcluster; there are: better, worse"):
        find_model("shipped:none")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("mine", "mine"),
        ("runs/model.v2/", "model.v2"),
        ("s3://bucket/runs/mine/model.safetensors", "mine"),
        ("https://host/4x.pth?raw=true", "4x"),
        ("model.safetensors", "model"),
        ("models:/srcnn/1", "models:/srcnn/1"),
    ],
)
def test_a_model_is_labelled_as_it_is_called(name, label):
    assert _label(name) == label


def test_a_training_starts_from_one_by_its_sha256(two):
    recipe, _ = load_model(two / "weights" / "worse.safetensors")
    start = resolve_start(Start(weights="worse"), recipe.model, 4)
    assert start.sha256 == hashlib.sha256((two / "weights" / "worse.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("storage/runs/better/model.safetensors", "{home}/storage/runs/better"),
        ("storage/runs/better/recipe.json", "{home}/storage/runs/better"),
        ("better/model.safetensors", "./better"),
        ("better/baby.png", "./better"),
    ],
)
def test_a_run_or_a_folder_of_the_same_name_is_not_mixed_up_with_one(two, file, named):
    own = candidate("better", 4).network
    save(two / file, seed=7)
    named = named.format(home=two)
    with pytest.raises(UserError, match=f"say shipped:better or {re.escape(named)}$"):
        candidate("better", 4)
    assert torch.equal(first_weight("shipped:better"), next(own.parameters()))
    if file.endswith("model.safetensors"):
        assert not torch.equal(first_weight(named), next(own.parameters()))


def test_the_best_one_enlarges_without_a_model(two, typed, monkeypatch):
    Image.fromarray(np.full((9, 7, 3), 90, np.uint8)).save(two / "photo.png")
    status, printed = typed("upscale", "photo.png", "--out", "large")
    assert status == 0, printed
    assert "the network is shipped:better, the best that comes with srcluster" in printed
    assert Image.open(two / "large" / "photo.png").size == (28, 36)
    assert "no network of scale 2" in typed("upscale", "photo.png", "--out", "large", "--scale", "2")[1]
    monkeypatch.setattr(shipped, "FOLDER", two / "none")
    assert typed("upscale", "photo.png", "--out", "large")[0] == 2


def test_it_enlarges_without_store_server_cluster_and_network(two):
    Image.fromarray(np.full((9, 7, 3), 90, np.uint8)).save(two / "photo.png")
    code = """
    import pathlib, socket, sys
    sys.modules |= dict.fromkeys(("ray", "mlflow"))
    socket.socket.connect = None
    from srcluster import cli
    from srcluster.models import shipped
    shipped.FOLDER = pathlib.Path("weights")
    sys.argv = ["srcluster", "upscale", "photo.png", "--out", "large"]
    cli.main()
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SRCLUSTER_", "MLFLOW_", "RAY_"))}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60, env=kept)
    assert Image.open(two / "large" / "photo.png").size == (28, 36)


@pytest.mark.parametrize("name", shipped.names())
def test_a_card_is_of_its_weights(name, data_sets):
    card, path = shipped.card(name), shipped.file_of(name)
    said, (resource,) = card["srcluster"], card["resources"]
    assert (resource["size"], resource["sha256"]) == (
        path.stat().st_size,
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    recipe, network = load_model(path)
    assert recipe.model_dump(mode="json") == said["recipe"]
    assert recipe.digest() == said["recipe_digest"]
    assert network.scale == card["scale"]
    assert sum(parameter.numel() for parameter in network.parameters()) == said["parameters"]
    benchmark = benchmarks.load("Set5", network.scale)
    assert benchmark.digest == said["benchmarks"]["Set5"]
    for key, value in evaluate(network, benchmark, network.scale).items():
        assert said["scores"][key] == pytest.approx(value, abs=0.01), key


def test_all_of_them_are_small():
    assert sum(path.stat().st_size for path in shipped.FOLDER.glob("*")) < 12e6


@pytest.mark.cluster
def test_a_run_becomes_weights_and_a_card(two, mlflow_server):
    """Of which no part names this machine's folders."""
    tool = Path(__file__).parents[2] / "tools" / "release_weights.py"
    spec = util.spec_from_file_location("release_weights", tool)
    spec.loader.exec_module(module := util.module_from_spec(spec))
    pixels = np.random.default_rng(0).integers(0, 256, (48, 52, 3), dtype=np.uint8)
    (two / "Set").mkdir()
    Image.fromarray(pixels).save(two / "Set" / "a.png")
    recipe, network = load_model(two / "weights" / "worse.safetensors")
    given = {"data.shards": str(two / "shards"), "evaluation.benchmarks": [str(two / "Set")], "data.batch": 8}
    recipe = recipe_from(recipe.model_dump(mode="json"), given)
    scores = evaluate(network, benchmarks.load(str(two / "Set"), 4), 4)
    metrics = {f"best/{key}": value for key, value in scores.items()} | {"best/step": 300, "train/precision_bits": 16}
    store = RunStore(f"{two}/storage/runs/mine")
    store.finish(weights_bytes(network.state_dict(), recipe), metrics)
    params, tags = recipe.model_dump(mode="json"), tracking.environment_tags()
    with tracking.Run.start("train", "mine", key="mine", params=params, tags=tags) as run:
        run.dataset("shards", recipe.data.shards, "0123456789ab", "train")
        for step, speed in ((300, 4.0), (900, 2.0)):
            run.log({"train/patches_per_s": speed}, step)

    asked = {"run": "mine", "name": "tiny", "dataset": "T91", "author": "a", "license": "MIT", "on": [str(two / "Set")]}
    module.release(**asked, to=two / "weights")
    card, file = shipped.card("tiny"), shipped.file_of("tiny").read_bytes()
    said = card["srcluster"]
    assert (said["hours"], said["data_digest"]) == (round((300 * 8 / 4 + 600 * 8 / 2) / 3600, 2), "0123456789ab")
    assert said["machine"] == tags["env.device"]
    assert (said["precision"], said["recipe"]["data"]["shards"]) == ("bf16", "shards")
    assert said["scores"] == pytest.approx(scores, abs=1e-4)
    assert (card["size"], card["architecture"], card["trainingBatchSize"]) == (["4nf", "2nc"], "compact", 8)
    assert str(two) not in json.dumps(card)
    assert str(two).encode() not in file
    assert card["resources"][0]["sha256"] == hashlib.sha256(file).hexdigest()
    assert torch.equal(first_weight("tiny"), first_weight("worse"))

    store.stop(metrics | {"best/psnr_y/Set": scores["psnr_y/Set"] + 0.01})
    with pytest.raises(UserError, match=r"has psnr_y/Set .* and the run recorded"):
        module.release(**asked, to=two / "weights")
