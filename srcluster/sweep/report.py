"""What a sweep shows: a live table while it runs, and at its end the ranked one, pictures, and what MLflow keeps."""

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from ray import tune
from rich.live import Live
from rich.table import Table

from srcluster import storage, tracking
from srcluster.data import benchmarks
from srcluster.data.figures import comparison_of
from srcluster.errors import UserError
from srcluster.models.find import find_model
from srcluster.models.tiling import restore
from srcluster.pixels.figures import grid
from srcluster.progress import Pace, markdown, print_table, table
from srcluster.recipe import Criterion, format_metric, metric_title
from srcluster.sweep import plots
from srcluster.sweep.plan import Trial, planned_steps
from srcluster.sweep.queue import TrialQueue
from srcluster.sweep.results import JobResult, best_first, latest, over_seeds, ranked, scores_of
from srcluster.train.run import publish
from srcluster.training.store import RunStore


class LiveTable(tune.Callback):
    """The trials while they run: a table that renews itself on a terminal, and elsewhere a line for each event."""

    def __init__(self, queue: TrialQueue):
        self.queue = queue
        self.pace = Pace(planned_steps(queue.plan, queue.drawn), self._steps())
        self.live: Live | None = None

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if sys.stdout.isatty() and self.live is None:
            self.live = Live(get_renderable=self._table, refresh_per_second=2)
            self.live.start()

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        if self.live:
            self.live.stop()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        # Where a job stops is said when it has stopped.
        if self.queue.criterion.metric in result and result["step"] != trial.config["trial"]["stop_at_step"]:
            self._print(trial, f"step {result['step']:>6}   {self._score(result)}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = JobResult.of(trial)
        match job.state:
            case "failed":
                self._print(trial, f"failed: {job.error}")
            case "finished":
                self._print(trial, f"done at step {job.metrics['step']}")
            case _:
                self._print(trial, f"waits at step {job.metrics['step']}   {self._score(job.metrics)}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._print(trial, "its process died")

    def _print(self, trial: Any, words: str) -> None:
        if self.live is None:
            left = self.pace.left(self._steps())
            print(f"{time.strftime('%H:%M:%S')}  {trial.config['trial']['label']:32} {words}{left}", flush=True)

    def _score(self, metrics: Mapping[str, Any]) -> str:
        metric = self.queue.criterion.metric
        return f"{metric} {format_metric(metric, metrics[metric])}"

    def _steps(self) -> int:
        """The steps that are done, or that will not be taken."""
        # Of a trial that failed no more come, which only asha makes up for by others.
        whole = ("finished", "failed") if self.queue.plan.scheduler is None else ()
        jobs = latest(self.queue.results())
        return sum(job.trial.recipe.steps if job.state in whole else job.metrics.get("step", 0) for job in jobs)

    def _table(self) -> Table:
        metric, rows = self.queue.criterion.metric, []
        for job in latest(self.queue.results()):
            state = {"stopped": "waiting"}.get(job.state, job.state)
            shown = format_metric(metric, job.metrics[metric]) if metric in job.metrics else ""
            rows.append([job.trial.label, state, str(job.metrics.get("step", "")), shown])
        made = table([["trial", "state", "step", metric], *rows])
        made.caption = self.pace.left(self._steps()).lstrip(", ")
        return made


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended: whether any trial came to its end, and whether it was interrupted."""

    finished: bool
    interrupted: bool


def conclude(
    count: int,
    jobs: Iterable[JobResult],
    criterion: Criterion,
    bicubic: Mapping[str, float],
    parent: tracking.Run,
    url: str,
    folder: Path,
) -> Outcome:
    """Rank the trials, print and write their tables, and then log them and pictures to MLflow, with the best network.

    Args:
        count: How many trials the sweep has.
        folder: Where the table and the pictures go, beside `url`.
    """
    results = latest(jobs)
    interrupted = len(results) < count or not all(one.ended for one in results)
    scores = scores_of(bicubic, criterion)
    results = best_first(results, criterion)
    finished = [one for one in results if one.state == "finished"]
    tables = [rows for rows in (ranked(results, bicubic, scores), over_seeds(finished, scores)) if rows]
    for rows in tables:
        print_table(rows)
    ranking = f"Trials are ranked by {metric_title(criterion.metric)}."
    if results:
        choice = results[0].trial.recipe.evaluation.choice(criterion.metric.partition("/")[2])
        ranking = f"{ranking} Each is measured with {choice}."
    print(ranking)
    text = "\n\n".join([*map(markdown, tables), ranking])
    # MLflow may be away now, and a night's table must not be lost with it.
    for place in (str(folder), url):
        storage.write(storage.join(place, "table.md"), f"{text}\n".encode())
    print(f"the table: {folder / 'table.md'} where this runs, and {storage.join(url, 'table.md')}", flush=True)
    tracking.send_unsent(url)
    children = {child.key.rpartition("/")[2]: child for child in tracking.children(parent.id)}
    _close_runs(results, children, interrupted)
    parent.note(text)
    if finished:
        best = finished[0]
        parent.tag(best=best.trial.label)
        values = {f"best/{key}": best.metrics[f"best/{key}"] for key in scores}
        parent.log(values, step=best.trial.recipe.steps, replace=True)
        try:
            _keep(_comparison(best.trial, url), parent, folder / "comparison.png")
        except UserError as error:
            print(f"no comparison is drawn: {error}")
        if not interrupted:
            _plot(results, children, bicubic, criterion, parent, folder)
            store = RunStore(storage.join(url, best.trial.folder))
            metrics = {key: value for key, value in best.metrics.items() if key.startswith("best/")}
            try:
                model = publish(best.trial.recipe, children[str(best.trial.index)].id, store, metrics)
            except UserError as error:
                parent.end()
                raise UserError(f"the sweep is finished, and --resume publishes its best network: {error}") from error
            parent.tag(model=model)
            print(f"the best: {model} in MLflow, {storage.join(store.url, 'model.safetensors')}")
        print(f"pictures: {folder} where this runs, and the artifacts of {folder.name} in MLflow")
    columns = [f"best/{key}" for key in scores] + [criterion.metric] * any(one.state == "stopped" for one in results)
    varied = list(dict.fromkeys(key for one in results for key in one.trial.chosen))
    order = {"ascending": not criterion.higher}
    print(f"in MLflow, side by side: {tracking.table_page(parent.experiment_id, columns, varied, **order)}")
    charts = tracking.charts_page(parent.experiment_id, criterion.metric, **order)
    print(f"       learning curves: {charts}", flush=True)
    if interrupted:
        parent.end("KILLED")
    return Outcome(bool(finished), interrupted)


def _close_runs(results: Iterable[JobResult], children: Mapping[str, tracking.RunInfo], interrupted: bool) -> None:
    """Set the status of runs whose trials' processes could not: after ASHA, Ctrl-C or an accident."""
    for one in results:
        child = children.get(str(one.trial.index))
        status: tracking.Status = "FAILED" if one.state == "failed" else "FINISHED" if one.ended else "KILLED"
        # What waits at a rung as a sweep is interrupted may still go on.
        by_asha = one.state == "stopped" and not interrupted
        if child and (by_asha or child.status != status):
            tracking.close_run(child.id, status, **({"stopped_by": "asha"} if by_asha else {}))


def _plot(
    results: Iterable[JobResult],
    children: Mapping[str, tracking.RunInfo],
    bicubic: Mapping[str, float],
    criterion: Criterion,
    parent: tracking.Run,
    folder: Path,
) -> None:
    score = criterion.metric
    lines = {one.trial.index: tracking.curve(children[str(one.trial.index)].id, score) for one in results}
    trials = [one.trial for one in results if lines[one.trial.index]]
    labelled = {f"{trial.index}: {trial.label}": lines[trial.index] for trial in trials}
    _keep(plots.curves(labelled, bicubic[score], criterion), parent, folder / "curves.png")
    best = max if criterion.higher else min
    reached = [(trial.chosen, best(value for _, value in lines[trial.index])) for trial in trials]
    if picture := plots.parameters(reached, bicubic[score], criterion):
        _keep(picture, parent, folder / "parameters.png")


def _keep(picture: Image.Image, parent: tracking.Run, path: Path) -> None:
    picture.save(path)
    parent.image(picture, path.name)


def _comparison(trial: Trial, url: str) -> Image.Image:
    """The first benchmark's images by a trial's network."""
    recipe = trial.recipe
    network = find_model(storage.join(url, trial.folder), allow_import=recipe.packages).network
    rows = []
    for image in benchmarks.load_for(recipe)[0].images[: max(recipe.evaluation.pictures, 1)]:
        picture = comparison_of(image, {recipe.model.kind: restore(network, image.lr)}, recipe.scale)
        rows.append((image.name, picture))
    return grid(rows)
