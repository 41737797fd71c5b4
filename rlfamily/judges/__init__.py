"""Judges: which of two responses to one prompt is better (GN-IVO Table 3). `pairwise` asks in both orders and counts.

The file system is the registry: `get("openai")` imports `rlfamily/judges/openai.py`, which offers a `load`. Nothing
here imports torch or a client library before a judge is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field

from rlfamily.plugins import Plugins
from rlfamily.settings import Location, Strict, Url

if TYPE_CHECKING:
    import torch

Answer = Literal["first", "second", "tie", "unreadable"]

Choose = Callable[[Sequence[Sequence[int]], Sequence[int]], list[int]]
"""(prompts as token ids, ids to choose among) to the position of the likeliest next token of each prompt."""

OpenChooser = Callable[[Path, str, int], Choose]
"""(model's folder, precision, longest prompt in tokens) to what chooses; made by who knows the engine."""


class JudgeSettings(Strict):
    """What every judge's settings hold.

    `prompt` is the built-in form of the question: ours, answered [[A]], [[B]] or [[C]], with `criterion` as what is
    asked, or rpo, that of RPO section IV.B, answered A, B or Neutral, which reads no criterion. `prompt_file` (a path,
    or null) replaces its text, not how it is answered. Both orders of two responses are asked; of each of `orders`
    draws (0: none) one of the two, by chance, decides alone as well. A judge whose answers cannot be read in more than
    `max_unreadable` of the questions is refused.
    """

    prompt: Literal["ours", "rpo"]
    criterion: str
    prompt_file: Location | None
    orders: int = Field(ge=0)
    max_unreadable: float = Field(ge=0, le=1)

    @property
    def name(self) -> str:
        """How tables call this judge."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """What an answer depends on besides the text of the question: part of the name of a cached answer."""
        raise NotImplementedError

    def form(self) -> dict[str, Any]:
        """How answers are read, for `identity`; nothing for our own form, so that old answers stay."""
        return {} if self.prompt == "ours" else {"prompt": self.prompt}


class Remote(Strict):
    """An OpenAI-compatible endpoint; its key is OPENAI_API_KEY of the environment.

    `base_url` null is the library's own default. A failing call is repeated `retries` times with growing waits;
    `parallel` calls are out at once. Prices are dollars per million tokens, 0 when not known; they serve the estimate
    only.
    """

    base_url: Url | None
    retries: int = Field(ge=0)
    timeout_seconds: float = Field(gt=0)
    parallel: int = Field(gt=0)
    price_input: float = Field(ge=0)
    price_output: float = Field(ge=0)

    def dollars(self, tokens_in: int, tokens_out: int) -> float | None:
        """What so many tokens cost; None when no price is known."""
        known = self.price_input or self.price_output
        return (tokens_in * self.price_input + tokens_out * self.price_output) / 1e6 if known else None


class OpenAiJudge(JudgeSettings, Remote):
    """A chat model behind an endpoint.

    `temperature` and `max_output_tokens` null leave the setting out of the request.
    """

    kind: Literal["openai"]
    model: str
    temperature: float | None = Field(ge=0)
    max_output_tokens: int | None = Field(gt=0)

    @property
    def name(self) -> str:
        """The model's name, with its endpoint when it is not the default one."""
        return self.model if self.base_url is None else f"{self.model} at {self.base_url}"

    def identity(self) -> dict[str, Any]:
        """The model, its endpoint, and how it is sampled."""
        return self.form() | self.model_dump(include={"kind", "model", "base_url", "temperature", "max_output_tokens"})


class CausalLmJudge(JudgeSettings):
    """A local causal language model: the most probable of the three answers by its first token, in one forward pass.

    `path` and `revision` as for any hub model; `batch` questions are read together. `engine` does the reading:
    transformers in fp32 on CPUs and bf16 on GPUs, or vllm in the same precision.
    """

    kind: Literal["causal_lm"]
    engine: Literal["torch", "vllm"]
    path: Location
    revision: str
    batch: int = Field(gt=0)

    @property
    def name(self) -> str:
        """The model's hub id or folder name."""
        return self.path if self.revision == "main" else f"{self.path}@{self.revision}"

    def identity(self) -> dict[str, Any]:
        """The model at its revision, and what reads it: engines agree but for near ties."""
        return self.form() | self.model_dump(include={"kind", "engine", "path", "revision"})


class StandInJudge(JudgeSettings):
    """Not a language model: compares the hidden gold rewards of a stand-in task, with noise and a band of ties.

    `noise` is the standard deviation of what is added to the difference of the golds, fixed by `seed` and the question;
    `length_bias` is added for each word that one response has more than the other. Differences within `tie_band` are
    ties. `label` (null: none) says for whom it stands.
    """

    kind: Literal["stand_in"]
    label: str | None
    seed: int = Field(ge=0)
    noise: float = Field(ge=0)
    length_bias: float = Field(ge=0)
    tie_band: float = Field(ge=0)

    @property
    def name(self) -> str:
        """Says that it is a stand-in, and for whom."""
        for_whom = f" for {self.label}" if self.label else ""
        biased = f", {self.length_bias:g} a word" if self.length_bias else ""
        return f"stand-in judge{for_whom} (hidden gold reward, noise {self.noise:g}{biased})"

    def identity(self) -> dict[str, Any]:
        """Everything that decides an answer."""
        return self.model_dump(include={"kind", "seed", "noise", "length_bias", "tie_band"})


class AlpacaEvalJudge(Remote):
    """An annotator of the package alpaca_eval: its prompt and its parser, asked once a pair in an order by chance.

    `annotator` is a folder of the package's evaluators_configs, or a configs.yaml of one's own; `model` (null: the
    annotator's own) is who is asked. `annotations` (a file as the package writes them, or null) are not asked for
    again. More unreadable replies than `max_unreadable` refuse the judge.
    """

    kind: Literal["alpaca_eval"]
    annotator: Location
    model: str | None
    annotations: Location | None
    max_unreadable: float = Field(ge=0, le=1)

    @property
    def name(self) -> str:
        """The annotator, with its model and endpoint where they are not its own."""
        path = Path(self.annotator)
        own = path.parent.name or path.stem if path.suffix in (".yaml", ".yml") else path.name
        asked = f" asking {self.model}" if self.model else ""
        return f"{own}{asked}{f' at {self.base_url}' if self.base_url else ''}"

    def identity(self) -> dict[str, Any]:
        """What a reply depends on besides the request."""
        return self.model_dump(include={"kind", "base_url"})


JudgeConfig = Annotated[OpenAiJudge | CausalLmJudge | StandInJudge | AlpacaEvalJudge, Field(discriminator="kind")]


@dataclass(frozen=True)
class Question:
    """Two responses to compare, in the order shown. `gold` holds their hidden rewards, for the stand-in alone, and
    `words` how long they are.
    """

    text: str
    gold: tuple[float, float] | None
    words: tuple[int, int] = (0, 0)


class Judge(Protocol):
    """Anything that answers questions."""

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Yield (index of the question, answer) as answers come, in any order, each index once.

        Raises UserError when the judge cannot be reached.
        """
        ...


class JudgeModule(Protocol):
    """What a module in this folder offers."""

    VERSION: str

    def load(
        self, config: Any, model: Path | None, device: torch.device | None, vllm: OpenChooser | None = None
    ) -> Any:
        """Make the judge, a `Judge` but for alpaca_eval's annotators; the rest is for judges that run here.

        Raises UserError when it cannot be had.
        """
        ...


JUDGES = Plugins[JudgeModule]("judges", "task.judge.kind", "judge", ("pairwise", "prompts", "cache", "endpoint"))
names, get = JUDGES.names, JUDGES.get
