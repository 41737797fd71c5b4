"""Labels of published numbers and of claims that are nowhere are refused before anything runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from eval.labels import require_known
from rlfamily import experiment
from rlfamily.errors import UserError
from rlfamily.experiment import EXPERIMENTS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(EXPERIMENTS, tmp_path / "experiments")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refused(folder: Path, name: str = "topr_tab2") -> str:
    with pytest.raises(UserError) as caught:
        require_known({name: experiment.load(name, folder)}, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", experiment.names())
def test_shipped_labels_are_known(name: str) -> None:
    require_known({name: experiment.load(name)})


@pytest.mark.parametrize(("old", "new", "told"), [
    ("Experiment 2,", "Experiment2,", "method 'Experiment2' is nowhere in experiments/topr_tab2.yaml (did you mean 'Experiment 2'?)"),
    ("valid equation rate", "valid equation rates", "metric 'valid equation rates' is nowhere"),
    ("Countdown (TinyZero)", "Countdown", "task_or_benchmark 'Countdown' is nowhere"),
    ("Qwen2.5-0.5B", "Qwen-0.5B", "model 'Qwen-0.5B' is nowhere"),
    ("task_or_benchmark,", "task,", "no column 'task_or_benchmark'"),
])
def test_a_label_of_the_paper_that_is_nowhere(folder: Path, old: str, new: str, told: str) -> None:
    edit(folder / "published/topr_tab2.csv", old, new)
    assert told in refused(folder)


def test_a_row_that_the_paper_does_not_print(folder: Path) -> None:
    path = folder / "published/topr_tab2.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if ",Experiment 3," not in line) + "\n")
    assert "published/topr_tab2.csv has no method 'Experiment 3'" in refused(folder)


def test_no_published_numbers(folder: Path) -> None:
    (folder / "published/topr_tab2.csv").unlink()
    assert "topr_tab2.csv is missing: correct `published` in the experiment's yaml" in refused(folder)


@pytest.mark.parametrize(("old", "new", "told"), [
    ("{greatest: [Experiment 1, Experiment 2,", "{greatest: [Experiment 1, Experimnt 2,",
     "claim 'topr_c1a': topr_tab2 has no row 'Experimnt 2' (did you mean 'Experiment 2'?)"),
    ("{table: topr_tab2, metric: PG loss slope}", "{table: topr_tab2, metric: PG loss slop}",
     "topr_tab2 has no metric 'PG loss slop' (did you mean 'PG loss slope'?)"),
    ("{table: topr_tab2, metric: PG loss slope}", "{table: topr_tab22, metric: PG loss slope}",
     "no experiment 'topr_tab22' in experiments/ (did you mean 'topr_tab2'?)"),
])
def test_a_claim_of_what_is_nowhere(folder: Path, old: str, new: str, told: str) -> None:
    edit(folder / "claims/topr.yaml", old, new)
    assert told in refused(folder)
