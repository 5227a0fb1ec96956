"""Whether the driver of a run still lives: it says so, and whoever comes later ends the runs of one that does not."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient

from srcluster.tracking.family import children
from srcluster.tracking.run import Run
from srcluster.tracking.server import PATIENCE_S, address, patiently

__all__ = ["alive", "end_abandoned"]

ALIVE_TAG = "srcluster.alive"
"""When the driver was last alive: seconds since 1970."""

BEAT_S = 60.0

SILENT_S = 900.0
"""How long no word may come from a driver that lives: MLflow may have been away, and clocks differ."""


@contextmanager
def alive(run: Run) -> Iterator[None]:
    """Say of a run, as long as the context lasts, that its driver lives."""
    over = threading.Event()

    def beat() -> None:
        while not (over.is_set() or run.ended):
            run.tag(**{ALIVE_TAG: f"{time.time():.0f}"})
            over.wait(BEAT_S)

    thread = threading.Thread(target=beat, name=f"alive-{run.id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def end_abandoned(experiment: str) -> None:
    """End as KILLED what still is RUNNING of drivers that died: their runs, and those of their trials.

    A driver that was only silent, as that of a computer that slept, goes on logging, and ends its run as it would.

    Raises:
        TrackingError: The server does not answer in time.
    """
    client = MlflowClient(address())

    def search() -> list:
        found = client.get_experiment_by_name(experiment)
        return client.search_runs([found.experiment_id], "attributes.status = 'RUNNING'") if found else []

    for run in patiently(search, PATIENCE_S):
        said = run.data.tags.get(ALIVE_TAG)
        if said and float(said) < time.time() - SILENT_S:
            trials = [child.id for child in children(run.info.run_id) if child.status == "RUNNING"]
            for run_id in (*trials, run.info.run_id):
                patiently(lambda run_id=run_id: client.set_terminated(run_id, "KILLED"), PATIENCE_S)
