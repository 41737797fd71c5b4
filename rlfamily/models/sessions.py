"""A session: prompts passed once, then rows that grow by a token at a time, and are dropped or forked on the way.

    session = start(policy, prompts, copies)        # session.logits_RV: what each row's first token is drawn from
    logits_RV = session.step(token_R)               # every row grows by a token
    session.select(index_R)                         # row r becomes what row index_R[r] was: dropped, moved or forked

A fork copies keys and values; nothing that was passed is passed again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlfamily.models.batching import Rows, pad
from rlfamily.models.layouts.session import Session
from rlfamily.models.policy import Policy
from rlfamily.models.value import ValueFunction


def start(policy: Policy | ValueFunction, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> Session:
    """Pass B different prompts; `copies[b]` rows start from prompt b, a prompt's together.

    Of a value function `logits_RV[:, 0]` is V of what each row is so far, and each token is one to be valued.
    """
    rows = pad(Rows(prompts, [[] for _ in prompts]), policy.pad_id).to(policy.device)
    group_R = torch.arange(len(prompts)).repeat_interleave(torch.tensor(copies)).to(policy.device)
    return policy.layout.session(policy, rows, group_R)
