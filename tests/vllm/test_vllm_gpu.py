"""vLLM on a CUDA device: the hand-over in bf16, asleep and awake. `make test-gpu` runs these; they have not run yet."""

from __future__ import annotations

import pytest
import torch
from tiny import finetuning, gap, machine, perturb, save_policy

from rlfamily.models import policy as policies
from rlfamily.rollout import SamplingParams
from rlfamily.rollout.engines import following
from rlfamily.rollout.settings import Drawing

pytestmark = [pytest.mark.gpu, pytest.mark.vllm,
              pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SAMPLED = SamplingParams(greedy=False, temperature=1.0, max_total_tokens=340, logps=True)
PROMPTS = [[3 + (7 * i + 3 * j) % 40 for j in range(300)] for i in range(3)]
AGREE = 0.25  # nats, bf16


@pytest.mark.parametrize("sleep", [False, True])
@pytest.mark.parametrize("finetune", ["full", "lora"])
def test_after_every_hand_over_engine_and_trainer_agree(tmp_path, finetune, sleep):
    shape = {"hidden_size": 128, "heads": 2, "kv_heads": 1, "max_positions": 512, "initializer_range": 0.1}
    folder = save_policy(tmp_path / "model", **shape)
    here = machine(tmp_path, "hardware=gpu", f"hardware.vllm.sleep={sleep}", "hardware.vllm.memory_share=0.1",
                   "hardware.vllm.eager=true")
    policy = policies.load(folder, finetuning(dtype="bf16", finetune=finetune), torch.device("cuda"), trainable=True)
    ours = following(policy, folder, Drawing(engine="vllm", importance_cap=None),
                     here, 340)
    for step in range(3):
        if step:
            perturb(policy, 0.05)
        ours.refresh()
        drawn = ours.generate(PROMPTS, SAMPLED, [5, 50, 500], copies=4)
        assert gap(policy, PROMPTS, drawn, SAMPLED) < AGREE
