"""Token log-probs and entropies of logits."""

from __future__ import annotations

import math

import pytest
import torch

from rlfamily import core


def test_hand_worked() -> None:
    # logits (ln 1, ln 3): p = (1/4, 3/4) at temperature 1; at 1/2 they are doubled: (1/10, 9/10)
    logits_NTV = torch.tensor([1.0, 3.0], dtype=torch.float64).log().expand(1, 2, 2)
    ids_NT, mask_NT = torch.tensor([[0, 1]]), torch.ones(1, 2)
    logp = core.token_logprobs(logits_NTV, ids_NT, mask_NT, 1.0)
    assert logp[0].tolist() == pytest.approx([math.log(1 / 4), math.log(3 / 4)])
    logp = core.token_logprobs(logits_NTV, ids_NT, mask_NT, 0.5)
    assert logp[0].tolist() == pytest.approx([math.log(0.1), math.log(0.9)])
    assert core.sequence_logprobs(logp, mask_NT).item() == pytest.approx(math.log(0.09))
    entropy = core.token_entropies(logits_NTV, mask_NT, 0.5)
    assert entropy[0, 0].item() == pytest.approx(-0.1 * math.log(0.1) - 0.9 * math.log(0.9))


def test_equals_log_softmax_and_gather_with_zero_on_pads() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_NTV = torch.randn(3, 4, 7, generator=generator, requires_grad=True)
    ids_NT = torch.randint(7, (3, 4), generator=generator)
    mask_NT = (torch.arange(4) < torch.tensor([[4], [1], [0]])).float()
    found = core.token_logprobs(logits_NTV, ids_NT, mask_NT, 0.7)
    expected = (logits_NTV / 0.7).log_softmax(2).gather(2, ids_NT[..., None])[..., 0] * mask_NT
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), logits_NTV)
    (reference,) = torch.autograd.grad(expected.sum(), logits_NTV)
    torch.testing.assert_close(gradient, reference)
    assert not gradient[mask_NT == 0].any()


def test_nonsense_on_pads_is_inert() -> None:
    logits_NTV = torch.zeros(1, 2, 3)
    logits_NTV[0, 1] = float("nan")
    mask_NT = torch.tensor([[1.0, 0.0]])
    assert core.token_logprobs(logits_NTV, torch.tensor([[0, -100]]), mask_NT, 1.0)[0, 1] == 0
    assert core.token_entropies(logits_NTV, mask_NT, 1.0)[0].tolist() == pytest.approx(
        [math.log(3), 0]
    )


def test_excluded_tokens_have_no_entropy() -> None:
    logits_NTV = torch.tensor([[[0.0, 0.0, float("-inf")]]])
    assert core.token_entropies(logits_NTV, torch.ones(1, 1), 1.0).item() == pytest.approx(
        math.log(2)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_logits_are_normalised_in_fp32(dtype: torch.dtype) -> None:
    logits_NTV = torch.linspace(-4, 4, 500).to(dtype).expand(1, 1, 500)
    found = core.token_logprobs(logits_NTV, torch.tensor([[7]]), torch.ones(1, 1), 1.0)
    assert found.dtype == torch.float32
    expected = logits_NTV.double().log_softmax(2)[0, 0, 7].item()
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="temperature"):
        core.token_logprobs(torch.zeros(1, 1, 2), torch.zeros(1, 1).long(), torch.ones(1, 1), 0.0)
