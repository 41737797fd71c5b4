"""A session: prompts passed once, then rows that grow by a token at a time, and are dropped or forked on the way.

    session = start(policy, prompts, copies)        # session.logits_RV: what each row's first token is drawn from
    logits_RV = session.step(token_R)               # every row grows by a token
    session.select(index_R)                         # row r becomes what row index_R[r] was: dropped, moved or forked

A fork copies keys and values; nothing that was passed is passed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch

from rlfamily.models.batching import Rows, pad
from rlfamily.models.layouts.session import Session
from rlfamily.models.policy import Policy
from rlfamily.models.value import ValueFunction


def start_rows(loaded: Policy | ValueFunction, prompts: Sequence[Sequence[int]]) -> Session:
    """A row for each prompt; equal prompts side by side are passed once."""
    groups = [(prompt, len(list(same))) for prompt, same in groupby(map(tuple, prompts))]
    return start(loaded, [prompt for prompt, _ in groups], [count for _, count in groups])


def start(loaded: Policy | ValueFunction, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> Session:
    """Pass B different prompts; `copies[b]` rows start from prompt b, a prompt's together."""
    rows = pad(Rows(prompts, [[] for _ in prompts]), loaded.pad_id).to(loaded.device)
    group_R = torch.arange(len(prompts)).repeat_interleave(torch.tensor(copies)).to(loaded.device)
    return loaded.layout.session(loaded, rows, group_R)
