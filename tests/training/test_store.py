"""The files of a run: checkpoints that are written and uploaded behind the training's back."""

import logging
import resource
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from srcluster import models, storage
from srcluster.errors import UserError
from srcluster.recipe import load
from srcluster.storage import StorageError
from srcluster.train import run as train_run
from srcluster.training.checkpoint import State
from srcluster.training.loop import make_optimizer
from srcluster.training.store import RunStore


def write(folder: Path) -> None:
    folder.mkdir()
    Path(folder, "weights").write_bytes(b"1")
    Path(folder, "state.json").write_bytes(b"2")


@contextmanager
def files_of_at_most(size_bytes: int):
    """As on a full disk, a write beyond it fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_latest_checkpoints_stay(tmp_path):
    store = RunStore(str(tmp_path), keep=2)
    for step in (10, 20, 30):
        store.save(step, write)
        store.close()
    assert store.steps() == [20, 30]
    with store.latest() as folder:
        assert Path(folder, "weights").read_bytes() == b"1"


def test_what_came_of_a_run_and_of_a_step_on_the_way(tmp_path):
    store = RunStore(str(tmp_path))
    assert store.result() is store.result(80) is None
    store.stop({"psnr": 28.0}, 80)
    assert (store.result(), store.result(80), store.result(320)) == (None, {"psnr": 28.0}, None)
    (tmp_path / "network").write_bytes(b"1")
    store.finish(tmp_path / "network", {"best/psnr": 29.0})
    assert store.result() == {"best/psnr": 29.0}


def test_of_those_that_wait_only_the_latest_is_uploaded(tmp_path, monkeypatch):
    begun, over = threading.Event(), threading.Event()
    upload = storage.upload

    def slow(*args) -> None:
        begun.set()
        over.wait(30)
        upload(*args)

    monkeypatch.setattr(storage, "upload", slow)
    store = RunStore(str(tmp_path), keep=9)
    store.save(10, write)
    assert begun.wait(30)
    store.save(20, write)
    store.save(30, write)
    over.set()
    store.close()
    assert store.steps() == [10, 30]


def test_a_store_that_fails_costs_a_checkpoint_and_says_so(tmp_path, monkeypatch, caplog):
    def away(*args) -> None:
        raise StorageError("the store is away")

    store = RunStore(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "upload", away)
        store.save(10, write)
        store.close()
    assert "step-00000010 is not kept, the run goes on without it: the store is away" in caplog.text
    store.save(20, write)
    store.close()
    assert store.steps() == [20]


def test_what_is_no_fault_of_the_store_ends_the_run_and_not_only_a_thread(tmp_path, monkeypatch):
    def broken(*args) -> None:
        raise ZeroDivisionError

    store = RunStore(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "upload", broken)
        store.save(10, write)
        with pytest.raises(ZeroDivisionError):
            store.close()
    store.save(20, write)
    store.close()
    assert store.steps() == [20]


def test_a_full_disk_costs_a_checkpoint_and_says_so(tmp_path, caplog):
    recipe = load("srcnn")
    network = models.build(recipe.model, recipe.scale)
    state = State(network, make_optimizer(network, recipe.optimizer), average={})
    torch.stack([weight.sum() for weight in network.parameters()]).sum().backward()
    state.optimizer.step()
    store = RunStore(str(tmp_path))
    written = sum(weight.numel() for weight in network.parameters()) * 4
    # No room for the weights, and none for the optimiser, which is twice as large.
    for step, room in enumerate((written // 2, written * 3 // 2), start=1):
        with caplog.at_level(logging.WARNING), files_of_at_most(room):
            store.save(step, lambda folder: state.save(folder, recipe))
        assert f"step-0000000{step} is not kept" in caplog.text
        assert "make room there" in caplog.text
        caplog.clear()
    store.save(3, lambda folder: state.save(folder, recipe))
    store.close()
    assert store.steps() == [3]


def test_a_disk_without_room_for_checkpoints_is_told_at_once(monkeypatch):
    recipe = load("edsr", ["model.blocks=32", "model.features=256"])
    monkeypatch.setattr(train_run.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1e9))
    with pytest.raises(UserError, match=r"checkpoints take 1724 MB of .*, which has 1000 MB free"):
        train_run._check_room(recipe)
    train_run._check_room(load("srresnet"))
