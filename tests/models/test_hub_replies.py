"""What the hub may answer, from a server of this machine that speaks as the hub does: each is one line with what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

MODEL = "import sys\nfrom rlfamily.stages.kinds.hub import _fetch\n_fetch('some/model', 'main')"
DATASET = ("from rlfamily.tasks.support import hub\n"
           "hub.load(hub.HubDataset(path='some/data', revision='main'), 'train', ['a'], 'task.source')")
REPLIES = {  # the hub's header, and the status that comes with it
    "GatedRepo": 403, "RepoNotFound": 401, "RevisionNotFound": 404, "": 503,
}
ADVICE = {
    "GatedRepo": "is gated: accept its terms on the hub, and set HF_TOKEN",
    "RepoNotFound": "is not there, or private: check the name, or set HF_TOKEN",
    "RevisionNotFound": "has no revision 'main': correct the revision",
    "": "check the name and the network",
}


@pytest.fixture(params=REPLIES, ids=lambda reply: reply or "out of order")
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """(what it replies to everything, its address)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(REPLIES[request.param])
            if request.param:
                self.send_header("X-Error-Code", request.param)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield request.param, f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()


@pytest.mark.parametrize(("code", "key"), [(MODEL, "model.path"), (DATASET, "task.source.path")], ids=["model", "data"])
def test_a_refusal_of_the_hub_is_one_line(server: tuple[str, str], code: str, key: str, tmp_path: object) -> None:
    reply, address = server
    guarded = ("from rlfamily.errors import UserError\ntry:\n    exec(compile(" + repr(code) + ", 'x', 'exec'))\n"
               "except UserError as error:\n    print(error)\n")
    done = subprocess.run([sys.executable, "-c", guarded], capture_output=True, text=True, timeout=120, env={
        **os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "HF_TOKEN": ""})
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{key}: ")
    assert ADVICE[reply] in line
