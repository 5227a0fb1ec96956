"""`python -m srcluster.tracking SPOOL...`: send what runs had to leave in spool files."""

from pathlib import Path

from mlflow import MlflowClient

from srcluster import cli
from srcluster.tracking.delivery import deliver
from srcluster.tracking.outbox import UndeliveredError, read_spool
from srcluster.tracking.server import TrackingError, check


def replay(spool: list[Path]) -> None:
    """Send the entries of spool files to MLFLOW_TRACKING_URI, and remove the files."""
    uri = check()
    client = MlflowClient(uri)
    for path in spool:
        try:
            runs = read_spool(path.read_text().splitlines())
        except (OSError, ValueError) as error:
            raise TrackingError(f"{path} is not a spool file that can be read: {error}") from error
        for run_id, entries in runs.items():
            try:
                deliver(client, run_id, entries)
            except UndeliveredError as error:
                raise TrackingError(f"{path} is kept: MLflow at {uri} is away ({error.reason})") from error
        path.unlink()
        print(f"{path}: {sum(map(len, runs.values()))} entries of {len(runs)} run(s) sent to {uri}")


if __name__ == "__main__":
    cli.run(replay)
