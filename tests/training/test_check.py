"""What would fail on a worker fails before."""

from pathlib import Path

import pytest

from srcluster.errors import UserError
from srcluster.recipe import recipe_from
from srcluster.training.check import check_trainable

MINIMAL = {"name": "mine", "steps": 10, "model": {"kind": "srcnn"}}


def step(name: str) -> dict[str, str]:
    return {"kind": "import", "target": f"own:{name}"}


def test_what_fits():
    check_trainable(recipe_from(MINIMAL))
    check_trainable(recipe_from(MINIMAL, {"objective": {"kind": "vgg", "layers": "relu3_3"}}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data.patch": 8}, "can't be trained on data.patch = 8, which is 2 of LR"),
        ({"optimizer.layer_lr": {"conv9": 1e-3}}, "names no layer 'conv9' of this network; it has conv1, conv2"),
        ({"degradation": {"kind": "pipeline", "steps": [step("nothing")]}}, "there is no own:nothing to import"),
        (
            {"degradation": {"kind": "pipeline", "steps": [{"kind": "shuffle", "steps": [step("grey")]}]}},
            "own:grey gives [32, 32] for an image, and a degraded image is 3 x H x W",
        ),
        (
            {"degradation": {"kind": "pipeline", "steps": [{"kind": "one_of", "choices": [[step("crash")]]}]}},
            "own:crash fails when it is tried: AttributeError: 'Tensor' object has no attribute 'nothing'",
        ),
        ({"model": step("Identity")}, "the network has no weights: there is nothing to train"),
        ({"model": step("crash")}, "own:crash fails when it is tried: AttributeError"),
        (
            {"data.patch": 24, "objective": {"kind": "vgg", "layers": "relu5_1"}},
            "relu5_1 of VGG16 need 16 x 16 pixels, and the network gives 8 x 8",
        ),
    ],
)
def test_what_does_not(change, words, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    with pytest.raises(UserError) as error:
        check_trainable(recipe_from(MINIMAL, change))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
