"""The rules that keep the code easy to see: one door for each dependency, short files, a README that is true."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from srcluster.recipe import load

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "srcluster").rglob("*.py"))

DOORS = {
    "boto3": r"storage/",
    "botocore": r"storage/",
    "mlflow": r"tracking/",
    "webdataset": r"data/(shards|stream)\.py",
    "ray": r"(train|sweep|tasks)\w*\.py",
    "typer": r"(cli|fetch|pack|train|sweep|evaluate|upscale|local/__main__)\.py",
    "optuna": r"sweep_search\.py",
    "pyarrow": r"$^",
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", DOORS)
def test_each_dependency_has_one_door(package):
    for path in SOURCES:
        if package in imported(path):
            assert re.match(DOORS[package], path.relative_to(ROOT / "srcluster").as_posix()), path


def test_the_loop_needs_no_cluster():
    """Nor the compiler, which every verb would wait for."""
    code = """
import sys
for name in ("ray", "mlflow", "torch._dynamo"):
    sys.modules[name] = None
import srcluster.training.loop, srcluster.data.stream
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("path", [*SOURCES, *(ROOT / "tests").rglob("*.py")], ids=lambda path: path.name)
def test_no_file_holds_two_ideas(path):
    assert len(path.read_text().splitlines()) <= 400


def test_every_verb_of_the_readme_explains_itself():
    verbs = set(re.findall(r"python -m (srcluster\.\w+)", (ROOT / "README.md").read_text()))
    assert {"srcluster.sweep", "srcluster.pack", "srcluster.local"} <= verbs
    for verb in verbs:
        helped = subprocess.run([sys.executable, "-m", verb, "--help"], capture_output=True, text=True, timeout=60)
        assert helped.returncode == 0, verb
        assert "Usage" in helped.stdout


def test_the_readmes_dry_runs_and_overrides_are_understood():
    readme = (ROOT / "README.md").read_text().replace("\n", "\n ")
    for words in re.findall(r"python -m srcluster\.train (\S+(?: [\w.]+=\S+)*)", readme):
        load(*words.split(maxsplit=1)[:1], words.split()[1:])
    commands = set(re.findall(r"^ +python -m srcluster\.sweep (sweeps/\S+(?: [\w.]+=\S+)*)", readme, re.MULTILINE))
    assert len(commands) >= 3
    for command in commands:
        typed = [sys.executable, "-m", "srcluster.sweep", *command.split(), "--dry-run"]
        subprocess.run(typed, cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_the_readmes_sweep_is_one(tmp_path):
    from srcluster.sweep_plan import load_sweep

    (block,) = re.findall(r"```yaml\n(recipe:.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "readme.yaml").write_text(block)
    assert len(load_sweep(tmp_path / "readme.yaml").trials()) == 12
