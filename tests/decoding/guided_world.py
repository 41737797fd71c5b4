"""Tiny real models for decoders: a policy, value functions, a reward model, a tuned and an untuned one, as artifacts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from small import World, place
from tables import config_of

from rlfamily.decoding import DecodingConfig
from rlfamily.evaluation import sampler
from rlfamily.evaluation.guides import GuideFolders
from rlfamily.examples import Example
from rlfamily.models import reward_model, value
from rlfamily.models.tokens import encode_example
from rlfamily.records import read_jsonl
from rlfamily.rollout.settings import Generation, Guiding
from rlfamily.settings import Limits
from rlfamily.streams import held_out_seed

CPU = torch.device("cpu")

# Every decoder, with a shape that fits four tokens' worth of parts.
SEARCH = {"beams": 2, "branches": 2, "chunk": 3, "betas": [1.0, 0.5], "values": None}
DECODERS = {
    "plain": ("plain", {}),
    "best of n": ("best_of_n", {"samples": 3}),
    "best of n implicit": ("best_of_n_implicit", {"samples": 3}),
    "majority vote": ("majority_vote", {"samples": 3}),
    "iro": ("iro", SEARCH),
    "iro once": ("iro", {**SEARCH, "finished": "once", "pick": "top"}),
    "iro stochastic": ("iro", {**SEARCH, "pick": "stochastic", "final": "value"}),
    "iro vote": ("iro", {**SEARCH, "final": "vote"}),
    "blocks": ("controlled_decoding", {"level": "block", "branches": 3, "chunk": 3, "values": None}),
    "tokens": ("controlled_decoding", {"level": "token", "top_k": 4, "values": None}),
    "weak to strong": ("weak_to_strong", {"beams": 2, "branches": 2, "chunk": 3}),
    "args": ("args", {"top_k": 4, "drawn": True}),
    "fudge": ("fudge", {"top_k": 4, "values": None}),
    "q sharp": ("q_sharp", {"top_k": 4, "values": None}),
    "cards": ("cards", {"target": 0.5, "entropy": 1.5, "shortest": 2, "longest_segment": 5, "retries": 3}),
}


def decoder(name: str, **changes) -> DecodingConfig:
    kind, settings = DECODERS[name]
    return config_of(kind, **{**settings, **changes})


@dataclass(frozen=True)
class Guided:
    """The world and its guides."""

    world: World
    folders: GuideFolders

    def settings(self, chosen, prompts=4, draws=2, max_tokens=20, min_new_tokens=0) -> Generation:
        task = self.world.config.task
        limits = Limits(max_tokens=max_tokens, max_new_tokens=None, min_new_tokens=min_new_tokens)
        return Generation(prompts=prompts, draws=draws, greedy=True, limits=limits, distribution=task.distribution, decoding=chosen,
                          engine="torch")

    def guiding(self) -> Guiding:
        return Guiding(task="countdown", reward=preference())

    def prompts(self, count=4) -> sampler.Prompts:
        rows = [Example(**row) for row in list(read_jsonl(self.world.data / "test.jsonl"))[:count]]
        return sampler.Prompts("data", "test", dict(enumerate(rows)), lambda example: 1000 + held_out_seed(example.id))

    def sampler(self, folder: Path, chosen, finalists=False, hardware=None, **settings) -> sampler.Sampler:
        values = dict(list(self.folders.values.items())[:len(getattr(chosen, "betas", []))])
        return sampler.Sampler(place(folder, **(hardware or {})), self.world.base, self.world.finetuning,
                               self.settings(chosen, **settings), "1", self.guiding(),
                               replace(self.folders, values=values), finalists)

    def drawn(self, folder: Path, chosen, mode="sample", count=4, **settings):
        """Rows of the sampler, and how many were drawn now."""
        made = self.sampler(folder, chosen, **settings)
        pool, prompts = made.pool(self.prompts(count)), self.prompts(count)
        return list(made.rows(prompts, mode, made.settings.draws, pool)), pool.added

    def encoded(self, count=4) -> list[list[int]]:
        tokenizer = self.world.policy().tokenizer
        return [encode_example(tokenizer, example) for example in self.prompts(count).examples.values()]


def preference():
    from rlfamily.rewards.preference import Config

    return Config.model_validate({
        "kind": "preference", "models": {}, "max_tokens": 48, "decimals": None,
        "components": {"judge": {"weight": 0.5, "convention": "ids", "logit": 0, "engine": "torch"}}})


def build_guided(world: World, folder: Path) -> Guided:
    """Guides that differ, and that tell prefixes apart: heads and changes are large."""
    values = {}
    for number in ("1", "2"):
        made = value.load(world.base, "fp32", CPU, trainable=True, seed=int(number))
        with torch.no_grad():
            made.classifier.score.weight.mul_(3.0)
        values[number] = folder / f"value {number}"
        made.save(values[number] / "model")
    torch.manual_seed(3)
    judge = reward_model.load(world.base, world.finetuning, CPU, trainable=True)
    judge.bias = 0.25
    judge.save(folder / "judge" / "model")
    tuned = world.policy(trainable=True)
    with torch.no_grad():
        for weight in tuned.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)))
    tuned.save(folder / "tuned" / "model")
    return Guided(world, GuideFolders({"judge": folder / "judge"}, values,
                                      {"tuned": folder / "tuned", "untuned": world.base.parent}))


def answer(response: str, meta) -> str | None:
    """What countdown could be taken to answer: its first word."""
    return response.split(" ")[0] or None

