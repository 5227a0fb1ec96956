"""The example of a network and a loss of one's own, as a person runs it."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from srcluster.data.pipeline import check_steps
from srcluster.errors import UserError
from srcluster.models.find import find_model
from srcluster.recipe.pipeline import Pipeline

EXAMPLE = Path(__file__).parents[2] / "sweeps" / "own_network"


def test_the_example_runs_dry(typed, monkeypatch):
    monkeypatch.chdir(EXAMPLE.parents[1])
    status, printed = typed("sweep", "sweeps/own_network/sweep.yaml", "--dry-run")
    assert status == 0
    assert "width=32 weight=1" in printed


def test_its_degradation_is_one(monkeypatch):
    monkeypatch.chdir(EXAMPLE.parents[1])
    (line,) = re.findall(r"# (degradation: .*)", (EXAMPLE / "sweep.yaml").read_text())
    check_steps(Pipeline.model_validate(yaml.safe_load(line)["degradation"]).steps)


@pytest.mark.cluster
def test_the_example_is_trained_and_evaluated(shell, monkeypatch):
    shutil.copytree(EXAMPLE, shell.home / "sweeps" / "own_network")
    example = yaml.safe_load((EXAMPLE / "sweep.yaml").read_text())
    model = example["overrides"]["model"] | {"args": {"depth": 1}}
    objective = example["overrides"]["objective"]
    parameters = {"model.args.width": {"grid": [2]}, "objective.args.weight": {"grid": [1]}}
    file = shell.write_sweep("own.yaml", overrides={"model": model, "objective": objective}, parameters=parameters)
    printed = shell.finish(process := shell.start("srcluster.sweep", file))
    assert process.returncode == 0
    assert "no comparison is drawn" not in printed
    (network,) = re.findall(r"(s3://\S+/model\.safetensors)", printed)
    monkeypatch.syspath_prepend(str(shell.home))
    with pytest.raises(UserError, match="--allow-import sweeps"):
        find_model(network)
    assert find_model(network, allow_import=["sweeps"]).network.reach == 2
