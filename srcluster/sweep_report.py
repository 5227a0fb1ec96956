"""What a sweep tells while it runs and at its end: a live table, a ranked one, pictures, and MLflow's last words."""

import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from ray import tune
from rich.console import Console
from rich.live import Live
from rich.table import Table

from srcluster import storage, tracking
from srcluster.data import benchmarks
from srcluster.figures import comparison_of
from srcluster.models.saved import load_model
from srcluster.pixels.figures import grid
from srcluster.sweep_plan import Trial
from srcluster.training.evaluation import restore

__all__ = ["Outcome", "Progress", "conclude", "trial_store"]


def trial_store(sweep: str, trial: Trial) -> str:
    """The URL for a trial's files, below that of its sweep."""
    return storage.join(sweep, f"run-{trial.index:04d}")


class Progress(tune.Callback):
    """The trials while they run: a table that renews itself on a terminal, and elsewhere a line for each event.

    Args:
        score: The metric to show, such as psnr_y/Set5.
    """

    def __init__(self, score: str):
        self.score = score
        self.latest: dict[str, float] = {}
        self.live: Live | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Tune saves its callbacks with the sweep, and a terminal is not to be continued.
        return self.__dict__ | {"live": None}

    def on_step_end(self, iteration: int, trials: list, **info) -> None:
        if sys.stdout.isatty():
            if self.live is None:
                self.live = Live(console=_console(), refresh_per_second=2)
                self.live.start()
            self.live.update(self._table(trials))

    def on_experiment_end(self, trials: list, **info) -> None:
        if self.live:
            self.live.update(self._table(trials))
            self.live.stop()

    def on_trial_result(self, iteration: int, trials: list, trial, result: Mapping[str, Any], **info) -> None:
        if self.score in result:
            self.latest[trial.trial_id] = result[self.score]
            if self.live is None:
                self._line(trial, f"step {result['step']:>6}   {self.score} {result[self.score]:.2f} dB")

    def on_trial_complete(self, iteration: int, trials: list, trial, **info) -> None:
        if self.live is None:
            result = trial.last_result
            self._line(trial, f"failed: {result['error']}" if "error" in result else f"done at step {result['step']}")

    def on_trial_error(self, iteration: int, trials: list, trial, **info) -> None:
        if self.live is None:
            self._line(trial, "its process died")

    def _line(self, trial, words: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {_label(trial):32} {words}", flush=True)

    def _table(self, trials: list) -> Table:
        table = Table("trial", "state", "step", self.score)
        for trial in trials:
            step, score = (trial.last_result or {}).get("step", ""), self.latest.get(trial.trial_id)
            table.add_row(_label(trial), trial.status.lower(), str(step), f"{score:.2f}" if score else "")
        return table


def _label(trial) -> str:
    return trial.config["trial"]["label"]


@dataclass(frozen=True)
class _Ended:
    """How one trial ended: `finished`, `stopped` by the scheduler, `failed`, or `killed` with the sweep."""

    trial: Trial
    state: str
    metrics: Mapping[str, Any]
    error: str

    @classmethod
    def of(cls, trial: Trial, result) -> "_Ended":
        metrics = result.metrics or {}
        error = metrics.get("error") or (str(result.error).strip().splitlines()[-1] if result.error else "")
        if error:
            state = "failed"
        elif "best/step" in metrics:
            state = "finished"
        else:
            state = "stopped" if metrics.get("done") else "killed"
        return cls(trial, state, metrics, error)


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended: whether any trial came to its end, and whether it was interrupted."""

    finished: bool
    interrupted: bool


def conclude(
    trials: Sequence[Trial],
    results: tune.ResultGrid,
    bicubic: Mapping[str, float],
    parent: tracking.Run,
    place: str,
    folder: Path,
) -> Outcome:
    """Close the trials' runs, rank the trials, and print and log the table and the best one's picture.

    Args:
        trials: What was tried.
        results: Tune's.
        bicubic: The baseline's metrics.
        parent: The sweep's run in MLflow.
        place: URL of the sweep's files.
        folder: Where the picture goes.
    """
    by_index = {result.config["trial"]["index"]: result for result in results if result.config}
    outcomes = [_Ended.of(trial, by_index[trial.index]) for trial in trials if trial.index in by_index]
    _close_runs(outcomes, parent)
    interrupted = len(outcomes) < len(trials) or any(outcome.state == "killed" for outcome in outcomes)
    scores = [key for key in bicubic if key.startswith("psnr_y/")]
    finished = [outcome for outcome in outcomes if outcome.state == "finished"]
    finished.sort(key=lambda outcome: -outcome.metrics[f"best/{scores[0]}"])
    others = [outcome for outcome in outcomes if outcome.state != "finished"]
    rows = [
        [outcome.trial.label, *(f"{outcome.metrics[f'best/{score}']:.2f}" for score in scores), "finished"]
        for outcome in finished
    ]
    rows += [["bicubic", *(f"{bicubic[score]:.2f}" for score in scores), "baseline"]]
    rows += [
        [outcome.trial.label, *[""] * len(scores), f"{outcome.state} {outcome.error}".strip()] for outcome in others
    ]
    header = ["trial", *(f"{score.partition('/')[2]} PSNR-Y, dB" for score in scores), "state"]
    _print_table(header, rows)
    parent.note(_markdown(header, rows))
    if finished:
        best = finished[0]
        parent.tag(best=best.trial.label)
        parent.log({f"best/{score}": best.metrics[f"best/{score}"] for score in scores}, step=best.trial.recipe.steps)
        picture = _picture(best.trial, place)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "comparison.png"
        picture.save(path)
        parent.image(picture, "comparison.png")
        print(f"picture of the best: {path}")
    columns = [f"best/{score}" for score in scores]
    varied = list(dict.fromkeys(key for trial in trials for key in trial.chosen))
    print(f"in MLflow, side by side: {tracking.table_page(parent.experiment_id, columns, varied)}")
    print(f"       learning curves: {tracking.charts_page(parent.experiment_id, scores[0])}", flush=True)
    if interrupted:
        parent.end("KILLED")
    return Outcome(bool(finished), interrupted)


def _close_runs(outcomes: Iterable[_Ended], parent: tracking.Run) -> None:
    """Say of each run how its trial ended, where the trial's process could not: after ASHA, Ctrl-C or an accident."""
    states = {f"{outcome.trial.index}": outcome.state for outcome in outcomes}
    for child in tracking.children(parent.id):
        state = states.get(child.key.rpartition("/")[2])
        if child.status == "RUNNING" and state:
            run = tracking.Run.attach(child.id)
            if state == "stopped":
                run.tag(stopped_by="asha")
            run.end({"failed": "FAILED", "killed": "KILLED"}.get(state, "FINISHED"))


def _picture(trial: Trial, place: str) -> Image.Image:
    """The first benchmark's images by a trial's network."""
    recipe = trial.recipe
    benchmark = benchmarks.load(recipe.evaluation.benchmarks[0], recipe.scale)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.safetensors")
        storage.download(storage.join(trial_store(place, trial), file.name), file)
        _, network = load_model(file)
    shown = benchmark.images[: max(recipe.evaluation.pictures, 1)]
    return grid(
        [
            (image.name, comparison_of(image, {recipe.model.kind: restore(network, image.lr)}, recipe.scale))
            for image in shown
        ]
    )


def _print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _console() -> Console:
    # A file or a pipe has no width: never cut a table to Rich's 80 columns there.
    return Console(width=None if sys.stdout.isatty() else 160)
