"""Verbs as commands: `python -m srcluster.VERB`, and all of them as `srcluster VERB`.

A new verb is a package with a `__main__.py`, the first line of whose docstring is its command and what it does.
"""

import ast
import io
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from srcluster.errors import UserError

TasksAddress = Annotated[
    str,
    typer.Option(
        help="A Ray cluster, on which each picture is a task; `none` is this process; `local` is the embedded cluster; "
        "`auto` is RAY_ADDRESS, or else none."
    ),
]
"""The --address of a verb that works on pictures."""


def main() -> None:
    """The command `srcluster`: lists the verbs, or runs one as `python -m srcluster.VERB` does."""
    app = _app()
    app.callback()(_srcluster)
    for verb, does in verbs().items():
        app.command(verb, help=does, add_help_option=False, context_settings={"ignore_unknown_options": True})(_verb)
    app()


def verbs() -> dict[str, str]:
    """The packages with a `__main__`, and what each does, from the first line of its docstring."""
    # They are not imported: that takes seconds.
    paths = sorted(Path(__file__).parent.glob("*/__main__.py"))
    lines = {
        path.parent.name: (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0] for path in paths
    }
    return {verb: line.partition("`: ")[2] for verb, line in lines.items()}


def _srcluster() -> None:
    """Training and hyper-parameter sweeps of super-resolution networks on a Ray cluster."""


def _verb(context: typer.Context, words: Annotated[list[str] | None, typer.Argument(metavar="...")] = None) -> None:
    sys.argv[1:] = words or []
    runpy.run_module(f"srcluster.{context.info_name}", run_name="__main__", alter_sys=True)


def run(*commands: Callable[..., None], several: Sequence[str] = ()) -> None:
    """Run one function as the command line, or several as its sub-commands; without any words it prints its help.

    A `UserError` is printed as one sentence and ends the process with exit status 2. The options `several` take all
    words up to the next option: `--on Set5 Set14`.
    """
    for stream in (sys.stdout, sys.stderr):
        # Names of files may hold bytes, and languages letters, that the terminal's encoding lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app = _app()
    for command in commands:
        app.command(no_args_is_help=len(commands) == 1)(command)
    try:
        app(args=list(_repeated(sys.argv[1:], several)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def end_as_ctrl_c() -> None:
    """Take a pod's deletion, `ray job stop` and a terminal that closes for Ctrl-C."""
    terminals = [stream.fileno() for stream in (sys.stdout, sys.stderr) if stream.isatty()]

    def end(number: int, _: object) -> None:
        if number == signal.SIGHUP:
            # To print to a terminal that is gone would be an error.
            for terminal in terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), terminal)
        signal.raise_signal(signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGHUP):
        # `nohup` has it ignored.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


def _app() -> typer.Typer:
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


def _repeated(words: Sequence[str], several: Sequence[str]) -> Iterator[str]:
    """`--on Set5 Set14` as `--on Set5 --on Set14`, which is what click understands."""
    option = None
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word.startswith("-"):
            option = word if word in several else None
            if option is None or following.startswith("-") or not following:
                yield word
        else:
            yield from (word,) if option is None else (option, word)
