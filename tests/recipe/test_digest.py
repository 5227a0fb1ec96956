"""A recipe's digest names its result: it changes with what changes that, and with nothing else."""

import pytest

from srcluster.recipe import NEUTRAL, Recipe, flatten, load, recipe_from, shipped

MINIMAL = {"name": "mine", "steps": 10, "model": {"kind": "srcnn"}}

SHIPPED = {
    "edsr": "c948b1d18cbb",
    "esrgan": "c3b939148080",
    "srgan": "462543b50485",
    "perceptual": "7271c7d01412",
    "srcnn": "0ac0930f1695",
    "srresnet": "14ecaaf0757d",
    "srresnet-l1": "2c01a5cb6b03",
}
"""Runs without a name of their own are found by these: to change one begins such a run anew."""


def digest(**changes) -> str:
    return recipe_from(MINIMAL, {key.replace("__", "."): value for key, value in changes.items()}).digest()


def test_the_digests_of_what_ships():
    assert {name: load(name).digest() for name in shipped()} == SHIPPED


def test_a_default_never_changes():
    """Digests leave defaults out: with another one, the same digest would name another result."""
    defaults = flatten(recipe_from(MINIMAL).model_dump(mode="json"))
    known = {
        "scale": "4",
        "seed": "0",
        "model.kernel_sizes": "[9,5,5]",
        "model.features": "[64,32]",
        "model.init": "identity",
        "data.patch": "96",
        "data.batch": "16",
        "data.patches_per_sample": "1",
        "data.augment": "true",
        "data.lanes": "8",
        "data.shuffle_shards": "4",
        "data.accumulate": "1",
        "objective.kind": "mse",
        "objective.channels": "rgb",
        "optimizer.kind": "adam",
        "optimizer.lr": "0.0001",
        "optimizer.betas": "[0.9,0.999]",
        "optimizer.weight_decay": "0.0",
        "schedule.kind": "constant",
        "schedule.warmup_steps": "0",
        "precision": "auto",
        "compile": "false",
        "ema": "0.0",
        "clip_norm": "0.0",
        "evaluation.benchmarks": "auto",
        "evaluation.every_steps": "1000",
        "evaluation.select": "best",
    }
    assert known.items() <= defaults.items()


def test_what_changes_the_result_changes_it():
    changes = [
        {},
        {"seed": 1},
        {"data__patch": 64},
        {"ema": 0.9},
        {"evaluation__every_steps": 3},
        {"evaluation__select": "last"},
        {"objective": {"kind": "sum", "terms": {"a": {"objective": {}}}}},
        {"objective": {"kind": "sum", "terms": {"b": {"objective": {}}}}},
    ]
    assert len({digest(**change) for change in changes}) == len(changes)


@pytest.mark.parametrize("key", sorted(NEUTRAL))
def test_what_does_not_change_it_does_not(key):
    value = {"name": "other", "evaluation.metrics": ["ssim_y"]}.get(key, 7)
    assert recipe_from(MINIMAL, {key: value}).digest() == digest()


def test_a_default_that_is_written_out_is_no_change():
    assert digest(objective={"kind": "mse"}, optimizer={"kind": "adam", "lr": 1e-4}, scale=4) == digest()


def test_how_often_the_last_weights_are_measured_is_no_part_of_them():
    last = {"evaluation__select": "last"}
    assert digest(**last, evaluation__every_steps=3) == digest(**last)


def test_weights_are_what_their_sha256_says():
    a, b = ({"kind": "vgg", "weights": place, "sha256": "0" * 64} for place in ("/a.pth", "s3://b/b.pth"))
    assert digest(objective=a) == digest(objective=b)
    assert digest(objective=a) != digest(objective=a | {"sha256": "1" * 64})
    assert digest(objective={"kind": "vgg", "weights": "/a.pth"}) != digest(objective={"kind": "vgg"})


def test_a_field_that_is_added_later_changes_no_digest():
    class Later(Recipe):
        sharpness: float = 0.0

    assert Later.model_validate(MINIMAL).digest() == digest()
    assert Later.model_validate(MINIMAL | {"sharpness": 1}).digest() != digest()
