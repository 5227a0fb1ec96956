"""What a sweep runs next: every trial once, of those that asha compares the best, and what a search suggests."""

import random
import time
from collections import Counter
from importlib.util import find_spec
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from ray.tune.experiment import Trial as Job

from srcluster.errors import UserError
from srcluster.recipe import Criterion
from srcluster.sweep.plan import Sweep, ladder, planned_steps
from srcluster.sweep.queue import TrialQueue
from srcluster.sweep.report import LiveTable
from srcluster.sweep.results import JobResult, job_config, latest
from srcluster.training.store import RunStore

needs_optuna = pytest.mark.skipif(not find_spec("optuna"), reason="the extra srcluster[tpe] is not installed")


def plan(**content) -> Sweep:
    recipe = {"recipe": "srcnn", "overrides": {"data.shards": "none", "evaluation.benchmarks": ["Wheel3"], "steps": 90}}
    values = {"parameters": {"optimizer.lr": {"loguniform": [1e-6, 1e-1]}}, "samples": 24}
    return Sweep.model_validate({"name": "queued", **recipe, **values, **content})


def queue_of(sweep: Sweep, folder, slots: int = 1) -> TrialQueue:
    queue = TrialQueue(sweep, sweep.trials(), Criterion("psnr"), str(folder))
    assert queue.set_max_concurrency(slots)
    return queue


def job(trial: dict, status: str, result: dict | None = None) -> Job:
    """A job as Tune has it."""
    one = Job("trial", config={"trial": trial}, stub=True)
    one.set_status(status)
    one.run_metadata.last_result = result or {}
    return one


def finished(trial: dict, score: float) -> Job:
    return job(trial, "TERMINATED", {"best/psnr": score, "best/step": 5, "done": True})


class Cluster:
    """Runs what a queue gives in some slots, and keeps what came of it; which job ends next is chance."""

    def __init__(self, queue: TrialQueue, scores: list[float | None], seed: int):
        self.queue, self.scores, self.random = queue, scores, random.Random(seed)

    def run(self, ends: int = 1 << 30) -> list[JobResult]:
        """Everything, or until so many have ended.

        How a trial scores does not depend on the step, and one without a score diverges.
        """
        while (trial := self.queue.suggest("id")) != TrialQueue.FINISHED:
            if trial:
                self.queue.jobs.append(job(trial["trial"], "RUNNING"))
                assert len(self._running()) <= self.queue.slots
            elif ends == 0:
                break
            else:
                self._end(self.random.choice(self._running()))
                ends -= 1
        assert trial != TrialQueue.FINISHED or not self._running()
        return self.queue.results()

    def _running(self) -> list[int]:
        return [i for i, one in enumerate(self.queue.jobs) if not one.is_finished()]

    def _end(self, i: int) -> None:
        trial = self.queue.jobs[i].config["trial"]
        score, stop_at_step = self.scores[trial["index"]], trial["stop_at_step"]
        if score is None:
            self.queue.jobs[i] = job(trial, "TERMINATED", {"error": "it diverged", "done": True})
            return
        metrics = {"psnr": score} if stop_at_step else {"best/psnr": score, "best/step": 5}
        keep(self.queue, trial, metrics)
        self.queue.jobs[i] = job(trial, "TERMINATED", {"step": stop_at_step or 90, "done": True, **metrics})


def keep(queue: TrialQueue, trial: dict, metrics: dict) -> None:
    """What a trial's process does at its end."""
    RunStore(f"{queue.url}/run-{trial['index']:04d}").stop(metrics, trial["stop_at_step"])


def test_without_a_scheduler_every_trial_runs_once(tmp_path):
    jobs = Cluster(queue_of(plan(), tmp_path, slots=3), [1.0] * 24, seed=0).run()
    assert [(one.trial.index, one.stop_at_step, one.state) for one in jobs] == [
        (i, None, "finished") for i in range(24)
    ]


@settings(deadline=None, max_examples=60)
@given(some.data())
def test_the_best_go_on_and_nothing_runs_twice(tmp_path_factory, data):
    """Also where a driver was killed, and another continues."""
    count, slots = data.draw(some.integers(1, 30)), data.draw(some.integers(1, 8))
    factor, grace = data.draw(some.integers(2, 5)), data.draw(some.integers(1, 89))
    scores = data.draw(some.lists(some.none() | some.floats(10, 40), min_size=count, max_size=count))
    sweep = plan(samples=count, scheduler={"kind": "asha", "grace_steps": grace, "reduction_factor": factor})
    folder, ends, seed = tmp_path_factory.mktemp("q"), data.draw(some.integers(0, 40)), data.draw(some.integers(0, 99))
    before = Cluster(queue_of(sweep, folder, slots), scores, seed).run(ends)
    continued = queue_of(sweep, folder, slots)
    assert {(one.trial.index, one.stop_at_step, one.state) for one in continued.earlier} == {
        (one.trial.index, one.stop_at_step, one.state) for one in before if one.state in ("stopped", "finished")
    }
    jobs = Cluster(continued, scores, seed).run()
    assert max(Counter((one.trial.index, one.stop_at_step) for one in jobs).values()) == 1
    rungs = [*sweep.rungs(sweep.trials()), None]
    assert {one.trial.index for one in jobs if one.stop_at_step == rungs[0]} == set(range(count))
    for rung, following in pairwise(rungs):
        here = [one.trial.index for one in jobs if one.stop_at_step == rung]
        went_on = {one.trial.index for one in jobs if one.stop_at_step == following}
        scored = sorted((i for i in here if scores[i] is not None), key=lambda i: (-scores[i], i))
        assert went_on >= set(scored[: max(len(here) // factor, 1)])
        # A slot that would wait takes up what is the best so far.
        assert len(went_on) <= max(len(here) // factor, 1) + slots - 1
        assert all(scores[i] is not None for i in went_on)
    best = max((score for score in scores if score is not None), default=None)
    ended = [scores[one.trial.index] for one in latest(jobs) if one.state == "finished"]
    assert (best in ended) == (best is not None)


def test_one_slot_runs_what_the_ladder_says(tmp_path):
    sweep = plan(scheduler={"kind": "asha", "grace_steps": 10, "reduction_factor": 4})
    jobs = Cluster(queue_of(sweep, tmp_path), [float(i % 7) for i in range(24)], seed=0).run()
    assert Counter(one.stop_at_step for one in jobs) == {10: 24, 40: 6, None: 1}
    assert (
        ladder(sweep, sweep.trials())
        == "24 trials to step 10, the best 6 to 40, the best 1 to 90 (22% of all their steps)"
    )


def test_trials_of_different_lengths():
    sweep = plan(samples=1, parameters={"steps": {"grid": [50, 400]}})
    assert ladder(sweep, sweep.trials()) == "2 trials of 50 to 400 steps"
    assert planned_steps(sweep, sweep.trials()) == 450


def test_lines_say_what_happens_and_how_long_it_will_take(tmp_path, capsys, monkeypatch):
    sweep = plan(samples=2, scheduler={"kind": "asha", "grace_steps": 10, "reduction_factor": 2})
    queue = queue_of(sweep, tmp_path)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    table = LiveTable(queue)
    first, second = ({**job_config(trial, 10), "label": "a"} for trial in sweep.trials())
    monkeypatch.setattr(time, "monotonic", lambda: 60.0)

    def told(event: str, trial: dict, status: str, result: dict) -> str:
        one = job(trial, status, result)
        queue.jobs[trial["index"] :] = [one]
        getattr(table, event)(0, queue.jobs, one, result=result)
        return " ".join(capsys.readouterr().out.split()[1:])

    assert told("on_trial_result", first, "RUNNING", {"step": 5, "psnr": 9.0}) == "a step 5 psnr 9.0000, 19 min left"
    waits = told("on_trial_complete", first, "TERMINATED", {"step": 10, "psnr": 9.0, "done": True})
    assert waits == "a waits at step 10 psnr 9.0000, 9 min left"
    diverged = told("on_trial_complete", second, "TERMINATED", {"error": "it diverged", "done": True})
    assert diverged == "a failed: it diverged, 9 min left"


def test_what_still_runs_is_waited_for(tmp_path):
    """Of three, that are fewer than one in four, the best goes on, but only when all have ended."""
    sweep = plan(samples=3, scheduler={"kind": "asha", "grace_steps": 10})
    queue = queue_of(sweep, tmp_path, slots=3)
    trials = [job_config(trial, 10) for trial in sweep.trials()]
    ends = [job(trial, "TERMINATED", {"psnr": float(i), "step": 10, "done": True}) for i, trial in enumerate(trials)]
    queue.jobs = [*ends[:2], job(trials[2], "RUNNING")]
    assert queue.suggest("id") is None
    queue.jobs[2] = ends[2]
    assert queue.suggest("id") == {"trial": job_config(sweep.trials()[2], 40)}


def test_a_process_that_died_is_no_candidate(tmp_path):
    sweep = plan(samples=2, scheduler={"kind": "asha", "grace_steps": 10, "reduction_factor": 2})
    queue = queue_of(sweep, tmp_path)
    first, second = (job_config(trial, 10) for trial in sweep.trials())
    queue.jobs = [job(first, "ERROR", {"psnr": 9.0, "step": 5}), job(second, "TERMINATED", {"psnr": 1.0, "done": True})]
    assert queue.suggest("id")["trial"]["index"] == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"scheduler": {"kind": "asha", "grace_steps": 90}}, "grace_steps is below steps, which are 90, not 90"),
        (
            {"scheduler": {"kind": "asha", "grace_steps": 9}, "parameters": {"steps": {"grid": [9, 90]}}},
            "leave steps out of parameters",
        ),
    ],
)
def test_a_ladder_that_leads_nowhere_is_refused(content, words):
    with pytest.raises((UserError, ValueError), match=words):
        plan(**content).trials()


def test_another_ladder_is_another_sweep():
    sweeps = [plan(), *(plan(scheduler={"kind": "asha", "grace_steps": steps}) for steps in (9, 10))]
    assert len({sweep.digest(sweep.trials()) for sweep in sweeps}) == 3


# A search.


def searched(**content) -> Sweep:
    return plan(**{"samples": 4, "search": {"kind": "tpe", "startup": 2}} | content)


@needs_optuna
def test_tune_is_given_what_it_has_room_for(tmp_path):
    sweep = searched()
    queue = queue_of(sweep, tmp_path, slots=3)
    given = []
    for _ in range(3):
        given.append(queue.suggest("id")["trial"])
        queue.jobs.append(job(given[-1], "RUNNING"))
    assert [trial["values"] for trial in given[:2]] == [trial.values for trial in sweep.trials()[:2]]
    assert given[2]["values"] != sweep.trials()[2].values
    assert queue.suggest("id") is None
    queue.jobs[0] = finished(given[0], 1.0)
    given.append(queue.suggest("id")["trial"])
    assert given[3]["index"] == 3
    queue.jobs = [*(finished(trial, 1.0) for trial in given[:3]), job(given[3], "RUNNING")]
    assert queue.suggest("id") is None
    queue.jobs[3] = job(given[3], "ERROR")
    assert queue.suggest("id") == TrialQueue.FINISHED


@needs_optuna
def test_what_tune_forgot_is_suggested_again(tmp_path):
    sweep = searched()
    queue = queue_of(sweep, tmp_path, slots=3)
    first, second = (job_config(trial, None) for trial in sweep.trials()[:2])
    queue.jobs = [job(first, "RUNNING"), job(second, "RUNNING")]
    given = queue.suggest("id")
    again = queue_of(sweep, tmp_path, slots=3)
    again.jobs = [finished(second, 1.0), job(first, "RUNNING")]
    assert again.suggest("id") == given


@needs_optuna
def test_the_order_of_the_jobs_does_not_matter(tmp_path):
    sweep = searched(samples=41, search={"kind": "tpe", "startup": 40})
    one, other = queue_of(sweep, tmp_path / "one"), queue_of(sweep, tmp_path / "other")
    one.jobs = [finished(job_config(trial, None), trial.values["optimizer.lr"]) for trial in sweep.trials()[:40]]
    other.jobs = one.jobs[::-1]
    assert other.suggest("id") == one.suggest("id")


@needs_optuna
def test_what_was_suggested_is_suggested_again(tmp_path):
    sweep = searched(samples=5)
    queue, given = queue_of(sweep, tmp_path, slots=4), []
    for _ in range(4):
        given.append(queue.suggest("id")["trial"])
        queue.jobs.append(job(given[-1], "RUNNING"))
    for done in (1, 3):
        keep(queue, given[done], {"best/psnr": 1.0, "best/step": 5})
    again = queue_of(sweep, tmp_path, slots=4)
    assert [one.trial.values for one in again.earlier] == [given[1]["values"], given[3]["values"]]
    assert [one.metrics["step"] for one in again.earlier] == [90, 90]
    for known in (given[0], given[2]):
        assert again.suggest("id") == {"trial": known}
        again.jobs.append(job(known, "RUNNING"))
    assert again.suggest("id")["trial"]["index"] == 4


@needs_optuna
def test_a_search_learns_from_the_rungs(tmp_path):
    sweep = searched(scheduler={"kind": "asha", "grace_steps": 10})
    queue = queue_of(sweep, tmp_path)
    trials = [job_config(trial, 10) for trial in sweep.trials()[:2]]
    suggested = []
    for scores in ((1.0, 2.0), (2.0, 1.0)):
        ended = zip(trials, scores, strict=True)
        queue.jobs = [job(trial, "TERMINATED", {"psnr": score, "step": 10, "done": True}) for trial, score in ended]
        queue.url = str(tmp_path / str(scores))
        suggested.append(queue.suggest("id")["trial"])
    assert [trial["stop_at_step"] for trial in suggested] == [10, 10]
    assert suggested[0]["values"] != suggested[1]["values"]


@needs_optuna
def test_a_suggestion_that_is_not_valid(tmp_path, monkeypatch, capsys):
    sweep = searched(samples=9, search={"kind": "tpe", "startup": 8})
    queue = queue_of(sweep, tmp_path, slots=9)
    queue.jobs = [job(job_config(trial, None), "RUNNING") for trial in sweep.trials()[:8]]
    monkeypatch.setattr("srcluster.sweep.search.suggest", lambda *known: {"optimizer.lr": -1})
    assert queue.suggest("id")["trial"]["values"] == sweep.trials()[8].values
    assert "trial 8 is drawn at random, since TPE's choice is not valid: recipe" in capsys.readouterr().out
