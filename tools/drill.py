"""Strike a training with faults at random moments, and compare it with one that nothing disturbed.

    tools/drill train --faults 20 --seed 1

Starts an embedded cluster in a folder of its own, trains a tiny network twice, and kills, stops, fills or damages what
the second one stands on. Prints what was struck, the seconds until the training went on, and what differs from the
undisturbed one; the exit status is 1 if anything does.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen

import numpy as np
import psutil
from mlflow import MlflowClient, entities
from PIL import Image

from srcluster import local, storage
from srcluster.local import processes
from srcluster.progress import print_table
from srcluster.tracking import RunSpec
from srcluster.train.driver import EXPERIMENT
from srcluster.training.store import RunStore

STEPS_PER_FAULT = 600
LOG_EVERY, SAVE_EVERY = 50, 100
RECIPE = (
    *("srresnet", "model.features=8", "model.blocks=1", "precision=fp32", "ema=0.9", "data.patch=32", "data.batch=4"),
    *("evaluation.benchmarks=[pieces]", f"log_every_steps={LOG_EVERY}", f"checkpoint.every_steps={SAVE_EVERY}"),
    *("evaluation.every_steps=200", "--workers", "2"),
)
METRICS = ("train/loss", "train/lr", "psnr_y/pieces", "best/psnr_y/pieces")
PATIENCE_S = 600.0


class Training:
    """A training whose command is given again whenever it ended before its last step.

    `command` starts `python -m` with some words, what it prints in a pipe; `members` lists the processes of Ray.
    """

    def __init__(
        self,
        name: str,
        steps: int,
        command: Callable[..., Popen[str]],
        members: Callable[[], list[psutil.Process]],
        recipe: tuple[str, ...] = RECIPE,
    ):
        self.name, self.steps, self.members = name, steps, members
        words = ("srcluster.train", *recipe, f"steps={steps}", "--retries", "100", "--name", name)
        self._command = lambda: command(*words)
        self.store = RunStore(storage.join(os.environ["SRCLUSTER_STORAGE"], "runs", name))
        self.step = 0
        self.lines: list[str] = []
        self.wrong: list[str] = []

    def start(self) -> None:
        """Give the command."""
        self.driver = self._command()
        threading.Thread(target=self._listen, args=[self.driver], daemon=True).start()

    def _listen(self, driver: Popen[str]) -> None:
        for line in driver.stdout or ():
            self.lines.append(line.rstrip())
            if match := re.search(r"step +(\d+) ", line):
                self.step = max(self.step, int(match[1]))

    def reach(self, step: int) -> None:
        """Wait until the training passed a step; give its command again where it ended before."""
        self._wait(lambda: self.step >= step or self.driver.poll() == 0, f"step {step}")

    def finish(self) -> None:
        self._wait(lambda: self.driver.poll() == 0, "end")

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit(f"no {what} of {self.name} after {PATIENCE_S:.0f} s:\n" + "\n".join(self.lines[-30:]))
            if self.driver.poll():
                self.start()
            time.sleep(0.2)

    def begun(self) -> int:
        """How often its ranks have begun."""
        return sum(bool(re.search(r"\d workers? of \d+ threads, from", line)) for line in self.lines)

    def alive(self, kind: str) -> list[psutil.Process]:
        """Ray's processes of a kind."""
        found = []
        for process in self.members():
            with suppress(psutil.NoSuchProcess):
                if f"ray::{kind}" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill(self, kind: str, count: int | None = None) -> None:
        """SIGKILL some of Ray's processes of a kind, once there are any."""
        self._wait(lambda: self.alive(kind), kind)
        for process in self.alive(kind)[:count]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def expect(self, right: bool, what: str) -> None:
        """Note what is wrong."""
        if not right:
            self.wrong.append(what)

    def info(self) -> entities.RunInfo:
        """What MLflow says of its run."""
        run = RunSpec(EXPERIMENT, self.name, self.name).find(MlflowClient())
        assert run
        return run.info

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        run = self.info().run_id
        points = {name: [(p.step, p.value) for p in MlflowClient().get_metric_history(run, name)] for name in METRICS}
        # Rank 0 and the driver both tell a result: its points may come twice, and must be the same.
        return {name: sorted(set(found)) if name.startswith("best/") else found for name, found in points.items()}

    def model(self) -> bytes:
        return storage.read(storage.join(self.store.url, "model.safetensors"))

    def left_behind(self) -> list[str]:
        """What a finished training should not leave."""
        kept = f"0*({self.steps - SAVE_EVERY}|{self.steps})"
        expected = re.compile(rf"recipe\.json|result\.json|model\.safetensors|step-{kept}/.*")
        found = [name for name in storage.names(self.store.url) if not expected.fullmatch(name)]
        found += [str(path) for path in Path(tempfile.gettempdir()).glob("srcluster-*") if "-ray-" not in path.name]
        deadline = time.monotonic() + 30
        while (alive := self.alive("RayTrainWorker") + self.alive("TrainController")) and time.monotonic() < deadline:
            time.sleep(1)
        return found + [f"process {process.pid}" for process in alive]


Fault = Callable[[Training, random.Random], None]
"""Takes the training, and random numbers, and strikes at once."""


def terminal_closed(training: Training, rng: random.Random) -> None:
    training.driver.send_signal(signal.SIGHUP)
    came = training.driver.wait(PATIENCE_S), training.info().status
    training.expect(came == (130, "KILLED"), f"a closed terminal ends it with {came}")


def ctrl_c_twice(training: Training, rng: random.Random) -> None:
    """The second does not wait for what the first one does."""
    training.driver.send_signal(signal.SIGINT)
    time.sleep(rng.uniform(0, 2))
    training.driver.send_signal(signal.SIGINT)
    began, status = time.monotonic(), training.driver.wait(PATIENCE_S)
    seconds = time.monotonic() - began
    # The second may come to an interpreter that is ending already.
    right = status in (130, -signal.SIGINT) and seconds < 15
    training.expect(right, f"Ctrl-C twice ends it with {status} after {seconds:.0f} s")


def driver_stopped(training: Training, rng: random.Random) -> None:
    """As the lid of a laptop that is closed: another driver takes the run over, and the first one wakes."""
    first = training.driver
    first.send_signal(signal.SIGSTOP)
    training.start()
    training.reach(training.step + LOG_EVERY)
    first.send_signal(signal.SIGCONT)
    training.expect(first.wait(PATIENCE_S) == 2, "a driver that lost its lease does not end with an error")


def restart(training: Training, rng: random.Random, *names: str) -> None:
    """Kill services, and start them again later."""
    local.stop(names, timeout_s=0)
    outage(training, rng)
    # On a busy machine they take so long to start that the training would come to its end.
    ranks = training.alive("RayTrainWorker")
    for rank in ranks:
        rank.suspend()
    local.start(names)
    for rank in ranks:
        rank.resume()


def outage(training: Training, rng: random.Random) -> None:
    """Some seconds, or what a fast machine trains in them."""
    until, last = time.monotonic() + rng.uniform(1, 12), training.step + 2 * SAVE_EVERY
    while time.monotonic() < until and training.step < last:
        time.sleep(0.1)


def store_stopped(training: Training, rng: random.Random) -> None:
    cluster = local.load(local.state_folder())
    members = processes.members(cluster.processes["s3"]) if cluster else []
    for process in members:
        process.suspend()
    outage(training, rng)
    for process in members:
        process.resume()


def node(training: Training, rng: random.Random) -> None:
    """Power cut."""
    training.driver.kill()
    local.stop(local.SERVICES, timeout_s=0)
    training.driver.wait()
    local.up()


def checkpoint_damaged(training: Training, rng: random.Random) -> None:
    """And found, since the ranks begin again from it."""
    url = storage.join(training.store.url, f"step-{training.store.steps()[-1]:08d}")
    file = storage.join(url, rng.choice(storage.names(url)))
    content = bytearray(storage.read(file))
    content[rng.randrange(len(content))] ^= 0xFF
    storage.write(file, bytes(content))
    training.kill("RayTrainWorker")


def disk_full(training: Training, rng: random.Random) -> None:
    """TMPDIR has no room, and the ranks begin again there."""
    filler = Path(tempfile.gettempdir(), "filler")
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1M"], capture_output=True, check=False)
    training.kill("RayTrainWorker")
    training.reach(training.step + SAVE_EVERY)
    filler.unlink()


FAULTS: dict[str, tuple[int, Fault]] = {
    "one_rank": (1, lambda training, _: training.kill("RayTrainWorker", 1)),
    "all_ranks": (1, lambda training, _: training.kill("RayTrainWorker")),
    "controller": (1, lambda training, _: training.kill("TrainController")),
    "report_queue": (0, lambda training, _: training.kill("ReportQueue")),
    "driver_killed": (1, lambda training, _: training.driver.kill()),
    "driver_stopped": (1, driver_stopped),
    "terminal_closed": (1, terminal_closed),
    "ctrl_c_twice": (1, ctrl_c_twice),
    "store": (0, lambda training, rng: restart(training, rng, "s3")),
    "store_stopped": (0, store_stopped),
    "mlflow": (0, lambda training, rng: restart(training, rng, "mlflow")),
    "services": (0, lambda training, rng: restart(training, rng, "s3", "mlflow")),
    "node": (1, node),
    "checkpoint_damaged": (1, checkpoint_damaged),
    "disk_full": (1, disk_full),
}
"""How often the ranks begin again after each, and what strikes."""


def strike(
    struck: Training, names: Iterable[str], rng: random.Random, faults: Mapping[str, tuple[int, Fault]] = FAULTS
) -> None:
    """Strike a training at random moments, and print what came of it, until it ends."""
    rows = [["fault", "at step", "seconds until a new step", "ranks begun again", "status"]]
    struck.reach(SAVE_EVERY)
    for name in names:
        restarts, fault = faults[name]
        struck.reach(struck.step + rng.randrange(SAVE_EVERY))
        time.sleep(rng.uniform(0, 1))
        if struck.step > struck.steps - 2 * SAVE_EVERY:
            raise SystemExit(f"the training was too fast: it ended before {name} could strike")
        at, begun, began = struck.step, struck.begun(), time.monotonic()
        fault(struck, rng)
        # What was reported before may still be on its way.
        time.sleep(2)
        struck.reach(struck.step + 1)
        seconds, restarted, status = time.monotonic() - began, struck.begun() - begun, struck.info().status
        if struck.driver.poll() is None:
            struck.expect(restarted == restarts, f"after {name} the ranks began again {restarted} times")
            struck.expect(status == "RUNNING", f"after {name} the run is {status}")
        rows.append([name, str(at), f"{seconds:.1f}", str(restarted), status])
        print(*rows[-1], flush=True)
    struck.finish()
    print_table(rows)


def is_whole(struck: Training, whole: Training) -> bool:
    """Print how a training differs from the undisturbed one; whether all is as it should be."""
    curves = whole.curves(), struck.curves()
    for name, points in curves[0].items():
        if points != curves[1][name]:
            odd = sorted(set(points) ^ set(curves[1][name]))
            print(f"{name} differs: {len(points)} points and {len(curves[1][name])}, not alike {odd[:10]}")
    left, status = struck.left_behind(), struck.info().status
    verdicts = [whole.model() == struck.model(), curves[0] == curves[1], status == "FINISHED"]
    said = ["yes" if right else "NO" for right in verdicts[:2]]
    print_table(
        [["weights equal", "curves whole", "status", "left behind"], [*said, status, ", ".join(left) or "nothing"]]
    )
    print(*struck.wrong, sep="\n")
    return all(verdicts) and not left and not struck.wrong


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A TMPDIR of 64 MB, where this is root and may mount one; whether it is."""
    folder.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "drill", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def embedded(folder: Path) -> Iterator[Callable[[str, int], Training]]:
    """An embedded cluster, whose environment is this process's, and two pictures to measure; begins trainings on it."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "RAY_", "MLFLOW_", "SRCLUSTER_STO"))]:
        del os.environ[name]
    # A driver that has died is waited for as long as a busy machine may keep one silent.
    os.environ |= {"SRCLUSTER_STATE": str(folder / "cluster"), "SRCLUSTER_LEASE_BEAT_S": "2"}
    (folder / "pieces").mkdir()
    for seed in range(2):
        noise = np.random.default_rng(seed).integers(256, size=(16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(folder / "pieces" / f"{seed}.png")

    def command(*words: str) -> Popen[str]:
        return Popen([sys.executable, "-m", *words], cwd=folder, text=True, stdout=PIPE, stderr=STDOUT)

    try:
        os.environ |= local.up().environment()
        yield lambda name, steps: Training(name, steps, command, ray_processes)
    finally:
        local.stop(local.SERVICES, timeout_s=0)


def ray_processes() -> list[psutil.Process]:
    """Those of the embedded cluster."""
    cluster = local.load(local.state_folder())
    return processes.members(cluster.processes["ray"]) if cluster else []


def train(faults: int, seed: int, only: list[str]) -> bool:
    """Strike a training so often; whether all was as it should be."""
    rng = random.Random(seed)
    scratch = tempfile.TemporaryDirectory(prefix="drill-", dir="/tmp", ignore_cleanup_errors=True)
    with scratch as root, small_disk(Path(root, "tmp")) as small, embedded(Path(root)) as begin:
        if not small:
            print("disk_full is left out: only root can mount a small disk")
        names = [name for name in only or FAULTS if small or name != "disk_full"]
        steps = STEPS_PER_FAULT * (faults + 1)
        whole, struck = begin("undisturbed", steps), begin("disturbed", steps)
        whole.start()
        whole.finish()
        struck.start()
        # Each before one comes again.
        strike(struck, [name for _ in range(faults) for name in rng.sample(names, len(names))][:faults], rng)
        return is_whole(struck, whole)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["train"])
    parser.add_argument("--faults", type=int, default=20, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="of what is struck, and when")
    parser.add_argument("--only", nargs="*", default=[], choices=FAULTS, metavar="FAULT", help=", ".join(FAULTS))
    typed = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    # What `&` and `nohup` have ignored, drivers would ignore as well.
    signal.signal(signal.SIGHUP, lambda *_: None)
    sys.exit(0 if train(typed.faults, typed.seed, typed.only) else 1)


if __name__ == "__main__":
    main()
