"""What a command costs as its user pays for it: a process of its own, with everything that it starts."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import time
from typing import NamedTuple

import psutil

from bench.measure import Cost
from rlfamily.experiment import REPOSITORY

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of <linux/prctl.h>


class Done(NamedTuple):
    """Exit code, both streams as one text, and the cost, that of all descendants included."""

    code: int
    output: str
    cost: Cost


def run(*command: str, **environment: str) -> Done:
    """Run a command in the repository's folder to its end, and to the end of what it leaves behind.

    A fork server outlives its driver by moments; as the subreaper this process inherits it, and its CPU time with that
    of its workers is counted. Linux only.
    """
    ctypes.CDLL(None).prctl(_SUBREAPER, 1)
    own, before, start = _children(), _children_seconds(), time.perf_counter()
    done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **environment}, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wall = time.perf_counter() - start
    while orphans := _children() - own:
        os.waitpid(orphans.pop(), 0)
    return Done(done.returncode, done.stdout, Cost(_children_seconds() - before, wall))


def python(*arguments: str, **environment: str) -> Done:
    """Run this interpreter."""
    return run(sys.executable, *arguments, **environment)


def must(done: Done) -> Done:
    """The same, if it succeeded. Raises RuntimeError with what it said."""
    if done.code:
        raise RuntimeError(f"exit code {done.code}: {done.output[-2000:]}")
    return done


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}
