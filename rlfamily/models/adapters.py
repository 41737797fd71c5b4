"""Low-rank adapters on a model, where what is saved will be what was trained."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel

from rlfamily.errors import UserError
from rlfamily.models import Lora
from rlfamily.models.targets import LINEAR, PLACE, expression_or_names, named


def adapt(model: PreTrainedModel, lora: Lora) -> PreTrainedModel:
    """The model with adapters on `lora.targets`. Raises UserError when they name nothing, or what cannot be adapted."""
    from peft import LoraConfig, get_peft_model

    if lora.targets != LINEAR:
        modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
        linear = [name for name, module in modules.items() if getattr(getattr(module, "weight", None), "ndim", 0) == 2]
        _check_shared(modules, named(lora.targets, modules, linear))
    try:
        return get_peft_model(model, LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0,
            task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
            target_modules=expression_or_names(lora.targets) if lora.targets != LINEAR else LINEAR))
    except ValueError as error:  # a module of a kind that has no adapter
        raise UserError(f"{PLACE}: {' '.join(str(error).split())[:200]}: name linear layers") from error


def _check_shared(modules: dict[str, nn.Module], names: Iterable[str]) -> None:
    """Refuse an adapter on weights that two modules share: it changes one of them, and merging would change both."""
    of_weight: dict[int, list[str]] = {}
    for name, module in modules.items():
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter):
            of_weight.setdefault(id(weight), []).append(name)
    for group in of_weight.values():
        if len(group) > 1 and (hit := sorted(set(group) & set(names))):
            others = ", ".join(name for name in group if name != hit[0])
            raise UserError(f"{PLACE}: {hit[0]} shares its weights with {others}, so that the saved model would not "
                            f"be the trained one: leave it out, or use {LINEAR}")
