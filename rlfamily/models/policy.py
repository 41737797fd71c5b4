"""A policy: a language model with its tokenizer, its precision and, if asked, its adapters and its values."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from rlfamily import core
from rlfamily.errors import UserError
from rlfamily.models import Family, Finetuning
from rlfamily.models.adapters import adapt
from rlfamily.models.batching import Forward, RowTensors
from rlfamily.models.families import auto_class, family_of, say_untied
from rlfamily.models.layouts import layout_of
from rlfamily.models.layouts.calls import added_tokens
from rlfamily.models.layouts.declared import positions
from rlfamily.models.loaded import Loaded
from rlfamily.models.sharded import is_sharded, whole, whole_model
from rlfamily.models.tokens import DATE, end_ids
from rlfamily.models.values import Critic, States, ValueOf, critic_on

# Besides cluttering logs, the bars share one lock between forked processes: a worker killed while it holds the lock
# would leave every later worker waiting for it.
transformers_logging.disable_progress_bar()

POINTER = "pointer.json"


class Policy(Loaded):
    """Model and tokenizer on a device. `evaluate` gives completion log-probs; `save` writes a loadable folder."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: str, device: torch.device
    ) -> None:
        super().__init__(model, tokenizer, dtype, device)
        self.layout = layout_of(self)
        self.positions = positions(model.config, added=added_tokens(model, self.layout.ends))
        self.stop_ids = end_ids(tokenizer, getattr(model, "generation_config", None))
        self.critic: Critic | None = None

    def add_value_head(
        self, of: ValueOf = "token", apart: bool = False, width: int | None = None, seed: int | None = None
    ) -> None:
        """Let `evaluate` give values, `values_NT` of tokens or `prompt_values_N` of prompts, in fp32, all 0 at first.

        `apart`: of the states of a copy of the policy as it is now, trained beside it, not of the policy's own.
        `width`: units of the head's hidden layer, drawn from `seed`; None: a linear head, as trl's, which draws it at
        random. No dropout (trl: 0.1), as a value, like a log-prob, must not depend on chance. Adapters touch neither
        and `save` leaves them out. Raises UserError where a sharded policy should be copied.
        """
        self.critic = critic_on(self.model, of, apart, width, seed, self.device)

    @property
    def value_head(self) -> nn.Module | None:
        """What makes values of states."""
        return None if self.critic is None else self.critic.head

    def trainable(self) -> dict[str, nn.Parameter]:
        """The model's trainable parameters, then the critic's: `value_head.` its head, `critic.` a network apart."""
        return super().trainable() | dict(self.critic.named_parameters() if self.critic is not None else ())

    def evaluate(self, rows: RowTensors, temperature: float) -> Forward:
        """Completion log-probs (with gradient, fp32, 0 on pads) and the mean token entropy of each row.

        They are of the distribution that tokens are drawn from: tempered, and without an end among a row's first
        `rows.min_new_tokens` tokens. With a value head, the values come from the same pass, unless they are apart.
        Raises UserError for a row without a prompt, and for one beyond the model's positions.
        """
        self._check(rows)
        rows = rows.to(self.device)
        with States(self.model, self.layout) as states, self.autocast():
            logits_CV = self.layout.at_tokens(self.layout.logits(self.model, rows), rows)
        real_NT = rows.mask_NT > 0
        if rows.min_new_tokens:  # in place: a copy of the V axis would cost more than everything else here
            early_NT = torch.arange(real_NT.shape[1], device=self.device) < rows.min_new_tokens
            early_C = early_NT.expand_as(real_NT)[real_NT].nonzero()
            logits_CV[early_C, torch.tensor([*self.stop_ids, *rows.stop_ids], device=self.device)] = -torch.inf
        logp_C, entropy_C = core.token_logprobs(logits_CV, rows.ids_NT[real_NT], temperature)
        entropy_N = _spread(entropy_C, real_NT).sum(1) / real_NT.sum(1).clamp(min=1)
        return Forward(entropy_N, logp_NT=_spread(logp_C, real_NT), **self._values(rows, states))

    def _values(self, rows: RowTensors, own: States) -> dict[str, Tensor]:
        """The leaf of `Forward` that the critic gives; `own` are the states that the policy's pass left."""
        critic = self.critic
        if critic is None:
            return {}
        with self.autocast():
            states = critic.states(rows, own)
        values: Tensor = critic.head(states.float()).squeeze(-1)  # outside autocast: fp32
        if critic.of == "prompt":
            return {"prompt_values_N": values}
        return {"values_NT": _spread(values, rows.mask_NT > 0)}

    def _check(self, rows: RowTensors) -> None:
        width = rows.prompt_ids_NP.shape[1]
        if not width or not rows.prompt_mask_NP[:, -1].all():
            raise UserError("model: a prompt has no tokens, so that nothing says what its response begins with: give "
                            "every example a text, or leave it out")
        if self.positions is not None and width + rows.ids_NT.shape[1] > self.positions:
            self.check_length(int((rows.prompt_mask_NP.sum(1) + rows.mask_NT.sum(1)).max()))

    def check_length(self, tokens: int) -> None:
        """Raise UserError where rows of so many tokens are beyond the model's positions."""
        if self.positions is not None and tokens > self.positions:
            raise UserError(f"model: rows may have {tokens} tokens, and {type(self.model).__name__} has "
                            f"{self.positions} positions: lower task.max_tokens_rollout, max_tokens_evaluation or "
                            "max_tokens_demonstration")

    @contextlib.contextmanager
    def initial(self) -> Iterator[None]:
        """Inside, an adapted model behaves as the model it was adapted from, which has no values."""
        critic, self.critic = self.critic, None
        try:
            with self.model.disable_adapter():
                yield
        finally:
            self.critic = critic

    @property
    def adapted(self) -> bool:
        """True when training changes adapters only."""
        return hasattr(self.model, "disable_adapter")

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The weights as the hub names them; of an adapted model its adapters alone, as peft names them.

        They are whole, fp32, without gradient, on the policy's device. Sharded ones are gathered as they are asked
        for, which is collective: every process must take all of them.
        """
        weights: Iterable[tuple[str, Tensor]] = self.model.named_parameters()
        if self.adapted:
            from peft import get_peft_model_state_dict

            weights = get_peft_model_state_dict(self.model, save_embedding_layers=False).items()
        for name, weight in weights:
            yield name, whole(weight.detach())

    def save(self, folder: Path) -> None:
        """Write weights (adapters merged) and tokenizer in the hub's own format; the policy itself stays as it is.

        Collective when the weights are sharded: every process must call it, the first one writes.
        """
        model = self.model
        if any(map(is_sharded, model.parameters())):
            model = whole_model(model)
        elif self.adapted:
            model = copy.deepcopy(model)  # merging destroys the adapters
        if model is None:
            return
        if self.adapted:
            model = model.merge_and_unload()
        model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)


def _spread(values_C: Tensor, real_NT: Tensor) -> Tensor:
    """A number of each completion token, row by row, as (N, T) with 0 on pads."""
    return values_C.new_zeros(real_NT.shape).masked_scatter(real_NT, values_C)


def load(folder: Path, finetuning: Finetuning, device: torch.device, trainable: bool) -> Policy:
    """Load a policy from an artifact folder. Raises UserError when the folder holds no loadable model."""
    source, options = locate(folder)
    tokenizer = load_tokenizer(folder)
    try:
        config = AutoConfig.from_pretrained(source, **options)
        model = auto_class(config).from_pretrained(
            source, config=config, dtype=torch.float32, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"model: cannot load '{source}': {' '.join(str(error).split())[:300]}") from error
    say_untied(model)
    adapted = trainable and finetuning.finetune == "lora"
    policy = Policy(adapt(model, finetuning.lora) if adapted else model, tokenizer, finetuning.dtype, device)
    if not adapted:
        policy.model.requires_grad_(trainable)
    policy.model.eval()  # for good: a log-prob must not depend on dropout
    return policy


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of an artifact folder, without the weights. Raises UserError when there is none.

    `tokenizer.json` is read as it stands; older models, without one, load as AutoTokenizer loads them. It keeps the day
    that the folder's pointer names, and so does what is saved of it.
    """
    source, options = locate(folder)
    try:
        tokenizer = _tokenizer(source, options)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"model: cannot load '{source}': {' '.join(str(error).split())[:300]}") from error
    if (folder / POINTER).exists() and (date := json.loads((folder / POINTER).read_text("utf-8")).get(DATE)):
        tokenizer.init_kwargs[DATE] = date
    return tokenizer


def _tokenizer(source: str, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    if _there(source, options, "tokenizer.json"):
        return PreTrainedTokenizerFast.from_pretrained(source, **options)
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    files = tokenizer.vocab_files_names.values()
    if files and not any(_there(source, options, name) for name in files):  # AutoTokenizer makes an empty one up
        raise OSError(f"no tokenizer there: none of {', '.join(sorted(files))}")
    return tokenizer


def _there(source: str, options: dict[str, Any], name: str) -> bool:
    revision = {key: value for key, value in options.items() if key == "revision"}
    return cached_file(source, name, _raise_exceptions_for_missing_entries=False, **revision) is not None


def load_ends(folder: Path) -> tuple[int, ...]:
    """The tokens that end a response of the model in an artifact folder, without its weights."""
    source, options = locate(folder)
    try:
        generation = GenerationConfig.from_pretrained(source, **options)
    except OSError:  # it has none
        generation = None
    return end_ids(load_tokenizer(folder), generation)


def require_family(folder: Path, family: Family) -> None:
    """Raise UserError when the model in an artifact folder is of another family."""
    source, options = locate(folder)
    try:
        found = family_of(AutoConfig.from_pretrained(source, **options))
    except (OSError, ValueError) as error:
        raise UserError(f"model: cannot load '{source}': {' '.join(str(error).split())[:300]}") from error
    if found != family:
        raise UserError(f"model.family={family}: '{source}' is {found}: set model.family={found}")


def locate(folder: Path) -> tuple[str, dict[str, Any]]:
    """Where the weights are: the folder itself, or what its pointer file names (hub id and resolved revision)."""
    pointer = folder / POINTER
    if not pointer.exists():
        return str(folder), {"trust_remote_code": False}
    content = json.loads(pointer.read_text("utf-8"))
    return content["path"], {"revision": content["revision"], "trust_remote_code": False}
