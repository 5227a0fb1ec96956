"""Measures by name and of one's own, and the criterion by which all that is chosen is chosen."""

import math
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from srcluster.errors import UserError
from srcluster.pixels.metrics import Pair
from srcluster.recipe import MEASURES, Criterion, format_metric, measure, metric_title, recipe_from
from srcluster.training.measures import load_measures

MINE = "import:mymeasures:distance:lower"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mymeasures.py").write_text("def distance(sr, hr): return abs(sr.astype(int) - hr).max()\n")
    monkeypatch.syspath_prepend(tmp_path)


def recipe(**evaluation):
    return recipe_from({"name": "mine", "steps": 1, "model": {"kind": "srcnn"}, "evaluation": evaluation})


def test_a_measure_of_ones_own(mine):
    hr = np.random.default_rng(0).integers(0, 200, (40, 40, 3), dtype=np.uint8)
    functions = load_measures(map(measure, ("psnr_y", MINE)))
    pair = Pair(hr + np.uint8(7), hr, 4)
    assert {name: function(pair) for name, function in functions.items()} == {
        "psnr_y": pytest.approx(32.6, 0.1),
        "distance": 7,
    }
    assert isinstance(functions["distance"](pair), float)
    evaluation = recipe(select=MINE).evaluation
    assert [one.name for one in evaluation.measures] == [*MEASURES, "distance"]
    assert evaluation.criterion("Set5") == Criterion("distance/Set5", higher=False)
    assert evaluation.choice("Set5") == "the weights with the lowest Set5 distance (chosen on a test set)"


@pytest.mark.parametrize(
    ("evaluation", "sentence"),
    [
        ({"metrics": ["psnr_yy"]}, "not 'psnr_yy', did you mean 'psnr_y'"),
        ({"select": "bset"}, "not 'bset'"),
        ({"metrics": ["import:a.b:c"]}, r"import:package.module:function:higher \(or :lower\), not import:a.b:c"),
        ({"metrics": ["import:a:psnr_y:lower"]}, "has the name of another measure"),
        ({"metrics": ["import:a:f:lower", "import:b:f:lower"]}, "a name of its own"),
        ({"metrics": []}, "at least 1 item"),
    ],
)
def test_what_is_no_measure(evaluation, sentence):
    with pytest.raises(UserError, match=sentence):
        recipe(**evaluation)


def test_a_function_that_is_not_there():
    with pytest.raises(UserError, match=r"there is no nowhere.at_all:f to import .*run in the folder that nowhere is"):
        load_measures([measure("import:nowhere.at_all:f:lower")])


def test_a_function_is_found_in_the_folder_that_one_works_in(tmp_path, monkeypatch):
    """As a network of one's own is, also where a command is not `python -m`."""
    (tmp_path / "beside.py").write_text("def distance(sr, hr): return 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(tmp_path))])
    assert list(load_measures([measure("import:beside:distance:lower")])) == ["distance"]


def test_lpips_of_other_weights_than_it_is_called_by(monkeypatch):
    from srcluster.training import measures

    monkeypatch.setattr(measures, "LPIPS", lambda *weights: type("Plain", (), {"name": "lpips_vgg_12_plain"})())
    assert list(load_measures([measure("lpips")])) == ["lpips_vgg_12_plain"]
    with pytest.raises(UserError, match="lpips_vgg is asked for, and the weights at hand give lpips_vgg_12_plain"):
        load_measures([measure("lpips_vgg")])


@given(some.lists(some.floats() | some.none(), min_size=1), some.booleans())
def test_the_best_by_a_criterion_is_the_best_there_is(values, higher):
    criterion = Criterion("m/Set5", higher)
    everything = [{} if value is None else {"m/Set5": value} for value in values]
    best = max(everything, key=criterion.rank)
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    if numbers:
        assert criterion.rank(best) == criterion.rank({"m/Set5": (max if higher else min)(numbers)})
    assert criterion.rank({"best/m/Set5": 1.0}, "best/") == (1.0 if higher else -1.0)


def test_how_metrics_are_shown():
    assert metric_title("psnr_y_basicsr/Set5") == "Set5 PSNR-Y (BasicSR), dB"
    assert (metric_title("lpips_vgg_plain/a"), format_metric("lpips_vgg_plain/a", 0.12345)) == (
        "a LPIPS vgg plain",
        "0.1235",
    )
    assert format_metric("psnr_y/Set5", 28.416) == "28.42"
    assert pickle.loads(pickle.dumps(measure(MINE))) == measure(MINE)
