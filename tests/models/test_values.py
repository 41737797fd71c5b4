"""Values of tokens and of prompts, on the policy's own states and apart, against states read by hand."""

from __future__ import annotations

import copy

import pytest
import torch

from rlfamily.errors import UserError
from rlfamily.models.batching import Rows, pad
from rlfamily.models.layouts.padded import PaddedLayout
from rlfamily.models.layouts.single import SingleLayout
from rlfamily.models.values import critic_on

ROWS = Rows([[5, 6, 7], [5, 6, 7], [8, 9], [10]], [[11, 12], [13], [14, 15, 16, 2], [2]])
WIDTH = 512


@pytest.fixture(params=["causal", "encoder_decoder"])
def policies(request):
    """A function to a fresh policy; its `causal` says of which family."""
    world = request.getfixturevalue("world" if request.param == "causal" else "t5_world")

    def fresh(**changes):
        return world.policy(trainable=True, **changes)

    fresh.causal = request.param == "causal"
    return fresh


def stirred(policy, of, apart, seed=0):
    """A policy whose values are not 0."""
    policy.add_value_head(of, apart, WIDTH if of == "prompt" else None, seed)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in policy.value_head.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return policy


def values_of(policy, rows=ROWS):
    forward = policy.evaluate(pad(rows, policy.pad_id), 1.0)
    return forward.values_NT if forward.prompt_values_N is None else forward.prompt_values_N


def state(model, prompt, causal):
    """What a prompt comes to, by a plain pass of the prompt alone."""
    ids = torch.tensor([prompt])
    if causal:
        return model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
    return model.get_encoder()(ids).last_hidden_state[0].mean(0)


@pytest.mark.parametrize("apart", [False, True], ids=["own", "apart"])
@pytest.mark.parametrize("of", ["token", "prompt"])
def test_at_first_every_value_is_0_and_no_log_prob_changes(policies, of, apart):
    policy = policies()
    plain = policy.evaluate(pad(ROWS, 0), 1.0)
    policy.add_value_head(of, apart, WIDTH, 7)
    forward = policy.evaluate(pad(ROWS, 0), 1.0)
    assert torch.equal(forward.logp_NT, plain.logp_NT)
    given = {"token": forward.values_NT, "prompt": forward.prompt_values_N}
    assert not given.pop(of).any() and given.popitem()[1] is None
    assert set(forward.leaves()) == {"logp_NT", "values_NT" if of == "token" else "prompt_values_N"}


@pytest.mark.parametrize("apart", [False, True], ids=["own", "apart"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "row by row"])
def test_a_prompts_value_is_that_of_its_state(policies, apart, shared):
    policy = stirred(policies(), "prompt", apart)
    initial = copy.deepcopy(policy.model)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.add_(0.05)  # what is apart stays
        if not shared:
            policy.layout = SingleLayout()
        found = values_of(policy)
        right = torch.stack([state(initial if apart else policy.model, prompt, policies.causal) for prompt in ROWS.prompts])
        torch.testing.assert_close(found, policy.value_head(right)[:, 0], atol=1e-5, rtol=1e-4)
    assert found.shape == (4,) and len(set(found.tolist())) == 3


def test_padded_rows_have_the_same_values(world):
    policy = stirred(world.policy(trainable=True), "prompt", True)
    with torch.no_grad():
        shared = values_of(policy)
        policy.layout = PaddedLayout()
        for model in (policy.model, policy.critic.network):
            model.set_attn_implementation("sdpa")
        torch.testing.assert_close(values_of(policy), shared, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("apart", [False, True], ids=["own", "apart"])
def test_order_and_padding_play_no_part(policies, apart):
    policy, order = stirred(policies(), "prompt", apart), [3, 1, 2, 0]
    moved = Rows([ROWS.prompts[row] for row in order] + [[4] * 9], [ROWS.completions[row] for row in order] + [[5] * 9])
    with torch.no_grad():
        torch.testing.assert_close(values_of(policy, moved)[:4], values_of(policy)[order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("of", ["token", "prompt"])
def test_who_learns_from_a_value(policies, of):
    for apart in (False, True):
        policy = stirred(policies(), of, apart)
        values_of(policy).sum().backward()
        learning = {name.partition(".")[0] for name, weight in policy.trainable().items()
                    if weight.grad is not None and weight.grad.any()}
        assert ("critic" in learning, "value_head" in learning) == (apart, True)
        assert (learning - {"critic", "value_head"} == set()) == apart


def test_token_values_of_a_copy(policies):
    policy = stirred(policies(), "token", True)
    own = stirred(policies(), "token", False)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.add_(0.05)
        torch.testing.assert_close(values_of(policy), values_of(own))


@pytest.mark.parametrize("of", ["token", "prompt"])
def test_adapters_stay_out_of_what_is_apart(policies, of, tmp_path):
    policy = stirred(policies(finetune="lora"), of, True)
    names = policy.trainable()
    assert not [name for name in names if name.startswith("critic.") and "lora" in name]
    assert all("lora" in name for name in names if not name.startswith(("critic.", "value_head.")))
    assert all(weight.requires_grad for weight in policy.critic.network.parameters())
    with policy.initial():
        assert set(policy.evaluate(pad(ROWS, 0), 1.0).leaves()) == {"logp_NT"}
    assert values_of(policy).any()
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    policy.save(tmp_path / "saved")
    assert not [name for name in policy.model.state_dict() if "critic" in name] and before.keys() == policy.model.state_dict().keys()


def test_what_is_apart_of_an_encoder_decoder_is_its_encoder(t5_world, monkeypatch):
    policy = stirred(t5_world.policy(trainable=True), "prompt", True)
    names = [name for name in policy.trainable() if name.startswith("critic.")]
    assert names and not [name for name in names if "EncDecAttention" in name or "lm_head" in name]
    seen, real = [], policy.critic.network.forward
    monkeypatch.setattr(policy.critic.network, "forward", lambda **named: seen.append(len(named["input_ids"])) or real(**named))
    values_of(policy)
    assert seen == [3]  # distinct prompts


def test_no_output_layer_is_passed_twice(policies):
    policy, seen = stirred(policies(), "token", True), []
    copied = policy.critic.network.get_output_embeddings()
    assert not list(copied.parameters())
    copied.register_forward_hook(lambda module, inputs, output: seen.append(output.untyped_storage().nbytes()))
    values_of(policy)
    assert set(seen) == {4}


def test_the_seed_draws_the_hidden_layer(policies):
    def first(seed):
        policy = policies()
        policy.add_value_head("prompt", False, 16, seed)
        return next(iter(policy.value_head.parameters()))

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))


def test_a_row_without_a_token_has_no_state_of_its_own(policies):
    rows = Rows([[5, 6], [7]], [[], [8]])
    policy = stirred(policies(), "prompt", False)
    if policies.causal:
        with pytest.raises(UserError, match="a response has no token"):
            values_of(policy, rows)
    else:
        assert values_of(policy, rows).all()
    assert values_of(stirred(policies(), "prompt", True), rows).all()


def test_values_are_fp32_under_bf16(policies):
    for apart in (False, True):
        policy = stirred(policies(dtype="bf16"), "prompt", apart)
        values = values_of(policy)
        assert values.dtype == torch.float32
        values.sum().backward()


def test_shards_cannot_be_copied(world, monkeypatch):
    policy = world.policy(trainable=True)
    monkeypatch.setattr("rlfamily.models.values.is_sharded", lambda weight: True)
    with pytest.raises(UserError, match="hardware.sharding=fsdp splits no value network that is apart"):
        critic_on(policy.model, "prompt", True, WIDTH, 0, policy.device)
