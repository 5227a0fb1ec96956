"""One worker of a training, in its own process on the cluster: a session, as one of Ray Train's ranks."""

import logging
import time
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray import train

from srcluster.errors import UserError
from srcluster.recipe import Recipe
from srcluster.tracking import Run, RunSpec
from srcluster.train.process_group import init_process_group
from srcluster.train.run import train_run
from srcluster.training.checkpoint import CheckpointError
from srcluster.training.loop import NonFiniteLossError
from srcluster.training.store import RunStore

__all__ = ["Mailbox", "work"]


@ray.remote(num_cpus=0)
class Mailbox:
    """Lines from the workers, for the terminal of who started them, each with the step and metrics it tells."""

    def __init__(self):
        self.lines: list[tuple[str, int, dict[str, float]]] = []

    def put(self, line: str, step: int, metrics: dict[str, float]) -> None:
        self.lines.append((line, step, metrics))

    def take(self) -> list[tuple[str, int, dict[str, float]]]:
        lines, self.lines = self.lines, []
        return lines


class _Warnings(logging.Handler):
    """Says warnings: else they stand in a log file of Ray's, on another machine."""

    def __init__(self, say: Callable[[str], None]):
        super().__init__(logging.WARNING)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say(f"warning: {record.getMessage()}")


def _preempted() -> bool:
    return train.get_preemption_info() is not None


def work(config: dict[str, Any]) -> dict[str, Any]:
    """Run or continue a recipe with the other workers.

    An error that comes on all ranks at once is returned: to try again would end the same. Anything else ends the
    process, and Ray Train begins all workers anew, as many as there is room for.

    Args:
        config: recipe; store, the URL for the run's files; run, its spec in MLflow; stop_at_step (see `train_run`);
            threads; and mailbox.

    Returns:
        On rank 0, the `metrics` of the best network, or the `error`.
    """
    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    recipe = Recipe.model_validate(config["recipe"])
    torch.set_num_threads(config["threads"])
    store = RunStore(config["store"], recipe.checkpoint.keep)
    run = Run.attach(RunSpec(**config["run"]), store.url) if rank == 0 else None

    def say(words: str, step: int = 0, metrics: dict[str, float] | None = None) -> None:
        config["mailbox"].put.remote(f"{time.strftime('%H:%M:%S')}  {words}", step, metrics or {})

    def tell(step: int, metrics: dict[str, float]) -> None:
        if "train/loss" in metrics:
            say(
                f"step {step:>7}   loss {metrics['train/loss']:.5f}   {metrics['train/patches_per_s']:.1f} patches/s   "
                f"waiting for data {metrics['train/data_wait_share']:.1%}"
            )
        else:
            words = "   ".join(f"{key} {value:.2f}" for key, value in metrics.items())
            say(f"step {step:>7}   {words}", step, metrics)

    logging.getLogger("srcluster").addHandler(_Warnings(say))
    try:
        if run:
            steps = store.steps()
            begun = f"from step {steps[-1]}" if steps else "from its beginning"
            say(f"{world} worker{'s' * (world > 1)} of {config['threads']} threads, {begun}")
        init_process_group()
        return {"metrics": train_run(recipe, run, store, tell, _preempted, config["stop_at_step"])}
    except Exception as error:
        say(f"worker {rank} of {world}: {type(error).__name__}: {error}")
        if not isinstance(error, UserError if world == 1 else NonFiniteLossError | CheckpointError):
            # Where the others wait for this rank, only its death ends that.
            raise
        return {"error": str(error)}
    finally:
        if run:
            run.close()
