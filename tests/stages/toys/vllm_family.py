"""A stage that starts vLLM in every way that leaves processes, notes them and waits to be killed; once noted, it looks.

hardware.wandb_folder has `model`, a folder that vLLM can serve, and `family.json`, in which they are noted.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from rlfamily.settings import Strict

VERSION = "1"
WRITES = {"alive.json": "the noted processes that live"}


class Config(Strict):
    name: str


@dataclass(frozen=True)
class Inputs:
    pass


SETTINGS = {"dtype": "float32", "max_model_len": 64, "kv_cache_memory_bytes": 32 << 20}
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}


def run(place, config, inputs):
    """Write alive.json: which of the noted processes live at the start of this attempt."""
    folder = Path(place.hardware.wandb_folder)
    noted = folder / "family.json"
    if not noted.exists():
        engine = start_all(str(folder / "model"), place.work, noted)
        time.sleep(600)
        del engine
    alive = [pid for pid in json.loads(noted.read_text())["family"] if lives(pid)]
    (place.out / "alive.json").write_text(json.dumps(alive))
    return {"alive": len(alive)}


def lives(pid):
    """A zombie does not."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start_all(model, work, noted):
    """A server in a session of its own, and an engine of this process; both start while the other does."""
    import psutil

    os.environ.update(ENVIRONMENT)
    server, url = start_server(model, work / "server.log")
    import vllm

    engine = vllm.LLM(model=model, enforce_eager=True, skip_tokenizer_init=True, **SETTINGS)
    while not answers(url):
        if server.poll() is not None:
            raise RuntimeError((work / "server.log").read_text()[-3000:])
        time.sleep(0.2)
    family = psutil.Process().children(recursive=True)
    whole = noted.with_suffix(".new")
    whole.write_text(json.dumps({"worker": os.getpid(), "family": [process.pid for process in family]}))
    whole.replace(noted)
    return engine  # alive as long as somebody holds it


def start_server(model, log):
    """Where neither session nor parent lead to the stage once that is dead."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--enforce-eager",
               "--host", "127.0.0.1", "--port", str(port), *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    return process, f"http://127.0.0.1:{port}/health"


def answers(url):
    """Whether the server has begun to."""
    try:
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).status == 200
    except OSError:
        return False
