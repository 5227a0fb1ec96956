"""One trial of a sweep, in its own process on the cluster: the bare training loop, told to Ray Tune and MLflow."""

import contextlib
from pathlib import Path
from typing import Any

import torch
import yaml
from ray import tune

from srcluster.data import benchmarks
from srcluster.data.stream import open_stream
from srcluster.errors import UserError
from srcluster.figures import comparison_of
from srcluster.recipe import Recipe
from srcluster.tracking import Run, environment_tags
from srcluster.training.loop import Fit, fit

__all__ = ["run_trial"]


class _Reporter:
    """Everything goes to MLflow; Tune is told what it decides by, since each report to it takes a round trip."""

    def __init__(self, run: Run):
        self.run = run

    def report(self, step: int, metrics: dict[str, float], checkpoint: Path | None = None) -> None:
        self.run.log(metrics, step)
        scores = {key: value for key, value in metrics.items() if not key.startswith(("data/", "train/"))}
        if scores or checkpoint:
            # A scheduler that has seen enough ends this process while it reports.
            self.run.flush()
            kept = tune.Checkpoint.from_directory(checkpoint) if checkpoint else None
            tune.report({"step": step, **scores}, checkpoint=kept)


def run_trial(config: dict[str, Any]) -> None:
    """Run or continue a trial.

    A `UserError` ends the trial as failed, and not the process: Tune would only try it again. Anything else does
    end it, and Tune continues it from its last checkpoint.

    Args:
        config: Under `trial`: recipe, label, index, threads, experiment, parent (an MLflow run id) and key.
    """
    trial = config["trial"]
    recipe = Recipe.model_validate(trial["recipe"])
    torch.set_num_threads(trial["threads"])
    run = Run.start(
        trial["experiment"],
        trial["label"],
        key=trial["key"],
        parent=trial["parent"],
        params=recipe.model_dump(mode="json"),
        tags=environment_tags(),
    )
    try:
        result = _train(recipe, run)
        run.log(result.metrics, recipe.steps)
        run.end()
        tune.report({"step": recipe.steps, **result.metrics})
    except UserError as error:
        run.tag(**{"srcluster.error": str(error)})
        run.end("FAILED")
        tune.report({"error": str(error)})
    finally:
        # Where Tune stops a trial, this is left by an exit in the middle; how the run ended is for the driver to say.
        run.close()


def _train(recipe: Recipe, run: Run) -> Fit:
    run.text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), "recipe.yaml")
    stream = open_stream(recipe.data, scale=recipe.scale, seed=recipe.seed)
    run.dataset("shards", recipe.data.shards, stream.manifest.digest(), "train")
    measured = [benchmarks.load(name, recipe.scale) for name in recipe.evaluation.benchmarks]
    for benchmark in measured:
        run.dataset(benchmark.name, benchmark.source, benchmark.digest, "test")
    checkpoint = tune.get_checkpoint()
    with checkpoint.as_directory() if checkpoint else contextlib.nullcontext() as folder:
        resume = Path(folder) if folder else None
        result = fit(recipe, stream.batches, measured, _Reporter(run), resume, stream.metrics)
    for benchmark in measured:
        scores = result.scores[benchmark.name]
        for image, score in list(zip(benchmark.images, scores, strict=True))[: recipe.evaluation.pictures]:
            picture = comparison_of(image, {recipe.model.kind: score.sr}, recipe.scale)
            run.image_at(picture, f"{benchmark.name}/{image.name}", recipe.steps)
    return result
