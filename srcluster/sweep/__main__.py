"""`python -m srcluster.sweep sweeps/srcnn.yaml`: train a recipe many times, and rank what is tried."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from srcluster import cli
from srcluster.cluster.choose import choose_cluster
from srcluster.errors import UserError
from srcluster.recipe import parse_overrides
from srcluster.sweep.plan import load_sweep, print_plan


def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep, such as sweeps/srcnn.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Keys of the recipe, for every trial: steps=500.")
    ] = None,
    address: Annotated[
        str, typer.Option(help="A Ray cluster; `local` is the embedded one; `auto` is RAY_ADDRESS, or else local.")
    ] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the last sweep of these very trials.")] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Start, or continue if it was started before: for jobs that are tried again.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Of each trial; by default, what the file says.", min=1)] = None,
    cpus: Annotated[int | None, typer.Option(help="Cores of each worker; the same.", min=1)] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs of each worker, or 0 for none; the same.", min=0)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the trials and stop.")] = False,
) -> None:
    """Train every trial of a sweep, and rank them by benchmark PSNR."""
    plan = load_sweep(file, {"workers": workers, "cpu": cpus, "gpu": gpus}, parse_overrides(overrides or ()))
    trials = plan.trials()
    if dry_run:
        print_plan(plan, trials)
        return
    if plan.search and not importlib.util.find_spec("optuna"):
        raise UserError("search: {kind: tpe} needs Optuna: pip install 'srcluster[tpe]'")
    address = choose_cluster(address, required=True)
    # Ray reads its environment when it is imported.
    from srcluster.sweep import driver

    try:
        outcome = driver.run(file, plan, trials, address, resume=resume, once=once)
    except KeyboardInterrupt:  # Before Tune took over: it catches Ctrl-C to stop its trials in order.
        outcome = None
    if outcome is None or outcome.interrupted:
        typed = {"--workers": workers, "--cpus": cpus, "--gpus": gpus}
        options = [f"{option} {value:g}" for option, value in typed.items() if value is not None]
        command = " ".join(["python -m srcluster.sweep", str(file), *(overrides or ()), *options, "--resume"])
        print(f"interrupted; nothing is lost, continue with: {command}")
        raise typer.Exit(130)
    if not outcome.finished:
        raise UserError("no trial came to its end; the table above says why")


if __name__ == "__main__":
    cli.run(sweep)
