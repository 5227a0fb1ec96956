"""What one training run is: a recipe and its parts, read from YAML."""

from srcluster.recipe.data import Data
from srcluster.recipe.evaluation import Checkpoint, Evaluation
from srcluster.recipe.model import SRCNN, Interpolation, Model, Residual
from srcluster.recipe.optimizer import SGD, Adam, AdamW, Optimizer, Schedule
from srcluster.recipe.recipe import (
    NEUTRAL,
    Recipe,
    RecipeError,
    flatten,
    load,
    parse_overrides,
    recipe_from,
    shipped,
    with_overrides,
)

__all__ = [
    "NEUTRAL",
    "SGD",
    "SRCNN",
    "Adam",
    "AdamW",
    "Checkpoint",
    "Data",
    "Evaluation",
    "Interpolation",
    "Model",
    "Optimizer",
    "Recipe",
    "RecipeError",
    "Residual",
    "Schedule",
    "flatten",
    "load",
    "parse_overrides",
    "recipe_from",
    "shipped",
    "with_overrides",
]
