"""From artifacts to numbers: values, pairing, holes, partial seeds, verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fixture import commit, key_of, make_experiment, reseal, spec_of, write_index

from eval.artifacts import Archive, Published
from eval.tables import Book, records
from eval.values import BAD
from eval.verdicts import verdict
from rlfamily.errors import UserError
from rlfamily.experiment import EXPERIMENTS, Experiment
from rlfamily.records import CellEntry, Layout, read_jsonl

MODEL = "Qwen2.5-0.5B"
COLUMN = "Countdown (TinyZero)"


def entry_of(book, table, row, metric):
    return book.frame(table).at(row, COLUMN, metric)[0]


def test_value_is_the_mean_over_seeds_of_the_mean_over_steps(book, root):
    entry = entry_of(book, "topr_tab2", "Experiment 2", "PG loss")
    means = [np.mean([row["pg_loss"] for row in read_jsonl(Layout(root).object(key) / "metrics.jsonl")])
             for _, key in entry.runs]
    assert entry.value == pytest.approx(np.mean(means))
    assert (entry.seeds, entry.n) == ((0, 1, 2), 120)
    assert entry.low < entry.value < entry.high


def test_where_selects_the_decoding_mode(book, root):
    entry = entry_of(book, "topr_compare", "SFT", "valid rate (greedy)")
    rows = [row for _, key in entry.runs for row in read_jsonl(Layout(root).object(key) / "scores.jsonl")]
    assert entry.value == pytest.approx(np.mean([row["valid"] for row in rows if row["mode"] == "greedy"]))


@pytest.fixture(scope="module")
def twins(root, tmp_path_factory):
    """topr_compare with the artifacts of the best row under a second name as well."""
    folder = tmp_path_factory.mktemp("twins")
    (folder / "artifacts").symlink_to(root / "artifacts")
    index = Archive(root).index("topr_compare")[0]
    copies = {cell.seed: cell.stages for cell in index.cells if cell.row == "RLOO (verifier)"}
    cells = [cell.model_copy(update={"stages": copies[cell.seed]}) if cell.row == "TOPR (honest)" else cell
             for cell in index.cells]
    write_index(folder, "topr_compare", index.spec, cells, "tiny")
    return Book(Archive(folder)).frame("topr_compare")


def test_held_out_scores_are_paired_and_training_steps_are_not(twins):
    left, right = (twins.at(row, COLUMN, "valid rate (sampled)")[0] for row in ("RLOO (verifier)", "TOPR (honest)"))
    assert np.array_equal(left.draws, right.draws)
    left, right = (twins.at(row, COLUMN, "PG loss std")[0] for row in ("RLOO (verifier)", "TOPR (honest)"))
    assert left.value == right.value
    assert not np.array_equal(left.draws, right.draws)


def test_partial_seeds_are_named(book):
    entry = entry_of(book, "topr_compare", "DPO", "valid rate (sampled)")
    assert entry.seeds == (0, 2)
    assert entry.note == "2 of 3 seeds; seed 1 failed: ValueError: no pairs <left>"


def test_a_field_that_does_not_apply_is_not_a_failure(book):
    entry = entry_of(book, "topr_compare", "SFT", "PG loss std")
    assert (entry.value, entry.hole) == (None, "not applicable")


def test_settings_match_exactly_and_differ_when_they_differ(book, tmp_path):
    frame = book.frame("topr_tab1")
    assert {entry.verdict for entry in frame.entries} == {"matches"}
    spec = spec_of("topr_tab1")
    config = {"algorithm": {"prompts": 501, "batch_prompts": 2, "group_size": 2}}
    cells = [CellEntry(model=MODEL, row="Experiment 1", column=COLUMN, seed=0, overrides=[], names={}, config=config, stages={},
                       status="done")]
    write_index(tmp_path, "topr_tab1", spec, cells, "tiny")
    changed = Book(Archive(tmp_path)).frame("topr_tab1")
    assert changed.at("Experiment 1", COLUMN, "sample size")[0].verdict == "differs"
    hole = changed.at("Experiment 1", COLUMN, "epoch")[0]
    assert (hole.hole, hole.note) == ("not applicable", "the resolved config has no algorithm.epochs")
    assert changed.at("Experiment 2", COLUMN, "K")[0].note == "no cell of this row was planned"


@pytest.mark.parametrize(("status", "reason", "hole", "note"), [
    ("missing", "", "not run", "seed 0 not run"),
    ("failed", "ValueError: x", "failed", "seed 0 failed: ValueError: x"),
    ("blocked", "by sft", "failed", "seed 0 blocked: by sft"),
    ("done", "", "not run", "seed 0 lost its artifact"),
])
def test_holes(tmp_path, status, reason, hole, note):
    cells = [CellEntry(model=MODEL, row="Experiment 2", column=COLUMN, seed=0, overrides=[], names={}, config={},
                       stages={"train": key_of("absent")}, status=status, reason=reason)]
    write_index(tmp_path, "topr_fig5", spec_of("topr_fig5"), cells, "tiny")
    frame = Book(Archive(tmp_path)).frame("topr_fig5")
    entry = frame.at("Experiment 2", COLUMN, "PG loss")[0]
    assert (entry.hole, entry.note, entry.value) == (hole, note, None)
    record = records(frame)[0]
    assert (record["reproduced"], record["verdict"], record["seeds"], record["n"]) == ("", hole, "", "0")


def test_numbers_that_are_not_finite_are_not_averaged(tmp_path):
    rows = [{"step": step, "progress": step / 4, "pg_loss": math.nan if step == 2 else 1.0, "mean_valid": 0.5}
            for step in range(4)]
    stages = {"train": commit(tmp_path, "train", "diverged", {}, {"metrics.jsonl": rows}, {})}
    cells = [CellEntry(model=MODEL, row="Experiment 2", column=COLUMN, seed=0, overrides=[], names={}, config={}, stages=stages,
                       status="done")]
    write_index(tmp_path, "topr_fig5", spec_of("topr_fig5"), cells, "tiny")
    frame = Book(Archive(tmp_path)).frame("topr_fig5")
    diverged = frame.at("Experiment 2", COLUMN, "PG loss")[0]
    assert (diverged.hole, diverged.note) == ("failed", "seed 0 has 1 of 4 values that are not finite numbers")
    single = frame.at("Experiment 2", COLUMN, "valid equation rate")[0]
    assert (single.value, single.low, single.high) == (0.5, 0.5, 0.5)


def test_seeds_are_compared_on_the_items_they_share(tmp_path):
    make_experiment(tmp_path, "topr_compare", "tiny")
    results = Archive(tmp_path)
    index = results.index("topr_compare")[0]
    key = next(cell for cell in index.cells if cell.row == "SFT" and cell.seed == 1).stages["score"]
    path = Layout(tmp_path).object(key) / "scores.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if '"item": 7,' not in line))
    assert "was changed after its stage wrote it: delete its folder and run again" in entry_of(
        Book(Archive(tmp_path)), "topr_compare", "SFT", "valid rate (greedy)").note
    reseal(tmp_path, key)
    entry = entry_of(Book(Archive(tmp_path)), "topr_compare", "SFT", "valid rate (greedy)")
    assert entry.note == "1 items left out because not every seed has them"


@pytest.mark.parametrize(("low", "high", "seeds", "scale", "word"), [
    (0.07, 0.08, 3, "paper", "supported"),
    (0.0741, 0.08, 3, "paper", "contradicted"),
    (0.07404, 0.08, 3, "paper", "supported"),  # 0.0740 may stand for 0.07404999
    (0.0741, 0.08, 1, "paper", "inconclusive"),  # one seed: the interval holds no seed noise
    (0.05, 0.09, 3, "paper", "inconclusive"),  # wider than the published spread of 0.02
    (0.07, 0.08, 3, "tiny", "not comparable (stand-in)"),
])
def test_verdicts_of_numbers(low, high, seeds, scale, word):
    assert verdict(Published("0.0740", "", ""), 0.075, low, high, seeds, scale, spread=0.02) == word


def test_a_published_standard_deviation_widens_the_published_value():
    assert verdict(Published("0.0740", "0.002", ""), 0.08, 0.077, 0.083, 3, "paper", 0.02) == "supported"


def test_best_survives_only_against_every_other_row(book, twins):
    frame = book.frame("topr_compare")
    assert frame.at("RLOO (verifier)", COLUMN, "valid rate (sampled)")[1]
    bold = [entry.row for position, entry in enumerate(frame.entries) if frame.ranks.get(position) == "best"
            and entry.metric.name == "valid rate (sampled)"]
    assert bold == ["RLOO (verifier)"]
    assert not any(twins.at(row, COLUMN, "valid rate (sampled)")[1] for row in twins.experiment.rows)


def test_missing_and_broken_indexes_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"topr_tab2: no results under .*run make reproduce TABLE=topr_tab2 first"):
        Book(Archive(tmp_path)).frame("topr_tab2")
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "topr_tab2.json").write_text('{"experiment": "x"}')
    with pytest.raises(UserError, match="not a readable index: missing key 'scale'") as broken:
        Book(Archive(tmp_path)).frame("topr_tab2")
    assert "\n" not in str(broken.value)
    with pytest.raises(UserError, match="did you mean 'topr_tab2'"):
        Book(Archive(tmp_path)).frame("topr_tab")


def older(contender):
    """As an index said it before algorithm=none: a flag everywhere, and the overrides of a borrowed method."""
    untrained, against = contender["overrides"] == ["algorithm=none"], contender.get("against")
    return contender | {"untrained": untrained} | ({"overrides": ["algorithm=gnivo"]} if untrained else {}) | (
        {"against": older(against)} if isinstance(against, dict) else {})


@pytest.mark.parametrize("name", ["gnivo_tab2", "gnivo_tab3"])
def test_an_index_written_before_algorithm_none_is_read_as_before(tmp_path, name):
    spec = spec_of(name)
    spec["rows"]["untrained"] = list(spec["rows"].values())[-1]  # a row of that name is no flag
    write_index(tmp_path, name, spec | {"rows": {row: older(one) for row, one in spec["rows"].items()}}, [], "tiny")
    found = Archive(tmp_path).index(name)[1]
    assert found == Experiment.model_validate(spec)
    column = next(iter(found.columns))
    untrained = [one for row, spec in found.rows.items() for one in (spec, found.opponent(row, column)) if one and one.untrained]
    assert len(untrained) == 1


def test_rows_are_read_without_their_long_texts(tmp_path):
    rows = [{"item": 0, "prompt": "a puzzle", "response": "an answer"}, {"item": 1, "prompt": "a puzzle"}]
    key, archive = commit(tmp_path, "score", "score", {}, {"scores.jsonl": rows}, {}), Archive(tmp_path)
    first, second = archive.rows(key, "scores.jsonl")
    assert first == second | {"item": 0} and first["prompt"] != "a puzzle"
    assert list(archive.texts(key, "scores.jsonl")) == rows
    assert archive.texts_at(key, "scores.jsonl", [1]) == rows[1:]


def test_bytes_that_are_no_text_spoil_nothing_else(tmp_path):
    key, archive = commit(tmp_path, "score", "score", {}, {"scores.jsonl": [{"item": 0}]}, {}), Archive(tmp_path)
    path = archive.layout.object(key) / "scores.jsonl"
    path.write_bytes(b'{"item": 7, "response": "\xff!"}\n' + path.read_bytes())
    assert archive.rows(key, "scores.jsonl") == [{"item": 7}, {"item": 0}]
    assert list(archive.texts(key, "scores.jsonl")) == [{"item": 7, "response": "\ufffd!"}, {"item": 0}]


def test_a_line_of_two_rows_is_none(tmp_path):
    key, archive = commit(tmp_path, "score", "score", {}, {"scores.jsonl": [{"item": 0}]}, {}), Archive(tmp_path)
    path = archive.layout.object(key) / "scores.jsonl"
    path.write_text('{"item": 1}, {"item": 2}\n' + path.read_text())
    assert archive.rows(key, "scores.jsonl") == [{BAD: '{"item": 1}, {"item": 2}'}, {"item": 0}]


def test_a_published_number_must_be_unique(tmp_path, root):
    experiments = tmp_path / "experiments"
    (experiments / "published").mkdir(parents=True)
    text = (EXPERIMENTS / "published" / "topr_tab2.csv").read_text()
    (experiments / "published" / "topr_tab2.csv").write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(UserError, match="2 rows match"):
        Book(Archive(root, experiments)).frame("topr_tab2")
