"""Value-guided decoding forks every running row and keeps one fork: from a forked cache, or by passing all again."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.drawing import SMALL, TINY, draws, random_policy
from bench.measure import alternate, spread
from rlfamily.errors import UserError
from rlfamily.models.layouts.session import Session
from rlfamily.models.policy import Policy
from rlfamily.models.sessions import start

FORKS = 8


def _block(session: Session, forks: int, size: int) -> Tensor:
    """Fork every row by its likeliest next tokens and decode `size` tokens greedily: their ids (R x forks, size)."""
    first_RF = session.logits_RV.topk(forks).indices
    session.select(torch.arange(len(first_RF)).repeat_interleave(forks))
    token_R, columns = first_RF.flatten(), []
    for _ in range(size):
        columns.append(token_R)
        token_R = session.step(token_R).argmax(-1)
    return torch.stack(columns, 1)


@torch.inference_mode()
def forked(policy: Policy, prompts: list[list[int]], new: int, size: int, forks: int = FORKS) -> list[list[int]]:
    """`new` tokens a row, in blocks of `size`; of every block's forks one goes on, each time another."""
    session, kept = start(policy, prompts, [1] * len(prompts)), []
    for number in range(new // size):
        keep_B = torch.arange(len(prompts)) * forks + number % forks
        kept.append(_block(session, forks, size)[keep_B])
        session.select(keep_B)
    return torch.cat(kept, 1).tolist()


@torch.inference_mode()
def recomputed(policy: Policy, prompts: list[list[int]], new: int, size: int, forks: int = FORKS) -> list[list[int]]:
    """The same rows, where every block begins with a pass over all that came before it, once for its forks."""
    prefixes = prompts
    for number in range(new // size):
        session = start(policy, prefixes, [1] * len(prompts))
        blocks = _block(session, forks, size)[number % forks::forks].tolist()
        prefixes = [prefix + block for prefix, block in zip(prefixes, blocks, strict=True)]
    return [prefix[len(prompt):] for prefix, prompt in zip(prefixes, prompts, strict=True)]


def _row(policy: Policy, prompts: list[list[int]], new: int, size: int, rounds: int) -> dict[str, Any]:
    sides = {"forked": partial(forked, policy, prompts, new, size),
             "recomputed": partial(recomputed, policy, prompts, new, size)}
    if sides["forked"]() != sides["recomputed"]():
        raise UserError("bench: generation: forked rows and recomputed ones differ, so no time counts: see "
                        "rlfamily/rollout/sessions.py")
    seconds = {name: [cost.cpu for cost in costs] for name, costs in alternate(sides, rounds).items()}
    return {"prompt": len(prompts[0]), "block": size, "tokens": len(prompts) * FORKS * new,
            **{name: spread(values) for name, values in seconds.items()},
            "ratio": statistics.median(seconds["forked"]) / statistics.median(seconds["recomputed"])}


def table(quick: bool) -> dict[str, Any]:
    """CPU seconds of both ways, for two prompts' lengths, forking at every token and at every eighth."""
    shape, prompts, new, rounds = (TINY, 2, 8, 1) if quick else (SMALL, 8, 64, 3)
    lengths = (9,) if quick else (96, 384)
    policy = random_policy(shape, max(lengths) + new)
    rows = [_row(policy, draws([length] * prompts, 1, new, shape.vocab_size).prompts, new, size, rounds)
            for length in lengths for size in (1, 8)]
    return {"title": f"Branching, 0.8M parameters: {prompts} rows of {new} tokens, {FORKS} forks of each",
            "columns": {"prompt": "prompt tokens", "block": "tokens between forks", "tokens": "tokens drawn",
                        "forked": "forked cache, CPU s", "recomputed": "prefix passed again, CPU s",
                        "ratio": "forked / recomputed"}, "rows": rows}
