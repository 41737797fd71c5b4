"""Beam search over parts of responses, guided by a value function or by a pair of models: ours and two others' ways.

Every side draws by the same chance: the likeliest token of logits plus Gumbel noise, which is a sample. The noise of a
token belongs to its prompt, its candidate and its place, so that all sides grow the same candidates, keep the same ones
and return the same tokens, if they are right.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, Qwen2ForSequenceClassification

from bench.drawing import CPU, Shape, plain_model, random_policy
from rlfamily.decoding import Guide, iro, weak_to_strong
from rlfamily.examples import Example
from rlfamily.models.policy import Policy
from rlfamily.models.value import ValueFunction
from rlfamily.rollout import SamplingParams, torch_engine, torch_growth
from rlfamily.rollout.bench import EngineBench, Guidance, Request
from rlfamily.rollout.followers import PairFollower, ValueFollower
from rlfamily.rollout.torch_engine import TorchEngine

BEAMS = BRANCHES = 4
WIDTH = BEAMS * BRANCHES
SEARCH: dict[str, Any] = {"beams": BEAMS, "branches": BRANCHES, "pick": "top", "temperature": 1.0, "finished": "repeat"}


@dataclass(frozen=True)
class Wanted:
    """A response of `new_tokens` tokens to each of B prompts of one length; noise_BUTV for its U candidates."""

    prompts: list[list[int]]
    new_tokens: int
    chunk: int
    noise: Tensor

    @property
    def tokens(self) -> int:
        """Tokens to draw."""
        return len(self.prompts) * WIDTH * self.new_tokens


def wanted(prompts: list[list[int]], new_tokens: int, chunk: int, vocabulary: int) -> Wanted:
    """The same noise at every call."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(len(prompts), WIDTH, new_tokens, vocabulary, generator=generator)
    return Wanted(prompts, new_tokens, chunk, -(-uniform.clamp(1e-9, 1 - 1e-7).log()).log())


@dataclass(frozen=True)
class Models:
    """What draws and what guides: a value function, or the policy beside another one."""

    policy: Policy
    value: ValueFunction
    other: Policy

    def plain(self) -> Plain:
        """Copies as transformers made them, without our attention."""
        return Plain(*(plain_model(one) for one in (self.policy, self.value, self.other)))


class Plain(NamedTuple):
    """The same as transformers' models."""

    policy: Any
    value: Any
    other: Any


def models(shape: Shape, positions: int) -> Models:
    """Random weights, the same at every call; all of one size."""
    policy, other = random_policy(shape, positions), random_policy(shape, positions)
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.mul_(1.1)
    config = copy.deepcopy(policy.model.config)
    config.num_labels = 1
    torch.manual_seed(1)
    classifier = Qwen2ForSequenceClassification(config).eval()
    return Models(policy, ValueFunction(classifier, policy.tokenizer, "fp32", CPU, 0.0), other)


def ours(found: Models, given: Wanted, guide: Guide) -> list[list[int]]:
    """Our decoders over the torch engine, as a `generate` stage runs them."""
    requests = [Request(place, Example(str(place), "", {}), prompt, place * WIDTH, 0)
                for place, prompt in enumerate(given.prompts)]

    def follow(rows: Sequence[Request]) -> ValueFollower | PairFollower:
        prompts = [row.prompt for row in rows]
        return ValueFollower(found.value, prompts) if guide == "values" else (
            PairFollower(found.policy, found.other, prompts))

    params = SamplingParams(True, 1.0, len(given.prompts[0]) + given.new_tokens)
    guidance = Guidance(follow, lambda *_: [], 1)
    engine = TorchEngine(found.policy, 0)
    bench = EngineBench(engine, params, requests, {guide: guidance}, lambda *_: [], lambda *_: None)
    with patch.object(torch_engine, "TorchGrowth", _noisy(given, found.policy.eos_id)):
        if guide == "values":
            chosen = iro.decode(iro.Config(kind="iro", chunk=given.chunk, final="value", betas=[1.0], compressed=False,
                                           values=None, **SEARCH), bench)
        else:
            chosen = weak_to_strong.decode(weak_to_strong.Config(
                kind="weak_to_strong", chunk=given.chunk, pair=None, **SEARCH), bench)
    return [choice.completion.ids for choice in chosen]


def _noisy(given: Wanted, eos_id: int) -> type:
    noise_NTV = given.noise.flatten(0, 1)

    class Noisy(torch_growth.TorchGrowth):
        def _choose(self, logits_RV: Tensor, going_R: Tensor | None) -> tuple[Tensor, Tensor]:
            logits_RV = logits_RV + noise_NTV[self.row_R, self.length_N[self.row_R]]
            logits_RV[:, eos_id] = -torch.inf
            return super()._choose(logits_RV, going_R)

    return Noisy


class Noise(LogitsProcessor):
    """What `generate` draws by: noise_NTV of its rows' tokens from `start` on, and no end."""

    def __init__(self, noise_NTV: Tensor, start: int, eos_id: int) -> None:
        self.noise_NTV, self.start, self.eos_id = noise_NTV, start, eos_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` of the next token, changed; `input_ids` are prompt and response so far."""
        scores = scores + self.noise_NTV[:, input_ids.shape[1] - self.start]
        scores[:, self.eos_id] = -torch.inf
        return scores


@torch.inference_mode()
def loop(found: Plain, given: Wanted, guide: Guide) -> list[list[int]]:
    """A loop over `generate`: every part begins with a pass over all before it, and so does every score."""
    prompt = len(given.prompts[0])
    ids_NL = torch.tensor(given.prompts).repeat_interleave(WIDTH, 0)
    noise = LogitsProcessorList([Noise(given.noise.flatten(0, 1), prompt, found.policy.config.eos_token_id)])
    for start in range(0, given.new_tokens, given.chunk):
        ids_NL = found.policy.generate(
            ids_NL, attention_mask=torch.ones_like(ids_NL), do_sample=False, logits_processor=noise,
            max_new_tokens=min(given.chunk, given.new_tokens - start))
        scores_BU = _scores(found, ids_NL, prompt, guide).view(-1, WIDTH)
        parents_BK = scores_BU.sort(dim=1, descending=True, stable=True).indices[:, :BEAMS]
        if start + given.chunk < given.new_tokens:
            first_B1 = torch.arange(0, len(ids_NL), WIDTH)[:, None]
            ids_NL = ids_NL[(first_B1 + parents_BK).repeat_interleave(BRANCHES, 1).flatten()]
    best_B = torch.arange(0, len(ids_NL), WIDTH) + parents_BK[:, 0]
    rows: list[list[int]] = ids_NL[best_B, prompt:].tolist()
    return rows


def _scores(found: Plain, ids_NL: Tensor, prompt: int, guide: Guide) -> Tensor:
    """What the guide says of whole rows, by plain passes over all of them."""
    if guide == "values":
        values_N: Tensor = found.value(ids_NL, use_cache=False, logits_to_keep=1).logits[:, 0, 0]
        return values_N
    tuned_N, untuned_N = (_logp(model, ids_NL, prompt) for model in (found.policy, found.other))
    return tuned_N - untuned_N


def _logp(model: Any, ids_NL: Tensor, prompt: int) -> Tensor:
    logits_NLV = model(ids_NL, use_cache=False).logits[:, :-1].float()
    logps_NL: Tensor = logits_NLV.log_softmax(-1).gather(2, ids_NL[:, 1:, None])[..., 0]
    return logps_NL[:, prompt - 1:].sum(1)


@torch.inference_mode()
def chunked(found: Plain, given: Wanted, guide: Guide) -> list[list[int]]:
    """As the public code of weak-to-strong search goes: a prompt at a time, a cache that is reordered, whole scores."""
    return [_one(found, given, guide, place) for place in range(len(given.prompts))]


def _one(found: Plain, given: Wanted, guide: Guide, place: int) -> list[int]:
    prompt = len(given.prompts[place])
    # There, row j * BEAMS + i is child j of parent i; the noise is that of our candidate i * BRANCHES + j.
    slot_U = torch.arange(WIDTH).view(BEAMS, BRANCHES).T.flatten()
    noise = Noise(given.noise[place][slot_U], prompt, found.policy.config.eos_token_id)
    ids_UL = torch.tensor(given.prompts[place]).repeat(WIDTH, 1)
    cache, fresh_UL = DynamicCache(), ids_UL
    for length in range(1, given.new_tokens + 1):
        logits_UV = found.policy(fresh_UL, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        fresh_UL = noise(ids_UL, logits_UV).argmax(1, keepdim=True)
        ids_UL = torch.cat([ids_UL, fresh_UL], 1)
        if length % given.chunk == 0 or length == given.new_tokens:
            beam_U = _scores(found, ids_UL, prompt, guide).topk(BEAMS).indices.repeat(BRANCHES)
            ids_UL, fresh_UL = ids_UL[beam_U], fresh_UL[beam_U]
            cache.reorder_cache(beam_U)
    return ids_UL[0, prompt:].tolist()


THEIRS = {"loop": loop, "chunked": chunked}


def sides(found: Models, given: Wanted, guide: Guide) -> dict[str, Any]:
    """A call a side, by name."""
    plain = found.plain()
    return {"ours": partial(ours, found, given, guide)} | {
        name: partial(way, plain, given, guide) for name, way in THEIRS.items()}
