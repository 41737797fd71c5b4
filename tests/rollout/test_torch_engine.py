"""The engine against slow and plain truth: no cache, no batch, no padding."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from rlfamily.errors import UserError
from rlfamily.examples import read_examples
from rlfamily.models.batching import Rows, pad
from rlfamily.models.layouts.packed import PackedLayout
from rlfamily.models.layouts.padded import PaddedLayout
from rlfamily.rollout import SamplingParams
from rlfamily.rollout.collect import encode_prompt
from rlfamily.rollout.torch_engine import TorchEngine
from rlfamily.streams import stream_seed

SAMPLED = SamplingParams(greedy=False, temperature=1.0, max_total_tokens=40, logps=True)
GREEDY = SamplingParams(greedy=True, temperature=1.0, max_total_tokens=40, logps=True)


@pytest.fixture(scope="module", params=[True, False], ids=["shared", "padded"])
def build(world, request):
    """Builds the policy: every test runs with both kinds of session."""

    def build(**options):
        policy = world.policy(**options)
        assert isinstance(policy.layout, PackedLayout)
        if not request.param:
            policy.model.set_attn_implementation("sdpa")
            policy.layout = PaddedLayout()
        return policy

    return build


@pytest.fixture(scope="module")
def policy(build):
    return build()


@pytest.fixture(scope="module")
def prompts(world, policy):
    """Real prompts of different lengths, each drawn for twice, not always side by side."""
    texts = [example.prompt for example in read_examples(world.data / "test.jsonl")[:6]]
    rows = [encode_prompt(policy.tokenizer, text)[place % 3:] for place, text in enumerate(texts)]
    return [*rows, *rows[:3], rows[3], rows[3]]


@pytest.fixture(scope="module")
def seeds(prompts):
    return [stream_seed("test", place) for place in range(len(prompts))]


def same(actual, expected):
    assert [row.ids for row in actual] == [row.ids for row in expected]
    assert [row.truncated for row in actual] == [row.truncated for row in expected]
    for row, other in zip(actual, expected, strict=True):
        assert row.logps == pytest.approx(other.logps, abs=1e-5)


def next_logits(policy, prompt, ids):
    """One plain forward without cache, padding or batch."""
    with torch.no_grad():
        return policy.model(torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0, -1]


def test_a_row_does_not_depend_on_its_batch(policy, prompts, seeds):
    engine = TorchEngine(policy, 100)
    together = engine.generate(prompts, SAMPLED, seeds)
    assert len({tuple(row.ids) for row in together}) > len(prompts) // 2
    same([engine.generate([prompt], SAMPLED, [seed])[0] for prompt, seed in zip(prompts, seeds, strict=True)], together)
    for size in (1, 2, 3, 7):
        same(TorchEngine(policy, size).generate(prompts, SAMPLED, seeds), together)
    order = random.Random(0).sample(range(len(prompts)), len(prompts))
    shuffled = engine.generate([prompts[i] for i in order], SAMPLED, [seeds[i] for i in order])
    same(shuffled, [together[i] for i in order])


def test_a_row_does_not_depend_on_padding(policy, prompts, seeds):
    long_prompt = [token for prompt in prompts[:3] for token in prompt]
    engine = TorchEngine(policy, 100)
    padded = engine.generate([*prompts, long_prompt], SAMPLED, [*seeds, 5])
    same(padded[:-1], engine.generate(prompts, SAMPLED, seeds))


def test_the_stream_of_a_row_is_its_seed(policy, prompts):
    engine = TorchEngine(policy, 100)
    rows = engine.generate([prompts[0]] * 6, SAMPLED, [1, 1, 2, 3, 4, 5])
    assert rows[0] == rows[1]
    assert len({tuple(row.ids) for row in rows}) > 2


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_greedy_is_the_argmax_of_a_plain_forward(policy, prompts, seeds, temperature):
    params = SamplingParams(True, temperature, 30, logps=True)
    drawn = TorchEngine(policy, 100).generate(prompts[:6], params, seeds[:6])
    for prompt, row in zip(prompts, drawn, strict=False):
        for place, token in enumerate(row.ids):
            logits = next_logits(policy, prompt, row.ids[:place])
            assert token == int(logits.argmax())
            assert row.logps[place] == pytest.approx(float((logits / temperature).log_softmax(-1)[token]), abs=1e-5)
        assert row.truncated == (row.ids[-1] != policy.eos_id)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_sampler_and_trainer_agree_on_log_probs(policy, prompts, seeds, temperature):
    drawn = TorchEngine(policy, 100).generate(prompts, SamplingParams(False, temperature, 40, logps=True), seeds)
    with torch.no_grad():
        forward = policy.evaluate(pad(Rows(prompts, [row.ids for row in drawn]), policy.pad_id), temperature)
    for row, logp_T, entropy in zip(drawn, forward.logp_NT.tolist(), forward.entropy_N.tolist(), strict=True):
        assert logp_T[:len(row.ids)] == pytest.approx(row.logps, abs=1e-5)
        assert not any(logp_T[len(row.ids):])
        assert row.entropy == pytest.approx(entropy, abs=1e-5)


def test_in_bf16_they_agree_but_for_rounding(build, prompts, seeds):
    rounding = build(dtype="bf16")
    drawn = TorchEngine(rounding, 100).generate(prompts, SAMPLED, seeds)
    with torch.no_grad():
        forward = rounding.evaluate(pad(Rows(prompts, [row.ids for row in drawn]), rounding.pad_id), 1.0)
    apart = torch.tensor([abs(logp - other) for row, logp_T in zip(drawn, forward.logp_NT.tolist(), strict=True)
                          for logp, other in zip(row.logps, logp_T, strict=False)])
    assert 0 < apart.mean() < 0.03
    assert apart.max() < 0.3
    assert [row.entropy for row in drawn] == pytest.approx(forward.entropy_N.tolist(), abs=0.05)


def test_sampling_inverts_the_distribution_function(policy, prompts):
    """The token is the one at which the cumulative probability passes the row's uniform."""
    seed = 11
    uniform = torch.rand(1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cumulative = next_logits(policy, prompts[0], []).double().softmax(-1).cumsum(-1)
    (row,) = TorchEngine(policy, 1).generate([prompts[0]], SAMPLED, [seed])
    assert row.ids[0] == int((cumulative < uniform).sum())


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_first_tokens_follow_the_softmax(policy, prompts, temperature):
    draws = 4000
    params = SamplingParams(False, temperature, len(prompts[0]) + 1)
    rows = TorchEngine(policy, draws).generate([prompts[0]] * draws, params, [stream_seed("law", n) for n in range(draws)])
    probability_V = (next_logits(policy, prompts[0], []).double() / temperature).softmax(-1)
    counts = Counter(row.ids[0] for row in rows)
    checked = 0
    for token, p in enumerate(probability_V.tolist()):
        if p * draws >= 10:
            checked += 1
            assert abs(counts[token] / draws - p) < 5 * (p * (1 - p) / draws) ** 0.5, token
    assert checked >= 2


def test_copies_of_a_prompt_count_on_from_its_seed(policy, prompts):
    engine = TorchEngine(policy, 5)
    rows = engine.generate(prompts[:3], SAMPLED, [11, 40, 70], copies=3)
    same(rows, engine.generate([prompt for prompt in prompts[:3] for _ in range(3)], SAMPLED, [11, 12, 13, 40, 41, 42, 70, 71, 72]))


def test_log_probs_are_given_only_when_asked_for(policy, prompts, seeds):
    silent = TorchEngine(policy, 5).generate(prompts, replace(SAMPLED, logps=False), seeds)
    asked = TorchEngine(policy, 5).generate(prompts, SAMPLED, seeds)
    assert [row.ids for row in silent] == [row.ids for row in asked]
    assert all(row.logps == [] and math.isnan(row.entropy) for row in silent)
    assert all(len(row.logps) == len(row.ids) and row.entropy > 0 for row in asked)


def kept(logits_V, top_k, top_p):
    """Ids that stay, by the definition: the k likeliest, then the fewest of them that reach p together."""
    order = logits_V.double().argsort(descending=True).tolist()[:top_k or None]
    shares = logits_V.double()[order].softmax(-1).tolist()
    total, stay = 0.0, []
    for token, share in zip(order, shares, strict=True):
        if total >= top_p:
            break
        stay.append(token)
        total += share
    return stay


@pytest.mark.parametrize(("top_k", "top_p"), [(1, 1.0), (3, 1.0), (0, 0.6), (0, 1e-9), (4, 0.8), (10_000, 1.0)])
def test_only_the_likeliest_tokens_are_drawn_and_their_log_probs_are_of_what_is_left(policy, prompts, top_k, top_p):
    draws = 400
    params = SamplingParams(False, 1.7, len(prompts[0]) + 1, top_k=top_k, top_p=top_p, logps=True)
    rows = TorchEngine(policy, draws).generate(prompts[:1], params, [5], copies=draws)
    logits_V = next_logits(policy, prompts[0], []) / 1.7
    stay = kept(logits_V, top_k, top_p)
    expected = dict(zip(stay, logits_V[stay].log_softmax(-1).tolist(), strict=True))
    drawn = {row.ids[0]: row.logps[0] for row in rows}
    assert set(drawn) <= set(stay)
    assert rows[0].entropy == pytest.approx(-sum(math.exp(logp) * logp for logp in expected.values()), abs=1e-4)
    likely = {token for token, logp in expected.items() if logp > -3.0}  # missed by 400 draws once in 10^9
    assert likely and likely <= set(drawn)
    for token, logp in drawn.items():
        assert logp == pytest.approx(expected[token], abs=1e-4)


def test_a_stop_token_ends_a_row_as_eos_does(policy, prompts, seeds):
    free = TorchEngine(policy, 100).generate(prompts, SAMPLED, seeds)
    stop = Counter(token for row in free for token in row.ids[1:-1]).most_common(1)[0][0]
    cut = 0
    for row, whole in zip(TorchEngine(policy, 100).generate(prompts, replace(SAMPLED, stop_ids=(stop,)), seeds), free, strict=True):
        end = whole.ids.index(stop) + 1 if stop in whole.ids else len(whole.ids)
        assert row.ids == whole.ids[:end]
        assert row.truncated == (whole.truncated and stop not in whole.ids)
        cut += end < len(whole.ids)
    assert cut
    held = TorchEngine(policy, 100).generate(prompts, replace(SAMPLED, stop_ids=(stop,), min_new_tokens=4), seeds)
    assert all({stop, policy.eos_id}.isdisjoint(row.ids[:4]) for row in held)


def test_eos_ends_a_row_and_is_kept(policy, prompts, seeds):
    drawn = TorchEngine(policy, 100).generate(prompts, SAMPLED, seeds)
    ended = [row for row in drawn if not row.truncated]
    assert ended
    for row in drawn:
        assert policy.eos_id not in row.ids[:-1]
        assert (row.ids[-1] == policy.eos_id) == (not row.truncated)
        assert len(row.logps) == len(row.ids)


def test_finished_rows_leave_the_forward_batch(policy, prompts, seeds, monkeypatch):
    sizes = []
    forward = policy.model.forward

    def spy(*args, **kwargs):
        sizes.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    monkeypatch.setattr(policy.model, "forward", spy)
    drawn = TorchEngine(policy, 100).generate(prompts, SAMPLED, seeds)
    lengths = [len(row.ids) for row in drawn]
    # Equal prompts side by side (the last two) are read once, pads never where prefixes are shared; then each row takes
    # one token a step.
    read = prompts[:-1]
    assert prompts[-2] == prompts[-1] and len({*map(len, read)}) > 1
    assert sizes[0] == (sum(map(len, read)) if isinstance(policy.layout, PackedLayout) else len(read) * max(map(len, read)))
    assert sizes[1:] == [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    assert len(set(sizes[1:])) > 3


def test_the_limit_counts_prompt_and_response(policy, prompts, seeds):
    for limit in (10, 13):
        for row, prompt in zip(TorchEngine(policy, 100).generate(prompts, SamplingParams(False, 1.0, limit), seeds),
                               prompts, strict=True):
            assert len(prompt) + len(row.ids) <= limit
            assert not row.truncated or len(prompt) + len(row.ids) == limit


@pytest.mark.parametrize(("total", "new"), [(14, None), (40, 5), (12, 5)])
def test_a_limit_only_cuts(policy, prompts, seeds, total, new):
    """A lower limit, of either kind, gives the beginning of the same response, and says that it is cut."""
    engine, room = TorchEngine(policy, 100), [min(new or total, total - len(prompt)) for prompt in prompts]
    for short, long, most in zip(engine.generate(prompts, SamplingParams(False, 1.0, total, max_new_tokens=new), seeds),
                                 engine.generate(prompts, SAMPLED, seeds), room, strict=True):
        assert short.ids == long.ids[:most]
        assert short.truncated == (len(long.ids) > most or long.truncated)


@pytest.mark.parametrize("greedy", [False, True])
def test_a_response_cannot_end_too_early(policy, prompts, seeds, greedy):
    engine = TorchEngine(policy, 3)
    free = engine.generate(prompts, SamplingParams(greedy, 1.0, 40), seeds)
    least = max(len(row.ids) for row in free if not row.truncated)  # so that every row is held up
    held = engine.generate(prompts, SamplingParams(greedy, 1.0, 40, least, logps=True), seeds)
    assert all(len(row.ids) > least or row.truncated for row in held)
    assert all(policy.eos_id not in row.ids[:-1] for row in held)
    for row, other in zip(held, free, strict=True):
        assert row.ids != other.ids or other.truncated
    rows = replace(pad(Rows(prompts, [row.ids for row in held]), policy.pad_id), min_new_tokens=least)
    with torch.no_grad():
        logp_NT = policy.evaluate(rows, 1.0).logp_NT
    for row, logp_T in zip(held, logp_NT.tolist(), strict=True):
        assert logp_T[:len(row.ids)] == pytest.approx(row.logps, abs=1e-5)


def test_the_end_is_excluded_and_the_rest_scaled_up(policy, prompts):
    """The distribution of the first token, drawn from by inversion."""
    params = SamplingParams(False, 1.0, 40, 1, logps=True)
    logits_V = next_logits(policy, prompts[0], []).clone()
    logits_V[policy.eos_id] = -torch.inf
    (row,) = TorchEngine(policy, 1).generate([prompts[0]], params, [11])
    uniform = torch.rand(1, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    assert row.ids[0] == int((logits_V.double().softmax(-1).cumsum(-1) < uniform).sum())
    assert row.logps[0] == pytest.approx(float(logits_V.log_softmax(-1)[row.ids[0]]), abs=1e-5)


def test_pad_may_be_eos(build, policy, prompts, seeds):
    twin = build()
    twin.tokenizer.pad_token = twin.tokenizer.eos_token
    assert twin.pad_id == twin.eos_id != policy.pad_id
    drawn = TorchEngine(twin, 100).generate(prompts, SAMPLED, seeds)
    same(drawn, TorchEngine(policy, 100).generate(prompts, SAMPLED, seeds))
    rows = Rows(prompts, [row.ids for row in drawn])
    with torch.no_grad():
        ours, theirs = (one.evaluate(pad(rows, one.pad_id), 1.0) for one in (twin, policy))
    torch.testing.assert_close(ours.logp_NT, theirs.logp_NT, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.entropy_N, theirs.entropy_N, atol=1e-6, rtol=0)


def test_a_tokenizer_without_pad_pads_with_eos(world):
    twin = world.policy()
    twin.tokenizer.pad_token = None
    assert twin.pad_id == twin.eos_id


def test_a_prompt_too_long_is_the_users_to_mend(policy, prompts):
    with pytest.raises(UserError, match=r"a prompt of 8 tokens leaves no room below the limit of 8: raise") as caught:
        TorchEngine(policy, 4).generate([prompts[0]], SamplingParams(False, 1.0, 8), [0])
    assert "\n" not in str(caught.value)


def test_nothing_to_draw(policy):
    """A process of several may have no prompt of its own."""
    assert TorchEngine(policy, 4).generate([], SAMPLED, []) == []


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_generating_leaves_no_trace(build, prompts, seeds, dtype):
    """Weights, gradients and the global stream of random numbers stay as they are, and the policy can be trained."""
    trained = build(trainable=True, dtype=dtype)
    weights = {name: weight.clone() for name, weight in trained.model.state_dict().items()}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    TorchEngine(trained, 4).generate(prompts, GREEDY, seeds)
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in trained.model.parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in trained.model.state_dict().items())
    loss = trained.evaluate(pad(Rows(prompts[:2], [[5], [6]]), trained.pad_id), 1.0).logp_NT.sum()
    loss.backward()
    assert all(weight.grad.any() for weight in trained.trainable().values())
