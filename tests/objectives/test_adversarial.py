import pytest
import torch
from torch.nn import functional as F

from srcluster.objectives.adversarial import discriminator_loss, generator_loss

KINDS = ("vanilla", "relativistic", "hinge", "least_squares")
FAKE, REAL = torch.tensor([[0.3], [-1.2], [2.0]]), torch.tensor([[1.0], [0.1], [-0.4]])


def bce(logits: torch.Tensor, target: float) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def test_vanilla_is_the_cross_entropy():
    assert generator_loss("vanilla", FAKE, REAL) == pytest.approx(bce(FAKE, 1).item())
    assert discriminator_loss("vanilla", FAKE, REAL) == pytest.approx((bce(FAKE, 0) + bce(REAL, 1)).item())


def test_relativistic_is_esrgans_equations_3_and_4():
    real_is_realer, fake_is_realer = REAL - FAKE.mean(), FAKE - REAL.mean()
    generator = (bce(real_is_realer, 0) + bce(fake_is_realer, 1)) / 2
    assert generator_loss("relativistic", FAKE, REAL) == pytest.approx(generator.item())
    discriminator = (bce(real_is_realer, 1) + bce(fake_is_realer, 0)) / 2
    assert discriminator_loss("relativistic", FAKE, REAL) == pytest.approx(discriminator.item())


@pytest.mark.parametrize("kind", KINDS)
def test_each_wants_the_other_to_be_wrong(kind):
    fake, real = FAKE.clone().requires_grad_(), REAL.clone().requires_grad_()
    (toward,) = torch.autograd.grad(generator_loss(kind, fake, real), fake)
    (away,) = torch.autograd.grad(discriminator_loss(kind, fake, real), fake)
    assert toward.sum() < 0
    assert away.sum() > 0
    assert discriminator_loss(kind, REAL - 9, REAL) < discriminator_loss(kind, REAL + 9, REAL)
