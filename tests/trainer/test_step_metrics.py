"""The numbers of a step by hand, down to a step of one row."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rlfamily.algorithms import LossBatch, LossOutput
from rlfamily.models.batching import Forward, Rows
from rlfamily.rewards.bradley_terry import ScoreBatch
from rlfamily.rollout.settings import Drawing
from rlfamily.trainer.metrics import engine_gap, reference_metrics, samples, selection_metrics, step_metrics
from rlfamily.trainer.sources import TrainBatch

ONE = TrainBatch(Rows([[1]], [[2, 3]]), 1, rewards=[0.5], parts=[{"valid": 1.0}], truncated=[True], prompt_texts=["p"],
                 texts=["t"])
SEEN = LossBatch(torch.tensor([[-1.0, -2.0]]), torch.ones(1, 2), torch.tensor([4.0]), 1)
ENTROPY = Forward(torch.tensor([0.25]))


def test_a_step_of_one_row():
    loss = LossOutput(torch.tensor(2.0), {"own": 7.0})
    plain = {"loss": 2.0, "own": 7.0, "grad_norm": 3.0, "entropy": 0.25, "length": 2, "rows": 1, "tokens": 2}
    assert step_metrics(ONE, ENTROPY, loss, 3.0) == plain | {"reward": 0.5, "truncated": 1, "mean_valid": 1.0}
    assert step_metrics(TrainBatch(ONE.rows, 1), ENTROPY, loss, 3.0) == plain


@pytest.mark.parametrize("shaping", [(), ("overlong",)])
@pytest.mark.parametrize("selects", [True, False])
def test_what_was_shaped_and_kept_is_told_where_either_is_used(shaping, selects):
    recipe, batch = SimpleNamespace(shaping=shaping, selects=selects), replace(ONE, kept=0.5)
    kept = {"kept": 0.5} if selects else {}
    assert selection_metrics(batch, SEEN, recipe) == kept | ({"shaped_reward": 4.0} if shaping else {})
    assert selection_metrics(batch, ScoreBatch(torch.ones(1)), recipe) == kept


def test_the_gap_is_told_of_rows_that_an_engine_knows_and_corrected_up_to_a_cap():
    mask_NT, old_NT = torch.ones(1, 2), torch.tensor([[-1.0, -2.0]])
    drawn_NT = old_NT - math.log(4)
    for engine_NT, trainer_NT in ((None, old_NT), (drawn_NT, None), (drawn_NT[:0], old_NT[:0])):
        assert engine_gap(engine_NT, trainer_NT, mask_NT, None) == (None, {})
    for rollout in (None, Drawing(engine="vllm", importance_cap=None)):
        weights_NT, found = engine_gap(drawn_NT, old_NT, mask_NT, rollout)
        assert weights_NT is None and set(found) == {"mismatch_mean", "mismatch_max", "mismatch_kl"}
        assert found["mismatch_max"] == pytest.approx(math.log(4))
    weights_NT, corrected = engine_gap(drawn_NT, old_NT, mask_NT, Drawing(engine="vllm", importance_cap=2.0))
    assert weights_NT.tolist() == [[2.0, 2.0]]
    assert corrected == found | {"importance_mean": 2.0, "importance_truncated": 1.0}


def test_a_distance_to_the_reference_needs_log_probs_of_both():
    ref_NT, forward = torch.tensor([[-1.5, -2.0]]), ENTROPY._replace(logp_NT=SEEN.logp_NT)
    assert reference_metrics(SEEN, forward, ref_NT)["kl_ref_k1"] == pytest.approx(0.25)
    for given in ((SEEN, forward, None), (SEEN, ENTROPY, ref_NT), (ScoreBatch(torch.ones(1)), forward, ref_NT)):
        assert reference_metrics(*given) == {}


def test_samples_are_the_first_group_of_rows_that_have_texts():
    three = replace(ONE, rows=Rows([[1]] * 3, [[2]] * 3), rewards=[1.0, 2.0, 3.0], parts=[{"valid": 1.0}] * 3,
                    prompt_texts=["p"] * 3, texts=["a", "b", "c"], group_size=1)
    first = {"step": 7, "prompt": "p", "response": "a", "reward": 1.0, "valid": 1.0}
    assert samples(three, 7) == [first]
    ragged = replace(three, group_size=0, prompt_index_N=torch.tensor([0, 0, 1]))
    assert samples(ragged, 7) == [first, first | {"response": "b", "reward": 2.0}]
    assert samples(replace(three, texts=[]), 7) == []
