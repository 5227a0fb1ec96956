"""The files of a run: checkpoints that are uploaded behind the training's back, and found damaged where they are."""

import json
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from srcluster import storage
from srcluster.errors import UserError
from srcluster.recipe import Recipe, recipe_from
from srcluster.storage import StorageError
from srcluster.training import store as module
from srcluster.training.lease import Holder, LeaseError
from srcluster.training.store import RunStore

FILES = {"weights": b"1", "state.json": b"2"}


def save(store: RunStore, *steps: int) -> None:
    for step in steps:
        store.save(step, {"weights": b"%d" % step, "state.json": b"{}"})
        store.close()


def test_the_latest_checkpoints_stay(tmp_path):
    store = RunStore(str(tmp_path), keep=2)
    save(store, 10, 20, 30)
    assert store.steps() == [20, 30]
    assert store.latest() == {"weights": b"30", "state.json": b"{}"}
    assert RunStore(str(tmp_path / "another")).latest() is None


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def change(file: Path) -> None:
    file.write_bytes(b"9" + file.read_bytes()[1:])


@pytest.mark.parametrize("damage", [cut, change, Path.unlink])
@pytest.mark.parametrize("name", ["weights", "sha256.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path, caplog, damage, name):
    store = RunStore(str(tmp_path), keep=2)
    save(store, 10, 20)
    damage(tmp_path / "step-00000020" / name)
    assert store.latest()["weights"] == b"10"
    assert f"the checkpoint {tmp_path}/step-00000020 is damaged" in caplog.text
    # What goes on from there replaces it, and keeps none that is damaged in its stead.
    save(store, 15)
    assert store.steps() == [10, 15]
    for step in (10, 15):
        damage(tmp_path / f"step-000000{step}" / name)
    assert store.latest() is None


@pytest.fixture
def full_disk(tmp_path, monkeypatch) -> Iterator[None]:
    """A TMPDIR without a byte of room, on a file system of its own."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tests", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        with suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with pytest.raises(OSError, match="No space"), tempfile.TemporaryFile(buffering=0) as file:
            file.write(bytes(1))
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.cluster
def test_a_full_disk_costs_no_checkpoint(s3, tmp_path, full_disk):
    store = RunStore(storage.join(s3.bucket_url, tmp_path.name))
    save(store, 10)
    assert store.latest()["weights"] == b"10"


def test_a_store_that_is_away_is_no_damage(tmp_path, monkeypatch):
    def away(url: str) -> bytes:
        raise StorageError("the store is away")

    store = RunStore(str(tmp_path))
    save(store, 10)
    monkeypatch.setattr(storage, "read", away)
    with pytest.raises(StorageError, match="is away"):
        store.latest()


def test_what_came_of_a_run_and_of_a_step_on_the_way(tmp_path):
    store = RunStore(str(tmp_path))
    assert store.result() is store.result(80) is None
    store.stop({"psnr": 28.0}, 80)
    assert (store.result(), store.result(80), store.result(320)) == (None, {"psnr": 28.0}, None)
    store.finish(b"network", {"best/psnr": 29.0})
    assert store.result() == {"best/psnr": 29.0}
    assert (tmp_path / "model.safetensors").read_bytes() == b"network"


def begun(tmp_path, finished: bool = True, **changes) -> tuple[RunStore, Recipe]:
    store = RunStore(str(tmp_path), keep=2)
    recipe = recipe_from({"name": "a", "steps": 1000, "model": {"kind": "srcnn"}}, changes)
    store.claim(recipe)
    save(store, 900, 1000)
    if finished:
        store.finish(b"network", {"best/psnr": 29.0})
    return store, recipe


def longer(recipe: Recipe, steps: int = 2000, **changes) -> Recipe:
    return recipe_from(recipe.model_dump(mode="json"), {"steps": steps, **changes})


@pytest.mark.parametrize(("every_steps", "kept"), [(500, [1000]), (300, [900])])
def test_a_finished_run_is_extended_and_keeps_what_it_came_to(tmp_path, every_steps, kept):
    """From the last checkpoint that the longer run would have had as well."""
    store, recipe = begun(tmp_path, **{"evaluation.every_steps": every_steps})
    assert store.claim(longer(recipe), extend=True) == recipe
    assert store.result()
    store.extend(recipe, longer(recipe))
    assert (store.result(), store.result(1000)) == (None, {"best/psnr": 29.0})
    assert (tmp_path / "model.safetensors").read_bytes() == b"network"
    assert store.steps()[-1:] == kept
    # From now on it is the longer recipe's run, however that is said.
    for extend in (False, True):
        assert store.claim(longer(recipe), extend).steps == 2000


def test_an_extension_that_dies_as_it_begins_begins_again(tmp_path, monkeypatch):
    store, recipe = begun(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "model_dump_json", lambda *_, **__: storage.read("/nowhere"))
        with pytest.raises(StorageError):
            store.extend(recipe, longer(recipe))
    assert store.result() is None
    assert store.claim(longer(recipe), extend=True) == recipe
    store.extend(recipe, longer(recipe))
    assert store.result(1000) == {"best/psnr": 29.0}


@pytest.mark.parametrize(
    ("recipe", "now", "why"),
    [
        ({"finished": False}, {}, "has not come to its end yet: extend it when it is finished"),
        ({}, {"steps": 900}, "has 1000 steps already: --extend takes more than that"),
        ({"schedule.kind": "cosine"}, {}, r"along a cosine until step 1000, .* by start\.weights=NAME"),
        ({}, {"seed": 1}, r"with another recipe \(seed = 0, and now 1\)"),
    ],
)
def test_what_can_not_be_extended(tmp_path, recipe, now, why):
    store, recipe = begun(tmp_path, **recipe)
    with pytest.raises(UserError, match=why):
        store.claim(longer(recipe, **now), extend=True)
    with pytest.raises(UserError, match=r"there is no run .*: begin it without --extend"):
        RunStore(f"{tmp_path}/none").claim(recipe, extend=True)


def test_more_steps_under_the_same_name_are_an_extension(tmp_path):
    store, recipe = begun(tmp_path)
    with pytest.raises(UserError, match=r"\(steps = 1000, and now 2000\): .*, or --extend 2000$"):
        store.claim(longer(recipe))


def test_of_those_that_wait_only_the_latest_is_uploaded(tmp_path, monkeypatch):
    begun, over = threading.Event(), threading.Event()
    write = storage.write

    def slow(*args) -> None:
        begun.set()
        over.wait(30)
        write(*args)

    monkeypatch.setattr(storage, "write", slow)
    store = RunStore(str(tmp_path), keep=9)
    store.save(10, FILES)
    assert begun.wait(30)
    store.save(20, FILES)
    store.save(30, FILES)
    over.set()
    store.close()
    assert store.steps() == [10, 30]


def test_a_store_that_fails_costs_a_checkpoint_and_says_so(tmp_path, monkeypatch, caplog):
    def away(*args) -> None:
        raise StorageError("the store is away")

    store = RunStore(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", away)
        save(store, 10)
    assert "the checkpoint of step 10 is not kept, the run goes on without it: the store is away" in caplog.text
    save(store, 20)
    assert store.steps() == [20]


def test_what_is_no_fault_of_the_store_ends_the_run_and_not_only_a_thread(tmp_path, monkeypatch):
    def broken(*args) -> None:
        raise ZeroDivisionError

    store = RunStore(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", broken)
        store.save(10, FILES)
        with pytest.raises(ZeroDivisionError):
            store.close()
    save(store, 20)
    assert store.steps() == [20]


def test_nothing_is_written_under_the_lease_of_another_driver(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LEASE_EVERY_S", 0.0)
    holder = Holder(str(tmp_path))
    (tmp_path / "lease.json").write_text(json.dumps({"id": holder.id, "who": "this one"}))
    store = RunStore(str(tmp_path), holder=holder)
    save(store, 10)
    store.check()
    store.close()
    (tmp_path / "lease.json").write_text(json.dumps({"id": "other", "who": "process 1 on x"}))
    store.check()
    with pytest.raises(LeaseError, match="was taken over by process 1 on x"):
        # Between two checkpoints, too: what is logged would stand there twice.
        store.close()
    for write in (lambda: save(store, 20), lambda: store.stop({}, 20), lambda: store.finish(b"", {})):
        with pytest.raises(LeaseError):
            write()
    assert storage.names(str(tmp_path)) == [
        *("lease.json", *(f"step-00000010/{name}" for name in ("sha256.json", "state.json", "weights")))
    ]
