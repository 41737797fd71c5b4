"""A weighted sum of learned scores: R = sum_i w_i s_i(prompt, response). GN-IVO App. C.2: two models, 0.5 each.

Models published by different people want their input in different orders. The `convention` of each says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from rlfamily.algorithms.settings import Strict
from rlfamily.errors import UserError
from rlfamily.rewards import RewardConfig, RewardParts

if TYPE_CHECKING:
    import torch

    from rlfamily.models.classifier import Classifier
    from rlfamily.models.reward_model import RewardModel
    from rlfamily.tasks import Example, Task

Convention = Literal["ids", "pair", "response_bos_context", "response_then_context"]


class Component(Strict):
    """One model's share of the reward, and how it is called (RiC, Yang et al. 2024b, `ric/multi_reward_models.py`).

    ids: a model trained here; token ids of prompt and response with its end.
    pair: tokenizer(context, response). response_then_context: tokenizer(response, context).
    response_bos_context: one text, "response <bos> context".
    `logit` is the output that is the score; a model trained here has one.
    """

    weight: float
    convention: Convention
    logit: int = Field(ge=0)


class Config(RewardConfig):
    """`components` by the name of their model. Inputs are cut to `max_tokens`; scores are rounded to `decimals`."""

    kind: Literal["preference"]
    components: dict[str, Component] = Field(min_length=1)
    max_tokens: int = Field(gt=0)
    decimals: int | None = Field(ge=0)

    @model_validator(mode="after")
    def _check_names(self) -> Config:
        if self.models and set(self.models) != set(self.components):
            raise ValueError(f"components are {', '.join(sorted(self.components))} but models are "
                             f"{', '.join(sorted(self.models))}: give both the same names")
        return self


@dataclass(frozen=True)
class Preference:
    """Scores responses with each model; parts are the scores by name and what the task itself can tell.

    The context is the example's prompt, or its meta `context` where a prompt is an instruction with a text in it. It is
    plain text always: a policy's chat template is no business of the reward model.
    """

    config: Config
    task: Task
    scorers: Mapping[str, Classifier | RewardModel]
    micro_batch: int

    def score(self, examples: Sequence[Example], responses: Sequence[str]) -> list[RewardParts]:
        """Score response n (without its prompt) as an answer to example n."""
        contexts = [str(example.meta.get("context", example.prompt)) for example in examples]
        columns = {name: self._component(name, contexts, responses) for name in self.config.components}
        rewards = [RewardParts(
            sum(component.weight * columns[name][row] for name, component in self.config.components.items()),
            {name: column[row] for name, column in columns.items()} | self.task.score(response, example.meta))
            for row, (example, response) in enumerate(zip(examples, responses, strict=True))]
        return rewards

    def _component(self, name: str, contexts: Sequence[str], responses: Sequence[str]) -> list[float]:
        from rlfamily.models.reward_model import RewardModel

        component, scorer = self.config.components[name], self.scorers[name]
        if isinstance(scorer, RewardModel):
            scores = scorer.score_texts(contexts, responses, self.micro_batch)
        else:
            texts, pairs = arrange(component.convention, contexts, [text.strip() for text in responses],
                                   scorer.tokenizer.bos_token)
            scores = scorer.score(texts, pairs, component.logit, self.config.max_tokens, self.micro_batch)
        return scores if self.config.decimals is None else [round(score, self.config.decimals) for score in scores]


def arrange(
    convention: Convention, contexts: Sequence[str], responses: Sequence[str], bos: str
) -> tuple[list[str], list[str] | None]:
    """Texts, and the texts they are paired with, in the order a published model expects them."""
    if convention == "pair":
        return list(contexts), list(responses)
    if convention == "response_then_context":
        return list(responses), list(contexts)
    return [f"{response} {bos} {context}" for context, response in zip(contexts, responses, strict=True)], None


def load(
    config: Config, task: Task, models: Mapping[str, Path], device: torch.device, micro_batch: int
) -> Preference:
    """Load every component's model from its folder. Raises UserError when one cannot be loaded or lacks the logit."""
    from rlfamily.models import classifier, reward_model

    scorers: dict[str, Classifier | RewardModel] = {}
    for name, component in config.components.items():
        if component.convention == "ids":
            scorers[name] = reward_model.load_trained(models[name], device)
            continue
        scorers[name] = scorer = classifier.load(models[name], device)
        if component.logit >= scorer.logits:
            raise UserError(f"task.reward.components.{name}.logit={component.logit}: the model has {scorer.logits} "
                            "logits: give a smaller index")
    return Preference(config, task, scorers, micro_batch)
