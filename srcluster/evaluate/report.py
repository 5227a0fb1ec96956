"""The results of an evaluation: a table, JSON, CSV, MLflow, and a picture."""

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from PIL import Image

from srcluster.data.benchmarks import Benchmark
from srcluster.data.figures import comparison_of
from srcluster.evaluate.candidates import EvaluateError, Result
from srcluster.evaluate.published import PUBLISHED, Published
from srcluster.pixels.figures import grid
from srcluster.progress import Rows
from srcluster.training.evaluation import means

__all__ = ["comparable", "figure", "log_to_mlflow", "table", "to_csv", "to_json"]

_SHOWN = {"psnr_y": ("PSNR-Y", ".2f"), "ssim_y": ("SSIM-Y", ".4f"), "checkerboard_db": ("checkerboard", ".2f")}
"""Metrics of the table, beside LPIPS; the files have all."""


def comparable(benchmarks: Sequence[Benchmark], scale: int) -> list[Published]:
    """Published numbers on these benchmarks."""
    names = {benchmark.name for benchmark in benchmarks}
    return [row for row in PUBLISHED if scale == 4 and names & row.psnr_y.keys()]


def table(
    results: Sequence[Result], benchmarks: Sequence[Benchmark], published: Sequence[Published]
) -> tuple[Rows, Rows]:
    """Models by benchmarks, and what others published."""
    measured = results[0].scores[benchmarks[0].name][0].values
    lpips = [metric for metric in measured if metric.startswith("lpips")]
    shown = _SHOWN | {metric: (metric.replace("lpips_", "LPIPS\n").replace("_", " "), ".4f") for metric in lpips}
    titles = [f"{benchmark.name}\n{title}" for benchmark in benchmarks for title, _ in shown.values()]
    source = ["published in"] if published else []
    rows = [["model", *titles, "parameters", "s per\nMP of HR", "peak\nmemory, MB", *source]]
    for result in results:
        average = _means(result)
        cells = [format(average[f"{key}/{b.name}"], form) for b in benchmarks for key, (_, form) in shown.items()]
        parameters = "" if result.parameters is None else f"{result.parameters:,}"
        seconds = "" if result.seconds_per_megapixel is None else f"{result.seconds_per_megapixel:.3g}"
        peak = "" if result.peak_bytes is None else f"{result.peak_bytes / 1e6:.0f}"
        rows.append([result.label, *cells, parameters, seconds, peak, *[""] * len(source)])
    below = []
    for row in published:
        cells = []
        for benchmark in benchmarks:
            psnr_y = row.psnr_y.get(benchmark.name)
            cells += ["" if psnr_y is None else f"{psnr_y:.2f}", *[""] * (len(shown) - 1)]
        below.append([row.model, *cells, "", "", "", row.source])
    return rows, below


def to_json(
    results: Sequence[Result], benchmarks: Sequence[Benchmark], published: Sequence[Published], scale: int
) -> str:
    """All that is known, each image's values among it."""
    said: dict[str, Any] = {
        "scale": scale,
        "protocol": "psnr_y, ssim_y: BT.601 luma in studio range; psnr_rgb: RGB; the scale shaved, SR in 8 bits; "
        "lpips_...: RGB, nothing shaved",
        "benchmarks": {b.name: {"source": b.source, "digest": b.digest, "images": len(b.images)} for b in benchmarks},
        "models": [
            {
                "model": result.label,
                "parameters": result.parameters,
                "seconds_per_megapixel": result.seconds_per_megapixel,
                "peak_bytes": result.peak_bytes,
                "means": {key: _finite(value) for key, value in _means(result).items()},
                "images": [{key: _finite(value) for key, value in row.items()} for row in _rows(result)],
            }
            for result in results
        ],
        "published": [{"model": row.model, "psnr_y": row.psnr_y, "source": row.source} for row in published],
    }
    return json.dumps(said, indent=1, allow_nan=False) + "\n"


def to_csv(results: Sequence[Result]) -> str:
    """A line for each model and image."""
    rows = [{"model": result.label, **row} for result in results for row in _rows(result)]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def log_to_mlflow(experiment: str, results: Sequence[Result], benchmarks: Sequence[Benchmark]) -> str:
    """A run for each model, the next evaluation of the same name included; returns the page of the table."""
    # Not before it is needed: mlflow takes seconds to import.
    from srcluster import tracking

    for result in results:
        with tracking.Run.start(
            experiment,
            result.label,
            key=f"evaluate/{result.label}",
            params={"parameters": result.parameters},
            tags=tracking.environment_tags(),
        ) as run:
            for benchmark in benchmarks:
                run.dataset(benchmark.name, benchmark.source, benchmark.digest, "test")
            values = _means(result)
            if result.seconds_per_megapixel is not None and result.peak_bytes is not None:
                values |= {"seconds_per_megapixel": result.seconds_per_megapixel, "peak_bytes": result.peak_bytes}
            run.log(values, step=0, replace=True)
            run.text(to_csv([result]), "images.csv")
    return tracking.table_page(run.experiment_id, [f"psnr_y/{benchmark.name}" for benchmark in benchmarks], [])


def figure(results: Sequence[Result], benchmarks: Sequence[Benchmark], names: Sequence[str], scale: int) -> Image.Image:
    """Every model's version of some images beside the original, with PSNR and a detail.

    Args:
        results: Of the models, from left to right.
        benchmarks: Where the images are.
        names: Of the images; without any, the first three of each benchmark.
        scale: HR pixels per LR pixel.

    Raises:
        EvaluateError: There is no such image.
    """
    all_images = {image.name: (b.name, i) for b in reversed(benchmarks) for i, image in enumerate(b.images)}
    if unknown := [name for name in names if name not in all_images]:
        raise EvaluateError(f"no benchmark has an image {unknown[0]!r}; there are {', '.join(sorted(all_images))}")
    chosen = [all_images[n] for n in names] or [(b.name, i) for b in benchmarks for i in range(min(3, len(b.images)))]
    by_name = {benchmark.name: benchmark for benchmark in benchmarks}
    rows = []
    for benchmark, index in chosen:
        image = by_name[benchmark].images[index]
        restored = {result.label: result.scores[benchmark][index].sr for result in results}
        rows.append((f"{benchmark}: {image.name}", comparison_of(image, restored, scale, kernels=())))
    return grid(rows)


def _means(result: Result) -> dict[str, float]:
    return {key: value for name, scores in result.scores.items() for key, value in means(name, scores).items()}


def _rows(result: Result) -> list[dict[str, Any]]:
    return [
        {"benchmark": name, "image": score.image, **score.values}
        for name, scores in result.scores.items()
        for score in scores
    ]


def _finite(value: Any) -> Any:
    """JSON knows no infinity, which is the PSNR of equal images."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
