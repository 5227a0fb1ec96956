"""Ctrl-C ends the tests, and what they started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

SERVED = """
import os, subprocess, sys, time
from pathlib import Path
import pytest

@pytest.fixture(scope="session")
def server():
    # Of a session of its own, as the services of an embedded cluster are; and nobody comes to end it.
    server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path("pid").write_text(str(server.pid))

def test_that_takes_long(server):
    time.sleep(600)
"""


def test_what_tests_started_ends_with_them(tmp_path):
    (tmp_path / "test_served.py").write_text(SERVED)
    suite = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-n1", "--rootdir=."],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not (told := (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else ""):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(suite.pid, signal.SIGINT)
        assert suite.wait(60) == 2
        # Where no init reaps what has ended, it stays as a zombie.
        assert not psutil.pid_exists(int(told)) or psutil.Process(int(told)).status() == psutil.STATUS_ZOMBIE
    finally:
        suite.kill()
