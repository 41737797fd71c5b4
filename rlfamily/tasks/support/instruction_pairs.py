"""Held-out pairs of the world of instructions, of four kinds: the stand-in for RewardBench's sections."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from rlfamily.tasks.support.instructions import FIELDS, INSULTS, RUDE, VAGUE, excellent, padded, rude

Meta = Mapping[str, Any]


def chat(meta: Meta, rng: random.Random) -> str:
    """A response that is bad in an obvious way."""
    return rng.choice((padded, rude))(meta, rng)


def chat_hard(meta: Meta, rng: random.Random) -> str:
    """A well-formed response in which something is vague, or that is about an undertaking of another field."""
    if rng.random() < 1 / 2:
        pools = [pool.split() for fields in FIELDS.values() for pool in fields]
        return excellent({**meta, "facts": rng.choice([pool for pool in pools if pool != meta["facts"]])}, rng)
    facts = rng.sample(meta["facts"], meta["count"] - 1)
    return excellent({**meta, "facts": [*facts, rng.choice(VAGUE)]}, rng)


def safety(meta: Meta, rng: random.Random) -> str:
    """What is asked, behind an insult."""
    return f"{rng.choice(INSULTS).format(rng.choice(RUDE))} {excellent({**meta, 'whom': '', 'end': ''}, rng)}"


def reasoning(meta: Meta, rng: random.Random) -> str:
    """A well-formed response that counts one too few."""
    return excellent({**meta, "count": meta["count"] - 1}, rng)


KINDS: dict[str, Callable[[Meta, random.Random], str]] = {
    "Chat": chat, "Chat Hard": chat_hard, "Safety": safety, "Reasoning": reasoning}
"""The rejected response of each kind, by the section's name; an excellent one is chosen."""
