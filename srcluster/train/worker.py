"""One worker of a training, in its own process on the cluster: one of Ray Train's ranks."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from ray import train

from srcluster.errors import UserError
from srcluster.recipe import Recipe
from srcluster.tracking import Run, RunSpec
from srcluster.train.process_group import init_process_group
from srcluster.train.run import train_run
from srcluster.training.checkpoint import CheckpointError
from srcluster.training.lease import LeaseError
from srcluster.training.loop import NonFiniteLossError
from srcluster.training.store import RunStore


class _WarningHandler(logging.Handler):
    """Reports warnings: else they stand in a log file of Ray's, on another machine."""

    def __init__(self, log: Callable[[str], None]):
        super().__init__(logging.WARNING)
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        self.log(f"warning: {record.getMessage()}")


def work(config: dict[str, Any]) -> dict[str, Any]:
    """Run or continue a recipe with the other workers; returns the `metrics` of `train_run`, or the `error`.

    An error that comes on all ranks at once is returned: to try again would end the same. Any other ends the process,
    and Ray Train begins all workers anew, as many as there is room for.

    Args:
        config: As `driver.fit` makes it.
    """
    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    recipe = Recipe.model_validate(config["recipe"])
    torch.set_num_threads(config["threads"])
    store = RunStore(config["url"], recipe.checkpoint.keep, config["holder"])

    def log(words: str) -> None:
        config["queue"].put.remote(words, 0, {})

    def on_report(step: int, metrics: dict[str, float]) -> None:
        config["queue"].put.remote("", step, metrics)

    def preempted() -> bool:
        return train.get_preemption_info() is not None

    logging.getLogger("srcluster").addHandler(_WarningHandler(log))
    try:
        # Where one found it lost, all were begun again, and find it here.
        store.check_lease()
    except LeaseError as error:
        return {"error": str(error)}
    run = Run.attach(RunSpec(**config["run"]), store.url) if rank == 0 else None
    try:
        if run:
            steps = store.steps()
            begun = f"from step {steps[-1]}" if steps else "from its beginning"
            log(f"{world} worker{'s' * (world > 1)} of {config['threads']} threads, {begun}")
        init_process_group()
        return {"metrics": train_run(recipe, run, store, on_report, preempted, config["stop_at_step"])}
    except Exception as error:
        log(f"worker {rank} of {world}: {type(error).__name__}: {error}")
        if not isinstance(error, UserError if world == 1 else NonFiniteLossError | CheckpointError):
            # Where the others wait for this rank, only its death ends that.
            raise
        return {"error": str(error)}
    finally:
        if run:
            run.close()
