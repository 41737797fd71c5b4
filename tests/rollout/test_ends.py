"""A model with several end tokens: each ends a response, is kept from its first tokens, and so in the log-probs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rlfamily.models import policy as policies
from rlfamily.models.batching import Rows, pad
from rlfamily.rollout import SamplingParams
from rlfamily.rollout.torch_engine import TorchEngine


@pytest.fixture
def several(world, tmp_path):
    """The small model, saved with a second end token that it writes often."""
    own = world.policy()
    prompt = own.tokenizer("use 3 7 2 to make 8 :", add_special_tokens=False)["input_ids"]
    params = SamplingParams(greedy=True, temperature=1.0, max_total_tokens=30)
    (drawn,) = TorchEngine(own, 8).generate([prompt], params, [0])
    second = drawn.ids[2]
    own.model.generation_config.eos_token_id = [own.eos_id, second]
    own.save(tmp_path)
    return policies.load(tmp_path, world.finetuning, torch.device("cpu"), trainable=False), prompt, second, tmp_path


def test_the_second_end_token_ends_a_response(several):
    policy, prompt, second, folder = several
    assert policy.stop_ids == policies.load_ends(folder) == tuple(sorted({policy.eos_id, second}))
    params = SamplingParams(greedy=True, temperature=1.0, max_total_tokens=30)
    (drawn,) = TorchEngine(policy, 8).generate([prompt], params, [0])
    assert (drawn.ids.index(second), drawn.truncated) == (len(drawn.ids) - 1, False)


def test_engine_and_trainer_keep_the_same_tokens_from_the_beginning(several):
    policy, prompt, second, _ = several
    params = SamplingParams(greedy=False, temperature=1.0, max_total_tokens=30, min_new_tokens=6, logps=True)
    drawn = TorchEngine(policy, 8).generate([prompt] * 6, params, range(6))
    assert all(second not in row.ids[:6] for row in drawn)
    rows = replace(pad(Rows([prompt] * 6, [row.ids for row in drawn]), policy.pad_id), min_new_tokens=6)
    with torch.no_grad():
        logp_NT = policy.evaluate(rows, 1.0).logp_NT
    for row, logp_T in zip(drawn, logp_NT, strict=True):
        assert row.logps == pytest.approx(logp_T[:len(row.ids)].tolist(), abs=1e-5)


def test_early_ends_are_excluded_alike_where_rows_are_drawn_and_where_they_are_learned_from(world):
    policy, prompts = world.policy(), [[5, 6, 7], [8]]
    params = SamplingParams(False, 1.0, 12, min_new_tokens=3, stop_ids=(7,), logps=True)
    drawn = TorchEngine(policy, 8).generate(prompts, params, [1, 2])
    rows = replace(pad(Rows(prompts, [row.ids for row in drawn]), 0), min_new_tokens=3, stop_ids=(7,))
    found_NT = policy.evaluate(rows, 1.0).logp_NT
    for row, found_T in zip(drawn, found_NT.tolist(), strict=True):
        assert found_T[:len(row.ids)] == pytest.approx(row.logps, abs=1e-5)
    assert policy.evaluate(replace(rows, stop_ids=()), 1.0).logp_NT[0, 0] < found_NT[0, 0]
