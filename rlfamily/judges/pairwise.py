"""Win, tie or loss of our response against theirs: asked in both orders, a win only when both orders say so.

A judge that always prefers one place answers the two orders differently, and so counts as nothing but ties. Where one
order by chance is to decide alone, it is one of the two answers that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlfamily.errors import UserError
from rlfamily.judges import Answer, Judge, JudgeSettings, OpenAiJudge, Question, prompts
from rlfamily.judges.cache import Cache
from rlfamily.streams import order_seed

CHARACTERS_PER_TOKEN = 4  # English text, roughly: for the estimate alone
ANSWER_TOKENS = 5  # [[A]]
_OURS: dict[Answer, str] = {"first": "ours", "second": "theirs", "tie": "tie", "unreadable": "unreadable"}
_THEIRS: dict[Answer, str] = {"first": "theirs", "second": "ours", "tie": "tie", "unreadable": "unreadable"}
_OUTCOME = {"ours": "win", "theirs": "loss", "tie": "tie", "unreadable": "tie"}


@dataclass(frozen=True)
class Pair:
    """One prompt with both responses, and their hidden gold rewards where the task has them."""

    item: int
    prompt: str
    ours: str
    theirs: str
    gold: tuple[float, float] | None


@dataclass(frozen=True)
class Judgement:
    """`first`, `second`: whom the judge preferred (ours, theirs, tie, unreadable) when ours, or theirs, stood first.

    `asked` is False for equal responses, about which nobody was asked.
    """

    item: int
    first: str
    second: str
    asked: bool = True

    @property
    def outcome(self) -> str:
        """win, loss, or tie when the two orders disagree."""
        return _OUTCOME[self.first] if self.first == self.second else "tie"

    def drawn(self, draw: int) -> tuple[str, str]:
        """Who stood first in the one order that `draw` chose, and the outcome of that order alone."""
        turned = order_seed(draw, self.item) % 2
        return ("theirs", _OUTCOME[self.second]) if turned else ("ours", _OUTCOME[self.first])


@dataclass(frozen=True)
class Estimate:
    """What it will cost to ask, before anything is asked. `dollars` is None when no price is known."""

    calls: int
    cached: int
    tokens_in: int
    tokens_out: int
    dollars: float | None

    def __str__(self) -> str:
        price = "price not known" if self.dollars is None else f"about ${self.dollars:.2f}"
        return (f"{self.calls} calls ({self.cached} answers known), about {self.tokens_in} tokens in and "
                f"{self.tokens_out} out, {price}")


def questions(pair: Pair, form: prompts.Form) -> tuple[Question, Question]:
    """The pair as two questions: ours first, then theirs first."""
    gold, words = pair.gold, (len(pair.ours.split()), len(pair.theirs.split()))
    return (Question(prompts.render(form, pair.prompt, pair.ours, pair.theirs), gold, words),
            Question(prompts.render(form, pair.prompt, pair.theirs, pair.ours), gold and gold[::-1], words[::-1]))


def estimate(missing: Sequence[Question], cached: int, config: JudgeSettings) -> Estimate:
    """Calls, tokens and dollars of asking what is missing. Judges that run here cost nothing."""
    tokens_in = sum(len(question.text) for question in missing) // CHARACTERS_PER_TOKEN
    tokens_out = ANSWER_TOKENS * len(missing)
    dollars = config.dollars(tokens_in, tokens_out) if isinstance(config, OpenAiJudge) and missing else 0.0
    return Estimate(len(missing), cached, tokens_in, tokens_out, dollars)


def judge_pairs(
    pairs: Sequence[Pair], config: JudgeSettings, cache: Cache | None, load: Callable[[], Judge],
    announce: Callable[[Estimate], None], progress: Callable[[int, int], None],
) -> list[Judgement]:
    """One judgement per pair, in order. `load` is called only when something must be asked.

    Equal responses are a tie that nobody is asked about. Every answer is kept as soon as it is there, so that a failure
    loses none. `announce` is given the estimate before the first call; `progress`, questions answered and in all.
    Raises UserError when the judge cannot be had, or too many of its answers cannot be read.
    """
    form = prompts.form(config.prompt, config.prompt_file, config.criterion)
    asked = [pair for pair in pairs if pair.ours != pair.theirs]
    every = [question for pair in asked for question in questions(pair, form)]
    known = {} if cache is None else {
        question: answer for question in every if (answer := cache.get(question)) is not None}
    missing = [question for question in dict.fromkeys(every) if question not in known]
    announce(estimate(missing, len(known), config))
    if missing:
        for count, (index, answer) in enumerate(load().answers(missing), 1):
            known[missing[index]] = answer
            if cache is not None:
                cache.put(missing[index], answer)
            progress(count, len(missing))
    _refuse_unreadable([known[question] for question in every], config, form)
    found = {}
    for pair in asked:
        first, second = questions(pair, form)
        found[pair.item] = Judgement(pair.item, _OURS[known[first]], _THEIRS[known[second]])
    return [found.get(pair.item, Judgement(pair.item, "tie", "tie", asked=False)) for pair in pairs]


def _refuse_unreadable(answers: list[Answer], config: JudgeSettings, form: prompts.Form) -> None:
    unreadable = answers.count("unreadable")
    if unreadable > config.max_unreadable * len(answers):
        raise UserError(f"judge {config.name}: {unreadable} of {len(answers)} answers are none of {form}: "
                        "use another model, or allow longer answers (task.judge.max_output_tokens)")
