"""A finished policy that draws: through a decoder, with what guides it, and with the pool of its plain samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from rlfamily import decoding
from rlfamily.decoding import Cost, Decoded, Guide, plain
from rlfamily.evaluation.guides import GuideFolders, Opener
from rlfamily.evaluation.pool import Pool
from rlfamily.examples import Example
from rlfamily.models import Finetuning, sharding
from rlfamily.models.policy import load_ends
from rlfamily.models.tokens import encode_example
from rlfamily.place import Place
from rlfamily.rollout import Completion, Engine, SamplingParams
from rlfamily.rollout.bench import EngineBench, Guidance, Request
from rlfamily.rollout.collect import decode, sampling_params
from rlfamily.rollout.engines import frozen
from rlfamily.rollout.settings import Generation, Guiding
from rlfamily.stamp import stamp

CHUNK = 64  # prompts between two progress notes
AnyBench = TypeVar("AnyBench", bound=EngineBench)


def params_of(settings: Generation, mode: str) -> SamplingParams:
    """How held-out responses are drawn; `mode` is sample or greedy."""
    return sampling_params(mode, settings.distribution, settings.limits)


@dataclass(frozen=True)
class Prompts:
    """Examples by their place in a split of the artifact `data`, and the stream of each one's first draw.

    `split` names all that streams depend on besides the example: what one seed drew is no sample of another.
    """

    data: str
    split: str
    examples: Mapping[int, Example]
    seed_of: Callable[[Example], int]


@dataclass(frozen=True)
class Sampler:
    """The finished policy in folder `model`, which draws. It is loaded when the first response is asked for.

    `version` is that of what draws; `guiding` and `folders` are there where the decoder asks for guides. `finalists`
    asks for what responses were chosen from.
    """

    place: Place
    model: Path
    finetuning: Finetuning
    settings: Generation
    version: str = ""
    guiding: Guiding | None = None
    folders: GuideFolders = field(default_factory=GuideFolders)
    finalists: bool = False

    @cached_property
    def _opened(self) -> tuple[Engine, PreTrainedTokenizerBase]:
        """Engine and tokenizer. Raises UserError when the engine cannot be had."""
        device = sharding.accelerator(self.place.hardware).device
        return frozen(self.model, self.finetuning, device, self.settings.engine, self.place,
                      self.settings.limits.max_tokens)

    @cached_property
    def _opener(self) -> Opener:
        return Opener(self.place, self.settings.decoding, self.guiding, self.folders, self.finetuning,
                      sharding.accelerator(self.place.hardware).device, self._opened[1],
                      frozenset(load_ends(self.model)))

    @cached_property
    def _guides(self) -> dict[Guide, Guidance]:
        return self._opener.guides()

    @cached_property
    def _plain_pools(self) -> dict[tuple[str, str], Pool]:
        """Pools of plain samples, each read once, by data and split."""
        return {}

    def pool(self, prompts: Prompts, plainly: bool = False) -> Pool:
        """Where what was drawn to these prompts is kept: by this decoder with these guides, or `plainly`."""
        chosen = plain.Config(kind="plain") if plainly else self.settings.decoding
        settings = self.settings.model_copy(update={"decoding": chosen})
        content: dict[str, Any] = {
            "policy": self.model.parent.name, "data": prompts.data, "version": self.version,
            "dtype": self.finetuning.dtype, **settings.model_dump(mode="json", exclude={"prompts", "draws", "greedy"})}
        if prompts.split != "test":
            content["split"] = prompts.split
        if decoding.get(chosen.kind).asks(chosen):
            content["guides"] = {
                what: {name: folder.name for name, folder in getattr(self.folders, what).items()}
                for what in ("rewards", "values", "pair")}
            content["guiding"] = self.guiding.model_dump(mode="json") if self.guiding else None
        if self.finalists and not plainly:
            content["finalists"] = True
        return Pool.at(self.place.shared, content, stamp(decoding.get(chosen.kind)))

    def rows(self, prompts: Prompts, mode: str, draws: int, pool: Pool) -> Iterator[dict[str, Any]]:
        """`draws` responses to each example as rows, with progress; drawn as far as the pool lacks them."""
        places = list(prompts.examples)
        for start in range(0, len(places), CHUNK):
            items = places[start:start + CHUNK]
            self.place.progress(start, len(places), mode)
            lacking = [(item, draw) for item in items for draw in range(draws) if not pool.has(mode, item, draw)]
            for part in self._batches(lacking):
                pool.add([self._row(mode, *asked, one)
                          for asked, one in zip(part, self.draw(prompts, mode, part), strict=True)])
            for item in items:
                for draw in range(draws):
                    yield {"prompt": prompts.examples[item].prompt, **pool.row(mode, item, draw)}

    def draw(self, prompts: Prompts, mode: str, wanted: Sequence[tuple[int, int]]) -> list[Decoded]:
        """A response for each (item, draw)."""
        config, bench = self.settings.decoding, self.bench(prompts, mode, wanted, EngineBench)
        chosen = decoding.get(config.kind).decode(config, bench)
        return [Decoded(one.completion, cost, one.finalists) for one, cost in zip(chosen, bench.costs, strict=True)]

    def bench(
        self, prompts: Prompts, mode: str, wanted: Sequence[tuple[int, int]], make: type[AnyBench]
    ) -> AnyBench:
        """What the decoder works with, for a response for each (item, draw)."""
        return make(self._opened[0], params_of(self.settings, mode), self._requests(prompts, wanted), self._guides,
                    lambda requests, count: self._samples(prompts, mode, requests, count), self._opener.answer())

    def texts(self, drawn: Sequence[Completion]) -> list[str]:
        """What was said."""
        return decode(self._opened[1], [one.ids for one in drawn])

    def _row(self, mode: str, item: int, draw: int, one: Decoded) -> dict[str, Any]:
        """A response as the pool keeps it."""
        finalists = {"finalists": [{"ids": other.ids, "truncated": other.truncated} for other in one.finalists]}
        return {"mode": mode, "item": item, "draw": draw, "response": self.texts([one.completion])[0],
                "ids": one.completion.ids, "truncated": one.completion.truncated, **one.cost.counters(),
                **(finalists if self.finalists else {})}

    def _batches(self, wanted: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
        """What is drawn together: as many rows as an engine takes at once, where they grow side by side."""
        rows = self.settings.decoding.rows
        size = max(1, len(wanted) if rows == 1 else self.place.hardware.rollout_batch // rows)
        for start in range(0, len(wanted), size):
            yield wanted[start:start + size]

    def _requests(self, prompts: Prompts, wanted: Sequence[tuple[int, int]]) -> list[Request]:
        streams, tokenizer = self.settings.decoding.streams, self._opened[1]
        encoded = {item: encode_example(tokenizer, prompts.examples[item]) for item, _ in wanted}
        return [Request(item, prompts.examples[item], encoded[item],
                        prompts.seed_of(prompts.examples[item]) + draw * streams, draw) for item, draw in wanted]

    def _samples(
        self, prompts: Prompts, mode: str, requests: Sequence[Request], count: int
    ) -> list[list[Completion]]:
        """`count` plain samples for each request: of those that its draw is made of, from their pool."""
        wanted = [(request.item, request.place * count + number) for request in requests for number in range(count)]
        if self.settings.decoding.kind == "plain":
            return [[one] for one in self._drawn(prompts, mode, wanted)]
        place = prompts.data, prompts.split
        if place not in self._plain_pools:
            self._plain_pools[place] = self.pool(prompts, plainly=True)
        pool = self._plain_pools[place]
        lacking = [one for one in wanted if not pool.has(mode, *one)]
        drawn = self._drawn(prompts, mode, lacking)
        pool.add(self._row(mode, *one, Decoded(completion, Cost(len(completion.ids), len(completion.ids))))
                 for one, completion in zip(lacking, drawn, strict=True))
        known = [_completion(pool.row(mode, *one)) for one in wanted]
        return [known[start:start + count] for start in range(0, len(known), count)]

    def _drawn(self, prompts: Prompts, mode: str, wanted: Sequence[tuple[int, int]]) -> list[Completion]:
        """Plain samples: draw d of an item is drawn by the item's stream plus d, whatever is drawn beside it."""
        engine, tokenizer = self._opened
        items = list(dict.fromkeys(item for item, _ in wanted))
        if not wanted:
            return []
        examples = [prompts.examples[item] for item in items]
        encoded = [encode_example(tokenizer, example) for example in examples]
        copies, first, params = len(wanted) // len(items), wanted[0][1], params_of(self.settings, mode)
        if list(wanted) == [(item, first + copy) for item in items for copy in range(copies)]:
            return engine.generate(encoded, params, [prompts.seed_of(example) + first for example in examples], copies)
        of = dict(zip(items, encoded, strict=True))
        return engine.generate([of[item] for item, _ in wanted], params,
                               [prompts.seed_of(prompts.examples[item]) + draw for item, draw in wanted])


def _completion(row: Mapping[str, Any]) -> Completion:
    return Completion(row["ids"], [], row["truncated"])
