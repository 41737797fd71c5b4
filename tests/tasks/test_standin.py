"""What all stand-ins share: labels by a noisy merit, stutters; and how the two of them vary what people write."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import pytest

from rlfamily.records import read_jsonl
from rlfamily.tasks.support import dialogues, posts, standin

ANSWERS = {"short": {"good": 1.0, "bad": 0.1}, "three long words": {"good": 0.4, "bad": 0.9}}
SIZES = standin.Labelled(seed=0, train=4, validation=2, test=2, corpus=5, preferences=3000, label_noise=0.5, length_bias=0.1)


def world() -> standin.World:
    """Two answers to every question: one has more of what one labeller sees, the other of what another one sees."""
    return standin.World([(f"ask {place}", {"place": place}) for place in range(8)],
                         lambda meta, rng: rng.choice(list(ANSWERS)), lambda text, meta: ANSWERS[text],
                         {"first": "good", "second": "bad"}, ["ask"])


@pytest.mark.parametrize(("changes", "name", "margin"), [
    ({}, "first", (1.0 - 0.4 - 0.2) / 0.5), ({}, "second", (0.1 - 0.9 - 0.2) / 0.5),
    ({"length_bias": 0.0}, "first", 0.6 / 0.5), ({"label_noise": 2.0}, "second", -1.0 / 2.0)])
def test_a_label_is_as_likely_as_the_difference_in_merit_says(tmp_path: Path, changes: dict[str, float], name: str, margin: float) -> None:
    counts = standin.build(world(), SIZES.model_copy(update=changes), tmp_path)
    assert counts == {"train": 4, "validation": 2, "test": 2, "corpus": 5, "preferences_first": 3000, "preferences_second": 3000}
    rows = list(read_jsonl(tmp_path / f"preferences_{name}.jsonl"))
    assert len(rows) == 3000 and all({row["chosen"], row["rejected"]} == set(ANSWERS) for row in rows)
    preferred = sum(row["chosen"] == "short" for row in rows) / 3000
    assert preferred == pytest.approx(1 / (1 + math.exp(-margin)), abs=0.027)  # three standard errors
    asked = Counter(row["prompt"] for row in rows)
    assert asked.keys() == {row["prompt"] for row in read_jsonl(tmp_path / "train.jsonl")} and min(asked.values()) > 600


def test_as_many_prompts_as_there_are_can_be_had(tmp_path: Path) -> None:
    assert standin.build(world(), SIZES.model_copy(update={"preferences": 1}), tmp_path)["train"] == 4
    assert len({row["prompt"] for split in ("train", "validation", "test") for row in read_jsonl(tmp_path / f"{split}.jsonl")}) == 8


def test_a_stutter_says_one_to_three_words_in_a_row_again_as_often_as_there_is_room() -> None:
    words, rng, seen = ["a", "b", "c", "d"], random.Random(0), Counter()
    for _ in range(3000):
        said = standin.stutter(words, 12, rng)
        runs = {(start, size, times) for size in (1, 2, 3) for start in range(5 - size) for times in range(2, 10)
                if said == [*words[:start], *words[start:start + size] * times, *words[start + size:]]}
        assert runs
        seen[min(runs, key=lambda run: run[1])] += 1
    starts = {1: 4, 2: 3, 3: 2}
    assert {(size, times) for _, size, times in seen} == {(1, times) for times in range(2, 10)} | {
        (2, times) for times in range(2, 6)} | {(3, times) for times in (2, 3)}
    for size, places in starts.items():
        assert {start for start, found, _ in seen if found == size} == set(range(places))
        assert sum(count for (_, found, _), count in seen.items() if found == size) / 3000 == pytest.approx(1 / 3, abs=0.03)
    assert standin.stutter(["a"], 1, rng) == ["a", "a"]  # where there is no room, once


def stated(text: str) -> int:
    return sum(word in dialogues.STATED for word in text.split())


@pytest.mark.parametrize(("ramble", "counts"), [(0.0, range(1, 4)), (1.0, range(4, 10))])
def test_an_answer_has_one_to_three_words_and_a_rambling_one_up_to_nine(ramble: float, counts: range) -> None:
    habits = dialogues.Habits(**{**dict.fromkeys(dialogues.Habits.model_fields, 0.0), "right": 1.0, "ramble": ramble})
    meta, rng = {"kind": 1, "facts": ["chop", "stir", "boil", "bake"], "whom": "boss", "dangerous": False}, random.Random(0)
    found = Counter(stated(dialogues.answer(meta, habits, rng)) for _ in range(4500))
    assert found.keys() == set(counts)
    assert all(count / 4500 == pytest.approx(1 / len(counts), abs=0.022) for count in found.values())


def test_a_garbled_event_breaks_off_or_has_one_word_of_its_kind_exchanged() -> None:
    habits = posts.Habits(**{**dict.fromkeys(posts.Habits.model_fields, 0.0), "garble": 1.0})
    rng, seen = random.Random(0), Counter()
    for _ in range(4000):
        words = posts.summary({"events": ["dog ate shoes"]}, habits, rng).split()[:-1]
        assert words[0] == "dog" and all(word in choices.split() for word, choices in zip(words, posts.EVENTS["pets"], strict=False))
        seen[len(words) if len(words) < 3 else ("as it was" if words[1:] == ["ate", "shoes"] else "exchanged")] += 1
    for what, share in {1: 1 / 4, 2: 1 / 4, "as it was": 1 / 8, "exchanged": 3 / 8}.items():
        assert seen[what] / 4000 == pytest.approx(share, abs=0.025), what
