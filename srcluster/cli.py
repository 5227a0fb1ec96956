"""How a verb becomes a command: `python -m srcluster.VERB`."""

import sys
from collections.abc import Callable

import typer

from srcluster.errors import UserError

__all__ = ["run"]


def run(*commands: Callable[..., None]) -> None:
    """Run one function as the command line, or several as its sub-commands.

    A `UserError` is printed as one sentence and ends the process with exit status 2.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=len(commands) > 1)
    for command in commands:
        app.command()(command)
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
