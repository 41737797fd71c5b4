"""Ends what a dead worker left behind, so that its slot, its memory and its files are free again.

A descendant of a worker is found in three ways, because none finds all.
* By session: every worker leads its own, and children stay in it unless they ask to leave.
* By the worker's mark: a program started by a worker inherits its environment and shows it from any
  session. A child made by fork alone shows the environment of the fork server instead, hence:
* By the driver's mark: the fork server and all that descend from it show it. The fork server stays in
  the driver's session; one in another session and without a parent among them lost its worker.
"""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import psutil

from rlfamily.records import Record, write_atomic

SLOT_MARK = "RLFAMILY_SLOT"
"""Environment variable: the token of the worker that a process descends from."""

DRIVER_MARK = "RLFAMILY_DRIVER"
"""Environment variable: the token of the driver that a process descends from, its session's number first."""

_GONE_SECONDS = 10.0


class Holder(Record):
    """Who holds a slot or produces a key.

    session  the session that the process opened for this task, or 0
    token    value of SLOT_MARK for what it starts
    driver   value of DRIVER_MARK that it inherited, or ""
    """

    host: str
    pid: int
    created: float
    session: int
    token: str
    driver: str


def this_process(own_session: bool) -> Holder:
    """A holder record for the calling process, with a fresh token.

    `own_session` says that the process opened its session for this task alone: all else in it may then be ended.
    """
    pid = os.getpid()
    return Holder(
        host=platform.node(),
        pid=pid,
        created=psutil.Process(pid).create_time(),
        session=pid if own_session else 0,
        token=uuid.uuid4().hex,
        driver=os.environ.get(DRIVER_MARK, ""),
    )


@cache
def driver_token() -> str:
    """Value of DRIVER_MARK for what the calling process, a driver, starts."""
    return f"{os.getsid(0)}-{uuid.uuid4().hex}"


def succeed(path: Path, holder: Holder) -> None:
    """Name `holder` in `path`, after `bury(path)`. Needs the lock that goes with it."""
    bury(path)
    write_atomic(path, holder.model_dump_json(), durable=False)


def bury(path: Path) -> None:
    """End what the dead holder named in `path` left on this host. Needs the lock that goes with it."""
    try:
        dead = Holder.model_validate_json(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return
    if dead.host == platform.node():
        kill(_left_by(dead) + _strays(dead.driver))


def leave_nothing(holder: Holder) -> None:
    """End what `holder`, the calling process, has started and not ended."""
    children = psutil.Process().children(recursive=True) if holder.session else []
    kill(children + _left_by(holder) + _strays(holder.driver))


def marked(mark: str, token: str, spared: Iterable[int]) -> list[psutil.Process]:
    """Processes whose environment shows `mark`=`token`, except `spared` process ids and the caller."""
    return [process for process in _others({*spared}) if _shows(process, mark, token)]


def _left_by(holder: Holder) -> list[psutil.Process]:
    """Processes of `holder`'s session or with its mark, itself and the caller excepted."""
    session = holder.session if _session_is(holder) else 0
    others = _others({holder.pid})
    return [each for each in others if _in_session(each, session) or _shows(each, SLOT_MARK, holder.token)]


def _strays(driver: str) -> list[psutil.Process]:
    """Processes with the mark of `driver` that lost the worker they descend from.

    A worker whose fork server was killed looks the same. It is ended, too; its stage resumes from its checkpoint.
    """
    if not driver:
        return []
    home = int(driver.split("-")[0])
    family = {each.pid: each for each in marked(DRIVER_MARK, driver, ())}
    return [each for each in family.values() if _is_stray(each, family, home)]


def _is_stray(process: psutil.Process, family: dict[int, psutil.Process], home: int) -> bool:
    """True when its topmost ancestor within `family` is in another session than `home`."""
    try:
        while (parent := process.ppid()) in family:
            process = family[parent]
        return parent != os.getpid() and os.getsid(process.pid) != home
    except (psutil.Error, OSError):
        return False


def kill(processes: list[psutil.Process], grace: float = 0.0) -> None:
    """SIGTERM and `grace` seconds for those that can clean up, then SIGKILL; return when all are gone."""
    if grace > 0:
        _signal_all(processes, "terminate")
        _wait(processes, grace)
    survivors = [process for process in processes if _lives(process)]
    _signal_all(survivors, "kill")
    _wait(survivors, _GONE_SECONDS)


def _session_is(holder: Holder) -> bool:
    """False when the kernel gave the number of a dead session to somebody else's process meanwhile."""
    if not holder.session:
        return False
    try:
        return bool(abs(psutil.Process(holder.pid).create_time() - holder.created) < 1.0)
    except psutil.NoSuchProcess:
        # While a session has members the kernel keeps its number from being used again.
        return True


def _others(spared: set[int]) -> Iterator[psutil.Process]:
    return (process for process in psutil.process_iter() if process.pid not in {*spared, os.getpid()})


def _in_session(process: psutil.Process, session: int) -> bool:
    try:
        return session != 0 and os.getsid(process.pid) == session and _lives(process)
    except OSError:
        return False


def _shows(process: psutil.Process, mark: str, token: str) -> bool:
    try:
        return bool(process.environ().get(mark) == token)
    except (psutil.Error, OSError):
        return False


def _lives(process: psutil.Process) -> bool:
    """A zombie is dead: it holds nothing, and only its parent can remove it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal_all(processes: list[psutil.Process], how: str) -> None:
    for process in processes:
        try:
            getattr(process, how)()
        except psutil.Error:
            continue


def _wait(processes: list[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(_lives(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.01)
