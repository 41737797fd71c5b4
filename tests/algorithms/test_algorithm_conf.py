"""The shipped numbers: one yaml per method, each valid, refused when impossible, and readable
without torch.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from omegaconf import OmegaConf
from pydantic import ValidationError
from world import CONF, config

from rlfamily.algorithms import NONE, get, names
from rlfamily.algorithms.settings import NoTraining, Start
from rlfamily.errors import UserError

SAMPLED = {"mode": "sample", "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0,
           "no_repeat_ngram": 0}
# What a number may be, by its name, whatever the method: [ and ] belong to it. Whole numbers are written as such.
INTERVALS = {
    "prompts": "[1, inf)", "batch_prompts": "[1, inf)", "epochs": "[1, inf)", "inner_updates": "[1, inf)",
    "kl_ref_every": "[0, inf)", "max_length": "[1, inf)", "warmup_steps": "[0, inf)", "top_k": "[0, inf)",
    "lr": "[0.0, inf)", "beta1": "[0.0, 1.0)", "beta2": "[0.0, 1.0)", "weight_decay": "[0.0, inf)", "clip_norm": "(0.0, inf)",
    "temperature": "(0.0, inf)", "top_p": "(0.0, 1.0]", "beta": "(0.0, inf)", "alpha": "(0.0, inf)", "clip": "(0.0, 1.0)",
    "vf_coef": "[0.0, inf)", "coef": "[0.0, inf)", "value_clip": "(0.0, inf)", "gamma": "[0.0, 1.0]", "lam": "[0.0, 1.0]",
    "start": "(0.0, inf)", "end": "(0.0, inf)", "repetition_penalty": "(0.0, inf)", "no_repeat_ngram": "[0, inf)",
    "good_weight": "[0.0, inf)", "bad_weight": "[0.0, inf)",
    "value_width": "[1, inf)",
}
GREEDY, LIKELIEST = SAMPLED | {"mode": "greedy"}, SAMPLED | {"top_k": 1}


def test_every_method_has_a_yaml_and_every_yaml_a_method_or_none() -> None:
    assert {"sft", "dpo", "rloo", "topr"} <= set(names())
    assert {*names(), NONE} == {path.stem for path in CONF.glob("*.yaml")}


def test_without_training_a_cell_has_its_start_and_nothing_else() -> None:
    values = OmegaConf.to_container(OmegaConf.load(CONF / f"{NONE}.yaml"))
    assert NoTraining.model_validate(values).model_dump() == {"warm_start": "base"}
    assert all(issubclass(get(name).Config, Start) for name in names())
    with pytest.raises(UserError, match="no method 'none'"):
        get(NONE)


@pytest.mark.parametrize("name", names())
def test_the_yaml_validates_and_the_module_is_complete(name: str) -> None:
    module = get(name)
    assert config(name).optimizer.lr > 0
    assert module.NEEDS.issubset({"old", "ref", "value", "steps", "generator", "mismatched", "prompt_value"})
    assert module.SOURCE in {"demonstrations", "pairs", "rollouts", "logged"}
    assert type(module.VERSION) is str
    assert module.__doc__ and module.loss.__doc__


def edges(interval: str) -> tuple[list[float], list[float]]:
    """Numbers just inside an interval and just outside."""
    low, high = (text.strip() for text in interval[1:-1].split(","))
    whole, inside, outside = "." not in low, [], []
    for edge, closed, inwards in ((low, interval[0] == "[", 1), (high, interval[-1] == "]", -1)):
        if edge != "inf":
            number, step = (int(edge), inwards) if whole else (float(edge), inwards * 1e-6)
            inside.append(number if closed else number + step)
            outside.append(number - step if closed else number)
    return inside, outside


@pytest.mark.parametrize("name", names())
def test_a_number_is_refused_beyond_the_edge_of_what_it_may_be_and_not_before(name: str) -> None:
    values = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    parts = [((), values), *(((key,), part) for key, part in values.items() if isinstance(part, dict))]
    for way, part in parts:
        for key in part.keys() & INTERVALS.keys():
            for right, numbers in zip((True, False), edges(INTERVALS[key]), strict=True):
                for number in numbers:
                    changed = part | {key: number}
                    assert accepted(name, {way[0]: changed} if way else changed) == right, (*way, key, number)
    refused = 0 if values["group_size"] else 1  # 0: groups are as large as the data has them
    assert accepted(name, {"group_size": min(values["group_size"], 2)}) and not accepted(name, {"group_size": refused})


def accepted(name: str, changes: dict[str, Any]) -> bool:
    try:
        config(name, **changes)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("name", [*names(), NONE])
def test_every_number_has_its_source_beside_it(name: str) -> None:
    for line in (CONF / f"{name}.yaml").read_text().splitlines():
        key, _, rest = line.partition(":")
        if key.lstrip().startswith("#") or not rest.partition("#")[0].strip():
            continue
        assert "# " in rest, f"{name}.yaml: '{line}' has no source"


@pytest.mark.parametrize("name", names())
def test_no_number_has_a_default_in_code(name: str) -> None:
    assert all(field.is_required() for field in get(name).Config.model_fields.values())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("topr", {"group_size": 1}, "leave-one-out"),
        ("rloo", {"group_size": 1}, "leave-one-out"),
        ("topr", {"sampling": GREEDY}, "greedy"),
        ("rloo", {"sampling": GREEDY}, "greedy"),
        ("rloo", {"sampling": LIKELIEST}, "top_k=1 makes the responses of a group identical"),
        ("topr", {"limits": {"positive": [2.0, 1.0], "negative": [0.0, 1.0]}}, "lower limit first"),
        ("topr", {"limits": {"positive": [1.0], "negative": [0.0, 1.0]}}, "positive"),
        ("topr", {"limits": {"positive": [1.0, 1.0], "negative": [0.0, float("inf")]}}, "negative"),
        ("topr", {"limits": {"positive": [1.0, 1.0], "negative": ["0", 1.0]}}, "negative"),
        ("topr", {"limits": {"positive": [-0.1, 1.0], "negative": [0.0, 1.0]}}, "positive"),
        ("topr", {"tau": {"start": float("inf"), "end": 1.0, "schedule": "exp"}}, "tau.start"),
        ("topr", {"tau": {"start": 5.0, "end": float("inf"), "schedule": "exp"}}, "tau.end"),
        ("topr", {"baseline_constant": float("nan")}, "baseline_constant"),
        ("topr", {"weights": "taperd"}, "weights"),
        ("topr", {"tau": {"start": 5.0, "end": 0.0, "schedule": "exp"}}, "tau.end"),
        ("dpo", {"group_size": 3}, "group_size"),
        ("dpo", {"beta": 0.0}, "beta"),
        ("rloo", {"clip": 1.5}, "clip"),
        ("gnivo", {"sampled_t": 0}, "sampled_t"),
        ("gnivo", {"sampled_t": "20"}, "sampled_t"),
        ("gnivo", {"alpha": 0.0}, "alpha"),
        ("gnivo", {"group_size": 1}, "group_size"),
        ("gnivo", {"variant": "step_level", "t_mode": "max_new_tokens"}, "t_mode"),
        ("grpo", {"group_size": 1}, "group_size"),
        ("sft_winning", {"group_size": 1}, "group_size"),
        ("online_dpo", {"group_size": 4}, "group_size"),
        ("rpo", {"log_ratio": "sum"}, "log_ratio=mean"),
        ("rpo", {"partition": "mass_normalised", "log_ratio": "sum"}, "log_ratio=mean"),
        ("rpo", {"partition": "paper_logspace"}, "log_ratio=sum"),
        ("rpo", {"partition": "exact"}, "partition"),
        ("rpo", {"tau": 0.0}, "tau"),
        ("rpo", {"group_size": 4}, "group_size"),
        ("rpo", {"reward": "task"}, "reward"),
        ("dro", {"tau": 0.0}, "tau"),
        ("dro", {"variant": "original"}, "variant"),
        ("kto", {"beta": 0.0}, "beta"),
        ("kto", {"good_weight": -1.0}, "good_weight"),
        ("oreo", {"beta": 0.0}, "beta"),
        ("oreo", {"kl": {"coef": 0.01, "form": "k3", "place": "reward"}}, "kl.place=loss"),
        ("sft", {"epochs": "3"}, "epochs"),
        ("sft", {"beta": 0.1}, "beta"),
    ],
)
def test_impossible_settings_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(name, **changes)


@pytest.mark.parametrize("partition", ["mc", "none"])
@pytest.mark.parametrize("log_ratio", ["mean", "sum"])
def test_a_partition_without_log_probs_goes_with_both_log_ratios(partition: str, log_ratio: str) -> None:
    assert config("rpo", partition=partition, log_ratio=log_ratio)


@pytest.mark.parametrize(
    "changes",
    [
        {"group_size": 1, "baseline": "none"},
        {"group_size": 1, "baseline": "running_mean", "sampling": GREEDY},
        {"sampling": GREEDY, "baseline": "none"},
        {"sampling": GREEDY, "allow_degenerate_baseline": True},
    ],
)
def test_report_parity_is_possible(changes: dict[str, Any]) -> None:
    assert config("topr", **changes)


def test_settings_are_frozen_and_survive_json() -> None:
    settings = config("topr")
    with pytest.raises(ValidationError):
        settings.epochs = 3
    again = type(settings).model_validate(settings.model_dump(mode="json"))
    assert again == settings


@pytest.mark.parametrize("name", names())
def test_settings_are_read_without_torch(name: str) -> None:
    values = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    code = (
        "import sys\nimport rlfamily.core\nfrom rlfamily.algorithms import get\n"
        f"get({name!r}).Config.model_validate({values!r})\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CONF.parents[1])
