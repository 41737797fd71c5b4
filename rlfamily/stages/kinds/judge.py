"""Judge stage: our responses against another row's, on the same held-out prompts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlfamily import judges
from rlfamily.errors import UserError
from rlfamily.examples import CONTROLLED, read_examples
from rlfamily.judges.cache import Cache, Replies
from rlfamily.judges.pairwise import Estimate, Judgement, Pair, judge_pairs
from rlfamily.place import Place
from rlfamily.records import read_jsonl, write_jsonl
from rlfamily.settings import Strict
from rlfamily.stages.kind import Versioned
from rlfamily.stamp import stamp

if TYPE_CHECKING:
    from rlfamily.judges import OpenChooser

VERSION = "4"
WRITES = {"judgements.jsonl": "a pair of responses with the verdict of both orders, and of one by chance; "
          "`controlled`: preference, characters theirs has more, and difficulties where they are known"}


Announce = Callable[[Estimate], None]
Progress = Callable[[int, int], None]


class Config(Strict):
    """Who judges."""

    judge: judges.JudgeConfig


@dataclass(frozen=True)
class Inputs:
    """The scores of both sides, the judge's model where it runs here, and the task's files."""

    ours: Path
    theirs: Path
    judge: Path | None = None
    data: Path | None = None


def uses(config: Config) -> Iterator[Versioned]:
    """The judge."""
    yield judges.get(config.judge.kind)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Judge in both orders, or as alpaca_eval does. Raises UserError when the two rows answered different prompts."""
    judge = config.judge
    pairs = paired(inputs.ours / "scores.jsonl", inputs.theirs / "scores.jsonl")
    estimates: list[Estimate] = []

    def announce(estimate: Estimate) -> None:
        estimates.append(estimate)
        sys.stderr.write(f"judge {judge.name}: {estimate}\n")  # the stage's log
        place.progress(0, max(1, estimate.calls), f"{judge.name}: {estimate}")

    def progress(done: int, total: int) -> None:
        place.progress(done, total, f"{judge.name}: {estimates[-1]}")

    if isinstance(judge, judges.AlpacaEvalJudge):
        found, told = _annotated(place, judge, pairs, announce, progress)
    else:
        found, told = _asked(place, judge, inputs, pairs, announce, progress)
    write_jsonl(place.out / "judgements.jsonl", compared(found, pairs, _known(inputs.data)))
    return {"pairs": len(pairs), "judge": judge.name, **_cost(estimates), **told}


def _asked(
    place: Place, judge: Any, inputs: Inputs, pairs: list[Pair], announce: Announce, progress: Progress
) -> tuple[Iterable[dict[str, Any]], dict[str, int]]:
    """Rows of a judge who is asked in both orders, and how often those disagree."""
    def load() -> judges.Judge:
        return judges.get(judge.kind).load(judge, *_model(place, inputs), _vllm(place, judge))

    # A reply that was read otherwise by an older version is asked for again. The stand-in's cost less than a file.
    identity = judge.identity() | {"version": stamp(judges.get(judge.kind))}
    cache = Cache(place.shared, identity) if judge.kind != "stand_in" else None
    judgements = judge_pairs(pairs, judge, cache, load, announce, progress)
    return rows(judgements, judge), {"orders_disagree": sum(one.first != one.second for one in judgements)}


def _annotated(
    place: Place, judge: judges.AlpacaEvalJudge, pairs: list[Pair], announce: Announce, progress: Progress
) -> tuple[Iterable[dict[str, Any]], dict[str, int]]:
    """Rows of an annotator, asked in one order by chance, and how many of its replies could not be read."""
    preferences = judges.get(judge.kind).load(judge, None, None).preferences(
        pairs, Replies(place.shared, judge.identity()), place.work, announce, progress)
    return annotated(preferences, pairs, judge), {"unreadable": preferences.count(None)}


def annotated(
    preferences: list[float | None], pairs: list[Pair], judge: judges.AlpacaEvalJudge
) -> Iterator[dict[str, Any]]:
    """A row a pair; win, tie and loss say which side is preferred at all, and nothing where no reply could be read."""
    for pair, preference in zip(pairs, preferences, strict=True):
        row = {"item": pair.item, "order": "one", "draw": 0, "judge": judge.name, "preference": preference}
        if preference is None:
            yield row
        else:
            yield row | _verdict("tie" if preference == 0.5 else "win" if preference > 0.5 else "loss", judge)


def _cost(estimates: list[Estimate]) -> dict[str, Any]:
    """Calls, tokens and dollars of all that was asked; dollars are null where a price is not known."""
    prices = [one.dollars for one in estimates]
    return {**{name: sum(getattr(one, name) for one in estimates)
               for name in ("calls", "cached", "tokens_in", "tokens_out")},
            "dollars": None if None in prices else sum(price for price in prices if price is not None)}


def rows(judgements: list[Judgement], judge: judges.JudgeSettings) -> Iterator[dict[str, Any]]:
    """A row a pair with the verdict of both orders, and one for each draw in which one order alone decides.

    `order` tells the two apart. `consistent`: both orders said the same, of pairs about which the judge was asked.
    """
    for one in judgements:
        consistent = {"consistent": float(one.first == one.second != "unreadable")} if one.asked else {}
        yield {"item": one.item, "order": "both", "first": one.first, "second": one.second, **consistent,
               **_verdict(one.outcome, judge)}
    for draw in range(judge.orders):
        for one in judgements:
            shown, outcome = one.drawn(draw)
            yield {"item": one.item, "order": "one", "draw": draw, "shown_first": shown, **_verdict(outcome, judge)}


def compared(
    found: Iterable[dict[str, Any]], pairs: Iterable[Pair], known: Mapping[int, Sequence[float]]
) -> Iterator[dict[str, Any]]:
    """Rows with what win rates are made of: `preference` for ours from 0 to 1, and lengths in characters.

    `controlled` is what a length-controlled rate reads: the preference (null: it could not be read), the characters
    that theirs has more, and what is `known` of the prompt's difficulty.
    """
    lengths = {pair.item: (len(pair.ours), len(pair.theirs)) for pair in pairs}
    for row in found:
        ours, theirs = lengths[row["item"]]
        preference = row.pop("preference") if "preference" in row else row["win"] + row["tie"] / 2
        said = {} if preference is None else {"preference": preference}
        yield row | said | {"characters": ours, "controlled": [preference, theirs - ours, *known.get(row["item"], ())]}


def _known(data: Path | None) -> dict[int, list[float]]:
    """What the task tells of its prompts' difficulty, by item: see `rlfamily.tasks.support.alpaca`."""
    examples = [] if data is None else read_examples(data / "test.jsonl")
    return {item: example.meta[CONTROLLED] for item, example in enumerate(examples) if CONTROLLED in example.meta}


def _verdict(outcome: str, judge: judges.JudgeSettings | judges.AlpacaEvalJudge) -> dict[str, Any]:
    return {"judge": judge.name, **{word: float(outcome == word) for word in ("win", "tie", "loss")}}


def paired(ours: Path, theirs: Path) -> list[Pair]:
    """A response to each prompt of two score files. Raises UserError when the prompts differ."""
    left, right = _judged(ours), _judged(theirs)
    same = left.keys() == right.keys() and all(left[item]["prompt"] == right[item]["prompt"] for item in left)
    if not left or not same:
        raise UserError(f"judge: the two rows answered different prompts ({len(left)} and {len(right)} "
                        "responses): compare rows of one task at the same task.eval_prompts")
    return [Pair(item, row["prompt"], row["response"], right[item]["response"], _gold(row, right[item]))
            for item, row in sorted(left.items())]


def _judged(path: Path) -> dict[int, dict[str, Any]]:
    """The greedy responses, or, where none were made, the first drawn ones, by their prompt."""
    rows = [row for row in read_jsonl(path) if row["draw"] == 0]
    mode = min((row["mode"] for row in rows), default="")  # greedy before sample
    return {row["item"]: row for row in rows if row["mode"] == mode}


def _gold(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, float] | None:
    return (ours["gold"], theirs["gold"]) if "gold" in ours and "gold" in theirs else None


def _model(place: Place, inputs: Inputs) -> tuple[Path | None, Any]:
    """The judge's model and device where it runs here, else nothing: torch is imported for those alone."""
    if inputs.judge is None:
        return None, None
    from rlfamily.models import sharding

    return inputs.judge / "model", sharding.accelerator(place.hardware).device


def _vllm(place: Place, judge: judges.JudgeSettings) -> OpenChooser | None:
    """What opens the judge's model in vLLM, where it runs here and vLLM is asked for."""
    if not isinstance(judge, judges.CausalLmJudge) or judge.engine != "vllm":
        return None
    from rlfamily.rollout.engines import open_chooser

    return open_chooser(place)
