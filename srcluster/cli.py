"""How a verb becomes a command: `python -m srcluster.VERB`."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import typer

from srcluster.errors import UserError

__all__ = ["TasksAddress", "run"]

TasksAddress = Annotated[
    str,
    typer.Option(
        help="A Ray cluster, on which each picture is a task; `none` is this process; `local` is the embedded cluster; "
        "`auto` is RAY_ADDRESS, or else none."
    ),
]
"""The --address of a verb that works on pictures."""


def run(*commands: Callable[..., None], several: Sequence[str] = ()) -> None:
    """Run one function as the command line, or several as its sub-commands.

    A `UserError` is printed as one sentence and ends the process with exit status 2.

    Args:
        commands: The functions.
        several: Options that take all words up to the next option: `--on Set5 Set14`.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=len(commands) > 1)
    for command in commands:
        app.command()(command)
    try:
        app(args=list(_repeated(sys.argv[1:], several)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _repeated(words: Sequence[str], several: Sequence[str]) -> Iterator[str]:
    """`--on Set5 Set14` as `--on Set5 --on Set14`, which is what click understands."""
    option = None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("-"):
            option = word if word in several else None
            if option is None or following.startswith("-") or not following:
                yield word
        else:
            yield from (word,) if option is None else (option, word)
