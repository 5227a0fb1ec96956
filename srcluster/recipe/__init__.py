"""What one training run is: a recipe and its parts, read from YAML."""

from srcluster.recipe.data import Data
from srcluster.recipe.degradation import BICUBIC, Bicubic, Degradation, Paired
from srcluster.recipe.evaluation import Checkpoint, Evaluation
from srcluster.recipe.measure import MEASURES, Criterion, Measure, format_metric, measure, metric_title, side_by_side
from srcluster.recipe.model import RRDB, SPAN, SRCNN, Compact, ImportedModel, Interpolation, Model, MSRResNet, Residual
from srcluster.recipe.optimizer import SGD, Adam, AdamW, Optimizer, Schedule
from srcluster.recipe.recipe import (
    NEUTRAL,
    Recipe,
    flatten,
    load,
    parse_overrides,
    recipe_from,
    shipped,
    with_overrides,
)
from srcluster.recipe.start import Start
