"""TL;DR summarization (GN-IVO sec. 4.2, App. C.2): a post to a short summary.

Two sources: `generated` posts with a hidden true reward (no network), and the public posts of OpenAI's
summarize-from-feedback (`hub`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from rlfamily import tasks
from rlfamily.errors import UserError, nearest
from rlfamily.examples import Example
from rlfamily.settings import Strict
from rlfamily.tasks import TaskConfig
from rlfamily.tasks.support import hub, posts, standin

if TYPE_CHECKING:
    from datasets import Dataset

VERSION = "1"


GIVES: frozenset[str] = frozenset({"gold", "context"})


class Generated(standin.Sizes):
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
    seen: set[str] = set()
    empty: Counter[str] = Counter()

    def kept(rows: Dataset, order: Iterable[int], count: int, split: str) -> list[Example]:
        examples: list[Example] = []
        for row in order:
            if len(examples) == count:
                break
            post, name = _post(rows[row]["info"], source, row)
            empty[split] += post is None
            if post is None or name in seen or not source.min_characters < len(post) < source.max_characters:
                continue
            seen.add(name)
            examples.append(_example(split, row, post.replace("\n", " "), source.instruction))
        return examples

    test_rows = hub.load(source.posts, "validation", ("info",), "task.source.posts", source.folder)
    train_rows = hub.load(source.posts, "train", ("info",), "task.source.posts", source.folder)
    order = random.Random(source.seed).sample(range(len(train_rows)), len(train_rows))
    splits = {"test": kept(test_rows, range(len(test_rows)), source.test, "test")}
    # The whole public validation split is held out, also what the test split has no room for.
    seen |= {_post(info, source, row)[1] for row, info in enumerate(test_rows["info"])}
    splits["validation"] = kept(train_rows, order, source.validation, "validation")
    splits["train"] = kept(train_rows, order, source.train, "train")
    hub.write_splits(out, splits, {"train": source.train, "validation": source.validation, "test": source.test},
                     source.posts.path)
    return {**{split: len(examples) for split, examples in splits.items()},
            "rows_without_text": empty.total(), "posts_revision": hub.resolved_revision(source.posts)}


def _post(info: Any, source: Hub, row: int) -> tuple[str | None, Any]:
    """Text and name of a post. Raises UserError where the column `info` holds something else."""
    fields = list(info) if isinstance(info, dict) else []
    for field in ("post", "id"):
        if field not in fields:
            raise UserError(f"task.source.posts: column 'info' of '{source.posts.path}' has no field '{field}' in row "
                            f"{row}{nearest(field, fields)}: give posts as summarize-from-feedback has them")
    return hub.text(info["post"], source.posts, "info.post", row, "task.source.posts"), info["id"]


def _example(split: str, row: int, post: str, instruction: str) -> Example:
    """The reward models read the post alone (`context`); the policy reads the instruction too."""
    prompt = f"{instruction}\n\n{post}"
    return Example(f"{split}-{row}", prompt, {"context": post, "messages": [{"role": "user", "content": prompt}]})
