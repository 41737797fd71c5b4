"""Annotators of the package alpaca_eval (0.6.6): its prompts, its parsers, its order by chance. The calls are ours.

What the package does that does not last, or reaches beyond it, is kept from it here: see docs/alpaca_eval.md.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
import shutil
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rlfamily.errors import UserError, nearest
from rlfamily.judges import AlpacaEvalJudge, OpenChooser
from rlfamily.judges.cache import Replies
from rlfamily.judges.endpoint import choice_of, open_endpoint
from rlfamily.judges.pairwise import CHARACTERS_PER_TOKEN, Estimate, Pair
from rlfamily.judges.prompts import without_special

if TYPE_CHECKING:
    import torch

VERSION = "1"
PLACES = ("{instruction}", "{output_1}", "{output_2}")
SERVED = "openai_completions"
OPTIONS = {"max_tokens": 2048, "temperature": 0.7, "top_p": 1.0}  # defaults of the package's decoder
UNSENT = {"num_procs", "batch_size", "is_strip", "price_per_token", "sleep_time", "n_retries", "requires_chatml",
          "is_chat"}  # how the package calls; here settings of the judge say so
LOCAL = {"tokens_to_avoid", "tokens_to_favor", "client_kwargs", "client_config_path"}


@dataclass(frozen=True)
class Annotator:
    """Prefers one of two responses, by a number."""

    config: AlpacaEvalJudge

    def preferences(
        self, pairs: Sequence[Pair], cache: Replies, work: Path, announce: Callable[[Estimate], None],
        progress: Callable[[int, int], None],
    ) -> list[float | None]:
        """How much the annotator prefers ours, from 0 to 1, pair by pair; None where its reply could not be read.

        Theirs is the package's output_1, as references are. Equal responses are a tie about which nobody is asked.
        Raises UserError when the annotator cannot be had, or too many of its replies cannot be read.
        """
        caller = _Caller(self.config, cache, announce, progress)
        rows = [{"item": pair.item, "instruction": _text(pair.prompt), "output_1": _text(pair.theirs),
                 "output_2": _text(pair.ours)} for pair in pairs]
        with _package() as package:
            annotator = self._open(package, caller, work)
            said = annotator.annotate_pairs(rows, chunksize=None)
        found = {row["item"]: _preference(row["preference"]) for row in said}
        self._refuse_unreadable([found[row["item"]] for row in rows if row["output_1"] != row["output_2"]])
        return [found[pair.item] for pair in pairs]

    def _open(self, package: Any, caller: _Caller, work: Path) -> Any:
        path = self._path(Path(package.constants.EVALUATORS_CONFIG_DIR))
        _require_served(path)
        annotations = self._annotations(work)
        try:
            annotator = package.annotators.PairwiseAnnotator(annotators_config=str(path), caching_path=annotations)
        except FileNotFoundError as error:
            raise UserError(f"task.judge.annotator: there is no prompt at '{error.filename}': prompt_template counts "
                            f"from the folder above that of {path}") from error
        for name, single in annotator.annotators.items():
            if missing := [place for place in PLACES if place not in single.prompt_template]:
                raise UserError(f"task.judge.annotator: the prompt of '{name}' has no {missing[0]}: it must say where "
                                f"{', '.join(PLACES)} go")
            single.completions_kwargs |= {"model_name": self.config.model} if self.config.model else {}
            single.fn_completions = caller.complete
        return annotator

    def _path(self, known: Path) -> Path:
        """The annotator's yaml. Raises UserError when there is none."""
        own = Path(self.config.annotator)
        places = own, own / "configs.yaml", known / own / "configs.yaml"
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            names = sorted(path.parent.name for path in known.glob("*/configs.yaml"))
            raise UserError(f"task.judge.annotator: alpaca_eval has no annotator '{own}'{nearest(str(own), names)}, "
                            "and no such file is there: name one of its evaluators_configs, or a configs.yaml")
        return found.resolve()

    def _annotations(self, work: Path) -> str | None:
        """A copy of the annotations that there are: the package writes what is new to the file it reads."""
        given = self.config.annotations
        if given is None:
            return None
        if not Path(given).is_file():
            raise UserError(f"task.judge.annotations: there is no file '{given}': give annotations as alpaca_eval "
                            "writes them, or null")
        return str(shutil.copyfile(given, work / "annotations.json"))

    def _refuse_unreadable(self, asked: Sequence[float | None]) -> None:
        lost = sum(one is None for one in asked)
        if lost > self.config.max_unreadable * len(asked):
            raise UserError(f"judge {self.config.name}: {lost} of {len(asked)} replies are none that the annotator "
                            "can read: use a model that gives what its parser reads (often log-probs), or another "
                            "annotator")


@dataclass
class _Caller:
    """In the place of the package's decoder: asks the endpoint, keeps every reply at once, asks nothing twice."""

    config: AlpacaEvalJudge
    cache: Replies
    announce: Callable[[Estimate], None]
    progress: Callable[[int, int], None]

    def complete(self, prompts: Sequence[str], model_name: str, **options: Any) -> dict[str, list[Any]]:
        """What the package's decoders return."""
        if unknown := sorted(LOCAL & options.keys()):
            raise UserError(f"task.judge.annotator: it sets {unknown[0]}, which only the package's own calls know: use "
                            "another annotator")
        # Newer models want their bound under its newer name, and refuse the older one beside it.
        left_out = UNSENT | ({"max_tokens"} if "max_completion_tokens" in options else set())
        said = {name: value for name, value in (OPTIONS | options).items() if value is not None}
        kept = {name: value for name, value in said.items() if name not in left_out}
        requests = [{"model": model_name, "messages": _messages(prompt), **kept} for prompt in prompts]
        replies = self._replies(requests)
        return {"completions": [reply["text"] for reply in replies], "completions_all": replies,
                "price_per_example": [0.0] * len(replies), "time_per_example": [0.0] * len(replies)}

    def _replies(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        found = [self.cache.get(request) for request in requests]
        missing = [index for index, reply in enumerate(found) if reply is None]
        self.announce(self._estimate([requests[index] for index in missing], len(requests) - len(missing)))
        if missing:
            endpoint = open_endpoint(self.config.name, self.config)
            replies = endpoint.replies([requests[index] for index in missing], _reply)
            for count, (place, reply) in enumerate(replies, 1):
                found[missing[place]] = reply
                self.cache.put(requests[missing[place]], reply)
                self.progress(count, len(missing))
        return [reply for reply in found if reply is not None]

    def _estimate(self, missing: Sequence[dict[str, Any]], cached: int) -> Estimate:
        texts = (message["content"] for request in missing for message in request["messages"])
        tokens_in = sum(map(len, texts)) // CHARACTERS_PER_TOKEN
        bounds = [{"max_tokens": 0, "max_completion_tokens": 0} | request for request in missing]
        tokens_out = sum(max(bound["max_tokens"], bound["max_completion_tokens"]) for bound in bounds)
        dollars = self.config.dollars(tokens_in, tokens_out) if missing else 0.0
        return Estimate(len(missing), cached, tokens_in, tokens_out, dollars)


def load(
    config: AlpacaEvalJudge, model: Path | None, device: torch.device | None, vllm: OpenChooser | None = None
) -> Annotator:
    """Make the annotator; its package is imported, and its model asked, when something is to be judged."""
    return Annotator(config)


def _text(text: str) -> str:
    """A text that stays where it is put: no end of a turn, and no place of the prompt that another text would fill."""
    text = without_special(text)
    for place in PLACES:
        text = text.replace(place, f"{{ {place[1:]}")
    return text


def _messages(prompt: str) -> list[dict[str, str]]:
    from alpaca_eval import utils

    if not prompt.strip().startswith("<|im_start|>"):
        raise UserError("task.judge.annotator: its prompt is for a model that completes text, not for a chat model: "
                        "use another annotator")
    messages: list[dict[str, str]] = utils.prompt_to_chatml(prompt)
    return messages


def _reply(body: Any) -> dict[str, Any]:
    """A chat completion's first choice with its text, as the package's decoder has it. Raises ValueError for none."""
    choice = choice_of(body)
    if not isinstance(choice, dict):
        return {"text": " "}
    found = choice.get("message")
    message = found if isinstance(found, dict) else {}
    calls = [call["function"] for call in message.get("tool_calls") or ()] + [message.get("function_call")]
    text = next((call["arguments"] for call in calls if call), message.get("content"))
    return choice | {"text": text if isinstance(text, str) and text else " "}


def _preference(said: Any) -> float | None:
    """From the package's scale, 1 (theirs) to 2 (ours), to a share."""
    return None if said is None or math.isnan(said) else float(said) - 1


def _require_served(path: Path) -> None:
    """Raises UserError for annotators that ask otherwise than through an endpoint."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
        asking = {name: settings.get("fn_completions", SERVED) for name, settings in content.items()}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
        raise UserError(f"task.judge.annotator: cannot read '{path}' as annotators by name: "
                        f"{' '.join(str(error).split())}") from error
    for name, decoder in asking.items():
        if decoder != SERVED:
            raise UserError(f"task.judge.annotator: '{name}' asks through {decoder}: only {SERVED} is served here, at "
                            "any task.judge.base_url")


@contextmanager
def _package() -> Iterator[Any]:
    """The package, which sets the root logger's level when it is imported, and asks for a pkg_resources that is gone.

    Raises UserError when it is not there.
    """
    root, module = logging.getLogger(), "pkg_resources"
    level, stood_in = root.level, False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
        try:
            try:
                __import__(module)
            except ImportError:
                sys.modules[module], stood_in = _pkg_resources(), True
            import alpaca_eval

            yield alpaca_eval
        except ImportError as error:
            raise UserError(f"task.judge.kind=alpaca_eval: the package cannot be imported ({error}): run make setup"
                            ) from error
        finally:
            root.setLevel(level)
            if stood_in:
                del sys.modules[module]


def _pkg_resources() -> types.ModuleType:
    """The two functions that the package wants of it; setuptools 82 left it out."""
    from packaging.version import parse

    found = types.ModuleType("pkg_resources")
    found.__dict__["parse_version"] = parse
    found.__dict__["get_distribution"] = lambda name: types.SimpleNamespace(version=importlib.metadata.version(name))
    return found
