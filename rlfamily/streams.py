"""Every random stream of the package, by name. A stream is a function of its name alone: no shared state, any order.

Two runs that ask for the same name draw the same numbers, whatever else they draw: that is what makes a resumed run
equal an unbroken one, and what lets all cells of a table meet the same chance.
"""

from __future__ import annotations

import hashlib
import json
import random
from functools import lru_cache


def stream_seed(*parts: int | str) -> int:
    """A 63-bit seed from a name such as (seed, "rollout", prompt): independent streams, no shared state."""
    digest = hashlib.sha256(_name(*parts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _name(*parts: int | str) -> str:
    """One text for each sequence of texts: joined by slashes, or a list in JSON where a slash belongs to a part.

    A joined name never begins with a slash, a list always does.
    """
    texts = [str(part) for part in parts]
    clear = texts[0] and not any("/" in text for text in texts)
    return "/".join(texts) if clear else "/" + json.dumps(texts)


def rollout_seed(seed: int, epoch: int, prompt: str) -> int:
    """Stream of a run's first response to a prompt in one epoch; response k has this seed plus k."""
    return stream_seed(seed, "rollout", epoch, prompt)


def pairs_seed(seed: int, prompt: str) -> int:
    """Stream of the first of the two responses that become a preference pair."""
    return stream_seed(seed, "pairs", prompt)


def held_out_seed(prompt: str) -> int:
    """Stream of the first held-out response: of prompt and draw alone, so that all cells meet the same chance."""
    return stream_seed("score", prompt)


def outcome_seed(seed: int, prompt: str) -> int:
    """Stream of the first response to a training prompt that value functions learn from."""
    return stream_seed(seed, "outcome", prompt)


def growth_seed(stream: int, place: int) -> int:
    """Stream of the part of a response that begins at token `place`, where each part is a request of its own."""
    return stream_seed(stream, "growth", place)


def growth_uniform(stream: int, place: int) -> float:
    """A number between 0 and 1 by which token `place` of such a response is chosen."""
    return random.Random(growth_seed(stream, place)).random()


def gate_seed(prompt: str) -> int:
    """Stream of the response by which a base model is let through."""
    return stream_seed("gate", prompt)


def order_seed(draw: int, item: int) -> int:
    """Stream that says which of two responses a judge sees first: the same for every judge and every two methods."""
    return stream_seed("judge order", draw, item)


def loss_seed(seed: int, step: int, update: int) -> int:
    """Stream of the chance inside a loss, one for each update."""
    return stream_seed(seed, "loss", step, update)


def prompts_seed(seed: int) -> int:
    """Stream that chooses which training prompts a run takes (with `epoch_order`, pass after pass)."""
    return stream_seed(seed, "prompts")


def shuffle_seed(seed: int) -> int:
    """Stream that deals the rewards of a log out anew (with `epoch_order`): a negative control."""
    return stream_seed(seed, "shuffle")


def reward_noise(seed: int, prompt: str, response: str) -> random.Random:
    """Stream of the random reward of one response."""
    return random.Random(f"{seed}\n{prompt}\n{response}")


@lru_cache(maxsize=4)  # asked for at every step, and a long shuffle takes longer than a small step
def epoch_order(count: int, epoch: int, seed: int) -> tuple[int, ...]:
    """The permutation of `count` items in one epoch: a function of its arguments alone."""
    order = list(range(count))
    random.Random(stream_seed(seed, "order", epoch)).shuffle(order)
    return tuple(order)


def epoch_slice(count: int, batch: int, step: int, steps_per_epoch: int, seed: int) -> tuple[int, ...]:
    """Indices of the items of one step; the last step of an epoch may be short."""
    epoch, place = divmod(step, steps_per_epoch)
    return epoch_order(count, epoch, seed)[place * batch:(place + 1) * batch]
