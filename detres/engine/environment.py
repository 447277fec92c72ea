"""What a run was made with: versions, machine and the commit of the code."""

import json
import os
import platform
import socket
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from detres.engine.distributed import launch_identity, started_processes


def describe_environment() -> dict[str, Any]:
    """Versions, host, processors and the command line, as plain values for environment.json."""
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else [],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "detres": _version("detres"),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "system": platform.platform(),
        "host": socket.gethostname(),
        "processes": started_processes(),
        "launch": launch_identity(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
    }


def begun_by_this_launch(run: Path) -> bool:
    """Whether the last start in that run directory was one of the torchrun that started this process, too."""
    try:
        starts = json.loads((run / "environment.json").read_text(encoding="utf-8"))
        return launch_identity() is not None and starts[-1]["launch"] == launch_identity()
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """The answer of git about the checkout this package lies in; None when it is installed or git is missing."""
    package = Path(__file__).resolve().parents[1]
    if not (package.parent / ".git").exists():
        return None
    command = ["git", "-C", str(package), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
