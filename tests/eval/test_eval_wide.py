"""Tables of several models and tasks: protocols, marks, derived columns, reward hacking, samples, and their layout."""

from __future__ import annotations

import csv
import io
from itertools import product

import numpy as np
import pytest
from fixture import HOSTILE, commit, write_index
from rich.console import Console
from wide import DRAWS, MODELS, PROMPTS, SPEC, TASKS, experiments, make_wide, score_rows

from eval import statistics
from eval.artifacts import Archive
from eval.layout import sheet
from eval.report import build_report
from eval.series import Series, draw
from eval.tables import Book, records
from eval.terminal import show
from eval.text import md, to_latex, to_markdown
from rlfamily.experiment import Experiment
from rlfamily.records import CellEntry


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    make_wide(folder / "results")
    return folder / "results", experiments(folder / "experiments")


@pytest.fixture(scope="module")
def wide(place):
    return Book(Archive(*place)).frame("wide_tab")


def means(model, row, task, mode="greedy", field="reward"):
    """By seed: the mean over prompts of the mean over draws."""
    return [np.mean([one[field] for one in score_rows(model, row, task, seed) if one["mode"] == mode])
            for seed in (0, 1)]


def test_every_model_and_column_has_its_own_entry(wide):
    assert {(one["model"], one["task_or_benchmark"]) for one in records(wide)} == {
        (model, task) for model in MODELS for task in [*TASKS, "GM over 3 tasks"]}
    assert wide.at("Ours", "Chat", "Avg@1, mean", "Large")[0].value == pytest.approx(
        np.mean(means("Large", "Ours", "Chat")))
    small = wide.at("Ours", "Chat", "Avg@1", "Small")[0]
    assert small.published.value == "1.9"
    assert wide.at("Ours", "Chat", "Avg@1", "Large")[0].published is None


def test_best_of_seeds_stands_beside_the_mean(wide):
    best, mean = (wide.at("GRPO", "Summary", metric, "Small")[0] for metric in ("Avg@1", "Avg@1, mean"))
    by_seed = means("Small", "GRPO", "Summary")
    assert best.value == pytest.approx(max(by_seed))
    assert best.value > mean.value == pytest.approx(np.mean(by_seed))
    assert best.note == f"best of 2 seeds: seed {by_seed.index(max(by_seed))}"
    # A draw takes two of two seeds: three quarters of the draws hold the better one.
    assert best.draws.mean() > mean.draws.mean()
    assert best.low < best.value < best.high


def test_best_of_seeds_by_hand():
    # Values 0 and 3: the best of two draws with replacement is 0 in 1/4 of the cases, else 3.
    chosen = statistics.item_draws(statistics.stream("x"), 2, 4000, 1)
    draws = statistics.best(np.tile([0.0, 3.0], (4000, 1)), chosen)
    assert [np.mean(draws == value) for value in (0.0, 3.0)] == pytest.approx([0.25, 0.75], abs=0.03)


def test_pass_at_three_is_any_of_three(wide):
    for model in MODELS:
        hits = []
        for seed in (0, 1):
            solved = {one["item"] for one in score_rows(model, "Ours", "Chat", seed)
                      if one["mode"] == "sample" and one["valid"]}
            hits.append(100 * len(solved) / PROMPTS)
        entry = wide.at("Ours", "Chat", "Pass@3", model)[0]
        assert entry.value == pytest.approx(np.mean(hits))
        assert entry.low < entry.value < entry.high <= 100
        assert entry.n == 2 * DRAWS * PROMPTS


def test_spread_over_trials(wide):
    by_seed = []
    for seed in (0, 1):
        rows = [one for one in score_rows("Small", "Ours", "Chat", seed) if one["mode"] == "sample"]
        trials = [np.mean([one["reward"] for one in rows if one["draw"] == draw]) for draw in range(DRAWS)]
        by_seed.append(np.std(trials, ddof=1))
    entry = wide.at("Ours", "Chat", "Avg@3 std", "Small")[0]
    assert entry.value == pytest.approx(np.mean(by_seed))
    shown = sheet(wide).blocks[0].lines[2].places[2]
    assert shown.published == "1.8 (0.02)"
    assert f" ({entry.value:.3f}) ± " in shown.reproduced
    assert "In brackets: standard deviation over trials." in to_markdown(wide)


def test_what_stands_beside_a_best_seed_is_of_that_seed(tmp_path):
    """Avg@3 and its spread are those of the model whose Avg@1 is printed, whichever seed has the best Avg@3."""
    cells = make_wide(tmp_path)
    changes = {"Avg@1": {"better": "lower"}, "Avg@3": {"seed_of": "Avg@1"}, "Avg@3 std": {"seed_of": "Avg@1"}}
    metrics = [one | changes.get(one["name"], {}) for one in SPEC["metrics"]]
    write_index(tmp_path, "wide_tab", SPEC | {"published": "", "metrics": metrics}, cells, "tiny")
    frame = Book(Archive(tmp_path, experiments(tmp_path / "e"))).frame("wide_tab")
    seen = set()
    for model, row, task in product(MODELS, ("GRPO", "Ours"), TASKS):
        seed = int(np.argmin(means(model, row, task)))
        drawn = [one for one in score_rows(model, row, task, seed) if one["mode"] == "sample"]
        trials = [np.mean([one["reward"] for one in drawn if one["draw"] == draw]) for draw in range(DRAWS)]
        mean, spread = (frame.at(row, task, metric, model)[0] for metric in ("Avg@3", "Avg@3 std"))
        assert mean.value == pytest.approx(np.mean([one["reward"] for one in drawn]))
        assert spread.value == pytest.approx(np.std(trials, ddof=1))
        assert mean.seeds == spread.seeds == (seed,)
        assert mean.note == f"seed {seed}, the best of 2 by Avg@1"
        seen.add((seed, int(np.argmax(means(model, row, task, mode="sample")))))
    assert {(0, 1), (1, 0)} & seen, "the best seeds of both are the same everywhere: this shows nothing"


def test_trials_need_equal_draws(tmp_path):
    rows = [row for row in score_rows("Small", "Ours", "Chat", 0) if (row["item"], row["draw"]) != (3, 2)]
    stages = {"score": commit(tmp_path, "score", "uneven", {}, {"scores.jsonl": rows}, {})}
    cells = [CellEntry(model="Small", row="Ours", column="Chat", seed=0, overrides=[], names={}, config={}, stages=stages,
                       status="done")]
    write_index(tmp_path, "wide_tab", SPEC | {"published": ""}, cells, "tiny")
    frame = Book(Archive(tmp_path, experiments(tmp_path / "e"))).frame("wide_tab")
    assert "2 to 3 draws an item" in frame.at("Ours", "Chat", "Avg@3 std", "Small")[0].note


def test_geometric_mean_of_the_draws_not_of_the_interval(wide):
    parts = [wide.at("GRPO", task, "Avg@1", "Large")[0] for task in TASKS]
    entry = wide.at("GRPO", "GM over 3 tasks", "GM of Avg@1", "Large")[0]
    product = np.prod([part.value for part in parts])
    assert product < 0
    assert entry.value == pytest.approx(-abs(product) ** (1 / 3))
    drawn = np.prod([part.draws for part in parts], axis=0)
    assert entry.draws == pytest.approx(np.sign(drawn) * np.abs(drawn) ** (1 / 3))
    assert "with 1 of 3 values below zero this is no geometric mean" in entry.note
    assert wide.at("Ours", "GM over 3 tasks", "GM of Avg@1", "Large")[0].published.value == "-0.7"


def test_tasks_are_resampled_apart_and_rows_together(wide):
    metric = wide.experiment.named_metrics()["Avg@1, mean"]
    values = np.random.default_rng(0).normal(0, 1, PROMPTS)
    one = [Series(0, "key", tuple(range(PROMPTS)), values, values, PROMPTS)]
    chat, again, drawing = (draw(one, metric, (), task)[1] for task in ("Chat", "Chat", "Drawing"))
    assert np.array_equal(chat, again)
    assert abs(np.corrcoef(chat, drawing)[0, 1]) < 0.1
    ours, grpo, other = (wide.at(row, task, "Avg@1, mean", "Small")[0].draws
                         for row, task in (("Ours", "Chat"), ("GRPO", "Chat"), ("Ours", "Drawing")))
    assert np.corrcoef(ours, grpo)[0, 1] > 0.9
    assert np.corrcoef(ours, other)[0, 1] < 0.5  # the seeds they share


def test_best_and_second_best(wide):
    marks = {row: wide.at(row, "Chat", "Avg@1, mean", "Small")[1] for row in wide.rows}
    assert marks == {"base": "", "GRPO": "", "Ours": "best", "Hacker": "second", "Ours (variant)": ""}
    places = {line.label: line.places[1] for line in sheet(wide).blocks[0].lines}
    for row, around in {"Ours": "**", "Hacker": "*", "GRPO": ""}.items():
        assert f"| {around}{md(places[row].reproduced)}{around} (n=" in to_markdown(wide)
    assert "Italic" in to_markdown(wide)
    assert "\\textbf{" in to_latex(wide) and "\\underline{" in to_latex(wide)


def test_without_a_best_there_is_no_second(tmp_path):
    cells = make_wide(tmp_path)
    twins = {(one.model, one.column, one.seed): one.stages for one in cells if one.row == "Ours"}
    tied = [one.model_copy(update={"stages": twins[one.model, one.column, one.seed]}) if one.row == "Hacker" else one
            for one in cells]
    write_index(tmp_path, "wide_tab", SPEC | {"published": ""}, tied, "tiny")
    frame = Book(Archive(tmp_path, experiments(tmp_path / "e"))).frame("wide_tab")
    assert {frame.at(row, "Chat", "Avg@1, mean", "Small")[1] for row in frame.rows} == {""}


def test_reward_up_and_gold_down_is_called_reward_hacking(wide):
    hacked = {entry.row for entry in wide.entries if entry.warnings}
    assert hacked == {"Hacker"}
    note = wide.at("Hacker", "Chat", "Avg@1", "Small")[0].note
    assert note.startswith("reward hacking: Avg@1 rises above base while gold falls below it (in 100 % of draws); "
                           "best of 2 seeds: seed ")
    assert "reward hacking" in to_markdown(wide).split("Each place")[0]


def test_optional_rows_appear_once_they_were_asked_for(wide):
    assert wide.rows == ["base", "GRPO", "Ours", "Hacker", "Ours (variant)"]


def test_a_metric_that_applies_nowhere_is_not_a_column(wide):
    assert "not here" not in {metric.name for _, metric in wide.panels}
    assert wide.at("Ours", "Chat", "not here", "Small")[0].hole == "not applicable"
    assert wide.holes == []


def test_layout_is_the_papers(wide):
    page = sheet(wide)
    assert [group.label for group in page.groups] == [*TASKS, "GM over 3 tasks"]
    assert [block.label for block in page.blocks] == MODELS
    assert [line.label for line in page.blocks[1].lines] == wide.rows
    text = to_latex(wide)
    assert "\\multicolumn{7}{c}{Chat}" in text  # five numbers, two of them printed by the paper
    assert text.count("{l}{\\textit{") == 2
    markdown = to_markdown(wide)
    assert markdown.count("| Method |") == 2 * 3  # six panels side by side: a task and the GM
    out = io.StringIO()
    show(wide, Console(file=out))
    assert max(map(len, out.getvalue().splitlines())) <= 100


def test_settings_are_laid_out_as_methods_and_tasks(tmp_path):
    spec = {"title": "S", "paper": "P", "place": "Table 5", "about": "a", "kind": "settings",
            "scales": {"tiny": {"seeds": [0], "base": []}}, "rows": {"A": [], "B": [], "base": ["algorithm=none"]}, "columns": {"x": [], "y": []},
            "metrics": [{"name": "lr", "stage": "config", "field": "algorithm.lr", "digits": 2},
                        {"name": "K", "stage": "config", "field": "algorithm.k", "digits": 0}]}
    configs = {("A", "x"): {"lr": 0.5, "k": 4}, ("A", "y"): {"lr": 0.25, "k": 4}, ("B", "x"): {"lr": 1.0},
               ("B", "y"): {"lr": 1.0}, ("base", "x"): {"warm_start": "base"}, ("base", "y"): {"warm_start": "base"}}
    cells = [CellEntry(model="", row=row, column=column, seed=0, overrides=[], names={}, stages={}, status="done",
                       config={"algorithm": config}) for (row, column), config in configs.items()]
    write_index(tmp_path, "settings", spec, cells, "tiny")
    frame = Book(Archive(tmp_path, experiments(tmp_path / "e"))).frame("settings")
    assert (frame.at("base", "x", "lr")[0].hole, frame.holes) == ("not applicable", [])
    page = sheet(frame)
    assert page.headings == ("x", "y")
    assert [(line.label, *(place.value for place in line.places)) for line in page.lines] == [
        ("A: lr", "0.50", "0.25"), ("A: K", "4", "4"), ("B: lr", "1.00", "1.00")]
    assert {(place.aside, place.half) for line in page.lines for place in line.places} == {("", "")}  # nothing was drawn


def test_theory_is_read_without_draws(tmp_path):
    spec = {"title": "T", "paper": "P", "place": "Section 3", "about": "a", "kind": "theory", "theory": {
                "checks": ["thm"], "seed": 0}, "scales": {"tiny": {"seeds": [0], "base": []}},
            "rows": {"K=2": {"overrides": [], "where": {"k": 2}}, "K=4": {"overrides": [], "where": {"k": 4}}},
            "columns": {"α=0.7": {"overrides": [], "where": {"alpha": 0.7}}},
            "metrics": [{"name": "KL", "stage": "theory", "field": "value", "where": {"check": "thm"}},
                        {"name": "expected", "stage": "theory", "field": "expected", "where": {"check": "thm"}}]}
    assert Experiment.model_validate(spec).stages == ["theory"]
    rows = [{"check": check, "k": k, "alpha": alpha, "value": k * alpha, "expected": 0.0, "item": 0}
            for check in ("thm", "other") for k in (2, 4) for alpha in (0.2, 0.7)]
    stages = {"theory": commit(tmp_path, "theory", "theory", {}, {"theory.jsonl": rows}, {})}
    cells = [CellEntry(model="", row=row, column="α=0.7", seed=0, overrides=[], names={}, config={}, stages=stages,
                       status="done") for row in ("K=2", "K=4")]
    write_index(tmp_path, "wide_theory", spec, cells, "tiny")
    frame = Book(Archive(tmp_path, experiments(tmp_path / "e"))).frame("wide_theory")
    entry = frame.at("K=4", "α=0.7", "KL")[0]
    assert (entry.value, entry.low, entry.high, entry.draws.size) == (2.8, 2.8, 2.8, 0)
    assert frame.banner == ""


def test_samples_show_every_method_side_by_side(place):
    root, folder = place
    keys = {(one.row, one.model, one.column): one.stages["score"] for one in Archive(root).index("wide_tab")[0].cells
            if one.seed == 0}
    judged = [{"item": item, "win": int(item == 1), "tie": int(item != 1), "loss": 0} for item in range(PROMPTS)]
    key = commit(root, "judge", "judge", {"ours": keys["Ours", "Small", "Chat"], "theirs": keys["GRPO", "Small", "Chat"]},
                 {"judgements.jsonl": judged}, {})
    cells = [CellEntry(model="Small", row="GRPO", column="Chat", seed=0, overrides=[], names={}, config={},
                       stages={"judge": key}, status="done")]
    win = {"name": "win", "stage": "judge", "field": "win", "better": "higher"}
    rows = {"base": [], "GRPO": {"overrides": [], "against": "base"}}
    write_index(root, "wide_judge", SPEC | {"metrics": [win], "derived": [], "published": "", "rows": {
        name: {"overrides": [], "against": "base"} for name in rows}}, cells, "tiny")
    build_report(root, folder)
    pages = {path.name: path.read_text() for path in (root / "report" / "samples" / "wide_samples").glob("*.html")}
    assert len(pages) == 2 * 3 * 2 + 1  # models, tasks, stretches of 40 of the 64 prompts
    text = pages["m0-t0-0.html"]
    for row in ("base", "GRPO", "Ours", "Hacker"):
        assert f"{row} says 5" in text
    assert "judge: win against GRPO" in text
    assert HOSTILE not in "".join(pages.values())
    assert "Chat 45" not in text and "Chat 45" in pages["m0-t0-1.html"]
    assert "http:" not in text
    assert "https:" not in text
    assert "<script" not in text
    for name in ("m1-t0-0.html", "m0-t2-0.html", "m0-t0-1.html"):
        assert f'href="{name}"' in text


def test_a_search_is_a_tree_on_its_page(tmp_path):
    folder = experiments(tmp_path / "e")
    cells = make_wide(tmp_path / "r")
    rows = [{"item": 5, "round": 0, "candidate": 0, "parent": None, "value": 1.5, "kept": True, "text": "first"},
            {"item": 5, "round": 0, "candidate": 1, "parent": None, "value": -1.0, "kept": False, "text": HOSTILE},
            {"item": 5, "round": 1, "candidate": 0, "parent": 0, "value": None, "kept": False, "text": "left"},
            {"item": 5, "round": 1, "candidate": 1, "parent": 0, "value": 2.5, "kept": True, "text": "right"},
            {"item": "5", "round": 1}, {"no": "row"}]
    trace = commit(tmp_path / "r", "trace", "trace", {}, {"trace.jsonl": rows}, {})
    spot = ("Ours", MODELS[0], TASKS[0], 0)
    index = Archive(tmp_path / "r").index("wide_samples")[0]
    write_index(tmp_path / "r", "wide_samples", index.spec, [
        one.model_copy(update={"stages": one.stages | {"trace": trace}})
        if (one.row, one.model, one.column, one.seed) == spot else one for one in cells], "tiny")
    build_report(tmp_path / "r", folder)
    text = (tmp_path / "r" / "report" / "samples" / "wide_samples" / "m0-t0-0.html").read_text()
    assert text.count("<details") == 1 and HOSTILE not in text
    tree = " ".join(text[text.index("<summary>"):text.index("</details>")].split())
    assert "<b>kept · 1.5</b> <code>first</code> <ul" in tree and "dropped · -1 <code>&lt;script&gt;" in tree
    assert "dropped <code>left</code>" in tree and "<b>kept · 2.5</b> <code>right</code>" in tree


def test_curves_have_a_panel_a_model_and_task(place):
    root, folder = place
    build_report(root, folder)
    rows = list(csv.DictReader(io.StringIO((root / "figures" / "wide_fig.csv").read_text())))
    assert {row["panel"] for row in rows} == {f"{model}, {task}, reward" for model in MODELS for task in TASKS}
    assert {row["method"] for row in rows} == {"GRPO", "Ours", "Hacker", "Ours (variant)"}
    assert (root / "figures" / "wide_fig.svg").is_file()
