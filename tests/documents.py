"""What the documents say, as data: fenced blocks with their headings, commands, tables, links; and the files of git."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
README, CONTRIBUTING, CHANGELOG = (REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))
RECIPES = ("Add an algorithm", "Add a table")

SMALL = [
    "task.source.corpus=600", "task.source.train=64", "task.source.test=16", "task.source.validation=16",
    "task.source.demonstrations_train=32", "task.source.demonstrations_validation=8", "task.prompt_fraction=0.03",
    "task.eval_prompts=8", "task.eval_draws=1", "task.pretrain.lines=600", "task.pretrain.epochs=1",
    "task.pretrain.gate.least=0.0", "model.hidden_size=32", "model.intermediate_size=64", "model.layers=1",
    "model.heads=2", "model.kv_heads=1", "wandb=off",
]
"""Overrides under which every stage of a tiny cell takes about a second."""


@dataclass(frozen=True)
class Block:
    """A fenced block. `path` is the file it shows: a line above it that holds a path in backticks and nothing else."""

    document: str
    heading: str
    language: str
    path: str
    text: str

    def commands(self) -> list[str]:
        """Its command lines: comments and empty lines left out, continued lines joined."""
        joined = self.text.replace("\\\n", " ")
        return [" ".join(line.split()) for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def blocks(document: Path) -> list[Block]:
    """Every fenced block of a document, in order."""
    found, heading, path, language, lines = [], "", "", None, []
    for line in document.read_text().splitlines():
        if language is None and line.startswith("```"):
            language, lines = line[3:].strip(), []
        elif language is not None and line == "```":
            found.append(Block(document.name, heading, language, path, "\n".join(lines) + "\n"))
            language, path = None, ""
        elif language is not None:
            lines.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("#").strip()
        elif line.strip():
            path = line[1:-1] if re.fullmatch(r"`[\w./-]+`", line) else ""
    assert language is None, f"{document.name}: a fenced block is never closed"
    return found


def table(document: Path, heading: str) -> list[list[str]]:
    """The body cells of the first table under a heading."""
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^## |\Z)", document.read_text(), re.M | re.S)
    assert section, f"{document.name}: no heading '{heading}'"
    lines = dropwhile(lambda line: not line.startswith("|"), section[1].splitlines())
    rows = list(takewhile(lambda line: line.startswith("|"), lines))
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def links(document: Path) -> list[str]:
    """Targets of the markdown links outside fenced blocks."""
    prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


def anchors(document: Path) -> set[str]:
    """The addresses of a document's headings, as git hosts build them."""
    prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tracked(*further: str) -> list[str]:
    """Files that git tracks (and more, with further options of ls-files); without git, what is present on disk."""
    listing = subprocess.run(["git", "ls-files", "--cached", *further], cwd=REPOSITORY, capture_output=True, text=True,
                             check=False)
    names = sorted(set(listing.stdout.splitlines())) if listing.returncode == 0 else present(".")
    return [name for name in names if (REPOSITORY / name).is_file()]


def present(folder: str) -> list[str]:
    """Files on disk below a folder, relative to the repository; caches, environments and results left out."""
    found = []
    for here, folders, files in os.walk(REPOSITORY / folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(".egg-info")
                      and name not in ("__pycache__", "results", "wandb", "outputs", "multirun")]
        found += [os.path.relpath(os.path.join(here, name), REPOSITORY) for name in files if not name.endswith(".pyc")]
    return sorted(found)


def environment(root: Path = REPOSITORY) -> dict[str, str]:
    """For child processes: import from `root`, one thread, no network, and no trace of a calling make or pytest."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTEST_"))}
    return kept | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
