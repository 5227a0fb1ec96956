"""`python -m srcluster.evaluate MODEL... --on Set5 Set14 BSD100`: measure networks, or any tool's pictures."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

from srcluster import cli, storage
from srcluster.cluster.choose import choose_cluster
from srcluster.data import benchmarks
from srcluster.evaluate.candidates import Candidate, EvaluateError, candidate
from srcluster.evaluate.candidates import evaluate as run
from srcluster.evaluate.report import comparable, figure, log_to_mlflow, table, to_csv, to_json
from srcluster.models.find import MODEL_HELP
from srcluster.objectives.lpips import LPIPS
from srcluster.progress import print_table

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[
        list[str],
        typer.Argument(metavar="[LABEL=]MODEL...", help=f"{MODEL_HELP} Or a folder of upscaled pictures, to score."),
    ],
    on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SET...", help="Set5, Set14, BSD100, Wheel3, a folder or s3:// URL; default: all at hand."
        ),
    ] = None,
    scale: Annotated[int, typer.Option(help="Of interpolations and pictures, where no network says it.")] = 4,
    lpips: Annotated[
        str | None,
        typer.Option(metavar="WEIGHTS", help="Measure LPIPS too, by these weights of VGG16: `auto`, a file, or a URL."),
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
    image: Annotated[
        list[str] | None, typer.Option(metavar="NAME...", help="Images of the comparison; default: three of each set.")
    ] = None,
    address: cli.TasksAddress = "auto",
    gpus: Annotated[float, typer.Option(help="GPUs that each task on a cluster takes.")] = 0,
) -> None:
    """Measure PSNR and SSIM on benchmarks, what it costs, and print it beside what was published."""
    address = choose_cluster(address)
    if mlflow is not None:
        # Hours of work are not to end at a server that was never there. Not before: mlflow takes seconds to import.
        from srcluster import tracking

        tracking.check()
    distance = None if lpips is None else LPIPS(lpips, lpips_input or "auto")
    entries = [candidate(words, scale) for words in model]
    scale = _scale(entries, scale)
    if doubled := [label for label, count in Counter(entry.label for entry in entries).items() if count > 1]:
        raise EvaluateError(f"{doubled[0]} is what several models are called: name them, LABEL=MODEL")
    sets = benchmarks.load_all(on or benchmarks.at_hand(), scale)
    results = [run(entry, sets, scale, address, gpus, distance) for entry in entries]
    published = comparable(sets, scale)
    print_table(*table(results, sets, published))
    if json is not None:
        storage.write(str(json), to_json(results, sets, published, scale).encode())
    if csv is not None:
        storage.write(str(csv), to_csv(results).encode())
    if picture is not None:
        page = figure(results, sets, image or (), scale)
        with storage.writing(str(picture)) as file:
            page.save(file, "PNG")
    if mlflow is not None:
        print(f"in MLflow: {log_to_mlflow(mlflow, results, sets)}")


def _scale(entries: list[Candidate], asked: int) -> int:
    """The one scale of all networks."""
    scales = {entry.label: entry.network.scale for entry in entries if entry.network is not None}
    if len(set(scales.values())) > 1:
        said = ", ".join(f"{label} by {scale}" for label, scale in scales.items())
        raise EvaluateError(f"these enlarge differently, {said}: evaluate them one by one, or give --scale")
    return next(iter(scales.values()), asked)


if __name__ == "__main__":
    cli.run(evaluate, several=("--on", "--image"))
