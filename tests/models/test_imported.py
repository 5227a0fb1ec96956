"""A network of a person's own is called, saved, tiled and refused as it should be."""

from pathlib import Path

import numpy as np
import pytest
import torch

from srcluster.errors import UserError
from srcluster.models import build
from srcluster.models.find import find_model
from srcluster.models.reach import measure_reach
from srcluster.models.saved import load_model, save_weights
from srcluster.models.tiling import restore
from srcluster.recipe import recipe_from
from srcluster.training.check import check_trainable


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


def recipe_of(target: str = "own:Net", **model):
    return recipe_from({"name": "mine", "steps": 1, "model": {"kind": "import", "target": target, **model}})


def test_it_is_called_with_its_scale_and_arguments():
    recipe = recipe_of(args={"width": 6})
    check_trainable(recipe)
    network = build(recipe.model, 3)
    assert network(torch.rand(2, 3, 5, 7)).shape == (2, 3, 15, 21)
    assert network.up.in_channels == 6


@pytest.mark.parametrize("depth", [1, 4])
def test_its_reach_is_measured(depth):
    torch.manual_seed(0)
    network = build(recipe_of(args={"depth": depth}).model, 2).eval()
    network.layers.requires_grad_(False).apply(lambda layer: getattr(layer, "weight", torch.zeros(0)).data.mul_(9))
    assert measure_reach(network) == depth


def test_a_reach_that_is_given_is_taken():
    assert build(recipe_of(reach=7).model, 2).reach == 7


def test_its_file_is_loaded_where_its_package_is_allowed(tmp_path):
    recipe = recipe_of()
    network = build(recipe.model, 4)
    save_weights(tmp_path / "a.safetensors", network.state_dict(), recipe)
    with pytest.raises(UserError, match=r"the network own:Net: if you trust that code.*--allow-import own"):
        load_model(tmp_path / "a.safetensors")
    found = find_model(str(tmp_path / "a.safetensors"), allow_import=["own"])
    lr = np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8)
    whole, tiled = (restore(found.network, lr, memory_bytes=memory) for memory in (1e9, 1))
    assert np.abs(whole.astype(int) - tiled).max() <= 1


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("own:Nothing", "there is no own:Nothing to import"),
        ("nowhere:Net", "there is no nowhere:Net to import (ModuleNotFoundError"),
        ("own:Small", "Small makes 2 x 3 x 96 x 95 of 2 x 3 x 24 x 24, and at scale 4 that should be 2 x 3 x 96 x 96"),
        ("own:Scaled", "own:Scaled has a layer called scale or reach"),
        ("own:number", "own:number gives int, and a network is a torch.nn.Module"),
    ],
)
def test_what_is_wrong_is_said(target, words):
    with pytest.raises(UserError) as error:
        check_trainable(recipe_of(target))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_arguments_that_it_does_not_take():
    with pytest.raises(UserError, match=r"own:Net\(scale=4, depht=3\) fails: TypeError"):
        check_trainable(recipe_of(args={"depht": 3}))


def test_a_target_is_a_module_and_a_name():
    with pytest.raises(UserError, match=r"model\.target: it reads package\.module:Name, not 'own\.Net'"):
        recipe_of("own.Net")
