"""Boxed answers: find the last one in a response, and decide whether it equals the right one.

Two plain integers are compared here, and what `math_forms` finds hostile is wrong; everything else goes in its normal
form to math-verify (0.9.0), in worker processes, because an answer is whatever a model wrote and may compute for ever.
`import math` is the standard library's here as everywhere: the module beside this one is `rlfamily.tasks.math`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from functools import cache, lru_cache
from pathlib import Path

from rlfamily.tasks.support import math_forms

MAX_CHARACTERS = 500  # of an answer; a longer one is none. Right answers of the public benchmarks have under 200
CPU_SECONDS = 1.0  # for one pair, where nothing else is set: ordinary ones take 0.002 to 0.3
WALL_SECONDS = 120.0  # for one pair and, the first time, the worker's start, on a busy machine
ATTEMPTS = 2  # a worker killed from outside says nothing about the answer: ask another one
CACHED = 65536  # verdicts kept: small models repeat themselves

_CHECKER = Path(__file__).with_name("math_checker.py")
_PIECE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)  # an escaped brace is text, not structure
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,11})")


def last_boxed(response: str) -> str | None:
    r"""Return the stripped content of the last complete `\boxed{...}`; None when there is none, or it is empty or long.

    Complete means that its braces balance. Of nested boxes the innermost last one counts. Linear in the response.
    """
    opened: list[int | None] = []  # for each open brace: where the content of its box starts, or None
    start = end = 0
    for piece in _PIECE.finditer(response):
        if piece[0] == "}" and opened:
            content = opened.pop()
            if content is not None and content > start:
                start, end = content, piece.start()
        elif piece[0] == "{":
            opened.append(None)
        elif piece[0].endswith("{") and piece[0].startswith("\\boxed"):
            opened.append(piece.end())
    answer = response[start:end].strip()
    return answer if 0 < len(answer) <= MAX_CHARACTERS else None


def first_solution(response: str, opening: str) -> str:
    """The response up to where it goes on with a problem of its own, as base models do after a prompt of examples.

    That is the first line, but not the response's own first, that begins with `opening`; "" cuts nothing.
    """
    begun = response.lstrip()
    further = re.search(rf"\n[ \t]*{re.escape(opening)}", begun) if opening else None
    return begun[:further.start()] if further else response


@lru_cache(CACHED)
def equivalent(right: str, answer: str, seconds: float = CPU_SECONDS) -> bool:
    """True when `answer` equals `right`: see docs/mathematics.md. Not symmetric. Never raises.

    What takes the library more than `seconds` of CPU time for one comparison is wrong.
    """
    if _INTEGER.fullmatch(right) and _INTEGER.fullmatch(answer):
        return int(right) == int(answer)  # math-verify's own verdict on these (tested), a thousand times faster
    if len(answer) > MAX_CHARACTERS:
        return False
    right, answer = math_forms.normal(right), math_forms.normal(answer)
    if right == answer:
        return bool(answer)
    if math_forms.hostile(answer):
        return False
    pairs = math_forms.readings(right, answer)
    return any(_same(*pair, seconds) for pair in pairs) and all(
        _same(*pair, seconds) for pair in math_forms.contradictions(answer))


@lru_cache(CACHED)
def _same(right: str, answer: str, seconds: float) -> bool:
    """Whether two normal forms are equal."""
    if _INTEGER.fullmatch(right) and _INTEGER.fullmatch(answer):
        return int(right) == int(answer)
    return right == answer or checkers(seconds).check(right, answer)


class Worker:
    """One running checker process, for pairs one after the other."""

    def __init__(self, limit: float) -> None:
        # -P: the folder of the script holds a math.py, which must not become `import math`.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_CHECKER), str(limit), str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8")
        assert self.process.stdin and self.process.stdout
        self.pipe_in, self.pipe_out = self.process.stdin, self.process.stdout
        self.answers = select.poll()
        self.answers.register(self.pipe_out, select.POLLIN)

    def ask(self, right: str, answer: str) -> bool | None:
        """The verdict; None when the process has ended instead of giving one."""
        try:
            self.pipe_in.write(json.dumps([right, answer]) + "\n")
            self.pipe_in.flush()
            line = self.pipe_out.readline() if self.answers.poll(WALL_SECONDS * 1000) else ""
        except OSError:  # it was killed before
            line = ""
        if not line:
            self.close()
        return line == "1\n" if line else None

    @property
    def out_of_time(self) -> bool:
        """True when the last pair took more CPU time than allowed."""
        return self.process.returncode == -signal.SIGPROF

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.pipe_out.close()
        with contextlib.suppress(OSError):  # it had unread input
            self.pipe_in.close()


class Checkers:
    """As many workers as are asked at the same time, started when needed and kept. Safe to share between threads."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.idle: list[Worker] = []

    def check(self, right: str, answer: str) -> bool:
        """True when math-verify finds them equal; False also when it takes too long or kills its worker."""
        for _ in range(ATTEMPTS):
            worker = self._take()
            verdict = worker.ask(right, answer)
            if verdict is not None:
                self.idle.append(worker)
                return verdict
            if worker.out_of_time:
                return False
        return False

    def _take(self) -> Worker:
        try:
            return self.idle.pop()
        except IndexError:
            return Worker(self.limit)

    def close(self) -> None:
        """End the idle workers."""
        while self.idle:
            self.idle.pop().close()

    def forget(self) -> None:
        """After a fork: the workers belong to the parent, and two processes must not share their pipes."""
        self.idle = []


@cache
def checkers(limit: float) -> Checkers:
    """The workers of this process that have `limit` CPU seconds for a pair."""
    made = Checkers(limit)
    atexit.register(made.close)
    os.register_at_fork(after_in_child=made.forget)
    return made


CHECKERS = checkers(CPU_SECONDS)
