"""TL;DR summarization as IRO guides it (IRO sec. 5.1, app. H.1): queries, reference summaries, pairs to measure by.

Two sources: `generated` posts (no network), and the public posts and comparisons (`hub`) that the published policies
and reward models were trained on. Every example has a `reference` summary, which judges compare with.
"""

from __future__ import annotations

import random
import string
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from rlfamily import tasks
from rlfamily.examples import Example, Pair
from rlfamily.records import write_jsonl
from rlfamily.settings import Strict
from rlfamily.tasks import TaskConfig
from rlfamily.tasks.support import hub, posts, same, standin

VERSION = "1"
HAS: frozenset[str] = frozenset()
GIVES: frozenset[str] = frozenset({"gold", "reference"})
FIELDS = ("id", "subreddit", "title", "post", "summary")


class GeneratedPairs(Strict):
    """`pairs` of summaries with the given `habits`, labelled as the preferences are."""

    pairs: int = Field(gt=0)
    habits: posts.Habits


class Generated(standin.Labelled):
    """Posts made here; `habits` say how the corpus summarises them, `reference` how the reference summaries do.

    Labellers of the preferences `overall` see the whole hidden reward. `pairs_test` are held out, by subset.
    """

    kind: Literal["generated"]
    habits: posts.Habits
    reference: posts.Habits
    pairs_test: dict[str, GeneratedPairs]


class Query(Strict):
    """What a policy is asked: `query`, filled in, of at most `query_tokens` tokens; longer posts end a line earlier."""

    query: str
    query_tokens: int = Field(gt=0)

    @field_validator("query")
    @classmethod
    def _check_query(cls, query: str) -> str:
        fields = {name for _, name, _, _ in string.Formatter().parse(query) if name is not None}
        if "post" not in fields or not fields <= {"subreddit", "title", "post"}:
            raise ValueError("must hold {post}, may hold {subreddit} and {title}, and no other braces")
        return query


class PublicPairs(Query):
    """Comparisons of the validation split: those of the `batches` (news articles in place of posts), or all others."""

    batches: bool


class Hub(Query):
    """The public posts: `train`, `validation` and `test` ones are drawn with `seed` from the splits of these names.

    Queries are measured with `tokenizer`. Subsets of `pairs_test` are the `comparisons` of some `batches`, or others.
    """

    kind: Literal["hub"]
    seed: int = Field(ge=0)
    posts: hub.HubDataset
    tokenizer: hub.HubDataset
    train: int = Field(gt=0)
    validation: int = Field(gt=0)
    test: int = Field(gt=0)
    comparisons: hub.HubDataset
    folder: str
    batches: list[str]
    pairs_test: dict[str, PublicPairs]


class Data(tasks.Data):
    """All that the files of the task depend on."""

    source: Generated | Hub = Field(discriminator="kind")


class Config(Data, TaskConfig):
    """Settings of the task: its data, its reward, and how it is trained and evaluated on."""

    kind: Literal["tldr_guided"]

    @property
    def test_prompts(self) -> int:
        """Of either source."""
        return self.source.test

    @property
    def subsets(self) -> list[str]:
        """Of either source."""
        return list(self.source.pairs_test)


def build(data: Data, out: Path) -> dict[str, Any]:
    """Write the task's files into `out` and return their counts. See `rlfamily.tasks.Task.build`."""
    source = data.source
    return _build_generated(source, out) if isinstance(source, Generated) else _build_hub(source, out)


def score(response: str, meta: Mapping[str, Any]) -> dict[str, float]:
    """The hidden true reward of a stand-in's response (`posts.judge`); nothing is known of the public data."""
    return posts.judge(response, meta) if "events" in meta else {}


# ---------------------------------------------------------------------------- stand-in


def _build_generated(source: Generated, out: Path) -> dict[str, Any]:
    rng = random.Random(f"{source.seed} references")
    asked = [(prompt, {**meta, "reference": posts.summary(meta, source.reference, rng)})
             for prompt, meta in posts.posts(source.train + source.validation + source.test, source.seed)]
    world = standin.World(asked, _writer(source.habits), posts.judge, {"overall": "gold"}, posts.vocabulary())
    summary, test = standin.build(world, source, out), standin.split(world, source)["test"]
    metas, pairs = dict(test), []
    for subset, one in source.pairs_test.items():
        rows = standin.preferences(replace(world, respond=_writer(one.habits)), test, source, "overall", one.pairs,
                                   f" {subset}")
        pairs += [Pair(subset, **row, weight=1.0, meta=dict(metas[row["prompt"]])) for row in rows]
    return {**summary, **_write_pairs(out, pairs)}


def _writer(habits: posts.Habits) -> Callable[[standin.Meta, random.Random], str]:
    return lambda meta, rng: posts.summary(meta, habits, rng)


def _write_pairs(out: Path, pairs: list[Pair]) -> dict[str, int]:
    write_jsonl(out / "pairs_test.jsonl", map(asdict, pairs))
    return {f"pairs of {subset}": count for subset, count in Counter(pair.subset for pair in pairs).items()}


# ---------------------------------------------------------------------------- public data


def _build_hub(source: Hub, out: Path) -> dict[str, Any]:
    left_out: Counter[str] = Counter()
    count = hub.token_counter(source.tokenizer, "task.source.tokenizer")
    held_out: set[Hashable] = set()
    splits: dict[str, list[Example]] = {}
    for split in ("test", "validation", "train"):
        rows = hub.load(source.posts, split, FIELDS, "task.source.posts")
        order = random.Random(f"{source.seed} {split}").sample(range(len(rows)), len(rows))
        found = _found(rows, order, split, source, left_out)
        chosen = same.unseen(found, lambda one: [("id", one[1]["id"]), same.normal(one[1]["post"])], held_out, left_out,
                             f"{split} posts", getattr(source, split))
        held_out |= {mark for _, post in chosen for mark in (("id", post["id"]), same.normal(post["post"]))}
        splits[split] = [Example(f"{split}-{row}", _query(post, source, count),
                                 {"reference": post["summary"]}) for row, post in chosen]
    hub.write_splits(out, splits, {"test": source.test, "validation": source.validation, "train": source.train},
                     source.posts.path)
    pairs = list(_public_pairs(source, count, left_out))
    return {**{split: len(examples) for split, examples in splits.items()}, **_write_pairs(out, pairs),
            tasks.LEFT_OUT: dict(left_out), "posts_revision": hub.resolved_revision(source.posts),
            "comparisons_revision": hub.resolved_revision(source.comparisons)}


def _found(
    rows: Any, order: Iterable[int], split: str, source: Hub, left_out: Counter[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Posts that have all their fields, with their rows; the others are counted."""
    for row in order:
        post = {field: hub.text(rows[row][field], source.posts, field, row, "task.source.posts") for field in FIELDS}
        if None in (post["id"], post["post"], post["summary"]):
            left_out[f"{split} rows without post or summary"] += 1
        else:
            yield row, {field: text or "" for field, text in post.items()}


def _query(fields: Mapping[str, str], form: Query, count: Callable[[str], int]) -> str:
    """The query with the beginning of the post that fits: whole lines, or letters where there is one line alone."""
    shown = dict(fields)
    while count(text := form.query.format(**shown)) > form.query_tokens and shown["post"]:
        shown["post"] = shown["post"][:max(shown["post"].rfind("\n"), 0)] or shown["post"][:-1]
    return text


def _public_pairs(source: Hub, count: Callable[[str], int], left_out: Counter[str]) -> Iterator[Pair]:
    """Validation comparisons, by subset: chosen and rejected summaries of a post, or of a news article."""
    key = "task.source.comparisons"
    rows = hub.load(source.comparisons, "validation", ("info", "summaries", "choice", "batch"), key, source.folder)
    for cells in rows:
        info, named = cells["info"] or {}, cells["batch"] in source.batches
        for subset, wanted in source.pairs_test.items():
            if wanted.batches != named:
                continue
            body = info.get("article") if named else info.get("post")
            texts = [str(one["text"]).strip() for one in cells["summaries"] or []]
            if not body or len(texts) != 2 or cells["choice"] not in (0, 1):
                left_out[f"pairs of {subset} without text or label"] += 1
                continue
            shown = {name: str(info.get(name) or "") for name in ("subreddit", "title")} | {"post": str(body)}
            chosen, rejected = texts[cells["choice"]], texts[1 - cells["choice"]]
            yield Pair(subset, _query(shown, wanted, count), chosen, rejected, 1.0, {})
