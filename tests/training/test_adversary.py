"""Adversarial training: it is continued to the bit, several ranks are one, and each side's losses are told."""

import math

import pytest
import torch

from srcluster.errors import UserError
from srcluster.models import build
from srcluster.recipe import recipe_from
from srcluster.training.adversary import Adversary
from srcluster.training.checkpoint import State
from srcluster.training.loop import NonFiniteLossError, Step
from srcluster.training.optimizer import make_optimizer
from srcluster.training.precision import choose
from srcluster.training.ranks import Ranks

HR = torch.randint(256, (4, 3, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def objective(kind: str = "srgan", **changes) -> dict:
    adversary = {"kind": "adversarial", "discriminator": {"kind": kind, "features": 4}, **changes}
    return {
        "kind": "sum",
        "terms": {"pixel": {"objective": {"kind": "l1"}}, "judge": {"weight": 0.1, "objective": adversary}},
    }


def training(terms: dict, **changes) -> tuple[Step, State]:
    values = {
        "name": "gan",
        "steps": 20,
        "model": {"kind": "residual", "features": 4, "blocks": 1},
        "data": {"patch": 32, "batch": 4, "augment": False},
        "objective": terms,
        "precision": "fp32",
    }
    recipe = recipe_from(values, changes)
    torch.manual_seed(0)
    network = build(recipe.model, recipe.scale)
    state = State(network, make_optimizer(network, recipe.optimizer), average={})
    state.adversary = Adversary.of(recipe.objective, choose("fp32", torch.device("cpu")))
    return Step(recipe, state, choose("fp32", torch.device("cpu")), Ranks(0, 1)), state


@pytest.mark.parametrize("loss", ["vanilla", "relativistic", "hinge", "least_squares"])
@pytest.mark.parametrize("kind", ["srgan", "unet"])
def test_it_is_continued_to_the_bit(kind, loss):
    step, state = training(objective(kind, loss=loss))
    for _ in range(2):
        step((HR,))
    files = state.save(step.recipe)
    for _ in range(2):
        step((HR,))
    again, continued = training(objective(kind, loss=loss))
    continued.load(files, again.recipe)
    for _ in range(2):
        again((HR,))
    ends = [{**one.network.state_dict(), **one.adversary.network.state_dict()} for one in (state, continued)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_every_term_is_told():
    step, _ = training(objective(), **{"data.accumulate": 2})
    step((HR,))
    step.check(0)
    told = step.metrics()
    assert told["train/loss"] == pytest.approx(told["train/loss/pixel"] + told["train/loss/judge"])
    assert {"train/discriminator/loss", "train/discriminator/real", "train/discriminator/fake"} <= told.keys()
    assert told["train/loss/judge"] > 0


def test_in_the_warm_up_only_the_discriminator_hears():
    plain, warm = training({"kind": "l1"})[1], training(objective(warmup_steps=2))
    trained = training({"kind": "l1"})[0]
    step, state = warm
    first = [weight.clone() for weight in state.adversary.network.parameters()]
    for _ in range(2):
        step((HR,))
        trained((HR,))
    pairs = zip(state.network.parameters(), trained.state.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first[0], next(iter(state.adversary.network.parameters())))
    assert plain.adversary is None
    step((HR,))
    step.check(0)
    assert step.metrics()["train/loss/judge"] > 0


def test_the_discriminator_learns_to_tell_sr_from_hr():
    step, _ = training(objective(optimizer={"lr": 1e-3}), **{"optimizer.lr": 1e-12})
    told = []
    for _ in range(12):
        step((HR,))
        step.check(0)
        told.append(step.metrics())
    assert told[-1]["train/discriminator/loss"] < told[0]["train/discriminator/loss"] / 2
    assert told[-1]["train/discriminator/real"] > 0 > told[-1]["train/discriminator/fake"]


def test_what_was_not_finite_is_named():
    step, state = training(objective())
    with torch.no_grad():
        state.adversary.network.dense[-1].bias.fill_(math.nan)
    step((HR,))
    with pytest.raises(NonFiniteLossError, match=r"not finite at step 1 \(loss/judge, discriminator/loss, "):
        step.check(0)


@pytest.mark.parametrize(
    ("terms", "sentence"),
    [
        ({"judge": objective()["terms"]["judge"]}, "an adversarial term alone"),
        ({**objective()["terms"], "b": objective()["terms"]["judge"]}, "only one of the terms may be adversarial"),
        ({"pixel": {"objective": {"kind": "l1"}}, "j": {"objective": {"kind": "adversarial", "loss": "w"}}}, "loss"),
    ],
)
def test_what_makes_no_sense_is_said(terms, sentence):
    with pytest.raises(UserError, match=sentence):
        training({"kind": "sum", "terms": terms})


def test_patches_that_a_u_net_can_not_halve_are_said():
    with pytest.raises(UserError, match=r"discriminator.*multiples of 8.*36"):
        training(objective("unet"), **{"data.patch": 36})
