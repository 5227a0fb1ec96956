"""Tables, and how far a long job is: on a terminal, in a file or pipe, and in Markdown."""

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

_NUMBER = re.compile(r"(inf|-?[\d,.]+(e[-+]\d+)?( ± .+)?)?")

Rows = Sequence[Sequence[str]]
"""A table; its first row is the header."""


class Pace:
    """How long a job of `total` steps, `before` of which are done, still takes if it goes on as fast as so far."""

    def __init__(self, total: float, before: float = 0):
        self.total, self.before, self.began = total, before, time.monotonic()

    def left(self, done: float) -> str:
        """`, 12 min left`; empty while nothing has been done."""
        if done <= self.before:
            return ""
        per_unit_s = (time.monotonic() - self.began) / (done - self.before)
        return f", {duration(max(self.total - done, 0) * per_unit_s)} left"


def duration(seconds: float) -> str:
    """A time to the minute: `40 s`, `12 min`, `3 h 05 min`."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


@contextmanager
def progress(
    doing: str, total: int | None, things: str, before: int = 0, every_s: float = 10
) -> Iterator[Callable[[float, str], None]]:
    """Show how many of `total` things are done, and the time left: a bar on a terminal, lines elsewhere.

    Args:
        doing: Such as `packing`.
        total: None where nobody knows.
        things: Such as `shards`.
        before: How many were done earlier.

    Yields:
        A function that takes how many are done, and more words, or none.
    """
    console = Console()
    if console.is_terminal:
        columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn(things + "{task.description}"))
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task("", total=total, completed=before)
            yield lambda done, words: bar.update(task, completed=done, description=words and f", {words}")
        return
    due, pace = time.monotonic() + every_s, Pace(total, before) if total else None

    def line(done: float, words: str) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + every_s
            of, left = (f" of {total}", pace.left(done)) if pace else ("", "")
            print(f"{doing}: {int(done)}{of} {things}{left}{words and f', {words}'}", flush=True)

    yield line


def table(rows: Rows, below: Rows = ()) -> Table:
    """A table for a terminal, with more rows, dim, `below`; columns of numbers are right-aligned."""
    header, *body = rows
    made = Table()
    for title, *cells in zip(header, *body, *below, strict=True):
        made.add_column(title, justify="right" if all(map(_NUMBER.fullmatch, cells)) else "left")
    for row in body:
        made.add_row(*row)
    made.add_section()
    for row in below:
        made.add_row(*row, style="dim")
    return made


def print_table(rows: Rows, below: Rows = ()) -> None:
    """Print a `table`, which nothing but a terminal's width makes narrower."""
    # Rich takes a file or a pipe for 80 columns.
    Console(width=None if sys.stdout.isatty() else 1000).print(table(rows, below))


def markdown(rows: Rows) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))
