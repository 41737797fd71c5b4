"""Where an artifact came from: the code's commit, the libraries' versions, the machine. Recorded, never in a key."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

LIBRARIES = ("accelerate", "datasets", "numpy", "peft", "safetensors", "tokenizers", "torch", "transformers", "vllm")


@cache
def code() -> tuple[str, bool]:
    """Return (commit id, whether what runs differs from it); ("", False) when this code is in no git checkout.

    A file of ours that git was never told of differs too: a method of one's own is code like any other.
    """
    root = Path(__file__).resolve().parents[2]
    ours = [name for name in ("rlfamily", "eval", "conf", "experiments") if (root / name).is_dir()]
    git = ["git", "-C", str(root)]
    try:
        if not _output([*git, "ls-files", "rlfamily/__init__.py"]):  # installed beneath somebody else's repository
            return "", False
        tracked = _output([*git, "status", "--porcelain=v2", "--branch", "--untracked-files=no"])
        untracked = _output([*git, "ls-files", "--others", "--exclude-standard", "--", *ours])
    except (OSError, subprocess.CalledProcessError):
        return "", False
    lines = tracked.splitlines() + untracked.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), "")
    return commit, any(not line.startswith("#") for line in lines)


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a number; those not installed are absent."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Host, processor count and, when this process has used CUDA, the names of its GPUs."""
    facts: dict[str, Any] = {
        "host": platform.node(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": [],
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        facts["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return facts
