"""The part of a recipe's objective that says how a discriminator judges, and how it is trained."""

from typing import Literal

from pydantic import Field

from srcluster.recipe.optimizer import Adam, Optimizer
from srcluster.recipe.validation import Part


class Discriminator(Part):
    """`srcluster.models.discriminators`."""

    kind: Literal["srgan", "unet"] = "srgan"
    features: int = Field(64, ge=1)
    """Channels of the first layer; deeper ones have multiples."""


class Adversarial(Part):
    """How little a discriminator takes SR for an original: a term of a `sum`.

    The discriminator learns in every step after the generator, on the same patches.
    """

    kind: Literal["adversarial"]
    discriminator: Discriminator = Discriminator()
    loss: Literal["vanilla", "relativistic", "hinge", "least_squares"] = "vanilla"
    """`srcluster.objectives.adversarial`."""
    optimizer: Optimizer = Adam()
    """Of the discriminator; its learning rate follows the recipe's schedule."""
    warmup_steps: int = Field(0, ge=0)
    """First steps in which the discriminator learns and the generator does not hear of it."""
