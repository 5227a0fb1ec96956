"""What is printed where nobody sees a terminal, and how long things take."""

import time

import pytest

from srcluster.progress import Pace, duration, markdown, print_table, progress


def test_a_pipe_cuts_no_table(capsys):
    titles = [f"{number:030}" for number in range(9)]
    print_table([titles])
    _, line, _ = capsys.readouterr().out.split("\n", 2)
    assert all(title in line for title in titles)


def test_a_table_aligns_numbers_and_has_more_below(capsys):
    print_table([["model", "dB"], ["a", "8.25"], ["bc", "10.00 ± 0.1"]], [["published", "9.5"]])
    cells = [[*map(str.rstrip, line.split("│")[1:-1])] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert cells == [[" a", "        8.25"], [" bc", " 10.00 ± 0.1"], [" published", "         9.5"]]


def test_markdown():
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (29.6, "30 s"), (31, "1 min"), (3569, "59 min"), (3571, "1 h 00 min"), (11100, "3 h 05 min")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_the_time_left_is_reckoned_from_what_was_done_here(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    pace = Pace(1000, before=400)
    assert pace.left(400) == ""
    monkeypatch.setattr(time, "monotonic", lambda: 160.0)
    assert pace.left(500) == ", 5 min left"
    assert pace.left(1000) == ", 0 s left"


def test_lines_say_how_far_a_job_is(capsys):
    with progress("packing", 4, "shards", before=1, every_s=0) as show:
        show(1, "begun")
        show(2.5, "a.tar")
    first, second = capsys.readouterr().out.splitlines()
    assert first == "packing: 1 of 4 shards, begun"
    assert second == "packing: 2 of 4 shards, 0 s left, a.tar"


def test_lines_of_a_job_whose_end_nobody_knows(capsys):
    with progress("fetching", None, "MB", every_s=0) as show:
        show(1.5, "")
    assert capsys.readouterr().out == "fetching: 1 MB\n"
