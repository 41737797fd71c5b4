"""The summarization task: the generated world and its hidden reward, and the public posts' format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from data import with_source

from rlfamily.errors import UserError
from rlfamily.examples import read_examples
from rlfamily.records import read_jsonl
from rlfamily.tasks import tldr
from rlfamily.tasks.support import posts

CONF = Path(__file__).resolve().parents[2] / "conf" / "task"
META = {"events": ["dog ate shoes", "boss missed meeting", "tutor failed exam"]}
SIZES = {"train": 60, "validation": 8, "test": 8, "corpus": 300, "preferences": 200}


def settings(name: str, **source: Any) -> Any:
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    return tldr.Data.model_validate({"kind": "tldr", "source": {**content["source"], **source}})


@pytest.mark.parametrize(("response", "summary", "faithful"), [
    ("dog ate shoes , boss missed meeting , tutor failed exam .", 2.0, 2.0),
    ("tutor failed exam , dog ate shoes , boss missed meeting .", 2.0, 2.0),
    ("dog ate shoes .", 2 / 3, 2.0),
    ("sadly dog ate shoes .", 2 / 3 - 0.1, 2.0),
    ("dog ate sofa .", -0.3, -0.5),
    ("dog ate shoes , police arrested us .", 2 / 3 - 0.3, 1.0 - 0.5),
    ("dog ate shoes , dog ate shoes .", 2 / 3 - 0.3, 2.0),
    ("dog ate shoes boss missed meeting .", -0.6, -0.5),
    ("", 0.0, 0.0),
])
def test_the_hidden_reward(response: str, summary: float, faithful: float) -> None:
    parts = tldr.score(response, META)
    assert parts["gold_summary"] == pytest.approx(summary)
    assert parts["gold_faithful"] == pytest.approx(faithful)
    assert parts["gold"] == pytest.approx((summary + faithful) / 2)


def test_posts_are_different_and_hold_their_events() -> None:
    found = posts.posts(300, 0)
    assert len({prompt for prompt, _ in found}) == 300
    for prompt, meta in found:
        assert len(meta["events"]) == len({posts.KIND_OF[event.split()[0]] for event in meta["events"]}) == 3
        assert all(event in prompt for event in meta["events"])


def test_generated_files(tmp_path: Path) -> None:
    tldr.build(settings("tldr_tiny", **SIZES), tmp_path)
    vocabulary = set(json.loads((tmp_path / "vocabulary.json").read_text()))
    limit = yaml.safe_load((CONF / "tldr_tiny.yaml").read_text())["max_tokens_demonstration"]
    held_out = {example.prompt for split in ("test", "validation")
                for example in read_examples(tmp_path / f"{split}.jsonl")}
    texts = [(row["prompt"], row["completion"]) for row in read_jsonl(tmp_path / "corpus.jsonl")]
    for name in ("summary", "faithful"):
        texts += [(row["prompt"], row[which]) for row in read_jsonl(tmp_path / f"preferences_{name}.jsonl")
                  for which in ("chosen", "rejected")]
    assert len(texts) == 300 + 2 * 400 and len(held_out) == 16
    for prompt, text in texts:
        words = f"{prompt} {text}".split(" ")
        assert set(words) <= vocabulary and len(words) < limit and prompt not in held_out


@pytest.fixture
def hub_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The hub's own conversion: folders of parquet files, one folder for each configuration and split."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = {"train": [{"info": {"id": f"t{i // 2}", "post": f"line one\nof train post {i // 2} " + "x" * 100}}
                      for i in range(16)],
            "validation": [{"info": {"id": f"v{i}", "post": f"validation post {i} " + "y" * 100}} for i in range(5)]}
    rows["validation"][1] = {"info": {"id": "v0", "post": rows["validation"][0]["info"]["post"]}}  # twice
    rows["validation"][2]["info"]["post"] = None  # news rows have no post
    rows["train"][0] = {"info": {"id": "v4", "post": rows["validation"][4]["info"]["post"]}}  # held out
    rows["train"][1] = {"info": {"id": "short", "post": "short"}}
    rows["train"][2] = rows["train"][3] = {"info": {"id": "long", "post": "z" * 1200}}
    for split, content in rows.items():
        folder = tmp_path / "posts" / "comparisons" / split
        folder.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), folder / "0000.parquet")
    (tmp_path / "posts" / "axis" / "test").mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"other": 1}]),
                                tmp_path / "posts" / "axis" / "test" / "0000.parquet")
    return settings("tldr", train=5, validation=1, test=2, posts={"path": str(tmp_path / "posts"), "revision": "main"})


def test_public_posts(hub_settings: dict[str, Any], tmp_path: Path) -> None:
    summary = tldr.build(hub_settings, tmp_path)
    assert (summary["train"], summary["validation"], summary["test"]) == (5, 1, 2)
    assert sum(count for what, count in summary["left_out"].items() if what.endswith("rows without text")) == 1
    test = read_examples(tmp_path / "test.jsonl")
    assert [example.id for example in test] == ["test-0", "test-3"]  # 1 is a copy of 0, 2 has no post
    assert test[0].meta["context"].startswith("validation post 0 y")
    train = read_examples(tmp_path / "train.jsonl") + read_examples(tmp_path / "validation.jsonl")
    contexts = [example.meta["context"] for example in train]
    assert len(contexts) == len(set(contexts)) == 6
    assert all(context.startswith("line one of train post") for context in contexts)  # one line, none of validation
    example = train[0]
    assert example.prompt == f"Generate a one-sentence summary of this post.\n\n{example.meta['context']}"
    assert example.meta["messages"] == [{"role": "user", "content": example.prompt}]
    assert tldr.score("anything", example.meta) == {}


def test_too_few_posts_are_refused(hub_settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task.source.train: 6 prompts asked, but '.*posts' has only 5 that pass"):
        tldr.build(with_source(hub_settings, {**hub_settings.source.model_dump(), "train": 6}), tmp_path)
