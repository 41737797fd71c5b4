"""What each technique of the step gives, switched off in the same run, and how many lines of code it takes.

Both sides compute the same numbers; the tests named in the notes say how closely. A switch is a patch of one name, so
what is timed is the product's own code on either side.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from accelerate import Accelerator
from torch import Tensor

from bench.drawing import SMALL, TINY, Draws, Shape, draws, random_policy
from bench.measure import Result, alternate, machine, spread
from rlfamily import core
from rlfamily.core import logprobs
from rlfamily.models.batching import Forward, Rows, RowTensors, pad
from rlfamily.models.layouts import packed, padded, prefix_attention, ragged, shared_prefix
from rlfamily.models.policy import Policy
from rlfamily.rollout import SamplingParams, torch_engine
from rlfamily.trainer import loop, passes

STEP_TOKENS = 1200  # a budget that cuts the step's rows into several passes


class Technique(NamedTuple):
    """`on` and `off` do the same work, with the technique and without; `code` is what it consists of."""

    name: str
    phase: str
    on: Callable[[], object]
    off: Callable[[], object]
    code: tuple[Any, ...]


def run(quick: bool) -> Result:
    """Every technique at two prompt lengths."""
    rows = []
    for prompt in (12,) if quick else (96, 384):
        given = draws([prompt] * (2 if quick else 8), 4 if quick else 8, 8 if quick else 64, 40 if quick else 260)
        for technique in techniques(TINY if quick else SMALL, given):
            rows.append(row(technique, prompt, rounds=1 if quick else 7))
    return {"title": "Techniques of the step", "about": ABOUT, "quick": quick, "machine": machine(),
            "tables": [{"title": "", "columns": COLUMNS, "rows": rows}], "notes": NOTES}


def row(technique: Technique, prompt: int, rounds: int) -> dict[str, Any]:
    """One line of the table."""
    costs = alternate({"on": technique.on, "off": technique.off}, rounds)
    on, off = (spread([cost.cpu for cost in costs[side]]) for side in ("on", "off"))
    return {"technique": technique.name, "phase": technique.phase, "prompt": prompt, "on": on, "off": off,
            "ratio": on["median"] / off["median"], "lines": sum(map(lines, technique.code))}


def lines(code: Any) -> int:
    """Lines of a module, class or function that are not blank."""
    return sum(1 for line in inspect.getsource(code).splitlines() if line.strip())


def techniques(shape: Shape, given: Draws) -> Iterator[Technique]:
    """All of them, on one model and one set of rows."""
    policy = random_policy(shape, given.longest)
    padded_policy = unshared(policy)
    rows = random_rows(given, shape.vocab_size)
    slope_NT = torch.randn(rows.mask_NT.shape, generator=torch.Generator().manual_seed(2))
    update = partial(updated, policy, rows, slope_NT)
    engine, plain = (torch_engine.TorchEngine(one, len(rows)) for one in (policy, padded_policy))
    params = SamplingParams(False, 1.0, given.longest, min_new_tokens=given.new_tokens, logps=True)
    seeds = range(0, 100 * len(given.prompts), 100)
    draw, draw_plain = (partial(one.generate, given.prompts, params, seeds, given.copies) for one in (engine, plain))
    yield Technique("prompt once, no padding", "update", update, partial(updated, padded_policy, rows, slope_NT),
                    (shared_prefix, packed.PackedLayout, ragged))
    yield Technique("attention in two parts, no mask", "update", update,
                    patched(update, shared_prefix, IN_PARTS=frozenset()), (prefix_attention.PrefixAttention,))
    yield Technique("log-probs with a gradient of their own", "update", update,
                    patched(update, core, token_logprobs=plain_logprobs), (logprobs._TokenLogprobs,))
    yield Technique("prompt once, own KV cache", "generation", draw, draw_plain, (packed.PackedSession,))
    small, large = (partial(stepped, policy, rows, slope_NT, budget) for budget in (STEP_TOKENS, 1 << 30))
    yield Technique("several passes in place of one (memory)", "update", partial(small, again=False),
                    partial(large, again=False), ())
    yield Technique("the sampler's log-probs, several passes", "update", partial(small, again=False),
                    partial(small, again=True), (loop.Trainer._as_drawn,))
    quarter_NT = slope_NT.clone()
    quarter_NT[:len(slope_NT) // 4] = 0
    yield Technique("a quarter of the rows without gradient left out", "update",
                    partial(stepped, policy, rows, quarter_NT, 1 << 30, again=False),
                    partial(updated, policy, rows, quarter_NT), (passes.Passes.backward,))


def unshared(policy: Policy) -> Policy:
    """The same policy as a model whose attention is not plain: padded rows, transformers' own cache."""
    twin = copy.deepcopy(policy)
    twin.model.set_attn_implementation("sdpa")
    twin.layout = padded.PaddedLayout()
    return twin


def random_rows(given: Draws, vocabulary: int) -> RowTensors:
    """Random responses to the prompts, all of full length."""
    count = len(given.prompts) * given.copies
    ids = torch.randint(3, vocabulary, (count, given.new_tokens), generator=torch.Generator().manual_seed(1)).tolist()
    return pad(Rows([prompt for prompt in given.prompts for _ in range(given.copies)], ids), 0)


def updated(policy: Policy, rows: RowTensors, slope_NT: Tensor) -> None:
    """Forward and backward of all rows in one pass."""
    torch.autograd.backward(policy.evaluate(rows, 1.0).leaves()["logp_NT"], slope_NT)
    policy.model.zero_grad()


def stepped(policy: Policy, rows: RowTensors, slope_NT: Tensor, budget: int, again: bool) -> None:
    """The same as the trainer does it when log-probs are known, or (`again`) when a forward must find them first."""
    through = passes.Passes(Accelerator(cpu=True), budget, 1.0, False)
    forward = through.without_gradient(policy, rows) if again else elsewhere(rows)
    through.backward(policy, rows, forward, {"logp_NT": slope_NT})
    policy.model.zero_grad()


def elsewhere(rows: RowTensors) -> Forward:
    """Log-probs from elsewhere: here zeros, as they cost nothing."""
    return Forward(torch.zeros(len(rows)), logp_NT=torch.zeros_like(rows.mask_NT))


def plain_logprobs(logits_MV: Tensor, ids_M: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies as autograd would do them."""
    logp_MV = (logits_MV.float() / temperature).log_softmax(1)
    with torch.no_grad():
        entropy_M = torch.special.entr(logp_MV.exp()).sum(1)
    return logp_MV.gather(1, ids_M[:, None])[:, 0], entropy_M


def patched(call: Callable[[], object], target: Any, **names: Any) -> Callable[[], None]:
    """The call, with other values under some names of a module."""
    def inside() -> None:
        with patch.multiple(target, **names):
            call()
    return inside

COLUMNS = {"technique": "technique", "phase": "phase", "prompt": "prompt tokens", "on": "CPU s with", "off": "without",
           "ratio": "with / without", "lines": "lines"}
ABOUT = ("0.8M parameters, fp32, 8 prompts with 8 responses of 64 tokens: each technique of our step against the same "
         "step without it, in this process. A whole step is one generation and one update.")
NOTES = [
    "Equal numbers: tests/models/test_shared_prefix.py, tests/core/test_logprobs.py, tests/rollout/test_sessions.py, "
    "tests/trainer/test_loop.py.",
    "Lines are those of the code that a technique consists of, tests not counted.",
]
