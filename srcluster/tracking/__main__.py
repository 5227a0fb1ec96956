"""`python -m srcluster.tracking [URL]`: send what runs had to leave in storage; their next driver does so by itself."""

import os
from typing import Annotated

import typer

from srcluster import cli
from srcluster.errors import UserError
from srcluster.tracking import check, send_unsent


def send(
    url: Annotated[
        str, typer.Argument(help="Of a run or a sweep; by default SRCLUSTER_STORAGE, with all of them.")
    ] = "",
) -> None:
    """Send to MLFLOW_TRACKING_URI what runs logged while it was away."""
    url, uri = url or os.environ.get("SRCLUSTER_STORAGE", ""), check()
    if not url:
        raise UserError("give the URL of a run, or set SRCLUSTER_STORAGE")
    for key, arrived in send_unsent(url).items():
        print(f"{key}: {'sent to' if arrived else 'not all of it has arrived at'} {uri}")


if __name__ == "__main__":
    cli.run(send)
