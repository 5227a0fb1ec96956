"""What a person sees of a training, on a terminal and elsewhere."""

import io
import sys

import pytest

from srcluster.recipe import load
from srcluster.train.report import display, result_rows

METRICS = {
    "train/loss": 0.0123,
    "train/lr": 1e-4,
    "train/patches_per_s": 105.2,
    "train/data_wait_share": 0.01,
    "train/time_left_s": 11100.0,
    "train/mfu": 0.4,
}


def shown(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    out = io.StringIO()
    out.isatty = lambda: terminal
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setenv("COLUMNS", "160")
        patch.setenv("TERM", "xterm")
        with display(2000) as on_report:
            on_report("2 workers of 1 threads, from its beginning", 0, {})
            on_report("", 50, METRICS)
            on_report("", 100, {"psnr_y/Set5": 28.412, "ssim/Set5": 0.81})
            on_report("", 150, METRICS)
    return out.getvalue()


def test_lines_say_the_time_left(monkeypatch):
    first, second, third, fourth = shown(False, monkeypatch).splitlines()
    assert first[10:] == "2 workers of 1 threads, from its beginning"
    told = "3 h 05 min left   loss 0.01230   105.2 patches/s   waiting for data 1.0%"
    assert second[10:] == f"step      50   {told}"
    assert third[10:] == "step     100   psnr_y/Set5 28.41   ssim/Set5 0.8100"
    assert fourth[10:] == f"step     150   {told}"


def test_a_terminal_has_one_live_line_below_the_words(monkeypatch):
    printed = shown(True, monkeypatch)
    assert printed.index("from its beginning") < printed.index("150/2000")
    last = printed[printed.rindex("150/2000") :]
    for known in ("3 h 05 min left", "loss 0.01230", "105.2 patches/s", "psnr_y/Set5 28.41"):
        assert known in last
    assert "ssim" not in last


def test_the_result_stands_beside_bicubic():
    recipe = load("srcnn")
    metrics = {"best/step": 10.0, "best/psnr_y/Set5": 28.0, "best/ssim_y/Set5": 0.8}
    assert result_rows("mine", recipe, metrics, {}) == [["", "Set5 PSNR-Y, dB"], ["mine", "28.00"]]
    assert result_rows("mine", recipe, metrics, {"psnr_y/Set5": 27.5})[-1] == ["bicubic", "27.50"]
