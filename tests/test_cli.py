"""The command line: `srcluster`, and each of its verbs."""

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from srcluster import cli

VERBS = cli.verbs()

EACH_VERB = """
import runpy, sys
for verb in sys.argv[1:]:
    for words in ([], ["--help"]):
        sys.argv[1:] = words
        try:
            runpy.run_module(f"srcluster.{verb}", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            print("ended", verb, *words, end.code)
"""


def test_every_verb_explains_itself_and_so_it_does_when_nothing_else_is_typed():
    printed = subprocess.run(
        [sys.executable, "-c", EACH_VERB, *VERBS], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    pages = iter(re.split(r"\nended (.*)\n", printed))
    for verb in VERBS:
        bare, bare_end, helped, helped_end = (next(pages) for _ in range(4))
        assert f"Usage: python -m srcluster.{verb}" in bare
        assert bare.strip() == helped.strip()
        assert (bare_end, helped_end) == (f"{verb} 2", f"{verb} --help 0")


def test_the_readmes_verbs_are_the_verbs():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert (
        set(re.findall(r"(?:python -m srcluster\.|^    srcluster |`srcluster )([a-z]+)", readme, re.MULTILINE))
        == VERBS.keys()
    )


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_the_verbs_are_listed(typed, words):
    _, printed = typed(*words)
    for verb, does in VERBS.items():
        assert re.search(rf"{verb} +{does[:20]}", printed), verb


def test_a_verb_is_run_with_its_words_as_they_were_typed(typed):
    assert typed("sweep", "sweeps/srcn.yaml", "steps=5", "--dry-run", "ema=0")[0] == 2
    status, printed = typed("sweep", "sweeps/srcnn.yaml", "--dry-run", "steps=5", "--cpus", "2")
    assert (status, "│     5 " in printed) == (0, True)
    assert "No such command 'swep'" in typed("swep")[1]


def test_listing_the_verbs_imports_none_of_them():
    code = "import sys; from srcluster import cli; cli.verbs(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert not {"torch", "ray", "mlflow", "boto3", "pydantic"} & set(loaded.split())


DRIVER = """
import sys, time
from pathlib import Path
from srcluster.cli import end_as_ctrl_c
end_as_ctrl_c()
try:
    print("begun", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("ending", flush=True)
    Path(sys.argv[1]).write_text("ended")
"""


def test_a_terminal_that_closes_ends_a_driver_as_ctrl_c_does(tmp_path):
    """Though there is nothing left to print to."""
    ours, its = pty.openpty()
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "left")]
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    assert b"begun" in os.read(ours, 100)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 0
    assert (tmp_path / "left").read_text() == "ended"


def test_nohup_is_left_alone(tmp_path):
    command = ["nohup", sys.executable, "-c", DRIVER, str(tmp_path / "left")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == b"ending\n"
