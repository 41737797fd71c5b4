"""The two recipes of CONTRIBUTING.md, carried out to the letter in a copy of the repository."""

from __future__ import annotations

import csv
import hashlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import CONTRIBUTING, RECIPES, REPOSITORY, SMALL, blocks, environment

COPIED = ("rlfamily", "eval", "conf", "experiments", "tests/algorithms", "pyproject.toml")
RECIPE_BLOCKS = [block for block in blocks(CONTRIBUTING) if block.heading in RECIPES]
FILES = {block.path: block.text for block in RECIPE_BLOCKS if block.path}
COMMANDS = [command for block in RECIPE_BLOCKS if block.language == "bash" for command in block.commands()]
OURS = ["rlfamily", "eval", "conf", "experiments", "pyproject.toml"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository before the recipes."""
    root = tmp_path / "copy"
    for name in COPIED:
        source, target = REPOSITORY / name, root / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    return root


def state(root: Path) -> dict[str, str]:
    """Hash of every source file below `root`."""
    paths = [path for name in OURS for path in ([root / name] if (root / name).is_file() else (root / name).rglob("*"))]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
            if path.is_file() and "__pycache__" not in path.parts}


def run(root: Path, command: str, *further: str) -> str:
    """Carry out a documented command in the copy; returns what it printed."""
    program, *words = shlex.split(command)
    assert program == ".venv/bin/python", f"no rule for: {command}"
    done = subprocess.run([sys.executable, *words, *further], cwd=root, env=environment(root), capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_recipes_are_a_method_and_two_tables() -> None:
    assert list(FILES) == ["rlfamily/algorithms/raft.py", "conf/algorithm/raft.yaml", "experiments/raft_vs_rloo.yaml",
                           "experiments/raft_tasks.yaml"]
    assert not any((REPOSITORY / path).exists() for path in FILES), "the example must be new"


def test_the_recipes_work_as_written(copy: Path, tmp_path: Path) -> None:
    before = state(copy)
    for path, text in FILES.items():
        (copy / path).write_text(text)
    train, checks, plan, reproduce, plan_tasks, plan_all_rows = COMMANDS
    small = [*SMALL, f"results={tmp_path / 'results'}"]

    assert " passed" in run(copy, checks)
    assert "6 cells" in run(copy, plan, *small)
    elsewhere = f"results={tmp_path / 'results'}"  # SMALL holds for countdown
    assert "24 cells" in run(copy, plan_tasks, elsewhere)
    assert "32 cells" in run(copy, plan_all_rows, elsewhere)
    trained = run(copy, train, *small)
    assert "raft on countdown_tiny · seed 0" in trained
    printed = run(copy, reproduce, *small, "seeds=0")
    assert "RAFT and RLOO" in printed
    assert_table(tmp_path / "results", trained)

    added = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in FILES.items()}
    assert state(copy) == before | added, "the recipes edit or leave something else"


def assert_table(results: Path, trained: str) -> None:
    """Both rows have numbers in every format, and the row of the table is the run of the train command."""
    (path,) = (results / "tables").glob("raft_vs_rloo+*.csv")  # of other settings than its file's: it says so in its name
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"RLOO", "RAFT"}
    assert all(row["reproduced"] for row in rows), rows
    shown = {ending: path.with_name(f"{path.stem}.{ending}").read_text() for ending in ("md", "tex", "html")}
    assert all("RAFT" in text and "RLOO" in text for text in shown.values())
    assert shown["md"].count("stand-in") + shown["md"].count("Stand-in") >= 1
    run_id = next(line for line in trained.splitlines() if line.strip().startswith("run ")).rsplit("/", 1)[1]
    in_training = next(row for row in rows if row["method"] == "RAFT" and row["metric"] == "valid rate in training")
    assert run_id in in_training["run_ids"]


def test_a_refused_setting_of_the_new_method_is_one_line(copy: Path) -> None:
    for path, text in FILES.items():
        (copy / path).write_text(text)
    command = [sys.executable, "-m", "rlfamily.train", "algorithm=raft", "algorithm.keep=5"]
    done = subprocess.run(command, cwd=copy, env=environment(copy), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "keep=5" in done.stderr
    assert "algorithm.group_size>=5" in done.stderr
