"""No row goes beyond what a model was made for: refused where a plan is made, else where a row is met."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.models.batching import Rows, pad
from rlfamily.models.layouts.declared import length_limit, positions
from rlfamily.models.policy import Policy
from rlfamily.plan import stages
from rlfamily.rollout import SamplingParams
from rlfamily.rollout.torch_engine import TorchEngine

TINY = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2}
LONG = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


def llama(world, **changes):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY, **{"max_position_embeddings": 16, **changes}))
    return Policy(model.eval(), world.policy().tokenizer, "fp32", torch.device("cpu"))


@pytest.mark.parametrize("name", ["rollout", "evaluation", "demonstration"])
def test_a_limit_beyond_the_positions_is_refused_where_it_is_planned(name):
    with pytest.raises(UserError, match=f"task.max_tokens_{name}=4096 is beyond model.max_positions=64: "):
        stages(build(["model.max_positions=64", f"task.max_tokens_{name}=4096"]), ["train"])


@pytest.mark.parametrize(("rope", "found", "limit"), [
    ({"rope_type": "default"}, 16, None),
    ({"rope_type": "linear", "factor": 4.0}, 64, None),
    ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}, 32, None),
    ({"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 8, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0}, 16, None),
    ({"rope_type": "dynamic", "factor": 4.0}, 16, 16),  # beyond, every token added changes all before it
    ({"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 8, **LONG}, 8, 8),
], ids=lambda value: value["rope_type"] if isinstance(value, dict) else "")
def test_what_a_rotary_scaling_makes_of_the_positions(rope, found, limit):
    config = LlamaConfig(**TINY, max_position_embeddings=16, rope_parameters={"rope_theta": 10000.0, **rope})
    assert (positions(config, 0), length_limit(config)) == (found, limit)


def test_rows_up_to_the_positions_are_right_and_longer_ones_are_refused(world):
    policy = llama(world, rope_parameters={"rope_theta": 10000.0, "rope_type": "dynamic", "factor": 4.0})
    # prompt and completion of the longest row count, not the longest of each
    rows = Rows([[5] * 12, [6, 7]], [[8, 9, 3], [4] * 14])
    found_NT = policy.evaluate(pad(rows, 0), 1.0).logp_NT
    for prompt, completion, found_T in zip(rows.prompts, rows.completions, found_NT, strict=True):
        ids = torch.tensor([*prompt, *completion])
        logps_LV = policy.model(input_ids=ids[None]).logits[0].log_softmax(-1)
        right_T = logps_LV[len(prompt) - 1:-1].gather(1, ids[len(prompt):, None])[:, 0]
        torch.testing.assert_close(found_T[:len(completion)], right_T, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="rows may have 17 tokens, and LlamaForCausalLM has 16 positions: lower "):
        policy.evaluate(pad(Rows([[5] * 12], [[8] * 5]), 0), 1.0)
    with pytest.raises(UserError, match="rows may have 23 tokens"):
        TorchEngine(policy, 8).generate([[5]], SamplingParams(False, 1.0, 23), [0])


def test_an_empty_prompt_is_refused(world):
    policy = llama(world)
    for prompts in ([[], [5]], [[], []]):
        with pytest.raises(UserError, match="model: a prompt has no tokens"):
            policy.evaluate(pad(Rows(prompts, [[7, 2], [7, 2]]), 0), 1.0)
    with pytest.raises(UserError, match="rollout: prompt 2 of 2 has no tokens"):
        TorchEngine(policy, 8).generate([[5], []], SamplingParams(False, 1.0, 16), [0, 1])
