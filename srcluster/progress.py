"""What a terminal shows, and a file or a pipe otherwise: tables, and how far a long job is."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["print_wide", "progress"]

LINE_EVERY_S = 10.0


@contextmanager
def progress(doing: str, total: int, things: str) -> Iterator[Callable[[float, str], None]]:
    """Show how many of `total` things are done: a bar on a terminal; elsewhere a line now and then.

    Args:
        doing: A word for what is done to them: `packing`.
        total: How many there are.
        things: What they are: `shards`.

    Yields:
        A function that takes how many are done, and more words.
    """
    console = Console()
    if console.is_terminal:
        columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn(things + "{task.description}"))
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda done, said: bar.update(task, completed=done, description=f", {said}")
        return
    due = time.monotonic() + LINE_EVERY_S

    def line(done: float, said: str) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + LINE_EVERY_S
            print(f"{doing}: {int(done)} of {total} {things}, {said}", flush=True)

    yield line


def print_wide(table: Table) -> None:
    """Print a table, which only a terminal's width makes narrower."""
    # Rich takes a file or a pipe for 80 columns.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)
