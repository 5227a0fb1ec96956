"""What a driver, a job and a worker are started with."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from srcluster.errors import UserError
from srcluster.revision import commit
from srcluster.train.process_group import _interface
from srcluster.train.submit import _runtime_env

DRIVER = """
import sys, time
from pathlib import Path
from srcluster.train.settings import end_as_ctrl_c
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


def test_what_a_file_says_goes_with_a_job(tmp_path):
    file = tmp_path / "env.yaml"
    file.write_text("pip: [timm]\nexcludes: [notes]\nenv_vars: {A: b}\n")
    assert _runtime_env(file) == {
        "working_dir": ".",
        "pip": ["timm"],
        "excludes": [".srcluster", "notes"],
        "env_vars": {"SRCLUSTER_GIT_COMMIT": commit(), "A": "b"},
    }
    file.write_text("timm")
    with pytest.raises(UserError, match=r"env.yaml should be a mapping with pip:"):
        _runtime_env(file)
    with pytest.raises(UserError, match=r"--runtime-env no can't be read: No such file"):
        _runtime_env(Path("no"))


def test_an_address_of_no_interface_is_told():
    assert _interface("127.0.0.1").startswith("lo")
    with pytest.raises(UserError, match=r"Ray knows this host by 192\.0\.2\.1, which is on none"):
        _interface("192.0.2.1")
