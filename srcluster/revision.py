"""Which commit of the code this is; asked before anything large is imported."""

import os
import subprocess


def commit() -> str:
    """The commit, with "+dirty" when tracked files differ from it; empty where it is not known.

    It is SRCLUSTER_GIT_COMMIT where that is set, since a cluster's workers have no repository, and otherwise that of
    the current folder.
    """
    if known := os.environ.get("SRCLUSTER_GIT_COMMIT"):
        return known
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
