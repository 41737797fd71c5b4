"""What is counted is what was done: tokens drawn, rows passed, questions asked; and no prefix is passed twice."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from guided_world import decoder

from rlfamily.models import sessions

U, MODELS = 4, 2


class Passed:
    """Tokens that went through each model's sessions: prompts, and what rows were extended by."""

    def __init__(self, monkeypatch):
        self.tokens, self.kinds = Counter(), {}
        start = sessions.start

        def counting(loaded, prompts, copies):
            name = type(loaded).__name__
            self.tokens[name, "prompts"] += sum(map(len, prompts))
            session = start(loaded, prompts, copies)
            step, extend = session.step, session.extend

            def counted_step(token_R):
                self.tokens[name, "rows"] += len(token_R)
                return step(token_R)

            def counted_extend(ids_RL, count_R):
                self.tokens[name, "rows"] += int(count_R.sum())
                return extend(ids_RL, count_R)

            session.step, session.extend = counted_step, counted_extend
            return session

        monkeypatch.setattr(sessions, "start", counting)


def one(guided, tmp_path, chosen, mode="sample", room=12, **changes):
    """One response to one prompt whose rows all run to `room` tokens."""
    prompt = len(guided.encoded(1)[0])
    made = {"count": 1, "draws": 1, "max_tokens": prompt + room, "min_new_tokens": room, **changes}
    (row,), _ = guided.drawn(tmp_path, chosen, mode, **made)
    assert len(row["ids"]) == room or "min_new_tokens" in changes
    return row, prompt


@pytest.mark.parametrize("chunk", [1, 3, 4, 5, 12, 20])
def test_a_search_costs_what_algorithm_4_says(guided, tmp_path, monkeypatch, chunk):  # PR2
    """Candidates are scored at every choice of parents, so not when they are whole: a part less than Proposition 1."""
    passed, room = Passed(monkeypatch), 12
    row, prompt = one(guided, tmp_path, decoder("iro", chunk=chunk, final="reward"), room=room)
    rounds = math.ceil(room / chunk)
    assert row["cost_tokens"] == row["cost_forwards"] == U * room
    # equal candidates are asked about once: at most Alg. 4's count, and Prop. 1 counts one round more
    assert row["cost_value_queries"] <= U * MODELS * (rounds - 1) == U * MODELS * rounds - U * MODELS
    assert row["cost_value_queries"] >= MODELS * (rounds - 1) and row["cost_value_queries"] % MODELS == 0
    if chunk >= 4:
        assert row["cost_value_queries"] == U * MODELS * (rounds - 1), "parts of four tokens all differ here"
    assert 1 <= row["cost_reward_queries"] <= U
    assert passed.tokens["Policy", "prompts"] == prompt, "the prompt once for all candidates"
    assert passed.tokens["Policy", "rows"] == U * (room - 1), "each token once; behind the last one nothing is drawn"
    assert passed.tokens["ValueFunction", "prompts"] == (MODELS * prompt if rounds > 1 else 0)
    assert passed.tokens["ValueFunction", "rows"] == MODELS * U * chunk * (rounds - 1)


def test_the_last_candidates_are_asked_about_where_their_value_decides(guided, tmp_path):
    row, _ = one(guided, tmp_path, decoder("iro", chunk=4, final="value"))
    assert row["cost_value_queries"] == U * MODELS * 3 and row["cost_reward_queries"] == 0


def test_samples_cost_their_tokens_and_their_rewards(guided, tmp_path):
    row, _ = one(guided, tmp_path, decoder("best of n", samples=5))
    assert (row["cost_tokens"], row["cost_reward_queries"], row["cost_value_queries"]) == (5 * 12, 5, 0)
    row, _ = one(guided, tmp_path, decoder("best of n implicit", samples=5))
    assert (row["cost_tokens"], row["cost_reward_queries"], row["cost_value_queries"]) == (5 * 12, 0, 5 * 2)
    row, _ = one(guided, tmp_path, decoder("majority vote", samples=5))
    assert (row["cost_tokens"], row["cost_reward_queries"], row["cost_value_queries"]) == (5 * 12, 0, 0)


@pytest.mark.parametrize("name", ["tokens", "fudge", "q sharp", "args"])
def test_tokens_cost_a_question_for_each_option(guided, tmp_path, monkeypatch, name):
    passed = Passed(monkeypatch)
    row, prompt = one(guided, tmp_path, decoder(name, top_k=3))
    asked = "cost_reward_queries" if name == "args" else "cost_value_queries"
    assert row["cost_tokens"] == 12 and row[asked] == 3 * 12
    assert passed.tokens["ValueFunction", "rows"] == 3 * 12 and passed.tokens["ValueFunction", "prompts"] == prompt


def test_a_pair_is_two_models(guided, tmp_path, monkeypatch):
    passed = Passed(monkeypatch)
    row, prompt = one(guided, tmp_path, decoder("weak to strong", chunk=4))
    assert row["cost_value_queries"] == U * 2 * 3, "the last ones, too: their score decides"
    assert passed.tokens["Policy", "rows"] == U * 11 + 2 * U * 12
    assert passed.tokens["Policy", "prompts"] == 3 * prompt


def test_equal_candidates_are_asked_about_once(guided, tmp_path):
    row, _ = one(guided, tmp_path, decoder("iro", chunk=4, beams=1, branches=3), mode="greedy")
    assert row["cost_value_queries"] == MODELS * 2 and row["cost_reward_queries"] == 1, "three equal candidates"
    assert row["cost_tokens"] == 3 * 12


def test_what_has_ended_is_not_asked_about_again(guided, tmp_path, monkeypatch):
    """Where rows end at different places, value functions get each token of each candidate once."""
    passed = Passed(monkeypatch)
    rows, _ = guided.drawn(tmp_path, decoder("iro", chunk=4, final="value"), count=3, draws=1,
                            max_tokens=48)
    drawn = sum(row["cost_tokens"] for row in rows)
    assert passed.tokens["ValueFunction", "rows"] <= MODELS * drawn
    assert any(row["ids"][-1] in guided.world.policy().stop_ids for row in rows)
    assert sum(row["cost_value_queries"] for row in rows) < sum(U * MODELS * 10 for row in rows)


def test_rejected_segments_cost_their_tokens(guided, tmp_path):
    row, _ = one(guided, tmp_path, decoder("cards", target=99.0, beta=0.01, entropy=99.0, longest_segment=4, retries=2))
    assert row["cost_tokens"] == 3 * 3 * 4, "three segments of four tokens, two rejected tries before each"
    assert row["cost_reward_queries"] == 1 + 3 * 3, "and the prompt alone"
