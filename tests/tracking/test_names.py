"""Names that MLflow takes, of any that people give."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from srcluster.tracking.names import metric_name


@pytest.mark.parametrize("name", ["psnr_y/Set5", "best/psnr_y/my set: 1.5", "train/loss", "psnr_y/Größe"])
def test_what_mlflow_takes_stays(name):
    assert metric_name(name) == name


@given(st.text(st.characters(), max_size=300))
@example("psnr_y/Set5 (copy)")
@example("psnr_y/\udcff")
@example("a//b")
@example("../a")
@example(".")
@example("a\n")
@example("x" * 300)
def test_every_name_becomes_one_that_mlflow_takes(name):
    _validate_metric_name(metric_name(name))
    metric_name(name).encode()


def test_names_that_differ_stay_apart():
    names = ["psnr_y/Set5 (copy)", "psnr_y/Set5 [copy]", "psnr_y/Set5 _copy_", "x" * 251, "x" * 252, "a//b", "a/b"]
    assert len({metric_name(name) for name in names}) == len(names)
    assert re.fullmatch(r"psnr_y/Set5 _copy_-[0-9a-f]{6}", metric_name(names[0]))
