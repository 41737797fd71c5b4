"""What every test shares: no network, one thread, the command line as a process, and one small trained world."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Commands run from other folders must meet this checkout.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


@pytest.fixture
def run_cli(tmp_path):
    """Run `python -m MODULE ARGUMENTS...` in an empty folder; returns the finished process with its text."""

    def run(module: str, *arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", module, *arguments], cwd=tmp_path, env={**os.environ, **environment},
                              capture_output=True, text=True, timeout=timeout, check=False)

    return run


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Data and a small pretrained model, once per test process; nobody changes it. See tests/small.py."""
    from small import build_world

    return build_world(tmp_path_factory.mktemp("world"))
