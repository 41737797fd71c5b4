"""Plans: what a cell is made of, what its keys depend on, and what cells and tables share."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from functools import cache

import pytest
from small import SMALL

from rlfamily import experiment
from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.plan import cells, stages
from rlfamily.stages.graph import topological
from rlfamily.stages.store import Store

TABLES = experiment.names()
ROLES = ["train", "score", "logprobs"]


@cache
def planned(table, scale="tiny"):
    """The cells of a table, composed once."""
    return cells(experiment.load(table), scale)


def graph(*overrides, roles=ROLES):
    """Every node of one cell by a name: its role, or its kind where it stands behind."""
    nodes = stages(build(overrides), roles)
    named = {node.key: role for role, node in nodes.items()}
    found = {}
    for node in topological(nodes.values()):
        name = named.get(node.key) or ("warm start" if node.kind == "train" else node.kind)
        assert name not in found
        found[name] = node
    return found


def keys(*overrides, roles=ROLES):
    return {name: node.key for name, node in graph(*overrides, roles=roles).items()}


def changed(overrides, base=()):
    """Names of the stages that another configuration computes anew."""
    before, after = keys(*base), keys(*base, *overrides)
    return {name for name in after if after[name] != before.get(name)}


# ---------------------------------------------------------------------------- experiments


@pytest.mark.parametrize("scale", ["tiny", "paper"])
@pytest.mark.parametrize("table", TABLES)
def test_every_experiment_plans(table, scale):
    spec = experiment.load(table)
    found = planned(table, scale)
    assert len(found) == len(spec.backbones) * len(spec.rows) * len(spec.columns) * len(spec.scales[scale].seeds)
    assert [cell.seed for cell in found[:len(spec.scales[scale].seeds)]] == spec.scales[scale].seeds
    for cell in found:
        bare = spec.stages[:1] if spec.stages in (["theory"], ["targets"], ["accuracy"], ["latency"]) else []  # nothing is trained for these
        first = bare[0] if bare else "train" if cell.config.trained else "generate" if "generate" in spec.stages else "score"
        assert list(cell.stages)[:1] == ([first] if spec.stages else [])
        assert set(spec.stages) - {"train"} <= set(cell.stages)
        assert spec.rows[cell.row].untrained is not cell.config.trained
        assert cell.config.seed == cell.seed
        json.dumps(cell.config.settings())
    for cell in (found[0], found[-1]):
        assert build(cell.overrides) == cell.config


def test_a_table_of_settings_runs_nothing():
    assert all(cell.stages == {} for cell in planned("topr_tab1"))


def test_seeds_and_overrides_for_all_rows():
    found = cells(experiment.load("topr_tab2"), "tiny", ["task.eval_draws=1"], [7])
    assert {cell.seed for cell in found} == {7}
    assert all(cell.config.task.eval_draws == 1 for cell in found)
    assert all(cell.stages["score"].inputs["responses"].config.generation.draws == 1 for cell in found)


@pytest.mark.parametrize(("extra", "message"), [
    (["algorithm.epochs=0"], "row 'Experiment 1', column 'Countdown (TinyZero)': algorithm: epochs:"),
    (["seed=1"], "row 'Experiment 1': a table has its own seeds"),
    (["algorithm.epochs=1,2"], "row 'Experiment 1': sweeps belong on the train command line"),
])
def test_a_refused_row_is_named(extra, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)")):
        cells(experiment.load("topr_tab2"), "tiny", extra)


def test_planning_needs_no_torch():
    code = ("import sys\nfrom rlfamily import experiment, plan\nplan.cells(experiment.load('topr_compare'), 'tiny')\n"
            "assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------- sharing


def test_cells_share_what_is_equal():
    """topr_tab2: one data set, one base model, one SFT warm start a seed; then a run, responses and scores a cell."""
    found = planned("topr_tab2")
    nodes = topological(node for cell in found for node in cell.stages.values())
    kinds = [node.kind for node in nodes]
    assert (kinds.count("data"), kinds.count("lengths"), kinds.count("base")) == (1, 1, 1)
    assert kinds.count("train") == len(found) + 3
    assert kinds.count("generate") == kinds.count("score") == len(found)
    assert len(nodes) == 1 + 1 + 1 + 3 + 3 * len(found)


def test_tables_share_what_is_equal():
    def trains(table):
        return {cell.stages["train"].key for cell in planned(table)}

    assert trains("topr_fig3") < trains("topr_tab2")
    assert trains("topr_fig1") < trains("topr_compare")
    assert len(trains("topr_tab2") & trains("topr_compare")) >= 6
    assert not trains("topr_fig3") & trains("topr_fig4")  # the same cells at other seeds
    together = topological(node for table in TABLES for cell in planned(table) for node in cell.stages.values())
    assert [node.kind for node in together].count("base") == 1 + 2 * 4 + 4 + 6
    # Countdown, the four GN-IVO tasks with two stand-ins, RPO's with three sizes and an optional row without an encoder,
    # IRO's: two sizes for summaries and for instructions, one for mathematics and one for files of responses


def test_the_sft_row_is_the_warm_start_of_the_others():
    sft = keys("algorithm=sft", "seed=4")["train"]
    for name in ("dpo", "rloo", "topr"):
        assert keys(f"algorithm={name}", "seed=4")["warm start"] == sft
    assert keys("algorithm=topr", "algorithm.warm_start=base").keys() == {"data", "lengths", "base", *RUN}


@pytest.mark.parametrize("start", ["base", "sft"])
def test_what_trains_nothing_scores_its_start(start):
    """And the very policy that a method with this start trains."""
    (policy,) = {node.inputs["policy"].key for role, node in graph(
        "algorithm=none", f"algorithm.warm_start={start}", "seed=4").items() if role in ("generate", "logprobs")}
    trained = graph("algorithm=topr", f"algorithm.warm_start={start}", "seed=4")
    assert policy == trained["warm start" if start == "sft" else "base"].key == trained["train"].inputs["policy"].key
    assert set(graph("algorithm=none", f"algorithm.warm_start={start}")) == {
        "data", "lengths", "base", "generate", "score", "logprobs", *(["warm start"] if start == "sft" else [])}
    assert stages(build(["algorithm=none"]), ["train"]) == {}


def test_dpo_and_the_reward_model_share_their_pairs():
    """They draw the same number of responses at the same temperature from the same policy."""
    learned = keys("algorithm=rloo", "algorithm.reward=reward_model")
    assert learned["pairs"] == keys("algorithm=dpo")["pairs"]
    assert set(learned) == {"data", "lengths", "base", "warm start", "pairs", "reward_model", *RUN}
    assert keys("algorithm=topr", "algorithm.reward=reward_model")["reward_model"] == learned["reward_model"]


def test_roles_ask_for_no_more_than_they_need():
    assert set(graph(roles=["train"])) == {"data", "lengths", "base", "warm start", "train"}
    assert set(graph(roles=["score"])) == {"data", "lengths", "base", "warm start", "train", "generate", "score"}
    assert stages(build([]), []) == {}


@pytest.mark.parametrize("overrides", [[], ["model=qwen25_05b", "task=countdown"]])
def test_what_trains_or_draws_waits_for_the_lengths_and_does_not_know_them(overrides):
    """Two published models share their data; a limit of the evaluation changes no trained policy."""
    found = graph("algorithm=dpo", *overrides)
    waiting = {name for name, node in found.items() if node.after == (found["lengths"],)}
    assert waiting == {"warm start", "pairs", "train", "generate"} | ({"base"} if "base" in found else set())
    assert found["lengths"] in found["train"].sources and "lengths" not in str(found["train"].input_keys)
    if overrides:
        assert changed(["task.max_tokens_evaluation=500"], overrides) == {"lengths", "generate", "score"}
        assert changed(["model=qwen25_15b_instruct"], overrides) >= {"lengths", "hub"}
        assert "data" not in changed(["model=qwen25_15b_instruct"], overrides)


def test_a_hub_model_is_a_stage_of_its_own():
    found = graph("model=qwen25_05b", "task=countdown")
    assert found["hub"].settings == {"path": "Qwen/Qwen2.5-0.5B", "revision": "main",
                                     "date_string": "26 Jul 2024", "family": "causal"}
    assert found["hub"].inputs == {}
    assert "base" not in found


# ---------------------------------------------------------------------------- keys

NEVER = ["hardware.slots=1", "hardware.processes=2", "hardware.micro_tokens=3", "hardware.micro_batch=3", "hardware.rollout_batch=5",
         "hardware.checkpoint_seconds=0", "hardware=gpu", "wandb=off", "results=/elsewhere"]
RUN = {*ROLES, "generate"}
EVERYTHING = {"data", "base", "warm start", *RUN}
CHANGES = {
    "seed=1": EVERYTHING - {"data", "base"},
    "algorithm.optimizer.lr=1e-3": RUN,
    "algorithm.epochs=3": RUN,
    "algorithm.limits.negative=[0.0,0.5]": RUN,
    "task.source.seed=1": {*EVERYTHING, "lengths"},
    'task.template="{nums} to {target}"': {*EVERYTHING, "lengths"},
    "task.prompt_fraction=0.5": EVERYTHING - {"data", "base"},
    "task.eval_draws=2": {"generate", "score"},
    "task.eval_prompts=8": {*EVERYTHING, "lengths"} - {"data"},  # the base model's gate looks at as many puzzles
    "task.max_tokens_demonstration=40": {*EVERYTHING, "lengths"} - {"data"},
    "task.max_tokens_rollout=40": {*RUN, "lengths"},
    "task.reward_model.epochs=3": set(),
    "model.hidden_size=64": EVERYTHING - {"data"},
    "task.pretrain.epochs=1": EVERYTHING - {"data"},
    "model.lr_multiplier=2.0": EVERYTHING - {"data", "base"},
    "model.finetune=lora": EVERYTHING - {"data", "base"},
    "model.dtype=bf16": EVERYTHING - {"data"},
}


# How training responses are drawn, by the field of SamplingParams that each setting decides.
DRAWN = {
    "greedy": ["algorithm.sampling.mode=greedy", "algorithm.baseline=none"],
    "temperature": ["algorithm.sampling.temperature=0.5"],
    "top_k": ["algorithm.sampling.top_k=7"],
    "top_p": ["algorithm.sampling.top_p=0.9"],
    "repetition_penalty": ["algorithm.sampling.repetition_penalty=1.2"],
    "no_repeat_ngram": ["algorithm.sampling.no_repeat_ngram=3"],
    "max_total_tokens": ["task.max_tokens_rollout=40"],
    "max_new_tokens": ["task.max_new_tokens_rollout=7"],
    "min_new_tokens": ["task.min_new_tokens=2"],
}


def drawn(*overrides):
    """How training and evaluation draw under these overrides."""
    from rlfamily.evaluation.sampler import params_of
    from rlfamily.rollout.collect import sampling_params

    found = graph(*overrides)
    settings, lesson = found["train"].config.settings, found["train"].config.lesson
    return (sampling_params(settings.sampling.mode, settings.sampling, lesson.limits),
            params_of(found["generate"].config.generation, "sample"))


@pytest.mark.parametrize("name", DRAWN)
def test_every_setting_that_changes_what_is_drawn_changes_the_runs_key(name):
    before, after = drawn(), drawn(*DRAWN[name])
    assert getattr(before[0], name) != getattr(after[0], name)
    assert changed(DRAWN[name]) >= RUN
    if name.startswith(("top", "temp", "rep", "no")):  # the pairs of a method that takes those
        assert "pairs" in changed(DRAWN[name], ["algorithm=dpo"])


@pytest.mark.parametrize("name", [
    "temperature", "top_k", "top_p", "repetition_penalty", "no_repeat_ngram", "max_total_tokens", "max_new_tokens"])
def test_the_evaluations_own_settings_change_its_responses_alone(name):
    override = {"temperature": "task.eval_temperature=0.5", "max_total_tokens": "task.max_tokens_evaluation=40",
                "max_new_tokens": "task.max_new_tokens_evaluation=7", "top_k": "task.eval_top_k=7",
                "top_p": "task.eval_top_p=0.9", "repetition_penalty": "task.eval_repetition_penalty=1.2",
                "no_repeat_ngram": "task.eval_no_repeat_ngram=3"}[name]
    before, after = drawn(), drawn(override)
    assert before[0] == after[0] and getattr(before[1], name) != getattr(after[1], name)
    hub = ["task=countdown", "model=qwen25_05b"]  # without a gate, for which a stand-in's base model draws as well
    assert changed([override], hub) - {"lengths"} == {"generate", "score"}


def test_no_way_to_draw_is_without_a_setting():
    """What is added to SamplingParams is decided by a setting, and tried above; two are the run's own business."""
    from dataclasses import fields

    from rlfamily.rollout import SamplingParams

    assert {field.name for field in fields(SamplingParams)} - {"stop_ids", "logps"} == set(DRAWN)


@pytest.mark.parametrize("override", NEVER)
@pytest.mark.parametrize("base", [[], ["algorithm=rloo", "algorithm.reward=reward_model"], ["algorithm=dpo"]], ids=str)
def test_what_cannot_change_a_number_changes_no_key(base, override):
    assert changed([override], base) == set()


@pytest.mark.parametrize("override", CHANGES)
def test_what_can_changes_just_the_keys_behind_it(override):
    assert changed([override]) == CHANGES[override]


def test_the_reward_models_own_settings():
    base = ["algorithm=rloo", "algorithm.reward=reward_model"]
    assert changed(["task.reward_model.epochs=3"], base) == {"reward_model", *RUN}
    assert changed(["task.reward_model.temperature=0.5"], base) == {"pairs", "reward_model", *RUN}
    assert changed(["seed=1"], base) == {"warm start", "pairs", "reward_model", *RUN}


@pytest.mark.parametrize(("plugin", "base", "names"), [
    ("algorithms.topr", [], {"train", "generate", "score", "logprobs"}),
    ("algorithms.rloo", [], set()),
    ("algorithms.sft", [], EVERYTHING - {"data"}),
    ("rewards.verifiable", [], {"train", "generate", "score", "logprobs"}),
    ("rewards.verifiable", ["algorithm=dpo"], {"pairs", *RUN}),
    ("tasks.countdown", [], {*EVERYTHING, "lengths"}),
    ("tasks.math", [], set()),
    ("decoding.plain", [], {"generate", "score"}),
    ("curricula.in_order", [], RUN),
    ("curricula.varied", [], set()),
    ("shaping.overlong", ["algorithm.shaping=[{kind: overlong, max_length: 40, buffer: 8, weight: 1.0}]"], RUN),
    ("rewards.bradley_terry", ["algorithm=rloo", "algorithm.reward=reward_model"], {"reward_model", *RUN}),
])
def test_a_new_version_of_a_plug_in_changes_the_keys_of_what_uses_it(monkeypatch, plugin, base, names):
    before = keys(*base)
    monkeypatch.setattr(importlib.import_module(f"rlfamily.{plugin}"), "VERSION", "next")
    after = keys(*base)
    assert {name for name in after if after[name] != before[name]} == names


def test_labels_change_no_key():
    config = build([])
    first, second = stages(config, ROLES, "one name"), stages(config, ROLES, "another")
    assert {role: node.key for role, node in first.items()} == {role: node.key for role, node in second.items()}
    assert first["train"].label != second["train"].label


def test_equal_overrides_in_another_order_are_one_cell():
    assert keys("seed=2", "algorithm=rloo") == keys("algorithm=rloo", "seed=2")
    assert keys("algorithm.optimizer.lr=1e-6") == keys("algorithm.optimizer.lr=0.000001") == keys()


def test_planning_starts_nothing(tmp_path):
    (cell,) = cells(experiment.load("topr_fig1"), "tiny", [*SMALL, f"results={tmp_path}"], [0])
    store = Store(tmp_path)
    assert not any(store.committed(node.key) for node in topological(cell.stages.values()))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------- engines


def test_an_engine_is_part_of_what_draws_and_of_nothing_else():
    torch, vllm = (keys("algorithm=topr", *change) for change in ([], ["rollout.engine=vllm"]))
    assert {name for name in torch if torch[name] != vllm[name]} == {"train", "generate", "score", "logprobs"}
    pairs = [keys("algorithm=dpo", *change) for change in ([], ["rollout.engine=vllm"])]
    assert {name for name in pairs[0] if pairs[0][name] != pairs[1][name]} == {"pairs", "train", "generate", "score", "logprobs"}
    assert keys("algorithm=topr", "rollout.importance_cap=2.0")["train"] != torch["train"]
    assert keys("algorithm=topr", "rollout.mismatch_limit=0.5") == torch  # the table's business
    assert keys("algorithm=topr", "rollout.engine=vllm", "hardware.vllm.mode=server", "hardware.vllm.rows=3") == vllm


def test_what_a_stage_occupies():
    def slots(*overrides):
        return {name: (node.hardware.processes, node.hardware.server_slots)
                for name, node in graph("algorithm=topr", "hardware.processes=4", *overrides).items()}

    alone, server = (1, 0), "hardware.vllm.mode=server"
    assert slots() == {"data": alone, "lengths": alone, "base": alone, "warm start": (4, 0), "train": (4, 0), "generate": alone, "score": alone,
                       "logprobs": alone}
    shared = slots("rollout.engine=vllm", "hardware.vllm.tensor_parallel=2")
    assert (shared["train"], shared["generate"], shared["base"]) == ((4, 0), (2, 0), alone)
    served = slots("rollout.engine=vllm", server, "hardware.vllm.tensor_parallel=2", "hardware.vllm.data_parallel=2")
    assert (served["train"], served["generate"], served["warm start"]) == ((4, 4), (1, 4), (4, 0))
    assert slots("rollout.engine=vllm", server, "hardware.vllm.server_url=http://localhost:8000")["train"] == (4, 0)


@pytest.mark.parametrize(("overrides", "line"), [
    (["hardware.sharding=fsdp"], "hardware.sharding=fsdp shards over several processes"),
    (["hardware.sharding=fsdp", "hardware.processes=2"], "rollout.engine=torch cannot draw from weights"),
    (["rollout.engine=vllm", "hardware.processes=3", "hardware.vllm.tensor_parallel=2"], "hardware.vllm.tensor_parallel=2 does not divide"),
    (["rollout.engine=vllm", "model.finetune=lora", "model.lora.rank=513"], "model.lora.rank=513 is above 512"),
    (["rollout.engine=vllm", "task.eval_no_repeat_ngram=3"], "task.eval_no_repeat_ngram=3: vLLM cannot forbid repeats"),
    (["rollout.engine=vllm", "algorithm.sampling.no_repeat_ngram=2"], "algorithm.sampling.no_repeat_ngram=2: vLLM cannot"),
    (["rollout.engine=vllm", "task.reward_model.no_repeat_ngram=2"], "task.reward_model.no_repeat_ngram=2: vLLM cannot"),
    (["rollout.engine=vllm", "hardware.vllm.sleep=true"], "hardware.vllm.sleep gives a GPU's memory back"),
    (["rollout.engine=vllm", "hardware.vllm.server_url=http://localhost:8000"], "hardware.vllm.server_url names a server"),
])
def test_placements_that_cannot_be_are_refused_in_one_line(overrides, line):
    with pytest.raises(UserError) as caught:
        build(["algorithm=topr", *overrides])
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_demonstrations_train_sharded_with_any_engine():
    assert build(["algorithm=sft", "hardware.sharding=fsdp", "hardware.processes=2"]).hardware.sharding == "fsdp"


def test_a_gate_on_what_no_score_has_is_refused_where_it_is_planned():
    with pytest.raises(UserError, match=r"gate.part: no score has a part 'vaild' \(did you mean 'valid'\?\)"):
        graph("task.pretrain.gate.part=vaild")


@pytest.mark.parametrize("length", ["rollout", "evaluation", "demonstration"])
def test_a_model_from_scratch_holds_as_many_tokens_as_it_has_positions(length):
    assert graph("model.max_positions=50", f"task.max_tokens_{length}=50")
    with pytest.raises(UserError, match=f"task.max_tokens_{length}=51 is beyond model.max_positions=50"):
        graph("model.max_positions=50", f"task.max_tokens_{length}=51")


def test_a_base_model_is_gated_plainly_whatever_the_cell_draws():
    """By its own engine, one response a prompt, whole weights: how it is finetuned or drawn from later says nothing."""
    base = graph("rollout.engine=vllm", "task.eval_draws=7", "model.finetune=lora", "model.lr_multiplier=3.0")["base"].config
    generation = base.gate.generation
    assert (generation.engine, generation.draws, generation.decoding.kind) == ("torch", 1, "plain")
    assert (base.model.finetune, base.model.lr_multiplier, base.settings.kl_ref_every) == ("full", 1.0, 0)
