"""The step and the engine on a device, against plain padded rows on the CPU. `make test` runs the CPU's half, `make
test-gpu` the other.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from bench.drawing import TINY, draws, ours, plain_model, random_policy
from bench.gpu import check_greedy
from bench.training import Plain, trainer_of
from rlfamily.errors import UserError
from rlfamily.models.batching import Rows, pad
from rlfamily.rollout import SamplingParams
from rlfamily.rollout.torch_engine import TorchEngine

CPU = torch.device("cpu")
CUDA = pytest.param("cuda", marks=[
    pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")])
WHOLE = 10**6  # tokens a pass: one pass
GIVEN = draws([5, 17, 9], 3, 12, TINY.vocab_size, early=True)
NATS = {"fp32": 1e-4, "bf16": 0.25}  # measured on an H200: 0.14 in bf16
GRADIENT = {"fp32": 1e-3, "bf16": 0.08}  # of its norm; measured there: 0.056 in bf16


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    return torch.device(request.param)


@pytest.fixture(params=["fp32", "bf16"])
def dtype(request):
    return request.param


@pytest.fixture
def sides(device, dtype):
    """Our policy on the device; the same weights on the CPU in fp32 and plain; the rows of one draw."""
    policy = random_policy(TINY, GIVEN.longest, dtype, device)
    plain = Plain(plain_model(policy).to(CPU), "fp32", WHOLE)
    return SimpleNamespace(policy=policy, plain=plain, rows=[row.ids for row in ours(policy, GIVEN)])


def padded(rows):
    return pad(Rows([prompt for prompt in GIVEN.prompts for _ in range(GIVEN.copies)], rows), 0)


def apart(ours, theirs):
    """Distance of two gradients, as a part of the second's norm."""
    theirs = torch.cat([part.flatten() for part in theirs])
    return float((torch.cat([part.cpu().flatten() for part in ours]) - theirs).norm() / theirs.norm())


def gradients_of(optimizer):
    """A list that the gradients of the optimiser's next step will be in."""
    found = []

    def hook(*_):
        found.extend(weight.grad.clone() for group in optimizer.param_groups for weight in group["params"])

    optimizer.register_step_pre_hook(hook)
    return found


def test_a_shared_prompt_gives_the_log_probs_and_gradients_of_padded_rows(sides, dtype):
    rows = padded(sides.rows)
    leaf_NT, (expected_NT, mask_NT) = sides.policy.evaluate(rows, 1.0).logp_NT, sides.plain._logps(rows)
    assert (leaf_NT.detach().cpu() - expected_NT.detach() * mask_NT).abs().max() < NATS[dtype]
    weights_NT = torch.randn(mask_NT.shape, generator=torch.Generator().manual_seed(3)) * mask_NT
    actual = torch.autograd.grad((leaf_NT * weights_NT.to(leaf_NT.device)).sum(), sides.policy.model.parameters())
    expected = torch.autograd.grad((expected_NT * weights_NT).sum(), sides.plain.model.parameters())
    assert apart(actual, expected) < GRADIENT[dtype]


def test_engine_and_trainer_agree(sides, dtype):
    params = SamplingParams(False, 1.0, GIVEN.longest, min_new_tokens=4, logps=True)
    drawn = TorchEngine(sides.policy, 100).generate(GIVEN.prompts, params, [0, 100, 200], GIVEN.copies)
    rows = padded([row.ids for row in drawn])
    with torch.no_grad():
        logp_NT = sides.policy.evaluate(type(rows)(**vars(rows) | {"min_new_tokens": 4}), 1.0).logp_NT.cpu()
    for row, logp_T in zip(drawn, logp_NT, strict=True):
        assert row.logps == pytest.approx(logp_T[:len(row.ids)].tolist(), abs=NATS[dtype])


@pytest.mark.parametrize("tokens", [WHOLE, 60])  # one pass, several
def test_a_step_is_the_plain_one_of_the_cpu(sides, dtype, tokens):
    trainer = trainer_of(sides.policy, GIVEN, 1, tokens, sides.rows)
    actual, expected = gradients_of(trainer.optimizer), gradients_of(sides.plain.optimizer)
    first = sides.plain.update(GIVEN, sides.rows)
    (record,) = trainer.steps()
    assert record.metrics["loss"] == pytest.approx(first.loss, abs=GRADIENT[dtype])
    assert record.metrics["grad_norm"] == pytest.approx(first.grad_norm, rel=GRADIENT[dtype])
    assert first.grad_norm > 0.01
    assert apart(actual, expected) < GRADIENT[dtype]


def test_greedy_tokens_are_the_likeliest(device, dtype):
    policy = random_policy(TINY, GIVEN.longest, dtype, device)
    plain = plain_model(policy)
    model = plain_model(policy).to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    check_greedy(policy, plain, model, GIVEN, "tiny")
    with torch.no_grad():  # another model's tokens are not
        for weight in plain.parameters():
            weight.normal_(std=0.3, generator=torch.Generator(device).manual_seed(9))
    with pytest.raises(UserError, match="so no time counts: run make test-gpu"):
        check_greedy(policy, plain, model, GIVEN, "tiny")
