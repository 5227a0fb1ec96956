"""A training handed to a cluster as a Ray job of its own name, so that the laptop it was typed on may be closed."""

import asyncio
import logging
import shlex
import sys

from ray.job_submission import JobStatus, JobSubmissionClient

from srcluster.errors import UserError
from srcluster.revision import commit

__all__ = ["SubmitError", "submit"]


class SubmitError(UserError):
    """A job that the cluster doesn't take."""


def submit(name: str, command: list[str]) -> bool:
    """Run a command in a copy of the current folder on the cluster, and print what it says until it ends.

    Args:
        name: Of the job; an earlier one of that name that has ended is forgotten.
        command: What to run: `python` and its arguments.

    Returns:
        Whether it succeeded.

    Raises:
        SubmitError: No cluster answers, or a job of that name is running.
    """
    logging.getLogger("ray").setLevel("WARNING")
    try:
        client = JobSubmissionClient()
    except (ConnectionError, RuntimeError) as error:
        raise SubmitError(
            f"no Ray cluster takes jobs ({error}): set RAY_API_SERVER_ADDRESS to http://HEAD:8265"
        ) from error
    if name in (job.submission_id for job in client.list_jobs()):
        if not client.get_job_status(name).is_terminal():
            raise SubmitError(
                f"{name} is running: follow it with `ray job logs -f {name}`, end it with `ray job stop {name}`"
            )
        client.delete_job(name)
    # The folder travels without its repository, and without the keys of an embedded cluster.
    known = commit()
    environment = {"SRCLUSTER_GIT_COMMIT": known} if known else {}
    client.submit_job(
        entrypoint=shlex.join(command),
        submission_id=name,
        runtime_env={"working_dir": ".", "excludes": [".srcluster"], "env_vars": environment},
    )
    print(f"submitted {name}; Ctrl-C leaves it running, `ray job stop {name}` ends it", flush=True)
    asyncio.run(_follow(client, name))
    return client.get_job_status(name) == JobStatus.SUCCEEDED


async def _follow(client: JobSubmissionClient, name: str) -> None:
    async for lines in client.tail_job_logs(name):
        sys.stdout.write(lines)
        sys.stdout.flush()
