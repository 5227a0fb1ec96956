"""What came of a sweep's trials, in rows: ranked, with bicubic, and over seeds."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from srcluster.progress import Rows
from srcluster.recipe import Criterion, Recipe, format_metric, metric_title, side_by_side
from srcluster.sweep.plan import Trial, label_of


@dataclass(frozen=True)
class JobResult:
    """How far a job is, the part of a trial that Ray Tune runs in one go.

    Attributes:
        stop_at_step: Where it stops; None for the trial's end.
        state: `finished`, `stopped` at `stop_at_step`, `failed`, or as yet `pending` or `running`.
        metrics: Those of its last report, with the `step`.
    """

    trial: Trial
    stop_at_step: int | None
    state: str
    metrics: Mapping[str, Any]
    error: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ("finished", "stopped", "failed")

    @classmethod
    def of(cls, job: Any) -> "JobResult":
        """The job of a `ray.tune` trial."""
        trial, metrics = job.config["trial"], job.last_result or {}
        error = metrics.get("error", "")
        if job.status == "ERROR":
            error = (job.get_error() or "its process died").strip().splitlines()[-1]
        if error:
            state = "failed"
        elif "best/step" in metrics:
            state = "finished"
        else:
            state = "stopped" if metrics.get("done") else job.status.lower()
        recipe = Recipe.model_validate(trial["recipe"])
        return cls(Trial(trial["index"], recipe, trial["values"]), trial["stop_at_step"], state, metrics, error)


def job_config(trial: Trial, stop_at_step: int | None) -> dict[str, Any]:
    """What Tune keeps of a job: `run_trial` runs it, and `JobResult.of` reads it again."""
    return {
        "index": trial.index,
        "label": trial.label,
        "folder": trial.folder,
        "recipe": trial.recipe.model_dump(mode="json"),
        "values": trial.values,
        "stop_at_step": stop_at_step,
    }


def last_report(recipe: Recipe, stop_at_step: int | None, metrics: Mapping[str, float]) -> dict[str, float]:
    """What a job that came to its end reports: the metrics of `train_run` and their step."""
    return {"step": stop_at_step or recipe.steps, **metrics}


def latest(jobs: Iterable[JobResult]) -> list[JobResult]:
    """The last job of each trial, with the metrics of its earlier jobs merged in; by trial."""
    farthest: dict[int, JobResult] = {}
    for job in sorted(jobs, key=lambda job: job.stop_at_step or math.inf):
        before = farthest.get(job.trial.index)
        farthest[job.trial.index] = replace(job, metrics={**before.metrics, **job.metrics}) if before else job
    return [farthest[index] for index in sorted(farthest)]


def scores_of(bicubic: Mapping[str, float], criterion: Criterion) -> list[str]:
    """A table's metrics: the criterion, PSNR and LPIPS on each benchmark, and what else is measured on the first."""
    first = criterion.metric.partition("/")[2]
    others = [key for key in bicubic if key.endswith(f"/{first}") and not re.match("psnr_|.*_basicsr/", key)]
    return list(dict.fromkeys([criterion.metric, *side_by_side(bicubic), *others]))


def best_first(ended: Iterable[JobResult], criterion: Criterion) -> list[JobResult]:
    """Finished trials by the score of their best weights; then the others by their last step and its score."""

    def rank(one: JobResult) -> tuple[bool, float, float]:
        if one.state == "finished":
            return True, 0, criterion.rank(one.metrics, "best/")
        return False, one.metrics.get("step", 0), criterion.rank(one.metrics)

    return sorted(ended, key=rank, reverse=True)


def ranked(ended: Sequence[JobResult], bicubic: Mapping[str, float], scores: Sequence[str]) -> Rows:
    """Every trial: those that finished, bicubic, and the others, each with the reason."""
    rows = [["trial", *map(metric_title, scores), "state"]]
    for one in ended:
        if one.state == "finished":
            rows.append(
                [one.trial.label, *(format_metric(key, one.metrics[f"best/{key}"]) for key in scores), "finished"]
            )
    rows.append(["bicubic", *(format_metric(key, bicubic[key]) for key in scores), "baseline"])
    for one in ended:
        if one.state != "finished":
            # Its benchmarks other than the first are measured at a trial's end alone.
            known = [format_metric(key, one.metrics[key]) if key in one.metrics else "" for key in scores]
            why = {"stopped": f"stopped at step {one.stop_at_step}", "failed": f"failed {one.error}"}
            rows.append([one.trial.label, *known, why.get(one.state, "killed")])
    return rows


def over_seeds(ended: Iterable[JobResult], scores: Sequence[str]) -> Rows:
    """Mean and standard deviation over seeds, in the order of their best; no rows where nothing differs by seed."""
    alike: dict[tuple[tuple[str, str], ...], list[JobResult]] = {}
    for one in ended:
        others = tuple(item for item in one.trial.chosen.items() if item[0] != "seed")
        if one.state == "finished" and len(others) < len(one.trial.chosen):
            alike.setdefault(others, []).append(one)
    if not any(len(group) > 1 for group in alike.values()):
        return []
    rows = [["over seeds", *map(metric_title, scores), "seeds"]]
    for chosen, group in alike.items():
        columns = [[one.metrics[f"best/{key}"] for one in group] for key in scores]
        cells = [
            format_metric(key, fmean(column)) + _spread(key, column)
            for key, column in zip(scores, columns, strict=True)
        ]
        rows.append([label_of(dict(chosen)) or "all", *cells, str(len(group))])
    return rows


def _spread(score: str, values: Sequence[float]) -> str:
    return f" ± {format_metric(score, stdev(values))}" if len(values) > 1 else ""
