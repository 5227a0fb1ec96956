"""A patch's LR is that region of the photograph's LR, to the bit."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from srcluster.data.degradation import augment, degrade, margin, shrink
from srcluster.data.photos import find
from srcluster.pixels.resize import imresize


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
