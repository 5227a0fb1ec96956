"""The example of a network and a loss of one's own, as a person runs it."""

import shutil
from pathlib import Path

import pytest
import yaml

EXAMPLE = Path(__file__).parents[2] / "sweeps" / "own_network"


def test_the_example_runs_dry(typed, monkeypatch):
    monkeypatch.chdir(EXAMPLE.parents[1])
    status, printed = typed("sweep", "sweeps/own_network/sweep.yaml", "--dry-run")
    assert status == 0
    assert "width=32 weight=1" in printed


@pytest.mark.cluster
def test_the_example_is_trained_and_evaluated(shell):
    shutil.copytree(EXAMPLE, shell.home / "sweeps" / "own_network")
    example = yaml.safe_load((EXAMPLE / "sweep.yaml").read_text())
    model = example["overrides"]["model"] | {"args": {"depth": 1}}
    objective = example["overrides"]["objective"]
    parameters = {"model.args.width": {"grid": [2]}, "objective.args.weight": {"grid": [1]}}
    file = shell.write_sweep("own.yaml", overrides={"model": model, "objective": objective}, parameters=parameters)
    printed = shell.finish(process := shell.start("srcluster.sweep", file))
    assert process.returncode == 0
    network = next(word for word in printed.split() if word.endswith("model.safetensors"))
    typed = ["evaluate", network, "--on", "pieces", "--address", "none"]
    assert "--allow-import sweeps" in shell.finish(shell.start("srcluster.evaluate", *typed[1:]))
    allowed = shell.finish(shell.start("srcluster.evaluate", *typed[1:], "--allow-import", "sweeps"))
    assert "PSNR" in allowed
