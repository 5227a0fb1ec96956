"""Every network is called alike, and begins as its paper says."""

from math import prod

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from srcluster.errors import UserError
from srcluster.models import build
from srcluster.models.residual import PReLU
from srcluster.models.saved import load_model, save_weights
from srcluster.models.upsamplers import SubPixel
from srcluster.pixels.colour import rgb_to_ycbcr
from srcluster.pixels.resize import resize
from srcluster.recipe import SPAN, SRCNN, Compact, Interpolation, MSRResNet, Residual, recipe_from

PERCEPTUAL = {"blocks": 4, "activation": "relu", "around": "norm_activation", "long_skip": False, "output": "tanh"}
EDSR = {"norm": "none", "activation": "relu", "around": "none", "outer_kernel": 3, "subtract_mean": True}
UPSAMPLERS = ["pixel_shuffle", "deconv3", "deconv4", "nearest_conv"]


def residual(**changes) -> Residual:
    return Residual(kind="residual", **changes)


SPECS = [
    *(Interpolation(kernel=kernel) for kernel in ("nearest", "bilinear", "bicubic")),
    *(SRCNN(kind="srcnn", kernel_sizes=(9, middle, 5), init=init) for middle in (1, 5) for init in ("identity", "he")),
    *(residual(**PERCEPTUAL, features=4, upsampler=upsampler) for upsampler in UPSAMPLERS),
    residual(features=4, blocks=2),
    residual(**EDSR, features=4, blocks=2, residual_scale=0.1, base="bilinear", init="small", icnr=True),
    MSRResNet(kind="msrresnet", features=4, blocks=1),
    Compact(kind="compact", features=4, convs=2),
    SPAN(kind="span", features=4),
]


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_any_size_in_exactly_scale_times_out(spec, scale):
    network = build(spec, scale).eval()
    for height, width in ((5, 9), (16, 7), (1, 1)):
        assert network(torch.rand(2, 3, height, width)).shape == (2, 3, scale * height, scale * width)


def test_filters_of_one_pixel_train():
    assert build(SRCNN(kind="srcnn", kernel_sizes=(1, 1, 1)), 2)(torch.rand(1, 3, 4, 4)).shape == (1, 3, 8, 8)


def parameters(spec) -> int:
    return sum(weight.numel() for weight in build(spec, 4).parameters())


def test_parameters_are_the_papers():
    # Table 1 of the paper counts weights: 8,032 for 9-1-5 and 57,184 for 9-5-5; and 97 biases.
    assert parameters(SRCNN(kind="srcnn", kernel_sizes=(9, 1, 5))) == 8032 + 97
    assert parameters(SRCNN(kind="srcnn", kernel_sizes=(9, 5, 5))) == 57184 + 97

    # SRResNet has "1.5 M" (Lim et al., table 1). EDSR's authors' models have 1,517,571 and 43,089,923.
    assert parameters(residual()) == 1_549_462
    assert parameters(residual(**EDSR)) == 1_517_571
    assert parameters(residual(**EDSR, blocks=32, features=256, residual_scale=0.1)) == 43_089_923
    # Johnson et al., supplementary, table 2: two 9x9 layers, four blocks, two convolutions, each but the last
    # with the two vectors of its normalisation.
    layers = [(3, 64, 9, 9), *[(64, 64, 3, 3)] * 10, (64, 3, 9, 9)]
    assert parameters(residual(**PERCEPTUAL, upsampler="deconv3")) == (
        sum(prod(shape) + shape[1] for shape in layers) + 11 * 2 * 64
    )


def test_a_sub_pixel_convolution_is_a_convolution_and_a_shuffle():
    x = torch.rand(2, 8, 5, 7)
    for factor in (2, 3):
        layer = SubPixel(8, factor)
        shuffled = F.pixel_shuffle(F.conv2d(x, layer.weight, layer.bias, padding=1), factor)
        torch.testing.assert_close(layer(x), shuffled, rtol=0, atol=1e-6)
        layer.as_nearest()
        enlarged = layer(x)
        nearest = F.interpolate(enlarged[..., ::factor, ::factor], scale_factor=factor)
        torch.testing.assert_close(enlarged, nearest, rtol=0, atol=1e-6)
        assert enlarged.std() > 0.01


def test_prelus_gradients_are_torchs():
    x = torch.randn(4, 8, 6, 7).to(memory_format=torch.channels_last)
    gradients = []
    for layer in (PReLU(), nn.PReLU()):
        mine = x.clone().requires_grad_()
        layer(mine).square().sum().backward()
        gradients.append((mine.grad, layer.weight.grad))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_an_enlargement_of_lr_is_what_small_weights_begin_with():
    lr = torch.rand(1, 3, 8, 8)
    enlarged = build(residual(**EDSR, base="bilinear", init="small"), 4)(lr)
    expected = F.interpolate(lr, scale_factor=4, mode="bilinear")
    assert (enlarged - expected - build(residual(**EDSR), 4).mean).abs().max() < 0.05


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outer_kernel": 4}, "side of a filter is odd"),
        ({"icnr": True, "upsampler": "deconv4"}, "icnr is for upsampler: pixel_shuffle"),
        ({"output": "tanh", "base": "bilinear"}, "nothing is added to it"),
    ],
)
def test_what_does_not_go_together(changes, words):
    with pytest.raises(ValueError, match=words):
        residual(**changes)


def test_a_model_file_says_what_it_is(tmp_path):
    recipe = recipe_from({"name": "mine", "steps": 1, "model": {"kind": "residual", "features": 4, "blocks": 1}})
    network = build(recipe.model, 4).eval()
    save_weights(tmp_path / "a.safetensors", network.state_dict(), recipe)
    loaded_recipe, loaded = load_model(tmp_path / "a.safetensors")
    lr = torch.rand(1, 3, 6, 5)
    assert loaded_recipe == recipe
    torch.testing.assert_close(loaded(lr), network(lr))
    with pytest.raises(UserError, match="missing or damaged"):
        load_model(tmp_path / "b.safetensors")
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-4])
    with pytest.raises(UserError, match="missing or damaged"):
        load_model(tmp_path / "a.safetensors")


@torch.no_grad()
def test_identity_begins_as_bicubic():
    lr = torch.rand(2, 3, 12, 15)
    network = build(SRCNN(kind="srcnn", init="identity"), 4).eval()
    torch.testing.assert_close(network(lr), resize(lr, 4), atol=1e-5, rtol=0)


def test_paper_initialisation():
    network = build(SRCNN(kind="srcnn", init="paper"), 4)
    assert network.conv2.weight.std().item() == pytest.approx(1e-3, rel=0.02)
    assert not network.conv1.bias.any()


def test_training_gives_the_centre_of_what_evaluation_gives():
    lr = torch.rand(1, 3, 16, 16)
    network = build(SRCNN(kind="srcnn", init="he"), 4)
    whole, centre = network.eval()(lr), network.train()(lr)
    assert centre.shape == (1, 3, 48, 48)
    torch.testing.assert_close(centre, whole[..., 8:-8, 8:-8])


@torch.no_grad()
def test_chroma_stays_bicubic():
    lr = torch.rand(1, 3, 8, 8)
    planes = rgb_to_ycbcr(*build(SRCNN(kind="srcnn", init="he"), 4).eval()(lr).unbind(1))
    expected = rgb_to_ycbcr(*resize(lr, 4).unbind(1))
    torch.testing.assert_close(planes[1:], expected[1:], atol=1e-5, rtol=0)
    assert (planes[0] - expected[0]).abs().max() > 0.01
