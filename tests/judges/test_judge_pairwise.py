"""Both orders, ties, the cache, and the stand-in judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from pydantic import TypeAdapter, ValidationError

from rlfamily.errors import UserError
from rlfamily.judges import JudgeConfig, Question, get, names
from rlfamily.judges.cache import Cache
from rlfamily.judges.pairwise import Judgement, Pair, estimate, judge_pairs

ASKED = {"prompt": "ours", "criterion": "better?", "prompt_file": None, "orders": 0, "max_unreadable": 0.1}
STAND_IN = ASKED | {"kind": "stand_in", "label": None, "seed": 0, "noise": 0.0, "length_bias": 0.0, "tie_band": 0.0}
REMOTE = ASKED | {
          "kind": "openai", "model": "m", "base_url": None, "temperature": 0.0, "max_output_tokens": 8, "retries": 0, "timeout_seconds": 1.0,
          "parallel": 2, "price_input": 0.0, "price_output": 0.0}


def settings(base: dict, **changes):
    return TypeAdapter(JudgeConfig).validate_python(base | changes)


@dataclass
class Scripted:
    """Answers by a rule on what stands first and second; remembers what it was asked."""

    rule: Callable[[str, str], str]
    asked: list[Question] = field(default_factory=list)

    def answers(self, questions):
        for index in reversed(range(len(questions))):
            self.asked.append(questions[index])
            lines = [line[2:] for line in questions[index].text.splitlines() if line.startswith("> ")]
            yield index, self.rule(lines[1], lines[2])


def longer(first: str, second: str) -> str:
    return "tie" if len(first) == len(second) else "first" if len(first) > len(second) else "second"


PAIRS = [Pair(0, "q0", "long", "a", None), Pair(1, "q1", "a", "long", None), Pair(2, "q2", "aa", "bb", None),
         Pair(3, "q3", "same", "same", None)]


def outcomes(judge, tmp_path, pairs=PAIRS, **changes):
    config = settings(REMOTE, **changes)
    found = judge_pairs(pairs, config, Cache(tmp_path, config.identity()), lambda: judge, lambda cost: None,
                        lambda done, total: None)
    return [one.outcome for one in found]


def test_win_loss_and_tie(tmp_path) -> None:
    judge = Scripted(longer)
    assert outcomes(judge, tmp_path) == ["win", "loss", "tie", "tie"]
    assert len(judge.asked) == 6, "equal responses are not asked about; the others in both orders"


@pytest.mark.parametrize("always", ["first", "second"])
def test_a_judge_that_prefers_a_place_gives_ties_only(tmp_path, always: str) -> None:
    assert outcomes(Scripted(lambda first, second: always), tmp_path) == ["tie"] * 4


def test_one_order_alone_decides_nothing(tmp_path) -> None:
    half = Scripted(lambda first, second: "first" if first == "long" else "tie")
    assert outcomes(half, tmp_path) == ["tie"] * 4


def test_answers_are_kept_and_replayed_without_the_judge(tmp_path) -> None:
    def unreachable(first: str, second: str) -> str:
        raise AssertionError("asked again")

    first = outcomes(Scripted(longer), tmp_path)
    assert outcomes(Scripted(unreachable), tmp_path) == first
    assert outcomes(Scripted(unreachable), tmp_path, price_input=3.0, retries=9, parallel=1) == first, "same answers"
    other = Scripted(longer)
    assert outcomes(other, tmp_path, model="another") == first
    assert len(other.asked) == 6, "another judge is asked itself"


def test_a_failure_loses_no_answer(tmp_path) -> None:
    class Breaks(Scripted):
        def answers(self, questions):
            for count, found in enumerate(super().answers(questions)):
                if count == 4:
                    raise UserError("gone")
                yield found

    with pytest.raises(UserError, match="gone"):
        outcomes(Breaks(longer), tmp_path)
    rest = Scripted(longer)
    assert outcomes(rest, tmp_path) == ["win", "loss", "tie", "tie"]
    assert len(rest.asked) == 2


def test_a_damaged_cache_file_is_asked_again(tmp_path) -> None:
    outcomes(Scripted(longer), tmp_path)
    files = sorted(tmp_path.rglob("*.json"))
    assert len(files) == 6
    files[0].write_text("{")
    files[1].write_text('{"answer": "maybe"}')
    again = Scripted(longer)
    assert outcomes(again, tmp_path) == ["win", "loss", "tie", "tie"]
    assert len(again.asked) == 2


def test_an_unreadable_judge_is_refused(tmp_path) -> None:
    def mumble(first: str, second: str) -> str:
        return "unreadable" if first == "long" else longer(first, second)

    with pytest.raises(UserError, match=r"2 of 6 answers are none of \[\[A\]\]"):
        outcomes(Scripted(mumble), tmp_path)
    assert outcomes(Scripted(mumble), tmp_path / "b", max_unreadable=0.5) == ["tie", "tie", "tie", "tie"]


def test_the_estimate_counts_what_is_missing(tmp_path) -> None:
    costs = []
    for prices in ({}, {"price_input": 2.0, "price_output": 10.0}):
        config = settings(REMOTE, **prices)
        judge_pairs(PAIRS, config, Cache(tmp_path / str(bool(prices)), config.identity()), lambda: Scripted(longer),
                    costs.append, lambda done, total: None)
    assert [cost.calls for cost in costs] == [6, 6]
    assert costs[0].dollars is None and "price not known" in str(costs[0])
    assert costs[1].dollars == pytest.approx((costs[1].tokens_in * 2 + costs[1].tokens_out * 10) / 1e6)
    text = Question("x" * 4000, None)
    assert estimate([text], 0, config).tokens_in == 1000
    assert estimate([], 6, settings(REMOTE)).dollars == 0.0
    assert estimate([text], 0, settings(STAND_IN)).dollars == 0.0


def stand_in(gold: tuple[float, float] | None, items: int = 1, **changes) -> list[str]:
    config = settings(STAND_IN, **changes)
    pairs = [Pair(item, f"q{item}", "a", "b", gold) for item in range(items)]
    found = judge_pairs(pairs, config, None, lambda: get("stand_in").load(config, None, None), lambda cost: None,
                        lambda done, total: None)
    return [one.outcome for one in found]


def test_the_stand_in_follows_the_gold_reward() -> None:
    assert stand_in((1.0, 0.0)) == ["win"]
    assert stand_in((0.0, 1.0)) == ["loss"]
    assert stand_in((0.5, 0.5)) == ["tie"]
    assert stand_in((0.54, 0.5), tie_band=0.05) == ["tie"]
    assert stand_in((0.56, 0.5), tie_band=0.05) == ["win"]


def test_the_stand_ins_noise_is_fixed_by_seed_and_question() -> None:
    once = stand_in((0.1, 0.0), 200, noise=1.0)
    assert once == stand_in((0.1, 0.0), 200, noise=1.0)
    assert once != stand_in((0.1, 0.0), 200, noise=1.0, seed=1)
    assert set(once) == {"win", "tie", "loss"}, "with much noise the orders disagree, which is a tie"
    assert stand_in((5.0, 0.0), 50, noise=0.1) == ["win"] * 50


def test_a_stand_in_may_like_length() -> None:
    def longer(ours: str, theirs: str, bias: float, gold: tuple[float, float] = (0.0, 0.0)) -> str:
        config = settings(STAND_IN, length_bias=bias)
        (found,) = judge_pairs([Pair(0, "q", ours, theirs, gold)], config, None,
                               lambda: get("stand_in").load(config, None, None), lambda cost: None, lambda *done: None)
        return found.outcome

    assert longer("a b c", "a b", 0.0) == "tie"
    assert [longer("a b c", "ab", 0.1), longer("ab", "a b c", 0.1)] == ["win", "loss"]
    assert longer("a b c", "ab", 0.1, (0.0, 0.19)) == "win" and longer("a b c", "ab", 0.1, (0.0, 0.21)) == "loss"


def test_a_stand_in_says_for_whom_it_stands() -> None:
    named = settings(STAND_IN, label="Mistral", noise=0.2, length_bias=0.01)
    assert named.name == "stand-in judge for Mistral (hidden gold reward, noise 0.2, 0.01 a word)"
    assert named.identity() == settings(STAND_IN, noise=0.2, length_bias=0.01).identity() != settings(STAND_IN, noise=0.2).identity()


def test_one_order_by_chance_is_one_of_the_two_answers() -> None:
    """The same for every judge; a judge that prefers a place wins half, one that does not says what both orders say."""
    biased = [Judgement(item, "ours", "theirs") for item in range(400)]
    drawn = [[one.drawn(draw) for one in biased] for draw in range(3)]
    for draws in drawn:
        assert all(outcome == {"ours": "win", "theirs": "loss"}[first] for first, outcome in draws)
        assert 160 < sum(outcome == "win" for _, outcome in draws) < 240
    assert drawn[0] != drawn[1] != drawn[2]
    assert drawn == [[Judgement(item, "ours", "theirs").drawn(draw) for item in range(400)] for draw in range(3)]
    fair = [Judgement(item, word, word) for item, word in enumerate(["ours", "theirs", "tie"] * 20)]
    assert all(one.drawn(draw)[1] == one.outcome for one in fair for draw in range(3))
    assert {Judgement(item, "unreadable", "ours").drawn(0)[1] for item in range(20)} == {"tie", "win"}


def test_an_answer_in_another_form_is_another_answer() -> None:
    assert settings(REMOTE).identity() == {key: REMOTE[key] for key in ("kind", "model", "base_url", "temperature",
                                                                        "max_output_tokens")}, "old answers stay"
    assert settings(REMOTE, prompt="rpo").identity()["prompt"] == "rpo"


def test_the_stand_in_needs_a_gold_reward() -> None:
    with pytest.raises(UserError, match="hidden gold reward"):
        stand_in(None)


def test_every_judge_has_settings_and_a_name() -> None:
    assert names() == ["alpaca_eval", "causal_lm", "openai", "stand_in"]
    assert "stand-in" in settings(STAND_IN).name
    assert settings(REMOTE, model="judge-1").name == "judge-1"
    assert settings(REMOTE, base_url="https://huggingface.co/v1").name == "m at https://huggingface.co/v1"
    with pytest.raises(UserError, match=r"did you mean 'openai'"):
        get("opena")
    with pytest.raises(ValidationError):
        settings(STAND_IN, nois=1.0)
