"""Make a network that comes with the package of a finished run: NAME.safetensors, float16, and NAME.json, its card.

usage: python tools/release_weights.py RUN NAME --dataset "T91 (research use) and 200 photographs of COCO (CC BY)"

RUN is a run of `srcluster train`. SRCLUSTER_STORAGE and MLFLOW_TRACKING_URI say where it is kept:
`eval "$(srcluster local env)"`. SRCLUSTER_DATA has the benchmarks, on which the written file is measured. The card has
the fields of OpenModelDB, and as `srcluster` what makes the network again.
"""

import argparse
import datetime
import hashlib
import json
import os
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from srcluster import __version__, storage, tracking
from srcluster.data import benchmarks
from srcluster.errors import UserError
from srcluster.models import shipped
from srcluster.models.saved import load_model, save_weights
from srcluster.recipe import Recipe, recipe_from
from srcluster.train.driver import EXPERIMENT
from srcluster.training.evaluation import evaluate
from srcluster.training.store import RunStore

_ARCHITECTURES = {"rrdb": "esrgan", "residual": "sr-res-net", "msrresnet": "sr-res-net"}
"""OpenModelDB's names of networks, where they are not those of recipes."""

_SIZES = {"features": "nf", "blocks": "nb", "convs": "nc"}

_MOST_OFF_DB = 0.005
"""By how much float16 may change a PSNR that the run recorded."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("name")
    parser.add_argument("--dataset", required=True, help="the training pictures: their origin and licence")
    parser.add_argument("--author", default="srcluster")
    parser.add_argument("--license", default="Apache-2.0", help="of the weights, as SPDX names it")
    parser.add_argument("--on", nargs="+", default=["Set5", "Set14", "BSD100"], metavar="SET")
    parser.add_argument("--to", type=Path, default=shipped.FOLDER, metavar="DIR")
    asked = parser.parse_args()
    try:
        release(**vars(asked))
    except UserError as error:
        sys.exit(f"error: {error}")


def release(run: str, name: str, dataset: str, author: str, license: str, on: list[str], to: Path) -> None:
    """Write the weights and the card of a run to a folder.

    Raises:
        UserError: The run is not finished, or its parts are missing; or the file scores otherwise than the run.
    """
    store = RunStore(storage.join(os.environ["SRCLUSTER_STORAGE"], "runs", run))
    result = store.result()
    if result is None:
        raise UserError(f"{store.url} is no finished run: continue it")
    to.mkdir(parents=True, exist_ok=True)
    path = to / f"{name}.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        storage.download(storage.join(store.url, "model.safetensors"), original := Path(folder, "model.safetensors"))
        recipe, network = load_model(original)
    assert recipe
    recipe = _portable(recipe)
    weights = network.state_dict()
    save_weights(
        path, {key: each.half() if each.is_floating_point() else each for key, each in weights.items()}, recipe
    )
    _, network = load_model(path)
    sets = benchmarks.load_all(on, recipe.scale)
    scores = {key: value for one in sets for key, value in evaluate(network, one, recipe.scale).items()}
    for key in scores:
        if key.startswith("psnr") and abs(scores[key] - result.get(f"best/{key}", scores[key])) >= _MOST_OFF_DB:
            raise UserError(f"{path} has {key} {scores[key]:.3f}, and the run recorded {result[f'best/{key}']:.3f}")
    model, content = recipe.model.model_dump(), path.read_bytes()
    card: dict[str, Any] = {
        "name": name,
        "author": author,
        "license": license,
        "tags": ["general-upscaler", "photo", "pretrained"],
        "description": f"Trained by srcluster's recipe {recipe.name}.",
        "date": datetime.date.today().isoformat(),
        "architecture": _ARCHITECTURES.get(model["kind"], model["kind"]),
        "size": [f"{model[key]}{unit}" for key, unit in _SIZES.items() if isinstance(model.get(key), int)] or None,
        "scale": recipe.scale,
        "inputChannels": 3,
        "outputChannels": 3,
        "resources": [
            {
                "platform": "pytorch",
                "type": "safetensors",
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "urls": [],
            }
        ],
        "trainingIterations": recipe.steps,
        "trainingBatchSize": recipe.data.batch,
        "trainingHRSize": recipe.data.patch,
        "trainingOTF": recipe.degradation.kind != "paired",
        "dataset": dataset,
        "images": [],
        "srcluster": {
            "version": __version__,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "recipe": recipe.model_dump(mode="json"),
            "recipe_digest": recipe.digest(),
            **_training(run),
            "precision": "bf16" if result["train/precision_bits"] == 16 else "fp32",
            "best_step": int(result["best/step"]),
            "scores": {key: round(value, 4) for key, value in scores.items()},
            "benchmarks": {one.name: one.digest for one in sets},
        },
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")
    said = ", ".join(f"{key} {value:.2f}" for key, value in scores.items() if key.startswith("psnr_y/"))
    print(f"{path}: {len(content) / 1e6:.2f} MB, {said}; {card['srcluster']['hours']} hours")


def _portable(recipe: Recipe) -> Recipe:
    """The recipe with the last part of each path and S3 URL: the others are of no use on another machine."""

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: short(each) for key, each in value.items()}
        if isinstance(value, list):
            return [short(each) for each in value]
        local = isinstance(value, str) and value.startswith(("/", "s3://", "file:"))
        return value.rstrip("/").rpartition("/")[2] if local else value

    return recipe_from(short(recipe.model_dump(mode="json")))


def _training(name: str) -> dict[str, Any]:
    """What MLflow knows of a run: its data, its machine, and how many hours its steps took."""
    tracking.check()
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    found = tracking.RunSpec(EXPERIMENT, name, name).find(client)
    if found is None:
        raise UserError(f"MLflow has no run {name} of the experiment {EXPERIMENT!r}")
    run = client.get_run(found.info.run_id)
    digests = {one.dataset.name: one.dataset.digest for one in run.inputs.dataset_inputs}
    speed = [(0, 0.0), *tracking.curve(found.info.run_id, "train/patches_per_s")]
    batch = int(run.data.params["data.batch"])
    seconds = sum((step - before) * batch / rate for (before, _), (step, rate) in pairwise(speed))
    return {
        "commit": run.data.tags.get("mlflow.source.git.commit", ""),
        "data_digest": digests["shards"],
        "machine": run.data.tags["env.device"],
        "torch": run.data.tags["env.torch"],
        "hours": round(seconds / 3600, 2),
    }


if __name__ == "__main__":
    main()
