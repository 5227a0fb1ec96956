"""What a driver resolves before anything starts on a cluster: where things are, and that they are there."""

import functools
import os
from pathlib import Path

from srcluster import objectives, storage, tracking
from srcluster.data import benchmarks
from srcluster.data.default_shards import default_shards
from srcluster.data.holdout import held_out
from srcluster.models.start import resolve_start
from srcluster.recipe import MEASURES, Recipe, recipe_from
from srcluster.training.check import check_trainable
from srcluster.training.measures import exact_name, lpips_at_hand


def results_url(kind: str) -> str:
    """The URL below which `kind` of results go, once MLflow and the store are known to answer.

    Raises:
        StorageError: SRCLUSTER_STORAGE can't be written to.
        UserError: No MLflow server answers.
    """
    tracking.check()
    url = storage.join(os.environ["SRCLUSTER_STORAGE"], kind)
    storage.check(url, write=True)
    return url


def resolve_recipe(recipe: Recipe) -> Recipe:
    """The recipe with the values that `auto` and relative paths stand for, so that it says everything itself.

    Raises:
        UserError: Its parts don't fit together; or the weights that it starts from, or those of its objective, are
            missing or don't fit.
    """
    check_trainable(recipe)
    start = resolve_start(recipe.start, recipe.model, recipe.scale)
    shards, measured = recipe.data.shards, recipe.evaluation.benchmarks
    if shards == "auto":
        shards = _shards_by_default(os.environ["SRCLUSTER_STORAGE"])
    if measured == "auto":
        measured = benchmarks.at_hand()
    # What follows `=` on a command line is not expanded by the shell.
    named = map(os.path.expanduser, (shards, *measured))
    shards, *measured_urls = (str(Path(name).resolve()) if Path(name).is_dir() else name for name in named)
    validation = recipe.evaluation.validation
    if validation == "auto":
        validation = _held_out(shards) or "auto"
    elif Path(validation).is_dir():
        validation = str(Path(validation).resolve())
    metrics = [exact_name(words) for words in recipe.evaluation.metrics]
    if recipe.perceptual and recipe.evaluation.metrics == tuple(MEASURES):
        metrics += lpips_at_hand()
    values = {
        "data.shards": shards,
        "evaluation.benchmarks": measured_urls,
        "evaluation.validation": validation,
        "evaluation.metrics": metrics,
        "evaluation.select": exact_name(recipe.evaluation.select),
        "objective": _resolved_objective(recipe.objective).model_dump(mode="json"),
        "start": start.model_dump(),
    }
    return recipe_from(recipe.model_dump(mode="json"), values)


# Asked of the store once for all trials of a sweep.
_shards_by_default = functools.cache(default_shards)
_held_out = functools.cache(held_out)
_resolved_objective = functools.cache(objectives.resolve)
