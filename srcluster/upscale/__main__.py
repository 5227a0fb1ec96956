"""`python -m srcluster.upscale IN... --out DIR --model MODEL`: enlarge pictures by a network."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from torch import nn

from srcluster import cli, storage
from srcluster.cluster.choose import choose_cluster
from srcluster.errors import UserError
from srcluster.models.export import export as write_export
from srcluster.models.find import MODEL_HELP, find_model
from srcluster.models.tiling import SelfEnsemble
from srcluster.progress import progress
from srcluster.upscale.enlarge import Job, Outcome, enlarge

__all__ = ["UpscaleError", "upscale"]

_SUFFIXES = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
"""Of the files that are taken from folders."""


class UpscaleError(UserError):
    """What was asked for can't be upscaled, or not all of it."""


def upscale(
    pictures: Annotated[
        list[str] | None, typer.Argument(metavar="IN...", help="Pictures, folders of them, or s3:// URLs of these.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Folder or s3:// prefix that PNG files go to.")] = None,
    model: Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP)] = "",
    scale: Annotated[int, typer.Option(help="Of nearest, bilinear and bicubic.")] = 4,
    self_ensemble: Annotated[
        bool, typer.Option("--self-ensemble", help="The mean over the eight symmetries: better, eight times slower.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make what is in DIR again.")] = False,
    memory_gb: Annotated[
        float, typer.Option(help="What the network may take, in 10^9 bytes; 0 for half of what is free.")
    ] = 0,
    address: cli.TasksAddress = "auto",
    gpus: Annotated[float, typer.Option(help="GPUs that each task on a cluster takes.")] = 0,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the network, as .onnx or .pt2 for any size.")
    ] = None,
) -> None:
    """Enlarge pictures of any kind: RGB, grey, alpha, 16 bits, palette, CMYK, turned by EXIF; colour profiles stay.

    What is in DIR already is left as it is. A picture that fails is listed at the end, and ends nothing else.
    """
    if not model:
        raise UpscaleError("say which network: --model MODEL; --help lists what that can be")
    if bool(pictures) != bool(out) or not (pictures or export):
        raise UpscaleError("say what to enlarge and where to: python -m srcluster.upscale IN... --out DIR")
    address = choose_cluster(address)
    jobs = _jobs(pictures, out) if pictures and out else []
    due = jobs if overwrite else [job for job in jobs if not storage.exists(job.target)]
    _, network = find_model(model, scale)
    if self_ensemble:
        network = SelfEnsemble(network).eval()
    if export is not None:
        write_export(network, export)
        print(f"the network is in {export}")
    if not jobs:
        return
    outcomes = _run(network, due, memory_gb * 1e9 or None, address, gpus) if due else []
    failed = [outcome for outcome in outcomes if outcome.error]
    megapixels, seconds = (sum(getattr(o, name) for o in outcomes) for name in ("megapixels", "seconds"))
    print(
        f"{len(outcomes) - len(failed)} made in {out}, {len(jobs) - len(due)} were there already"
        + (f"; {seconds / megapixels:.3g} s for each megapixel" if megapixels else "")
    )
    for outcome in failed:
        print(f"  {outcome.error}")
    if failed:
        raise UpscaleError(f"{len(failed)} of {len(jobs)} pictures failed, as listed above; the others are made")


def _jobs(sources: Iterable[str], out: str) -> list[Job]:
    """What each picture becomes: the same name below `out`, with its folders."""
    out = _absolute(out)
    found = [(url, PurePosixPath(name)) for source in sources for url, name in _pictures(_absolute(source), out)]
    stems = Counter(name.with_suffix("") for _, name in found)
    # a.jpg beside a.png become a.jpg.png and a.png.png.
    jobs = [
        Job(url, storage.join(out, f"{name if stems[name.with_suffix('')] > 1 else name.with_suffix('')}.png"))
        for url, name in found
    ]
    targets = Counter(job.target for job in jobs)
    sources = {job.source for job in jobs}
    for job in jobs:
        if targets[job.target] > 1:
            raise UpscaleError(f"several pictures would become {job.target}: enlarge them to different folders")
        if job.target in sources:
            raise UpscaleError(f"{job.target} would be overwritten, and it is a picture to enlarge: give another --out")
    return jobs


def _pictures(source: str, out: str) -> list[tuple[str, str]]:
    """Where the pictures of a source are, and their names within it."""
    if storage.exists(source):
        return [(source, source.rpartition("/")[2])]
    if not storage.is_s3(source) and not Path(source).is_dir():
        raise UpscaleError(f"there is no picture or folder {source}: check its name")
    storage.check(source)
    places = ((storage.join(source, name), name) for name in storage.names(source))
    # DIR may be within the folder, from the last time.
    inside = f"{out}/" if out.startswith(f"{source}/") else None
    found = [
        (url, name)
        for url, name in places
        if name.lower().endswith(_SUFFIXES) and not (inside and url.startswith(inside))
    ]
    if not found:
        raise UpscaleError(f"there are no pictures in {source}: looked for {', '.join(_SUFFIXES)}")
    return found


def _absolute(place: str) -> str:
    """As the processes of a cluster understand it, which work in other folders; links followed, to compare."""
    return place.rstrip("/") if storage.is_s3(place) else Path(place).resolve().as_posix()


def _run(network: nn.Module, jobs: list[Job], memory_bytes: float | None, address: str, gpus: float) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with progress("enlarging", len(jobs), "pictures") as show:

        def tell(part: float) -> None:
            show(len(outcomes) + part, f"{jobs[len(outcomes)].source.rpartition('/')[2]} {part:.0%}")

        done: Iterator[Outcome]
        if address == "none":
            done = itertools.starmap(enlarge, ((network, job, memory_bytes, False, tell) for job in jobs))
        else:
            # Not before the environment is settled.
            from srcluster.cluster import tasks

            calls = [(job, memory_bytes, True) for job in jobs]
            done = tasks.starmap(enlarge, calls, address, shared=[network.cpu()], gpus=gpus)
        for outcome in done:
            outcomes.append(outcome)
            show(len(outcomes), outcome.job.source.rpartition("/")[2])
    return outcomes


if __name__ == "__main__":
    cli.run(upscale)
