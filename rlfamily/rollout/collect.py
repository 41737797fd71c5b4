"""Engine + task + reward: prompts in, groups of scored responses out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlfamily.examples import Example, select_prompts
from rlfamily.models.tokens import encode_example, prompt_ids, raw_ids
from rlfamily.place import Place
from rlfamily.records import LEFT_OUT
from rlfamily.rewards import Reward, RewardParts
from rlfamily.rollout import Completion, Engine, SamplingParams
from rlfamily.settings import Distribution, Limits
from rlfamily.tasks import Lesson


@dataclass(frozen=True)
class Group:
    """The K responses of one prompt, their texts and their reward parts, in the order drawn."""

    example: Example
    prompt_ids: list[int]
    completions: list[Completion]
    texts: list[str]
    parts: list[RewardParts]


def collect(
    engine: Engine, tokenizer: PreTrainedTokenizerBase, reward: Reward, examples: Sequence[Example],
    group_size: int, params: SamplingParams, seed_of: Callable[[Example], int],
) -> list[Group]:
    """Draw `group_size` responses for each example; draw k of an example uses the stream `seed_of(example) + k`."""
    prompts = [encode_example(tokenizer, example) for example in examples]
    drawn = engine.generate(prompts, params, [seed_of(example) for example in examples], group_size)
    texts = decode(tokenizer, [completion.ids for completion in drawn])
    parts = reward.score([example for example in examples for _ in range(group_size)], texts,
                         [completion.truncated for completion in drawn])
    spans = [slice(index * group_size, (index + 1) * group_size) for index in range(len(examples))]
    return [Group(example, prompt, drawn[span], texts[span], parts[span])
            for example, prompt, span in zip(examples, prompts, spans, strict=True)]


def training_prompts(
    place: Place, data: Path, lesson: Lesson, tokenizer: PreTrainedTokenizerBase, seed: int
) -> list[Example]:
    """What a run takes of the training prompts; those that leave no room for a response are noted as left out."""
    chosen, long = select_prompts(data, lesson.prompts, seed, lesson.fewer_prompts,
                                  lambda example: len(encode_example(tokenizer, example)) < lesson.limits.max_tokens)
    if long:
        place.notes[LEFT_OUT] = {"training prompts that leave no room for a response": long}
    return chosen


def sampling_params(mode: str, distribution: Distribution, limits: Limits) -> SamplingParams:
    """How responses are drawn; `mode` is sample or greedy."""
    return SamplingParams(mode == "greedy", distribution.temperature, limits.max_tokens, limits.min_new_tokens,
                          limits.max_new_tokens, distribution.top_k, distribution.top_p,
                          distribution.repetition_penalty, distribution.no_repeat_ngram)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a plain prompt, as its model was trained to see one: with BOS where the tokenizer puts it."""
    return prompt_ids(tokenizer, text)


def encode_completion(tokenizer: PreTrainedTokenizerBase, text: str, room: int) -> list[int]:
    """Token ids of a response that ends properly: EOS appended, then cut to `room` tokens."""
    ids = raw_ids(tokenizer, text)
    return [*ids, int(tokenizer.eos_token_id)][:room]


def decode(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]) -> list[str]:
    """Texts of responses, special tokens left out."""
    return [str(tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in rows]
