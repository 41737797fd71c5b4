"""The two families of language models: decoders alone, and decoders that read what an encoder made of the prompt."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel

from rlfamily.models import Family


def family_of(config: PreTrainedConfig) -> Family:
    """What a model's own configuration says it is."""
    return "encoder_decoder" if config.is_encoder_decoder else "causal"


def auto_class(config: PreTrainedConfig) -> Any:
    """The class of transformers that builds and loads a policy."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def say_untied(model: PreTrainedModel) -> None:
    """Let the configuration say that output and input embeddings differ, where those that were loaded do.

    transformers' T5 says that they are tied, whatever its files hold: tied anew, a copy would lose the output layer.
    """
    output = model.get_output_embeddings()
    if model.config.tie_word_embeddings and output.weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False
