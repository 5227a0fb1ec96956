"""A training's driver: checks all that can be checked, hands the recipe to Ray Train, and concludes."""

import functools
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray import train
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from srcluster import storage, tracking
from srcluster.cluster.tasks import CPU_NODES, check_reachable, connect, warn_if_no_capacity
from srcluster.data import benchmarks
from srcluster.data.benchmarks import Benchmark
from srcluster.data.stream import open_stream
from srcluster.errors import UserError
from srcluster.progress import Rows, markdown, print_table
from srcluster.recipe import Recipe, format_metric, metric_title
from srcluster.train.process_group import DeferredTorchConfig
from srcluster.train.run import log_baseline, publish
from srcluster.train.settings import resolve_recipe, results_url
from srcluster.train.worker import Mailbox, work
from srcluster.training.lease import Lease, LeaseError
from srcluster.training.store import RunStore

__all__ = ["EXPERIMENT", "Fleet", "TrainError", "fit", "run"]

EXPERIMENT = "train"
"""Of all trainings in MLflow, so that networks stand side by side."""


_RESIZE_S = 30.0
"""Seconds between two looks whether there is room for more workers. To take them in costs the steps since the last
checkpoint."""


_WORKER_START_TIMEOUT_S = "10"
"""How long workers whose number may be another wait for the room that Ray Train saw: up to 20 seconds after a host was
lost, it still counts it."""


class TrainError(UserError):
    """A training that can't be finished."""


@dataclass(frozen=True)
class Fleet:
    """The workers of a training: from `fewest` to `most`, of so many cores (0: an equal share), with a GPU or none."""

    fewest: int
    most: int
    cpus: int
    gpu: bool
    retries: int


def run(recipe: Recipe, name: str, fleet: Fleet, address: str) -> bool:
    """Train a recipe, continue it, or say that it is finished.

    Args:
        recipe: What to train.
        name: Of the run; by default it is made of the recipe's name and digest.
        fleet: Who trains it.
        address: Of the Ray cluster.

    Returns:
        Whether it came to its end: not, where it was interrupted.

    Raises:
        UserError: It can't be begun, continued or finished.
    """
    # A pod that is deleted, or `ray job stop`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    check_reachable(address)
    home = results_url("runs")
    recipe = resolve_recipe(recipe)
    name = name or f"{recipe.name}-{recipe.digest()[:8]}"
    store = RunStore(storage.join(home, name), recipe.checkpoint.keep)
    measured = [] if store.result() else _check(recipe, fleet)
    store.claim(recipe)
    with Lease(store.url, functools.partial(print, flush=True)) as lease:
        if result := store.result():
            print(f"{name} is finished; to train it again, give it another --name or seed")
            bicubic = {}
            try:
                measured = benchmarks.load_all(recipe.evaluation.benchmarks, recipe.scale)
                bicubic = log_baseline(EXPERIMENT, measured, recipe)
            except UserError as error:
                print(f"bicubic is not measured again: {error}")
            # Its driver may have died, or MLflow may have refused the network.
            params = recipe.model_dump(mode="json")
            with tracking.Run.start(EXPERIMENT, name, key=name, params=params, url=store.url) as run:
                _conclude(recipe, name, store, run, result, bicubic)
            return True
        return _train(recipe, measured, name, fleet, address, store, lease)


def _train(
    recipe: Recipe, measured: list[Benchmark], name: str, fleet: Fleet, address: str, store: RunStore, lease: Lease
) -> bool:
    environment = tracking.environment_tags()
    os.environ |= {"RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}
    if fleet.fewest < fleet.most:
        os.environ |= {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": _WORKER_START_TIMEOUT_S}
    connect(address)
    params = recipe.model_dump(mode="json")
    tracking.end_abandoned(EXPERIMENT)
    with tracking.Run.start(EXPERIMENT, name, key=name, params=params, tags=environment, url=store.url) as run:
        print(f"{name}: {recipe.steps} steps on Ray at {address}")
        print(f"MLflow: {tracking.runs_page(run.experiment_id)}", flush=True)
        warn_if_no_capacity({kind: amount * fleet.fewest for kind, amount in _resources(recipe, fleet).items()})
        with ThreadPoolExecutor(1) as meanwhile:
            baseline = meanwhile.submit(log_baseline, EXPERIMENT, measured, recipe)

            def check() -> None:
                lease.check()
                if baseline.done():
                    baseline.result()

            try:
                outcome = fit(recipe, store, fleet, run.spec, _print_line, check)
            except KeyboardInterrupt:
                run.end("KILLED")
                return False
            except LeaseError:
                # The run in MLflow is the other's as well.
                run.close(timeout_s=10)
                raise
        # Not in the cases above: a training that still runs would end this process in the middle of them.
        ray.shutdown()
        if error := outcome.get("error"):
            run.fail(error)
            raise TrainError(error)
        _conclude(recipe, name, store, run, outcome["metrics"], baseline.result())
    return True


def _conclude(
    recipe: Recipe,
    name: str,
    store: RunStore,
    run: tracking.Run,
    metrics: dict[str, float],
    bicubic: dict[str, float],
) -> None:
    """Say on the terminal and in MLflow what came of a training.

    Raises:
        UserError: The network can't be published in MLflow.
    """
    _print_result(name, recipe, metrics, store, bicubic)
    run.log(metrics, recipe.steps, replace=True)
    choice = f"The result is {recipe.evaluation.choice(_followed(metrics))}."
    run.note(f"{markdown(_rows('best', recipe, metrics, bicubic))}\n\n{choice}")
    criterion = recipe.evaluation.criterion(_followed(metrics))
    others = [key for key in metrics if key.startswith(("best/psnr_y/", "best/checkerboard_db/"))]
    columns = list(dict.fromkeys([f"best/{criterion.metric}", *others]))
    params = ["model.kind", "objective.kind", "steps"]
    try:
        # Only metrics of data sets that MLflow knows are kept with the network.
        run.save()
        model = publish(recipe, run.id, store, metrics)
        page = tracking.table_page(run.experiment_id, columns, params, ascending=not criterion.higher)
    except UserError as error:
        run.end()
        raise TrainError(f"{name} is trained, and the same command publishes it: {error}") from error
    print(f"in MLflow: {model}, beside others: {page}")


def _check(recipe: Recipe, fleet: Fleet) -> list[Benchmark]:
    """What can be known to fail is not to fail when GPUs are taken; the benchmarks."""
    for world in {fleet.fewest, fleet.most}:
        open_stream(recipe.data, scale=recipe.scale, seed=recipe.seed, world=world)
    return benchmarks.load_all(recipe.evaluation.benchmarks, recipe.scale)


def _print_line(line: str, step: int, metrics: dict[str, float]) -> None:
    print(line, flush=True)


def fit(
    recipe: Recipe,
    store: RunStore,
    fleet: Fleet,
    run: tracking.RunSpec,
    tell: Callable[[str, int, dict[str, float]], None],
    check: Callable[[], None] = lambda: None,
    stop_at_step: int | None = None,
) -> dict[str, Any]:
    """Run or continue a recipe under Ray Train.

    Args:
        recipe: What to train.
        store: Where the run's files are.
        fleet: Who trains it.
        run: Its run in MLflow, which this process has begun.
        tell: Is told the workers' lines as they come, and of lines that tell scores, these and their step.
        check: Called every second; what it raises ends the training.
        stop_at_step: See `train_run`.

    Returns:
        The `metrics`, as of `train_run`, or the `error`.
    """
    # On another node it might be lost with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = Mailbox.options(scheduling_strategy=here).remote()
    resources = _resources(recipe, fleet)
    trainer = TorchTrainer(
        work,
        train_loop_config={
            "recipe": recipe.model_dump(mode="json"),
            "store": store.url,
            "run": asdict(run),
            "stop_at_step": stop_at_step,
            "threads": resources["CPU"],
            "mailbox": mailbox,
        },
        torch_config=DeferredTorchConfig(),
        scaling_config=train.ScalingConfig(
            num_workers=fleet.fewest if fleet.fewest == fleet.most else (fleet.fewest, fleet.most),
            use_gpu=fleet.gpu,
            resources_per_worker=resources,
            label_selector=None if fleet.gpu else CPU_NODES,
            elastic_resize_monitor_interval_s=_RESIZE_S,
        ),
        run_config=train.RunConfig(
            name=store.url.rpartition("/")[2],
            storage_path=store.url.rpartition("/")[0],
            failure_config=train.FailureConfig(max_failures=fleet.retries),
            logging_config=train.LoggingConfig(log_level="ERROR"),
        ),
    )
    outcome: dict[str, Any] = {}

    def wait() -> None:
        try:
            outcome.update(trainer.fit().return_value)
        except train.TrainingFailedError as error:
            outcome["error"] = _cause(error)
        except Exception as error:
            outcome["defect"] = error

    # In a thread, since Ray Train takes Ctrl-C for itself where it can.
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(1)
        check()
        for line, step, metrics in ray.get(mailbox.take.remote()):
            tell(line, step, metrics)
    if "defect" in outcome:
        raise outcome["defect"]
    return outcome


def _resources(recipe: Recipe, fleet: Fleet) -> dict[str, int]:
    """What each worker takes of the cluster."""
    if fleet.gpu:
        return {"CPU": fleet.cpus or 1 + recipe.data.workers, "GPU": 1}
    return {"CPU": fleet.cpus or max(1, int(ray.cluster_resources().get("CPU", 0)) // fleet.most)}


def _cause(error: train.TrainingFailedError) -> str:
    """The last words of a training that was retried as often as it may be."""
    failures = [failure for _, failure in sorted(getattr(error, "worker_failures", {}).items())]
    last = str(failures[0] if failures else error).strip().splitlines()[-1]
    return f"the workers failed again and again, at last with: {last}"


def _print_result(
    name: str, recipe: Recipe, metrics: dict[str, float], store: RunStore, bicubic: dict[str, float]
) -> None:
    print_table(_rows(name, recipe, metrics, bicubic))
    print(f"{name} is {recipe.evaluation.choice(_followed(metrics))}")
    print(f"the network: {storage.join(store.url, 'model.safetensors')}", flush=True)


def _followed(metrics: dict[str, float]) -> str:
    """The pictures that a finished training was followed on: they were measured first."""
    return next(key.split("/", 2)[2] for key in metrics if key.count("/") > 1)


def _rows(name: str, recipe: Recipe, metrics: dict[str, float], bicubic: dict[str, float]) -> Rows:
    """The criterion and PSNR on each benchmark, beside bicubic."""
    criterion = recipe.evaluation.criterion(_followed(metrics)).metric
    scores = [key.removeprefix("best/") for key in metrics if key.startswith("best/psnr_y/")]
    scores = list(dict.fromkeys([criterion, *scores]))
    rows = [["", *map(metric_title, scores)]]
    rows.append([name, *(format_metric(score, metrics[f"best/{score}"]) for score in scores)])
    if bicubic:
        rows.append(["bicubic", *(format_metric(score, bicubic[score]) for score in scores)])
    return rows
