"""What every test shares: no network, one thread, the command line as a process, and one small trained world.

Tests that start vLLM carry the mark `vllm` and run apart from the others (make test): in its process vLLM changes torch
for good. Without vLLM they are skipped, or fail where NEED_VLLM says that it must be there.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEED_VLLM = "RLFAMILY_NEED_VLLM"
"""Environment variable: 1 makes tests of vLLM fail where it is missing, instead of skipping them. Set in .ci/run."""

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("PYTHONUNBUFFERED", None)  # it hides what forgets to flush
os.environ.update(VLLM_HOST_IP="127.0.0.1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1")
# Commands run from other folders must meet this checkout.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def pytest_runtest_setup(item):
    """Skip or fail a test of vLLM where there is none, before its fixtures are made."""
    if item.get_closest_marker("vllm") and importlib.util.find_spec("vllm") is None:
        lacks = "vllm is not installed: make setup VLLM=cpu or VLLM=gpu"
        pytest.fail(lacks) if os.environ.get(NEED_VLLM) == "1" else pytest.skip(lacks)


def pytest_sessionfinish(session, exitstatus):
    """`make test ARGS=...` runs pytest twice, with and without the mark: what was asked for may lie in one of them."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and "vllm" in session.config.option.markexpr:
        session.exitstatus = pytest.ExitCode.OK


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


@pytest.fixture(scope="session")
def t5_world(tmp_path_factory):
    """The same data, and a model with an encoder; nobody changes it."""
    from small import T5, build_world

    return build_world(tmp_path_factory.mktemp("t5_world"), *T5)
