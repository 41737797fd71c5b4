"""The GPU benchmark on a CPU with tiny sizes: what it computes, what it refuses, what it says without a GPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench import gpu
from bench.drawing import SMALL, TINY, Draws, plain_model, random_policy
from bench.roofline import Counts, Roof, decode_bytes, measured_roof, update_flops
from bench.training import First, Plain, rewards
from rlfamily.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [TINY, SMALL])
def test_weights_are_counted(shape):
    counts = Counts.of(shape)
    model = random_policy(shape, 8).model
    assert counts.body + counts.head == sum(weight.numel() for weight in model.parameters())
    assert counts.head == model.get_output_embeddings().weight.numel()
    assert Counts.of(gpu.QWEN2_05B) == Counts(357_898_112, 136_134_656)  # 494M, as the hub's page of Qwen2.5-0.5B says


def test_bounds_by_hand():
    shape = dataclasses.replace(TINY, hidden_size=8, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
    given = Draws([[5] * 10, [6] * 20], 2, [2, 1, 2, 1])
    assert update_flops(Counts(100, 7), given) == 6 * (100 * (10 + 20 + 6) + 7 * 6)
    # two steps read the weights; prompts of 30 tokens at both, and two rows of one token each at the second
    token = 2 * 3 * 2 * 2  # keys and values, layers, heads, width
    assert decode_bytes(Counts(100, 7), shape, given) == 2 * (2 * 107 + token * (30 + 30 + 2))


def test_a_roof_is_measured():
    roof = measured_roof(CPU, torch.float32, 64, 1)
    assert 1e7 < roof.flops < 1e15 and 1e7 < roof.bandwidth < 1e14


def test_everything_runs_on_a_cpu():
    found = gpu.tables(dataclasses.replace(gpu.scale(quick=True), trl_rows=0), CPU)
    for table in found:
        assert table["rows"] and all(set(row) == set(table["columns"]) for row in table["rows"])
    device, drawn, steps = (table["rows"] for table in found)
    assert [row["tokens"] for row in drawn] == [2 * 2 * 8, drawn[1]["tokens"]] and drawn[1]["tokens"] < 2 * 2 * 8
    for row in drawn:
        assert row["reached"] == pytest.approx(row["ours"]["median"] / row["limit"])
    assert [(row["case"], row["side"]) for row in steps] == [
        (name, side) for name in ("9 tokens", "9 tokens, early stops") for side in ("ours", "plain")]
    for row in steps:
        needed = update_flops(Counts.of(TINY), gpu.scale(quick=True).given[row["case"]])
        assert row["mfu"] * row["update"]["median"] * device[0]["tflops"] * 1e12 == pytest.approx(needed)


def test_sides_that_differ_are_refused():
    gpu.check_first("our", First(0.1, 2.0), First(0.10005, 2.0001), "fp32", "here")
    for other in (First(0.11, 2.0), First(0.1, 2.1), First(float("nan"), 2.0)):
        with pytest.raises(UserError, match="gpu, here: our first update and the plain one differ"):
            gpu.check_first("our", First(0.1, 2.0), other, "fp32", "here")


def test_the_plain_step_is_that_of_grpo():
    """With the ratio at 1 the gradient is that of the advantages times the log-probs, over all tokens."""
    policy = random_policy(TINY, 32)
    given = Draws([[4, 5, 6]], 2, [3, 2])
    rows = [[8, 11, 2], [10, 2]]
    assert rewards(rows) == [2 / 3, 1.0]
    deviation = torch.tensor(rewards(rows)).std() + 1e-4
    low, high = (float((reward - 5 / 6) / deviation) for reward in rewards(rows))
    total = torch.zeros(())
    for advantage, ids in zip((low, high), rows, strict=True):
        logits = policy.model(torch.tensor([given.prompts[0] + ids])).logits[0, 2:-1]
        total = total - advantage * logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum() / 5
    gradients = torch.autograd.grad(total, list(policy.model.parameters()))
    found = Plain(plain_model(policy), "fp32", 1).update(given, rows)
    assert found.loss == pytest.approx(-(3 * low + 2 * high) / 5, abs=1e-5)
    assert found.grad_norm == pytest.approx(float(torch.cat([part.flatten() for part in gradients]).norm()), rel=1e-4)


def test_trl_takes_the_same_first_step(peer):
    sizes = gpu.scale(quick=True)
    given = sizes.given["9 tokens"]
    rows = gpu.trl_steps(sizes, "9 tokens", given, CPU)
    assert [row["side"] for row in rows] == ["TRL", "TRL, static cache"]
    assert {row["tokens"] for row in rows} == {given.tokens} and all(row["step"]["count"] == 1 for row in rows)


def test_trl_is_left_out_where_it_would_do_other_work(monkeypatch):
    monkeypatch.setattr(gpu.trl, "available", lambda: True)
    sizes = gpu.scale(quick=True)
    assert not gpu.trl_steps(sizes, "early", sizes.given["9 tokens, early stops"], CPU)
    assert not gpu.trl_steps(dataclasses.replace(sizes, trl_rows=3), "large", sizes.given["9 tokens"], CPU)


def test_peak_memory_is_of_gpus_only():
    assert gpu.peak_mib(lambda: None, CPU) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_is_one_line(run_cli):
    done = run_cli("bench", "gpu", "--quick")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: bench: gpu: no CUDA device is visible: run it on a machine with one, or check the driver"]


def test_the_roof_of_a_table_is_the_one_measured():
    sizes = gpu.scale(quick=True)
    rows = gpu.generation(sizes, Roof(1.0, 1e6), CPU)
    for row, given in zip(rows, sizes.given.values(), strict=True):
        assert row["limit"] == given.tokens * 1e6 / decode_bytes(Counts.of(TINY), TINY, given)
