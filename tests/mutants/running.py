"""Run tests on mutants, in copies of the repository: the working tree is only read.

A test run is a fork of this process, which has the heavy libraries loaded: it saves each run their import.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from . import Mutant

HEAVY = {"accelerate", "hypothesis", "jinja2", "math_verify", "matplotlib", "numpy", "pandas", "peft", "pydantic",
         "scipy", "sympy", "torch", "transformers"}
"""What is worth loading once for all runs, as far as the tests load it."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""As tests/conftest.py has it, but before the libraries are loaded."""
ELSEWHERE = 97
"""Exit status of a run that would have imported another copy of the module."""


@dataclass(frozen=True)
class Found:
    """What became of a mutant of `module`: "noticed", "survived" or "too slow" (which counts as noticed)."""

    module: str
    mutant: Mutant
    word: str


@dataclass
class Copy:
    """A copy of the repository, in which one run works at a time."""

    folder: Path
    pid: int = 0
    deadline: float = 0.0
    task: tuple[str, Mutant] | None = None
    originals: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, folder: Path) -> Copy:
        """Copy what git tracks, or could."""
        listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root,
                                capture_output=True, text=True, check=True).stdout
        for name in filter(None, listed.split("\0")):
            if (root / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, folder / name)
        return cls(folder)

    def start(self, module: str, tests: Sequence[str], limit: float, mutant: Mutant | None = None) -> None:
        """Begin a run of `tests`, with one mistake in `module` where a mutant is given."""
        path = self.folder / module
        source = self.originals.setdefault(module, path.read_text())
        path.write_text(mutant.applied(source) if mutant else source)
        # bytecode is told by its source's second and size, which a mutant may share
        for stale in path.parent.glob(f"__pycache__/{path.stem}.*"):
            stale.unlink()
        self.task = (module, mutant) if mutant else None
        self.deadline = time.monotonic() + limit
        self.pid = os.fork()
        if not self.pid:
            _child(self.folder, module, tests, keeps_bytecode=mutant is None)

    def ended(self) -> int | None:
        """The exit status of the run, -1 when its time was up; None while it goes on."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        late = time.monotonic() > self.deadline
        if not pid and not late:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # also what its tests left behind
        if not pid:
            os.waitpid(self.pid, 0)
            status = -1
        if self.task:
            (self.folder / self.task[0]).write_text(self.originals[self.task[0]])
        self.pid = 0
        return -1 if status == -1 else os.waitstatus_to_exitcode(status)

    def log(self) -> str:
        """What the last run printed."""
        return (self.folder / ".log").read_text(errors="replace")


class _Durations:
    """A pytest plug-in that writes the seconds of each file of tests, and what of HEAVY they loaded."""

    def __init__(self, path: Path) -> None:
        self.path, self.seconds = path, {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("::")[0]
        self.seconds[name] = self.seconds.get(name, 0.0) + report.duration

    def pytest_sessionfinish(self) -> None:
        self.path.write_text("".join(f"{seconds} {name}\n" for name, seconds in self.seconds.items()))
        loaded = [name for name in list(sys.modules) if name.partition(".")[0] in HEAVY]
        self.path.with_name(".loaded").write_text("\n".join(loaded))


def _child(folder: Path, module: str, tests: Sequence[str], keeps_bytecode: bool) -> None:
    """The forked process: never returns."""
    status = 1
    try:
        os.setsid()
        log = os.open(folder / ".log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        root = os.getcwd()
        os.chdir(folder)
        sys.path[:] = [str(folder), *(one for one in sys.path if one not in ("", root))]
        sys.path_importer_cache.clear()
        for name in [one for one in sys.modules if one.partition(".")[0] == "tests"]:
            del sys.modules[name]
        sys.dont_write_bytecode = not keeps_bytecode
        os.environ["PYTHONDONTWRITEBYTECODE"] = "" if keeps_bytecode else "1"
        spec = importlib.util.find_spec(dotted(module).partition(".")[0])
        if spec is None or not str(spec.origin or list(spec.submodule_search_locations or [])).strip("['").startswith(
                str(folder)):
            print(f"{module} would be imported from {spec}")
            os._exit(ELSEWHERE)
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--basetemp", str(folder / ".tmp")]
        status = int(pytest.main([*options, *tests], [_Durations(folder / ".seconds")]))
    finally:
        sys.stdout.flush()
        os._exit(status)


def dotted(module: str) -> str:
    """The name a file is imported by: eval/layout.py is eval.layout."""
    return module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def load(names: Sequence[str]) -> None:
    """Import what the tests loaded of HEAVY, as far as that works."""
    os.environ.update(OFFLINE)
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def quickest_first(copy: Copy, module: str, tests: Sequence[str], limit: float) -> tuple[list[str], float]:
    """The files of `tests` in the order of their time, and the seconds of all.

    Raises RuntimeError, with what they printed, when they fail without any mutant.
    """
    begun = time.monotonic()
    copy.start(module, tests, limit)
    while (status := copy.ended()) is None:
        time.sleep(0.05)
    if status:
        raise RuntimeError(f"{copy.log()[-3000:]}\n{module}: its tests fail without any mutant (status {status})")
    load((copy.folder / ".loaded").read_text().split())
    measured = [line.split(" ", 1) for line in (copy.folder / ".seconds").read_text().splitlines()]
    whole = [name for _, name in sorted((float(seconds), name) for seconds, name in measured)]
    return (list(tests) if any("::" in one for one in tests) else whole), time.monotonic() - begun


def run(copies: Sequence[Copy], chosen: Sequence[tuple[str, Mutant]], tests: Sequence[str],
        limit: float) -> Iterator[Found]:
    """Run the tests on every mutant of a module, as many at once as there are copies."""
    waiting = list(reversed(chosen))
    while waiting or any(copy.pid for copy in copies):
        for copy in copies:
            if not copy.pid and waiting:
                module, mutant = waiting.pop()
                copy.start(module, tests, limit, mutant)
            if not copy.pid or (status := copy.ended()) is None:
                continue
            if status == ELSEWHERE or copy.task is None:
                raise RuntimeError(copy.log())
            yield Found(*copy.task, {0: "survived", -1: "too slow"}.get(status, "noticed"))
        time.sleep(0.02)
