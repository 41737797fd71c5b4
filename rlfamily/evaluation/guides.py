"""The models that guide a decoder, opened: value functions, the task's reward, a tuned model beside an untuned one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rlfamily import decoding, tasks
from rlfamily.decoding import DecodingConfig, Guide
from rlfamily.decoding.guided import Guided
from rlfamily.errors import UserError
from rlfamily.models import Finetuning, policy, value
from rlfamily.models.batching import Rows
from rlfamily.models.tokens import encode_example, prompt_ids, raw_ids, same_tokens
from rlfamily.models.value import ValueFunction
from rlfamily.place import Place
from rlfamily.rewards.preference import Preference
from rlfamily.rollout import Completion
from rlfamily.rollout.bench import Answer, Follow, Guidance, Request
from rlfamily.rollout.collect import decode
from rlfamily.rollout.followers import Follower, PairFollower, TextFollower, Tokens, ValueFollower, Weighted
from rlfamily.rollout.rewarding import task_reward
from rlfamily.rollout.settings import Guiding


@dataclass(frozen=True)
class GuideFolders:
    """Artifacts of the models that guide: those of the reward by name, value functions in order, `tuned`, `untuned`."""

    rewards: Mapping[str, Path] = field(default_factory=dict)
    values: Mapping[str, Path] = field(default_factory=dict)
    pair: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Opener:
    """Opens guides for a policy with `tokenizer`, whose responses end with one of `ends`, on its device."""

    place: Place
    config: DecodingConfig
    guiding: Guiding | None
    folders: GuideFolders
    finetuning: Finetuning
    device: torch.device
    tokenizer: PreTrainedTokenizerBase
    ends: frozenset[int]

    def guides(self) -> dict[Guide, Guidance]:
        """Those that the decoder asks. Raises UserError when a model cannot be loaded."""
        opened: dict[Guide, Callable[[], Guidance]] = {
            "values": self._values, "rewards": self._rewards, "pair": self._pair}
        asked = decoding.get(self.config.kind).asks(self.config)
        return {name: open_one() for name, open_one in opened.items() if name in asked}

    def answer(self) -> Answer:
        """What the task takes for an answer. Raises UserError, when asked, for a task that has none."""
        def of(example: Any, ids: Tokens) -> str | None:
            assert self.guiding is not None
            find = getattr(tasks.get(self.guiding.task), "answer", None)
            if find is None:
                raise UserError(f"decoding.kind={self.config.kind}: responses of task {self.guiding.task} have no "
                                "answer that could be counted: use another decoder")
            found: str | None = find(decode(self.tokenizer, [ids])[0], example.meta)
            return found

        return of

    def _values(self) -> Guidance:
        assert isinstance(self.config, Guided)
        values = [value.load(folder / "model", self.finetuning.dtype, self.device, trainable=False)
                  for _, folder in sorted(self.folders.values.items(), key=lambda item: int(item[0]))]
        follows = [self._value(one) for one in values]
        weights = self.config.weights

        def follow(requests: Sequence[Request]) -> Follower:
            return Weighted([one(requests) for one in follows], weights)

        return Guidance(follow, partial(_followed, follow), len(values))

    def _value(self, one: ValueFunction) -> Follow:
        if same_tokens(one.tokenizer, self.tokenizer):
            return lambda requests: ValueFollower(one, [request.prompt for request in requests])
        return partial(_of_texts, partial(self._value_of_texts, one))

    def _value_of_texts(self, one: ValueFunction, requests: Sequence[Request], ids: Sequence[Tokens]) -> list[float]:
        """V of what was said, in the value function's own tokens."""
        return one.score_rows(self._retokenised(one.tokenizer, requests, ids), self.place.hardware.micro_tokens)

    def _rewards(self) -> Guidance:
        assert self.guiding is not None and self.guiding.reward is not None
        config, folders = self.guiding.reward, self.folders.rewards
        reward = task_reward(self.place, self.guiding.task, config, folders, self.device)

        def rate(requests: Sequence[Request], rows: Sequence[Completion]) -> list[float]:
            texts = decode(self.tokenizer, [row.ids for row in rows])
            parts = reward.score([request.example for request in requests], texts, [row.truncated for row in rows])
            return [part.reward for part in parts]

        def of_parts(requests: Sequence[Request], ids: Sequence[Tokens]) -> list[float]:
            return rate(requests, [Completion(list(row), [], not self._ended(row)) for row in ids])

        components = self._read_as_values(reward)
        if components is None:
            return Guidance(partial(_of_texts, of_parts), rate, max(1, len(folders)))

        def follow(requests: Sequence[Request]) -> Follower:
            contexts = [prompt_ids(self.tokenizer, str(request.example.meta.get("context", request.example.prompt)))
                        for request in requests]
            return Weighted([ValueFollower(one, contexts) for one, _ in components], [part for _, part in components])

        return Guidance(follow, rate, len(components))

    def _read_as_values(self, reward: Any) -> list[tuple[ValueFunction, float]] | None:
        """The reward's models with their weights, to be read at the end of any part of a response.

        None where one has tokens of its own, or is not read as models trained here are.
        """
        if not isinstance(reward, Preference):
            return None
        found = []
        for name, component in reward.config.components.items():
            if component.convention != "ids" or component.engine != "torch":
                return None
            one = value.load(self.folders.rewards[name] / "model", "fp32", self.device, trainable=False)
            if not same_tokens(one.tokenizer, self.tokenizer):
                return None
            found.append((one, component.weight))
        return found

    def _pair(self) -> Guidance:
        tuned, untuned = (policy.load(self.folders.pair[name] / "model", self.finetuning, self.device, trainable=False)
                          for name in ("tuned", "untuned"))
        if not same_tokens(tuned.tokenizer, untuned.tokenizer):
            raise UserError("decoding.pair: the tuned and the untuned model have different tokens: take one family")

        def follow(requests: Sequence[Request]) -> Follower:
            if same_tokens(tuned.tokenizer, self.tokenizer):
                return PairFollower(tuned, untuned, [request.prompt for request in requests])
            return _of_texts(of_texts, requests)

        def of_texts(requests: Sequence[Request], ids: Sequence[Tokens]) -> list[float]:
            rows = self._retokenised(tuned.tokenizer, requests, ids)
            return PairFollower(tuned, untuned, rows.prompts).extend(rows.completions)

        return Guidance(follow, partial(_followed, follow), 2)

    def _retokenised(
        self, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], ids: Sequence[Tokens]
    ) -> Rows:
        """Prompts through the other tokenizer's own chat template, responses as text; of what has ended, with its end.
        """
        end = int(tokenizer.eos_token_id)
        said = [raw_ids(tokenizer, text) + ([end] if self._ended(row) else [])
                for text, row in zip(decode(self.tokenizer, ids), ids, strict=True)]
        return Rows([encode_example(tokenizer, request.example) for request in requests], said)

    def _ended(self, row: Tokens) -> bool:
        return len(row) > 0 and row[-1] in self.ends


ScoreParts = Callable[[Sequence[Request], Sequence[Tokens]], list[float]]


def _followed(follow: Follow, requests: Sequence[Request], rows: Sequence[Completion]) -> list[float]:
    """Whole responses, as rows that get all of their tokens at once."""
    return follow(requests).extend([row.ids for row in rows])


def _of_texts(score: ScoreParts, requests: Sequence[Request]) -> Follower:
    """Rows of one request are told apart by their texts alone."""
    first: dict[int, int] = {}
    prompts = [first.setdefault(id(request), place) for place, request in enumerate(requests)]
    return TextFollower(lambda places, ids: score([requests[place] for place in places], ids), prompts)
