"""The same cases on a CUDA device, at the size of Qwen2.5-0.5B with random weights, in bf16. `make bench-gpu` runs it.

Everything but `run` takes a device and sizes, so that tests run all of it on a CPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from bench import theirs, trl
from bench.drawing import TINY, Draws, Shape, draws, ours, plain_model, random_policy
from bench.measure import Result, alternate, machine, spread
from bench.roofline import Counts, Roof, decode_bytes, measured_roof, settle, update_flops
from bench.training import First, Plain, trainer_of
from rlfamily.errors import UserError
from rlfamily.models.policy import Policy

QWEN2_05B = Shape(896, 4864, 24, 14, 2, 151936, 0.05)  # config.json of Qwen2.5-0.5B, but for the last: see drawing.py
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}  # of the first step's gradient norm, relative; of its loss, absolute
TIE = {"fp32": 1e-2, "bf16": 0.5}  # nats by which a greedy token may be less likely than the likeliest
WARM_UP = 3  # a compiled static cache is recorded in its second call
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ABOUT = (
    "A Qwen2 of 494M random weights; wall seconds, the device waited for before and after every call. Before any time "
    "counts, each greedy token of both sides must be the likeliest of a plain forward up to rounding, and the first "
    "update on the same rows must have the same loss and gradient norm on both sides.")
NOTES = [
    "*Limit of memory* is the tokens a second at which decoding would read weights (bf16) and the keys and values of "
    "running rows once a step at the measured speed of a copy, a prompt's once for its group; prefill is left out.",
    "*MFU* is 6 operations a weight for every distinct token of an update (the output layer: for drawn tokens), over "
    "the measured speed of a large bf16 matrix product. The numerator is the same for both sides: a prompt passed once "
    "for each response, and a forward made twice, are work that does not count.",
    "*Memory* is what a call takes beyond weights and moments, which are held already.",
    "Our policy keeps fp32 weights and computes in bf16 (autocast), and draws with the same weights. transformers "
    "draws from a bf16 copy in the generation table, which reads fewer bytes, and with autocast in the plain step.",
    "The plain step draws by `generate` with a growing cache, and has no gradient checkpointing. Nor has TRL here, "
    "which runs where its environment has been made (`make setup-peer`): on equally long rows, without vLLM, and in a "
    "process of its own after the others, not in turns with them.",
]


@dataclass(frozen=True)
class Scale:
    """Sizes: the model, its arithmetic, what is drawn by name, tokens a pass of an update, and rounds that count.

    TRL takes part up to `trl_rows` equally long rows, which it passes at once.
    """

    shape: Shape
    dtype: str
    given: dict[str, Draws]
    tokens: int
    rounds: int
    matrix: int
    copied_mib: int
    trl_rows: int


def scale(quick: bool) -> Scale:
    """What is run on a GPU; `quick`: tiny."""
    shape = TINY if quick else QWEN2_05B
    kinds = {"9 tokens": (9, 2, 2, 8)} if quick else {
        "64 rows, prompts of 96": (96, 8, 8, 64), "64 rows, prompts of 384": (384, 8, 8, 64),
        "256 rows, prompts of 384, 256 new": (384, 32, 8, 256)}
    given = {name + (", early stops" if early else ""): draws([prompt] * count, copies, new, shape.vocab_size, early)
             for name, (prompt, count, copies, new) in kinds.items() for early in (False, True)}
    # 16,384 tokens a pass: their logits in fp32 take 9 GiB where all of them are response tokens.
    return Scale(shape, "fp32", given, 64, 1, 64, 1, 64) if quick else Scale(
        shape, "bf16", given, 16384, 7, 8192, 1024, 64)


def waited(call: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """The call, and a wait for all that it started."""
    def whole() -> None:
        call()
        settle(device)
    return whole


def peak_mib(call: Callable[[], object], device: torch.device) -> float | None:
    """The most memory that a call took beyond what was held before it, in MiB; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    waited(call, device)()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


@torch.inference_mode()
def shortfall(model: Any, given: Draws, rows: list[list[int]]) -> float:
    """The most nats by which a token of greedy `rows` is less likely than the likeliest, by a plain forward."""
    worst = 0.0
    for number, ids in enumerate(rows):
        prompt = given.prompts[number // given.copies]
        logits_TV = model(torch.tensor([prompt + ids], device=model.device)).logits[0, len(prompt) - 1:-1].float()
        logits_TV[:, model.config.eos_token_id] = -torch.inf  # it comes where the schedule says, and nowhere else
        chosen_T = logits_TV.gather(1, torch.tensor(ids, device=model.device)[:, None])[:-1, 0]
        worst = max(worst, float((logits_TV[:-1].amax(1) - chosen_T).clamp(min=0).amax()) if len(ids) > 1 else 0.0)
    return worst


def check_greedy(policy: Policy, plain: Any, model: Any, given: Draws, where: str) -> None:
    """Raise UserError unless both sides decode the likeliest tokens, each by a plain forward in its own arithmetic.

    Ours is that of `plain` under the policy's autocast, transformers' that of `model`: in bf16 the two are nats apart.
    """
    with policy.autocast():
        apart = {"ours": shortfall(plain, given, [row.ids for row in ours(policy, given, greedy=True)])}
    apart["transformers"] = shortfall(model, given, theirs.dynamic(model, given, True))
    for name, found in apart.items():
        if not found <= TIE[policy.dtype]:
            raise UserError(f"bench: gpu, {where}: a greedy token of {name} is {found:.2g} nats less likely than the "
                            "likeliest, so no time counts: run make test-gpu")


def check_first(whose: str, found: First, plain: First, dtype: str, where: str) -> None:
    """Raise UserError unless loss and gradient norm of the first update are the plain step's."""
    limit, loss, norm = TOLERANCE[dtype], abs(found.loss - plain.loss), abs(found.grad_norm / plain.grad_norm - 1)
    if not (loss <= limit and norm <= limit):
        raise UserError(f"bench: gpu, {where}: {whose} first update and the plain one differ (loss by {loss:.2g}, "
                        f"gradient norm by {norm:.2g} of it), so no time counts: run make test-gpu")


def generation(sizes: Scale, roof: Roof, device: torch.device) -> list[dict[str, Any]]:
    """Tokens per second of every side, beside what memory allows."""
    policy = random_policy(sizes.shape, _positions(sizes), sizes.dtype, device)
    plain, rows = plain_model(policy), []
    model = plain_model(policy).to(DTYPES[sizes.dtype])
    for name, given in sizes.given.items():
        check_greedy(policy, plain, model, given, name)
        calls: dict[str, Callable[[], object]] = {"ours": partial(ours, policy, given)}
        calls |= {way: partial(call, model, given, False) for way, call in theirs.WAYS.items()}
        costs = alternate({side: waited(call, device) for side, call in calls.items()}, sizes.rounds, WARM_UP)
        rates = {side: [given.tokens / cost.wall for cost in found] for side, found in costs.items()}
        limit = given.tokens * roof.bandwidth / decode_bytes(Counts.of(sizes.shape), sizes.shape, given)
        fastest = statistics.median(rates["ours"])
        rows.append({
            "case": name, "tokens": given.tokens, **{side: spread(values) for side, values in rates.items()},
            "limit": limit, "reached": fastest / limit,
            "ratio": fastest / max(statistics.median(rates[way]) for way in theirs.WAYS),
            "peak": peak_mib(calls["ours"], device)})
    return rows


def training(sizes: Scale, roof: Roof, device: torch.device) -> list[dict[str, Any]]:
    """Seconds of whole steps and of updates alone on both sides, with MFU of the updates."""
    return [row for name, given in sizes.given.items()
            for row in _trained(sizes, name, given, roof, device) + trl_steps(sizes, name, given, device)]


def _trained(sizes: Scale, name: str, given: Draws, roof: Roof, device: torch.device) -> list[dict[str, Any]]:
    policy = random_policy(sizes.shape, _positions(sizes), sizes.dtype, device)
    plain = Plain(plain_model(policy), sizes.dtype, sizes.tokens)
    drawn = [row.ids for row in ours(policy, given)]
    steps = WARM_UP + sizes.rounds + 2  # the first one is compared, the last one tells memory
    fixed = iter(trainer_of(policy, given, steps, sizes.tokens, drawn).steps())
    metrics = next(fixed).metrics
    first = plain.update(given, drawn)
    check_first("our", First(metrics["loss"], metrics["grad_norm"]), first, sizes.dtype, name)
    whole = iter(trainer_of(policy, given, steps, sizes.tokens).steps())
    sides: dict[str, dict[str, Callable[[], object]]] = {
        "ours": {"update": lambda: next(fixed), "step": lambda: next(whole)},
        "plain": {"update": lambda: plain.update(given, drawn), "step": lambda: plain.step(given)}}
    costs = {kind: alternate({side: waited(own[kind], device) for side, own in sides.items()}, sizes.rounds, WARM_UP)
             for kind in ("update", "step")}
    found = []
    for side, own in sides.items():
        seconds = {kind: [cost.wall for cost in costs[kind][side]] for kind in costs}
        needed = update_flops(Counts.of(sizes.shape), given)
        found.append({
            "case": name, "side": side, "tokens": given.tokens, **{kind: spread(seconds[kind]) for kind in seconds},
            "mfu": needed / statistics.median(seconds["update"]) / roof.flops, "peak": peak_mib(own["update"], device)})
    return found


def trl_steps(sizes: Scale, name: str, given: Draws, device: torch.device) -> list[dict[str, Any]]:
    """Seconds of TRL's whole steps, in its own process; nothing where it is not installed, or rows are too many."""
    if not trl.available() or len(given.lengths) > sizes.trl_rows or len(set(given.lengths)) > 1:
        return []
    policy = random_policy(sizes.shape, _positions(sizes), sizes.dtype, device)
    drawn = [row.ids for row in ours(policy, given)]
    first, found = Plain(plain_model(policy), sizes.dtype, sizes.tokens).update(given, drawn), []
    torch.cuda.empty_cache()  # room for another process; nothing without a GPU
    for side, options in trl.ROWS.items():
        answer = trl.steps(policy, given, drawn, WARM_UP + sizes.rounds, options)
        check_first(f"{side}'s", First(answer["loss"], answer["grad_norm"]), first, sizes.dtype, name)
        found.append({"case": name, "side": side, "tokens": answer["tokens"][-1], "update": None, "mfu": None,
                      "step": spread(answer["seconds"][WARM_UP:]), "peak": None})
    return found


def _positions(sizes: Scale) -> int:
    return max(given.longest for given in sizes.given.values())


def tables(sizes: Scale, device: torch.device) -> list[dict[str, Any]]:
    """All that is measured on a device, as tables of a result."""
    roof = measured_roof(device, DTYPES[sizes.dtype], sizes.matrix, sizes.copied_mib)
    return [
        {"title": "The device, measured",
         "columns": {"tflops": f"TFLOP/s, {sizes.dtype} matrices", "bandwidth": "copy, GB/s"},
         "rows": [{"tflops": roof.flops / 1e12, "bandwidth": roof.bandwidth / 1e9}]},
        {"title": "Generation, tokens per second",
         "columns": {"case": "case", "tokens": "tokens drawn", "ours": "ours", "dynamic": "`generate`",
                     "static": "`generate`, static cache", "prefilled": "`generate`, prompts prefilled",
                     "ratio": "ours / their best", "limit": "limit of memory", "reached": "ours / limit",
                     "peak": "our memory, MiB"},
         "rows": generation(sizes, roof, device)},
        {"title": "A training step, wall seconds",
         "columns": {"case": "case", "side": "side", "tokens": "tokens drawn", "step": "whole step", "update": "update",
                     "mfu": "MFU of the update", "peak": "memory of the update, MiB"},
         "rows": training(sizes, roof, device)},
    ]


def run(quick: bool) -> Result:
    """Everything on the first CUDA device. Raises UserError where there is none."""
    if not torch.cuda.is_available():
        raise UserError("bench: gpu: no CUDA device is visible: run it on a machine with one, or check the driver")
    device = torch.device("cuda", 0)
    here = machine() | {"device": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return {"title": "GPU", "about": ABOUT, "quick": quick, "machine": here, "tables": tables(scale(quick), device),
            "notes": NOTES}
