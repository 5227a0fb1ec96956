"""What of a sweep runs next, asked for by Ray Tune whenever there is room.

Without a scheduler a trial is one job of Tune's. With `asha` it is a job for each rung that it comes to: it stops at
the rung with a checkpoint, and if it is among the best of those that stopped there, a later job goes on from that. This
is Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020), algorithm 2, for trials of a known
number: all of them run to the first rung before any goes on, and of the last few at least one does. Tune's own
ASHAScheduler never takes a trial up again: it stops those that are worse than the ones before them, so that their order
decides how many go on.
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from srcluster import storage
from srcluster.errors import UserError
from srcluster.sweep.plan import Sweep, Trial
from srcluster.sweep.results import JobResult, latest
from srcluster.train.settings import resolve_recipe
from srcluster.training.store import RunStore

__all__ = ["TrialFeed", "TrialQueue", "promotion"]


def promotion(
    jobs: Sequence[JobResult], rungs: Sequence[int | None], factor: int, score: str
) -> tuple[Trial, int | None] | None:
    """Which trial goes on, and to which rung: the best one of the lowest rung from which one may.

    Args:
        jobs: Those of all trials; what still runs is `killed`.
        rungs: Steps, and for the last None.
        factor: One in so many of those that ended at a rung goes on.
        score: The metric whose highest value is best.
    """
    complete = True
    for rung, following in itertools.pairwise(rungs):
        here = [job for job in jobs if job.stop_at_step == rung]
        ended = [job for job in here if job.state != "killed"]
        complete = complete and len(ended) == len(here)
        went_on = {job.trial.index for job in jobs if job.stop_at_step == following}
        stopped = [job for job in ended if job.state == "stopped"]
        stopped.sort(key=lambda job: (-job.metrics[score], job.trial.index))
        for job in stopped[: max(len(ended) // factor, int(complete))]:
            if job.trial.index not in went_on:
                return job.trial, following
    return None


class TrialQueue(Searcher):
    """Gives Tune the trials of a sweep, each as far as it is to run.

    A sweep is continued with all that was learned: what trials came to under an earlier driver is in their own files.
    What failed there is tried again.

    Args:
        plan: The sweep.
        drawn: Its trials. A search replaces those after its first by what it suggests, where that is valid.
        score: What is maximised.
        place: URL of the sweep's files.
        configure: Makes of a trial, and the step that it is to stop at, the `trial` of `run_trial`.
    """

    def __init__(
        self,
        plan: Sweep,
        drawn: Sequence[Trial],
        score: str,
        place: str,
        configure: Callable[[Trial, int | None], dict[str, Any]],
    ):
        super().__init__()
        self.plan, self.drawn, self.score, self.place, self.configure = plan, drawn, score, place, configure
        self.rungs = [*plan.rungs(drawn), None]
        self.earlier = self._earlier()
        """Jobs that came to their end under an earlier driver."""
        self.jobs: list = []
        """Tune's trials, of which a `TrialFeed` tells."""
        self.slots = len(drawn)

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        self.slots = max_concurrent
        return True

    def ended(self) -> list[JobResult]:
        """Every job; those that still run are `killed`."""
        return [*self.earlier, *map(JobResult.of, self.jobs)]

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        running = sum(not job.is_finished() for job in self.jobs)
        if running >= self.slots:
            return None
        jobs = self.ended()
        begun = latest(jobs)
        if len(begun) < len(self.drawn):
            following = self._new(begun), self.rungs[0]
        elif self.plan.scheduler:
            following = promotion(jobs, self.rungs, self.plan.scheduler.reduction_factor, self.score)
        else:
            following = None
        if following:
            return {"trial": self.configure(*following)}
        return None if running else Searcher.FINISHED

    def _earlier(self) -> list[JobResult]:
        # A store far away answers for one trial at a time as slowly as for many.
        with ThreadPoolExecutor(16) as pool:
            return list(itertools.chain.from_iterable(pool.map(self._ends_of, self.drawn)))

    def _ends_of(self, drawn: Trial) -> list[JobResult]:
        trial, jobs = self._known(drawn), []
        for stop_at_step in self.rungs if trial else ():
            if not (metrics := RunStore(storage.join(self.place, trial.folder)).result(stop_at_step)):
                break
            metrics = {"step": stop_at_step or trial.recipe.steps, **metrics}
            jobs.append(JobResult(trial, stop_at_step, "stopped" if stop_at_step else "finished", metrics, ""))
        return jobs

    def _new(self, begun: Sequence[JobResult]) -> Trial:
        taken = {one.trial.index for one in begun}
        drawn = next(trial for trial in self.drawn if trial.index not in taken)
        if known := self._known(drawn):
            return known
        # Optuna is not everywhere.
        from srcluster.sweep.search import suggest

        try:
            trial = self._trial(drawn.index, suggest(self.plan, begun, self.score))
        except UserError as error:
            print(f"trial {drawn.index} is drawn at random, since TPE's choice is not valid: {error}", flush=True)
            trial = drawn
        storage.write(self._suggestion(trial), json.dumps(trial.values).encode())
        return trial

    def _known(self, drawn: Trial) -> Trial | None:
        """The trial of this place; None where a search has yet to say which."""
        if not self.plan.search or drawn.index < self.plan.search.startup:
            return drawn
        place = self._suggestion(drawn)
        return self._trial(drawn.index, json.loads(storage.read(place))) if storage.exists(place) else None

    def _suggestion(self, trial: Trial) -> str:
        return storage.join(self.place, "suggested", f"{trial.index:04d}.json")

    def _trial(self, index: int, values: Mapping[str, Any]) -> Trial:
        trial = self.plan.trial(index, values)
        return replace(trial, recipe=resolve_recipe(trial.recipe))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        pass


class TrialFeed(tune.Callback):
    """Shows a queue all jobs, which Tune would not; and what `check` raises ends the sweep."""

    def __init__(self, queue: TrialQueue, check: Callable[[], None]):
        self.queue, self.check = queue, check

    def __getstate__(self) -> None:
        """Tune pickles its callbacks, to restore them; nothing here does."""

    def on_step_begin(self, iteration: int, trials: list, **info) -> None:
        self.queue.jobs = trials
        self.check()
