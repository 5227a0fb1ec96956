"""The search of a sweep: values by what earlier trials came to, chosen by Optuna's TPE and asked for by Ray Tune."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray import tune
from ray.tune.search import Searcher

from srcluster import settle, storage
from srcluster.errors import UserError
from srcluster.sweep_plan import Parameter, Sweep, Trial
from srcluster.sweep_table import Ended

__all__ = ["Search", "Watch", "suggest"]

optuna.logging.set_verbosity(optuna.logging.WARNING)


def suggest(plan: Sweep, earlier: Sequence[Ended], score: str) -> dict[str, Any]:
    """Values of the parameters for the next trial; the same for the same arguments.

    Args:
        plan: The sweep, with a search.
        earlier: The trials before it; those that still run are `killed`.
        score: The metric whose best value is maximised, such as psnr_y/Set5.
    """
    space = {key: _distribution(parameter) for key, parameter in plan.parameters.items()}
    (seed,) = np.random.SeedSequence([plan.seed, len(earlier)]).generate_state(1).tolist()
    # Trials run side by side: the liar keeps it from what is being tried.
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials([_known(one, plan, space, score) for one in earlier])
    params = study.ask(space).params
    return {
        key: parameter.choice[params[key]] if parameter.choice else params[key]
        for key, parameter in plan.parameters.items()
    }


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.choice:
        # By index, since a value may be a list or mapping.
        return CategoricalDistribution(range(len(parameter.choice)))
    return FloatDistribution(*(parameter.uniform or parameter.loguniform), log=parameter.loguniform is not None)


def _known(one: Ended, plan: Sweep, space: Mapping[str, BaseDistribution], score: str) -> FrozenTrial:
    match one.state:
        case "finished":
            told = {"state": TrialState.COMPLETE, "value": one.metrics[f"best/{score}"]}
        case "stopped":
            told = {"state": TrialState.PRUNED, "intermediate_values": {one.metrics["step"]: one.metrics[score]}}
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


class Search(Searcher):
    """Gives Tune the random trials that a search begins with, and after them those that TPE suggests.

    It keeps nothing: what came of the earlier trials is read from Tune's own record of them each time, so that a sweep
    is continued with all that was learned.

    Args:
        plan: The sweep.
        drawn: Its random trials. They are valid: one stands in where a suggestion is not.
        score: What is maximised.
        place: URL of the sweep's files.
        configure: Makes of a trial the `trial` of `run_trial`.
    """

    def __init__(
        self,
        plan: Sweep,
        drawn: Sequence[Trial],
        score: str,
        place: str,
        configure: Callable[[Trial], dict[str, Any]],
    ):
        super().__init__()
        self.plan, self.drawn, self.score, self.place, self.configure = plan, drawn, score, place, configure
        self.trials: list = []
        """Tune's, of which a `Watch` tells."""
        self.slots = len(drawn)

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        self.slots = max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if len(self.trials) == len(self.drawn):
            return Searcher.FINISHED
        if sum(not trial.is_finished() for trial in self.trials) >= self.slots:
            return None
        trial = self.drawn[len(self.trials)]
        if trial.index >= self.plan.search.startup:
            trial = self._chosen(trial)
        return {"trial": self.configure(trial)}

    def _chosen(self, drawn: Trial) -> Trial:
        place = storage.join(self.place, "suggested", f"{drawn.index:04d}.json")
        # Tune keeps a trial seconds after it began: killed before, it asks again for what has files already.
        if storage.exists(place):
            return self._trial(drawn.index, json.loads(storage.read(place)))
        try:
            trial = self._trial(drawn.index, suggest(self.plan, self._earlier(), self.score))
        except UserError as error:
            print(f"trial {drawn.index} is drawn at random, since TPE's choice is not valid: {error}", flush=True)
            trial = drawn
        storage.write(place, json.dumps(trial.values).encode())
        return trial

    def _trial(self, index: int, values: Mapping[str, Any]) -> Trial:
        trial = self.plan.trial(index, values)
        return replace(trial, recipe=settle.settled(trial.recipe))

    def _earlier(self) -> list[Ended]:
        earlier = [
            Ended.of(one.config["trial"], one.last_result, "its process died" if one.status == "ERROR" else None)
            for one in self.trials
        ]
        return sorted(earlier, key=lambda one: one.trial.index)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        pass

    def restore_from_dir(self, checkpoint_dir: str) -> None:
        pass


class Watch(tune.Callback):
    """Shows a search all trials, which Tune would not."""

    def __init__(self, search: Search):
        self.search = search

    def on_step_begin(self, iteration: int, trials: list, **info) -> None:
        self.search.trials = trials
