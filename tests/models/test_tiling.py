"""Tiles: no seam, whatever the network, and sized by memory."""

import numpy as np
import pytest
import torch
from torch import nn

from srcluster.models import build
from srcluster.models.tiling import SelfEnsemble, bands, restore, tile_side
from srcluster.recipe import SRCNN, Interpolation, Residual


def residual(**changes) -> Residual:
    return Residual(kind="residual", **({"features": 4, "blocks": 2} | changes))


SPECS = {
    "bicubic": Interpolation(kernel="bicubic"),
    "nearest": Interpolation(kernel="nearest"),
    "srcnn": SRCNN(kind="srcnn", init="he"),
    "srresnet": residual(),
    "edsr": residual(norm="none", activation="relu", around="none", outer_kernel=3, subtract_mean=True),
    "perceptual": residual(around="norm_activation", long_skip=False, output="tanh", upsampler="nearest_conv"),
    "deconv3": residual(upsampler="deconv3", base="bilinear"),
    "deconv4": residual(upsampler="deconv4"),
}


class Within(nn.Module):
    """A network whose output is brought into (0, 1), so that clipping hides no difference."""

    def __init__(self, network: nn.Module, reach: int | None = None):
        super().__init__()
        self.network, self.scale = network, network.scale
        self.reach = network.reach if reach is None else reach

    def forward(self, lr):
        return torch.sigmoid(4 * (self.network(lr) - 0.5))


def network(name: str, scale: int = 4) -> nn.Module:
    torch.manual_seed(0)
    made = build(SPECS[name], scale).eval()
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    return made


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (height, width, 3), dtype=np.uint16)


def difference(made: nn.Module, lr: np.ndarray, side: int) -> float:
    whole, tiled = (np.concatenate(list(bands(made, lr, side))) / 65535 for side in (10**6, side))
    assert whole.shape == tiled.shape == (lr.shape[0] * made.scale, lr.shape[1] * made.scale, 3)
    return np.abs(whole - tiled).max()


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("scale", [3, 4])
def test_tiles_have_no_seam(name, scale):
    assert difference(Within(network(name, scale)), picture(38, 45), side=9) < 1e-4


@pytest.mark.parametrize("name", ["bicubic", "srcnn", "srresnet"])
def test_with_less_overlap_there_would_be_one(name):
    assert difference(Within(network(name), reach=1), picture(26, 23), side=9) > 1e-3


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_reach_is_as_far_as_a_network_sees(name, scale):
    made = network(name, scale).double()
    middle = made.reach + 3
    lr = torch.rand(1, 3, 2 * middle + 1, 2 * middle + 1, dtype=torch.float64, requires_grad=True)
    pixel = slice(middle * scale, (middle + 1) * scale)
    made(lr)[..., pixel, pixel].sum().backward()
    seen = lr.grad.abs().sum((0, 1)).nonzero()
    farthest = (seen - middle).abs().max().item()
    assert made.reach - 2 <= farthest <= made.reach


def test_the_reach_of_the_papers_networks():
    assert build(Residual(kind="residual"), 4).reach == 40
    assert build(SRCNN(kind="srcnn"), 4).reach == 4


def test_self_ensemble_has_no_preferred_direction():
    made = SelfEnsemble(network("srcnn"))
    lr = torch.rand(1, 3, 9, 14)
    with torch.inference_mode():
        sr, turned = made(lr), made(lr.rot90(1, (-2, -1)).flip(-1))
        one = made.network(lr)
    torch.testing.assert_close(turned, sr.rot90(1, (-2, -1)).flip(-1), rtol=0, atol=1e-5)
    assert (sr - one).abs().max() > 1e-3
    assert difference(Within(made), picture(30, 31), side=9) < 1e-4


def test_tiles_are_as_large_as_memory_allows():
    made = build(residual(blocks=16), 4).eval()
    sides = [tile_side(made, memory_bytes=gb * 1e9) for gb in (0.001, 0.1, 0.2, 1000)]
    assert sides == sorted(sides)
    assert (sides[0], sides[-1]) == (16, 1024)
    assert len(set(sides)) == 4


def test_tiles_with_little_overlap_are_small():
    assert [tile_side(network(name), memory_bytes=1e12) for name in ("bicubic", "srresnet")] == [256, 32 * 12]


def test_values_are_clipped_and_rounded():
    lr = np.array([[[0, 128, 255]]], np.uint8).repeat(5, 0).repeat(6, 1)
    assert (restore(network("bicubic"), lr) == lr.repeat(4, 0).repeat(4, 1)).all()
