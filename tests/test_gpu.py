"""What needs a CUDA device: the same numbers as on the CPU, one cell end to end, bf16. `make test-gpu` runs these alone."""

from __future__ import annotations

import re

import pytest
import torch
from small import SMALL

from rlfamily.examples import read_demonstrations
from rlfamily.models import policy
from rlfamily.models.batching import Rows, pad
from rlfamily.rollout import SamplingParams
from rlfamily.rollout.collect import encode_completion, encode_prompt
from rlfamily.rollout.torch_engine import TorchEngine
from rlfamily.streams import stream_seed

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def padded(world, tokenizer, pad_id):
    rows = read_demonstrations(world.data / "demonstrations_train.jsonl")[:8]
    return pad(Rows([encode_prompt(tokenizer, row.prompt) for row in rows],
                    [encode_completion(tokenizer, row.completion, 40) for row in rows]), pad_id)


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-3), ("bf16", 0.2)])
def test_log_probs_are_those_of_the_cpu(world, dtype, tolerance):
    here = world.policy()
    there = policy.load(world.base, world.finetuning.model_copy(update={"dtype": dtype}), torch.device("cuda"), False)
    rows = padded(world, here.tokenizer, here.pad_id)
    with torch.no_grad():
        expected, actual = here.evaluate(rows, 1.0).logp_NT, there.evaluate(rows, 1.0).logp_NT.cpu()
    assert (expected - actual).abs().max() < tolerance


def test_sampler_and_trainer_agree_on_a_sample(world):
    there = policy.load(world.base, world.finetuning, torch.device("cuda"), False)
    prompt = encode_prompt(there.tokenizer, "use 3 7 2 to make 8 :")
    params = SamplingParams(greedy=False, temperature=1.0, max_total_tokens=40, logps=True)
    drawn = TorchEngine(there, 100).generate([prompt] * 8, params, [stream_seed("gpu", k) for k in range(8)])
    with torch.no_grad():
        rows = pad(Rows([prompt] * 8, [row.ids for row in drawn]), there.pad_id)
        logp_NT = there.evaluate(rows, 1.0).logp_NT.cpu()
    for row, logp_T in zip(drawn, logp_NT, strict=True):
        assert row.logps == pytest.approx(logp_T[:len(row.ids)].tolist(), abs=1e-3)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_cell_runs_on_a_gpu(run_cli, tmp_path, dtype):
    done = run_cli("rlfamily.train", *SMALL, "hardware=gpu", f"model.dtype={dtype}", "algorithm.prompts=400",
                   "wandb=off", f"results={tmp_path}", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^  sample   reward .* valid \d", done.stdout, re.MULTILINE)
