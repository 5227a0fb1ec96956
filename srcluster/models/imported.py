"""A network of a person's own package."""

from typing import cast

import torch
from torch import Tensor, nn

from srcluster import recipe
from srcluster.errors import UserError
from srcluster.models.network import Network


def imported(scale: int, spec: recipe.ImportedModel) -> Network:
    """The network that `target(scale=scale, **args)` makes; the size of what it gives is checked at each call."""
    made = spec.call(scale=scale)
    if not isinstance(made, nn.Module):
        raise UserError(f"{spec.target} gives {type(made).__name__}, and a network is a torch.nn.Module")
    # It is given what makes it one.
    network = cast(Network, made)
    try:
        network.scale = scale
        if spec.reach is not None:
            network.reach = spec.reach
    except TypeError as error:
        raise UserError(f"{spec.target} has a layer called scale or reach ({error}): call it something else") from error
    network.register_forward_hook(_check_size)
    return network


def _check_size(network: Network, inputs: tuple[Tensor], sr: Tensor) -> None:
    if torch.compiler.is_compiling():
        return
    height, width = (side * network.scale for side in inputs[0].shape[-2:])
    if not isinstance(sr, Tensor) or sr.shape != (len(inputs[0]), 3, height, width):
        got = " x ".join(map(str, sr.shape)) if isinstance(sr, Tensor) else type(sr).__name__
        raise UserError(
            f"{type(network).__name__} makes {got} of {' x '.join(map(str, inputs[0].shape))}, and at scale "
            f"{network.scale} that should be {len(inputs[0])} x 3 x {height} x {width}"
        )
