"""Code that makes numbers does not change without a decision; what tells so is neither blind nor fussy."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from documents import REPOSITORY
from fingerprints import RECORD, Undecided, changes, present, record, recorded
from fingerprints.__main__ import main

LOSS = "rlfamily/algorithms/toy.py"
TASK = "rlfamily/tasks/toy.py"
JUDGE = "rlfamily/stages/kinds/judge.py"
FILES = {
    "rlfamily/core/__init__.py": '_EXPORTS = {"gae": ("whiten", "masked", "sums"), "shapes": ("check",)}\n',
    "rlfamily/core/gae.py": """
from __future__ import annotations
import torch
from rlfamily.core.shapes import check

EPSILON = 1e-8

def masked(x_NT: torch.Tensor, mask_NT: torch.Tensor) -> torch.Tensor:
    check(x_NT=x_NT)
    return x_NT * mask_NT

def whiten(x_NT, mask_NT):
    return masked(x_NT, mask_NT) / EPSILON

def sums(x_NT):
    return x_NT.cumsum(1)
""",
    "rlfamily/core/shapes.py": "def check(**tensors):\n    return 'checked'\n",
    "rlfamily/algorithms/__init__.py": "class LossBatch:\n    size = 1\n\nclass LossOutput:\n    size = 2\n",
    "rlfamily/algorithms/settings.py": "class Settings:\n    group: int\n    lr: float = 0.5\n",
    LOSS: '''
"""A method."""
from __future__ import annotations
from typing import TYPE_CHECKING
from rlfamily import core
from rlfamily.algorithms import LossBatch, LossOutput
from rlfamily.algorithms.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

VERSION = "1"

class Config(Settings):
    """Its settings."""
    beta: float = 0.1
    keep: int

def loss(batch: LossBatch, config: Config) -> LossOutput:
    """The loss."""
    # from the paper
    advantages_NT: Tensor = core.whiten(batch.rewards_NT, batch.mask_NT)
    return LossOutput(advantages_NT * config.beta - 1)
''',
    "rlfamily/tasks/__init__.py": "def names():\n    return ['toy']\n",
    "rlfamily/tasks/support/__init__.py": "",
    "rlfamily/tasks/support/hub.py": "from rlfamily.tasks.support import words\n\ndef load():\n    return words.ALL\n",
    "rlfamily/tasks/support/words.py": "ALL = ['one', 'two']\n",
    TASK: """
from rlfamily.rewards import exact
from rlfamily.tasks.support import hub

VERSION = "1"

def build():
    from math import log
    return log(len(hub.load())), exact.score
""",
    "rlfamily/rewards/exact.py": 'VERSION = "1"\n\ndef score():\n    return 1\n',
    "rlfamily/judges/pairwise.py": "def judge():\n    return 'win'\n",
    JUDGE: """
VERSION = "1"

def run(context):
    from rlfamily.judges import pairwise
    return pairwise.judge()
""",
}
LOCAL = "    advantages_NT: Tensor = core.whiten"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "tests").mkdir()
    record(tmp_path)
    return tmp_path


def edit(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert text.count(old) == 1, f"{name} has {text.count(old)} times {old!r}"
    (root / name).write_text(text.replace(old, new))


def told(root: Path) -> dict[str, str]:
    """What differs from the record, by file."""
    return {change.file: change.told for change in changes(present(root), recorded(root))}


def test_every_change_of_code_that_makes_numbers_is_decided() -> None:
    found = changes(present(REPOSITORY), recorded(REPOSITORY))
    assert not found, "\n".join(map(str, found))


def test_where_one_plug_in_has_a_version_all_have() -> None:
    found = present(REPOSITORY)
    folders = {Path(file).parent for file in found}
    assert {Path("rlfamily") / folder for folder in ("rewards", "tasks", "judges", "stages/kinds")} <= folders
    for folder in folders:
        registry = importlib.import_module(".".join(folder.parts))
        names = getattr(registry, "names", list)()  # kinds are listed elsewhere, and asked for VERSION by every plan
        missing = [file for name in names if (file := f"{folder}/{name}.py") not in found]
        assert not missing, f"no VERSION in {', '.join(missing)}"


@pytest.mark.parametrize(("name", "old", "new"), [
    (LOSS, '"""A method."""', '"""Another text."""'),
    (LOSS, '    """The loss."""\n', ""),
    (LOSS, "    # from the paper\n", "    # from nowhere\n\n"),
    (LOSS, "(batch.rewards_NT, batch.mask_NT)", "(\n        batch.rewards_NT,\n        batch.mask_NT,\n    )"),
    (LOSS, "advantages_NT * config.beta - 1", "((advantages_NT * config.beta) - 1)"),
    (LOSS, "beta: float = 0.1", "beta: 'Positive' = 1e-1"),
    (LOSS, "keep: int", "keep: str | None"),
    (LOSS, LOCAL, "    advantages_NT = core.whiten"),
    (LOSS, "batch: LossBatch, config: Config) -> LossOutput", "batch, config)"),
    (LOSS, "    from torch import Tensor", "    from numpy import ndarray as Tensor"),
    (LOSS, "from rlfamily import core\n", "import json\nfrom rlfamily import core\n"),
    (LOSS, 'VERSION = "1"', 'VERSION: str = "1"'),
    ("rlfamily/core/gae.py", "x_NT: torch.Tensor, mask_NT: torch.Tensor", "x_NT, mask_NT"),
    ("rlfamily/core/gae.py", "x_NT.cumsum(1)", "x_NT.cumsum(2)"),  # core.sums is not used
    ("rlfamily/algorithms/__init__.py", "size = 1", "size = 10"),  # LossBatch is only an annotation
    ("rlfamily/tasks/__init__.py", "['toy']", "['toy', 'other']"),  # the registry is not used
])
def test_what_cannot_change_numbers_changes_no_fingerprint(root: Path, name: str, old: str, new: str) -> None:
    edit(root, name, old, new)
    assert told(root) == {}


@pytest.mark.parametrize(("module", "name", "old", "new", "what"), [
    (LOSS, LOSS, "- 1", "- 2", "own code"),
    (LOSS, LOSS, "- 1", "- 1.0", "own code"),
    (LOSS, LOSS, "- 1", "+ 1", "own code"),
    (LOSS, LOSS, "beta: float = 0.1", "beta: float = 0.2", "own code"),
    (LOSS, LOSS, "    keep: int\n", "", "own code"),
    (LOSS, LOSS, "core.whiten", "core.masked", "own code"),
    (LOSS, "rlfamily/core/gae.py", "/ EPSILON", "* EPSILON", "rlfamily.core.gae.whiten"),
    (LOSS, "rlfamily/core/gae.py", "1e-8", "1e-6", "rlfamily.core.gae.EPSILON"),
    (LOSS, "rlfamily/core/gae.py", "x_NT * mask_NT", "x_NT", "rlfamily.core.gae.masked"),
    (LOSS, "rlfamily/core/shapes.py", "'checked'", "None", "rlfamily.core.shapes.check"),
    (LOSS, "rlfamily/algorithms/__init__.py", "size = 2", "size = 3", "rlfamily.algorithms.LossOutput"),
    (LOSS, "rlfamily/algorithms/settings.py", "0.5", "0.6", "rlfamily/algorithms/settings.py"),
    (LOSS, "rlfamily/algorithms/settings.py", "    group: int\n", "", "rlfamily/algorithms/settings.py"),
    (TASK, TASK, "from math import log", "from numpy import log", "own code"),
    (TASK, "rlfamily/tasks/support/hub.py", "words.ALL", "words.ALL[1:]", "rlfamily/tasks/support/hub.py"),
    (TASK, "rlfamily/tasks/support/words.py", "'two'", "'three'", "rlfamily/tasks/support/words.py"),
    (JUDGE, "rlfamily/judges/pairwise.py", "'win'", "'tie'", "rlfamily/judges/pairwise.py"),
    # exact has a VERSION of its own, in another folder: its change is its own
    ("rlfamily/rewards/exact.py", "rlfamily/rewards/exact.py", "return 1", "return 0", "own code"),
])
def test_what_may_change_numbers_is_told_by_name(
    root: Path, module: str, name: str, old: str, new: str, what: str,
) -> None:
    edit(root, name, old, new)
    assert told(root) == {module: f"{what} changed at VERSION 1"}


def test_a_name_that_core_lost_is_an_error_and_not_overlooked(root: Path) -> None:
    edit(root, "rlfamily/core/__init__.py", '"whiten", ', "")
    with pytest.raises(LookupError, match=r"rlfamily\.core has no 'whiten'"):
        present(root)


def test_all_of_core_counts_where_the_name_is_chosen_at_run_time(root: Path) -> None:
    edit(root, LOSS, LOCAL, "    chosen = getattr(core, config.name)\n" + LOCAL)
    record(root, "a test")
    edit(root, "rlfamily/core/gae.py", "x_NT.cumsum(1)", "x_NT.cumsum(2)")
    assert told(root) == {LOSS: "rlfamily.core.gae.sums changed at VERSION 1"}


def test_the_message_says_where_what_and_what_to_do(root: Path) -> None:
    edit(root, LOSS, "- 1", "- 2")
    edit(root, "rlfamily/core/gae.py", "1e-8", "1e-6")
    [change] = changes(present(root), recorded(root))
    assert str(change) == (
        f"{LOSS}: own code, rlfamily.core.gae.EPSILON changed at VERSION 1: raise VERSION in {LOSS} if numbers change "
        "and run `python -m tests.fingerprints record`, "
        'else `python -m tests.fingerprints record "numbers do not change: why"`')


def test_code_that_changed_at_the_same_version_needs_a_reason(root: Path) -> None:
    before = (root / RECORD).read_text()
    edit(root, LOSS, "- 1", "- 2")
    for reason in ("", "  "):
        with pytest.raises(Undecided, match="own code changed at VERSION 1"):
            record(root, reason)
    assert (root / RECORD).read_text() == before
    record(root, "numbers do not change: a test")
    assert told(root) == {}
    modules = recorded(root)["modules"]
    assert modules[LOSS]["decision"] == "numbers do not change: a test"
    assert {modules[file]["decision"] for file in modules.keys() - {LOSS}} == {"new"}


def test_a_raised_version_needs_no_reason_and_takes_none(root: Path) -> None:
    edit(root, LOSS, "- 1", "- 2")
    edit(root, LOSS, 'VERSION = "1"', 'VERSION = "2"')
    edit(root, TASK, "len(", "1 + len(")
    assert told(root) == {LOSS: "VERSION is 2, was 1", TASK: "own code changed at VERSION 1"}
    with pytest.raises(Undecided) as caught:
        record(root)
    assert LOSS not in str(caught.value)
    record(root, "numbers do not change: the other one")
    modules = recorded(root)["modules"]
    assert (modules[LOSS]["version"], modules[LOSS]["decision"]) == ("2", "VERSION is 2, was 1")
    assert modules[TASK]["decision"] == "numbers do not change: the other one"


def test_a_version_alone_is_recorded_too(root: Path) -> None:
    edit(root, LOSS, 'VERSION = "1"', 'VERSION = "2"')
    fingerprint = recorded(root)["modules"][LOSS]["fingerprint"]
    record(root)
    assert recorded(root)["modules"][LOSS] == {
        "version": "2", "fingerprint": fingerprint, "decision": "VERSION is 2, was 1"}


def test_new_modules_are_told_and_those_that_are_gone_are_dropped(root: Path) -> None:
    (root / TASK).unlink()
    new = "rlfamily/shaping/overlong.py"
    (root / new).parent.mkdir()
    (root / new).write_text('VERSION = "1"\n')
    assert told(root) == {TASK: "is gone", new: "is new"}
    record(root)
    assert told(root) == {}
    assert TASK not in (root / RECORD).read_text()
    assert "rlfamily/tasks/support/words.py" not in json.loads((root / RECORD).read_text())["parts"]


def test_the_command_shows_refuses_and_records(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], root) == 0
    edit(root, LOSS, "- 1", "- 2")
    assert main([], root) == 1
    assert main(["record"], root) == 1
    assert main(["record", "numbers", "do"], root) == 2  # a reason without quotes
    assert main(["record", "numbers do not change: a test"], root) == 0
    assert main([], root) == 0
    out, error = capsys.readouterr()
    assert out.startswith("as recorded\n") and out.endswith("as recorded\n")
    assert "raise VERSION in" in error and "python -m tests.fingerprints" in error
