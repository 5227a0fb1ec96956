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
    "ray": r"(train|sweep|cluster)/",
    "grpc": r"cluster/",
    "typer": r"cli\.py|\w+/__main__\.py",
    "optuna": r"sweep/search\.py",
    "pyarrow": r"$^",
}

FLOORS = (
    {"sweep"},
    {"train", "evaluate", "upscale", "pack", "fetch"},
    {"cluster"},
    {"local", "training"},
    {"objectives", "models"},
    {"data", "tracking"},
    {"recipe", "storage", "pixels"},
    {"cli", "progress", "revision"},
    {"errors"},
)
"""Packages and modules, from the roof to the ground: an import only goes down, and none goes to a neighbour."""


def modules(path: Path) -> set[str]:
    """What a file imports, by full names, also within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = node.module == "srcluster"
            names |= {f"srcluster.{alias.name}" for alias in node.names} if whole else {node.module}
    return names


@pytest.mark.parametrize("package", DOORS)
def test_each_dependency_has_one_door(package):
    for path in SOURCES:
        if package in {name.partition(".")[0] for name in modules(path)}:
            assert re.match(DOORS[package], path.relative_to(ROOT / "srcluster").as_posix()), path


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_an_import_only_goes_down(path):
    floor_of = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    here = path.relative_to(ROOT / "srcluster").parts[0].removesuffix(".py")
    if here.startswith("__"):
        return
    for name in modules(path):
        package, _, module = name.partition(".")
        there = module.partition(".")[0]
        if package == "srcluster" and there not in ("", "__version__", here):
            assert floor_of[there] > floor_of[here], f"{here} imports {name}"


def test_every_package_has_a_floor_and_the_tests_mirror_it():
    found = {path.name.removesuffix(".py") for path in (ROOT / "srcluster").iterdir() if path.suffix in ("", ".py")}
    found -= {"recipes", "weights", "__init__", "__main__", "__pycache__"}
    assert found == set().union(*FLOORS)
    packages = {name for name in found if (ROOT / "srcluster" / name).is_dir()}
    assert packages <= {path.name for path in (ROOT / "tests").iterdir()}


def test_the_loop_needs_no_cluster():
    """Nor the compiler, which every verb would wait for, bicubic included."""
    code = """
import sys
for name in ("ray", "mlflow", "torch._dynamo"):
    sys.modules[name] = None
import torch, srcluster.training.loop, srcluster.data.stream
from srcluster.pixels.resize import resize
resize(torch.zeros(1, 3, 4, 4), 4)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("path", [*SOURCES, *(ROOT / "tests").rglob("*.py")], ids=lambda path: path.name)
def test_no_file_holds_two_ideas(path):
    assert len(path.read_text().splitlines()) <= 400


def test_the_readmes_dry_runs_and_overrides_are_understood(typed, monkeypatch):
    readme = (ROOT / "README.md").read_text().replace("\n", "\n ")
    for words in re.findall(r"python -m srcluster\.train (\S+(?: [\w.]+=\S+)*)", readme):
        load(*words.split(maxsplit=1)[:1], words.split()[1:])
    commands = set(re.findall(r"^ +python -m srcluster\.sweep (sweeps/\S+(?: [\w.]+=\S+)*)", readme, re.MULTILINE))
    assert len(commands) >= 3
    monkeypatch.chdir(ROOT)
    for command in commands:
        assert typed("sweep", *command.split(), "--dry-run")[0] == 0


def test_the_readmes_sweep_is_one(tmp_path):
    from srcluster.sweep.plan import load_sweep

    (block,) = re.findall(r"```yaml\n(recipe:.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "readme.yaml").write_text(block)
    assert len(load_sweep(tmp_path / "readme.yaml").trials()) == 12
