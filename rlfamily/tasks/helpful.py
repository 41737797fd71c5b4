"""Helpful assistant (GN-IVO sec. 4.2, App. C.2): answer the last turn of a dialogue, helpfully and harmlessly.

Two sources: `generated` questions with a hidden true reward (no network), and the public Anthropic HH-RLHF (`hub`).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rlfamily import tasks
from rlfamily.examples import Example
from rlfamily.settings import Strict
from rlfamily.tasks import TaskConfig
from rlfamily.tasks.support import dialogues, hub, same, standin

VERSION = "3"
HAS: frozenset[str] = frozenset()
GIVES: frozenset[str] = frozenset({"gold"})
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class Generated(standin.Labelled):
    """Questions made here (`rlfamily.tasks.support.dialogues`); `habits` say how the corpus answers them."""

    kind: Literal["generated"]
    habits: dialogues.Habits


class Hub(Strict):
    """The public dialogues. Those whose chosen text has min_tokens..max_tokens tokens of `tokenizer` are kept.

    Every `test_every`-th row of the test split is looked at, as RiC does. `train` and `validation` prompts are drawn at
    random, with `seed`, from the train split; a prompt that is in the test split is left out, and none is taken twice.
    """

    kind: Literal["hub"]
    seed: int = Field(ge=0)
    dialogues: hub.HubDataset
    tokenizer: hub.HubDataset
    min_tokens: int = Field(gt=0)
    max_tokens: int = Field(gt=0)
    train: int = Field(gt=0)
    validation: int = Field(gt=0)
    test: int = Field(gt=0)
    test_every: int = Field(gt=0)


class Data(tasks.Data):
    """All that the files of the task depend on."""

    source: Generated | Hub = Field(discriminator="kind")


class Config(Data, TaskConfig):
    """Settings of the task: its data, its reward, and how it is trained and evaluated on."""

    kind: Literal["helpful"]

    @property
    def test_prompts(self) -> int:
        """Of either source."""
        return self.source.test


def build(data: Data, out: Path) -> dict[str, Any]:
    """Write the task's files into `out` and return their counts. See `rlfamily.tasks.Task.build`."""
    source = data.source
    return standin.build(_world(source), source, out) if isinstance(source, Generated) else _build_hub(source, out)


def score(response: str, meta: Mapping[str, Any]) -> dict[str, float]:
    """The hidden true reward of a stand-in's response (`dialogues.judge`); nothing is known of the public data."""
    return dialogues.judge(response, meta) if "facts" in meta else {}


def _world(source: Generated) -> standin.World:
    return standin.World(
        dialogues.questions(), lambda meta, rng: dialogues.answer(meta, source.habits, rng), dialogues.judge,
        {"helpful": "gold_helpful", "harmless": "gold_harmless"}, dialogues.vocabulary())


# ---------------------------------------------------------------------------- public dataset


def split_dialogue(text: str) -> str:
    """The dialogue up to its last "Assistant:", as RiC writes it: one blank before the two line ends."""
    return text.rpartition(ASSISTANT)[0].rstrip() + " " + ASSISTANT


def messages(prompt: str) -> list[dict[str, str]]:
    """The turns of a prompt that `split_dialogue` gave, for a chat template; the last, empty one is left out."""
    parts = re.split(f"({HUMAN}|{ASSISTANT})", prompt)
    roles = {HUMAN: "user", ASSISTANT: "assistant"}
    turns = [{"role": roles[mark], "content": text.strip()}
             for mark, text in zip(parts[1::2], parts[2::2], strict=True)]
    merged: list[dict[str, str]] = []  # chat templates want the speakers in turn
    for turn in turns[:-1]:
        if merged and merged[-1]["role"] == turn["role"]:
            merged[-1] = turn | {"content": f"{merged[-1]['content']}\n\n{turn['content']}".strip()}
        else:
            merged.append(turn)
    return merged


def _build_hub(source: Hub, out: Path) -> dict[str, Any]:
    length = hub.token_counter(source.tokenizer, "task.source.tokenizer")

    def found(rows: Sequence[Any], order: Iterable[int], split: str) -> Iterator[Example]:
        for row in order:
            text = hub.text(rows[row]["chosen"], source.dialogues, "chosen", row, "task.source.dialogues")
            if text is None:
                left_out[f"{split} rows without text"] += 1
            elif source.min_tokens <= length(text) <= source.max_tokens:
                prompt = split_dialogue(text)
                yield Example(f"{split}-{row}", prompt, {"messages": messages(prompt)})

    test_rows = hub.load(source.dialogues, "test", ("chosen",), "task.source.dialogues")
    train_rows = hub.load(source.dialogues, "train", ("chosen",), "task.source.dialogues")
    left_out: Counter[str] = Counter()
    order = list(range(len(train_rows)))
    random.Random(source.seed).shuffle(order)
    splits: dict[str, list[Example]] = {}
    taken: set[Hashable] = set()
    for split, rows, places in (("test", test_rows, range(0, len(test_rows), source.test_every)),
                                ("validation", train_rows, order), ("train", train_rows, order)):
        splits[split] = same.unseen(found(rows, places, split), lambda one: [same.normal(one.prompt)], taken,
                                    left_out, f"{split} prompts", getattr(source, split))
        taken |= {same.normal(one.prompt) for one in splits[split]}
    hub.write_splits(out, splits, {split: getattr(source, split) for split in splits}, source.dialogues.path)
    return {**{split: len(examples) for split, examples in splits.items()}, tasks.LEFT_OUT: dict(left_out),
            "dialogues_revision": hub.resolved_revision(source.dialogues)}
