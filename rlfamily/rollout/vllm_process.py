"""A vLLM server as a child of this process: started on processors of its own, watched, ended with its owner.

The child stays in the stage's session and inherits its marks, so that a stage that dies leaves no server behind.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from rlfamily.errors import UserError
from rlfamily.hardware import VllmPlacement
from rlfamily.place import Report
from rlfamily.rollout.vllm_common import Start, explain, start_options
from rlfamily.rollout.vllm_worker import NAME

MODEL = "policy"  # what requests call the model
LOG = "vllm-server.log"
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 10.0

# Weights and adapters are handed over while the server runs, which vLLM allows to those only that ask for it. The
# address is this machine's own. Usage statistics would be sent over the network. Bound to cores, as vLLM's default has
# it, the servers of two stages would meet on the same one.
_ENVIRONMENT = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1",
                "DO_NOT_TRACK": "1", "VLLM_HOST_IP": "127.0.0.1", "VLLM_LOGGING_LEVEL": "WARNING",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
# The training processes' own group: a server that found these would try to join it.
_GROUP = re.compile("RANK|LOCAL_RANK|GROUP_.*|ROLE_.*|WORLD_SIZE|LOCAL_WORLD_SIZE|MASTER_.*|TORCHELASTIC_.*|"
                    "VLLM_ENABLE_V1_MULTIPROCESSING")

_ERROR = re.compile(r"\b\w*(?:Error|Exception): .*\S")
_SPEAKER = re.compile(r"^\([^)]*pid=\d+\) ?")
_HARMLESS = re.compile(r"\b(?:INFO|WARNING)\b")


@dataclass(frozen=True)
class Child:
    """A running server, its address, the file that it writes to, and what it has started itself."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    family: list[psutil.Process] = field(default_factory=list)

    def died(self) -> str:
        """Why it is not running any more, in half a line; "" while it runs."""
        code = self.process.poll()
        if code is None:
            return ""
        return f"code {code}; {last_error(self.log) or 'its log does not say why'} (see {self.log})"


def start_server(
    start: Start, settings: VllmPlacement, work: Path, devices: list[str] | None, progress: Report
) -> Child:
    """Start a server of the model in `start` and wait until it answers; `devices` are its GPUs, None on CPUs.

    Raises UserError in one line, with the log's last error, when it ends or does not answer in time.
    """
    port, log = _free_port(), work / LOG
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *_flags({
        **start_options(start, settings), "host": "127.0.0.1", "port": port, "served_model_name": MODEL,
        "data_parallel_size": settings.data_parallel, "worker_extension_cls": NAME,
        "disable_uvicorn_access_log": True})]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=_environment(devices))
    child = Child(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait(child, str(start.folder), settings.timeout_seconds, progress)
    except BaseException:
        end(child)
        raise
    # Remembered now: once a server was killed, nothing tells whose its engines were.
    child.family.extend(psutil.Process(process.pid).children(recursive=True))
    return child


def own_devices(processes: int, settings: VllmPlacement) -> list[str]:
    """The stage's GPUs after those of its `processes`. Raises UserError when too few are left."""
    visible = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    need = settings.tensor_parallel * settings.data_parallel
    if len(visible) < processes + need:
        raise UserError(f"hardware.vllm.mode=server: {processes} GPUs to train and {need} for the server, but the "
                        f"stage has {len(visible)}: lower hardware.processes, tensor_parallel or data_parallel")
    return visible[processes:processes + need]


def end(child: Child) -> None:
    """End a server and the engines that it has started, in whatever state it is."""
    family, process = {*child.family}, child.process
    with suppress(psutil.NoSuchProcess):
        family.update(psutil.Process(process.pid).children(recursive=True))
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)
    process.kill()
    process.wait()
    for each in family:  # a server that ended in order has ended its engines before
        with suppress(psutil.NoSuchProcess):
            each.kill()


def last_error(log: Path) -> str:
    """The last error that a server's log tells of and that says more than that there was one; "" if there is none."""
    text = log.read_text(errors="replace")
    lines = [_SPEAKER.sub("", line) for line in text.splitlines() if not _HARMLESS.search(line)]
    # A validation error says in the next line what it is about.
    found = [f"{match[0]} {after}" if "validation error" in line else match[0]
             for line, after in pairwise([*lines, ""]) if (match := _ERROR.search(line))]
    vague = ("Engine core initialization failed", "EngineDead")
    telling = [error for error in found if not any(word in error for word in vague)]
    return " ".join((telling or found or [""])[-1][:400].split())


def _wait(child: Child, model: str, seconds: float, progress: Report) -> None:
    begun = time.monotonic()
    while not _answers(child.url):
        if child.process.poll() is not None:
            raise explain(model, f"{last_error(child.log) or 'it ended without a word'} (see {child.log})")
        if time.monotonic() - begun > seconds:
            raise UserError(f"vllm: no answer from the server of '{model}' within {seconds:g} s: see {child.log}, or "
                            "raise hardware.vllm.timeout_seconds")
        progress(0, 1, f"vLLM server: starting, {time.monotonic() - begun:.0f} s")
        time.sleep(_POLL_SECONDS)


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy knows the way to this machine
    try:
        with direct.open(f"{url}/health", timeout=_GRACE_SECONDS) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _environment(devices: list[str] | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not _GROUP.fullmatch(name)}
    return {**kept, **_ENVIRONMENT, **({"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices is not None else {})}


def _flags(options: dict[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if value is not False:
            yield f"--{name.replace('_', '-')}"
        if not isinstance(value, bool):
            yield str(value)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
