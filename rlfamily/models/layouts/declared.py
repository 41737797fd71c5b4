"""What a model declares of itself, read for one question: is its attention plain, whatever the length of a row?

A check on short rows cannot see what begins at a length: a window, chunks, an index. So the fast layout is for models
of which every declaration is known to be plain; an unknown one is reason enough for a slower layout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedConfig

LENGTH_DEPENDENT = frozenset({"dynamic", "longrope"})
"""Rotary scalings that change all positions of a row when it grows past a length."""

_PLAIN_ROPES = frozenset({"default", "linear", "llama3", "yarn"}) | LENGTH_DEPENDENT  # below their length these are

_ROPE_NAMES = """
    rope_type type rope_theta factor original_max_position_embeddings max_position_embeddings partial_rotary_factor
    low_freq_factor high_freq_factor beta_fast beta_slow mscale mscale_all_dim attention_factor truncate
    short_factor long_factor
"""
# Declarations that act on single tokens, or on attention in the same way at every length, by the names of transformers.
_PLAIN_NAMES = """
    vocab_size hidden_size intermediate_size ffn_dim n_embd n_inner word_embed_proj_dim num_hidden_layers n_layer
    num_attention_heads num_key_value_heads n_head head_dim multi_query qk_head_dim
    max_position_embeddings original_max_position_embeddings n_positions n_ctx rope_parameters rope_theta
    rope_interleaved rotary_pct rotary_emb_base rotary_dim partial_rotary_factor no_rope_layers no_rope_layer_interval
    hidden_act hidden_activation activation_function mlp_bias attention_bias attention_out_bias use_bias qkv_bias
    lm_head_bias enable_bias norm_bias conv_bias swiglu_limit swiglu_alpha
    rms_norm_eps layer_norm_eps layer_norm_epsilon norm_eps norm_epsilon layer_norm_elementwise_affine
    _remove_final_layer_norm do_layer_norm_before use_post_norm use_qk_norm qk_layernorm use_parallel_residual clip_qkv
    attention_dropout hidden_dropout dropout activation_dropout embedding_dropout residual_dropout resid_dropout
    resid_pdrop embd_pdrop attn_pdrop hidden_dropout_prob attention_probs_dropout_prob layerdrop classifier_dropout
    initializer_range initializer_factor init_std pretraining_tp use_cache tie_word_embeddings
    pad_token_id bos_token_id eos_token_id decoder_start_token_id
    embedding_multiplier logits_scaling residual_multiplier attention_multiplier logit_scale final_logit_softcapping
    query_pre_attn_scalar scale_attn_weights scale_attn_by_inverse_layer_idx reorder_and_upcast_attn
    scale_attention_softmax_in_fp32 attention_softmax_in_fp32
    summary_type summary_use_proj summary_activation summary_first_dropout summary_proj_to_labels
    num_experts num_local_experts n_routed_experts moe_num_experts num_experts_per_tok moe_topk moe_intermediate_size
    n_shared_experts num_shared_experts moe_num_shared_experts shared_intermediate_size shared_expert_intermediate_size
    norm_topk_prob n_group topk_group routed_scaling_factor router_aux_loss_coef aux_loss_coef output_router_logits
    router_jitter_noise input_jitter_noise decoder_sparse_step mlp_only_layers mlp_layer_types first_k_dense_replace
    use_sliding_window max_window_layers sliding_window_pattern _sliding_window_pattern
"""  # the last line: only what `sliding_window` and `layer_types` say counts
_PLAIN = frozenset(_PLAIN_NAMES.split())
# The same in models with an encoder.
_PLAIN_PAIR_NAMES = """
    d_model d_kv d_ff num_layers num_decoder_layers num_heads encoder_layers decoder_layers encoder_attention_heads
    decoder_attention_heads encoder_ffn_dim decoder_ffn_dim relative_attention_num_buckets
    relative_attention_max_distance feed_forward_proj dense_act_fn is_gated_act scale_decoder_outputs output_past
    dropout_rate encoder_layerdrop decoder_layerdrop classifier_dropout classif_dropout init_std initializer_factor
    scale_embedding static_position_embeddings normalize_before normalize_embedding add_final_layer_norm
    add_bias_logits extra_pos_embeddings forced_bos_token_id forced_eos_token_id decoder_vocab_size
    share_encoder_decoder_embeddings encoder_no_repeat_ngram_size tokenizer_class
    task_specific_params gradient_checkpointing
"""
_PLAIN_PAIRS = _PLAIN | frozenset(_PLAIN_PAIR_NAMES.split())


def is_plain(config: PreTrainedConfig) -> bool:
    """True when all that `config` declares is known to leave attention plain: causal, and the same at every length."""
    base = PreTrainedConfig()
    common = set(vars(base)) | set(base.to_dict())
    declared = {name: value for name, value in config.to_dict().items() if value not in (None, False)}
    reach = getattr(config, "max_position_embeddings", None)
    known: dict[str, Callable[[Any], bool]] = {  # what else may be declared, and how
        "layer_types": lambda types: set(types) == {"full_attention"},
        "sliding_window": lambda window: isinstance(reach, int) and window >= reach,
        "is_decoder": lambda decoder: decoder is True,
    }
    return not config.is_encoder_decoder and all(map(_plain_rope, _rope_dicts(config))) and all(
        known[name](value) if name in known else name in _PLAIN or name in common for name, value in declared.items())


def is_plain_encoder_decoder(config: PreTrainedConfig) -> bool:
    """True when all that `config` declares is known to leave an encoder and a decoder plain, whatever is padded."""
    known = _PLAIN_PAIRS | PreTrainedConfig().to_dict().keys()
    return all(name in known for name, value in config.to_dict().items() if value not in (None, False))


def by_place(config: PreTrainedConfig) -> bool:
    """True when a model groups the tokens it attends to by their place in a row, pads included."""
    return any(name.startswith("compress_") or name == "attention_chunk_size"
               for name, value in _all(config).items() if value)


def length_limit(config: PreTrainedConfig) -> int | None:
    """Longest row, in tokens, for which each token has one log-prob, whatever follows it; None: there is no limit.

    Beyond it some rotary scalings change all positions, and an index that picks what is attended to picks anew.
    """
    declared = _all(config)
    blocks = (declared.get("index_topk_blocks") or 0) * (declared.get("index_block_size") or 0)
    limits = [_original(rope, config) for rope in _rope_dicts(config) if rope.get("rope_type") in LENGTH_DEPENDENT]
    return min((limit for limit in [*limits, declared.get("index_topk"), blocks] if limit), default=None)


def positions(config: PreTrainedConfig, added: int) -> int | None:
    """Tokens that a row may have for the positions a model was made for; None where it declares none.

    `added` is what an encoder or its decoder sees beside a row's own tokens; each of them has to have room for it all.
    """
    if config.is_encoder_decoder:
        sides = [getattr(config, f"max_{side}position_embeddings", None) for side in ("", "encoder_", "decoder_")]
        return min((size - added for size in sides if isinstance(size, int)), default=None)
    limit = length_limit(config)
    declared = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    if limit is not None or not isinstance(declared, int) or declared <= 0:
        return limit
    stretched = [int(rope["factor"] * _original(rope, config)) for rope in _rope_dicts(config)
                 if rope.get("rope_type") in ("linear", "yarn") and rope.get("factor")]
    return max([declared, *stretched])


def _all(config: PreTrainedConfig) -> dict[str, Any]:
    """What the model, or the language model within it, declares."""
    return config.to_dict() | config.get_text_config(decoder=True).to_dict()


def _original(rope: dict[str, Any], config: PreTrainedConfig) -> int:
    text = config.get_text_config(decoder=True)
    found = rope.get("original_max_position_embeddings") or getattr(text, "original_max_position_embeddings", None)
    return int(found or text.max_position_embeddings)


def _plain_rope(rope: dict[str, Any]) -> bool:
    return rope.get("rope_type", "default") in _PLAIN_ROPES and rope.keys() <= set(_ROPE_NAMES.split())


def _rope_dicts(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """The rotary settings: one, or one for each type of layer."""
    found = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    parts = [part for part in found.values() if isinstance(part, dict)]
    return parts or [found]
