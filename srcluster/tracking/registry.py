"""Networks in MLflow's registry, to be loaded by any process that has torch and mlflow."""

import tempfile
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient, entities

from srcluster.tracking.names import metric_name
from srcluster.tracking.runs import quoted
from srcluster.tracking.server import address, patiently

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


def register(
    name: str,
    run_id: str,
    network: "nn.Module",
    example: "np.ndarray",
    weights: Path,
    metrics: Mapping[str, float],
    step: int,
) -> str:
    """Make a run's network the newest version of a registered model, once.

    It is kept as torch.export's graph of batches, heights and widths of any size, which is read without this package
    and without unpickling; and as a file among the run's artifacts.

    Args:
        name: Of the registered model, which is made where there is none.
        network: On a CPU, in eval mode.
        example: LR, B x 3 x h x w float32 in [0, 1], of at least two pictures: torch.export would take a size of 1 for
            the only one. It is stored in JSON.
        metrics: `best/psnr_y/Set5` and so on; kept are those of the run's data sets, which their last word names.

    Returns:
        Its address, `models:/name/3`.

    Raises:
        UserError: The server does not answer in time, or refuses.
    """
    client = MlflowClient(address())

    def put() -> str:
        # A driver may have died after this, and before it said that the run was finished.
        of_run = f"name = {quoted(name)} and run_id = {quoted(run_id)}"
        if found := client.search_model_versions(of_run, max_results=1):
            return f"models:/{name}/{found[0].version}"
        run = client.get_run(run_id)
        digests = {
            given.dataset.name: given.dataset.digest for given in (run.inputs.dataset_inputs if run.inputs else ())
        }
        client.log_artifact(run_id, str(weights))
        model = client.create_logged_model(run.info.experiment_id, name, run_id)
        with tempfile.TemporaryDirectory() as folder:
            _save(Path(folder, "model"), network, example, run_id, model.model_id)
            client.log_model_artifacts(model.model_id, str(Path(folder, "model")))
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run_id, [entities.LoggedModelOutput(model.model_id, step)])
        now_ms = time.time_ns() // 1_000_000
        points = [
            entities.Metric(metric_name(key), value, now_ms, step, model.model_id, data, digests[data], run_id)
            for key, value in metrics.items()
            if (data := key.removeprefix("best/").partition("/")[2]) in digests
        ]
        client.log_batch(run_id, metrics=points, synchronous=True)
        if not client.search_registered_models(f"name = {quoted(name)}"):
            client.create_registered_model(name)
        source = f"models:/{model.model_id}"
        made = client.create_model_version(name, source, run_id, model_id=model.model_id, await_creation_for=0)
        return f"models:/{name}/{made.version}"

    return patiently(put)


def _save(folder: Path, network: "nn.Module", example: "np.ndarray", run_id: str, model_id: str) -> None:
    import mlflow.pytorch  # Here, as it imports torch.
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    pictures = Schema([TensorSpec(np.dtype("float32"), (-1, 3, -1, -1))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's, of weights that are views.
        mlflow.pytorch.save_model(
            network.requires_grad_(False),
            str(folder),
            mlflow_model=Model(run_id=run_id, model_id=model_id),
            signature=ModelSignature(inputs=pictures, outputs=pictures),
            input_example=example,
            serialization_format="pt2",
            # Else MLflow would load the model in a process of its own, to see what it imports.
            pip_requirements=[f"torch=={version('torch').partition('+')[0]}"],
        )
