"""A weighted sum of learned scores: R = sum_i w_i s_i(prompt, response). GN-IVO App. C.2: two models, 0.5 each.

Models published by different people want their input in different orders. The `convention` of each says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from rlfamily.errors import UserError
from rlfamily.rewards import Check, ClassifierEngine, RewardConfig, RewardParts
from rlfamily.settings import Strict

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from rlfamily.examples import Example
    from rlfamily.models.classifier import Classifier, Pooled
    from rlfamily.models.reward_model import RewardModel

VERSION = "3"
NEEDS: frozenset[str] = frozenset()

Convention = Literal["ids", "pair", "response_bos_context", "response_then_context", "chat", "continuation"]


class Component(Strict):
    """One model's share of the reward, and how it is called (RiC, Yang et al. 2024b, `ric/multi_reward_models.py`).

    ids: a model trained here; token ids of prompt and response, with its end.
    pair: tokenizer(context, response). response_then_context: tokenizer(response, context).
    response_bos_context: one text, "response <bos> context".
    chat: one text, a turn of each as the model's own chat template writes them (RLHFlow's models).
    continuation: one text, "context response<eos>" (vwxyzjn's TL;DR models).
    `logit` is the output that is the score; a model trained here has one. `engine` runs the model, in fp32; one that
    vllm does not know is run by transformers, which the stage's log and its manifest say.
    """

    weight: float
    convention: Convention
    logit: int = Field(ge=0)
    engine: Literal["torch", "vllm"]


class Config(RewardConfig):
    """`components` by the name of their model; one of weight 0 is recorded alone. Scores are rounded to `decimals`.

    Of what is longer than `max_tokens` the context loses its beginning, then the response: ends are always read.
    """

    kind: Literal["preference"]
    components: dict[str, Component] = Field(min_length=1)
    max_tokens: int = Field(gt=0)
    decimals: int | None = Field(ge=0)

    def guiding(self) -> Config:
        """The reward of the components that have a weight."""
        kept = {name: one for name, one in self.components.items() if one.weight}
        models = {name: source for name, source in self.models.items() if name in kept}
        return self.model_copy(update={"components": kept, "models": models})

    @model_validator(mode="after")
    def _check_names(self) -> Config:
        if self.models and set(self.models) != set(self.components):
            raise ValueError(f"components are {', '.join(sorted(self.components))} but models are "
                             f"{', '.join(sorted(self.models))}: give both the same names")
        return self


@dataclass(frozen=True)
class Preference:
    """Scores responses with each model; parts are the scores by name and what the task itself can tell.

    The part `cut` is 1 where a model could not read all of context and response.
    The context is the example's prompt, or its meta `context` where a prompt is an instruction with a text in it. It is
    plain text always: a policy's chat template is no business of the reward model.
    """

    config: Config
    check: Check
    scorers: Mapping[str, Classifier | RewardModel | Pooled]
    micro_batch: int

    def score(
        self, examples: Sequence[Example], responses: Sequence[str], truncated: Sequence[bool] = ()
    ) -> list[RewardParts]:
        """Score response n (without its prompt) as an answer to example n.

        Where a limit cut a response short makes no difference: these models learned whole texts, ours each with its end
        token, and say without one what nothing taught them (so that a policy is paid for rambling).
        """
        if not responses:
            return []
        contexts = [str(example.meta.get("context", example.prompt)) for example in examples]
        found = {name: self._component(name, contexts, responses) for name in self.config.components}
        return [RewardParts(
            sum(component.weight * found[name][0][row] for name, component in self.config.components.items()),
            {**{name: scores[row] for name, (scores, _) in found.items()},
             "cut": float(any(cut[row] for _, cut in found.values())), **self.check(response, example.meta)})
            for row, (example, response) in enumerate(zip(examples, responses, strict=True))]

    def _component(
        self, name: str, contexts: Sequence[str], responses: Sequence[str]
    ) -> tuple[list[float], list[bool]]:
        """Scores of the responses, and which were cut."""
        component: Component = self.config.components[name]
        score = self._of_ids if component.convention == "ids" else self._of_texts
        scores, cut = score(component, self.scorers[name], contexts, responses)
        return scores if self.config.decimals is None else [round(one, self.config.decimals) for one in scores], cut

    def _of_ids(
        self, component: Component, scorer: Any, contexts: Sequence[str], responses: Sequence[str]
    ) -> tuple[list[float], list[bool]]:
        from rlfamily.models.batching import Rows
        from rlfamily.models.reward_model import encode_texts, fitted

        whole = encode_texts(scorer.tokenizer, contexts, responses)
        rows, cut = zip(*(fitted(prompt, [ids], self.config.max_tokens)
                          for prompt, ids in zip(whole.prompts, whole.completions, strict=True)), strict=True)
        joined = Rows([row.prompts[0] for row in rows], [row.completions[0] for row in rows])
        return [score - scorer.bias for score in scorer.score_rows(joined, self.micro_batch)], list(cut)

    def _of_texts(
        self, component: Component, scorer: Any, contexts: Sequence[str], responses: Sequence[str]
    ) -> tuple[list[float], list[bool]]:
        from rlfamily.models.classifier import fitted_texts

        def arranged(contexts: Sequence[str], responses: Sequence[str]) -> tuple[list[str], list[str] | None]:
            return arrange(component.convention, contexts, responses, scorer.tokenizer)

        limit = min(self.config.max_tokens, scorer.tokenizer.model_max_length)
        kept, shortened, cut = fitted_texts(scorer.tokenizer, arranged, contexts, [one.strip() for one in responses],
                                            limit)
        texts, pairs = arranged(kept, shortened)
        return scorer.score(texts, pairs, component.logit, self.config.max_tokens, self.micro_batch), cut


def arrange(
    convention: Convention, contexts: Sequence[str], responses: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[str], list[str] | None]:
    """Texts, and the texts they are paired with, in the order a published model expects them."""
    from rlfamily.models.tokens import chat_text

    if convention == "pair":
        return list(contexts), list(responses)
    if convention == "response_then_context":
        return list(responses), list(contexts)
    both, bos = list(zip(contexts, responses, strict=True)), tokenizer.bos_token
    if convention == "continuation":
        return [f"{context} {response}{tokenizer.eos_token}" for context, response in both], None
    if convention == "chat":  # the tokenizer begins every text with BOS, the template as well
        chats = [[{"role": "user", "content": context}, {"role": "assistant", "content": response}]
                 for context, response in both]
        return [chat_text(tokenizer, chat, answered=True).removeprefix(bos or "") for chat in chats], None
    return [f"{response} {bos} {context}" for context, response in both], None


def load(
    config: Config, check: Check, models: Mapping[str, Path], device: torch.device, micro_batch: int,
    vllm: ClassifierEngine | None = None,
) -> Preference:
    """Load every component's model from its folder. Raises UserError when one cannot be loaded or lacks the logit."""
    scorers: dict[str, Classifier | RewardModel | Pooled] = {}
    for name, component in config.components.items():
        pooled = _pooled(name, config, models[name], vllm) if component.engine == "vllm" else None
        scorers[name] = scorer = pooled or _loaded(component, models[name], device)
        if component.logit >= scorer.logits:
            raise UserError(f"task.reward.components.{name}.logit={component.logit}: the model has {scorer.logits} "
                            "logits: give a smaller index")
    return Preference(config, check, scorers, micro_batch)


def _loaded(component: Component, folder: Path, device: torch.device) -> Classifier | RewardModel:
    from rlfamily.models import classifier, reward_model, scalar

    if component.convention == "ids":
        return reward_model.load_trained(folder, device)
    return scalar.load(folder, device) if scalar.is_scalar(folder) else classifier.load(folder, device)


def _pooled(name: str, config: Config, folder: Path, vllm: ClassifierEngine | None) -> Pooled | None:
    """The model in vLLM; None, once that is noted, where vLLM has no such model."""
    from rlfamily.models import classifier

    assert vllm is not None, "who loads a reward on vllm passes what opens it"
    ids = config.components[name].convention == "ids"
    found = classifier.load_pooled(folder, ids, vllm.open, None if ids else config.max_tokens)
    if isinstance(found, str):
        vllm.note(name, f"run by transformers, not by vllm: {found}")
        return None
    return found
