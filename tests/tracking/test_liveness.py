"""Runs whose driver died are ended by whoever comes next; those of one that lives are left alone."""

import time

import pytest

from srcluster.tracking import Run, alive, children, end_abandoned
from srcluster.tracking.liveness import ALIVE_TAG, SILENT_S

pytestmark = pytest.mark.cluster


def test_only_the_runs_of_dead_drivers_are_ended(client):
    drivers = {name: Run.start("orphans", name, key=name) for name in ("dead", "living", "unknown")}
    trials = {name: Run.start("orphans", "trial", key=f"{name}/0", parent=run.id) for name, run in drivers.items()}
    ended = Run.start("orphans", "ended", key="dead/1", parent=drivers["dead"].id)
    ended.end("FINISHED")
    drivers["dead"].tag(**{ALIVE_TAG: f"{time.time() - SILENT_S - 60:.0f}"})
    with alive(drivers["living"]):
        for run in (*drivers.values(), *trials.values()):
            run.close()
    end_abandoned("orphans")
    for name, status in (("dead", "KILLED"), ("living", "RUNNING"), ("unknown", "RUNNING")):
        assert client.get_run(drivers[name].id).info.status == status
        assert client.get_run(trials[name].id).info.status == status
    assert {run.status for run in children(drivers["dead"].id)} == {"KILLED", "FINISHED"}


def test_an_experiment_that_is_not_there(client):
    end_abandoned("never begun")
    assert client.get_experiment_by_name("never begun") is None


def test_a_run_may_end_before_its_driver_says_no_more(client):
    with Run.start("orphans", "early", key="early") as run, alive(run):
        run.end("KILLED")
    assert client.get_run(run.id).info.status == "KILLED"
    assert ALIVE_TAG in client.get_run(run.id).data.tags
