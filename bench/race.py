"""The training step against TRL's: same saved model, same prompts, same number of tokens, same update.

Each side is a process of its own that trains with its own trainer, one step for each order (`bench.work.Gate`). At the
first step the peer trains on the completions that our side has drawn: unless loss and gradient agree there, the
race stops before any time counts. In cases with early stops our side runs once more beforehand, alone: draws depend on
seeds and weights only, so the lengths of that rehearsal are those of the race, and the peer's rows are made as long.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.measure import Result, machine, spread, turns
from bench.work import Case
from rlfamily.errors import UserError

ROOT = Path(__file__).parents[1]
PEER = ROOT / ".venv-peer/bin/python"

OURS, DEFAULT, BEST = "ours", "TRL default", "TRL best"
# What makes TRL fastest on a CPU, of what its documentation offers (NOTES say what was tried).
FAST = {"gradient_checkpointing": False, "bf16": False, "logging_strategy": "no", "save_strategy": "no",
        "disable_tqdm": True}
EXACT, MIXED = 1e-5, 1e-2
"""Largest difference of loss and gradient at the first step: between fp32 sides, and where one computes in bf16."""

CASES = [
    Case("grpo", "0.8M", 96, False, 8, 7),
    Case("grpo", "0.8M", 96, True, 8, 7),
    Case("grpo", "0.8M", 384, False, 8, 7),
    Case("grpo", "0.8M", 384, True, 8, 7),
    Case("rloo", "0.8M", 96, False, 8, 7),
    Case("dpo", "0.8M", 96, True, 32, 7),
    Case("dpo", "0.8M", 96, True, 32, 7, dtype="bf16"),
    Case("dpo", "0.8M", 384, True, 32, 7),
    Case("grpo", "12M", 96, False, 4, 4),
    Case("grpo", "12M", 96, False, 4, 4, dtype="bf16"),
    Case("grpo", "12M", 384, True, 4, 2),
    Case("dpo", "12M", 96, True, 16, 3),
]
QUICK = [replace(case, size="tiny", prompt=12, new=6, prompts=2, group=4, rounds=1, warm_up=1)
         for case in (CASES[1], CASES[4], CASES[5])]
ALL_SIDES = 4
"""Counted rounds that the default row takes part in: it takes the most time."""


def options_of(case: Case) -> dict[str, dict[str, Any]]:
    """What the peer's rows set beyond what the work needs."""
    best = FAST | {"bf16": case.dtype == "bf16"}
    return {DEFAULT: {}, BEST: best | ({"padding_free": True} if case.method == "dpo" else {})}


class Side:
    """One process that trains; `order` makes it take a step."""

    def __init__(self, command: list[str], folder: Path, name: str) -> None:
        self.errors, self.name = folder / f"{name.replace(' ', '-')}.log", name
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
                       "HF_DATASETS_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=errors, text=True)
        self.started: dict[str, Any] = {}

    def __enter__(self) -> Side:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()

    def start(self) -> Side:
        """Wait until it is built."""
        self.started = self.answer()
        return self

    def order(self, **order: Any) -> dict[str, Any]:
        """One step; what it took. Raises UserError when the process has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # then there is no answer either
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line. Raises UserError when the process has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            said = self.errors.read_text().strip().splitlines() or ["no word"]
            named = [text for text in said if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", text)]
            raise UserError(f"race: {self.name} ended: {(named or said)[-1]}")
        found: dict[str, Any] = json.loads(line)
        return found


def ours(case: Case, folder: Path) -> Side:
    """Our side; it writes the model where there is none."""
    return Side([sys.executable, "-m", "bench.ours", json.dumps(asdict(case)), str(folder)], folder, OURS)


def theirs(case: Case, folder: Path, name: str, options: dict[str, Any], order: list[int]) -> Side:
    """A row of the peer's."""
    return Side([str(PEER), "-m", "bench.peer.side", json.dumps(asdict(case)), json.dumps(options),
                 str(folder / "model"), json.dumps(order)], folder, name)


def rehearsal(case: Case, folder: Path) -> list[dict[str, list[int]]]:
    """How long our rows become at each step, by prompt."""
    with ours(case, folder) as side:
        side.start()
        return [_lengths(side.order()) for _ in range(case.steps)]


def _lengths(answer: dict[str, Any]) -> dict[str, list[int]]:
    return {prompt: [len(ids) for ids in rows] for prompt, rows in answer["drawn"].items()}


def disagreement(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Relative differences of two first steps: of the loss (absolute below 1), of the gradient's norm, and of the norm
    of each weight's gradient (the largest, relative to the whole gradient's).
    """
    pairs = zip(one["gradient_norms"], other["gradient_norms"], strict=True)
    whole = sum(norm**2 for norm in one["gradient_norms"]) ** 0.5
    return {
        "loss": abs(one["loss"] - other["loss"]) / max(1.0, abs(one["loss"])),
        "gradient norm": abs(one["grad_norm"] - other["grad_norm"]) / one["grad_norm"],
        "each weight": max(abs(mine - its) for mine, its in pairs) / whole,
    }


def check(case: Case, name: str, found: dict[str, float], exact: bool) -> None:
    """Raise UserError when two first steps differ by more than rounding."""
    limit = EXACT if exact else MIXED
    for what, difference in found.items():
        if not difference <= limit:
            raise UserError(f"race: {case.name}: {what} of the first step differs by {difference:.1e} from {name}, "
                            f"more than {limit:g}: not the same work, so no time counts")


def race(case: Case, folder: Path) -> dict[str, Any]:
    """All sides of one case; raw answers of the rounds that count, what was built, and how far first steps agree."""
    lengths = rehearsal(case, folder) if case.stops and case.method != "dpo" else None
    with ours(case, folder) as mine:
        order = mine.start().started["order"]
        rows = {name: theirs(case, folder, name, options, order) for name, options in options_of(case).items()}
        with rows[DEFAULT] as default, rows[BEST] as best:
            first = mine.order()
            drawn = {"drawn": first["drawn"]} if "drawn" in first else {}
            agreement = {}
            for side in (default.start(), best.start()):
                agreement[side.name] = disagreement(first, side.order(**drawn))
                check(case, side.name, agreement[side.name], exact=side is best and case.dtype == "fp32")
            steps = {side.name: 1 for side in (mine, default, best)}

            def step(side: Side) -> dict[str, Any]:
                told = lengths[steps[side.name]] if lengths and side is not mine else None
                steps[side.name] += 1
                return side.order(lengths=told) if told else side.order()

            sides = {side.name: partial(step, side) for side in (default, best, mine)}
            answers = turns(sides, min(ALL_SIDES, case.rounds), case.warm_up - 1)
            del sides[DEFAULT]
            for name, more in turns(sides, case.rounds - len(answers[DEFAULT]), 0).items():
                answers[name] += more
        same_tokens(case, answers)
        return {"case": asdict(case), "agreement": agreement, "answers": answers,
                "started": {side.name: side.started for side in (default, best, mine)}}


def same_tokens(case: Case, answers: dict[str, list[dict[str, Any]]]) -> None:
    """Raise UserError unless all sides trained on as many completion tokens at every step."""
    if case.method == "dpo":
        return  # fixed pairs
    counts = {name: [answer["tokens"] for answer in found] for name, found in answers.items()}
    if any(found != counts[OURS][:len(found)] for found in counts.values()):
        raise UserError(f"race: {case.name}: the sides had different numbers of tokens: {counts}")


PHASES = ("generation", "scoring", "log-probs", "update", "other")


def rows_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each side of one case."""
    case, rows = Case(**found["case"]), []
    faster = min(spread([answer["cpu"] for answer in answers])["median"]
                 for name, answers in found["answers"].items() if name != OURS)
    for name, answers in found["answers"].items():
        cpu = spread([answer["cpu"] for answer in answers])
        phases = {phase: spread([_phase(answer, phase) for answer in answers])["median"] for phase in PHASES}
        started, peak = found["started"][name], max(answer["peak_mib"] for answer in answers)
        rows.append({
            "case": case.name, "side": name, "rounds": len(answers), "cpu": cpu, "fastest": cpu["min"],
            "wall": spread([answer["wall"] for answer in answers]), "ratio": cpu["median"] / faster, **phases,
            "peak": peak, "step": peak - started["base_mib"], "agreement": found["agreement"].get(name, {}),
        })
    return rows


def _phase(answer: dict[str, Any], phase: str) -> float:
    if phase == "other":
        return float(answer["cpu"] - sum(answer["phases"].get(name, 0.0) for name in PHASES[:-1]))
    return float(answer["phases"].get(phase, 0.0))


TIMES = {"case": "case", "side": "side", "rounds": "steps", "cpu": "CPU s a step", "fastest": "fastest",
         "wall": "wall s a step", "ratio": "to the faster TRL row"}
PARTS = {"case": "case", "side": "side", **{phase: phase for phase in PHASES}, "peak": "peak MiB",
         "step": "of it above start"}
CHECKS = {"case": "case", "side": "against ours", "loss": "loss", "gradient norm": "gradient norm",
          "each weight": "each weight's gradient"}


def run(quick: bool) -> Result:
    """Race all cases. Raises UserError without the peer's environment, or where the sides do not do the same work."""
    if not PEER.exists():
        raise UserError(f"race: {PEER.parents[1].name}, the environment of TRL, is missing: make setup-peer")
    races = []
    for case in QUICK if quick else CASES:
        with tempfile.TemporaryDirectory() as folder:
            races.append(race(case, Path(folder)))
    rows = [row for found in races for row in rows_of(found)]
    checks = [row | row["agreement"] for row in rows if row["agreement"]]
    peer = races[0]["started"][BEST]["machine"]
    sizes = {found["case"]["size"]: found["started"][OURS]["parameters"] for found in races}
    return {
        "title": "A training step against TRL", "about": ABOUT, "quick": quick,
        "machine": machine() | {f"peer's {name}": peer[name] for name in ("trl", "torch", "transformers")},
        "tables": [
            {"title": "CPU and wall seconds", "columns": TIMES, "rows": rows},
            {"title": "Where the CPU seconds go, and memory", "columns": PARTS, "rows": rows},
            {"title": "First step: relative differences", "columns": CHECKS, "rows": checks},
        ],
        "notes": NOTES + [f"{size}: {count:,} parameters." for size, count in sizes.items()],
        "races": [_kept(found) for found in races],
    }


def _kept(found: dict[str, Any]) -> dict[str, Any]:
    """What the file keeps of one case beside the tables: who ran with what, and every step's seconds."""
    seconds = {name: [{"cpu": one["cpu"], "wall": one["wall"]} for one in answers]
               for name, answers in found["answers"].items()}
    started = {name: {key: value for key, value in said.items() if key != "order"}
               for name, said in found["started"].items()}
    return {"case": found["case"], "options": options_of(Case(**found["case"])), "agreement": found["agreement"],
            "started": started, "seconds": seconds}


ABOUT = ("One step of GRPO, RLOO and DPO, full fine-tuning with AdamW, through `rlfamily.trainer` on one side and "
         "TRL's GRPOTrainer, RLOOTrainer and DPOTrainer on the other.")
NOTES = [
    "Both sides load the same saved Qwen2 with random weights and train on the same prompts, with the same reward, "
    "AdamW, learning rate, clipping and number of completion tokens at every step; else the race stops. Early stops: "
    "ours end where the policy draws one of 8 stop tokens of 260, and TRL's rows are made as long, row by row.",
    "Losses are matched by settings both sides have: GRPO with token_mean here and loss_type=dapo there (its default), "
    "scale_rewards=group, clip 0.2, no KL; RLOO with ratio=sequence, as there, and no KL; DPO with beta 0.1. A step "
    "is one update on rows drawn for it, 8 in a group; DPO takes 32 pairs (16 at 12M), each met once.",
    "At the first step TRL trains on the completions that our side drew. In fp32, loss (absolutely, where it is below "
    "1), gradient norm and the norm of each weight's gradient must agree to 1e-5, else no time counts; rows in bf16 "
    "to 1e-2, as TRL default always is (bf16 autocast and gradient checkpointing are its defaults).",
    "Seconds hold all that happens from one step to the next: TRL's `train()` with its data loader, callbacks and "
    "logging, our `run()` with its records. Our reference forward (DPO) is booked under log-probs, TRL's under "
    "scoring. Two steps of warm-up are not counted; TRL default runs in the first 4 counted rounds only.",
    "TRL best: gradient_checkpointing=False, no logging, saving or progress bar, bf16 as the case says, and for DPO "
    "padding_free=True. Tried, CPU seconds a step on a loaded machine, without the option first. GRPO 0.8M, prompt 96: "
    "cache_implementation=static 2.11, 2.15; optim=adamw_torch 2.11, 2.37; bf16=True 2.34, 2.86; "
    "attn_implementation=eager 2.34, 2.66. GRPO 12M: static 8.80, 8.97; bf16=True 8.80, 7.64. DPO 0.8M, prompt 96: "
    "bf16=True 1.68, 1.47; padding_free 1.68, 1.63; precompute_ref_log_probs 1.68, 1.70 (its seconds included). "
    "Not tried again: transformers' continuous batching (19.7 against 2.1 CPU seconds and 12.9 against 1.8 GB, "
    "measured earlier on another machine). Not tried: Liger and other kernels, which need a GPU, and torch_compile.",
    "Peak memory is that of the whole process, with all its libraries; beside it, what came on top once the trainer "
    "was built.",
]
