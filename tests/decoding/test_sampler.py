"""Decoders on real models: nothing depends on what is drawn beside it, and the pool draws nothing twice."""

from __future__ import annotations

import pytest
from guided_world import DECODERS, decoder

from rlfamily.decoding import get
from rlfamily.models import policy, value
from rlfamily.models.layouts.padded import PaddedLayout

EVERY = pytest.mark.parametrize("name", DECODERS)
LAYOUTS = ("iro", "weak to strong", "tokens", "cards")  # what each asks of a session


@pytest.fixture
def padded(monkeypatch):
    """All models in the padded layout."""
    def layout_of(loaded):
        loaded.model.set_attn_implementation("sdpa")
        return PaddedLayout()

    monkeypatch.setattr(policy, "layout_of", layout_of)
    monkeypatch.setattr(value, "layout_of", layout_of)


def modes(name):
    return get(DECODERS[name][0]).MODES


@EVERY
def test_a_batch_is_its_prompts_one_by_one(guided, tmp_path, name):
    alike(guided, tmp_path, name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_padded_batch_is_its_prompts_one_by_one(guided, tmp_path, name, padded):
    alike(guided, tmp_path, name)


def alike(guided, tmp_path, name):
    for mode in modes(name):
        together, _ = guided.drawn(tmp_path / "together", decoder(name), mode)
        alone, _ = guided.drawn(tmp_path / "alone", decoder(name), mode, hardware={"rollout_batch": 1})
        assert together == alone
        assert len({tuple(row["ids"]) for row in together}) > 1


@EVERY
def test_two_responses_to_a_prompt_are_drawn_by_different_chance(guided, tmp_path, name):
    rows, _ = guided.drawn(tmp_path, decoder(name), draws=3)
    by_item = {}
    for row in rows:
        by_item.setdefault(row["item"], []).append(tuple(row["ids"]))
    assert any(len(set(some)) > 1 for some in by_item.values())


@EVERY
def test_more_draws_and_more_prompts_add_to_what_is_there(guided, tmp_path, name):
    whole, _ = guided.drawn(tmp_path / "whole", decoder(name), draws=2, count=6)
    _, first = guided.drawn(tmp_path / "parts", decoder(name), draws=1, count=4)
    _, more = guided.drawn(tmp_path / "parts", decoder(name), draws=1, count=6)
    rows, most = guided.drawn(tmp_path / "parts", decoder(name), draws=2, count=6)
    assert (first, more, most) == (4, 2, 6) and rows == whole


@pytest.mark.parametrize("name", ["iro", "iro stochastic", "iro once", "weak to strong", "blocks"])
def test_one_beam_of_one_branch_draws_as_the_policy_does(guided, tmp_path, name):  # I6
    narrow = {"branches": 1} if name == "blocks" else {"beams": 1, "branches": 1}
    rows, _ = guided.drawn(tmp_path, decoder(name, **narrow))
    plain, _ = guided.drawn(tmp_path, decoder("plain"))
    assert [row["ids"] for row in rows] == [row["ids"] for row in plain]


@pytest.mark.parametrize("finished", ["repeat", "once"])
def test_one_part_for_a_response_is_best_of_n_by_the_same_samples(guided, tmp_path, finished):  # I6
    rows, _ = guided.drawn(tmp_path, decoder("iro", chunk=99, finished=finished), finalists=True)
    best, _ = guided.drawn(tmp_path, decoder("best of n", samples=4), finalists=True)
    assert [(row["ids"], row["finalists"]) for row in rows] == [(row["ids"], row["finalists"]) for row in best]
    assert [row["cost_reward_queries"] for row in rows] == [row["cost_reward_queries"] for row in best]
    assert not any(row["cost_value_queries"] for row in rows)


def test_best_of_more_adds_samples_to_those_of_best_of_fewer(guided, tmp_path, monkeypatch):
    from rlfamily.rollout.torch_engine import TorchEngine

    drawn, generate = [], TorchEngine.generate

    def counting(engine, prompts, params, seeds, copies=1):
        drawn.append(len(prompts) * copies)
        return generate(engine, prompts, params, seeds, copies)

    monkeypatch.setattr(TorchEngine, "generate", counting)
    plain, _ = guided.drawn(tmp_path, decoder("plain"), draws=2)
    assert drawn == [8]
    few, _ = guided.drawn(tmp_path, decoder("best of n", samples=4), draws=1, finalists=True)
    assert drawn == [8, 4 * 2], "two of four are there"
    more, _ = guided.drawn(tmp_path, decoder("best of n", samples=8), draws=1, finalists=True)
    assert drawn == [8, 8, 4 * 4]
    two, _ = guided.drawn(tmp_path, decoder("best of n", samples=4), draws=2, finalists=True)
    assert len(drawn) == 3, "the second response's samples are the second half of eight"
    votes, _ = guided.drawn(tmp_path, decoder("majority vote", samples=8), draws=1)
    assert len(drawn) == 3 and votes
    for place in range(4):
        finalists = [[one["ids"] for one in rows[place * draws]["finalists"]] for rows, draws in ((few, 1), (more, 1), (two, 2))]
        assert finalists[0] == finalists[1][:4] == finalists[2]
        assert [row["ids"] for row in plain[place * 2:place * 2 + 2]] == finalists[0][:2]
        assert [one["ids"] for one in two[place * 2 + 1]["finalists"]] == finalists[1][4:]


@pytest.mark.parametrize("name", ["plain", "best of n", "iro"])
def test_a_kill_loses_a_part_of_a_chunk_at_most(guided, tmp_path, monkeypatch, name):
    from rlfamily.evaluation import sampler

    monkeypatch.setattr(sampler, "CHUNK", 2)
    whole, _ = guided.drawn(tmp_path / "whole", decoder(name), count=6)
    draw, calls = sampler.Sampler.draw, []

    def killed(self, prompts, mode, wanted):
        calls.append(wanted)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(self, prompts, mode, wanted)

    monkeypatch.setattr(sampler.Sampler, "draw", killed)
    with pytest.raises(KeyboardInterrupt):
        guided.drawn(tmp_path / "again", decoder(name), count=6)
    rows, again = guided.drawn(tmp_path / "again", decoder(name), count=6)
    assert rows == whole and again == 12 - 8, "two chunks of two prompts with two responses were there"


def test_a_guide_that_changes_has_a_pool_of_its_own(guided, tmp_path):
    from dataclasses import replace

    first = guided.sampler(tmp_path, decoder("iro"))
    pools = {first.pool(guided.prompts()).path}
    for folders in (replace(guided.folders, rewards={"judge": tmp_path / "other"}),
                    replace(guided.folders, values={"1": tmp_path / "other", "2": guided.folders.values["2"]}),
                    replace(guided.folders, values=dict(zip("12", reversed(list(guided.folders.values.values())), strict=True)))):
        pools.add(replace(first, folders=folders).pool(guided.prompts()).path)
    pools.add(guided.sampler(tmp_path, decoder("iro", betas=[1.0, 2.0])).pool(guided.prompts()).path)
    assert len(pools) == 5
    plainly = {guided.sampler(tmp_path, decoder(name)).pool(guided.prompts(), plainly=True).path for name in DECODERS}
    assert plainly == {guided.sampler(tmp_path, decoder("plain")).pool(guided.prompts()).path}
