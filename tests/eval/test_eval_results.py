"""rlfamily.results and the notebook that uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from eval.__main__ import main
from rlfamily.errors import UserError
from rlfamily.results import load

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOK = REPOSITORY / "results" / "notebooks" / "inspect_results.ipynb"


def test_frames(root):
    results = load(root)
    assert {"topr_tab1", "topr_tab2", "topr_compare"} <= set(results.tables.table_id)
    first = results.tables[(results.tables.table_id == "topr_tab2") & (results.tables.metric == "PG loss")].iloc[0]
    assert (first.published, first.seeds) == ("-34.5635", "0,1,2")
    failed = results.runs[results.runs.status == "failed"]
    assert set(failed.row) == {"DPO"}
    assert set(failed.reason) == {"ValueError: no pairs <left>"}
    table = results.of("topr_tab2")
    steps = table.metrics[table.metrics.row == "Experiment 1"]
    assert len(steps) == 3 * 40
    assert steps.groupby("seed").pg_loss.mean().mean() == pytest.approx(float(first.reproduced))
    assert set(results.samples.stage) == {"train", "score"}


def test_a_fact_has_one_row_whatever_shows_it(root):
    results = load(root)
    assert not results.samples.duplicated(["run", "stage", "mode", "item", "draw", "step"]).any()
    assert not results.metrics.duplicated(["run", "step"]).any()
    shown = results.runs.merge(results.metrics, left_on="train", right_on="run")
    assert len(shown) > len(results.metrics)  # runs that several tables show
    assert set(results.metrics.run) == set(shown.train)
    with pytest.raises(UserError, match=r"no 'topr_tab22' .*did you mean 'topr_tab2'"):
        results.of("topr_tab22")


def test_runs_have_the_settings_in_which_they_differ(root):
    runs = load(root).of("topr_tab2").runs
    differing = [name for name in runs if name.startswith("algorithm.")]
    assert differing and all(runs[name].astype(str).nunique() > 1 for name in differing)


def test_the_home_folder_has_a_short_name(root, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(root.parent))
    assert load(f"~/{root.name}").layout.root == root
    assert main(["--results", f"~/{root.name}", "topr_tab3"]) == 2
    assert f"no results under {root}" in capsys.readouterr().err


def test_an_empty_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"nothing under .*: run make reproduce TABLE=topr_tab2 first"):
        load(tmp_path)


def test_pandas_waits_until_a_frame_is_asked_for(root):
    code = "import sys; from rlfamily.results import load; load(sys.argv[1]); print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_notebook_runs(root, monkeypatch):
    monkeypatch.setenv("RLFAMILY_RESULTS", str(root))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit the notebook without outputs"
    done = NotebookClient(notebook, timeout=120, kernel_name="python3",
                          resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    kinds = [set(output.get("data", {})) for cell in done.cells for output in cell.get("outputs", [])]
    assert any("image/png" in kind for kind in kinds)
    assert sum("text/html" in kind for kind in kinds) >= 5
