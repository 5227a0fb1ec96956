"""What a sweep tells while it runs and at its end: a live table, a ranked one, pictures, and MLflow's last words."""

import sys
import tempfile
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
from srcluster.models.saved import load_model
from srcluster.pixels.figures import grid
from srcluster.progress import markdown, print_table
from srcluster.sweep import plots
from srcluster.sweep.plan import Trial
from srcluster.sweep.results import JobResult, best_first, latest, over_seeds, ranked, scores_of
from srcluster.train.run import publish
from srcluster.training.evaluation import restore
from srcluster.training.store import RunStore

__all__ = ["Outcome", "Progress", "conclude"]


class Progress(tune.Callback):
    """The trials while they run: a table that renews itself on a terminal, and elsewhere a line for each event.

    Args:
        score: The metric to show, such as psnr_y/Set5.
    """

    def __init__(self, score: str):
        self.score = score
        self.latest: dict[int, float] = {}
        """By the trials' numbers."""
        self.live: Live | None = None

    def on_step_end(self, iteration: int, trials: list, **info) -> None:
        if sys.stdout.isatty():
            if self.live is None:
                self.live = Live(refresh_per_second=2)
                self.live.start()
            self.live.update(self._table(trials))

    def on_experiment_end(self, trials: list, **info) -> None:
        if self.live:
            self.live.update(self._table(trials))
            self.live.stop()

    def on_trial_result(self, iteration: int, trials: list, trial, result: Mapping[str, Any], **info) -> None:
        if self.score in result:
            self.latest[trial.config["trial"]["index"]] = result[self.score]
            # Where it stops is said when it has stopped.
            if self.live is None and result["step"] != trial.config["trial"]["stop_at_step"]:
                self._line(trial, f"step {result['step']:>6}   {self.score} {result[self.score]:.2f} dB")

    def on_trial_complete(self, iteration: int, trials: list, trial, **info) -> None:
        if self.live is None:
            result = trial.last_result
            if "error" in result:
                words = f"failed: {result['error']}"
            elif "best/step" in result:
                words = f"done at step {result['step']}"
            else:
                words = f"waits at step {result['step']}   {self.score} {result[self.score]:.2f} dB"
            self._line(trial, words)

    def on_trial_error(self, iteration: int, trials: list, trial, **info) -> None:
        if self.live is None:
            self._line(trial, "its process died")

    def _line(self, trial, words: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {_label(trial):32} {words}", flush=True)

    def _table(self, trials: list) -> Table:
        table = Table("trial", "state", "step", self.score)
        # The last of a trial's jobs.
        for index, trial in {trial.config["trial"]["index"]: trial for trial in trials}.items():
            step, score = (trial.last_result or {}).get("step", ""), self.latest.get(index)
            waits = trial.status == "TERMINATED" and step == trial.config["trial"]["stop_at_step"]
            state = "waiting" if waits else trial.status.lower()
            table.add_row(_label(trial), state, str(step), f"{score:.2f}" if score else "")
        return table


def _label(trial) -> str:
    return trial.config["trial"]["label"]


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended: whether any trial came to its end, and whether it was interrupted."""

    finished: bool
    interrupted: bool


def conclude(
    count: int,
    jobs: Iterable[JobResult],
    bicubic: Mapping[str, float],
    parent: tracking.Run,
    place: str,
    folder: Path,
) -> Outcome:
    """Close the trials' runs, rank the trials, print and log tables and pictures, and register the best network.

    Args:
        count: How many trials were to be.
        jobs: All of them.
        bicubic: The baseline's metrics.
        parent: The sweep's run in MLflow.
        place: URL of the sweep's files.
        folder: Where the pictures go.
    """
    ended = latest(jobs)
    interrupted = len(ended) < count or any(one.state == "killed" for one in ended)
    children = {child.key.rpartition("/")[2]: child for child in tracking.children(parent.id)}
    _close_runs(ended, children, interrupted)
    score, *_ = scores = scores_of(bicubic)
    ended = best_first(ended, score)
    finished = [one for one in ended if one.state == "finished"]
    tables = [ranked(ended, bicubic)]
    if seeds := over_seeds(finished, bicubic):
        tables.append(seeds)
    for table in tables:
        print_table(table)
    parent.note("\n\n".join(map(markdown, tables)))
    if finished:
        best = finished[0]
        parent.tag(best=best.trial.label)
        values = {f"best/{key}": best.metrics[f"best/{key}"] for key in scores}
        parent.log(values, step=best.trial.recipe.steps, replace=True)
        folder.mkdir(parents=True, exist_ok=True)
        _keep(_comparison(best.trial, place), parent, folder / "comparison.png")
        if not interrupted:
            _plot(ended, children, bicubic, score, parent, folder)
            store = RunStore(storage.join(place, best.trial.folder))
            metrics = {key: value for key, value in best.metrics.items() if key.startswith("best/")}
            model = publish(best.trial.recipe, children[str(best.trial.index)].id, store, metrics)
            parent.tag(model=model)
            print(f"the best: {model} in MLflow, {storage.join(store.url, 'model.safetensors')}")
        print(f"pictures: {folder} where this runs, and the artifacts of {folder.name} in MLflow")
    columns = [f"best/{key}" for key in scores] + [score] * any(one.state == "stopped" for one in ended)
    varied = list(dict.fromkeys(key for one in ended for key in one.trial.chosen))
    print(f"in MLflow, side by side: {tracking.table_page(parent.experiment_id, columns, varied)}")
    print(f"       learning curves: {tracking.charts_page(parent.experiment_id, score)}", flush=True)
    if interrupted:
        parent.end("KILLED")
    return Outcome(bool(finished), interrupted)


def _close_runs(ended: Iterable[JobResult], children: Mapping[str, tracking.RunInfo], interrupted: bool) -> None:
    """Say of each run how its trial ended, where the trial's process could not: after ASHA, Ctrl-C or an accident."""
    for one in ended:
        child = children.get(str(one.trial.index))
        status = {"failed": "FAILED", "killed": "KILLED"}.get(one.state, "FINISHED")
        # What waits at a rung as a sweep is interrupted may still go on.
        by_asha = one.state == "stopped" and not interrupted
        if child and (by_asha or child.status != status):
            run = tracking.Run.attach(child.id)
            if by_asha:
                run.tag(stopped_by="asha")
            if child.status != status:
                run.end(status)
            run.close()


def _plot(
    ended: Iterable[JobResult],
    children: Mapping[str, tracking.RunInfo],
    bicubic: Mapping[str, float],
    score: str,
    parent: tracking.Run,
    folder: Path,
) -> None:
    lines = {one.trial.index: tracking.curve(children[str(one.trial.index)].id, score) for one in ended}
    trials = [one.trial for one in ended if lines[one.trial.index]]
    labelled = {f"{trial.index}: {trial.label}": lines[trial.index] for trial in trials}
    _keep(plots.curves(labelled, bicubic[score], score), parent, folder / "curves.png")
    highest = [(trial.chosen, max(value for _, value in lines[trial.index])) for trial in trials]
    if picture := plots.parameters(highest, bicubic[score], score):
        _keep(picture, parent, folder / "parameters.png")


def _keep(picture: Image.Image, parent: tracking.Run, path: Path) -> None:
    picture.save(path)
    parent.image(picture, path.name)


def _comparison(trial: Trial, place: str) -> Image.Image:
    """The first benchmark's images by a trial's network."""
    recipe = trial.recipe
    benchmark = benchmarks.load(recipe.evaluation.benchmarks[0], recipe.scale)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.safetensors")
        storage.download(storage.join(place, trial.folder, file.name), file)
        _, network = load_model(file)
    shown = benchmark.images[: max(recipe.evaluation.pictures, 1)]
    return grid(
        [
            (image.name, comparison_of(image, {recipe.model.kind: restore(network, image.lr)}, recipe.scale))
            for image in shown
        ]
    )
