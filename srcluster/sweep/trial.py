"""One trial of a sweep, in a process of its own on the cluster: a session, or Ray Train's driver, told to Ray Tune."""

from typing import Any

import torch
from ray import tune

from srcluster.errors import UserError
from srcluster.recipe import Recipe
from srcluster.tracking import Run, environment_tags
from srcluster.train import driver
from srcluster.train.driver import Fleet, TrainError
from srcluster.train.run import train_run
from srcluster.training.store import RunStore

__all__ = ["run_trial"]


def run_trial(config: dict[str, Any]) -> None:
    """Run or continue a trial, from its own latest checkpoint: Tune, which is told scores alone, keeps none.

    A `UserError` ends the trial as failed, and not the process: Tune would only try it again. Anything else does
    end it, and Tune runs it again.

    Args:
        config: Under `trial`: recipe, values, label, index, until (see `train_run`), experiment, parent (an MLflow
            run id), key, and name, that of the folder of its files below the URL home; under `fleet` the fields of a
            `Fleet`.
    """
    trial, fleet = config["trial"], Fleet(**config["fleet"])
    recipe, stop_at_step = Recipe.model_validate(trial["recipe"]), trial["stop_at_step"]
    store = RunStore(f"{trial['home']}/{trial['name']}", recipe.checkpoint.keep)
    # A process may die after a trial's end and before Tune hears of it.
    if result := store.result(stop_at_step):
        tune.report({"step": stop_at_step or recipe.steps, **result})
        return
    run = Run.start(
        trial["experiment"],
        trial["label"],
        key=trial["key"],
        parent=trial["parent"],
        params=recipe.model_dump(mode="json"),
        tags=environment_tags(),
    )
    try:
        if fleet.most > 1:
            result = _train_together(recipe, store, fleet, run, stop_at_step)
        else:
            torch.set_num_threads(fleet.cpus)
            result = train_run(recipe, run, store, _tell, stop_at_step=stop_at_step)
        run.end()
        tune.report({"step": stop_at_step or recipe.steps, **result})
    except UserError as error:
        run.fail(str(error))
        tune.report({"error": str(error)})
    finally:
        # At Ctrl-C this is left by an exit in the middle; how the run ended is for the driver to say.
        run.close()


def _train_together(
    recipe: Recipe, store: RunStore, fleet: Fleet, run: Run, stop_at_step: int | None
) -> dict[str, float]:
    """Several workers, of which this process is the driver alone; when it is ended, Ray ends them."""
    outcome = driver.fit(
        *(recipe, store, fleet, run.id), lambda line, step, metrics: _tell(step, metrics), stop_at_step=stop_at_step
    )
    if error := outcome.get("error"):
        raise TrainError(error)
    return outcome["metrics"]


def _tell(step: int, metrics: dict[str, float]) -> None:
    """Tune what it decides by, and no more, since each report takes a round trip."""
    scores = {key: value for key, value in metrics.items() if not key.startswith(("data/", "train/"))}
    if scores:
        tune.report({"step": step, **scores})
