"""One trial of a sweep, in its own process on the cluster: a session, told to Ray Tune."""

from typing import Any

import torch
from ray import tune

from srcluster import session
from srcluster.errors import UserError
from srcluster.recipe import Recipe
from srcluster.tracking import Run, environment_tags
from srcluster.training.store import RunStore

__all__ = ["run_trial"]


def run_trial(config: dict[str, Any]) -> None:
    """Run or continue a trial, from its own latest checkpoint: Tune, which is told scores alone, keeps none.

    A `UserError` ends the trial as failed, and not the process: Tune would only try it again. Anything else does
    end it, and Tune runs it again.

    Args:
        config: Under `trial`: recipe, label, index, threads, experiment, parent (an MLflow run id), key and store, the
            URL for the trial's files.
    """
    trial = config["trial"]
    recipe = Recipe.model_validate(trial["recipe"])
    torch.set_num_threads(trial["threads"])
    store = RunStore(trial["store"], recipe.checkpoint.keep)
    # A sweep is continued from what its killed driver knew seconds before: a trial may have ended since.
    if result := store.result():
        tune.report({"step": recipe.steps, **result})
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
        result = session.train(recipe, run, store, _tell)
        run.end()
        tune.report({"step": recipe.steps, **result})
    except UserError as error:
        run.tag(**{"srcluster.error": str(error)})
        run.end("FAILED")
        tune.report({"error": str(error)})
    finally:
        # Where Tune stops a trial, this is left by an exit in the middle; how the run ended is for the driver to say.
        run.close()


def _tell(step: int, metrics: dict[str, float]) -> None:
    """Tune what it decides by, and no more, since each report takes a round trip."""
    scores = {key: value for key, value in metrics.items() if not key.startswith(("data/", "train/"))}
    if scores:
        tune.report({"step": step, **scores})
