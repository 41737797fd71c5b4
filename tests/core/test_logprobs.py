"""Token log-probs and entropies of logits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlfamily import core
from rlfamily.core import logprobs


def case(dtype: torch.dtype = torch.float32, tokens: int = 7, words: int = 11) -> tuple[Tensor, Tensor]:
    """Logits that carry a gradient, with excluded tokens, and ids among the others."""
    generator = torch.Generator().manual_seed(0)
    logits_MV = torch.randn(tokens, words, dtype=torch.float64, generator=generator) * 3
    logits_MV[0, 1] = logits_MV[3, :4] = -torch.inf
    return logits_MV.to(dtype).requires_grad_(), torch.randint(4, words, (tokens,), generator=generator)


def plain(logits_MV: Tensor, ids_M: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The definition, for autograd to differentiate."""
    logp_MV = (logits_MV / temperature).log_softmax(1)
    return logp_MV.gather(1, ids_M[:, None])[:, 0], torch.special.entr(logp_MV.exp()).sum(1)


def test_hand_worked() -> None:
    # logits (ln 1, ln 3): p = (1/4, 3/4) at temperature 1; at 1/2 they are doubled: (1/10, 9/10)
    logits_MV = torch.tensor([1.0, 3.0], dtype=torch.float64).log().expand(2, 2)
    ids_M = torch.tensor([0, 1])
    logp_M, _ = core.token_logprobs(logits_MV, ids_M, 1.0)
    assert logp_M.tolist() == pytest.approx([math.log(1 / 4), math.log(3 / 4)])
    logp_M, entropy_M = core.token_logprobs(logits_MV, ids_M, 0.5)
    assert logp_M.tolist() == pytest.approx([math.log(0.1), math.log(0.9)])
    assert core.sequence_logprobs(logp_M[None], torch.ones(1, 2)).item() == pytest.approx(math.log(0.09))
    assert entropy_M.tolist() == pytest.approx([-0.1 * math.log(0.1) - 0.9 * math.log(0.9)] * 2)


@pytest.mark.parametrize("chunk", [5, 25, 1 << 22], ids=["a row at a time", "two rows at a time", "at once"])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_equals_log_softmax_and_gather_in_chunks_of_any_size(
    monkeypatch: pytest.MonkeyPatch, chunk: int, temperature: float
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK", chunk)
    logits_MV, ids_M = case()
    slope_M = torch.linspace(-1, 2, len(ids_M))
    found, expected = (one(logits_MV, ids_M, temperature) for one in (core.token_logprobs, plain))
    for actual, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, wanted)
    ours, theirs = (torch.autograd.grad((logp_M * slope_M).sum(), logits_MV)[0] for logp_M, _ in (found, expected))
    torch.testing.assert_close(ours, theirs)
    assert not ours[3, :4].any()  # excluded tokens are not moved
    assert not found[1].requires_grad


def test_chunks_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_MV, ids_M = case()
    found = []
    for chunk in (1, 30, 1 << 22):
        monkeypatch.setattr(logprobs, "CHUNK", chunk)
        logp_M, entropy_M = core.token_logprobs(logits_MV, ids_M, 0.7)
        found.append((logp_M, entropy_M, *torch.autograd.grad(logp_M.sum(), logits_MV)))
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_gradient_is_that_of_differences() -> None:
    logits_MV, ids_M = case(torch.float64)
    logits_MV = logits_MV.detach().nan_to_num(neginf=-1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: core.token_logprobs(logits, ids_M, 0.7)[0], logits_MV)


def test_excluded_tokens_have_no_entropy() -> None:
    logits_MV = torch.tensor([[0.0, 0.0, -torch.inf], [-torch.inf, 5.0, -torch.inf]])
    logp_M, entropy_M = core.token_logprobs(logits_MV, torch.tensor([1, 1]), 1.0)
    assert entropy_M.tolist() == pytest.approx([math.log(2), 0.0], abs=1e-6)
    assert logp_M.tolist() == pytest.approx([-math.log(2), 0.0], abs=1e-6)
    assert core.token_logprobs(logits_MV, torch.tensor([2, 0]), 1.0)[0].tolist() == [-math.inf, -math.inf]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_logits_are_normalised_in_fp32(dtype: torch.dtype) -> None:
    logits_MV = torch.linspace(-4, 4, 500).to(dtype).expand(1, 500)
    logp_M, entropy_M = core.token_logprobs(logits_MV, torch.tensor([7]), 1.0)
    assert logp_M.dtype == entropy_M.dtype == torch.float32
    expected_logp, expected_entropy = plain(logits_MV.double(), torch.tensor([7]), 1.0)
    assert logp_M.item() == pytest.approx(expected_logp.item(), abs=1e-5)
    assert entropy_M.item() == pytest.approx(expected_entropy.item(), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_gradient_has_the_dtype_of_the_logits_and_is_rounded_once(dtype: torch.dtype) -> None:
    logits_MV, ids_M = case(dtype)
    (found,) = torch.autograd.grad(core.token_logprobs(logits_MV, ids_M, 0.7)[0].sum(), logits_MV)
    wide_MV = logits_MV.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(plain(wide_MV, ids_M, 0.7)[0].sum(), wide_MV)
    assert found.dtype == dtype
    rounding = max(torch.finfo(dtype).eps / 2, 1e-6 if dtype != torch.float64 else 1e-12)
    torch.testing.assert_close(found.double(), expected, rtol=2 * rounding, atol=rounding)


def test_of_all_that_is_as_large_as_the_logits_only_they_are_kept() -> None:
    logits_MV, ids_M = case()
    kept: list[Tensor] = []

    def note(states: Tensor) -> Tensor:
        kept.append(states)
        return states

    with torch.autograd.graph.saved_tensors_hooks(note, lambda states: states):
        logp_M, _ = core.token_logprobs(logits_MV, ids_M, 0.7)
    large = [states for states in kept if states.numel() > 3 * len(ids_M)]
    assert [states.data_ptr() for states in large] == [logits_MV.data_ptr()]
    assert logp_M.requires_grad


def test_no_tokens() -> None:
    logits_MV = torch.zeros(0, 5, requires_grad=True)
    logp_M, entropy_M = core.token_logprobs(logits_MV, torch.zeros(0, dtype=torch.long), 1.0)
    assert logp_M.shape == entropy_M.shape == (0,)
    assert torch.autograd.grad(logp_M.sum(), logits_MV)[0].shape == (0, 5)


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="temperature"):
        core.token_logprobs(torch.zeros(1, 2), torch.zeros(1).long(), 0.0)
