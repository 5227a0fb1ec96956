"""Recipes: what ships loads, what is wrong is said."""

import pytest

from srcluster.errors import UserError
from srcluster.recipe import flatten, load, parse_overrides, recipe_from, shipped

MINIMAL = {"name": "mine", "steps": 10, "model": {"kind": "srcnn"}}


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_loads(name):
    assert load(name).name == name


def test_overrides_reach_every_depth():
    recipe = load("srcnn", ["optimizer.lr=3e-4", "model.kernel_sizes=[9, 1, 5]", "steps=7"])
    assert (recipe.optimizer.lr, recipe.model.kernel_sizes, recipe.steps) == (3e-4, (9, 1, 5), 7)


def test_a_part_can_be_replaced_by_another_kind():
    recipe = recipe_from(MINIMAL, {"optimizer": {"kind": "sgd", "lr": 1e-4, "layer_lr": {"conv3": 1e-5}}})
    assert recipe.optimizer.kind == "sgd"
    assert recipe.optimizer.layer_lr == {"conv3": 1e-5}


def test_overrides_are_left_as_they_are():
    overrides = {"optimizer": {"kind": "sgd", "lr": 0.1}, "optimizer.lr": 0.2}
    assert recipe_from(load("srcnn").model_dump(), overrides).optimizer.lr == 0.2
    assert overrides["optimizer"]["lr"] == 0.1


def test_a_recipe_survives_its_dump():
    recipe = load("srcnn")
    again = recipe_from(recipe.model_dump(mode="json"))
    assert again == recipe
    assert again.digest() == recipe.digest()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer.lrr": 1e-3}, "unknown key optimizer.lrr, did you mean 'lr'?"),
        ({"dat.batch": 3}, "unknown key dat, did you mean 'data'?"),
        ({"checkpoint.ever_steps": 3}, "did you mean 'every_steps'?"),
        ({"data.batch": 0}, "data.batch: Input should be greater than or equal to 1 (given: 0)"),
        ({"optimizer.kind": "adm"}, "optimizer.kind is one of 'adam', 'adamw', 'sgd', not 'adm', did you mean 'adam'?"),
        ({"optimizer.lr": float("nan")}, "optimizer.lr"),
        ({"optimizer.momentum": 0.5}, "unknown key optimizer.momentum"),
        ({"model": {"features": [1, 2]}}, "model.kind is missing"),
        ({"model.kernel_sizes": [9, 4, 5]}, "odd"),
        ({"data.patch": 50}, "data.patch is a multiple of the scale 4, not 50"),
        ({"schedule.kind": "step"}, "milestones"),
        ({"steps.x": 1}, "steps is a single value"),
        ({"name": "../x"}, "name"),
        ({"optimizer.betas": [0.9, 1.0]}, "optimizer.betas.1: Input should be less than 1"),
        ({"optimizer.layer_lr": {"conv1": -1}}, "optimizer.layer_lr.conv1: Input should be greater than or equal to 0"),
        ({"seed": 2**64}, "seed: Input should be less than"),
        ({"model.features": [0, 4]}, "model.features.0: Input should be greater than or equal to 1"),
        ({"model": {"kind": "residual", "blocks": 10**9}}, "model.blocks: Input should be less than or equal to 1000"),
        ({"model": {"kind": "interpolation"}}, "model.kind is one of 'srcnn', 'residual', "),
        ({"evaluation.benchmarks": []}, "evaluation.benchmarks"),
    ],
)
def test_what_is_wrong_is_said(change, words):
    with pytest.raises(UserError) as error:
        recipe_from(MINIMAL, change)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["steps", "=3", "  =3"])
def test_an_override_has_a_key_and_a_value(text):
    with pytest.raises(UserError, match="key=value"):
        parse_overrides([text])


def test_an_override_is_given_once():
    assert parse_overrides(["a=1e-4", "b=[1e-3, 2]"]) == {"a": 1e-4, "b": [1e-3, 2]}
    with pytest.raises(UserError, match="steps is given twice"):
        parse_overrides(["steps=3", " steps=4"])


def test_a_missing_recipe_names_those_that_ship():
    with pytest.raises(UserError, match=r"no recipe 'srcn', did you mean 'srcnn'\?; shipped are"):
        load("srcn")


def test_a_recipe_by_path(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("steps: 3\nmodel: {kind: srcnn}\n")
    assert load(str(path)).name == "own"
    path.write_text("[1, 2]")
    with pytest.raises(Exception, match="should be a mapping"):
        load(str(path))
    path.write_text("a: [")
    with pytest.raises(Exception, match="not valid YAML"):
        load(str(path))


def test_flatten():
    params = {
        "scale": 4,
        "optimizer": {"kind": "adam", "lr": 0.0001, "betas": [0.9, 0.999], "groups": {}},
        "ema": None,
        "compile": True,
        "data": [{"source": "t91"}],
    }
    assert flatten(params) == {
        "scale": "4",
        "optimizer.kind": "adam",
        "optimizer.lr": "0.0001",
        "optimizer.betas": "[0.9,0.999]",
        "optimizer.groups": "{}",
        "ema": "null",
        "compile": "true",
        "data": '[{"source":"t91"}]',
    }
