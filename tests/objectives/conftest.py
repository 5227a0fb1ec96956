"""Weights that are not ImageNet's, but shaped as VGG16's."""

import pytest
import torch

from srcluster.objectives.weights import convolutions


def state_dict(last: str = "conv2_2") -> dict[str, torch.Tensor]:
    """Random weights under torchvision's names, up to a convolution."""
    random, tensors = torch.Generator().manual_seed(0), {}
    for name, index, (before, after) in convolutions():
        tensors[f"features.{index}.weight"] = torch.randn(after, before, 3, 3, generator=random) / (3 * before**0.5)
        tensors[f"features.{index}.bias"] = torch.randn(after, generator=random) / 3
        if name == last:
            break
    return tensors


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory) -> str:
    """A .pth file that stops at conv2_2."""
    path = tmp_path_factory.mktemp("vgg") / "partial.pth"
    torch.save(state_dict(), path)
    return str(path)


@pytest.fixture(scope="session")
def full_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("vgg") / "full.pth"
    torch.save(state_dict("conv5_3"), path)
    return str(path)
