"""The worker process of `math_answers`: says whether math-verify finds an answer equal to the right one.

Run as a script, `python -P math_checker.py LIMIT PARENT`, so that it imports math-verify and nothing of this package:
one JSON line [right, answer] comes in, one line `1` or `0` goes out.

A pair that takes more than LIMIT CPU seconds ends the process by SIGPROF. Its default action is the kernel's, so it
works while one huge power is computed inside C, where no Python code gets a turn, and when the parent is gone.
CPU time, not wall time: a verdict must not depend on how busy the machine is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import select
import signal
import sys
from functools import lru_cache
from typing import Any

MAX_BYTES = 2 * 2**30  # of address space, about ten times what sympy takes: a giant number fails instead of swapping
TINY, TINY_SHARE = 1e-3, 1e-6  # below it, numbers with a decimal point may differ by this share
HUGE, HUGE_SHARE = 1e9, 1e-12  # above it, by this share: the rounding of a float
GOLDS_KEPT = 4096  # parsed right answers; a batch asks for the same one once per response


def main(limit: float, parent: int) -> None:
    """Answer until the input ends or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    logging.disable()  # math-verify warns that its own time limit is off: it could not stop C code
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    parse_gold = lru_cache(GOLDS_KEPT)(parse)
    parse("1")  # the first parse builds sympy's tables, which is no pair's fault
    # The end of the input is not enough: a child that the parent forked may keep the pipe open.
    while os.getppid() == parent:
        if not select.select([sys.stdin], [], [], 5.0)[0]:
            continue
        line = sys.stdin.readline()
        if not line:
            return
        signal.setitimer(signal.ITIMER_PROF, limit)
        verdict = equal(parse_gold, *json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        print(int(verdict), flush=True)  # noqa: T201 the answer to the parent


def parse(answer: str) -> Any:
    """What math-verify reads in a box with this answer: a list of candidates, empty when it reads nothing."""
    import math_verify

    return math_verify.parse(f"\\boxed{{{answer}}}", parsing_timeout=None)


def equal(parse_gold: Any, right: str, answer: str) -> bool:
    """The right answer goes first: math-verify is lenient to the second argument only."""
    import math_verify

    try:
        gold, target = parse_gold(right), parse(answer)
        near = close(gold, target)
        return bool(math_verify.verify(gold, target, timeout_seconds=None)) if near is None else near
    except Exception:  # whatever a model wrote, its answer is wrong and the next one is checked
        return False


def close(gold: Any, target: Any) -> bool | None:
    """For numbers of which one has a decimal point and both are tiny, or one is huge; None: math-verify decides.

    It rounds to six decimals, so that all tiny numbers would be equal, and huge ones of different precision never.
    """
    from sympy import Expr, Float

    if not gold or not target or not all(isinstance(each, Expr) and each.is_number for each in (gold[0], target[0])):
        return None
    if not (gold[0].has(Float) or target[0].has(Float)):
        return None
    first, second = gold[0].doit().evalf(20), target[0].doit().evalf(20)
    if not (first.is_Float or first.is_Integer or first.is_zero) or not (second.is_Float or second.is_zero):
        return None
    size = max(abs(first), abs(second))
    if TINY <= size <= HUGE:
        return None
    return bool(abs(first - second) <= (TINY_SHARE if size < TINY else HUGE_SHARE) * size)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
