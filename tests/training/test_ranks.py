"""Several ranks are one: the same batch, the same weights, the same scores, the same end."""

import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, nn

from srcluster.data import benchmarks
from srcluster.data.degradation import margin
from srcluster.data.order import part
from srcluster.errors import UserError
from srcluster.models.residual import ResidualNetwork
from srcluster.recipe import recipe_from
from srcluster.training.batch_norm import SyncBatchNorm, convert_sync_batch_norm
from srcluster.training.loop import fit
from srcluster.training.ranks import Ranks

RECIPE = {
    "name": "ranks",
    "steps": 6,
    "model": {"kind": "residual", "features": 8, "blocks": 1, "norm": "none"},
    "data": {"patch": 16, "batch": 16},
    "objective": {"kind": "l1"},
    "precision": "fp32",
    "optimizer": {"lr": 1e-3},
    "ema": 0.5,
    "log_every_steps": 2,
    "evaluation": {"benchmarks": ["Wheel3"], "every_steps": 3},
    "checkpoint": {"every_steps": 6},
}


class Reporter:
    def __init__(self, folder: Path):
        self.folder, self.losses, self.pictures = folder, [], []

    def report(self, step, metrics):
        self.losses += [metrics["train/loss"]] if "train/loss" in metrics else []

    def picture(self, step, benchmark, image, sr):
        self.pictures.append([step, image.name, sr.shape == image.hr.shape])

    def checkpoint(self, step, files):
        (self.folder / str(step)).mkdir()
        for name, content in files.items():
            (self.folder / str(step) / name).write_bytes(content)

    def preempted(self):
        return False


def train(ranks: Ranks, folder: Path, changes: dict, broken_rank: int | None) -> None:
    """A training on given batches, of which each rank takes its part; what comes of it is left in a folder."""
    recipe = recipe_from(RECIPE, changes)
    side = 16 + 2 * margin(4)
    batches = torch.randint(256, (recipe.steps, 16, 3, side, side), generator=torch.Generator().manual_seed(0))
    mine = part(range(16), ranks.rank, ranks.world)
    benchmark = benchmarks.load("Wheel3", 4)
    small = replace(benchmark, images=tuple(_piece(image) for image in benchmark.images))
    reporter = Reporter(folder)

    def open_batches(start):
        yield from ((batch[mine.start : mine.stop].byte(),) for batch in batches[start:])

    torch.set_num_threads(1)
    try:
        if ranks.rank == broken_rank:
            sound = ResidualNetwork.forward
            ResidualNetwork.forward = lambda self, lr: sound(self, lr) * (torch.nan if self.training else 1)
        metrics = fit(recipe, open_batches, [small], reporter, ranks).metrics
        (folder / f"metrics-{ranks.rank}.json").write_text(json.dumps(metrics))
        (folder / f"losses-{ranks.rank}.json").write_text(json.dumps(reporter.losses))
        (folder / f"pictures-{ranks.rank}.json").write_text(json.dumps(reporter.pictures))
    except UserError as error:
        (folder / f"error-{ranks.rank}.txt").write_text(str(error))


def _piece(image):
    return replace(image, hr=image.hr[:64, :64], lr=image.lr[:16, :16])


def train_together(folder: Path, world: int, changes=None, broken_rank: int | None = None) -> None:
    folder.mkdir()
    told = [json.dumps([rank, world, str(folder), changes or {}, broken_rank]) for rank in range(world)]
    processes = [subprocess.Popen([sys.executable, __file__, words]) for words in told]
    assert [process.wait(timeout=100) for process in processes] == [0] * world


def main(rank: int, world: int, folder: str, changes: dict, broken_rank: int | None) -> None:
    """One rank, in a process of its own."""
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    train(Ranks.present(), Path(folder), changes, broken_rank)
    distributed.barrier()


# Adam would make steps of the rounding errors in what batch norm leaves of a bias before it: nothing.
NORMALISED = {"model.norm": "batch", "model.around": "norm_activation", "optimizer.kind": "sgd"}


ACCUMULATED = NORMALISED | {"data.accumulate": 4}


def adversarial(kind: str, loss: str, steps: int) -> dict:
    judge = {
        "kind": "adversarial",
        "discriminator": {"kind": kind, "features": 4},
        "loss": loss,
        "optimizer": {"kind": "sgd", "lr": 1e-2},
    }
    terms = {"pixel": {"objective": {"kind": "l1"}}, "judge": {"objective": judge}}
    return NORMALISED | {
        "objective": {"kind": "sum", "terms": terms},
        "steps": steps,
        "checkpoint.every_steps": steps,
    }


ADVERSARIAL = adversarial("unet", "relativistic", 6)

# On patches as small as these its batch norm sees single pixels: rounding errors grow tenfold with each step.
SRGAN = adversarial("srgan", "vanilla", 2)


@pytest.mark.parametrize("changes", [{"clip_norm": 0.01}, NORMALISED, ACCUMULATED, ADVERSARIAL, SRGAN])
def test_three_ranks_with_unequal_shares_end_as_one_does(tmp_path, changes):
    (tmp_path / "one").mkdir()
    train(Ranks(0, 1), tmp_path / "one", changes, None)
    train_together(tmp_path / "three", world=3, changes=changes)
    steps = str(changes.get("steps", RECIPE["steps"]))
    for name in ("network", "average", "best"):
        one, three = (load_file(tmp_path / folder / steps / f"{name}.safetensors") for folder in ("one", "three"))
        torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-6)
    # The same images, whoever measures them.
    folders = ("one/pictures-0", "three/pictures-0", "three/pictures-1")
    pictures = [json.loads((tmp_path / f"{name}.json").read_text()) for name in folders]
    assert [len(pictures[0]) % 3, pictures[1], pictures[2]] == [0, pictures[0], []] != [0, [], []]
    losses = [json.loads((tmp_path / folder / "losses-0.json").read_text()) for folder in ("one", "three")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    metrics = [json.loads((tmp_path / "three" / f"metrics-{rank}.json").read_text()) for rank in range(3)]
    assert metrics[0] == metrics[1] == metrics[2]
    assert metrics[0] == pytest.approx(json.loads((tmp_path / "one" / "metrics-0.json").read_text()), abs=0.01)


def test_micro_batches_end_as_the_batch_does(tmp_path):
    ends = []
    for accumulate in (1, 3, 16):
        folder = tmp_path / str(accumulate)
        folder.mkdir()
        train(Ranks(0, 1), folder, {"data.accumulate": accumulate, "optimizer.kind": "sgd"}, None)
        ends.append(load_file(folder / "6" / "network.safetensors"))
        assert json.loads((folder / "losses-0.json").read_text()) == pytest.approx(
            json.loads((tmp_path / "1" / "losses-0.json").read_text()), rel=1e-5
        )
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ends[2], ends[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_together_is_batch_norm(dtype):
    """Of one rank it is torch's own: output, gradients, and what it keeps."""
    torch.manual_seed(0)
    alone = nn.BatchNorm2d(3)
    nn.init.normal_(alone.weight)
    together = nn.Sequential(deepcopy(alone))
    convert_sync_batch_norm(together, Ranks(0, 1))
    assert isinstance(together[0], SyncBatchNorm)
    x, seed = torch.randn(4, 3, 8, 8).mul(3).add(5).to(dtype), torch.randn(4, 3, 8, 8).to(dtype)
    ends = []
    for network in (alone, together):
        leaf = x.clone().requires_grad_()
        y = network(leaf)
        y.backward(seed)
        ends.append([y, leaf.grad, *(weight.grad for weight in network.parameters()), *network.buffers()])
        ends[-1].append(network.eval()(x))
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(*ends, **tolerance)
    assert list(together.state_dict()) == [f"0.{name}" for name in alone.state_dict()]


def test_a_rank_that_diverges_ends_all(tmp_path):
    train_together(tmp_path / "three", world=3, changes={"steps": 4}, broken_rank=1)
    words = [(tmp_path / "three" / f"error-{rank}.txt").read_text() for rank in range(3)]
    assert words[0] == words[1] == words[2]
    assert "not finite at step 1" in words[0]
    assert "there is no checkpoint yet" in words[0]


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
