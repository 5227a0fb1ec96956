"""What is printed where nobody sees a terminal."""

from rich.table import Table

from srcluster.progress import print_wide


def test_a_pipe_cuts_no_table(capsys):
    titles = [f"{number:030}" for number in range(9)]
    print_wide(Table(*titles))
    _, line, _ = capsys.readouterr().out.split("\n", 2)
    assert all(title in line for title in titles)
