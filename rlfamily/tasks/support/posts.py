"""A small world of posts and their summaries with a hidden true reward: the stand-in for Reddit's TL;DR.

A post states three things that happened, each of another kind, between words that say nothing. A good summary states
all three, nothing else, and is short.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from rlfamily.settings import Strict
from rlfamily.tasks.support import standin

# What happened: one word each of who, what and to what. Every word tells its kind.
EVENTS = {
    "family": ("mother father sister brother cousin", "broke lost burned hid", "phone car keys wallet"),
    "work": ("boss client intern manager", "cancelled missed ruined moved", "meeting project contract bonus"),
    "school": ("teacher student tutor classmate", "failed skipped forgot cheated", "exam homework lecture quiz"),
    "pets": ("dog cat parrot hamster", "ate scratched chased bit", "shoes sofa mailman plant"),
}
TOLD = 3  # events of a post
LONGEST = 26  # words of a stuttered summary, at most
RUMOUR = ("police aliens reporters neighbors", "arrested praised sued followed", "everyone nobody us them")
CHATTER = ("so", "anyway", "honestly", "um", "lol", "guys")
FLUFF = ("basically", "apparently", "somehow", "sadly")
SEPARATOR, END = ",", "."
KIND_OF = {subject: kind for kind, (subjects, _, _) in EVENTS.items() for subject in subjects.split()}


class Habits(Strict):
    """How people summarise in the wild: the probability of each habit, for each event independently."""

    skip: float = Field(ge=0, le=1)
    garble: float = Field(ge=0, le=1)
    fluff: float = Field(ge=0, le=1)
    rumour: float = Field(ge=0, le=1)
    stutter: float = Field(ge=0, le=1)


def posts(count: int, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """`count` different prompts with their events in the order told."""
    rng = random.Random(f"{seed} posts")
    found: dict[str, dict[str, Any]] = {}
    while len(found) < count:
        events = [_event(kind, rng) for kind in rng.sample(list(EVENTS), TOLD)]
        told = " ".join(f"{rng.choice(CHATTER)} {event}" for event in events)
        found[f"post : {told} . tldr :"] = {"events": events}
    return list(found.items())


def summary(meta: Mapping[str, Any], habits: Habits, rng: random.Random) -> str:
    """A summary as found in the wild: events left out or garbled, rumours added, with fluff."""
    parts = []
    for event in meta["events"]:
        if rng.random() < habits.skip:
            continue
        words = event.split()
        if rng.random() < habits.garble:
            words = _garbled(words, rng)
        parts.append(" ".join([*([rng.choice(FLUFF)] if rng.random() < habits.fluff else []), *words]))
    if not parts or rng.random() < habits.rumour:
        parts.append(" ".join(rng.choice(choices.split()) for choices in RUMOUR))
    words = (f" {SEPARATOR} ".join(parts) + f" {END}").split()
    return " ".join(standin.stutter(words, LONGEST, rng) if rng.random() < habits.stutter else words)


def _garbled(words: list[str], rng: random.Random) -> list[str]:
    """An event that breaks off, or with one word exchanged for another of its kind."""
    place = rng.randrange(1, len(words))
    if rng.random() < 1 / 2:
        return words[:place]
    return [*words[:place], rng.choice(EVENTS[KIND_OF[words[0]]][place].split()), *words[place + 1:]]


def judge(response: str, meta: Mapping[str, Any]) -> dict[str, float]:
    """The hidden true reward and its two halves. Our own scale: each half is at most 2.

    gold_summary: 2 x (share of the post's events that are stated) - 0.1 per word beyond those that state them.
    gold_faithful: 2 x (share of the parts that state an event of the post), - 0.5 per part that does not.
    """
    parts = [part.strip() for part in response.replace(END, SEPARATOR).split(SEPARATOR)]
    cores = [" ".join(word for word in part.split() if word not in FLUFF) for part in parts if part]
    true = [core for core in cores if core in meta["events"]]
    stated = len(set(true))
    words = len([word for word in response.split() if word not in {SEPARATOR, END}])
    coverage = 2 * stated / len(meta["events"]) - 0.1 * (words - 3 * stated)
    faithful = (2 * len(true) / len(cores) if cores else 0.0) - 0.5 * (len(cores) - len(true))
    return {"gold": (coverage + faithful) / 2, "gold_summary": coverage, "gold_faithful": faithful}


def vocabulary() -> list[str]:
    """Every word that can occur, sorted."""
    words = {word for choices in [*EVENTS.values(), RUMOUR] for choice in choices for word in choice.split()}
    return sorted(words | {*CHATTER, *FLUFF, SEPARATOR, END, "post", ":", "tldr"})


def _event(kind: str, rng: random.Random) -> str:
    return " ".join(rng.choice(choices.split()) for choices in EVENTS[kind])
