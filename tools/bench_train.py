"""What Ray Train, MLflow and S3 cost a training: steps a second with one worker, against the loop by itself.

    python tools/bench_train.py [ROUNDS]

The loop alone reads the same shards from the same store, in a process with neither Ray nor MLflow. The two take turns,
and what is compared are the medians of the rates between two logs, of which the first of each turn is left out.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from srcluster import local

RECIPE = ("srresnet", "steps=100", "data.batch=8", "log_every_steps=25", "evaluation.benchmarks=[Wheel3]")
RECIPE += ("evaluation.every_steps=1000", "checkpoint.every_steps=1000", "evaluation.pictures=0")


def alone(shards: str) -> None:
    """The loop by itself; prints a rate a line."""
    from srcluster.data import benchmarks
    from srcluster.data.stream import Stream
    from srcluster.recipe import load
    from srcluster.training.loop import fit
    from srcluster.training.ranks import Ranks

    class Printer:
        def report(self, step, metrics):
            if "train/patches_per_s" in metrics:
                print(f"{metrics['train/patches_per_s']:.2f} patches/s", flush=True)

        def picture(self, step, benchmark, image, sr):
            pass

        def checkpoint(self, step, write):
            pass

        def preempted(self):
            return False

    recipe = load(RECIPE[0], [*RECIPE[1:], f"data.shards={shards}"])
    stream = Stream(recipe.data, scale=recipe.scale, seed=recipe.seed)
    fit(recipe, stream.batches, [benchmarks.load("Wheel3", recipe.scale)], Printer(), Ranks(0, 1))


def rates(command: list[str], folder: Path) -> list[float]:
    printed = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if printed.returncode:
        sys.exit(printed.stdout + printed.stderr)
    return [float(rate) for rate in re.findall(r"([\d.]+) patches/s", printed.stdout)][1:]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cluster = local.up(folder / ".srcluster")
        try:
            os.environ.update(cluster.environment())
            shards = f"s3://{cluster.bucket}/bench"
            pack = [sys.executable, "-m", "srcluster.pack", "wheels", "--to", shards, "--address", "none"]
            subprocess.run(pack, check=True, capture_output=True)
            measured: dict[str, list[float]] = {"the loop by itself": [], "under Ray Train": []}
            for number in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
                measured["the loop by itself"] += rates([sys.executable, __file__, "--alone", shards], folder)
                train = [sys.executable, "-m", "srcluster.train", *RECIPE, f"data.shards={shards}"]
                measured["under Ray Train"] += rates([*train, "--name", f"bench-{number}-{time.time_ns()}"], folder)
        finally:
            local.stop(local.SERVICES, folder / ".srcluster", timeout_s=5)
    base = median(measured["the loop by itself"])
    for label, of_label in measured.items():
        print(f"{label:20} {median(of_label):7.2f} patches/s   {median(of_label) / base:6.1%}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        alone(sys.argv[2])
    else:
        main()
