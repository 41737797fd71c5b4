"""Every language model that transformers knows, at a tiny size: which layout it takes, and whether that is right.

    python -m tests.models.architectures     # four minutes; writes the tables of docs/models.md
"""

from __future__ import annotations

import re
import sys
import warnings
from collections import defaultdict
from pathlib import Path
from textwrap import fill
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.utils import logging

from rlfamily.errors import UserError
from rlfamily.models.batching import Rows, pad
from rlfamily.models.layouts.encoder_decoder import EncoderDecoderLayout
from rlfamily.models.layouts.packed import PackedLayout
from rlfamily.models.layouts.padded import PaddedLayout
from rlfamily.models.layouts.single import SingleLayout
from rlfamily.models.policy import Policy
from rlfamily.models.scratch import train_tokenizer
from rlfamily.rollout import SamplingParams
from rlfamily.rollout.torch_engine import TorchEngine

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/models.md"
CLOSE = 1e-3  # nats; what is wrong is so by hundredths and more
WINDOW, POSITIONS, VOCABULARY = 4, 64, 64
LARGEST = 1_000_000  # weights of a tiny model
SIZES = (  # the first pattern that is found in a setting's name says its size
    (r"vocab_size|n_words", VOCABULARY),
    (r"sliding_window$|attention_window|^window_size|local_attention|chunk_size$|floor_scale", WINDOW),
    (r"qk_head_dim", None),  # a sum of two others
    (r"mamba_n_heads|n_mamba_heads", 8),
    (r"head_dim$|kv_channels|d_kv|mamba_d_head|mamba_headdim", 8),
    (r"kv_heads|key_value_heads|num_key_heads|multi_query_group|kv_n_heads", 2),
    (r"num_value_heads|attention_heads|n_heads?$|num_heads", 4),
    (r"lora_rank", 8),
    (r"index_topk$", POSITIONS),  # beyond it rows are refused
    (r"experts_per|top_?k$|num_selected|moe_k$", 2),
    (r"n_group|topk_group|n_shared_experts|n_groups$|mamba_ngroups", 1),
    (r"experts$", 4),
    (r"kv_shared_layers", 0),
    (r"(hidden|encoder|decoder|num)_layers$|^n_layers?$", 4),
    (r"d_state|state_size|conv_kernel|d_conv|conv_l_cache|rotary_dim", 4),
    (r"intermediate|ffn_dim|inner_dim|d_ff|dff|n_inner|d_inner|ffn_hidden|mlp_dim", 32),
    (r"hidden_size|d_model|n_embd|^dim$|emb_dim|embed_dim|word_embed_proj|embedding_size|lru_width|block_size", 32),
    (r"mamba_d_ssm", 64),
    (r"max_(encoder_|decoder_)?position|n_positions|n_ctx|max_seq_len", POSITIONS),
)
UNSET = re.compile("^head_dim$|^num_key_value_heads$")  # sized also where the default is None
OWN: dict[str, dict[str, Any]] = {  # what an architecture wants besides
    "bamba": {"attn_layer_indices": [1, 3]},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
}
NAMES = {PackedLayout: "shared", EncoderDecoderLayout: "encoded once", PaddedLayout: "padded",
         SingleLayout: "row by row"}
MAPPINGS = {AutoModelForCausalLM: MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            AutoModelForSeq2SeqLM: MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES}


def names(auto: Any) -> list[str]:
    """Model types of a mapping of transformers."""
    return sorted(MAPPINGS[auto])


def tiny_config(name: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of an architecture with every size small, as far as the names of its settings tell."""
    return _shrunk(CONFIG_MAPPING[name], {**OWN.get(name, {}), **changes})


def _shrunk(kind: type[PreTrainedConfig], changes: dict[str, Any]) -> PreTrainedConfig:
    given = {name: size for name, value in vars(kind()).items() if (size := _size(name, value)) is not None}
    if "kv_lora_rank" in given:  # latent attention has as many keys as queries
        given["num_key_value_heads"] = given["num_attention_heads"]
    parts = {name: _shrunk(part, {}).to_dict() for name, part in (kind.sub_configs or {}).items()
             if isinstance(part, type) and issubclass(part, PreTrainedConfig)}
    return kind(**{**given, **parts, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **changes})


def _size(name: str, value: Any) -> int | None:
    number = isinstance(value, int) and not isinstance(value, bool)
    if not number and not (value is None and UNSET.search(name)):
        return None
    return next((size for pattern, size in SIZES if re.search(pattern, name)), None)


def build(name: str, auto: Any = AutoModelForCausalLM, **changes: Any) -> PreTrainedModel:
    """A model with random weights, large enough for its log-probs to differ between tokens and between rows."""
    if auto is AutoModelForSeq2SeqLM:
        changes = {"decoder_start_token_id": 1, **changes}
    config = tiny_config(name, **changes)
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in auto.from_config(config).parameters())
    if weights > LARGEST:
        raise ValueError("its size is told by other settings")
    torch.manual_seed(0)
    model = auto.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1 and 0 < weight.std() < 0.1:
                weight.mul_(0.2 / weight.std())
    return model


def tried(model: PreTrainedModel) -> tuple[str, float, float]:
    """The layout, and how far it is from a plain pass of each row: log-probs of given tokens and of drawn ones, nats.

    Raises UserError when the model is refused.
    """
    policy = Policy(model, train_tokenizer(map(str, range(VOCABULARY - 3))), "fp32", torch.device("cpu"))
    chance = torch.Generator().manual_seed(1)
    prompts, completions = ([torch.randint(3, VOCABULARY, (length,), generator=chance).tolist() for length in lengths]
                            for lengths in ((13, 2, 9), (10, 3, 7, 12, 1, 9)))
    rows = Rows([prompts[place] for place in (0, 0, 0, 1, 2, 2)], completions)
    with torch.no_grad():
        found_NT = policy.evaluate(pad(rows, 0), 1.0).logp_NT
    given = max(_gap(policy, row, found.tolist()) for row, found in zip(
        zip(rows.prompts, completions, strict=True), found_NT, strict=True))
    params = SamplingParams(False, 1.0, 24, min_new_tokens=8, logps=True)
    drawn = TorchEngine(policy, 100).generate(prompts, params, [1, 2, 3], copies=2)
    return NAMES[type(policy.layout)], given, max(
        _gap(policy, (prompts[place // 2], row.ids), row.logps, 8) for place, row in enumerate(drawn))


def _gap(policy: Policy, row: tuple[list[int], list[int]], found: list[float], banned: int = 0) -> float:
    """The largest difference from a plain pass; the ends cannot be drawn among the `banned` first tokens."""
    prompt, completion = row
    with torch.no_grad():
        if policy.model.config.is_encoder_decoder:
            ids = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([[1, *completion]])}
        else:
            ids = {"input_ids": torch.tensor([prompt + completion])}
        logits_TV = policy.model(**ids, use_cache=False).logits[0].float()
    logits_TV = logits_TV[-len(completion) - 1:-1].clone()
    logits_TV[:banned, list(policy.stop_ids)] = -torch.inf
    right_T = logits_TV.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
    return float((torch.tensor(found[:len(completion)]) - right_T).abs().max())


def variants(name: str) -> dict[str, dict[str, Any]]:
    """An architecture as it is, and with what it can declare besides, which begins to act at some length."""
    try:
        windowless = getattr(CONFIG_MAPPING[name](), "sliding_window", 1) is None
    except Exception:  # it cannot be made without sizes
        windowless = False
    window = {"sliding_window": WINDOW, "use_sliding_window": True}
    return {"": {}, **({"with a window": window} if windowless else {})}


def result(name: str, auto: Any = AutoModelForCausalLM, **changes: Any) -> str:
    """A layout of NAMES, "refused: why", "not built: why", or "wrong" with the two distances in nats."""
    try:
        model = build(name, auto, **changes)
        ids = torch.arange(3, 14)[None]
        model(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}), use_cache=False)
    except Exception as error:
        return f"not built: {type(error).__name__}: {' '.join(str(error).split())[:60]}"
    try:
        layout, given, drawn = tried(model)
    except UserError as error:
        return f"refused: {error}"
    return layout if max(given, drawn) < CLOSE else f"wrong: {given:.2g}, {drawn:.2g} nats"


def table(auto: Any) -> str:
    """The outcomes and the architectures of each, as markdown lists."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names(auto):
        for variant, changes in variants(name).items():
            outcome = result(name, auto, **changes)
            print(f"{name} {variant}: {outcome}", file=sys.stderr, flush=True)
            found[outcome.partition(":")[0]].append(f"{name} ({variant})" if variant else name)
    parts = [f"**{outcome}** ({len(found[outcome])}): {', '.join(found[outcome])}"
             for outcome in [*NAMES.values(), "refused", "wrong", "not built"] if found[outcome]]
    return "\n\n".join(fill(part, 118, break_on_hyphens=False) for part in parts)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    for auto in MAPPINGS:
        head, mark, rest = DOCUMENT.read_text().partition(f"## {auto.__name__}\n")
        following = rest[rest.find("\n## "):] if "\n## " in rest else ""
        DOCUMENT.write_text(f"{head}{mark}\n{table(auto)}\n{following}")
