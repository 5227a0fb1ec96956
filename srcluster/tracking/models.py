"""Models that MLflow keeps: the file `model.safetensors` of a run."""

import re
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from srcluster.errors import UserError
from srcluster.tracking.runs import quoted
from srcluster.tracking.server import address, patiently, reason

_RUN = re.compile(r"(?:runs:/)?([0-9a-f]{32})")
_REGISTERED = re.compile(r"models:/([^/@]+)(?:/(\d+|latest)|@([^/@]+))")

FILE = "model.safetensors"


def download_model(name: str, folder: Path) -> Path:
    """Fetch the `model.safetensors` of a run, or of the run that a registered model is of, to a folder.

    Args:
        name: `models:/name/version` or `latest`, `models:/name@alias`, or a run's id, perhaps after `runs:/`.

    Raises:
        UserError: The server does not answer, or has no such run, model or file.
    """
    client = MlflowClient(address())
    run = _RUN.fullmatch(name)
    run_id = run[1] if run else _run_of(client, name)
    found = next(_named(client, run_id, ""), None)
    if found is None:
        raise UserError(f"run {run_id} has no {FILE} among its artifacts: name another run, or the file itself")
    try:
        return Path(client.download_artifacts(run_id, found, str(folder)))
    except (MlflowException, OSError) as error:
        raise UserError(f"{FILE} of run {run_id} can't be fetched ({reason(error)})") from error


def _run_of(client: MlflowClient, name: str) -> str:
    parts = _REGISTERED.fullmatch(name)
    if parts is None:
        raise UserError(f"{name} is no model's name: write models:/name/version, models:/name@alias or a run's id")
    model, version, alias = parts.groups()

    def ask() -> ModelVersion:
        if alias:
            return client.get_model_version_by_alias(model, alias)
        if version == "latest":
            versions = client.search_model_versions(f"name = {quoted(model)}")
            if not versions:
                raise UserError(f"MLflow has no registered model {model!r}")
            return max(versions, key=lambda one: int(one.version))
        return client.get_model_version(model, version)

    run_id = patiently(ask).run_id
    if not run_id:
        raise UserError(f"{name} was registered without a run: name the file itself")
    return run_id


def _named(client: MlflowClient, run_id: str, folder: str) -> Iterator[str]:
    """Paths of the run's artifacts with this name, those of outer folders first."""
    entries = patiently(lambda: client.list_artifacts(run_id, folder or None))
    yield from (entry.path for entry in entries if entry.path.rpartition("/")[2] == FILE)
    for entry in entries:
        if entry.is_dir:
            yield from _named(client, run_id, entry.path)
