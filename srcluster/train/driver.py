"""A training's driver: it checks all that can be checked, hands the recipe to Ray Train, and concludes."""

import functools
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray import train
from ray.exceptions import RayActorError
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from srcluster import storage, tracking
from srcluster.cli import end_as_ctrl_c
from srcluster.cluster.tasks import CPU_NODES, check_reachable, connect, warn_if_no_capacity
from srcluster.data import benchmarks
from srcluster.data.benchmarks import Benchmark
from srcluster.data.stream import Stream
from srcluster.errors import UserError
from srcluster.progress import markdown
from srcluster.recipe import Recipe
from srcluster.train.process_group import DeferredTorchConfig
from srcluster.train.report import OnReport, display, followed, print_result, result_rows
from srcluster.train.report_queue import ReportQueue
from srcluster.train.run import check_driver, driver_run, log_baseline, publish
from srcluster.train.settings import resolve_recipe, results_url
from srcluster.train.worker import work
from srcluster.training.lease import Lease
from srcluster.training.store import RunStore

EXPERIMENT = "train"
"""Of all trainings in MLflow, so that networks stand side by side."""

_RESIZE_S = float(os.environ.get("SRCLUSTER_RESIZE_S", "30"))
"""Seconds between two looks whether there is room for more workers. To take them in costs the steps since the last
checkpoint."""

_WORKER_START_TIMEOUT_S = "10"
"""How long workers whose number may be another wait for the room that Ray Train saw: up to 20 seconds after a host was
lost, it still counts it."""


@dataclass(frozen=True)
class Workers:
    """How many workers train, what each has, and how often they begin again after one of them died.

    Attributes:
        most: As many as there is room for, up to this.
        cpus: Cores of each; 0 for an equal share of the cluster's.
    """

    least: int
    most: int
    cpus: int
    gpu: bool
    retries: int

    def resources(self, recipe: Recipe) -> dict[str, int]:
        """What each takes of the cluster."""
        if self.gpu:
            return {"CPU": self.cpus or 1 + recipe.data.workers, "GPU": 1}
        return {"CPU": self.cpus or max(1, int(ray.cluster_resources().get("CPU", 0)) // self.most)}


def run(recipe: Recipe, name: str, workers: Workers, address: str, extend: int = 0) -> bool:
    """Train a recipe, continue it, or say that it is finished; returns False where it was interrupted.

    Args:
        extend: Steps in all that a finished run goes on to; 0 for those of the recipe.

    Raises:
        UserError: It can't be begun, continued or finished.
    """
    check_reachable(address)
    runs_url = results_url("runs")
    recipe = resolve_recipe(recipe)
    name = name or f"{recipe.name}-{recipe.digest()[:8]}"
    if extend:
        recipe = recipe.model_copy(update={"steps": extend})
    url = storage.join(runs_url, name)
    measured = [] if RunStore(url).result() and not extend else _check(recipe, workers)
    RunStore(url).claim(recipe, bool(extend))
    end_as_ctrl_c()
    with Lease(url, functools.partial(print, flush=True)) as lease:
        store = RunStore(url, recipe.checkpoint.keep, lease.holder)
        if extend and (begun := store.claim(recipe, extend=True)).steps < extend:
            # MLflow changes no parameter: what comes now is a run of its own there.
            tracking.send_unsent(url)
            tracking.free_key(EXPERIMENT, name, f"{name}, {begun.steps} steps")
            store.extend(begun, recipe)
        if result := store.result():
            print(f"{name} is finished; to train it again, give it another --name or seed")
            bicubic = {}
            try:
                measured = benchmarks.load_for(recipe)
                bicubic = log_baseline(EXPERIMENT, measured, recipe)
            except UserError as error:
                print(f"bicubic is not measured again: {error}")
            # Its driver may have died, or MLflow may have refused the network.
            params = recipe.model_dump(mode="json")
            with driver_run(EXPERIMENT, name, params=params, url=store.url) as run:
                _conclude(recipe, name, store, run, result, bicubic)
            return True
        return _train(recipe, measured, name, workers, address, store, lease)


def _train(
    recipe: Recipe, measured: list[Benchmark], name: str, workers: Workers, address: str, store: RunStore, lease: Lease
) -> bool:
    params, tags = recipe.model_dump(mode="json"), tracking.environment_tags()
    os.environ |= {"RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}
    if workers.least < workers.most:
        os.environ |= {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": _WORKER_START_TIMEOUT_S}
    connect(address)
    with driver_run(EXPERIMENT, name, params=params, tags=tags, url=store.url) as run:
        print(f"{name}: {recipe.steps} steps on Ray at {address}")
        print(f"MLflow: {tracking.runs_page(run.experiment_id)}", flush=True)
        warn_if_no_capacity({kind: amount * workers.least for kind, amount in workers.resources(recipe).items()})
        with ThreadPoolExecutor(1) as meanwhile:
            baseline = meanwhile.submit(log_baseline, EXPERIMENT, measured, recipe)
            try:
                with display(recipe.steps) as on_report:
                    check = functools.partial(check_driver, lease, baseline)
                    outcome = fit(recipe, store, workers, run.spec, on_report, check)
                # The workers may know before the driver that it lost the lease.
                lease.holder.check()
            except KeyboardInterrupt:
                # First: to leave Ray while Ray Train waits in its thread may end this process at once.
                run.end("KILLED", timeout_s=10)
                return False
        ray.shutdown()
        if error := outcome.get("error"):
            run.fail(error)
            raise UserError(error)
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
    """Print the result of a training, and publish it in MLflow.

    Raises:
        UserError: The network can't be published in MLflow.
    """
    print_result(name, recipe, metrics, store, bicubic)
    run.log(metrics, recipe.steps, replace=True)
    criterion = recipe.evaluation.criterion(followed(metrics))
    choice = recipe.evaluation.choice(followed(metrics))
    run.note(f"{markdown(result_rows('best', recipe, metrics, bicubic))}\n\nThe result is {choice}.")
    # MLflow orders them by name: with more of them PSNR would stand out of sight.
    others = [key for key in metrics if key.startswith("best/psnr_y/")]
    columns = list(dict.fromkeys([f"best/{criterion.metric}", *others]))
    params = ["model.kind", "objective.kind", "steps"]
    try:
        # Only metrics of data sets that MLflow knows are kept with the network.
        run.save()
        model = publish(recipe, run.id, store, metrics)
        page = tracking.table_page(run.experiment_id, columns, params, ascending=not criterion.higher)
    except UserError as error:
        run.end()
        raise UserError(f"{name} is trained, and the same command publishes it: {error}") from error
    print(f"in MLflow: {model}, beside others: {page}")


def _check(recipe: Recipe, workers: Workers) -> list[Benchmark]:
    """Validate the shards for both worker counts, and load the benchmarks."""
    for world in {workers.least, workers.most}:
        Stream(recipe.data, scale=recipe.scale, seed=recipe.seed, world=world, degradation=recipe.degradation)
    return benchmarks.load_for(recipe)


def fit(
    recipe: Recipe,
    store: RunStore,
    workers: Workers,
    run: tracking.RunSpec,
    on_report: OnReport,
    check: Callable[[], None] = lambda: None,
    stop_at_step: int | None = None,
) -> dict[str, Any]:
    """Run or continue a recipe under Ray Train.

    Args:
        check: Called every second; what it raises ends the training.
        stop_at_step: See `train_run`.

    Returns:
        The `metrics`, as of `train_run`, or the `error`.
    """
    # On another node it might be lost with it; a new one of the same name takes the place of one that died.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)(ReportQueue)
    queue = actor.remote()
    resources = workers.resources(recipe)
    config = {
        "recipe": recipe.model_dump(mode="json"),
        "url": store.url,
        "holder": store.holder,
        "run": asdict(run),
        "stop_at_step": stop_at_step,
        "threads": resources["CPU"],
        "queue": queue,
    }
    scaling = train.ScalingConfig(
        num_workers=workers.least if workers.least == workers.most else (workers.least, workers.most),
        use_gpu=workers.gpu,
        resources_per_worker=resources,
        label_selector=None if workers.gpu else CPU_NODES,
        elastic_resize_monitor_interval_s=_RESIZE_S,
    )

    def trainer() -> TorchTrainer:
        return TorchTrainer(
            work,
            train_loop_config=config,
            torch_config=DeferredTorchConfig(),
            scaling_config=scaling,
            run_config=train.RunConfig(
                name="train",
                # Ray Train writes an empty file there and no more, since it is given no checkpoint.
                storage_path=f"{tempfile.gettempdir()}/srcluster-ray-{os.getuid()}",
                failure_config=train.FailureConfig(max_failures=workers.retries),
                logging_config=train.LoggingConfig(log_level="ERROR"),
            ),
        )

    outcome: dict[str, Any] = {}
    over = threading.Event()

    def train_all() -> None:
        for _ in range(workers.retries + 1):
            try:
                outcome.update(trainer().fit().return_value)
                return
            except RayActorError:
                if over.is_set():
                    return
                queue.put.remote("warning: Ray Train's controller died: the workers begin again", 0, {})
            except train.TrainingFailedError as error:
                outcome["error"] = _cause(error)
                return
            except Exception as error:
                outcome["defect"] = error
                return
        outcome["error"] = "Ray Train's controller died again and again: see Ray's logs"

    # In a thread, since Ray Train takes Ctrl-C for itself where it can.
    thread = threading.Thread(target=train_all, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(1)
            check()
            for report in ray.get(queue.take.remote()):
                on_report(*report)
    finally:
        over.set()
    if "defect" in outcome:
        raise outcome["defect"]
    return outcome


def _cause(error: train.TrainingFailedError) -> str:
    """The last words of a training that was retried as often as it may be."""
    failures = [failure for _, failure in sorted(getattr(error, "worker_failures", {}).items())]
    last = str(failures[0] if failures else error).strip().splitlines()[-1]
    return f"the workers failed again and again, at last with: {last}"
