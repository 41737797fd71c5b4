"""What plans say of GPUs: every formula against numbers worked by hand, and the printed lines."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rlfamily import costs, experiment, plan, reproduce
from rlfamily.config import build
from rlfamily.estimate import (
    GIB,
    Memory,
    adapter_parameters,
    drawing_seconds,
    engine_memory,
    estimate,
    kv_bytes,
    layers_passed,
    passed_by,
    training_memory,
    training_seconds,
    unknown,
    work_of,
)
from rlfamily.hardware import Gpu
from rlfamily.models import Finetuning, Lora, ModelSize
from rlfamily.place import alone
from rlfamily.stages.graph import topological
from rlfamily.stages.kind import Work

MILLION = 2**20
# 2 layers of 8 wide; queries 4 heads x 2, keys 1 head x 2; 16 inside, 32 words; a round number of parameters.
SIZE = ModelSize(parameters=MILLION, layers=2, encoder_layers=0, hidden_size=8, intermediate_size=16, heads=4, kv_heads=1,
                 head_dim=2, vocabulary=32)
LORA = Lora(rank=4, alpha=8, targets="all-linear")
FULL = Finetuning(dtype="bf16", finetune="full", lora=LORA, lr_multiplier=1.0)
ADAPTED = FULL.model_copy(update={"finetune": "lora"})
# a full KV cache of a row of 100 tokens: 16 bytes a token (see below)
GPU = Gpu(memory_gib=10.0, tflops=0.001, bandwidth_gib_s=1.0, utilization=0.5)
SHIPPED = build(["hardware=gpu"]).hardware
VLLM = SHIPPED.vllm.model_copy(update={"memory_share": 0.4, "rows": 8})


def machine(vllm=None, **changes):
    """A small machine with the given changes."""
    own = {"micro_tokens": 200, "micro_batch": 2, "rollout_batch": 16, "gpu": GPU.model_dump(),
           "vllm": VLLM.model_copy(update=vllm or {}).model_dump()}
    return alone(Path(tempfile.mkdtemp()), SHIPPED, **own | changes).hardware


HARDWARE = machine()
WORK = Work(limit=100, batch=12, trained=1200, passes=4, drawn=1200, engine="torch")


def test_adapters_and_cache_by_hand() -> None:
    # q and o 8+8, k and v 8+2, three of 8+16: 2*16 + 2*10 + 3*24 = 124; times rank 4 and 2 layers
    assert adapter_parameters(SIZE, 4) == 4 * 2 * 124
    assert kv_bytes(SIZE) == 2 * 2 * 2 * 1 * 2  # key and value, bf16, layers, heads, width


@pytest.mark.parametrize(("name", "rank", "adapters", "cache"), [
    # Llama-3.1-8B: 4 x rank x (...) as peft prints it for r=64, and 128 KiB of cache a token
    ("llama31_8b_instruct", 64, 167_772_160, 131_072),
    ("qwen25_05b", 8, 4_399_104, 12_288),
])
def test_sizes_of_published_models(name, rank, adapters, cache) -> None:
    size = build([f"model={name}"]).model.size
    assert adapter_parameters(size, rank) == adapters
    assert kv_bytes(size) == cache


@pytest.mark.parametrize(("name", "tied", "bias"), [
    ("qwen25_05b", True, True), ("qwen25_15b_instruct", True, True), ("qwen25_math_7b", False, True),
    ("llama32_3b_instruct", True, False), ("llama31_8b_instruct", False, False)])
def test_parameters_are_those_of_the_shape(name, tied, bias) -> None:
    size = build([f"model={name}"]).model.size
    hidden, queries, keys = size.hidden_size, size.heads * size.head_dim, size.kv_heads * size.head_dim
    layer = 2 * hidden * queries + 2 * hidden * keys + 3 * hidden * size.intermediate_size + 2 * hidden
    layer += (queries + 2 * keys) * bias
    assert size.parameters == size.layers * layer + hidden + size.vocabulary * hidden * (1 if tied else 2)


@pytest.mark.parametrize(("tuning", "changes", "hardware", "weights", "optimizer"), [
    (FULL, {}, {}, 4, 12),
    (FULL, {"reference": True}, {}, 8, 12),
    (FULL, {"reference": True, "rewards": MILLION}, {}, 12, 12),
    (FULL, {"processes": 4, "reference": True, "rewards": MILLION}, {"sharding": "fsdp"}, 2 + 4, 3),
    (FULL, {"processes": 4}, {}, 4, 12),  # whole on every GPU
    (ADAPTED, {"reference": True}, {}, 4 + 4 * 992 / MILLION, 12 * 992 / MILLION),
])
def test_weights_and_optimiser_by_hand(tuning, changes, hardware, weights, optimizer) -> None:
    """In MiB, as there are 2^20 parameters."""
    found = training_memory(SIZE, tuning, Work(**vars(WORK) | changes), machine(**hardware))
    assert [1024 * part for part in found[:2]] == pytest.approx([weights, optimizer])


def test_activations_by_hand() -> None:
    # two rows of 100 tokens: 2 layers of 8 x 36 + 16 x 8 bytes a token, and 8 x 4 for its key and value; 32 logits with
    # their gradients, and bf16 copies
    kept, logits, copies = 200 * 2 * (8 * 36 + 16 * 8 + 8 * 4), 200 * 32 * 4, 2 * MILLION
    assert training_memory(SIZE, FULL, WORK, HARDWARE)[2] * GIB == pytest.approx(kept + logits + copies)
    fp32 = FULL.model_copy(update={"dtype": "fp32"})
    assert training_memory(SIZE, fp32, WORK, HARDWARE)[2] * GIB == pytest.approx(2 * (kept + logits))
    one_row_each = Work(**vars(WORK) | {"processes": 12})
    assert training_memory(SIZE, FULL, one_row_each, HARDWARE)[2] * GIB == pytest.approx((kept + logits) / 2 + copies)


@pytest.mark.parametrize(("engine", "mebibytes"), [("torch", 4 + 8), ("vllm", 8)])
def test_drawing_alone_needs_the_weights_where_torch_draws(engine, mebibytes) -> None:
    work = Work(limit=100, batch=9, drawn=9, engine=engine, rewards=2 * MILLION)
    assert training_memory(SIZE, FULL, work, HARDWARE) == (mebibytes / 1024, 0, 0)


@pytest.mark.parametrize(("changes", "vllm", "gib", "apart"), [
    ({}, {}, 12 * (100 * 16 + 24 * 32) / GIB, True),
    ({"batch": 100}, {}, 16 * (100 * 16 + 24 * 32) / GIB, True),  # rollout_batch
    ({"engine": "vllm"}, {}, 4.0, False),
    ({"engine": "vllm"}, {"sleep": True}, 4.0, True),
    ({"engine": "vllm"}, {"kv_cache_mib": 512, "tensor_parallel": 2}, 0.5 + 1 / 1024, False),
    ({"engine": "vllm"}, {"memory_share": 1e-9}, (2 * MILLION + 1600) / GIB, False),  # less than it needs
    ({"engine": "vllm"}, {"mode": "server"}, 0.0, True),
    ({"drawn": 0}, {}, 0.0, True),
])
def test_the_engines_memory_by_hand(changes, vllm, gib, apart) -> None:
    found = engine_memory(SIZE, Work(**vars(WORK) | changes), machine(vllm))
    assert found == (pytest.approx(gib), apart)


def test_the_peak_counts_what_is_there_at_once() -> None:
    assert Memory(1, 2, 3, 4, apart=True).peak == 1 + 2 + 4
    assert Memory(1, 2, 3, 4, apart=False).peak == 1 + 2 + 3 + 4


def test_training_time_by_hand() -> None:
    # 2 x 2^20 FLOP x 1200 rows x 100 tokens x 4 passes at half of 1e9 a second
    assert training_seconds(SIZE, WORK, GPU) == pytest.approx(2 * MILLION * 1200 * 100 * 4 / 5e8)
    assert training_seconds(SIZE, Work(**vars(WORK) | {"processes": 3}), GPU) == pytest.approx(
        training_seconds(SIZE, WORK, GPU) / 3)


def test_drawing_time_by_hand() -> None:
    fast = GPU.model_copy(update={"tflops": 1e6})
    # 100 batches of 12 rows, 8 at a time: 2 rounds of 100 steps; each reads fp32 weights and 8 rows' half cache
    read = 4 * MILLION + 8 * 50 * 16
    assert drawing_seconds(SIZE, WORK, fast, 8, 1, 1) == pytest.approx(100 * 2 * 100 * read / GIB)
    vllm = Work(**vars(WORK) | {"engine": "vllm"})
    # three engines of two GPUs each: 4 rows an engine, one round
    assert drawing_seconds(SIZE, vllm, fast, 8, 3, 2) == pytest.approx(100 * 100 * (2 * MILLION + 4 * 50 * 16) / 2 / GIB)
    # slow arithmetic: 2 FLOP a parameter and row, at half of 1e9 a second
    assert drawing_seconds(SIZE, WORK, GPU, 8, 1, 1) == pytest.approx(100 * 2 * 100 * 2 * MILLION * 8 / 5e8)


def test_a_limit_of_new_tokens_by_hand() -> None:
    """Rows of 100 tokens of which 20 are new, three to a prompt: 20 + 80 / 3 tokens a row."""
    work, fast = Work(**vars(WORK) | {"new": 20, "group": 3}), GPU.model_copy(update={"tflops": 1e6})
    assert work.tokens == pytest.approx(140 / 3) and (WORK.tokens, WORK.response) == (100, 100)
    assert training_seconds(SIZE, work, GPU) == pytest.approx(training_seconds(SIZE, WORK, GPU) * 1.4 / 3)
    small = training_memory(SIZE, FULL, work, machine(micro_tokens=10**6))[2] * GIB  # the whole batch: 4 x 140 tokens
    keys = 4 * 8 * 100 / (140 / 3)  # a row copies the keys and values of its prompt
    assert small == pytest.approx(560 * (2 * (8 * 36 + 16 * 8 + keys) + 32 * 4) + 2 * MILLION)
    # 100 batches, 2 rounds of 20 steps; each reads fp32 weights and 8 rows' cache of 80 + 20/2
    read = 4 * MILLION + 8 * 90 * 16
    assert drawing_seconds(SIZE, work, fast, 8, 1, 1) == pytest.approx(100 * 2 * 20 * read / GIB, rel=1e-4)
    # slow arithmetic: 8 rows a step, and 400 prompts of 80 tokens before
    assert drawing_seconds(SIZE, work, GPU, 8, 1, 1) == pytest.approx((100 * 2 * 20 * 8 + 400 * 80) * 2 * MILLION / 5e8)


# ---------------------------------------------------------------------------- from settings


def nodes(*overrides, roles=("train", "score")):
    return plan.stages(build(["task=countdown", "model=qwen25_05b", "hardware=gpu", *overrides]), roles)


def test_a_runs_work_is_read_from_its_settings() -> None:
    own = ("algorithm=rloo", "algorithm.prompts=500", "algorithm.batch_prompts=10", "algorithm.group_size=4",
           "algorithm.epochs=3", "algorithm.inner_updates=2", "algorithm.kl_ref_every=5", "algorithm.kl.coef=0")
    made = nodes(*own, "algorithm.resample_each_epoch=true", "hardware.micro_tokens=2048")
    work = work_of(made["train"])
    # two updates of forward, again, backward twice; a reference at every fifth step
    assert work == Work(limit=256, batch=40, group=4, trained=6000, passes=2 * 4 + 0.2, drawn=6000, engine="torch",
                        reference=True)
    assert work_of(nodes(*own, "algorithm.resample_each_epoch=false")["train"]).drawn == 2000
    assert work_of(nodes(*own, "hardware.micro_tokens=16384", "model.finetune=lora")["train"]).passes == 2 * 2 + 0.2
    assert work_of(made["score"].inputs["responses"]) == Work(
        limit=256, batch=1024 * 5, group=5, drawn=1024 * 5, engine="torch")
    assert work_of(made["train"].inputs["data"]) is None
    sft = work_of(nodes("algorithm=sft")["train"])
    assert (sft.drawn, sft.limit, sft.engine) == (0, 512, "")
    limited = nodes(*own, "task.max_new_tokens_rollout=56", "task.max_new_tokens_evaluation=100",
                    "hardware.micro_tokens=4240")  # 10 groups of a prompt of 200 and 4 x 56
    assert (work_of(limited["train"]).new, work_of(limited["train"]).passes) == (56, 2 * 3 + 0.2)
    assert work_of(nodes(*own, "task.max_new_tokens_rollout=57", "hardware.micro_tokens=4240")["train"]).passes > 6.2 + 1
    assert work_of(limited["score"].inputs["responses"]).new == 100


def test_reward_models_stand_beside_the_policy() -> None:
    made = nodes("task=helpful", "algorithm=grpo")
    assert work_of(made["train"]).rewards == 2 * 774_030_080
    assert unknown(made.values()) == []
    other = nodes("task=helpful", "algorithm=grpo", "task.reward.models.helpful.path=somebody/else")
    assert unknown(other.values()) == ["somebody/else"]
    size = build(["model=qwen25_05b"]).model.size
    plain, learned = (estimate(nodes("algorithm=rloo", f"algorithm.reward={reward}")["train"], size).memory.weights
                      for reward in ("task", "reward_model"))
    assert learned - plain == pytest.approx(4 * size.parameters / GIB)


def test_gpus_are_the_processes_and_the_stages_own_server() -> None:
    size = build(["model=qwen25_05b"]).model.size
    server = ["rollout.engine=vllm", "hardware.vllm.mode=server", "hardware.vllm.tensor_parallel=2",
              "hardware.vllm.data_parallel=2", "hardware.processes=4", "hardware.sharding=fsdp"]

    def gpus(*overrides):
        return estimate(nodes("algorithm=topr", *overrides)["train"], size).gpus

    assert gpus() == 1
    assert gpus(*server) == 8
    assert gpus(*server, "hardware.vllm.server_url=http://127.0.0.1:8000/v1") == 4
    assert gpus(*server, "hardware.vllm.mode=colocated") == 4
    assert estimate(nodes("algorithm=topr", *server)["score"].inputs["responses"], size).gpus == 1 + 4


def test_a_servers_engines_share_what_is_drawn_and_colocated_ones_are_the_processes() -> None:
    size = build(["model=qwen25_05b"]).model.size
    vllm = ["rollout.engine=vllm", "hardware.vllm.tensor_parallel=2", "hardware.processes=8", "hardware.sharding=fsdp"]
    for mode, replicas, engines in (("server", 1, 1), ("server", 3, 3), ("colocated", 1, 8 // 2)):
        node = nodes("algorithm=topr", *vllm, f"hardware.vllm.mode={mode}", f"hardware.vllm.data_parallel={replicas}")["train"]
        work, gpu, found = work_of(node), node.hardware.gpu, estimate(node, size)
        seconds = training_seconds(size, work, gpu) + drawing_seconds(size, work, gpu, node.hardware.vllm.rows, engines, 2)
        assert found.gpus == 8 + (2 * replicas if mode == "server" else 0)
        assert found.hours == pytest.approx(found.gpus * seconds / 3600), (mode, replicas)


def test_an_encoder_is_passed_by_prompts_and_the_rest_by_responses() -> None:
    size = SIZE.model_copy(update={"encoder_layers": 3})
    # a layer's attention 2*8*(4+1)*2 = 160, its MLP 3*8*16 = 384
    assert passed_by(size) == (3 * 544, MILLION - 3 * 544)
    assert passed_by(SIZE) == (MILLION, MILLION)
    # attention 2*16 + 2*10 = 52 twice a layer, MLP 72: 2*(104 + 72) + 3*(52 + 72) = 724
    assert adapter_parameters(size, 4) == 4 * 724
    work = Work(limit=100, batch=12, new=40, group=2, trained=10, passes=4)  # a row: 40, and half of 60
    flop = 2 * 10 * 4 * (40 * (MILLION - 1632) + 30 * 1632)
    assert training_seconds(size, work, GPU) == pytest.approx(flop / (0.001e12 * 0.5))
    assert layers_passed(size, work) == pytest.approx((1.5 * 2 * 40 + 3 * 30) / 70)


@pytest.mark.parametrize("name", ["small", "large", "xl"])
def test_flan_t5_has_the_size_that_its_settings_say(name) -> None:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    size = build([f"model=flan_t5_{name}"]).model.size
    with torch.device("meta"):
        model = T5ForConditionalGeneration(T5Config(
            vocab_size=size.vocabulary, d_model=size.hidden_size, d_ff=size.intermediate_size, d_kv=size.head_dim,
            num_layers=size.encoder_layers, num_decoder_layers=size.layers, num_heads=size.heads,
            feed_forward_proj="gated-gelu"))
    tied = model.lm_head.weight.numel()  # transformers ties what Flan-T5's files hold twice
    assert sum(weight.numel() for weight in model.parameters()) + tied == size.parameters


# ---------------------------------------------------------------------------- the printed plan


def planned(tmp_path, capsys, *arguments):
    assert reproduce.main(reproduce.parse([*arguments, "--plan", f"results={tmp_path}"])) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in experiment.names() if "paper" in experiment.load(name).scales])
def test_every_paper_scale_table_plans_and_fits_its_hardware(tmp_path, capsys, name) -> None:
    text = planned(tmp_path, capsys, name, "scale=paper", "rows=all")
    over = [" ".join(line.split()) for line in text.splitlines() if " ! " in line]
    assert not over, f"need more GiB than a GPU has: {over}"
    trains = bool(experiment.load(name).stages) and experiment.load(name).stages not in (["theory"], ["targets"], ["accuracy"])
    assert ("GPU-hours, at most" in text) == (trains and experiment.load(name).kind != "settings")


def test_the_plan_of_a_table(tmp_path, capsys) -> None:
    text = " ".join(planned(tmp_path, capsys, "topr_tab2", "scale=paper", "seeds=0,1").split())
    hours = float(re.search(r"about ([\d.]+) GPU-hours, at most 1 GPUs a cell: an estimate", text)[1])
    assert hours > 0
    assert "!" not in text.split("GPU-hours, at most")[1]  # half a billion parameters fit
    assert re.search(r"the largest cell needs [\d.]+ of 80 GiB: Experiment 2 ", text)
    tight = " ".join(planned(tmp_path, capsys, "topr_tab2", "scale=paper", "hardware.gpu.memory_gib=10").split())
    assert "cells need more than a GPU has (!)" in tight
    assert "GPU-hours" not in planned(tmp_path, capsys, "topr_tab2")  # tiny scale has no GPU


def test_shared_stages_and_finished_ones_count_once_or_not_at_all() -> None:
    cells = plan.cells(experiment.load("gnivo_tab1"), "paper", rows=["Ours"])
    keys = {node.key for cell in cells for node in topological(cell.stages.values()) if node.kind in ("train", "generate")}
    made = costs.lines(cells, keys)
    by_hand = {node.key: found.hours for cell in cells for node in topological(cell.stages.values())
               if (found := estimate(node, cell.config.model.size))}
    assert len(by_hand) == len(keys) < 2 * len(cells)
    assert sum(line.hours for line in made) == pytest.approx(sum(by_hand.values()))
    assert sum(line.cells for line in made) == len(cells)
    assert sum(line.hours for line in costs.lines(cells, set())) == 0


def test_a_plan_imports_no_torch() -> None:
    code = ("import sys; from rlfamily import reproduce; "
            "reproduce.main(reproduce.parse(['topr_tab2', 'scale=paper', '--plan', 'results=/nonexistent'])); "
            "assert not {'torch', 'transformers', 'vllm'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
