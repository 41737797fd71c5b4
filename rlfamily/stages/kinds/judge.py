"""Judge stage: our greedy responses against another row's, on the same held-out prompts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlfamily.judges import OpenChooser
    from rlfamily.judges.pairwise import Pair
    from rlfamily.stages.worker import StageContext

VERSION = "1"


def run(context: StageContext) -> dict[str, Any]:
    """Config: judge; inputs: ours, theirs (scores), and the judge's model where it runs here.

    Writes judgements.jsonl, one line a prompt. Raises UserError when the two rows answered different prompts.
    """
    from pydantic import TypeAdapter

    from rlfamily import judges
    from rlfamily.judges.cache import Cache
    from rlfamily.judges.pairwise import Estimate, judge_pairs
    from rlfamily.records import write_jsonl

    config: Any = TypeAdapter(judges.JudgeConfig).validate_python(context.config["judge"])
    pairs = paired(context.inputs["ours"] / "scores.jsonl", context.inputs["theirs"] / "scores.jsonl")
    estimates: list[Estimate] = []

    def announce(estimate: Estimate) -> None:
        estimates.append(estimate)
        sys.stderr.write(f"judge {config.name}: {estimate}\n")  # the stage's log
        context.progress(0, max(1, estimate.calls), f"{config.name}: {estimate}")

    def load() -> judges.Judge:
        return judges.get(config.kind).load(config, *_place(context), _vllm(context))

    root = context.work.parents[2]  # <results>/artifacts/work/<key>; all tables share the answers
    cache = Cache(root, config.identity()) if config.kind != "stand_in" else None  # its answers cost less than a file
    judgements = judge_pairs(pairs, config, cache, load, announce,
                             lambda done, total: context.progress(done, total, f"{config.name}: {estimates[0]}"))
    write_jsonl(context.out / "judgements.jsonl", (
        {"item": one.item, "first": one.first, "second": one.second, "judge": config.name,
         **{outcome: float(one.outcome == outcome) for outcome in ("win", "tie", "loss")}} for one in judgements))
    cost = estimates[0]
    return {"pairs": len(pairs), "judge": config.name, "calls": cost.calls, "cached": cost.cached,
            "tokens_in": cost.tokens_in, "tokens_out": cost.tokens_out, "dollars": cost.dollars,
            "orders_disagree": sum(one.first != one.second for one in judgements)}


def paired(ours: Path, theirs: Path) -> list[Pair]:
    """The greedy responses of two score files, prompt by prompt. Raises UserError when the prompts differ."""
    from rlfamily.errors import UserError
    from rlfamily.judges.pairwise import Pair

    left, right = _greedy(ours), _greedy(theirs)
    same = left.keys() == right.keys() and all(left[item]["prompt"] == right[item]["prompt"] for item in left)
    if not left or not same:
        raise UserError(f"judge: the two rows answered different prompts ({len(left)} and {len(right)} greedy "
                        "responses): compare rows of one task at the same task.eval_prompts")
    return [Pair(item, row["prompt"], row["response"], right[item]["response"], _gold(row, right[item]))
            for item, row in sorted(left.items())]


def _greedy(path: Path) -> dict[int, dict[str, Any]]:
    from rlfamily.records import read_jsonl

    return {row["item"]: row for row in read_jsonl(path) if row["mode"] == "greedy"}


def _gold(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, float] | None:
    return (ours["gold"], theirs["gold"]) if "gold" in ours and "gold" in theirs else None


def _place(context: StageContext) -> tuple[Path | None, Any]:
    """The judge's model and device where it runs here, else nothing: torch is imported for those alone."""
    if "judge" not in context.inputs:
        return None, None
    from rlfamily.stages.placing import place

    return context.inputs["judge"] / "model", place(context).accelerator().device


def _vllm(context: StageContext) -> OpenChooser | None:
    """What opens the judge's model in vLLM, where it runs here and vLLM is asked for."""
    if context.config["judge"].get("engine") != "vllm":
        return None
    from rlfamily.rollout.engines import open_chooser
    from rlfamily.stages.placing import place

    return open_chooser(place(context).machine())
