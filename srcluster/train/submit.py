"""A training handed to a cluster as a Ray job of its own name, so that the laptop it was typed on may be closed."""

import asyncio
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

from ray.job_submission import JobStatus, JobSubmissionClient

from srcluster.errors import UserError
from srcluster.recipe.yaml_files import read_mapping
from srcluster.revision import commit


def submit(name: str, command: list[str], runtime_env: Path | None = None) -> bool:
    """Run a command in a copy of the current folder on the cluster, print its output, and return whether it succeeded.

    Args:
        name: Of the job; an earlier one of that name that has ended is forgotten.
        runtime_env: A YAML file of what the job needs besides, as Ray knows it: `pip`, `env_vars` and so on.

    Raises:
        UserError: No cluster answers, a job of that name is running, or the file can't be understood.
    """
    wanted = _runtime_env(runtime_env)
    logging.getLogger("ray").setLevel("WARNING")
    try:
        client = JobSubmissionClient()
    except (ConnectionError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster takes jobs ({error}): set RAY_API_SERVER_ADDRESS to http://HEAD:8265"
        ) from error
    if name in (job.submission_id for job in client.list_jobs()):
        if not client.get_job_status(name).is_terminal():
            raise UserError(
                f"{name} is running: follow it with `ray job logs -f {name}`, end it with `ray job stop {name}`"
            )
        client.delete_job(name)
    client.submit_job(entrypoint=shlex.join(command), submission_id=name, runtime_env=wanted)
    print(f"submitted {name}; Ctrl-C leaves it running, `ray job stop {name}` ends it", flush=True)
    asyncio.run(_follow(client, name))
    return client.get_job_status(name) == JobStatus.SUCCEEDED


def _runtime_env(file: Path | None) -> dict[str, Any]:
    """What a job is given: this folder, the commit, and what a file says besides."""
    try:
        said = read_mapping(file.read_text(), str(file), "pip:, env_vars: and so on") if file else {}
    except OSError as error:
        raise UserError(f"--runtime-env {file} can't be read: {error.strerror}") from error
    # The folder travels without its repository, and without the keys of an embedded cluster.
    excludes = [".srcluster", *said.get("excludes", ())]
    known = {"SRCLUSTER_GIT_COMMIT": commit()} if commit() else {}
    return {"working_dir": ".", **said, "excludes": excludes, "env_vars": known | said.get("env_vars", {})}


async def _follow(client: JobSubmissionClient, name: str) -> None:
    async for lines in client.tail_job_logs(name):
        sys.stdout.write(lines)
        sys.stdout.flush()
