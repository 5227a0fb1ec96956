"""One run, alone in this process, whose MLflow is away: nothing of it is lost, and nothing is there twice."""

import re
import shutil

import pytest
from mlflow import MlflowClient
from PIL import Image

from srcluster.data import benchmarks
from srcluster.data.photos import find
from srcluster.data.shards import Packing, pack
from srcluster.recipe import Recipe, recipe_from
from srcluster.tracking import Run, curve, send_unsent
from srcluster.train import driver
from srcluster.train.driver import Workers
from srcluster.train.run import log_baseline, publish, train_run
from srcluster.train.settings import resolve_recipe
from srcluster.training.store import RunStore


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    folder = tmp_path_factory.mktemp("run")
    (folder / "pieces").mkdir()
    for image in benchmarks.load("Wheel3", 4).images[:1]:
        Image.fromarray(image.hr[80:144, 120:184]).save(folder / "pieces" / f"{image.name}.png")
    pack(find("wheels")[:2], Packing(source="wheels", crop=None), str(folder / "shards"))
    values = {
        "name": "alone",
        "steps": 12,
        "model": {"kind": "srcnn", "kernel_sizes": [5, 1, 3], "features": [4, 4]},
        "data": {"shards": str(folder / "shards"), "patch": 32, "batch": 2},
        "log_every_steps": 3,
        "evaluation": {"benchmarks": [str(folder / "pieces")], "every_steps": 6, "pictures": 1},
        "checkpoint": {"every_steps": 4},
    }
    return recipe_from(values, {})


def begin(name: str, store: RunStore) -> Run:
    return Run.start("alone", name, key=name, url=store.url, timeout_s=0)


@pytest.fixture
def begin_without_mlflow(monkeypatch):
    """Begins a run as a process does that never sees MLflow again."""
    runs = []

    def begin_one(name: str, store: RunStore) -> Run:
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
            runs.append(begin(name, store))
        return runs[-1]

    yield begin_one
    for run in runs:
        run.close(timeout_s=0)


def die_at(last: int):
    def tell(step: int, metrics: dict[str, float]) -> None:
        if step == last:
            raise KeyboardInterrupt

    return tell


@pytest.mark.cluster
def test_what_was_logged_before_a_checkpoint_outlives_the_process(
    recipe, tmp_path, begin_without_mlflow, mlflow_server
):
    store = RunStore(f"{tmp_path}/killed")
    for last in (9, 12):
        killed = begin_without_mlflow("killed", store)
        with pytest.raises(KeyboardInterrupt):
            train_run(recipe, killed, store, die_at(last))
    with begin("killed", store) as run:
        train_run(recipe, run, store, die_at(0))
    assert [step for step, _ in curve(run.id, "train/loss")] == [3, 6, 9, 12]
    assert [step for step, _ in curve(run.id, "psnr_y/pieces")] == [6, 12]
    assert [step for step, _ in curve(run.id, "best/psnr_y/pieces")] == [12]
    assert MlflowClient().get_run(run.id).info.status == "FINISHED"
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.cluster
@pytest.mark.parametrize("stop_at_step", [None, 6])
def test_what_belongs_to_a_result_outlives_the_process(
    recipe, tmp_path, begin_without_mlflow, mlflow_server, stop_at_step
):
    """It dies after the result is kept and before MLflow has it."""
    store, name = RunStore(f"{tmp_path}/finished"), f"finished {stop_at_step}"
    metrics = train_run(recipe, begin_without_mlflow(name, store), store, die_at(0), stop_at_step=stop_at_step)
    assert store.result(stop_at_step) == metrics
    assert send_unsent(str(tmp_path)) == {name: True}
    client = MlflowClient()
    number = client.get_experiment_by_name("alone").experiment_id
    (found,) = client.search_runs([number], f"tags.`srcluster.key` = '{name}'")
    assert found.data.metrics.items() >= metrics.items()
    assert [given.dataset.name for given in found.inputs.dataset_inputs] == ["shards", "pieces"]
    pictures = [file.path for file in client.list_artifacts(found.info.run_id, "images")]
    shown = {re.match(r"images/pieces~astronaut(.*)\+step\+(\d+)\+", path).groups() for path in pictures}
    # The same detail at every evaluation, and at the end the whole picture.
    assert shown == {("~detail", "6")} | (set() if stop_at_step else {("~detail", "12"), ("", "12")})


@pytest.mark.cluster
def test_a_network_is_published_without_its_benchmark(recipe, tmp_path, mlflow_server):
    store = RunStore(f"{tmp_path}/published")
    with begin("published", store) as run:
        metrics = train_run(recipe, run, store, die_at(0))
    gone = recipe_from(recipe.model_dump(mode="json"), {"evaluation.benchmarks": [f"{tmp_path}/gone"]})
    model = publish(gone, run.id, store, metrics)
    assert publish(gone, run.id, store, metrics) == model, "once"
    with pytest.raises(Exception, match=f"the network is safe in {store.url}, but MLflow can't be given it"):
        publish(gone, "0" * 32, store, metrics)


@pytest.mark.cluster
def test_the_same_command_says_in_mlflow_what_came_of_a_finished_run(
    recipe, tmp_path, begin_without_mlflow, monkeypatch, capsys, mlflow_server
):
    """All that MLflow should have is lost, and so is the folder of the benchmark."""
    monkeypatch.setenv("SRCLUSTER_STORAGE", str(tmp_path))
    # What is finished takes no cluster.
    for name in ("check_reachable", "end_as_ctrl_c"):
        monkeypatch.setattr(driver, name, lambda *_: None)
    shutil.copytree(recipe.evaluation.benchmarks[0], tmp_path / "pieces")
    again = recipe_from(recipe.model_dump(mode="json"), {"evaluation.benchmarks": [f"{tmp_path}/pieces"]})
    store = RunStore(f"{tmp_path}/runs/again")
    store.claim(resolve_recipe(again))
    metrics = train_run(again, begin_without_mlflow("lost", store), store, die_at(0))
    for folder in ("pieces", "runs/again/unsent"):
        shutil.rmtree(tmp_path / folder)
    benchmarks._loaded.cache_clear()
    assert driver.run(again, "again", Workers(1, 1, 1, False, 0), "nowhere")
    printed = capsys.readouterr().out
    assert "again is finished" in printed
    assert "bicubic is not measured again: " in printed
    client = MlflowClient()
    (model,) = re.findall(r"in MLflow: models:/alone/(\d+),", printed)
    run = client.get_run(client.get_model_version("alone", model).run_id)
    assert (run.info.status, run.data.params["model.kind"]) == ("FINISHED", "srcnn")
    assert run.data.metrics.items() >= metrics.items()


@pytest.mark.cluster
def test_a_benchmark_of_any_name(recipe, tmp_path, mlflow_server):
    (folder := tmp_path / "Set5 (copy)").mkdir()
    Image.effect_noise((64, 64), 50).convert("RGB").save(folder / "a.png")
    measured = [benchmarks.load(str(folder), 4)]
    metrics = log_baseline("odd", measured, recipe)
    (run,) = MlflowClient().search_runs([MlflowClient().get_experiment_by_name("odd").experiment_id])
    assert curve(run.info.run_id, "best/psnr_y/Set5 (copy)") == [(0, metrics["psnr_y/Set5 (copy)"])]
