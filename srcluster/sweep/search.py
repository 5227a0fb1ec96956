"""The search of a sweep: Optuna's TPE chooses values by the results of earlier trials.

A new search is a part of `sweep.plan` beside `TPE`, and a sampler in `suggest`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from srcluster.recipe import Criterion
from srcluster.sweep.plan import Parameter, Sweep
from srcluster.sweep.results import JobResult

optuna.logging.set_verbosity(optuna.logging.WARNING)


def suggest(plan: Sweep, earlier: Sequence[JobResult], criterion: Criterion) -> dict[str, Any]:
    """Values of the parameters for the next trial; the same for the same arguments.

    Args:
        earlier: The trials before it, those that still run as well.
    """
    space = {key: _distribution(parameter) for key, parameter in plan.parameters.items()}
    (seed,) = np.random.SeedSequence([plan.seed, len(earlier)]).generate_state(1).tolist()
    # Trials run side by side: the liar keeps it from what is being tried.
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials([_known(one, plan, space, criterion) for one in earlier])
    params = study.ask(space).params
    return {
        key: parameter.choice[params[key]] if parameter.choice else params[key]
        for key, parameter in plan.parameters.items()
    }


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.choice:
        # By index, since a value may be a list or mapping.
        return CategoricalDistribution(range(len(parameter.choice)))
    low, high = parameter.bounds
    return FloatDistribution(low, high, log=parameter.loguniform is not None)


def _known(one: JobResult, plan: Sweep, space: dict[str, BaseDistribution], criterion: Criterion) -> FrozenTrial:
    told: dict[str, Any]
    match one.state:
        case "finished":
            told = {"state": TrialState.COMPLETE, "value": criterion.rank(one.metrics, "best/")}
        case "stopped":
            scores = {one.metrics["step"]: criterion.rank(one.metrics)}
            told = {"state": TrialState.PRUNED, "intermediate_values": scores}
        case "failed":
            # Without a value it is the worst. Of what is FAIL nothing is learned, and most of these diverged.
            told = {"state": TrialState.PRUNED}
        case _:
            told = {"state": TrialState.RUNNING}
    params = {
        key: parameter.choice.index(one.trial.values[key]) if parameter.choice else one.trial.values[key]
        for key, parameter in plan.parameters.items()
    }
    return create_trial(params=params, distributions=space, **told)
