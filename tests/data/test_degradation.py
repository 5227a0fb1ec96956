"""A patch's LR is that region of the photograph's LR, to the bit."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from srcluster.data.benchmarks import load_for
from srcluster.data.degradation import augment, degrade, lr_and_hr, margin, shrink
from srcluster.data.photos import find
from srcluster.pixels.resize import imresize
from srcluster.recipe import recipe_from
from srcluster.recipe.pipeline import Pipeline


@pytest.mark.parametrize("scale", [2, 4])
def test_every_position_of_a_photograph(scale):
    photo = find("wheels")[0].decode()[:120, :140].copy()
    whole = torch.from_numpy(imresize(photo, Fraction(1, scale)))
    hr = torch.from_numpy(photo).permute(2, 0, 1)
    side, cut = 32, margin(scale)
    for top in range(cut, hr.shape[1] - side - cut + 1, scale):
        for left in range(cut, hr.shape[2] - side - cut + 1, scale):
            window = hr[:, top - cut : top + side + cut, left - cut : left + side + cut]
            lr, patch = degrade(window[None], scale)
            expected = whole[top // scale : (top + side) // scale, left // scale : (left + side) // scale]
            assert torch.equal(lr[0].mul(255).round().byte().permute(1, 2, 0), expected)
            assert torch.equal(patch[0].mul(255).round().byte(), hr[:, top : top + side, left : left + side])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_shrink_is_imresize(scale):
    photo = find("wheels")[1].decode()[:97, :131]
    lr = shrink(torch.from_numpy(photo.copy()).permute(2, 0, 1), scale)
    assert (lr.mul(255).round().byte().permute(1, 2, 0).numpy() == imresize(photo, Fraction(1, scale))).all()


def test_augment_draws_all_eight_symmetries():
    hr = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 2, 2).expand(400, 3, 2, 2)
    turned = augment(hr, torch.rand(3, 400) < 0.5)
    seen = {tuple(patch[0].flatten().tolist()) for patch in turned}
    expected = {
        tuple(np.rot90(square, turns).flatten().tolist())
        for square in (np.arange(4).reshape(2, 2), np.arange(4).reshape(2, 2).T)
        for turns in range(4)
    }
    assert seen == expected


def test_a_pipelines_lr_depends_on_the_place_in_the_batch_and_not_on_who_makes_it():
    recipe = Pipeline(kind="pipeline", preset="web")
    side = 32 + 2 * margin(4, recipe)
    hr = torch.randint(256, (5, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    whole, sharp = lr_and_hr(recipe, (hr,), 4, seed=1, step=7, places=range(5))
    part, _ = lr_and_hr(recipe, (hr[2:4],), 4, seed=1, step=7, places=range(2, 4))
    assert whole.shape == (5, 3, 8, 8)
    assert sharp.shape == (5, 3, 32, 32)
    assert torch.equal(part, whole[2:4])
    later, _ = lr_and_hr(recipe, (hr,), 4, seed=1, step=8, places=range(5))
    assert not torch.equal(later, whole)


def test_benchmarks_of_such_a_recipe_have_its_degradation():
    values = {"name": "x", "steps": 1, "model": {"kind": "srcnn"}, "evaluation": {"benchmarks": ["Wheel3"]}}
    plain, first, again = (
        load_for(recipe_from(values, changes))[0]
        for changes in ({}, *2 * [{"degradation": {"kind": "pipeline", "preset": "web"}}])
    )
    assert (first.name, first.digest) == ("Wheel3-degraded", again.digest)
    assert first.digest != plain.digest
    assert first.images[0].lr.shape == plain.images[0].lr.shape
    assert not (first.images[0].lr == plain.images[0].lr).all()
