"""A job of a sweep, in a process of its own on the cluster: it trains, or drives Ray Train, and reports to Ray Tune."""

from typing import Any

import torch
from ray import tune

from srcluster import storage
from srcluster.errors import UserError
from srcluster.recipe import Recipe
from srcluster.sweep.results import last_report
from srcluster.tracking import Run, environment_tags
from srcluster.train import driver
from srcluster.train.driver import Workers
from srcluster.train.run import train_run
from srcluster.training.lease import Holder, LeaseError
from srcluster.training.store import RunStore


def run_trial(config: dict[str, Any]) -> None:
    """Run or continue a job from its trial's latest checkpoint. Tune gets its scores, and keeps no checkpoint.

    A `UserError` is reported to Tune, which does not run the job again. After any other exception it does.

    Args:
        config: The `trial` of `job_config`; the `experiment` in MLflow, and the id of the `parent` run there; the
            `holder` of the sweep's lease; and `workers`, the fields of `Workers`.
    """
    trial, workers, holder = config["trial"], Workers(**config["workers"]), Holder(**config["holder"])
    recipe, stop_at_step = Recipe.model_validate(trial["recipe"]), trial["stop_at_step"]
    store = RunStore(storage.join(holder.url, trial["folder"]), recipe.checkpoint.keep, holder)
    # A process may die after a job's end and before Tune hears of it.
    if not (result := store.result(stop_at_step)):
        run = Run.start(
            config["experiment"],
            trial["label"],
            key=f"{holder.url.rpartition('/')[2]}/{trial['index']}",
            parent=config["parent"],
            params=recipe.model_dump(mode="json"),
            tags=environment_tags(),
            url=store.url,
            timeout_s=0,
        )
        try:
            result = _train(recipe, store, workers, run, stop_at_step)
            run.end()
        except UserError as error:
            # The run in MLflow is the other driver's, too, if it took the sweep over.
            if not isinstance(error, LeaseError):
                run.fail(str(error))
            tune.report({"error": str(error)})
            return
        finally:
            # At Ctrl-C this is left by an exit in the middle; how the run ended is for the driver to say.
            run.close()
    tune.report(last_report(recipe, stop_at_step, result))


def _train(recipe: Recipe, store: RunStore, workers: Workers, run: Run, stop_at_step: int | None) -> dict[str, float]:
    if workers.most == 1:
        torch.set_num_threads(workers.cpus)
        return train_run(recipe, run, store, _report, stop_at_step=stop_at_step)
    # This process is but the driver of the workers; when it is ended, Ray ends them.

    def on_report(_: str, step: int, metrics: dict[str, float]) -> None:
        _report(step, metrics)

    outcome = driver.fit(recipe, store, workers, run.spec, on_report, stop_at_step=stop_at_step)
    if error := outcome.get("error"):
        raise UserError(error)
    return outcome["metrics"]


def _report(step: int, metrics: dict[str, float]) -> None:
    """Tell Tune what it decides by, and no more, since each report takes a round trip."""
    scores = {key: value for key, value in metrics.items() if not key.startswith(("data/", "train/"))}
    if scores:
        tune.report({"step": step, **scores})
