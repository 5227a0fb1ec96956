"""`python -m srcluster.evaluate MODEL... --on Set5 Set14 BSD100`: measure networks, or any tool's pictures."""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

from srcluster import cli, storage
from srcluster.cluster.choose import choose_cluster
from srcluster.data import benchmarks
from srcluster.errors import UserError
from srcluster.evaluate.candidates import Candidate, candidate
from srcluster.evaluate.candidates import evaluate as run
from srcluster.evaluate.page import page
from srcluster.evaluate.report import (
    best_first,
    chosen_images,
    comparable,
    figure,
    log_to_mlflow,
    tables,
    to_csv,
    to_json,
)
from srcluster.models.find import ALLOW_IMPORT_HELP, MODEL_HELP
from srcluster.progress import print_table
from srcluster.recipe import MEASURES, Criterion, Measure, measure
from srcluster.training.measures import load_measures, lpips_at_hand


def evaluate(
    model: Annotated[
        list[str],
        typer.Argument(metavar="[LABEL=]MODEL...", help=f"{MODEL_HELP} Or a folder of upscaled pictures, to score."),
    ],
    on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SET...",
            help=f"{', '.join(benchmarks.NAMED)}, Wheel3, a folder or s3:// URL; default: all at hand.",
        ),
    ] = None,
    lr: Annotated[
        Literal["computed", "given"],
        typer.Option(help="LR that is made of the originals as MATLAB makes it, or the LR that the folders bring."),
    ] = "computed",
    scale: Annotated[int, typer.Option(help="Of interpolations and pictures, where no network says it.")] = 4,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...",
            help=f"{', '.join(MEASURES)} (these are the default), lpips, or import:package.module:function:higher "
            "(or :lower), which takes SR and HR as H x W x 3 uint8 and returns a number.",
        ),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="NAME[/SET]", help="The metric whose best model comes first.")
    ] = None,
    lpips: Annotated[
        str | None,
        typer.Option(metavar="WEIGHTS", help="Measure LPIPS by these weights of VGG16: `auto`, a file, or a URL."),
    ] = None,
    lpips_input: Annotated[
        Literal["torchvision", "caffe"] | None,
        typer.Option(help="What these weights want, if they are not torchvision's own file."),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write everything, image by image.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a line for each model and image.")] = None,
    mlflow: Annotated[str | None, typer.Option(metavar="EXPERIMENT", help="Log a run for each model.")] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a comparison: model | model | ... | original.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Write a page of results in Markdown, and its picture.")
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option(metavar="NAME...", help="Images of the comparison; default: three of each set.")
    ] = None,
    crop: Annotated[
        tuple[int, int, int, int] | None,
        typer.Option(
            metavar="LEFT TOP WIDTH HEIGHT",
            help="The detail that the comparison magnifies; default: where the models differ most.",
        ),
    ] = None,
    allow_import: Annotated[list[str] | None, typer.Option(metavar="PACKAGE", help=ALLOW_IMPORT_HELP)] = None,
    address: cli.TasksAddress = "auto",
    gpus: Annotated[float, typer.Option(help="GPUs that each task on a cluster takes.")] = 0,
) -> None:
    """Measure PSNR and SSIM on benchmarks, what it costs, and print it beside what was published."""
    address = choose_cluster(address)
    if mlflow is not None:
        # Hours of work are not to end at a server that was never there. Not before: mlflow takes seconds to import.
        from srcluster import tracking

        tracking.check()
    wanted = [_measure(words) for words in dict.fromkeys([*(metrics or MEASURES), *(["lpips"] if lpips else [])])]
    entries = [candidate(words, scale, allow_import or ()) for words in model]
    if not (metrics or lpips) and any(entry.perceptual for entry in entries):
        wanted += map(measure, lpips_at_hand())
    functions = load_measures(wanted, lpips or "auto", lpips_input or "auto")
    scale = _scale(entries, scale)
    if doubled := [label for label, count in Counter(entry.label for entry in entries).items() if count > 1]:
        raise UserError(f"{doubled[0]} is what several models are called: name them, LABEL=MODEL")
    sets = benchmarks.load_all(on or benchmarks.at_hand(), scale, lr)
    for one in sets:
        for note in one.notes:
            print(f"{one.name}: {note}")
    pictures = [path for path in (picture, report and report.with_suffix(".png")) if path is not None]
    images = chosen_images(sets, image or (), crop) if pictures else []
    by_name = dict(zip(functions, wanted, strict=True))
    criterion = _criterion(sort, by_name, [one.name for one in sets]) if sort else None
    results = [run(entry, sets, scale, address, gpus, functions) for entry in entries]
    if criterion:
        results = best_first(results, criterion)
    published = comparable(sets, scale)
    shown = [name for name in functions if metrics or name != "psnr_rgb"]
    by_protocol = list(tables(results, sets, published, shown))
    for title, rows, below in by_protocol:
        print(title)
        print_table(rows, below)
    if json is not None:
        storage.write(str(json), to_json(results, sets, published, scale).encode())
    if csv is not None:
        storage.write(str(csv), to_csv(results).encode())
    if pictures:
        comparison = figure(results, sets, images, scale, crop)
        for path in pictures:
            with storage.writing(str(path)) as file:
                comparison.save(file, "PNG")
    if report is not None:
        text = page(by_protocol, entries, sets, scale, sys.argv[1:], pictures[-1].name)
        storage.write(str(report), text.encode())
    if mlflow is not None:
        print(f"in MLflow: {log_to_mlflow(mlflow, results, sets)}")


def _measure(words: str) -> Measure:
    try:
        return measure(words)
    except ValueError as error:
        raise UserError(f"--metrics: {error}") from error


def _criterion(words: str, measures: dict[str, Measure], benchmarks: list[str]) -> Criterion:
    """What `psnr_y`, or `psnr_y/Set14`, sorts by; without a benchmark it is the first."""
    name, _, benchmark = words.partition("/")
    benchmark = benchmark or benchmarks[0]
    for exact, one in measures.items():
        if name in (exact, one.name) and benchmark in benchmarks:
            return Criterion(f"{exact}/{benchmark}", one.higher)
    raise UserError(
        f"--sort is one of {', '.join(measures)}, perhaps with /SET of {', '.join(benchmarks)}, not {words}"
    )


def _scale(entries: list[Candidate], asked: int) -> int:
    """The one scale of all networks."""
    scales = {entry.label: entry.network.scale for entry in entries if entry.network is not None}
    if len(set(scales.values())) > 1:
        said = ", ".join(f"{label} by {scale}" for label, scale in scales.items())
        raise UserError(f"these enlarge differently, {said}: evaluate them one by one, or give --scale")
    return next(iter(scales.values()), asked)


if __name__ == "__main__":
    cli.run(evaluate, several=("--on", "--image", "--metrics"))
