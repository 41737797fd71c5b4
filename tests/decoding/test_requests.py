"""Growth by requests, as vLLM has it, over the torch engine: without chance it gives what growth in a session gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from guided_world import decoder

from rlfamily.evaluation import sampler
from rlfamily.models import sessions
from rlfamily.rollout import SamplingParams
from rlfamily.rollout.request_growth import RequestGrowth
from rlfamily.rollout.torch_engine import TorchEngine


def likeliest_of(policy):
    """The likeliest next tokens of rows, each row passed anew."""
    def likeliest(rows, params, count):
        if not rows:
            return [], []
        with torch.no_grad():
            logps_RV = sessions.start_rows(policy, rows).logits_RV.float().log_softmax(-1)
        logps_RK, token_RK = logps_RV.topk(min(count, logps_RV.shape[1]), -1)
        return token_RK.tolist(), logps_RK.tolist()

    return likeliest


class Requesting(TorchEngine):
    """The torch engine, asked for parts one request at a time."""

    def grow(self, prompts, params, streams):
        return RequestGrowth(self, self.policy.stop_ids, prompts, params, streams, likeliest_of(self.policy))


@pytest.mark.parametrize("name", ["iro", "blocks", "weak to strong", "tokens", "fudge", "q sharp", "args"])
def test_greedy_responses_are_those_of_a_session(guided, tmp_path, monkeypatch, name):
    sessions_rows, _ = guided.drawn(tmp_path / "session", decoder(name), "greedy", count=3, draws=1)
    frozen = sampler.frozen

    def requesting(*given):
        engine, tokenizer = frozen(*given)
        return Requesting(engine.policy, engine.batch_rows), tokenizer

    monkeypatch.setattr(sampler, "frozen", requesting)
    rows, _ = guided.drawn(tmp_path / "requests", decoder(name), "greedy", count=3, draws=1)
    assert rows == sessions_rows


def test_moves_of_both_growths_are_the_same(guided):
    policy = guided.world.policy()
    params = SamplingParams(True, 1.0, 30, min_new_tokens=4)
    prompts = [ids for ids in guided.encoded(2) for _ in range(2)]
    engines = TorchEngine(policy, 64), Requesting(policy, 64)
    one, other = (engine.grow(prompts, params, range(4)) for engine in engines)

    def same():
        assert one.running == other.running
        assert [(row.ids, row.truncated) for row in one.completions()] == [
            (row.ids, row.truncated) for row in other.completions()]

    def options(count):
        (tokens, logps), (others, other_logps) = one.options(count), other.options(count)
        assert tokens == others
        return tokens, logps, other_logps

    for growth in (one, other):
        growth.draw(2)
    same()
    tokens, _, _ = options(5)
    assert not {token for some in tokens for token in some} & set(policy.stop_ids), "too early for an end"
    for growth in (one, other):
        growth.append([some[place % 3] for place, some in enumerate(tokens)])
        growth.select([1, 1, 3, 2])
    same()
    for growth in (one, other):
        growth.draw(3, rows=[0, 3])
        growth.draw(2)
    same()
    tokens, logps, other_logps = options(4)
    torch.testing.assert_close(torch.tensor(logps), torch.tensor(other_logps), atol=2e-5, rtol=1e-4)
    assert all(0 <= chance < 1 for growth in (one, other) for chance in growth.uniforms())


def test_streams_of_requests_are_those_of_rows_and_places(guided):
    policy = guided.world.policy()
    params = SamplingParams(False, 1.0, 40)
    prompt = guided.encoded(1)[0]

    def drawn(streams, *parts, params=params):
        growth = Requesting(policy, 64).grow([prompt] * len(streams), params, streams)
        for part in parts:
            growth.draw(part)
        return [row.ids for row in growth.completions()]

    alone = [drawn([stream], 3, 3)[0] for stream in (5, 6)]
    assert drawn([5, 6], 3, 3) == alone and alone[0] != alone[1]
    assert drawn([5], 3)[0] == alone[0][:3]
    growth = Requesting(policy, 64).grow([prompt] * 2, replace(params, min_new_tokens=9), [5, 6])
    growth.draw(3)
    growth.select([0, 0])
    growth.draw(6)
    first, second = (row.ids for row in growth.completions())
    assert first[:3] == second[:3] and first != second, "forks go on by streams of their own"
    growth = Requesting(policy, 64).grow([prompt], replace(params, min_new_tokens=9), [5])
    growth.draw(3)
    growth.reseed([0], [77])
    growth.draw(6)
    assert growth.completions()[0].ids[:3] == first[:3] and growth.completions()[0].ids != first
