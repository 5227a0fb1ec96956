"""The loop: it learns, it resumes to the bit, it stops on nonsense, and it is what it was."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from srcluster.data import benchmarks
from srcluster.data.pairs import Pair, match
from srcluster.data.photos import find
from srcluster.data.shards import Packing, pack
from srcluster.data.stream import Stream
from srcluster.errors import UserError
from srcluster.models import build
from srcluster.models.saved import load_model, load_weights, weights_bytes
from srcluster.recipe import Interpolation, Recipe, Schedule, recipe_from
from srcluster.training.checkpoint import CheckpointError
from srcluster.training.evaluation import evaluate
from srcluster.training.loop import NonFiniteLossError, fit
from srcluster.training.meter import _flops_of_patch
from srcluster.training.optimizer import learning_rate_factor
from srcluster.training.precision import choose
from srcluster.training.ranks import Ranks
from srcluster.training.store import RunStore

ALONE = Ranks(0, 1)
CURVE = Path(__file__).with_name("srcnn_curve.json")


class Recorder:
    """Keeps what is reported, and a copy of each checkpoint."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.metrics: dict[str, list[tuple[int, float]]] = {}

    def report(self, step, metrics):
        for key, value in metrics.items():
            self.metrics.setdefault(key, []).append((step, value))

    def picture(self, step, benchmark, image, sr):
        pass

    def checkpoint(self, step, files):
        (self.folder / str(step)).mkdir(parents=True)
        for name, content in files.items():
            (self.folder / str(step) / name).write_bytes(content)

    def preempted(self):
        return False


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    url = str(tmp_path_factory.mktemp("loop") / "shards")
    pack(find("wheels")[:3], Packing(source="wheels", crop=None), url)
    return url


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A benchmark that takes no time: a piece of each image of Wheel3."""
    folder = tmp_path_factory.mktemp("pieces")
    for image in benchmarks.load("Wheel3", 4).images:
        Image.fromarray(image.hr[80:176, 120:216]).save(folder / f"{image.name}.png")
    return replace(benchmarks.load(str(folder), 4), name="pieces")


def recipe(shards: str, **changes) -> Recipe:
    values = {
        "name": "test",
        "steps": 12,
        "model": {"kind": "srcnn", "kernel_sizes": [9, 1, 5], "features": [8, 4]},
        "data": {"shards": shards, "patch": 32, "batch": 4},
        "objective": {"channels": "y"},
        "precision": "fp32",
        "optimizer": {"lr": 1e-3},
        "schedule": {"kind": "cosine", "warmup_steps": 2},
        "ema": 0.9,
        "log_every_steps": 3,
        "evaluation": {"benchmarks": ["pieces"], "every_steps": 6},
        "checkpoint": {"every_steps": 4},
    }
    return recipe_from(values, changes)


def run(recipe, pieces, folder, resume=None, stop_at_step=None):
    stream = Stream(recipe.data, scale=recipe.scale, seed=recipe.seed)
    recorder = Recorder(folder)
    files = files_of(resume) if resume else None
    return fit(recipe, stream.batches, [pieces], recorder, ALONE, files, stop_at_step=stop_at_step), recorder


def files_of(checkpoint: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in checkpoint.iterdir()}


def weights(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


@pytest.mark.parametrize("optimizer", [{"kind": "adam"}, {"kind": "adamw"}, {"kind": "sgd", "lr": 0.01}])
def test_resuming_at_any_checkpoint_ends_with_the_same_bits(shards, pieces, tmp_path, optimizer):
    whole = recipe(shards, **{"optimizer": optimizer, "clip_norm": 1.0})
    finished, first = run(whole, pieces, tmp_path / "whole")
    for step in (4, 8, 12):
        again, second = run(whole, pieces, tmp_path / f"from{step}", tmp_path / "whole" / str(step))
        if step < 12:
            assert weights(tmp_path / f"from{step}" / "12") == weights(tmp_path / "whole" / "12")
        assert again.metrics == finished.metrics
        for key in ("train/loss", "train/lr", "psnr_y/pieces"):
            tail = [point for point in first.metrics[key] if point[0] > step]
            assert second.metrics.get(key, []) == tail


def test_stopping_on_the_way_ends_with_the_same_bits(shards, pieces, tmp_path):
    whole, first = run(recipe(shards), pieces, tmp_path / "whole")
    stopped, second = run(recipe(shards), pieces, tmp_path / "stopped", stop_at_step=6)
    again, third = run(recipe(shards), pieces, tmp_path / "again", tmp_path / "stopped" / "6", stop_at_step=6)
    at_6 = {key: dict(points)[6] for key, points in first.metrics.items() if key.endswith("/pieces")}
    assert at_6 == stopped.metrics == again.metrics
    assert not third.metrics
    ended, fourth = run(recipe(shards), pieces, tmp_path / "ended", tmp_path / "stopped" / "6")
    assert ended.metrics == whole.metrics
    assert weights(tmp_path / "ended" / "12") == weights(tmp_path / "whole" / "12")
    assert second.metrics["train/loss"] + fourth.metrics["train/loss"] == first.metrics["train/loss"]


@pytest.mark.parametrize("steps", [6, 5])
def test_an_extended_run_ends_with_the_bits_of_the_longer_one(shards, pieces, tmp_path, steps):
    """Also where the shorter one measured weights at its end that the longer one does not."""
    longer = recipe(shards, schedule={"kind": "step", "milestones": [5, 9], "warmup_steps": 3}, precision="auto")
    whole, _ = run(longer, pieces, tmp_path / "whole")
    shorter = longer.model_copy(update={"steps": steps})
    ended, _ = run(shorter, pieces, tmp_path / "run" / "first")
    store = RunStore(str(tmp_path / "run"))
    store.claim(shorter)
    for step in (4, steps):
        store.save(step, files_of(tmp_path / "run" / "first" / str(step)))
        store.close()
    store.finish(b"", ended.metrics)
    store.extend(store.claim(longer, extend=True), longer)
    stream = Stream(longer.data, scale=4, seed=0)
    extended = fit(longer, stream.batches, [pieces], Recorder(tmp_path / "extended"), ALONE, store.latest())
    assert extended.metrics == whole.metrics
    for step in ("8", "12"):
        assert weights(tmp_path / "extended" / step) == weights(tmp_path / "whole" / step)


def test_the_loss_curve_is_the_stored_one(shards, pieces, tmp_path):
    _, recorder = run(recipe(shards), pieces, tmp_path)
    curve = [loss for _, loss in recorder.metrics["train/loss"]]
    # The sums of another processor differ in their last bits; a change of the maths differs in the first.
    assert curve == pytest.approx(json.loads(CURVE.read_text()), rel=1e-4)


def test_it_learns(shards, pieces, tmp_path):
    learner = recipe(shards, **{"steps": 120, "optimizer.lr": 2e-3, "evaluation.every_steps": 120})
    result, _ = run(learner, pieces, tmp_path)
    bicubic = evaluate(build(Interpolation(), 4), pieces, 4)["psnr_y/pieces"]
    assert result.metrics["best/psnr_y/pieces"] > bicubic + 0.05


def test_the_best_weights_are_kept(shards, pieces, tmp_path):
    # A learning rate that ruins the network after its first evaluation.
    ruined = recipe(shards, **{"optimizer": {"kind": "sgd", "lr": 0.5, "momentum": 0.0}, "ema": 0.0})
    ruined = recipe_from(ruined.model_dump(mode="json"), {"evaluation.every_steps": 1, "steps": 4, "clip_norm": 1.0})
    result, recorder = run(ruined, pieces, tmp_path)
    followed = recorder.metrics["psnr_y/pieces"]
    assert result.metrics["best/psnr_y/pieces"] == pytest.approx(max(score for _, score in followed))
    assert result.metrics["best/step"] == max(followed, key=lambda point: point[1])[0]
    last = recipe_from(ruined.model_dump(mode="json"), {"evaluation.select": "last"})
    assert run(last, pieces, tmp_path / "last")[0].metrics["best/step"] == 4


def test_a_loss_that_is_no_number_stops_before_the_next_checkpoint(shards, pieces, tmp_path):
    mad = recipe(shards, **{"optimizer": {"kind": "sgd", "lr": 1e30}, "schedule": {"kind": "constant"}})
    with pytest.raises(NonFiniteLossError, match=r"not finite at step \d+ \(optimizer.lr=1e\+30\): lower the learning"):
        run(mad, pieces, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_a_model(shards, pieces, tmp_path):
    """Also before the first evaluation, with an average that has no part in batch norm's statistics."""
    normed = recipe(shards, **{"model": {"kind": "residual", "features": 4, "blocks": 1}, "evaluation.every_steps": 8})
    run(normed, pieces, tmp_path)
    for step in (4, 8):
        loaded, network = load_model(tmp_path / str(step))
        assert loaded == normed
        average = load_weights(tmp_path / str(step) / "average.safetensors")
        torch.testing.assert_close(network.state_dict()["tail.weight"], average["tail.weight"])


def test_a_checkpoint_of_another_recipe_is_refused(shards, pieces, tmp_path):
    run(recipe(shards), pieces, tmp_path / "a")
    with pytest.raises(CheckpointError, match="give the run another name"):
        run(recipe(shards, seed=1), pieces, tmp_path / "b", tmp_path / "a" / "8")


def test_a_checkpoint_of_batches_in_another_order_is_refused(shards, pieces, tmp_path):
    """What stands in state.json of a run that was begun before batches were a function of the step alone."""
    run(recipe(shards), pieces, tmp_path / "a")
    old = (
        '{"step": 8, "history": [[2, 5], [1, 3]], "best": {"psnr_y/pieces": 23.5, "step": 6}, "recipe": "0b1c2d3e4f5a"}'
    )
    (tmp_path / "a" / "8" / "state.json").write_text(old)
    with pytest.raises(
        CheckpointError, match=r"is of an older srcluster, .* in another order: give the run another name"
    ):
        run(recipe(shards), pieces, tmp_path / "b", tmp_path / "a" / "8")


@pytest.mark.parametrize("name", ["network.safetensors", "optimizer.pt", "state.json", "average.safetensors"])
def test_a_checkpoint_that_is_none_is_told(shards, pieces, tmp_path, name):
    run(recipe(shards), pieces, tmp_path / "a")
    damaged = tmp_path / "a" / "8" / name
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"can't be read .*: continue the run with the srcluster that wrote it"):
        run(recipe(shards), pieces, tmp_path / "b", tmp_path / "a" / "8")


def test_layers_have_rates_of_their_own(shards, pieces, tmp_path):
    frozen = recipe(shards, **{"optimizer.layer_lr": {"conv3": 1e-30}})
    _, recorder = run(frozen, pieces, tmp_path)
    first, last = (load_weights(tmp_path / str(step) / "network.safetensors") for step in (4, 12))
    torch.testing.assert_close(first["conv3.weight"], last["conv3.weight"], rtol=0, atol=1e-20)
    assert not torch.equal(first["conv1.weight"], last["conv1.weight"])
    rates, own = (dict(recorder.metrics[key]) for key in ("train/lr", "train/lr/conv3"))
    assert own == pytest.approx({step: rate * 1e-27 for step, rate in rates.items()})


def test_how_fast_it_goes_is_told(shards, pieces, tmp_path):
    _, recorder = run(recipe(shards), pieces, tmp_path)
    left = [seconds for _, seconds in recorder.metrics["train/time_left_s"]]
    assert left == sorted(left, reverse=True)
    assert left[0] > left[-1] == 0
    assert all(0 < share < 1 for _, share in recorder.metrics["train/mfu"])
    assert "train/gpu_memory_bytes" in recorder.metrics or not torch.cuda.is_available()


def test_the_work_of_a_patch_is_counted_and_leaves_no_trace():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Dropout(0.5))
    torch.manual_seed(0)
    # Forward, and backward to the weights; the image itself needs no gradient.
    assert _flops_of_patch(network, 16, choose("fp32")) == 2 * 2 * 16 * 16 * 3 * 8 * 9
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0)))
    assert network[1].num_batches_tracked == 0
    assert network[0].weight.grad is None


def test_a_rate_for_no_layer(shards, pieces, tmp_path):
    with pytest.raises(UserError, match="no layer 'conv4' of this network; it has conv1, conv2, conv3"):
        run(recipe(shards, **{"optimizer.layer_lr": {"conv4": 1e-5}}), pieces, tmp_path)


def test_bf16_and_compiled_come_close(shards, pieces, tmp_path):
    scores = [
        run(recipe(shards, **changes), pieces, tmp_path / str(number))[0].metrics["best/psnr_y/pieces"]
        for number, changes in enumerate([{}, {"precision": "bf16"}, {"precision": "bf16", "compile": True}])
    ]
    assert scores == pytest.approx([scores[0]] * 3, abs=0.05)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ({"kind": "constant"}, [1, 1, 1, 1, 1]),
        ({"kind": "cosine"}, [1, (1 + np.cos(np.pi / 4)) / 2, 0.5, (1 + np.cos(3 * np.pi / 4)) / 2, 0]),
        ({"kind": "cosine", "final": 0.2}, [1, None, 0.6, None, 0.2]),
        ({"kind": "step", "milestones": [25, 75]}, [1, 0.5, 0.5, 0.25, 0.25]),
        ({"kind": "constant", "warmup_steps": 50}, [0.02, 0.52, 1, 1, 1]),
    ],
)
def test_schedules(schedule, factors):
    for step, factor in zip((0, 25, 50, 75, 100), factors, strict=True):
        if factor is not None:
            assert learning_rate_factor(Schedule(**schedule), step, 100) == pytest.approx(factor)


def test_the_stream_is_asked_for_the_right_position(shards, pieces, tmp_path):
    whole = recipe(shards)
    run(whole, pieces, tmp_path / "whole")
    asked = []

    def batches(start):
        asked.append(start)
        return Stream(whole.data, scale=4, seed=0).batches(start)

    fit(whole, batches, [pieces], Recorder(tmp_path / "again"), ALONE, files_of(tmp_path / "whole" / "8"))
    assert asked == [8]


def test_an_average_that_warms_up_follows_sooner(shards, pieces, tmp_path):
    away = []
    for warmup in (False, True):
        run(recipe(shards, steps=4, ema=0.9999, ema_warmup=warmup), pieces, tmp_path / f"{warmup}")
        network, average = (load_weights(tmp_path / f"{warmup}/4/{n}.safetensors") for n in ("network", "average"))
        away.append(sum((network[name] - average[name]).abs().sum().item() for name in average))
    assert away[1] < away[0] / 2


def test_a_training_starts_from_weights_and_says_its_precision(shards, pieces, tmp_path):
    first, _ = run(recipe(shards, steps=4), pieces, tmp_path / "first")
    content = weights_bytes(first.network.state_dict(), recipe(shards))
    file = tmp_path / "weights.safetensors"
    file.write_bytes(content)
    start = {"weights": str(file), "sha256": hashlib.sha256(content).hexdigest()}
    second, _ = run(recipe(shards, steps=0, start=start), pieces, tmp_path / "second")
    assert second.metrics["best/psnr_y/pieces"] == first.metrics["best/psnr_y/pieces"]
    assert second.metrics["train/precision_bits"] == 32
    assert json.loads((tmp_path / "first" / "4" / "state.json").read_text())["precision"] == "fp32"


@pytest.mark.parametrize("scale", [1, 2])
def test_it_trains_on_pairs(pieces, tmp_path, scale):
    """What it learns is what LR lacks of HR: here light."""
    for kind, side, value in (("HR", 32 * scale, 160), ("LR", 32, 96)):
        (tmp_path / kind).mkdir()
        for number in range(3):
            Image.new("RGB", (side, side), (value + number,) * 3).save(tmp_path / kind / f"{number}.png")
    hr, lr = (find(str(tmp_path / kind)) for kind in ("HR", "LR"))
    packing = Packing(source="HR", lr="LR", scale=scale, crop=None)
    pack([Pair(*pair, scale) for pair in match(hr, lr)], packing, str(tmp_path / "shards"))
    changes = {"scale": scale, "degradation.kind": "paired", "data.patch": 16, "steps": 40, "optimizer.lr": 1e-2}
    small = recipe(str(tmp_path / "shards"), **changes, **{"evaluation.every_steps": 40, "log_every_steps": 5})
    stream = Stream(small.data, scale=scale, seed=0, degradation=small.degradation)
    recorder = Recorder(tmp_path)
    image = replace(pieces.images[0], lr=pieces.images[0].hr[: 96 // scale, : 96 // scale])
    fit(small, stream.batches, [replace(pieces, images=(image,))], recorder, ALONE)
    losses = [loss for _, loss in recorder.metrics["train/loss"]]
    assert losses[0] > 0.01
    assert losses[-1] < losses[0] / 3
