"""What a decoder works with: the policy, what guides it, and requests for a response each. See `decoding.Bench`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rlfamily.decoding import Cost, Guide
from rlfamily.examples import Example
from rlfamily.rollout import Completion, Engine, SamplingParams
from rlfamily.rollout.beams import GrownBeams, chance
from rlfamily.rollout.followers import Follower, Tokens

Follow = Callable[[Sequence["Request"]], Follower]
"""A row for each of these requests, empty, scored by a guide."""

Rate = Callable[[Sequence["Request"], Sequence[Completion]], list[float]]
"""What a guide says of whole responses."""

Draw = Callable[[Sequence["Request"], int], list[list[Completion]]]
"""So many whole responses of the policy to each request."""

Answer = Callable[[Example, Tokens], str | None]
"""What a response answers, in a form in which equal answers are equal."""


@dataclass(frozen=True)
class Request:
    """A response that is wanted: to the prompt of `example`, by the streams of chance from `stream` on.

    `item` is the example's place in its split, `place` that of the request among all responses to its example.
    """

    item: int
    example: Example
    prompt: list[int]
    stream: int
    place: int


@dataclass(frozen=True)
class Guidance:
    """What tells how good rows are: how to follow them, to rate whole ones, and how many models are asked each time."""

    follow: Follow
    rate: Rate
    models: int


@dataclass
class EngineBench:
    """`Bench` over an engine. `costs` are what each request took so far."""

    engine: Engine
    params: SamplingParams
    asked: Sequence[Request]
    guides: Mapping[Guide, Guidance]
    samples: Draw
    answer: Answer
    costs: list[Cost] = field(init=False)

    def __post_init__(self) -> None:
        self.costs = [Cost() for _ in self.asked]

    @property
    def greedy(self) -> bool:
        """The policy's likeliest tokens are taken in place of drawn ones."""
        return self.params.greedy

    @property
    def temperature(self) -> float:
        """What the policy's logits are divided by."""
        return self.params.temperature

    @property
    def top_p(self) -> float:
        """The share of the likeliest tokens that is drawn from."""
        return self.params.top_p

    def room(self, request: int) -> int:
        """The most tokens that the response can have."""
        return self.params.room(self.asked[request].prompt)

    @property
    def requests(self) -> int:
        """How many responses are wanted."""
        return len(self.asked)

    def draw(self, count: int) -> list[list[Completion]]:
        """`count` whole responses to each request."""
        drawn = self.samples(self.asked, count)
        for cost, some in zip(self.costs, drawn, strict=True):
            cost.drew(sum(len(one.ids) for one in some))
        return drawn

    def grow(self, width: int, guide: Guide) -> GrownBeams:
        """`width` empty rows for each request, and what scores them."""
        rows = [request for request in self.asked for _ in range(width)]
        streams = [request.stream + slot for request in self.asked for slot in range(width)]
        growth = self.engine.grow([request.prompt for request in rows], self.params, streams)
        guidance = self.guides[guide]
        return GrownBeams(growth, width, [request.stream for request in self.asked],
                          lambda: guidance.follow(rows), self.costs, guide, guidance.models)

    def rate(self, guide: Guide, answers: Sequence[Sequence[Completion]]) -> list[list[float]]:
        """What the guide says of whole responses to each request. Each different one is asked about once."""
        different = {(place, tuple(one.ids)): one for place, some in enumerate(answers) for one in some}
        guidance = self.guides[guide]
        scores = guidance.rate([self.asked[place] for place, _ in different], list(different.values()))
        told = dict(zip(different, scores, strict=True))
        for place, _ in different:
            self.costs[place].asked(guide, guidance.models)
        return [[told[place, tuple(one.ids)] for one in some] for place, some in enumerate(answers)]

    def verdicts(self, answers: Sequence[Sequence[Completion]]) -> list[list[str | None]]:
        """What each response answers, in a form in which equal answers are equal; None where it has no answer."""
        return [[self.answer(request.example, one.ids) for one in some]
                for request, some in zip(self.asked, answers, strict=True)]

    def chance(self, request: int, number: int) -> float:
        """A number between 0 and 1 of the request's own stream, for what is not a token."""
        return chance(self.asked[request].stream, number)
