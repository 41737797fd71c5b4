"""Old numbers never answer for new code: what is edited, or lies beside ours, has a key of its own; and is told so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from documents import REPOSITORY, environment

from rlfamily import algorithms, rewards, tasks
from rlfamily.stages import provenance
from rlfamily.stamp import stamp

COPIED = ("rlfamily", "eval", "conf", "experiments", "pyproject.toml")
LOSS = "rlfamily/algorithms/topr.py"
CHECK = "rlfamily/tasks/countdown.py"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    root = tmp_path / "copy"
    for name in COPIED:
        (shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copyfile)(REPOSITORY / name, root / name)
    return root


def versions(root: Path) -> dict[str, str]:
    """What goes into the keys of a cell for each file, in a process of its own."""
    code = ("from rlfamily.config import build\nfrom rlfamily.plan import stages\nimport json\n"
            "nodes = stages(build(['algorithm=topr']), ['train', 'score'])\n"
            "found = {}\n"
            "for node in nodes.values():\n"
            "    found |= {f'kind {node.kind}': node.version} | node.uses\n"
            "print(json.dumps(found))")
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment(root), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r'"([^"]+)": "([^"]+)"', done.stdout))


def edit(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new, 1))


def test_shipped_code_counts_by_its_version_alone() -> None:
    for plugins in (algorithms, rewards, tasks):
        for name in plugins.names():
            assert stamp(plugins.get(name)) == plugins.get(name).VERSION


def test_edited_code_counts_by_its_content(copy: Path) -> None:
    before = versions(copy)
    assert all(version.isdigit() for version in before.values())
    edit(copy, CHECK, "def score(", "def unused():\n    return 0\n\n\ndef score(")
    edit(copy, LOSS, "from __future__", "# a remark\nfrom __future__")
    after = versions(copy)
    assert {name for name in before if before[name] != after[name]} == {"tasks.countdown"}
    assert re.fullmatch(r"\d+\+[0-9a-f]{8}", after["tasks.countdown"])
    edit(copy, "rlfamily/core/ratios.py", "min=low.log()", "min=low.log1p()")  # what the loss calls counts as the loss does
    assert versions(copy)["algorithms.topr"] != before["algorithms.topr"]


def test_a_method_beside_ours_counts_by_its_content(tmp_path: Path) -> None:
    def mark(text: str) -> str:
        path = tmp_path / f"mine{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        module = types.ModuleType(f"rlfamily.algorithms.{path.stem}")
        module.VERSION, module.__file__ = "1", str(path)
        return stamp(module)

    assert mark("loss = +1") != mark("loss = -1")
    assert mark("from . import sibling") == mark("from . import sibling")  # cannot be followed: its text counts
    assert mark("def (") != mark("def [")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one file of ours."""
    root = tmp_path / "checkout"
    (root / "rlfamily/stages").mkdir(parents=True)
    for name in ("rlfamily/__init__.py", "rlfamily/stages/provenance.py"):
        shutil.copyfile(REPOSITORY / name, root / name)
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.com", "-C", str(root)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    return root


def told(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, bool]:
    """(is there a commit, is it dirty) of the code under `root`."""
    monkeypatch.setattr(provenance, "__file__", str(root / "rlfamily/stages/provenance.py"))
    commit, dirty = provenance.code.__wrapped__()
    return bool(commit), dirty


def test_a_file_that_git_does_not_know_makes_the_code_dirty(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(checkout, monkeypatch) == (True, False)
    (checkout / "notes.txt").write_text("not ours")
    assert told(checkout, monkeypatch) == (True, False)
    (checkout / "rlfamily/mine.py").write_text("")
    assert told(checkout, monkeypatch) == (True, True)


def test_code_that_is_installed_beneath_another_repository_has_no_commit(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = checkout / "venv/site-packages"
    shutil.copytree(checkout / "rlfamily", installed / "rlfamily")
    (checkout / ".gitignore").write_text("venv\n")
    assert told(installed, monkeypatch) == (False, False)
