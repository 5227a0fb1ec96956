"""One run from its recipe to its result, whoever started it: data, training, storage and MLflow brought together."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from srcluster import models, storage, tracking
from srcluster.data import benchmarks
from srcluster.data.benchmarks import Benchmark, BenchmarkImage
from srcluster.data.figures import comparison_of, detail_of
from srcluster.data.stream import Stream
from srcluster.errors import UserError
from srcluster.models.saved import load_model, weights_bytes
from srcluster.models.tiling import restore
from srcluster.recipe import Interpolation, Recipe
from srcluster.tracking import Run
from srcluster.training.evaluation import evaluate
from srcluster.training.lease import Lease, LeaseError
from srcluster.training.loop import Fit, fit
from srcluster.training.measures import load_measures
from srcluster.training.ranks import Ranks
from srcluster.training.store import RunStore


@dataclass(frozen=True)
class _Reporter:
    """Sends rank 0's metrics and pictures to MLflow, its checkpoints to storage, and its metrics to `on_report`."""

    run: Run | None
    store: RunStore
    scale: int
    on_report: Callable[[int, dict[str, float]], None]
    preempted: Callable[[], bool]

    def report(self, step: int, metrics: dict[str, float]) -> None:
        assert self.run
        self.store.check()
        self.run.log(metrics, step)
        # A scheduler that has seen enough ends this process while it is told.
        self.run.flush()
        self.on_report(step, metrics)

    def picture(self, step: int, benchmark: str, image: BenchmarkImage, sr: np.ndarray) -> None:
        assert self.run
        self.run.image_at(detail_of(image, sr, f"step {step}", self.scale), f"{benchmark}/{image.name}/detail", step)

    def checkpoint(self, step: int, files: dict[str, bytes]) -> None:
        self.store.save(step, files)


def train_run(
    recipe: Recipe,
    run: Run | None,
    store: RunStore,
    on_report: Callable[[int, dict[str, float]], None],
    preempted: Callable[[], bool] = lambda: False,
    stop_at_step: int | None = None,
) -> dict[str, float]:
    """Run or continue a recipe, alone or as one of several ranks.

    Args:
        run: Its run in MLflow, on rank 0; None on the others.
        stop_at_step: See `fit`.

    Returns:
        The metrics of the best network, `best/psnr_y/Set5` and so on; those of `stop_at_step`, if it stopped there.

    Raises:
        UserError: It can't be trained or continued.
    """
    ranks = Ranks.present()
    stream = Stream(
        recipe.data,
        scale=recipe.scale,
        seed=recipe.seed,
        rank=ranks.rank,
        world=ranks.world,
        degradation=recipe.degradation,
    )
    measured = benchmarks.load_for(recipe)
    if run:
        _describe(run, recipe, stream, measured)
        # What was logged before a checkpoint is not logged again by who continues from it.
        store.before_upload = run.save
    try:
        reporter = _Reporter(run, store, recipe.scale, on_report, preempted)
        result = fit(recipe, stream.batches, measured, reporter, ranks, store.latest(), stream.metrics, stop_at_step)
    finally:
        store.close()
    if run and stop_at_step is None:
        _keep(run, recipe, measured, result, store)
    elif run:
        run.save()
        store.stop(result.metrics, stop_at_step)
    return result.metrics


def _describe(run: Run, recipe: Recipe, stream: Stream, measured: list[Benchmark]) -> None:
    run.text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), "recipe.yaml")
    run.dataset("shards", recipe.data.shards, stream.manifest.digest(), "train")
    for number, benchmark in enumerate(measured):
        context = "validation" if number == 0 and recipe.evaluation.validated else "test"
        run.dataset(benchmark.name, benchmark.source, benchmark.digest, context)


def _keep(run: Run, recipe: Recipe, measured: list[Benchmark], result: Fit, store: RunStore) -> None:
    for benchmark in measured:
        for image in benchmark.images[: recipe.evaluation.pictures]:
            sr = restore(result.network, image.lr)
            picture = comparison_of(image, {recipe.name: sr}, recipe.scale)
            run.image_at(picture, f"{benchmark.name}/{image.name}", recipe.steps)
    run.log(result.metrics, recipe.steps, replace=True)
    # Who finds the result logs nothing.
    run.save()
    store.finish(weights_bytes(result.network.state_dict(), recipe), result.metrics)


def publish(recipe: Recipe, run_id: str, store: RunStore, metrics: dict[str, float]) -> str:
    """Register a finished run's network as a version of the model of the recipe's name; returns `models:/name/3`.

    Raises:
        UserError: It can't be registered.
    """
    # Two that differ, neither square nor large: what is alike in the example might be taken for always alike.
    example = np.random.default_rng(0).random((2, 3, 24, 21), np.float32)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.safetensors")
            storage.download(storage.join(store.url, file.name), file)
            _, network = load_model(file, recipe.packages)
            return tracking.register(recipe.name, run_id, network, example, file, metrics, recipe.steps)
    except Exception as error:  # Not every network can be exported.
        raise UserError(f"the network is safe in {store.url}, but MLflow can't be given it ({error})") from error


@contextmanager
def driver_run(experiment: str, name: str, **options: Any) -> Iterator[Run]:
    """A driver's run in MLflow, with options of `Run.start`. Whoever lost the lease leaves it to the next driver."""
    tracking.end_abandoned(experiment)
    with Run.start(experiment, name, key=name, **options) as run:
        try:
            yield run
        except LeaseError:
            run.close(timeout_s=10)
            raise


def check_driver(lease: Lease, baseline: "Future[dict[str, float]]") -> None:
    """Make sure that a driver can go on: it holds its lease, and the baseline did not fail.

    Raises:
        UserError: One of the two.
    """
    lease.check()
    if baseline.done():
        baseline.result()


def log_baseline(
    experiment: str, measured: Sequence[Benchmark], recipe: Recipe, *, key: str = "bicubic", parent: str = ""
) -> dict[str, float]:
    """Measure bicubic on benchmarks as a recipe's network is, and log it as a run beside those of networks."""
    spec = Interpolation(kernel="bicubic")
    network, measures = models.build(spec, recipe.scale).eval(), load_measures(recipe.evaluation.measures)
    params = {"model": spec.model_dump()}
    with Run.start(experiment, "bicubic", key=key, parent=parent, params=params, timeout_s=0) as run:
        metrics: dict[str, float] = {}
        for benchmark in measured:
            run.dataset(benchmark.name, benchmark.source, benchmark.digest, "test")
            metrics |= evaluate(network, benchmark, recipe.scale, measures)
        run.log(metrics | {f"best/{key}": value for key, value in metrics.items()}, step=0, replace=True)
    return metrics
