"""A training starts from any weights, which are in its recipe by their SHA-256."""

import hashlib

import pytest
import torch

from srcluster.errors import UserError
from srcluster.models import build
from srcluster.models.export import export
from srcluster.models.saved import save_weights
from srcluster.models.start import begin_with, resolve_start
from srcluster.recipe import Start, recipe_from

COMPACT = {"kind": "compact", "features": 4, "convs": 2}


def recipe_of(scale: int = 4, **changes):
    return recipe_from({"name": "mine", "steps": 1, "scale": scale, "model": COMPACT, **changes})


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.setenv("SRCLUSTER_STORAGE", str(tmp_path / "storage"))
    return tmp_path / "storage"


def saved(path, scale: int = 4):
    """A file of another program."""
    recipe = recipe_of(scale)
    network = build(recipe.model, scale)
    export(network, path, recipe)
    return network


def test_weights_are_kept_by_their_sha256(tmp_path, storage):
    file = tmp_path / "a.pth"
    network = saved(file)
    recipe = recipe_of(start={"weights": str(file)})
    start = resolve_start(recipe.start, recipe.model, 4)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert start == Start(weights=f"{storage}/weights/{sha256}.pth", sha256=sha256)
    file.unlink()
    fresh = build(recipe.model, 4)
    begin_with(fresh, start)
    torch.testing.assert_close(fresh.state_dict(), network.state_dict())
    with pytest.raises(UserError, match="is not the file that its name says"):
        begin_with(fresh, start.model_copy(update={"sha256": "0" * 64}))


def test_a_run_is_found_by_its_name(storage):
    recipe = recipe_of()
    (storage / "runs" / "mine-1").mkdir(parents=True)
    save_weights(storage / "runs" / "mine-1" / "model.safetensors", build(recipe.model, 4).state_dict(), recipe)
    assert resolve_start(Start(weights="mine-1"), recipe.model, 4).sha256


def test_another_scale(tmp_path, storage, capsys):
    network = saved(tmp_path / "x2.pth", scale=2)
    recipe = recipe_of()
    strict = Start(weights=str(tmp_path / "x2.pth"))
    with pytest.raises(
        UserError, match=r"body\.6\.weight is 12 x 4 x 3 x 3 there, and 48 x 4 x 3 x 3 here, and so with 1 more"
    ):
        resolve_start(strict, recipe.model, 4)
    start = resolve_start(strict.model_copy(update={"strict": False}), recipe.model, 4)
    assert "no weights that fit 2 of this network's: body.6.weight, body.6.bias" in capsys.readouterr().out
    fresh = build(recipe.model, 4)
    before = fresh.body[6].weight.clone()
    begin_with(fresh, start)
    torch.testing.assert_close(fresh.body[0].weight, network.body[0].weight)
    torch.testing.assert_close(fresh.body[6].weight, before)


def test_what_does_not_fit_at_all(tmp_path, storage):
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pth")
    start = Start(weights=str(tmp_path / "a.pth"), strict=False)
    with pytest.raises(UserError, match="no weights that fit this network by name and shape"):
        resolve_start(start, recipe_of().model, 4)


def test_weights_that_are_not_those(tmp_path, storage):
    saved(tmp_path / "a.pth")
    start = Start(weights=str(tmp_path / "a.pth"), sha256="0" * 64)
    with pytest.raises(UserError, match=r"has SHA-256 \w{64}, and start.sha256 says 000"):
        resolve_start(start, recipe_of().model, 4)
    with pytest.raises(UserError, match="there is no model"):
        resolve_start(Start(weights=str(tmp_path / "b.pth")), recipe_of().model, 4)


def test_strictness_is_of_weights():
    with pytest.raises(UserError, match=r"start: start\.strict and start\.sha256 are for start\.weights"):
        recipe_of(start={"strict": False})
