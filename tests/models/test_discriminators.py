import pytest
import torch

from srcluster.models.discriminators import SRGANDiscriminator, UNetDiscriminator, build_discriminator
from srcluster.recipe.objective import Discriminator


def test_srgans_is_figure_4():
    network = build_discriminator(Discriminator())
    convolutions = [layer for layer in network.body if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [layer.stride[0] for layer in convolutions] == [1, 2, 1, 2, 1, 2, 1, 2]
    # Figure 4's dense layers take 6 x 6 x 512 of a patch of 96 pixels: nothing is averaged there.
    assert network.body(torch.zeros(1, 3, 96, 96)).shape == (1, 512, 6, 6)
    assert [layer.out_features for layer in network.dense if isinstance(layer, torch.nn.Linear)] == [1024, 1]


@pytest.mark.parametrize("side", [32, 72, 96, 136])
def test_any_patch_is_judged(side):
    images = torch.rand(2, 3, side, side)
    assert SRGANDiscriminator(8)(images).shape == (2, 1)
    assert UNetDiscriminator(8)(images).shape == (2, 1, side, side)


def test_a_u_nets_layers_amplify_nothing():
    network = UNetDiscriminator(8)
    for _ in range(30):
        network(torch.rand(1, 3, 16, 16))
    for layer in [*network.down, *network.up, network.tail[0], network.tail[2]]:
        assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2) == pytest.approx(1, abs=0.05)
