"""What a run ran on: code, libraries and machine."""

import os
import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from srcluster.revision import commit


def environment_tags() -> dict[str, str]:
    """Tags that say what this process runs on; what is not known is left out."""
    tags = {
        "mlflow.source.git.commit": commit(),
        "env.host": socket.gethostname(),
        "env.device": _device(),
        "env.python": platform.python_version(),
        "env.ray_job": os.environ.get("RAY_JOB_ID", ""),
        **{f"env.{package}": _version(package) for package in ("torch", "ray", "srcluster")},
    }
    return {key: value for key, value in tags.items() if value}


def _device() -> str:
    import torch  # Here, since a driver that only asks MLflow something should not load it.

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} x {_cpu()}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
