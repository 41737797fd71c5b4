"""TL;DR summarization (GN-IVO sec. 4.2, App. C.2): a post to a short summary.

Two sources: `generated` posts with a hidden true reward (no network), and the public posts of OpenAI's
summarize-from-feedback (`hub`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rlfamily import tasks
from rlfamily.errors import UserError, nearest
from rlfamily.examples import Example
from rlfamily.settings import Strict
from rlfamily.tasks import TaskConfig
from rlfamily.tasks.support import hub, posts, same, standin

VERSION = "2"
HAS: frozenset[str] = frozenset()
GIVES: frozenset[str] = frozenset({"gold", "context"})


class Generated(standin.Labelled):
    """Posts made here (`rlfamily.tasks.support.posts`); `habits` say how the corpus summarises them."""

    kind: Literal["generated"]
    habits: posts.Habits


class Hub(Strict):
    """The public posts, those longer than `min_characters` and shorter than `max_characters`, each once.

    `folder` is the part of the dataset to look in. Test posts come from its validation split; `train` and `validation`
    ones are drawn at random, with `seed`, from its train split, without those of the test split. `instruction` stands
    before the post.
    """

    kind: Literal["hub"]
    seed: int = Field(ge=0)
    posts: hub.HubDataset
    folder: str
    min_characters: int = Field(ge=0)
    max_characters: int = Field(gt=0)
    instruction: str
    train: int = Field(gt=0)
    validation: int = Field(gt=0)
    test: int = Field(gt=0)


class Data(tasks.Data):
    """All that the files of the task depend on."""

    source: Generated | Hub = Field(discriminator="kind")


class Config(Data, TaskConfig):
    """Settings of the task: its data, its reward, and how it is trained and evaluated on."""

    kind: Literal["tldr"]

    @property
    def test_prompts(self) -> int:
        """Of either source."""
        return self.source.test


def build(data: Data, out: Path) -> dict[str, Any]:
    """Write the task's files into `out` and return their counts. See `rlfamily.tasks.Task.build`."""
    source = data.source
    return standin.build(_world(source), source, out) if isinstance(source, Generated) else _build_hub(source, out)


def score(response: str, meta: Mapping[str, Any]) -> dict[str, float]:
    """The hidden true reward of a stand-in's response (`posts.judge`); nothing is known of the public data."""
    return posts.judge(response, meta) if "events" in meta else {}


def _world(source: Generated) -> standin.World:
    return standin.World(
        posts.posts(source.train + source.validation + source.test, source.seed),
        lambda meta, rng: posts.summary(meta, source.habits, rng), posts.judge,
        {"summary": "gold_summary", "faithful": "gold_faithful"}, posts.vocabulary())


# ---------------------------------------------------------------------------- public dataset


def _build_hub(source: Hub, out: Path) -> dict[str, Any]:
    left_out: Counter[str] = Counter()

    def found(rows: Sequence[Any], order: Iterable[int], split: str) -> Iterator[tuple[int, str, Any]]:
        for row in order:
            post, name = _post(rows[row]["info"], source, row)
            if post is None:
                left_out[f"{split} rows without text"] += 1
            elif source.min_characters < len(post) < source.max_characters:
                yield row, post, name

    def kept(rows: Sequence[Any], order: Iterable[int], split: str, held_out: set[Hashable]) -> list[Example]:
        posts = same.unseen(found(rows, order, split), lambda one: _marks(one[1], one[2]), held_out, left_out,
                            f"{split} posts", getattr(source, split))
        held_out |= {mark for _, post, name in posts for mark in _marks(post, name)}
        return [_example(split, row, post.replace("\n", " "), source.instruction) for row, post, _ in posts]

    test_rows = hub.load(source.posts, "validation", ("info",), "task.source.posts", source.folder)
    train_rows = hub.load(source.posts, "train", ("info",), "task.source.posts", source.folder)
    order = random.Random(source.seed).sample(range(len(train_rows)), len(train_rows))
    splits = {"test": kept(test_rows, range(len(test_rows)), "test", set())}
    # The whole public validation split is held out, also what the test split has no room for.
    held_out = {mark for row, cells in enumerate(test_rows) for mark in _marks(*_post(cells["info"], source, row))}
    splits["validation"] = kept(train_rows, order, "validation", held_out)
    splits["train"] = kept(train_rows, order, "train", held_out)
    hub.write_splits(out, splits, {"train": source.train, "validation": source.validation, "test": source.test},
                     source.posts.path)
    return {**{split: len(examples) for split, examples in splits.items()},
            tasks.LEFT_OUT: dict(left_out), "posts_revision": hub.resolved_revision(source.posts)}


def _post(info: Any, source: Hub, row: int) -> tuple[str | None, Any]:
    """Text and name of a post. Raises UserError where the column `info` holds something else."""
    fields = list(info) if isinstance(info, dict) else []
    for field in ("post", "id"):
        if field not in fields:
            raise UserError(f"task.source.posts: column 'info' of '{source.posts.path}' has no field '{field}' in row "
                            f"{row}{nearest(field, fields)}: give posts as summarize-from-feedback has them")
    return hub.text(info["post"], source.posts, "info.post", row, "task.source.posts"), info["id"]


def _marks(post: str | None, name: Hashable) -> list[Hashable]:
    """What a post is known by: its name, and what it says."""
    return [("name", name), *([] if post is None else [same.normal(post)])]


def _example(split: str, row: int, post: str, instruction: str) -> Example:
    """The reward models read the post alone (`context`); the policy reads the instruction too."""
    prompt = f"{instruction}\n\n{post}"
    return Example(f"{split}-{row}", prompt, {"context": post, "messages": [{"role": "user", "content": prompt}]})
