"""Inference-time methods: one file each, with a `Config` and a `decode`; which is used is the group `decoding`.

The file system is the registry: `get("plain")` imports `rlfamily/decoding/plain.py`. A method holds its rule only:
sampling, caches, batching, scoring and counting are the bench's. Any policy, trained or not, meets any decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self

from pydantic import SerializeAsAny

from rlfamily.plugins import Plugins
from rlfamily.settings import Strict, by_kind

if TYPE_CHECKING:
    from rlfamily.rollout import Completion

Guide = Literal["values", "rewards", "pair"]
"""What tells how good a response is, or a part of one: value functions, the task's reward, a tuned model beside an
untuned one."""

Asked = Guide | Literal["answers"]
"""What a decoder may ask: a guide, or what the task takes for an answer."""

Engaged = Literal["parts", "options", "pauses"]
"""What a decoder has of an engine beside whole responses: parts of them, what may come next, or parts that end where a
policy is unsure of what comes next, each row's apart from the others'."""


class DecodingConfig(Strict):
    """Common part of every decoder's Config: its file in this folder."""

    kind: str

    @property
    def rows(self) -> int:
        """How many rows grow at once for a response."""
        return 1

    @property
    def streams(self) -> int:
        """How many streams of chance a response draws by: the next response begins behind them."""
        return self.rows

    @property
    def engages(self) -> Engaged | None:
        """What it has of the engine that draws; None: whole responses alone."""
        return None

    def unsourced(self) -> Self:
        """How responses are made; where the models that guide them come from is left out."""
        return self


@dataclass
class Cost:
    """What one response took: tokens that were generated (those thrown away too), sequences that the policy was passed
    forward to draw one more token, and questions to value functions (a pair of models are two) and to rewards.
    """

    tokens: int = 0
    forwards: int = 0
    value_queries: int = 0
    reward_queries: int = 0

    def drew(self, tokens: int) -> None:
        """The policy drew so many tokens, each of which took a sequence forward."""
        self.tokens += tokens
        self.forwards += tokens

    def asked(self, guide: Guide, questions: int) -> None:
        """A guide answered so many questions, a model each."""
        if guide == "rewards":
            self.reward_queries += questions
        else:
            self.value_queries += questions

    def counters(self) -> dict[str, int]:
        """As fields of a row, by name."""
        return {f"cost_{name}": count for name, count in asdict(self).items()}


@dataclass(frozen=True)
class Decoded:
    """One response and its cost; `finalists` are those that it was chosen from, where they were drawn for it."""

    completion: Completion
    cost: Cost
    finalists: Sequence[Completion] = field(default=())


@dataclass(frozen=True)
class Pause:
    """Where a row waits: once it has `least` more tokens, where what comes next has an entropy of `entropy` nats."""

    least: int
    entropy: float


class Beams(Protocol):
    """Rows that grow, `width` to each of the bench's requests, a request's together. Lists are of all rows in order."""

    width: int

    @property
    def running(self) -> list[bool]:
        """Which rows can grow: they met neither their end nor a limit."""
        ...

    def draw(self, most: int | None = None, rows: Sequence[int] | None = None, pause: Pause | None = None) -> None:
        """Draw up to `most` tokens for each running row, or for those of `rows` alone, while others wait."""
        ...

    def select(self, index: Sequence[int]) -> None:
        """Make row n what row `index[n]` was, for all rows; each goes on drawing by its own stream."""
        ...

    def restart(self, rows: Sequence[int], number: int) -> None:
        """Let rows draw by the streams of attempt `number` from now on."""
        ...

    def scores(self) -> list[float]:
        """What the guide says of each row as it is. Each is asked about once."""
        ...

    def options(self, count: int) -> tuple[list[list[int]], list[list[float]]]:
        """The `count` likeliest next tokens of each running row under the policy itself, and their log-probs."""
        ...

    def weigh(self, options: Sequence[Sequence[int]]) -> list[list[float]]:
        """What the guide says of each running row with each of these tokens behind it."""
        ...

    def append(self, choice: Sequence[int]) -> None:
        """Each running row takes the token that it was weighed with at this place of its options."""
        ...

    def chances(self) -> list[float]:
        """A number between 0 and 1 of each running row's stream, for its next token."""
        ...

    def completions(self) -> list[Completion]:
        """The rows as they are."""
        ...


class Bench(Protocol):
    """What a decoder works with: requests for a response each, the policy, what guides it; all that is asked counts."""

    @property
    def greedy(self) -> bool:
        """The policy's likeliest tokens are taken in place of drawn ones."""
        ...

    @property
    def temperature(self) -> float:
        """What the policy's logits are divided by."""
        ...

    @property
    def top_p(self) -> float:
        """The share of the likeliest tokens that is drawn from."""
        ...

    @property
    def requests(self) -> int:
        """How many responses are wanted."""
        ...

    def room(self, request: int) -> int:
        """The most tokens that the response can have."""
        ...

    def draw(self, count: int) -> list[list[Completion]]:
        """`count` whole responses to each request, from the pool of samples as far as it has them."""
        ...

    def grow(self, width: int, guide: Guide) -> Beams:
        """`width` empty rows for each request, and what scores them."""
        ...

    def rate(self, guide: Guide, answers: Sequence[Sequence[Completion]]) -> list[list[float]]:
        """What the guide says of whole responses to each request. Each different one is asked about once."""
        ...

    def verdicts(self, answers: Sequence[Sequence[Completion]]) -> list[list[str | None]]:
        """What each response answers, in a form in which equal answers are equal; None where it has no answer."""
        ...

    def chance(self, request: int, number: int) -> float:
        """A number between 0 and 1 of the request's own stream `number`."""
        ...


class Decoder(Protocol):
    """What a module in this folder offers. VERSION is changed by hand when its numbers change.

    MODES   which kinds of responses it gives: drawn ones (`sample`), and one without chance (`greedy`)
    """

    VERSION: str
    MODES: tuple[str, ...]
    Config: type[DecodingConfig]

    def asks(self, config: Any) -> frozenset[Asked]:
        """What it asks."""
        ...

    def decode(self, config: Any, bench: Bench) -> list[Choice]:
        """A response to each request."""
        ...


@dataclass(frozen=True)
class Choice:
    """What a decoder returns for a request; `finalists` are those that the response was chosen from."""

    completion: Completion
    finalists: Sequence[Completion] = field(default=())


DECODERS = Plugins[Decoder]("decoding", "decoding.kind", "decoder", ("choosing", "guided", "pairs", "search", "tokens"))
names, get = DECODERS.names, DECODERS.get


AnyDecoding = Annotated[SerializeAsAny[DecodingConfig], by_kind(lambda kind: get(kind).Config)]
