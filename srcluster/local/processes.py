"""Services as sessions of processes: started to outlive this process, ended with all that they started.

A service is known by the process id and start time of its first process, its leader, so that a number that has been
given to another process since is never taken for it.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

# Start times are reckoned from the boot time, which moves when the clock is set.
START_TOLERANCE_S = 2.0


def launch(command: list[str], folder: Path, environment: dict[str, str], log: Path) -> tuple[int, float]:
    """Start a leader in `folder`, its output in `log`; its process id and start time."""
    with log.open("wb") as output:
        leader = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return leader.pid, psutil.Process(leader.pid).create_time()


def is_alive(leader: tuple[int, float]) -> bool:
    process = _process(leader)
    return process is not None and _runs(process)


def members(leader: tuple[int, float]) -> list[psutil.Process]:
    """The living processes of a leader's session, also where the leader was killed, and its descendants elsewhere."""
    first = _process(leader)
    if first is None and psutil.pid_exists(leader[0]):
        return []
    found = {first, *first.children(recursive=True)} if first else set()
    found.update(process for process in psutil.process_iter() if _session(process) == leader[0])
    return [process for process in found if _runs(process)]


def end(leaders: Iterable[tuple[int, float]], timeout_s: float) -> None:
    """Ask leaders to end, and kill what is left of their processes after `timeout_s`; 0 kills at once."""
    leaders = list(leaders)
    doomed = {process for leader in leaders for process in members(leader)}
    if timeout_s > 0:
        firsts = [process for leader in leaders if (process := _process(leader))]
        _signal(firsts, signal.SIGTERM)
        _wait(firsts, timeout_s)
        doomed.update(process for leader in leaders for process in members(leader))
    _signal(doomed, signal.SIGKILL)
    _wait(doomed, timeout_s=10)


def _process(leader: tuple[int, float]) -> psutil.Process | None:
    pid, started = leader
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if abs(process.create_time() - started) < START_TOLERANCE_S:
            return process
    return None


def _session(process: psutil.Process) -> int | None:
    with suppress(ProcessLookupError, PermissionError):
        return os.getsid(process.pid)
    return None


def _runs(process: psutil.Process) -> bool:
    # A zombie has ended, whether or not its parent has asked how, but while it has threads it may keep its ports.
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    return False


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _wait(processes: Iterable[psutil.Process], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while any(map(_runs, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
