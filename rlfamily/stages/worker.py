"""One stage, in a process of its own: `run_task(root, key)` is all that an executor has to start somewhere.

It may be started any number of times, anywhere that sees the results root: one start produces the artifact, the others
wait for the key's lock and find it. Killed at any moment, the next start goes on from the stage's own checkpoints.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path

from rlfamily.errors import UserError
from rlfamily.stages.perform import perform
from rlfamily.stages.store import Order, Store

COMMITTED, FAILED = 0, 1
"""Exit codes. Any other means that the process died without a word."""


Occupation = Callable[[Store, Order], AbstractContextManager[None]]
"""What a stage is run in: an executor's own way to wait for processors and to clean up after a task."""


def unoccupied(store: Store, order: Order) -> AbstractContextManager[None]:
    """Nothing: whoever started the process has given it all it needs."""
    return nullcontext()


def run_task(root: str, key: str, occupation: Occupation = unoccupied) -> int:
    """Bring stage `key` to its artifact; return COMMITTED or FAILED (then failed/<key>.json says why).

    Waits while another process produces the same key, then for whatever `occupation` waits for.
    Raises FileNotFoundError when nobody wrote an order for `key`.
    """
    store = Store(root)
    if store.committed(key):
        return COMMITTED
    with store.lock(key):
        if store.committed(key):
            return COMMITTED
        order = store.order(key)
        with _output_to(store.layout.work(key) / "log.txt"):
            try:
                with occupation(store, order):
                    perform(store, order)
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                store.fail(order.failure(_told(error), "".join(traceback.format_exception(error))))
                return FAILED
        store.forget_work(key)
    return COMMITTED


def _told(error: BaseException) -> str:
    """One line of what went wrong."""
    text = str(error).strip() or "no message"
    if isinstance(error, SystemExit):
        text = f"the stage called sys.exit({error.code})"
    elif _disk_full(error):
        text = (f"the disk is full ({text.splitlines()[0][:100]}): free some space and run the command again; what is "
                "finished stays")
    elif not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}"
    return text.splitlines()[0]


def _disk_full(error: BaseException) -> bool:
    """True also where torch says only that a write fell short, as it does when the disk takes no more."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, RuntimeError) and "inline_container" in str(error) and "enforce fail" in str(error)


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Append what this process and its children print to `path`, line by line, so that a kill loses none of it."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = [os.dup(descriptor) for descriptor in (1, 2)]
    with path.open("a", buffering=1) as log:
        # The descriptors are for children and libraries; the Python streams may be a notebook's and write elsewhere.
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
        try:
            with redirect_stdout(log), redirect_stderr(log):
                yield
        finally:
            for descriptor, old in zip((1, 2), saved, strict=True):
                os.dup2(old, descriptor)
                os.close(old)
