"""The queue of a sweep's jobs: Ray Tune asks for the next one whenever it has room.

A trial is one set of values. A job is the part of a trial that Tune runs in one go: the whole trial, or with `asha` the
way to the next rung. There the job stops with a checkpoint; if its trial is promoted, another job continues from it.

`TrialQueue.suggest` first gives a job for each trial that has none, drawn or chosen by TPE. Then, with `asha`, it gives
what `promotion` chooses: algorithm 2 of Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys
2020), but that no trial is promoted before all have run to the first rung, and that one at least is promoted from each
rung that no other trial can reach any more.

Tune's own ASHAScheduler promotes none. It compares a trial at a rung with those that came there before, and stops it
for good or lets it run on: the order of the trials decides. Here a trial waits at its rung until it is among the best.

A new scheduler is a part of `sweep.plan` beside `ASHA`, and a case of `TrialQueue._following`.
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
from srcluster.recipe import Criterion
from srcluster.sweep.plan import Sweep, Trial
from srcluster.sweep.results import JobResult, job_config, last_report, latest
from srcluster.train.settings import resolve_recipe
from srcluster.training.store import RunStore


def promotion(
    jobs: Sequence[JobResult], rungs: Sequence[int | None], factor: int, criterion: Criterion
) -> tuple[Trial, int | None] | None:
    """The trial to promote, and the rung that it goes on to: the best that may go on from the lowest rung.

    Args:
        rungs: Steps; None stands for the trial's end.
        factor: One in so many of the trials that ended at a rung is promoted.
    """
    complete = True
    for rung, following in itertools.pairwise(rungs):
        here = [job for job in jobs if job.stop_at_step == rung]
        ended = [job for job in here if job.ended]
        complete = complete and len(ended) == len(here)
        promoted = {job.trial.index for job in jobs if job.stop_at_step == following}
        stopped = [job for job in ended if job.state == "stopped"]
        stopped.sort(key=lambda job: (-criterion.rank(job.metrics), job.trial.index))
        for job in stopped[: max(len(ended) // factor, int(complete))]:
            if job.trial.index not in promoted:
                return job.trial, following
    return None


class TrialQueue(Searcher):
    """Gives Tune the next job of a sweep.

    Jobs that ended under an earlier driver are read from their trials' files; what failed there is tried again.

    Args:
        drawn: The sweep's trials. A search replaces the values of those after its first.
    """

    def __init__(self, plan: Sweep, drawn: Sequence[Trial], criterion: Criterion, url: str):
        super().__init__()
        self.plan, self.drawn, self.criterion, self.url = plan, drawn, criterion, url
        self.rungs = [*plan.rungs(drawn), None]
        self.earlier = self._earlier()
        """Jobs that ended under an earlier driver."""
        self.jobs: list[Any] = []
        """Tune's list of its trials, each a job here; a `TrialFeed` sets it."""
        self.slots = len(drawn)

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        self.slots = max_concurrent
        return True

    def results(self) -> list[JobResult]:
        """Every job, those that still run as well."""
        return [*self.earlier, *map(JobResult.of, self.jobs)]

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        running = sum(not job.is_finished() for job in self.jobs)
        if running >= self.slots:
            return None
        if following := self._following():
            return {"trial": job_config(*following)}
        return None if running else Searcher.FINISHED

    def _following(self) -> tuple[Trial, int | None] | None:
        jobs = self.results()
        begun = latest(jobs)
        if len(begun) < len(self.drawn):
            return self._new(begun), self.rungs[0]
        if self.plan.scheduler:
            return promotion(jobs, self.rungs, self.plan.scheduler.reduction_factor, self.criterion)
        return None

    def _earlier(self) -> list[JobResult]:
        # A store far away answers for one trial at a time as slowly as for many.
        with ThreadPoolExecutor(16) as pool:
            return list(itertools.chain.from_iterable(pool.map(self._earlier_jobs, self.drawn)))

    def _earlier_jobs(self, drawn: Trial) -> list[JobResult]:
        trial = self._known(drawn)
        if trial is None:
            return []
        store, jobs = RunStore(storage.join(self.url, trial.folder)), []
        for stop_at_step in self.rungs:
            if not (metrics := store.result(stop_at_step)):
                break
            metrics = last_report(trial.recipe, stop_at_step, metrics)
            jobs.append(JobResult(trial, stop_at_step, "stopped" if stop_at_step else "finished", metrics))
        return jobs

    def _new(self, begun: Sequence[JobResult]) -> Trial:
        taken = {one.trial.index for one in begun}
        drawn = next(trial for trial in self.drawn if trial.index not in taken)
        if known := self._known(drawn):
            return known
        # Optuna is not everywhere.
        from srcluster.sweep.search import suggest

        try:
            trial = self._trial(drawn.index, suggest(self.plan, begun, self.criterion))
        except UserError as error:
            print(f"trial {drawn.index} is drawn at random, since TPE's choice is not valid: {error}", flush=True)
            trial = drawn
        storage.write(self._suggestion_url(trial), json.dumps(trial.values).encode())
        return trial

    def _known(self, drawn: Trial) -> Trial | None:
        """The trial with its values; None where a search has yet to choose them."""
        if not self.plan.search or drawn.index < self.plan.search.startup:
            return drawn
        url = self._suggestion_url(drawn)
        return self._trial(drawn.index, json.loads(storage.read(url))) if storage.exists(url) else None

    def _suggestion_url(self, trial: Trial) -> str:
        return storage.join(self.url, "suggested", f"{trial.index:04d}.json")

    def _trial(self, index: int, values: Mapping[str, Any]) -> Trial:
        trial = self.plan.trial(index, values)
        return replace(trial, recipe=resolve_recipe(trial.recipe))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        pass


class TrialFeed(tune.Callback):
    """Gives the queue Tune's list of trials; what `check` raises ends the sweep."""

    def __init__(self, queue: TrialQueue, check: Callable[[], None]):
        self.queue, self.check = queue, check

    def __getstate__(self) -> None:
        """Tune pickles its callbacks, to restore them; nothing here does."""

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.queue.jobs = trials
        self.check()
