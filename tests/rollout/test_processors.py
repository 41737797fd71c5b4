"""What a token is drawn from, against transformers: its processors on random logits, and `generate`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import whole
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from rlfamily.models.batching import Rows, pad
from rlfamily.models.layouts.padded import PaddedLayout
from rlfamily.rollout import SamplingParams
from rlfamily.rollout.processors import penalized, without_repeats
from rlfamily.rollout.torch_engine import TorchEngine

WORDS, LONGEST = 7, 12
PROMPTS = [[5, 6, 7, 5, 6], [9, 10], [8], [11, 12, 5, 6, 7, 13, 5, 6, 7]]
SEEDS = [3, 70, 900, 12]
BOTH = {"repetition_penalty": 1.3, "no_repeat_ngram": 2}
LOOKS = [{"repetition_penalty": 1.3}, {"repetition_penalty": 0.6}, {"no_repeat_ngram": 1}, {"no_repeat_ngram": 2},
         {"no_repeat_ngram": 3}, BOTH]


@pytest.fixture(scope="module", params=["shared", "padded"])
def policy(world, request):
    """A model that talks in circles, and ends seldom."""
    policy = world.policy()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    if request.param == "padded":
        policy.model.set_attn_implementation("sdpa")
        policy.layout = PaddedLayout()
    return policy


def rows_of(lengths: list[int], generator: torch.Generator) -> tuple[list[list[int]], torch.Tensor, torch.Tensor]:
    """Rows of these lengths, right-aligned with pads that are words, and where each starts."""
    width = max(lengths)
    said_RL = torch.randint(WORDS, (len(lengths), width), generator=generator)
    start_R = torch.tensor([width - length for length in lengths])
    return [row[start:].tolist() for row, start in zip(said_RL, start_R.tolist(), strict=True)], said_RL, start_R


def test_every_token_is_penalised_as_transformers_penalises_it() -> None:
    generator = torch.Generator().manual_seed(2)
    for width in range(1, LONGEST):
        rows, said_RL, start_R = rows_of([width, max(1, width - 3), 1], generator)
        logits_RV = 4 * torch.randn(3, WORDS, generator=generator)
        logits_RV[0, 2] = -torch.inf
        for penalty in (1.2, 0.5, 3.0):
            found_RV = penalized(logits_RV, said_RL, start_R, penalty)
            for row, found_V, logits_V in zip(rows, found_RV, logits_RV, strict=True):
                expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([row]), logits_V[None].clone())
                assert torch.equal(found_V, expected[0])


def test_every_repeat_is_forbidden_that_transformers_forbids() -> None:
    generator, forbidden = torch.Generator().manual_seed(1), 0
    for width in range(1, LONGEST):
        rows, said_RL, start_R = rows_of([width, max(1, width - 3), 1], generator)
        logits_RV = torch.randn(3, WORDS, generator=generator)
        for size in (1, 2, 3, 4):
            found_RV = without_repeats(logits_RV, said_RL, start_R, size)
            for row, found_V, logits_V in zip(rows, found_RV, logits_RV, strict=True):
                expected = NoRepeatNGramLogitsProcessor(size)(torch.tensor([row]), logits_V[None].clone())[0]
                assert torch.equal(found_V, logits_V if expected.isneginf().all() else expected)
                forbidden += int(found_V.isneginf().sum())
    assert forbidden > 50


def test_where_nothing_would_be_left_everything_is() -> None:
    logits_RV = torch.randn(2, 3)
    logits_RV[:, 2] = -torch.inf  # an end that may not come yet
    found_RV = without_repeats(logits_RV, torch.tensor([[0, 1], [1, 1]]), torch.tensor([0, 0]), 1)
    assert torch.equal(found_RV[0], logits_RV[0])
    assert found_RV[1].isneginf().tolist() == [False, True, True]


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_greedy_responses_are_those_of_generate(policy, look: dict[str, Any]) -> None:
    engine, changed = TorchEngine(policy, 100), 0
    params = SamplingParams(True, 1.0, 40, max_new_tokens=20, **look)
    plain = engine.generate(PROMPTS, SamplingParams(True, 1.0, 40, max_new_tokens=20), SEEDS)
    for prompt, row, other in zip(PROMPTS, engine.generate(PROMPTS, params, SEEDS), plain, strict=True):
        ids = torch.tensor([prompt])
        expected = policy.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20, pad_token_id=policy.pad_id,
            repetition_penalty=look.get("repetition_penalty", 1.0), no_repeat_ngram_size=look.get("no_repeat_ngram", 0))
        assert row.ids == expected[0, len(prompt):].tolist()
        changed += row.ids != other.ids
    assert changed


def test_log_probs_are_of_what_generate_draws_from(policy) -> None:
    """Its scores after all processors, on the tokens that we drew."""
    prompt = PROMPTS[3]
    params = SamplingParams(False, 0.8, 40, max_new_tokens=12, top_k=6, top_p=0.9, logps=True, **BOTH)
    for row in TorchEngine(policy, 8).generate([prompt], params, [7], copies=6):
        for place, token in enumerate(row.ids):
            ids = torch.tensor([[*prompt, *row.ids[:place]]])
            made = policy.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=0.8, top_k=6, top_p=0.9,
                repetition_penalty=1.3, no_repeat_ngram_size=2, max_new_tokens=1, pad_token_id=policy.pad_id,
                output_scores=True, return_dict_in_generate=True)
            assert row.logps[place] == pytest.approx(float(made.scores[0].log_softmax(-1)[0, token]), abs=1e-4)


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_a_row_does_not_depend_on_its_batch(policy, look: dict[str, Any]) -> None:
    params = SamplingParams(False, 1.0, 24, logps=True, **look)
    together = TorchEngine(policy, 100).generate(PROMPTS, params, SEEDS, copies=2)
    alone = [TorchEngine(policy, 1).generate([prompt], params, [seed + copy])[0]
             for prompt, seed in zip(PROMPTS, SEEDS, strict=True) for copy in range(2)]
    pairs = TorchEngine(policy, 2).generate(PROMPTS[::-1], params, SEEDS[::-1], copies=2)
    turned = [pairs[2 * place + copy] for place in reversed(range(len(PROMPTS))) for copy in range(2)]
    for one in (alone, turned):
        assert [row.ids for row in one] == [row.ids for row in together]
        for row, other in zip(one, together, strict=True):
            assert row.logps == pytest.approx(other.logps, abs=1e-4)
            assert row.entropy == pytest.approx(other.entropy, abs=1e-4)


def test_no_response_says_a_pair_twice_and_each_may_end(policy) -> None:
    params = SamplingParams(False, 1.0, 40, no_repeat_ngram=2)
    rows = TorchEngine(policy, 100).generate(PROMPTS, params, SEEDS, copies=10)
    free = TorchEngine(policy, 100).generate(PROMPTS, replace(params, no_repeat_ngram=0), SEEDS, copies=10)

    def repeats(drawn: Any) -> int:
        said = [prompt + row.ids for prompt, row in
                zip([prompt for prompt in PROMPTS for _ in range(10)], drawn, strict=True)]
        pairs = [list(zip(ids, ids[1:], strict=False)) for ids in said]
        return sum(len(found) - len(set(found)) for found in pairs)

    own = sum(len(found) - len(set(found)) for found in (
        list(zip(prompt, prompt[1:], strict=False)) for prompt in PROMPTS)) * 10  # what prompts say twice themselves
    assert repeats(rows) == own < repeats(free)
    assert any(not row.truncated for row in rows)


def test_the_trainer_learns_from_the_whole_distribution(policy) -> None:
    """So penalised draws differ from what it sees, and the run's mismatch says by how much."""
    params = SamplingParams(False, 1.0, 40, logps=True, **BOTH)
    rows = TorchEngine(policy, 100).generate(PROMPTS, params, SEEDS)
    with torch.no_grad():
        logp_NT = policy.evaluate(pad(Rows(PROMPTS, [row.ids for row in rows]), policy.pad_id), 1.0).logp_NT
    gaps = [abs(drawn - seen) for row, logp_T in zip(rows, logp_NT.tolist(), strict=True)
            for drawn, seen in zip(row.logps, logp_T, strict=False)]
    assert max(gaps) > 0.1 and all(map(math.isfinite, gaps))


@pytest.mark.parametrize("change", [{"top_k": 5}, {"top_p": 0.9}, {"repetition_penalty": 1.2}, {"no_repeat_ngram": 3}], ids=str)
def test_what_is_drawn_from_another_distribution_is_not_whole(change: dict[str, Any]) -> None:
    assert whole(0.5).whole and whole(0.5).distribution == whole(0.5)
    assert not whole(0.5).model_copy(update=change).whole
    assert whole(0.5).model_copy(update=change).distribution == whole(0.5).model_copy(update=change)
