"""The results of an evaluation: a table, JSON, CSV, MLflow, and a picture."""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from PIL import Image

from srcluster.data.benchmarks import Benchmark
from srcluster.data.figures import comparison_of
from srcluster.errors import UserError
from srcluster.evaluate.candidates import Result
from srcluster.evaluate.published import PUBLISHED, Published
from srcluster.pixels.figures import Box, grid
from srcluster.progress import Rows
from srcluster.recipe import Criterion, format_metric, measure, metric_title
from srcluster.training.evaluation import means

_PROTOCOLS = {
    "psnr_y": ("matlab", "MATLAB's protocol: luma rounded to 8 bits, grey files measured on their plane"),
    "psnr_y_basicsr": ("basicsr", "BasicSR's protocol: luma not rounded, grey read as RGB"),
}
"""By their PSNR: a table for each, since numbers of one don't compare with those of the other."""

_COUNTS = {"Set5": 5, "Set14": 14, "BSD100": 100, "Urban100": 100, "Manga109": 109}


def comparable(benchmarks: Sequence[Benchmark], scale: int) -> list[Published]:
    """Published numbers on these benchmarks, where all of their images are there."""
    names = {one.name for one in benchmarks if _COUNTS.get(one.name) == len(one.images)}
    return [row for row in PUBLISHED if row.scale == scale and names & row.psnr_y.keys()]


def best_first(results: Sequence[Result], criterion: Criterion) -> list[Result]:
    """The results in the order of a metric, such as `psnr_y/Set14`."""
    return sorted(results, key=lambda result: criterion.rank(_means(result)), reverse=True)


def tables(
    results: Sequence[Result], benchmarks: Sequence[Benchmark], published: Sequence[Published], shown: Sequence[str]
) -> Iterator[tuple[str, Rows, Rows]]:
    """For each protocol its title, the rows of our results, and those of published ones."""
    for psnr_y, (protocol, title) in _PROTOCOLS.items():
        names = [name for name in shown if name.endswith("_basicsr") == psnr_y.endswith("_basicsr")]
        metrics = [f"{name}/{benchmark.name}" for benchmark in benchmarks for name in names]
        if not metrics:
            continue
        rows = [
            ["model", *map(metric_title, metrics), "parameters", "s per MP of HR", "peak memory, MB", "published in"]
        ]
        for result in results:
            average = _means(result)
            cells = [format_metric(key, average[key]) for key in metrics]
            rows.append([result.label, *cells, *_costs(result), ""])
        below = []
        for row in published:
            if row.protocol == protocol and psnr_y in names:
                known = {f"{psnr_y}/{name}": f"{value:.2f}" for name, value in row.psnr_y.items()}
                below.append([row.model, *(known.get(key, "") for key in metrics), "", "", "", row.source])
        yield title, rows, below


def _costs(result: Result) -> tuple[str, str, str]:
    if result.parameters is None or result.seconds_per_megapixel is None or result.peak_bytes is None:
        return "", "", ""
    return f"{result.parameters:,}", f"{result.seconds_per_megapixel:.3g}", f"{result.peak_bytes / 1e6:.0f}"


def to_json(
    results: Sequence[Result], benchmarks: Sequence[Benchmark], published: Sequence[Published], scale: int
) -> str:
    """All results in JSON, image by image."""
    said: dict[str, Any] = {
        "scale": scale,
        "protocol": "psnr_y, ssim_y: BT.601 luma in studio range, rounded, of grey files their plane; psnr_y_basicsr, "
        "ssim_y_basicsr: luma not rounded, grey as RGB; psnr_rgb: RGB; the scale shaved, SR in 8 bits; "
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
        "published": [asdict(row) for row in published],
    }
    return json.dumps(said, indent=1, allow_nan=False) + "\n"


def to_csv(results: Sequence[Result]) -> str:
    """All results in CSV: a line for each model and image."""
    rows = [{"model": result.label, **row} for result in results for row in _rows(result)]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def log_to_mlflow(experiment: str, results: Sequence[Result], benchmarks: Sequence[Benchmark]) -> str:
    """Log a run for each model, which its next evaluation continues; returns the URL of the table."""
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


def chosen_images(benchmarks: Sequence[Benchmark], names: Sequence[str], crop: Box | None) -> list[tuple[str, int]]:
    """The images of a figure, each as a benchmark's name and a position: by their names, or three of each benchmark.

    Raises:
        UserError: There is no such image, or the crop is not inside one.
    """
    all_images = {image.name: (b.name, i) for b in reversed(benchmarks) for i, image in enumerate(b.images)}
    if unknown := [name for name in names if name not in all_images]:
        raise UserError(f"no benchmark has an image {unknown[0]!r}; there are {', '.join(sorted(all_images))}")
    chosen = [all_images[n] for n in names] or [(b.name, i) for b in benchmarks for i in range(min(3, len(b.images)))]
    if crop:
        (left, top, width, height), by_name = crop, {benchmark.name: benchmark for benchmark in benchmarks}
        for image in (by_name[name].images[i] for name, i in chosen):
            rows, columns = image.hr.shape[:2]
            if not (0 <= left < left + width <= columns and 0 <= top < top + height <= rows):
                raise UserError(f"--crop {crop} is not inside {image.name}, which has {columns} x {rows} pixels")
    return chosen


def figure(
    results: Sequence[Result],
    benchmarks: Sequence[Benchmark],
    chosen: Sequence[tuple[str, int]],
    scale: int,
    crop: Box | None = None,
) -> Image.Image:
    """Every model's version of some images beside the original, with PSNR, LPIPS where it was measured, and a detail.

    Args:
        results: Of the models, from left to right.
        chosen: The images, as `chosen_images` gives them.
        crop: The detail; by default it is where the models differ most.
    """
    by_name = {benchmark.name: benchmark for benchmark in benchmarks}
    rows = []
    for benchmark, index in chosen:
        image, restored = by_name[benchmark].images[index], {}
        for result in results:
            score = result.scores[benchmark][index]
            lpips = [name for name in score.values if name.startswith("lpips")]
            said = [f"{measure(name).title} {format_metric(name, score.values[name])} " for name in lpips]
            restored[" ".join([result.label, *said])] = score.sr
        rows.append((f"{benchmark}: {image.name}", comparison_of(image, restored, scale, kernels=(), box=crop)))
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
