"""TL;DR as IRO guides it: the generated world with references and held-out pairs, and the public data's formats."""

from __future__ import annotations

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
from rlfamily.tasks import tldr_guided
from rlfamily.tasks.support import hub, posts

CONF = Path(__file__).resolve().parents[2] / "conf" / "task"


def settings(name: str, **source: Any) -> Any:
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    return tldr_guided.Data.model_validate({"kind": "tldr_guided", "source": {**content["source"], **source}})


def test_generated_references_and_pairs(tmp_path: Path) -> None:
    summary = tldr_guided.build(settings("tldr_guided_tiny", train=60, corpus=300, preferences=200), tmp_path)
    assert summary["preferences_overall"] == 200 and summary["pairs of Test Set 2"] == 2000
    test, train = read_examples(tmp_path / "test.jsonl"), read_examples(tmp_path / "train.jsonl")
    golds = {"reference": fmean(posts.judge(one.meta["reference"], one.meta)["gold"] for one in test)}
    metas = {one.prompt: one.meta for one in train}
    golds["corpus"] = fmean(posts.judge(row["completion"], metas[row["prompt"]])["gold"]
                            for row in read_jsonl(tmp_path / "corpus.jsonl"))
    assert golds["corpus"] + 0.3 < golds["reference"] < 1.9, "good, and not beyond reach"
    pairs = read_pairs(tmp_path / "pairs_test.jsonl")
    assert {pair.prompt for pair in pairs} <= {one.prompt for one in test}
    for subset in ("Test Set 1", "Test Set 2"):
        own = [pair for pair in pairs if pair.subset == subset]
        told = [[posts.judge(text, pair.meta)["gold"] for text in (pair.chosen, pair.rejected)] for pair in own]
        assert 0.8 < fmean(chosen >= rejected for chosen, rejected in told) < 1, "labels are noisy"
    assert len({pair.chosen for pair in pairs[:2000]} & {pair.chosen for pair in pairs[2000:]}) < 500


# ---------------------------------------------------------------------------- public data


def post(split: str, row: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"{split}{row}", "subreddit": "pets", "title": f"Title {row}", "post": f"{split} story {row}\nmore",
            "summary": f"gist {row}", **changes}


def comparison(row: int, batch: str, **info: Any) -> dict[str, Any]:
    return {"info": {"id": str(row), "post": None, "title": None, "subreddit": None, "article": None, **info},
            "summaries": [{"text": f" first {row}", "policy": "a", "note": None},
                          {"text": f" second {row}", "policy": "b", "note": None}],
            "choice": row % 2, "worker": "w", "batch": batch, "split": "valid2", "extra": {"confidence": None}}


def parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(hub, "token_counter", lambda source, key: lambda text: len(text.split()))
    rows = {split: [post(split, row) for row in range(8)] for split in ("train", "validation", "test")}
    rows["train"][3] = post("train", 3, post=rows["test"][5]["post"])  # told again
    rows["train"][4] = post("train", 4, summary=None)
    rows["test"][5]["post"] += " x" * 30 + "\nlast line"
    rows["train"][3]["post"] = rows["test"][5]["post"]
    for split, content in rows.items():
        parquet(tmp_path / "posts" / "data" / f"{split}-00000-of-00001.parquet", content)
    pairs = [comparison(0, "batch12", post="a dog story", title="Dog", subreddit="pets"),
             comparison(1, "cnndm2", article="long news", title="News"),
             comparison(2, "batch12", title="without a post", subreddit="pets")]
    parquet(tmp_path / "comparisons" / "comparisons" / "validation" / "0000.parquet", pairs)
    there = {"posts": {"path": str(tmp_path / "posts"), "revision": "main"},
             "comparisons": {"path": str(tmp_path / "comparisons"), "revision": "main"}}
    return lambda **source: settings("tldr_guided", **{"train": 4, "validation": 2, "test": 8, "query_tokens": 20, **there, **source})


def test_public_queries_and_references(public: Any, tmp_path: Path) -> None:
    summary = tldr_guided.build(public(), tmp_path)
    assert (summary["train"], summary["validation"], summary["test"]) == (4, 2, 8)
    test = {example.meta["reference"]: example.prompt for example in read_examples(tmp_path / "test.jsonl")}
    assert test["gist 2"] == "SUBREDDIT: r/pets\n\nTITLE: Title 2\n\nPOST: test story 2\nmore\n\nTL;DR:"
    assert test["gist 5"].endswith("POST: test story 5\n\nTL;DR:"), "too long: it ends some lines earlier"
    train = [example.meta["reference"] for example in read_examples(tmp_path / "train.jsonl")]
    assert not {"gist 3", "gist 4"} & set(train), "held out, and without a summary"


def test_public_pairs_are_of_posts_and_of_news(public: Any, tmp_path: Path) -> None:
    summary = tldr_guided.build(public(), tmp_path)
    one, news = read_pairs(tmp_path / "pairs_test.jsonl")
    assert (one.subset, one.prompt) == ("Test Set 1", "SUBREDDIT: r/pets\n\nTITLE: Dog\n\nPOST: a dog story\n\nTL;DR:")
    assert (one.chosen, one.rejected, one.weight) == ("first 0", "second 0", 1.0)
    assert (news.subset, news.prompt) == ("Test Set 2", "Article:\nlong news\n\nTL;DR:")
    assert (news.chosen, news.rejected) == ("second 1", "first 1")
    assert Counter(summary["left_out"])["pairs of Test Set 1 without text or label"] == 1


def test_a_query_holds_the_post(public: Any) -> None:
    with pytest.raises(ValidationError, match="must hold {post}"):
        public(query="TITLE: {title}")
    with pytest.raises(ValidationError, match="must hold {post}"):
        public(query="{post} {author}")


def test_too_few_posts_are_refused(public: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="task.source.train: 7 prompts asked"):
        tldr_guided.build(public(train=7), tmp_path)
