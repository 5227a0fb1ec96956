"""`python -m srcluster.train srresnet`: train a recipe, on any number of workers."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from srcluster import cli
from srcluster.cluster.choose import choose_cluster
from srcluster.errors import UserError
from srcluster.recipe import load, shipped


def train(
    recipe: Annotated[str, typer.Argument(help=f"One that ships ({', '.join(shipped())}), or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Keys of the recipe: data.shards=s3://bucket/coco steps=5000.")
    ] = None,
    workers: Annotated[
        str, typer.Option(help="Processes that share each batch; `2..8`: as many of these as the cluster has.")
    ] = "1",
    gpu: Annotated[bool, typer.Option("--gpu", help="Give each worker a GPU.")] = False,
    cpus: Annotated[int, typer.Option(help="Cores of each worker; 0: an equal share of the cluster's.", min=0)] = 0,
    name: Annotated[str, typer.Option(help="What the run is called; by default the recipe's name and digest.")] = "",
    address: Annotated[
        str, typer.Option(help="A Ray cluster; `local` is the embedded one; `auto` is RAY_ADDRESS, or else local.")
    ] = "auto",
    retries: Annotated[int, typer.Option(help="How often a run whose worker died goes on.", min=0)] = 8,
    extend: Annotated[
        int, typer.Option(help="Steps in all that a finished run goes on to; 0: those of its recipe.", min=0, max=10**9)
    ] = 0,
    submit: Annotated[
        bool, typer.Option("--submit", help="As a job on the cluster, with a copy of this folder; see `ray job`.")
    ] = False,
    runtime_env: Annotated[
        Path | None, typer.Option(help="With --submit: a YAML file of what the job needs, such as `pip: [timm]`.")
    ] = None,
) -> None:
    """Train a recipe; the same command again continues it."""
    chosen = load(recipe, overrides or ())
    least, most = _range(workers)
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UserError(f"--name is made of letters, digits and _.- , not {name!r}")
    if submit:
        own = ("--submit", "--runtime-env", str(runtime_env), f"--runtime-env={runtime_env}")
        typed = [word for word in sys.argv[1:] if word not in own]
        if not name:
            name = f"{chosen.name}-{chosen.digest()[:8]}"
            typed += ["--name", name]
        _submit(name, typed, runtime_env)
        return
    if runtime_env:
        raise UserError("--runtime-env is for jobs: add --submit, or install what is missing where the workers run")
    address = choose_cluster(address, required=True)
    # Ray reads its environment when it is imported.
    from srcluster.train import driver

    group = driver.Workers(least, most, cpus, gpu, retries)
    if not driver.run(chosen, name, group, address, extend):
        print("interrupted; nothing is lost, the same command continues it", flush=True)
        # Not by way of Ray's own end, which may change the status. The workers end with this process.
        os._exit(130)


def _submit(name: str, typed: list[str], runtime_env: Path | None) -> None:
    if not os.environ.keys() & {"RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"}:
        choose_cluster("local")
    from srcluster.train import submit as submission

    if not submission.submit(name, ["python", "-m", "srcluster.train", *typed], runtime_env):
        raise typer.Exit(1)


def _range(workers: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", workers)
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most:
        raise UserError(f"--workers is a number, or two as in 2..8, not {workers!r}")
    return least, most


if __name__ == "__main__":
    cli.run(train)
