from pathlib import Path

import numpy as np
import pytest
import torch

from srcluster.data.pipeline import degrade_by_steps
from srcluster.recipe.pipeline import Pipeline
from srcluster.recipe.yaml_files import shipped_files


def image(height: int = 96, width: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, height, width), np.uint8))


def degraded(hr: torch.Tensor, scale: int, *steps: dict, seed: int = 0) -> torch.Tensor:
    return degrade_by_steps(hr, scale, Pipeline(kind="pipeline", steps=steps).steps, np.random.default_rng(seed))


@pytest.mark.parametrize("preset", shipped_files("degradations"))
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_presets_give_8_bit_lr_that_their_draws_decide(preset, scale):
    steps = Pipeline(kind="pipeline", preset=preset).steps
    first, again, other = (
        degrade_by_steps(image(), scale, steps, np.random.default_rng([7, seed])) for seed in (0, 0, 1)
    )
    assert first.shape == (3, 96 // scale, 64 // scale)
    assert torch.equal(first.mul(255).round().div(255), first)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_step_that_is_never_taken_changes_nothing():
    assert torch.equal(degraded(image(), 1, {"kind": "jpeg", "probability": 0}), image() / 255)


def test_noise_is_as_strong_as_asked():
    grey = torch.full((3, 128, 128), 128, dtype=torch.uint8)
    noisy = degraded(grey, 1, {"kind": "noise", "sigma": [10, 10]}) * 255
    assert noisy.std().item() == pytest.approx(10, rel=0.05)
    assert noisy.mean().item() == pytest.approx(128, abs=0.5)
    alike = degraded(grey, 1, {"kind": "noise", "sigma": [10, 10], "grey": 1})
    assert torch.equal(alike[0], alike[2])


def test_poisson_noise_grows_with_the_brightness():
    ramp = torch.arange(256, dtype=torch.uint8).repeat_interleave(4).expand(3, 256, -1).contiguous()
    step = {"kind": "noise", "gaussian": 0, "poisson_scale": [1, 1]}
    noise = degraded(ramp, 1, step) * 255 - ramp
    for level in (64, 144):
        # 256 photons for white: a level of 64 has as much variance.
        assert noise[..., 4 * level - 32 : 4 * level + 32].var().item() == pytest.approx(level, rel=0.15)


@pytest.mark.parametrize("of", ["hr", "lr"])
def test_a_resize_is_of_hr_or_of_lr(of):
    small = {"kind": "resize", "of": of, "down": 1, "factors": [0.25, 1], "modes": ["area"]}
    lr = degraded(image(), 4, small)
    assert lr.shape == (3, 24, 16)
    assert lr.std() < (image() / 255).std() / 2


def test_small_images_are_blurred_too():
    assert degraded(image(8, 8), 4, {"kind": "resize", "of": "lr"}, {"kind": "blur", "sizes": [21, 21]}).shape[1] == 2


def test_a_shuffle_takes_every_order():
    steps = [{"kind": "resize", "of": "lr", "modes": ["area"]}, {"kind": "jpeg", "quality": [20, 20]}]
    either = {
        tuple(degraded(image(), 4, {"kind": "shuffle", "steps": steps}, seed=s).flatten().tolist()) for s in range(9)
    }
    one_of = {"kind": "one_of", "choices": [steps, steps[::-1]]}
    assert either == {tuple(degraded(image(), 4, one_of, seed=s).flatten().tolist()) for s in range(9)}
    assert len(either) == 2


def test_a_step_of_ones_own(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    step = {"kind": "import", "target": "own:darker", "args": {"factor": 0.5}}
    assert degraded(image(), 1, step).max() == 128 / 255
    assert torch.equal(degraded(image(), 1, step | {"probability": 0}), image() / 255)
