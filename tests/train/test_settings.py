"""What a driver resolves before anything starts on a cluster."""

from srcluster.recipe import load
from srcluster.train.settings import resolve_recipe


def test_a_tilde_is_a_home_and_a_folder_is_absolute(tmp_path, monkeypatch):
    """What follows `=` on a command line is not expanded by the shell."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("shards", "mine"):
        (tmp_path / name).mkdir()
    recipe = load("srcnn", ["data.shards=~/shards", "evaluation.benchmarks=[~/mine, mine, Set5]"])
    resolved = resolve_recipe(recipe)
    assert resolved.data.shards == str(tmp_path / "shards")
    assert resolved.evaluation.benchmarks == (str(tmp_path / "mine"), str(tmp_path / "mine"), "Set5")
