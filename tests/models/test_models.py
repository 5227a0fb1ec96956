"""Every network is called alike, and begins as its paper says."""

import pytest
import torch

from srcluster.models import build
from srcluster.pixels.colour import rgb_to_ycbcr
from srcluster.pixels.resize import resize
from srcluster.recipe import SRCNN, Interpolation

SPECS = [
    *(Interpolation(kernel=kernel) for kernel in ("nearest", "bilinear", "bicubic")),
    *(SRCNN(kind="srcnn", kernel_sizes=(9, middle, 5), init=init) for middle in (1, 5) for init in ("identity", "he")),
]


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_any_size_in_exactly_scale_times_out(spec, scale):
    network = build(spec, scale).eval()
    for height, width in ((5, 9), (16, 7), (1, 1)):
        assert network(torch.rand(2, 3, height, width)).shape == (2, 3, scale * height, scale * width)


def parameters(spec) -> int:
    return sum(weight.numel() for weight in build(spec, 4).parameters())


def test_parameters_are_the_papers():
    # Table 1 of the paper counts weights: 8,032 for 9-1-5 and 57,184 for 9-5-5; and 97 biases.
    assert parameters(SRCNN(kind="srcnn", kernel_sizes=(9, 1, 5))) == 8032 + 97
    assert parameters(SRCNN(kind="srcnn", kernel_sizes=(9, 5, 5))) == 57184 + 97


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
