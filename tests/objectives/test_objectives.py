"""Pixel objectives, total variation, and sums of objectives."""

from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from srcluster.errors import UserError
from srcluster.objectives import build, resolve, terms
from srcluster.objectives.pixel import total_variation
from srcluster.recipe import recipe_from
from srcluster.recipe.objective import Objective

CPU = torch.device("cpu")
STUDIO_Y = torch.tensor([65.481, 128.553, 24.966]) / 255


def objective(**said) -> Objective:
    return TypeAdapter(Objective).validate_python(said)


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, lambda d: (d**2).mean()),
        ({"kind": "l1"}, lambda d: d.abs().mean()),
        ({"kind": "charbonnier"}, lambda d: (d**2 + 1e-6).sqrt().mean()),
        (
            {"channels": "y"},
            lambda d: ((65.481 * d[:, 0] + 128.553 * d[:, 1] + 24.966 * d[:, 2]) / 255).square().mean(),
        ),
    ],
)
def test_pixels_of_the_centre(said, expected):
    sr, hr = images(2, 3, 6, 8), images(2, 3, 10, 14)
    loss = build(objective(**said), CPU, torch.float32)(sr, hr)
    assert float(loss) == pytest.approx(float(expected(sr - hr[:, :, 2:8, 3:11])), rel=1e-5)


def test_total_variation():
    sr = images(2, 3, 4, 5)
    across = [(sr[..., y, x + 1] - sr[..., y, x]) ** 2 for y in range(4) for x in range(4)]
    down = [(sr[..., y + 1, x] - sr[..., y, x]) ** 2 for y in range(3) for x in range(5)]
    expected = torch.stack(across).mean() + torch.stack(down).mean()
    torch.testing.assert_close(total_variation(sr, images(2, 3, 4, 5)), expected)
    assert total_variation(torch.full((1, 3, 4, 4), 0.3), sr) == 0


def test_a_sum_is_weighted():
    said = objective(
        kind="sum",
        terms={
            "pixels": {"weight": 0.5, "objective": {"kind": "l1"}},
            "smooth": {"weight": 3, "objective": {"kind": "total_variation"}},
        },
    )
    sr, hr = images(2, 3, 6, 8), images(2, 3, 10, 14)
    expected = 0.5 * (sr - hr[:, :, 2:8, 3:11]).abs().mean() + 3 * total_variation(sr, hr)
    made = terms(said, CPU, torch.float32)
    torch.testing.assert_close(sum(weight * loss(sr, hr) for weight, loss in made.values()), expected)
    assert resolve(said) == said


MINIMAL = {"name": "mine", "steps": 10, "model": {"kind": "srcnn"}}
SUM = {"objective": {"kind": "sum", "terms": {"content": {"objective": {"kind": "vgg"}}, "smooth": {"objective": {}}}}}


def test_overrides_reach_terms():
    recipe = recipe_from({**MINIMAL, **SUM}, {"objective.terms.content.objective.distance": "l1"})
    recipe = recipe_from(recipe.model_dump(mode="json"), {"objective.terms.smooth.weight": 1e-6})
    assert recipe.objective.terms["content"].objective.distance == "l1"
    assert recipe.objective.terms["smooth"].weight == 1e-6
    assert recipe.objective.terms["smooth"].objective.kind == "mse"


def test_a_layer_is_a_name_or_weights_by_name():
    for layers, expected in (("relu3_3", {"relu3_3": 1.0}), ({"conv1_1": 2, "relu5_3": 0.5},) * 2):
        assert recipe_from(MINIMAL, {"objective": {"kind": "vgg", "layers": layers}}).objective.layers == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"objective.kind": "vg"},
            "objective.kind is one of 'mse', 'l1', 'charbonnier', 'vgg', 'total_variation', 'import', 'sum'",
        ),
        ({"objective": {"kind": "vgg", "layer": "x"}}, "unknown key objective.layer, did you mean 'layers'?"),
        ({"objective": {"kind": "vgg", "channels": "y"}}, "unknown key objective.channels"),
        ({"objective": {"kind": "vgg", "layers": "relu2_9"}}, "no 'relu2_9', did you mean 'relu2_2'?"),
        ({"objective": {"kind": "vgg", "layers": {"relu2_2": 0}}}, "objective.layers.relu2_2: Input should be greater"),
        ({"objective": {"kind": "vgg", "layers": {}}}, "objective.layers: Dictionary should have at least 1 item"),
        ({"objective": {"kind": "vgg", "sha256": "x"}}, "objective.sha256"),
        ({"objective": {"kind": "sum", "terms": {}}}, "objective.terms: Dictionary should have at least 1 item"),
        (
            {"objective": {"kind": "sum", "terms": {"a": {"wieght": 1}}}},
            "unknown key objective.terms.a.wieght, did",
        ),
        ({"objective": {"kind": "sum", "terms": {"a": {"weight": 1}}}}, "objective.terms.a.objective is missing"),
        (
            {"objective": {"kind": "sum", "terms": {"vgg": {"objective": {"kind": "vgg", "distnce": "l1"}}}}},
            "unknown key objective.terms.vgg.objective.distnce, did you mean 'distance'?",
        ),
        (
            {"objective": {"kind": "sum", "terms": {"a": {"objective": {"kind": "sum"}}}}},
            "objective.kind is one of 'mse'",
        ),
    ],
)
def test_what_is_wrong_is_said(change, words):
    with pytest.raises(UserError) as error:
        recipe_from(MINIMAL, change)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_loss_of_ones_own(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    spec = objective(kind="import", target="own:loss", args={"power": 2})
    sr, hr = torch.rand(2, 1, 3, 5, 5)
    assert resolve(spec) == spec
    torch.testing.assert_close(build(spec, CPU, torch.float32)(sr, hr), (sr - hr).square().mean())
    with pytest.raises(UserError, match=r"own:pixelwise gives \[1, 3, 32, 32\] for SR and HR, and a loss is a scalar"):
        resolve(spec.model_copy(update={"target": "own:pixelwise", "args": {}}))
    with pytest.raises(UserError, match="own:crash fails when it is tried: AttributeError"):
        resolve(spec.model_copy(update={"target": "own:crash", "args": {}}))
    with pytest.raises(UserError, match="there is no own:gone to import"):
        resolve(spec.model_copy(update={"target": "own:gone"}))
