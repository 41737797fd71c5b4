"""Instruction following: the generated world's preferences and pairs, and the public data's formats."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from pydantic import ValidationError

from rlfamily.errors import UserError
from rlfamily.examples import read_examples, read_pairs
from rlfamily.records import read_jsonl
from rlfamily.tasks import alpaca
from rlfamily.tasks.support import instruction_pairs, instructions

CONF = Path(__file__).resolve().parents[2] / "conf" / "task"


def settings(name: str, **source: Any) -> Any:
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    return alpaca.Data.model_validate({"kind": "alpaca", "source": {**content["source"], **source}})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("alpaca")
    return out, alpaca.build(settings("alpaca_tiny", train=300, corpus=300), out)


def test_preferences_are_made_of_ratings(files: tuple[Path, dict[str, Any]]) -> None:
    out, summary = files
    metas = {example.prompt: example.meta for example in read_examples(out / "train.jsonl")}
    ratings, extensive = (list(read_jsonl(out / f"preferences_{name}.jsonl")) for name in ("ratings", "extensive"))
    assert summary["preferences_ratings"] == len(ratings) > 900
    assert len(extensive) == len(ratings) + 300 * len(instruction_pairs.KINDS)
    right = fmean(instructions.judge(row["chosen"], metas[row["prompt"]])["gold"]
                  >= instructions.judge(row["rejected"], metas[row["prompt"]])["gold"] for row in ratings)
    assert 0.8 < right < 0.99, "raters are noisy"
    assert len({row["prompt"] for row in ratings[:100]}) > 60, "the first ones are of many prompts"


def test_every_pair_has_a_better_side(files: tuple[Path, dict[str, Any]]) -> None:
    out, _ = files
    vocabulary = set(json.loads((out / "vocabulary.json").read_text()))
    test = {example.prompt for example in read_examples(out / "test.jsonl")}
    pairs = read_pairs(out / "pairs_test.jsonl")
    assert Counter(pair.subset for pair in pairs) == {name: 1024 for name in instruction_pairs.KINDS}
    for pair in pairs:
        assert instructions.judge(pair.chosen, pair.meta)["gold"] == 1 > instructions.judge(pair.rejected, pair.meta)["gold"]
        assert pair.prompt in test and set(pair.rejected.split()) <= vocabulary and pair.weight == 1


def test_sections_have_names(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"no section 'Chatt' \(did you mean 'Chat'"):
        settings("alpaca_tiny", pairs_test={"Chatt": 1})


# ---------------------------------------------------------------------------- public data


def parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


BENCH = [("Chat", "alpacaeval-easy", 4), ("Reasoning", "math-prm", 2), ("Reasoning", "hep-cpp", 8)]


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"prompt": f"Tell me of thing {row}.", "prompt_id": str(row), "score_chosen": 9.0,
             "chosen": [{"role": "user", "content": "x"}], "messages": [{"role": "user", "content": "x"}]} for row in range(12)]
    rows[3]["prompt"], rows[4]["prompt"] = "what is item 1?", None  # asked by the benchmark; missing
    parquet(tmp_path / "learn" / "data" / "train_prefs-00000-of-00001.parquet", rows)
    asked = [{"instruction": f"What is item {row}?", "output": f"It is {row}.", "generator": "gpt4_1106_preview",
              "dataset": "helpful_base"} for row in range(5)]
    parquet(tmp_path / "eval" / "alpaca_eval_gpt4_baseline" / "eval" / "0000.parquet", asked)
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "alpaca_eval_gpt4_baseline.json").write_text(json.dumps(asked))
    bench = [{"prompt": f"p{row}", "chosen": "good", "chosen_model": "m", "rejected": "bad", "rejected_model": "m",
              "subset": subset, "id": row} for _, subset, count in BENCH for row in range(count)]
    parquet(tmp_path / "bench" / "data" / "filtered-00000-of-00001.parquet", [*bench, {**bench[0], "subset": "shp"}])
    source = yaml.safe_load((CONF / "alpaca.yaml").read_text())["source"]
    sections = {"Chat": {"alpacaeval-easy": 100.0}, "Reasoning": {"math-prm": 984.0, "hep-cpp": 984.0}}

    def made(benchmark: dict[str, Any] | None = None, sections: dict[str, Any] = sections) -> Any:
        return settings(
            "alpaca", train=8, validation=2, test=4, learning={**source["learning"], "path": str(tmp_path / "learn")},
            benchmark={**source["benchmark"], "path": str(tmp_path / "eval"), **(benchmark or {})},
            pairs_test={**source["pairs_test"], "path": str(tmp_path / "bench"), "sections": sections})

    return made


@pytest.mark.parametrize("form", ["parquet", "json"])
def test_public_instructions(public: Any, tmp_path: Path, form: str) -> None:
    local = {"path": str(tmp_path / "json"), "folder": None} if form == "json" else {}
    summary = alpaca.build(public(local), tmp_path)
    assert (summary["train"], summary["validation"], summary["test"]) == (8, 2, 4)
    for example in read_examples(tmp_path / "test.jsonl"):
        assert example.meta["reference"] == f"It is {example.prompt.split()[-1][:-1]}."
        assert example.meta["messages"] == [{"role": "user", "content": example.prompt}]
    learned = [example.prompt for split in ("train", "validation") for example in read_examples(tmp_path / f"{split}.jsonl")]
    assert len(set(learned)) == 10 and "what is item 1?" not in learned
    assert summary["left_out"]["rows of task.source.learning without text"] == 1


def test_a_section_counts_its_subsets_as_it_says(public: Any, tmp_path: Path) -> None:
    summary = alpaca.build(public(), tmp_path)
    pairs = read_pairs(tmp_path / "pairs_test.jsonl")
    assert Counter(pair.subset for pair in pairs) == {"Chat": 4, "Reasoning": 10}
    totals: Counter[float] = Counter()
    for pair in pairs[4:]:
        totals[pair.weight] += pair.weight
    assert sorted(totals.values()) == [984.0, 984.0], "mathematics counts as much as code"
    assert summary["left_out"]["pairs of no section"] == 1


def test_a_subset_that_is_not_there_is_refused(public: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no pair of subset 'math-prn' \(did you mean 'math-prm'"):
        alpaca.build(public(sections={"Reasoning": {"math-prn": 1.0}}), tmp_path)
