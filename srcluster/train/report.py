"""What a person sees of a training: a live line on a terminal and plain lines elsewhere, and its result at the end."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from srcluster import storage
from srcluster.progress import Rows, duration, print_table
from srcluster.recipe import Recipe, format_metric, metric_title, side_by_side
from srcluster.training.store import RunStore

OnReport = Callable[[str, int, dict[str, float]], None]
"""Takes a line of words; or, where that is empty, a step and its metrics."""


@contextmanager
def display(steps: int) -> Iterator[OnReport]:
    """Show what the workers of a training of so many steps report, as long as the context lasts."""

    def log(words: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {words}", flush=True)

    if not sys.stdout.isatty():
        yield lambda words, step, metrics: log(words or f"step {step:>7}   {summary(metrics)}")
        return
    known: dict[str, float] = {}
    with Progress(TextColumn("step"), MofNCompleteColumn(), BarColumn(20), TextColumn("{task.description}")) as bar:
        task = bar.add_task("", total=steps)

        def show(words: str, step: int, metrics: dict[str, float]) -> None:
            if words:
                # Above the live line, where rich takes it.
                log(words)
            else:
                known.update(metrics)
                bar.update(task, completed=step, description=summary(known))

        yield show


def summary(metrics: Mapping[str, float]) -> str:
    """Metrics in words, each where it is known: the time left, loss and speed, and scores."""
    scores = [
        f"{key} {format_metric(key, value)}"
        for key, value in metrics.items()
        if not key.startswith(("train/", "data/"))
    ]
    if "train/loss" not in metrics:
        return "   ".join(scores)
    speed = (
        f"{duration(metrics['train/time_left_s'])} left",
        f"loss {metrics['train/loss']:.5f}",
        f"{metrics['train/patches_per_s']:.1f} patches/s",
        f"waiting for data {metrics['train/data_wait_share']:.1%}",
    )
    return "   ".join([*speed, *(score for score in scores if score.startswith("psnr_y"))])


def followed(metrics: Mapping[str, float]) -> str:
    """The name of the pictures that were measured during a training: they come first in its result."""
    return next(key.split("/", 2)[2] for key in metrics if key.count("/") > 1)


def result_rows(name: str, recipe: Recipe, metrics: Mapping[str, float], bicubic: Mapping[str, float]) -> Rows:
    """The criterion, and PSNR and LPIPS on each benchmark, beside bicubic unless its metrics are empty."""
    criterion = recipe.evaluation.criterion(followed(metrics)).metric
    scores = side_by_side(key.removeprefix("best/") for key in metrics)
    scores = list(dict.fromkeys([criterion, *scores]))
    rows = [["", *map(metric_title, scores)]]
    rows.append([name, *(format_metric(score, metrics[f"best/{score}"]) for score in scores)])
    if bicubic:
        rows.append(["bicubic", *(format_metric(score, bicubic[score]) for score in scores)])
    return rows


def print_result(
    name: str, recipe: Recipe, metrics: Mapping[str, float], store: RunStore, bicubic: Mapping[str, float]
) -> None:
    print_table(result_rows(name, recipe, metrics, bicubic))
    print(f"{name} is {recipe.evaluation.choice(followed(metrics))}")
    print(f"the network: {storage.join(store.url, 'model.safetensors')}", flush=True)
