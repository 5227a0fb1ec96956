"""Networks that are not here but that the library spandrel knows, to evaluate with."""

import torch
from torch import Tensor
from torch.nn import functional as F

from srcluster.errors import UserError
from srcluster.models.network import Network


class ZooNetwork(Network):
    """The network of spandrel's ImageModelDescriptor; what it can't take the size of is padded, as spandrel does."""

    def __init__(self, found):
        super().__init__()
        self.network, self.call, self.scale = found.model, found._call_fn, found.scale
        self.least, self.multiple = found.size_requirements.minimum, found.size_requirements.multiple_of
        self.square = found.size_requirements.square

    def forward(self, lr: Tensor) -> Tensor:
        height, width = lr.shape[-2:]
        sides = [max(side + -side % self.multiple, self.least) for side in (height, width)]
        rows, columns = [max(sides)] * 2 if self.square else sides
        padded = F.pad(lr, (0, columns - width, 0, rows - height), "replicate")
        return self.call(self.network, padded)[..., : height * self.scale, : width * self.scale]


def load(weights: dict[str, Tensor], origin: str) -> Network:
    """The network that weights are of, in eval mode; `origin` names their file in an error.

    Raises:
        UserError: spandrel is not installed or does not know it, or it is not for RGB.
    """
    try:
        import spandrel  # An extra.
    except ImportError as error:
        raise UserError(
            f"{origin} is of none of the networks here; pip install 'srcluster[zoo]' for those that spandrel knows "
            f"({error})"
        ) from error
    try:
        found = spandrel.ModelLoader().load_from_state_dict(weights)
    except spandrel.UnsupportedModelError as error:
        raise UserError(f"{origin} is of a network that neither srcluster nor spandrel knows") from error
    if not isinstance(found, spandrel.ImageModelDescriptor) or (found.input_channels, found.output_channels) != (3, 3):
        raise UserError(f"{origin} is of {found.architecture.name}, which does not make RGB of RGB")
    # Torch's types leave the layout out.
    return ZooNetwork(found).to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
