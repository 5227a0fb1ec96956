"""A sweep's driver: resolves the trials' recipes, hands the trials to Ray Tune, and reports what came of them."""

import functools
import logging
import math
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.execution import class_cache

from srcluster import storage, tracking
from srcluster.cli import end_as_ctrl_c
from srcluster.cluster.tasks import CPU_NODES, check_reachable, connect, warn_if_no_capacity
from srcluster.data import benchmarks
from srcluster.errors import UserError
from srcluster.recipe.yaml_files import read_file
from srcluster.sweep.plan import Sweep, Trial, ladder
from srcluster.sweep.queue import TrialFeed, TrialQueue
from srcluster.sweep.report import LiveTable, Outcome, conclude
from srcluster.sweep.results import latest
from srcluster.sweep.trial import run_trial
from srcluster.train.run import check_driver, driver_run, log_baseline
from srcluster.train.settings import resolve_recipe, results_url
from srcluster.training.lease import Lease

_RETRIES = 2
"""How often a trial whose process died is continued from its last checkpoint."""

_DRIVER = {"CPU": 0, "memory": 1 << 29, "node:__internal_head__": 0.001}
"""The resources of the driver of a trial of several workers: they take all the cores, and may lose their nodes."""


def run(file: Path, plan: Sweep, trials: list[Trial], address: str, *, resume: bool, once: bool) -> Outcome:
    """Run every trial; or `resume` the last sweep of these very trials, which `once` does only if there is one.

    Raises:
        UserError: A benchmark, the store, MLflow or the cluster is not as it must be; there is nothing to resume; or
            another driver took the sweep over.
    """
    check_reachable(address)
    sweeps_url = results_url("sweeps")
    trials = [replace(trial, recipe=resolve_recipe(trial.recipe)) for trial in trials]
    recipe = trials[0].recipe
    measured = benchmarks.load_for(recipe)
    name = _name(sweeps_url, plan, trials, resume, once)
    url = storage.join(sweeps_url, name)
    tags = {"srcluster.sweep": "true", **tracking.environment_tags()}
    end_as_ctrl_c()
    with Lease(url, functools.partial(print, flush=True)) as lease:
        # Tune's banner is shown whatever the verbosity; and it would ask a queue for one trial more than the cluster
        # holds, so that a cluster that grows would by one at a time.
        os.environ |= {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_MAX_PENDING_TRIALS_PG": str(len(trials))}
        # Tune would hand the keys of S3 to each trial's actor, and so to Ray's logs. The nodes have their own.
        class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in os.environ if name.startswith("AWS_")}
        connect(address)
        slots = _slots(plan, len(trials))
        with driver_run(plan.name, name, tags=tags, url=url) as parent:
            parent.text(read_file(file), file.name)
            print(f"{name}: {ladder(plan, trials)} on Ray at {address}")
            print(f"MLflow: {tracking.runs_page(parent.experiment_id)}", flush=True)
            criterion = recipe.evaluation.criterion(measured[0].name)
            queue = TrialQueue(plan, trials, criterion, url)
            if known := latest(queue.earlier):
                print(f"{len(known)} of {len(trials)} trials have run before", flush=True)
            with ThreadPoolExecutor(1) as meanwhile, tempfile.TemporaryDirectory(prefix="srcluster-") as scratch:
                bicubic = {"parent": parent.id, "key": f"{name}/bicubic"}
                baseline = meanwhile.submit(log_baseline, plan.name, measured, recipe, **bicubic)
                config = {"experiment": plan.name, "parent": parent.id, "holder": asdict(lease.holder)}
                check = functools.partial(check_driver, lease, baseline)
                _tuner(queue, config, slots, scratch, check).fit()
            folder = Path("results", name)
            outcome = conclude(len(trials), queue.results(), criterion, baseline.result(), parent, url, folder)
        ray.shutdown()
        return outcome


def _name(sweeps_url: str, plan: Sweep, trials: list[Trial], resume: bool, once: bool) -> str:
    """`NAME-DIGEST-N`, where N counts the sweeps of these same trials."""
    base, number = f"{plan.name}-{plan.digest(trials)}", 1
    while storage.exists(storage.join(sweeps_url, f"{base}-{number}", "trials.json")):
        number += 1
    if number > 1 and (resume or once):
        return f"{base}-{number - 1}"
    if resume:
        raise UserError("there is no sweep of these trials to resume: start it without --resume")
    name = f"{base}-{number}"
    recipes = ",\n".join(trial.recipe.model_dump_json() for trial in trials)
    storage.write(storage.join(sweeps_url, name, "trials.json"), f"[{recipes}]\n".encode())
    return name


def _tuner(
    queue: TrialQueue, config: dict[str, Any], slots: int | None, folder: str, check: Callable[[], None]
) -> tune.Tuner:
    # Nothing that Tune keeps is needed to continue: it would have to be unpickled. Tune's advice is to do so.
    logging.getLogger("ray.tune.tune").setLevel(logging.ERROR)
    resources = queue.plan.resources
    wanted = {"CPU": resources.cpu, "GPU": resources.gpu} if resources.workers == 1 else _DRIVER
    nodes = {} if wanted.get("GPU") or resources.workers > 1 else CPU_NODES
    workers = {
        "least": resources.workers,
        "most": resources.workers,
        "cpus": resources.cpu,
        "gpu": resources.gpu > 0,
        "retries": _RETRIES,
    }
    return tune.Tuner(
        tune.with_resources(run_trial, tune.PlacementGroupFactory([wanted], bundle_label_selector=[nodes])),
        param_space={"workers": workers, **config},
        tune_config=tune.TuneConfig(
            search_alg=queue,
            num_samples=-1,  # As many as the queue gives.
            max_concurrent_trials=slots,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=folder,
            callbacks=[LiveTable(queue), TrialFeed(queue, check)],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=_RETRIES),
        ),
    )


def _slots(plan: Sweep, trials: int) -> int | None:
    """Trials at once: as many as the cluster holds, since more would only wait; None where it may grow.

    A cluster whose head runs nothing has workers that come when there is something to run, and Tune's waiting trials
    are what they come for.
    """
    wanted = {"CPU": plan.resources.cpu, "GPU": plan.resources.gpu}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    workers = sum(
        min(math.floor(node.get(kind, 0) / amount) for kind, amount in wanted.items() if amount) for node in nodes
    )
    slots = workers // plan.resources.workers
    if not any("node:__internal_head__" in node and node.get("CPU") for node in nodes):
        if not slots:
            print(f"there is no room for a trial ({plan.resources}) yet: waiting for the cluster to grow", flush=True)
        return None
    if not slots:
        held = ray.cluster_resources()
        raise UserError(
            f"a trial takes {plan.resources}, and the cluster has {held.get('CPU', 0):g} CPU and "
            f"{held.get('GPU', 0):g} GPU: lower it with --workers, --cpus and --gpus"
        )
    warn_if_no_capacity({kind: amount * plan.resources.workers for kind, amount in wanted.items()})
    return min(slots, trials)
