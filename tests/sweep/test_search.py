"""The search of a sweep: what TPE suggests, and a real sweep that goes on with what it had learned."""

import math
import re
from collections.abc import Callable
from statistics import fmean

import pytest

from srcluster import tracking
from srcluster.errors import UserError
from srcluster.recipe import Criterion
from srcluster.sweep import __main__ as sweep_command
from srcluster.sweep import plan as sweep_plan
from srcluster.sweep.plan import Sweep, Trial
from srcluster.sweep.results import JobResult

RATES = [1e-6, 1e-1]
OPTIMIZERS = [{"kind": "adam"}, {"kind": "sgd"}, {"kind": "sgd", "momentum": 0.0}]


def plan(**content) -> Sweep:
    parameters = {"optimizer": {"choice": OPTIMIZERS}, "optimizer.lr": {"loguniform": RATES}}
    recipe = {"recipe": "srcnn", "overrides": {"data.shards": "none", "evaluation.benchmarks": ["Wheel3"]}}
    searched = {"samples": 24, "search": {"kind": "tpe", "startup": 8}}
    return Sweep.model_validate({"name": "searched", **recipe, "parameters": parameters, **searched, **content})


def score(values: dict) -> float:
    """Highest for SGD with momentum at 1e-3."""
    return -abs(math.log10(values["optimizer.lr"]) + 3) - [2, 0, 1][OPTIMIZERS.index(values["optimizer"])]


def finished(trial: Trial) -> JobResult:
    return JobResult(trial, None, "finished", {"best/psnr": score(trial.values)}, "")


def stopped(trial: Trial) -> JobResult:
    return JobResult(trial, 20, "stopped", {"step": 20, "psnr": score(trial.values)}, "")


def diverged(trial: Trial) -> JobResult:
    """Above a rate of 1e-3; below it all are alike."""
    if trial.values["optimizer.lr"] > 1e-3:
        return JobResult(trial, None, "failed", {}, "the loss was not finite")
    return JobResult(trial, None, "finished", {"best/psnr": 0.0}, "")


def searched(sweep: Sweep, end: Callable[[Trial], JobResult]) -> list[Trial]:
    """The trials, one at a time."""
    suggest = search_module().suggest
    ended = []
    for trial in sweep.trials():
        if trial.index >= sweep.search.startup:
            trial = sweep.trial(trial.index, suggest(sweep, ended, Criterion("psnr")))
        ended.append(end(trial))
    return [one.trial for one in ended]


def search_module():
    pytest.importorskip("optuna", reason="the extra srcluster[tpe] is not installed")
    from srcluster.sweep import search

    return search


@pytest.mark.parametrize("end", [finished, stopped])
def test_it_finds_the_neighbourhood_of_the_optimum(end):
    gained = []
    for seed in range(3):
        random = [score(trial.values) for trial in plan(seed=seed).trials()]
        found = [score(trial.values) for trial in searched(plan(seed=seed), end)]
        assert found[:8] == random[:8]
        assert max(found) > -0.2
        gained += [better - drawn for better, drawn in zip(found[16:], random[16:], strict=True)]
    assert fmean(gained) > 0.5


def test_what_fails_is_avoided():
    failed = [diverged(trial).state == "failed" for seed in range(3) for trial in searched(plan(seed=seed), diverged)]
    assert sum(failed) < len(failed) / 3


def test_it_is_determined_by_what_is_known():
    suggest = search_module().suggest
    assert searched(plan(), finished) == searched(plan(), finished)
    trials = plan().trials()[:9]
    earlier = [*map(finished, trials[:8]), JobResult(trials[8], None, "running", {})]
    ends = [
        earlier[8],
        JobResult(trials[8], None, "finished", {"best/psnr": 1.0}, ""),
        JobResult(trials[8], None, "failed", {}, ""),
    ]
    suggested = [suggest(plan(), [*earlier[:8], end], Criterion("psnr")) for end in ends]
    assert suggested[0] == suggest(plan(), earlier, Criterion("psnr"))
    assert suggested[0] != suggested[1] != suggested[2]
    assert suggested[0] != suggest(plan(seed=1), earlier, Criterion("psnr"))
    assert suggest(plan(), [], Criterion("psnr")).keys() == plan().parameters.keys()


def test_another_search_is_another_sweep():
    sweeps = [plan(), plan(search={"kind": "tpe", "startup": 7}), plan(search=None), plan(seed=1)]
    assert len({sweep.digest(plan().trials()) for sweep in sweeps}) == 4


def test_it_needs_its_package(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(plan().model_dump_json(exclude_defaults=True))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("srcluster.local.up", lambda: pytest.fail("a cluster was started"))
    with pytest.raises(UserError, match=r"needs Optuna: pip install 'srcluster\[tpe\]'"):
        sweep_command.sweep(tmp_path / "mine.yaml")


def test_a_dry_run_says_what_is_known(capsys):
    sweep_plan.print_plan(plan(), plan().trials())
    *table, last = capsys.readouterr().out.splitlines()
    assert len(table) == 4 + 8
    assert last == "and 16 that TPE chooses by what the earlier ones came to"


@pytest.mark.cluster
def test_a_killed_search_goes_on(shell):
    search_module()
    file = shell.write_sweep(
        "learning.yaml",
        parameters={"optimizer.lr": {"loguniform": [1e-6, 1e-1]}},
        samples=5,
        search={"kind": "tpe", "startup": 2},
    )
    process = shell.start("srcluster.sweep", file)
    shell.wait_for(lambda: sum("best/step" in run.metrics for run in trials()) >= 3, process)
    before = trials()
    process.kill()
    process.wait()

    printed = shell.finish(process := shell.start("srcluster.sweep", file, "--resume"))
    assert process.returncode == 0
    assert "optuna" not in printed.lower()
    after = {run.key: run for run in trials()}
    assert sorted(int(key.rpartition("/")[2]) for key in after) == list(range(5))
    assert {run.status for run in after.values()} == {"FINISHED"}
    for run in before:
        assert after[run.key].params == run.params
        if "best/step" in run.metrics:
            assert after[run.key].metrics == run.metrics
    assert len(re.findall(r"\blr=\S+ .*finished", printed)) == 5


def trials() -> list[tracking.RunInfo]:
    """Those that have begun."""
    from mlflow import MlflowClient

    found = MlflowClient().get_experiment_by_name("learning")
    sweeps = MlflowClient().search_runs([found.experiment_id], "tags.`srcluster.sweep` = 'true'") if found else []
    return [run for one in sweeps for run in tracking.children(one.info.run_id) if run.name != "bicubic"]
