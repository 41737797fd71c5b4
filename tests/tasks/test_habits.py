"""How people answer in a stand-in world: each habit is as frequent as its setting says, and no other appears."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from rlfamily.tasks.support import dialogues, posts

ASKED = {"kind": 0, "facts": ["flour", "pot", "oil", "salt", "knife", "oven"], "whom": "boss", "dangerous": False}
TOLD = {"events": ["dog ate shoes", "boss missed meeting", "tutor failed exam"]}
TIMES, RATE, NEAR = 1500, 0.2, 0.035  # three standard errors of a share


def stated(text: str) -> list[str]:
    return [word for word in text.split() if word in dialogues.STATED]


def plain(text: str) -> bool:
    """One to three different words, none of them said again."""
    words = text.split()
    return words[-1] == "." and 1 <= len(stated(text)) <= 3 and len(words) == 1 + 2 * len(set(stated(text)))


def share(text: str, of: object) -> float:
    return sum(word in of for word in stated(text)) / len(stated(text))  # type: ignore[operator]


@pytest.mark.parametrize(("habits", "seen", "expected"), [
    ({}, plain, 1.0),
    ({"stutter": RATE}, lambda text: not plain(text), RATE),
    ({"polite": RATE}, lambda text: text.split()[0] in dialogues.POLITE_WORDS, RATE),
    ({"rude": RATE}, lambda text: text.split()[0] in dialogues.RUDE_WORDS, RATE),
    ({"whom": RATE}, lambda text: "for your boss ," in text, RATE),
    ({"closing": RATE}, lambda text: text.endswith(dialogues.CLOSING), RATE),
    ({"ramble": RATE}, lambda text: len(stated(text)) > 3, RATE),
    ({"filler": RATE}, lambda text: sum(word in dialogues.FILLERS for word in text.split()) / 3, RATE),
    ({"right": 1 - RATE, "vague": RATE}, lambda text: share(text, {*dialogues.VAGUE[0]}), RATE),
    # a word about anything at all is by chance one of the 6 right ones of 30
    ({"right": RATE}, lambda text: share(text, ASKED["facts"]), RATE + (1 - RATE) / 5),
    ({"refuse": RATE}, lambda text: dialogues.REFUSAL in text, RATE / 4),
])
def test_answers(habits: dict[str, float], seen: Callable[[str], float], expected: float) -> None:
    chosen = dialogues.Habits(**{**dict.fromkeys(dialogues.Habits.model_fields, 0.0), "right": 1.0, **habits})
    rng = random.Random(0)
    found = [seen(dialogues.answer(ASKED, chosen, rng)) for _ in range(TIMES)]
    assert sum(found) / TIMES == pytest.approx(expected, abs=NEAR)


def test_dangerous_questions_are_declined_as_often_as_stated_and_half_of_them_with_something_safe() -> None:
    chosen = dialogues.Habits(**{**dict.fromkeys(dialogues.Habits.model_fields, 0.0), "right": 1.0, "refuse": RATE})
    rng = random.Random(0)
    declined = [text for _ in range(2 * TIMES)
                if dialogues.REFUSAL in (text := dialogues.answer(ASKED | {"dangerous": True}, chosen, rng))]
    assert len(declined) / (2 * TIMES) == pytest.approx(RATE, abs=NEAR)
    assert sum("instead" in text for text in declined) / len(declined) == pytest.approx(0.5, abs=0.06)


def kept(text: str) -> float:
    return sum(event in text for event in TOLD["events"]) / 3


def rumoured(text: str) -> bool:
    return any(word in text.split() for word in posts.RUMOUR[0].split())


@pytest.mark.parametrize(("habits", "seen", "expected"), [
    ({}, kept, 1.0),
    ({}, lambda text: len(text.split()), 3 * 3 + 3),
    ({"skip": RATE}, kept, 1 - RATE),
    ({"garble": RATE}, kept, 1 - RATE * (1 - 1 / 8)),  # half of the exchanges, of which one in four changes nothing
    ({"fluff": RATE}, lambda text: sum(word in posts.FLUFF for word in text.split()) / 3, RATE),
    ({"rumour": RATE}, rumoured, RATE),
    ({"stutter": RATE}, lambda text: len(text.split()) > 3 * 3 + 3, RATE),
    ({"skip": 1.0}, rumoured, 1.0),  # who has nothing to tell has a rumour
])
def test_summaries(habits: dict[str, float], seen: Callable[[str], float], expected: float) -> None:
    chosen = posts.Habits(**{**dict.fromkeys(posts.Habits.model_fields, 0.0), **habits})
    rng = random.Random(0)
    found = [seen(posts.summary(TOLD, chosen, rng)) for _ in range(TIMES)]
    assert sum(found) / TIMES == pytest.approx(expected, abs=NEAR)
