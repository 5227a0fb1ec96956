"""`python -m srcluster.upscale IN... --out DIR --model MODEL`: enlarge pictures by a network."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from srcluster import cli, storage
from srcluster.cluster.choose import choose_cluster, starmap
from srcluster.data.listing import Photo, list_pictures, printable
from srcluster.data.pictures import endings
from srcluster.errors import UserError
from srcluster.models import shipped
from srcluster.models.export import EXPORT_HELP
from srcluster.models.export import export as write_export
from srcluster.models.find import ALLOW_IMPORT_HELP, MODEL_HELP, find_model
from srcluster.models.network import Network
from srcluster.models.tiling import SelfEnsemble
from srcluster.progress import progress
from srcluster.upscale.enlarge import Job, Outcome, enlarge


def upscale(
    pictures: Annotated[
        list[str] | None, typer.Argument(metavar="IN...", help="Pictures, folders or .zips of them, or s3:// URLs.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Folder or s3:// prefix that PNG files go to.")] = None,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help=f"{MODEL_HELP} Without it: the best network that comes with srcluster.")
    ] = "",
    scale: Annotated[
        int, typer.Option(help="Of interpolations, and of the network that is taken without --model.")
    ] = 4,
    self_ensemble: Annotated[
        bool, typer.Option("--self-ensemble", help="The mean over the eight symmetries: better, eight times slower.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make what is in DIR again.")] = False,
    memory_gb: Annotated[
        float, typer.Option(help="What the network may take, in 10^9 bytes; 0 for half of what is free.")
    ] = 0,
    address: cli.TasksAddress = "auto",
    gpus: Annotated[float, typer.Option(help="GPUs that each task on a cluster takes.")] = 0,
    export: Annotated[Path | None, typer.Option(metavar="FILE", help=EXPORT_HELP)] = None,
    allow_import: Annotated[list[str] | None, typer.Option(metavar="PACKAGE", help=ALLOW_IMPORT_HELP)] = None,
) -> None:
    """Enlarge pictures of any kind: RGB, grey, alpha, 16 bits, palette, CMYK, turned by EXIF.

    Colour profiles, EXIF, and a PNG's gAMA, cHRM, sRGB and cICP stay. What is in DIR already is left as it is. A
    picture that fails is listed at the end, and ends nothing else. One whose pixels take more than 10^9 bytes is
    refused as a decompression bomb, unless SRCLUSTER_PICTURE_GB says that it may.
    """
    if bool(pictures) != bool(out) or not (pictures or export):
        raise UserError("say what to enlarge and where to: python -m srcluster.upscale IN... --out DIR")
    address = choose_cluster(address)
    jobs = _jobs(pictures, out) if pictures and out else []
    due = jobs if overwrite else [job for job in jobs if not storage.exists(job.target)]
    if not model:
        model = f"{shipped.PREFIX}{shipped.best(scale)}"
        print(f"the network is {model}, the best that comes with srcluster; --model MODEL takes another")
    _, network, recipe = find_model(model, scale, allow_import or ())
    if self_ensemble:
        network, recipe = SelfEnsemble(network).eval(), None
    if export is not None:
        write_export(network, export, recipe)
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
    for outcome in outcomes:
        if outcome.notes:
            print(f"  {outcome.job.photo.name} is made without {', '.join(outcome.notes)}")
    for outcome in failed:
        print(f"  {outcome.error}")
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} pictures failed, as listed above; the others are made")


def _jobs(sources: Iterable[str], out: str) -> list[Job]:
    """What each picture becomes: the same name below `out`, with its folders."""
    out = _absolute(out)
    found = [(photo, _inside(photo.name)) for source in sources for photo in _photos(_absolute(source), out)]
    stems = Counter(name.with_suffix("") for _, name in found)
    # a.jpg beside a.png become a.jpg.png and a.png.png.
    jobs = [
        Job(photo, storage.join(out, f"{name if stems[name.with_suffix('')] > 1 else name.with_suffix('')}.png"))
        for photo, name in found
    ]
    targets = Counter(job.target for job in jobs)
    urls = {job.photo.url for job in jobs}
    for job in jobs:
        if targets[job.target] > 1:
            raise UserError(f"several pictures would become {job.target}: enlarge them to different folders")
        if job.target in urls:
            raise UserError(f"{job.target} would be overwritten, and it is a picture to enlarge: give another --out")
    return jobs


def _inside(name: str) -> PurePosixPath:
    """A picture's name as a path below another: keys in S3 may begin with a slash, or have parts that are empty."""
    path = PurePosixPath(name.lstrip("/"))
    if ".." in path.parts:
        raise UserError(f"{name} would be written outside of --out: give it a name without `..`")
    return path


def _photos(source: str, out: str) -> list[Photo]:
    """The pictures of a source."""
    is_zip = source.lower().endswith(".zip") and not storage.is_s3(source)
    if storage.exists(source) and not is_zip:
        return [Photo(printable(source.rpartition("/")[2]), source, "")]
    if not storage.is_s3(source) and not Path(source).exists():
        raise UserError(f"there is no picture or folder {source}: check its name")
    if storage.is_s3(source):
        storage.check(source)
    listing = list_pictures(source)
    if listing.note:
        print(f"{source}: {listing.note}")
    # DIR may be within the folder, from the last time.
    found = [photo for photo in listing if not (photo.url.startswith(f"{out}/") and out.startswith(f"{source}/"))]
    if not found:
        raise UserError(f"there are no pictures in {source}: looked for {', '.join(sorted(endings()))}")
    return found


def _absolute(url: str) -> str:
    """The path that processes in other folders understand, its links followed so that it can be compared."""
    return url.rstrip("/") if storage.is_s3(url) else Path(url).expanduser().resolve().as_posix()


def _run(network: Network, jobs: list[Job], memory_bytes: float | None, address: str, gpus: float) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with progress("enlarging", len(jobs), "pictures") as on_report:

        def on_progress(part: float) -> None:
            on_report(len(outcomes) + part, f"{jobs[len(outcomes)].photo.name} {part:.0%}")

        if address == "none":
            calls: list[tuple] = [(job, memory_bytes, False, on_progress) for job in jobs]
        else:
            network = network.cpu()
            calls = [(job, memory_bytes, True) for job in jobs]
        for outcome in starmap(enlarge, calls, address, shared=[network], gpus=gpus, on_death=_died):
            outcomes.append(outcome)
            on_report(len(outcomes), outcome.job.photo.name)
    return outcomes


def _died(job: Job, *_: object, reason: str) -> Outcome:
    return Outcome(
        job, error=f"{job.photo.name} ended the process that enlarged it, as too little memory does: {reason}"
    )


if __name__ == "__main__":
    cli.run(upscale)
