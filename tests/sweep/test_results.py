"""The table of a sweep: the best first, and of each other trial how far it came and why no farther."""

from types import SimpleNamespace

import pytest

from srcluster.errors import UserError
from srcluster.recipe import Criterion, load
from srcluster.sweep import report
from srcluster.sweep.plan import Trial, label_of
from srcluster.sweep.results import JobResult, best_first, latest, ranked, scores_of

BY_PSNR = Criterion("psnr_y/Set5")
BICUBIC = {"psnr_y/Set5": 28.42, "ssim_y/Set5": 0.81, "checkerboard_db/Set5": 0.0, "psnr_y/Set14": 26.0}


def ended(index: int, stop_at_step: int | None, state: str, error: str = "", **metrics: float) -> JobResult:
    named = {name.replace("best_", "best/") + "/Set5": value for name, value in metrics.items() if name != "step"}
    if state == "finished":
        named |= {"best/ssim_y/Set5": 0.8, "best/checkerboard_db/Set5": 0.1, "best/psnr_y/Set14": 27.0}
    step = {"step": metrics["step"]} if "step" in metrics else {}
    return JobResult(Trial(index, load("srcnn"), {"seed": index}), stop_at_step, state, step | named, error)


JOBS = [
    ended(0, 80, "stopped", psnr_y=28.1, step=80),
    ended(1, 80, "stopped", psnr_y=28.5, step=80),
    ended(2, 80, "failed", "it diverged"),
    ended(3, 80, "stopped", psnr_y=28.9, step=80),
    ended(3, 320, "stopped", psnr_y=28.4, step=320),
    ended(4, 80, "stopped", psnr_y=28.8, step=80),
    ended(4, 320, "stopped", psnr_y=29.1, step=320),
    ended(4, None, "finished", best_psnr_y=29.5, step=1280),
    ended(5, None, "finished", best_psnr_y=29.6, step=1000),
]


def test_of_each_trial_the_farthest_job_counts():
    assert [(one.trial.index, one.stop_at_step) for one in latest(reversed(JOBS))] == [
        *((0, 80), (1, 80), (2, 80), (3, 320), (4, None), (5, None)),
    ]


def test_what_was_killed_before_its_first_score_has_that_of_its_last_rung():
    (known,) = latest([JOBS[1], ended(1, 320, "running")])
    assert (known.stop_at_step, known.state, known.metrics["psnr_y/Set5"]) == (320, "running", 28.5)


def test_the_best_is_first_and_what_came_farthest_before_the_others():
    rows = ranked(best_first(latest(JOBS), BY_PSNR), BICUBIC, scores_of(BICUBIC, BY_PSNR))
    assert [(row[0], row[1], row[-1]) for row in rows[1:]] == [
        ("seed=5", "29.60", "finished"),
        ("seed=4", "29.50", "finished"),
        ("bicubic", "28.42", "baseline"),
        ("seed=3", "28.40", "stopped at step 320"),
        ("seed=1", "28.50", "stopped at step 80"),
        ("seed=0", "28.10", "stopped at step 80"),
        ("seed=2", "", "failed it diverged"),
    ]
    assert rows[5][rows[0].index("Set14 PSNR-Y, dB")] == ""


def test_the_table_is_printed_and_written_before_mlflow_is_asked(tmp_path, capsys, monkeypatch):
    def away(run_id: str) -> None:
        raise UserError("MLflow is away")

    monkeypatch.setattr(report.tracking, "children", away)
    folder, url = tmp_path / "results", str(tmp_path / "storage")
    with pytest.raises(UserError):
        report.conclude(len(JOBS), JOBS, BY_PSNR, BICUBIC, SimpleNamespace(id="parent"), url, folder)
    assert "29.60" in capsys.readouterr().out
    for written in (folder, tmp_path / "storage"):
        assert "| seed=5 | 29.60 |" in (written / "table.md").read_text()


def test_a_label_tells_what_was_chosen_apart():
    chosen = {"terms.a.weight": "0.0018789852661499496", "terms.b.weight": "1", "optimizer.kind": "adam"}
    assert label_of(chosen) == "a.weight=0.001879 b.weight=1 adam"
    assert label_of({"optimizer.lr": "0.001", "seed": "3"}) == "lr=0.001 seed=3"


def test_lpips_stands_beside_psnr():
    names = [f"{name}/{pictures}" for pictures in ("A", "B") for name in ("psnr_y", "psnr_rgb", "ssim_y", "lpips_vgg")]
    shown = ["psnr_y/A", "lpips_vgg/A", "psnr_y/B", "lpips_vgg/B", "ssim_y/A"]
    assert scores_of(dict.fromkeys(names, 1.0), Criterion("psnr_y/A")) == shown
    by_lpips = scores_of(dict.fromkeys(names, 1.0), Criterion("lpips_vgg/B", higher=False))
    assert by_lpips[:2] == ["lpips_vgg/B", "psnr_y/A"]
