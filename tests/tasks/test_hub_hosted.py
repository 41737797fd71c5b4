"""JSON and CSV files of the hub are read as they are written, from a server of this machine that speaks as the hub does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest

COMMIT = "c" * 40
ROWS = [("p0", '"2024-01-05"', "2024-01-05"), ("p1", "9007199254740993", "9007199254740993"), ("p2", "0.50", "0.50")]
JSON = "".join(f'{{"problem": "{problem}", "answer": {cell}}}\n' for problem, cell, _ in ROWS)
CSV = "problem,answer\n" + "".join(f"{problem},{text}\n" for problem, _, text in ROWS)
READ = """
from collections import Counter
from rlfamily.tasks.support import problem_sets
source = problem_sets.ProblemSet(path="some/data", revision="main", split="train", problem="problem", answer="answer", boxed=False)
print(problem_sets.rows(source, "task.source.training", Counter()))
"""


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a hub that has one dataset, of the files in the parameter."""
    files = {name: text.encode() for name, text in request.param.items()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            name = re.sub(r"^/datasets/some/data/resolve/[^/]+/", "", path)
            entry = [{"type": "file", "path": name, "size": len(files[name]), "oid": name} for name in files]
            if name in files:
                self.reply(files[name], {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})
            elif re.match(r"/api/datasets/some/data/(tree|paths-info)/", path):
                self.reply(json.dumps(entry).encode())
            elif re.match(r"/api/datasets/some/data(/revision/\w+)?$", path):
                self.reply(json.dumps({"id": "some/data", "sha": COMMIT, "siblings": []}).encode())
            else:
                self.reply(b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, 404)

        do_HEAD = do_POST = do_GET

        def reply(self, content: bytes, headers: Mapping[str, str] = MappingProxyType({}), status: int = 200) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("hub", [{"train.jsonl": JSON}, {"train.csv": CSV, "README.md": "no settings"}], indirect=True,
                         ids=["json", "csv"])
def test_cells_are_the_text_they_were_also_when_the_hub_is_away_later(hub: str, tmp_path: Path) -> None:
    for offline in ("0", "1"):
        done = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, timeout=120, env={
            **os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path), "HF_TOKEN": ""})
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str([(problem, text) for problem, _, text in ROWS])
