"""A stage for tests: counts to config.steps with a checkpoint at each, then does config.action.

hardware carries what must not enter the key: seconds per step (checkpoint_seconds), and a folder (wandb_folder) with
the ledger (a file that gets a line per execution) and whatever an action needs.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlfamily.errors import UserError
from rlfamily.settings import Strict

VERSION = "1"
WRITES = {"value.txt": "a hash over the inputs' values and the steps", "nested/": "the steps"}


class Config(Strict):
    name: str
    steps: int = 0
    action: str = "write"
    deaths: int = 0
    code: int = 0


@dataclass(frozen=True)
class Inputs:
    sources: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    place: object
    config: Config
    inputs: Inputs

    @property
    def key(self):
        return self.place.key

    @property
    def work(self):
        return self.place.work

    @property
    def folder(self):
        return Path(self.place.hardware.wandb_folder)


def run(place, config, inputs):
    """Write value.txt: a hash over the inputs' values and the steps, whatever happened on the way."""
    context = Scene(place, config, inputs)
    note(context, "REDONE" if already_committed(context) else "run")
    value = count(context)
    ACTIONS[config.action](context)
    (place.out / "value.txt").write_text(value)
    (place.out / "nested").mkdir()
    (place.out / "nested" / "steps.txt").write_text(str(config.steps))
    return {"value": value}


def note(context, word):
    """Append one line to the ledger, whole even when several processes write."""
    line = f"{word} {context.key} {os.environ['CUDA_VISIBLE_DEVICES'] or 'cpu'}\n"
    descriptor = os.open(context.folder / "ledger.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def already_committed(context):
    """True when a stage is executed although its artifact exists."""
    objects = context.work.parent.parent / "objects"
    return (objects / context.key[:2] / context.key / "manifest.json").exists()


def count(context):
    """Resume from work/state, go on to the last step; the value depends on every step."""
    state = context.work / "state"
    start = context.config.name + "".join((folder / "value.txt").read_text() for folder in context.inputs.sources.values())
    done, value = state.read_text().split() if state.exists() else ("0", digest(start))
    steps = context.config.steps
    for step in range(int(done), steps):
        time.sleep(context.place.hardware.checkpoint_seconds)
        value = digest(f"{value}{step}")
        temporary = context.work / "state.new"
        temporary.write_text(f"{step + 1} {value}")
        temporary.replace(state)
        context.place.progress(step + 1, steps, "counting")
        note(context, f"step{step}")
    return value


def digest(text):
    """First 16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fail(context):
    """Raise until the file named in the folder's `mended` exists."""
    if not (context.folder / "mended").exists():
        print("about to fail")
        raise ValueError("the fuse is blown\nsecond line")


def refuse(context):
    """Raise what a user can mend."""
    raise UserError("task.x: no such thing; take another")


def die(context):
    """Kill the worker config.deaths times."""
    deaths = context.work / "deaths"
    count = int(deaths.read_text()) if deaths.exists() else 0
    if count < context.config.deaths:
        deaths.write_text(str(count + 1))
        os.kill(os.getpid(), signal.SIGKILL)


def leave(context):
    """Exit in a way that no except clause sees."""
    os._exit(context.config.code)


def spawn(context):
    """Leave five processes behind: forked or executed, in our session or another, one a daemon; then maybe die."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    pids = [subprocess.Popen(sleep, start_new_session=new).pid for new in (False, True)]
    pids += [forked(new) for new in (False, True)] + [daemon()]
    with open(context.folder / "pids.txt", "a") as file:
        file.write("".join(f"{pid}\n" for pid in pids))
    if context.config.deaths:
        die(context)


def forked(new_session):
    """A child by fork alone, which keeps every descriptor that fork lets it keep."""
    pid = os.fork()
    if pid == 0:
        if new_session:
            os.setsid()
        time.sleep(600)
        os._exit(0)
    return pid


def daemon():
    """A child of a child that is gone, in the session of the latter: neither parent nor session lead to us."""
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.setsid()
        os.write(writer, str(forked(new_session=False)).encode())
        os._exit(0)
    os.waitpid(middle, 0)
    return int(os.read(reader, 20))


ACTIONS = {"write": lambda context: None, "fail": fail, "refuse": refuse, "die": die, "leave": leave, "spawn": spawn}
