"""UltraFeedback: the generated world, its hidden reward and noisy logged ones; the public data's format."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from data import with_source

from rlfamily.errors import UserError
from rlfamily.examples import read_demonstrations, read_examples, read_logged
from rlfamily.records import read_jsonl
from rlfamily.tasks import ultrafeedback
from rlfamily.tasks.support import instructions

CONF = Path(__file__).resolve().parents[2] / "conf" / "task"
META = {"facts": ["flour", "pot", "oil", "salt", "knife", "oven"], "count": 2, "lead": "you need", "whom": "for the baker :",
        "end": "good luck !", "reference": "for the baker : you need oil and salt . good luck !"}


def settings(name: str, **source: Any) -> Any:
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    return ultrafeedback.Data.model_validate({"kind": "ultrafeedback", "source": {**content["source"], **source}})


@pytest.mark.parametrize(("response", "gold"), [
    (META["reference"], 1.0),
    ("for the baker : you need knife and pot . good luck !", 1.0),
    ("for the baker : you need knife and pot .", 0.8),
    ("for the baker : you need knife and pot . be careful !", 0.8),
    ("you need knife and pot . good luck !", 0.8),
    ("you need knife .", 0.5 * 0.6),
    ("you need knife and stuff .", 0.5 * 0.6 - 0.1),
    ("you need saw and drill .", 0.0),
    ("well , you need knife and like oil .", 0.6 - 2 * 0.05),
    ("for the baker : you need oil and salt , idiot . good luck !", 0.48),
    ("oil salt", 0.4), ("oil " * 30, 0.0), ("", 0.0), (" ", 0.0),
])
def test_the_hidden_reward(response: str, gold: float) -> None:
    assert ultrafeedback.score(response, META) == {"gold": pytest.approx(gold)}


def test_qualities_differ_by_gold_and_a_little_by_length() -> None:
    rng = random.Random(0)
    asked = [meta for _, meta in instructions.prompts(600, 1)]
    golds, lengths = {}, {}
    for name, write in instructions.QUALITIES.items():
        texts = [write(meta, rng) for meta in asked]
        golds[name] = fmean(instructions.judge(text, meta)["gold"] for text, meta in zip(texts, asked, strict=True))
        lengths[name] = fmean(len(text.split()) for text in texts)
        assert all(1 <= len(text.split()) <= instructions.LONGEST for text in texts)
    assert golds["excellent"] == 1 and golds["partial"] > golds["padded"] + 0.05 > golds["rude"] + 0.1
    assert lengths["partial"] < lengths["excellent"] < lengths["padded"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("ultrafeedback")
    return out, ultrafeedback.build(settings("ultrafeedback_tiny"), out)


def test_generated_prompts_and_words(files: tuple[Path, dict[str, Any]]) -> None:
    out, _ = files
    vocabulary = set(json.loads((out / "vocabulary.json").read_text()))
    prompts = {split: read_examples(out / f"{split}.jsonl") for split in ("train", "validation", "test")}
    assert [len(one) for one in prompts.values()] == [1500, 128, 256]
    asked = [example for one in prompts.values() for example in one]
    assert all(8 <= len(example.prompt.split()) <= 20 for example in asked)
    assert all(ultrafeedback.score(example.meta["reference"], example.meta) == {"gold": 1.0} for example in asked)
    texts = [row[part] for row in read_jsonl(out / "corpus.jsonl") for part in ("prompt", "completion")]
    texts += [text for one in read_logged(out / "logged_train.jsonl") for text in (one.prompt, *one.responses)]
    assert {word for text in texts for word in text.split(" ")} <= vocabulary


def test_logged_groups_and_their_histogram(files: tuple[Path, dict[str, Any]]) -> None:
    out, summary = files
    rows = read_logged(out / "logged_train.jsonl")
    sizes = Counter(len(one.responses) for one in rows)
    assert summary["group_sizes_train"] == {str(size): sizes[size] for size in range(1, 7)} and min(sizes.values()) > 30
    assert summary["logged_train"] == sum(len(one.responses) for one in rows) and 4500 < summary["logged_train"] < 5500
    assert [one.prompt for one in rows] == [example.prompt for example in read_examples(out / "train.jsonl")]
    rewards = [reward for one in rows for reward in one.rewards]
    assert min(rewards) == 1 and max(rewards) == 10 and all(reward * 2 == int(reward * 2) for reward in rewards)


def test_rewards_are_worth_following_and_noisy(files: tuple[Path, dict[str, Any]]) -> None:
    out, _ = files
    metas = {example.prompt: example.meta for example in read_examples(out / "train.jsonl")}
    golds, best = [], []
    for one, demonstration in zip(read_logged(out / "logged_train.jsonl"), read_demonstrations(out / "demonstrations_train.jsonl"), strict=True):
        own = [instructions.judge(text, metas[one.prompt])["gold"] for text in one.responses]
        golds += own
        best.append(instructions.judge(demonstration.completion, metas[one.prompt])["gold"])
        assert demonstration.completion == one.responses[one.rewards.index(max(one.rewards))]
    assert fmean(best) > fmean(golds) + 0.2
    assert 0.3 < fmean(golds) < 0.6


def test_more_of_one_split_leaves_held_out_ones(tmp_path: Path) -> None:
    for name, train in (("one", 60), ("other", 60)):
        (tmp_path / name).mkdir()
        ultrafeedback.build(settings("ultrafeedback_tiny", train=train, validation=8, test=8, corpus=20), tmp_path / name)
    assert all((tmp_path / "one" / file.name).read_bytes() == file.read_bytes() for file in (tmp_path / "other").iterdir())


def test_a_mixture_names_every_quality() -> None:
    with pytest.raises(ValueError, match="give a weight to each of excellent, partial, padded, rude"):
        settings("ultrafeedback_tiny", mixture={"excellent": 1.0})


# ---------------------------------------------------------------------------- public data


def completion(response: Any, reward: Any) -> dict[str, Any]:
    return {"model": "m", "response": response, "overall_score": reward, "fine-grained_score": 4.0}


def public(count: int = 12) -> list[dict[str, Any]]:
    """Rows as openbmb/UltraFeedback has them; every third has a response of reward 10."""
    return [{"source": "s", "instruction": f"Tell me of thing {row}.", "models": ["m"], "completions": [
        completion(f"bad {row}", 3.0), completion(f"good {row}", 10.0 if row % 3 == 0 else 8.5),
        completion(f"equal {row}", 10.0 if row % 3 == 0 else 8.0)]} for row in range(count)]


@pytest.fixture
def hub_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()

    def made(rows: list[dict[str, Any]], form: str = "jsonl", **source: Any) -> Any:
        file = tmp_path / "set" / f"train.{form}"
        if form == "jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        return settings("ultrafeedback", dataset={"path": str(tmp_path / "set"), "revision": "main"}, **{"test": 3, "validation": 2, **source})

    return made


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_public_rows(hub_data: Any, tmp_path: Path, form: str) -> None:
    rows = public()
    rows[1]["completions"][0] = completion(None, 3.0)
    rows[2]["completions"][1]["overall_score"] = None
    rows[4]["completions"] = []
    rows[5]["instruction"] = " "
    rows.append({**rows[7], "instruction": "tell me of THING 7 ."})  # the same prompt again
    summary = ultrafeedback.build(hub_data(rows, form), tmp_path)
    assert (summary["test"], summary["validation"], summary["train"]) == (3, 2, 5)
    left_out = summary["left_out"]
    assert left_out["responses without text or reward"] == 2 and left_out["rows without instruction or responses"] == 2
    assert sum(number for what, number in left_out.items() if what.endswith(("held out", "prompts"))) == 1
    for example in read_examples(tmp_path / "test.jsonl"):
        row = int(example.prompt.split()[-1][:-1])
        assert row % 3 == 0 and example.meta["reference"] == f"good {row}"  # the first of two with 10.0
        assert example.meta["messages"] == [{"role": "user", "content": example.prompt}]
        assert ultrafeedback.score("anything", example.meta) == {}
    logged = {split: read_logged(tmp_path / f"logged_{split}.jsonl") for split in ("train", "validation")}
    assert [one.id for one in logged["train"]] == [one.id for one in read_examples(tmp_path / "train.jsonl")]
    sizes = Counter(len(one.responses) for one in logged["train"])
    assert summary["group_sizes_train"] == {str(size): count for size, count in sorted(sizes.items())}
    assert all(reward in (3.0, 8.0, 8.5, 10.0) for one in logged["train"] for reward in one.rewards), "raw rewards"
    assert read_demonstrations(tmp_path / "demonstrations_train.jsonl")[0].completion.startswith("good") or 2 in sizes


def test_too_few_references_are_refused(hub_data: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task.source.test: 5 prompts asked, but '.*set' has only 4"):
        ultrafeedback.build(hub_data(public(), test=5), tmp_path)


def test_a_missing_field_names_the_nearest(hub_data: Any, tmp_path: Path) -> None:
    data = hub_data(public())
    with pytest.raises(UserError, match=r"no field 'overal_score' in row 0 \(did you mean 'overall_score'\?\)"):
        ultrafeedback.build(with_source(data, {**data.source.model_dump(), "reward": "overal_score"}), tmp_path)


# ---------------------------------------------------------------------------- held-out prompts from a file


def alpaca(folder: Path, count: int = 4, gamed: bool = True) -> dict[str, str]:
    """Reference outputs and difficulties as alpaca_eval has them, the one block of a baseline after the other."""
    (folder / "baseline.json").write_text(json.dumps([
        {"instruction": f"instruction {place}", "output": f"best {place}", "generator": "gpt4_1106_preview", "dataset": "d"}
        for place in range(count)]))
    lines = [f"{place},{name},{0.5 * place},{sign * 0.1 * place},{0.25},False"
             for name, sign in (("concise", -1), ("verbose", 1)) for place in range(count)]
    (folder / "gamed.csv").write_text("\n".join([
        "index,model,instruction_difficulty,std_delta_len,preference,not_gamed_baseline", *lines]))
    (folder / "plain.csv").write_text("\n".join([",instruction_difficulty", *(f"{place},{0.5 * place}" for place in range(count))]))
    return {"outputs": str(folder / "baseline.json"), "difficulties": str(folder / ("gamed.csv" if gamed else "plain.csv"))}


@pytest.mark.parametrize("gamed", [True, False])
def test_held_out_prompts_stand_in_a_file(hub_data: Any, tmp_path: Path, gamed: bool) -> None:
    rows = public()
    rows[3]["instruction"] = "Instruction 1"
    out = tmp_path / "out"
    out.mkdir()
    summary = ultrafeedback.build(hub_data(rows, test=3, held_out=alpaca(tmp_path, gamed=gamed)), out)
    test = read_examples(out / "test.jsonl")
    assert [(one.prompt, one.meta["reference"], one.meta["generator"]) for one in test] == [
        (f"instruction {place}", f"best {place}", "gpt4_1106_preview") for place in range(3)]
    known = [one.meta["controlled"] for one in test]
    assert known == ([pytest.approx([0.5 * place, -0.1 * place, 0.25, 0.1 * place, 0.25]) for place in range(3)] if gamed
                     else [[0.5 * place] for place in range(3)])
    learned = {one.prompt.lower() for one in read_examples(out / "train.jsonl")}
    assert learned and "instruction 1" not in learned, "what is held out is not learned from"
    assert summary["test"] == 3


def test_difficulties_may_be_unknown(hub_data: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    ultrafeedback.build(hub_data(public(), test=4, held_out=alpaca(tmp_path) | {"difficulties": None}), out)
    assert all("controlled" not in one.meta for one in read_examples(out / "test.jsonl"))


@pytest.mark.parametrize(("changes", "line"), [
    ({"outputs": "nowhere.json"}, "task.source.held_out.outputs: there is no file 'nowhere.json': give one with instruction"),
    ({"difficulties": "nowhere.csv"}, "task.source.held_out.difficulties: there is no file 'nowhere.csv': give df_gamed.csv"),
    ({"test": 5}, "task.source.test: 5 prompts asked, but"),
    ({"csv": "index,difficulty\n0,1"}, "has no column 'instruction_difficulty'"),
    ({"csv": "index,instruction_difficulty\n0,1\n1,1"}, "has 0 rows of instruction 2, not one"),
    ({"csv": "index,instruction_difficulty,std_delta_len,preference\n0,1,1,1"}, "has 1 rows of instruction 0, not one of each of 2"),
    ({"csv": "index,instruction_difficulty\n0,x"}, "holds 'x' where a number is due"),
])
def test_files_that_will_not_do_are_one_line(hub_data: Any, tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    given = alpaca(tmp_path) | {name: changes[name] for name in ("outputs", "difficulties") if name in changes}
    if "csv" in changes:
        Path(given["difficulties"]).write_text(changes["csv"])
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError) as error:
        ultrafeedback.build(hub_data(public(), test=changes.get("test", 4), held_out=given), out)
    assert line in str(error.value) and "\n" not in str(error.value)
