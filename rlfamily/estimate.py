"""What a stage may ask of GPUs: memory in GiB a GPU, and GPU-hours. Arithmetic on settings: nothing is run or measured.

Upper bounds on tokens: every response is taken to be as long as its limit, and prompts take all that the limit of both
leaves beside it; without a limit of its own a response takes that of both. What GPUs reach is assumed (conf/hardware,
`gpu`). Loading, rewards' own time, judges and log-probs are left out.
Suffixes of names: N parameters of the model, A parameters of its adapters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from rlfamily.hardware import Gpu, StageHardware
from rlfamily.models import Finetuning, ModelSize
from rlfamily.stages.graph import Node
from rlfamily.stages.kind import Work, cost_of, get_kind
from rlfamily.stages.kinds import hub

GIB = 2.0**30
FP32, BF16 = 4, 2  # bytes
ADAM = 2 * FP32  # two moments
# Bytes that a layer keeps for the backward pass in bf16, counted on these model classes (tests/test_activations.py): a
# token and unit of width, a token and unit of the MLP's width; and of the key and value that a row has of each of its
# tokens, its prompt's among them, on devices without kernels for shared prompts.
KEPT, KEPT_INSIDE, KEPT_KEYS = 36, 8, 2 * BF16
LOGIT = 2 * BF16  # bytes of a logit in training: itself and its gradient in bf16; core.logprobs widens a few at a time
# Bytes of one logit while drawing: bf16 and its selection, fp32, tempered, log-softmax, probability, sum
# (TorchEngine.choose).
DRAWN_LOGIT = 2 * BF16 + 5 * FP32
# Parameters of published reward models, by their architectures; read in fp32.
REWARD_MODELS = {
    "Ray2333/gpt2-large-helpful-reward_model": 774_030_080,  # GPT-2 large
    "Ray2333/gpt2-large-harmless-reward_model": 774_030_080,  # GPT-2 large
    "Tristan/gpt2_reward_summarization": 124_439_808,  # GPT-2
    "CogComp/bart-faithful-summary-detector": 406_000_000,  # BART large, rounded
    "openai/clip-vit-large-patch14": 428_000_000,  # CLIP ViT-L/14, rounded
}


@dataclass(frozen=True)
class Memory:
    """GiB of one GPU that trains.

    weights      fp32 weights, the frozen copy of the reference, and reward models
    optimizer    gradients and AdamW's moments
    activations  of one micro-batch, with its logits and the bf16 copies of the weights
    engine       the engine's own weights, its KV cache, and the logits of its rows
    apart        the engine's memory is free while training, or is taken from what training leaves free
    """

    weights: float
    optimizer: float
    activations: float
    engine: float
    apart: bool

    @property
    def peak(self) -> float:
        """The most that is needed at once."""
        if self.apart:
            return self.weights + self.optimizer + max(self.activations, self.engine)
        return self.weights + self.optimizer + self.activations + self.engine


@dataclass(frozen=True)
class Estimate:
    """GPUs that a stage occupies, memory of each that trains, what such a GPU has in GiB, and GPU-hours."""

    gpus: int
    memory: Memory
    limit: float
    hours: float


def adapter_parameters(size: ModelSize, rank: int) -> int:
    """A of LoRA on all linear layers but the output: rank x (inputs + outputs) of q, k, v, o, gate, up and down.

    Behind an encoder a layer has q, k, v and o twice: it attends to the prompt apart.
    """
    hidden, queries, keys = size.hidden_size, size.heads * size.head_dim, size.kv_heads * size.head_dim
    attention, inside = 2 * (hidden + queries) + 2 * (hidden + keys), 3 * (hidden + size.intermediate_size)
    twice = 2 if size.encoder_layers else 1
    return rank * (size.layers * (twice * attention + inside) + size.encoder_layers * (attention + inside))


def passed_by(size: ModelSize) -> tuple[int, int]:
    """Parameters that a prompt's token meets, and a response's: all, or those of the encoder and all but those."""
    if not size.encoder_layers:
        return size.parameters, size.parameters
    attention = 2 * size.hidden_size * (size.heads + size.kv_heads) * size.head_dim
    encoder = size.encoder_layers * (attention + 3 * size.hidden_size * size.intermediate_size)
    return encoder, size.parameters - encoder


def layers_passed(size: ModelSize, work: Work) -> float:
    """Layers that a token of a row meets on average; behind an encoder one and a half each, for what it reads there."""
    if not size.encoder_layers:
        return size.layers
    of_response = work.response / work.tokens
    return 1.5 * size.layers * of_response + size.encoder_layers * (1 - of_response)


def kv_bytes(size: ModelSize) -> int:
    """Bytes of KV cache a token, in bf16: key and value of every layer and head (behind an encoder of prompts' too)."""
    return 2 * BF16 * size.layers * size.kv_heads * size.head_dim


def training_memory(
    size: ModelSize, tuning: Finetuning, work: Work, hardware: StageHardware
) -> tuple[float, float, float]:
    """GiB of weights, of gradients with optimiser, and of activations with logits; the last two 0 without training.

    Weights 4N (drawing with vLLM loads none), once more for a reference beside full finetuning (adapters are switched
    off instead); gradients and moments 12 bytes a trained parameter. Sharding divides these by the processes.
    Activations: what every layer keeps (KEPT and its like), logits with their gradient, and 2N for the bf16 copies that
    a backward pass keeps whole; without bf16 twice as much and no copies.
    """
    shards = work.processes if hardware.sharding == "fsdp" else 1
    adapters = adapter_parameters(size, tuning.lora.rank) if tuning.finetune == "lora" else 0
    copies = 2 if work.reference and not adapters else 1
    policy = FP32 * (copies * size.parameters + adapters) / shards
    if not work.trained:  # vLLM draws from weights of its own
        return FP32 * (work.rewards + (0 if work.engine == "vllm" else size.parameters)) / GIB, 0.0, 0.0
    tokens = min(work.tokens * math.ceil(work.batch / work.processes), max(work.limit, hardware.micro_tokens))
    half = tuning.dtype == "bf16"
    keys = KEPT_KEYS * work.limit / work.tokens  # each row's own copy of its prompt's
    layer = (KEPT + keys) * size.hidden_size + KEPT_INSIDE * size.intermediate_size
    kept = tokens * (layers_passed(size, work) * layer + size.vocabulary * LOGIT) * (1 if half else 2)
    copied = BF16 * size.parameters if half else 0
    optimizer = (FP32 + ADAM) * (adapters or size.parameters) / shards
    weights = policy + FP32 * work.rewards
    return weights / GIB, optimizer / GIB, (kept + copied) / GIB


def engine_memory(size: ModelSize, work: Work, hardware: StageHardware) -> tuple[float, bool]:
    """GiB of the engine on a GPU that trains, and whether it is apart from training's activations.

    torch: KV cache and logits of the rows decoded together; the weights are the policy's own. vLLM: the share of the
    GPU that it takes, or 2N and the cache it is given; nothing when a server has GPUs of its own.
    """
    vllm = hardware.vllm
    if not work.drawn or hardware.gpu is None:
        return 0.0, True
    if work.engine == "torch":
        rows = min(hardware.rollout_batch, math.ceil(work.batch / work.processes))
        return rows * (work.limit * kv_bytes(size) + DRAWN_LOGIT * size.vocabulary) / GIB, True
    if vllm.mode == "server":
        return 0.0, True
    weights = BF16 * size.parameters / vllm.tensor_parallel / GIB
    if vllm.kv_cache_mib:
        return weights + vllm.kv_cache_mib / 1024, vllm.sleep
    least = weights + work.limit * kv_bytes(size) / vllm.tensor_parallel / GIB  # room for one response
    return max(least, vllm.memory_share * hardware.gpu.memory_gib), vllm.sleep


def training_seconds(size: ModelSize, work: Work, gpu: Gpu) -> float:
    """2 FLOP x N x tokens x passes, at the assumed share of the peak of each GPU; N as `passed_by` says."""
    of_prompt, of_response = passed_by(size)
    row = of_response * work.response + of_prompt * (work.tokens - work.response)
    flop = 2 * row * work.trained * work.passes
    return flop / (work.processes * gpu.tflops * 1e12 * gpu.utilization)


def drawing_seconds(
    size: ModelSize, work: Work, gpu: Gpu, rows: int, engines: int, gpus_each: int
) -> float:
    """A decoding step for each token of a response and `rows` of an engine's share of a batch; prompts are read before.

    A step reads the weights once (2N in vLLM; 4N, fp32, in torch) and the KV cache of a row with half its response, and
    computes 2 FLOP a parameter and row; the slower of the two counts. Prompts cost 2 FLOP a parameter and token.
    `gpus_each` GPUs share an engine.
    """
    if not work.drawn:
        return 0.0
    share = math.ceil(work.batch / engines)
    rounds = work.drawn / work.batch * math.ceil(share / rows)
    rows = min(rows, share)
    of_prompt, of_response = passed_by(size)
    weights = (FP32 if work.engine == "torch" else BF16) * of_response
    cached = rows * (work.limit - work.response / 2) * kv_bytes(size)
    reading = (weights + cached) / (gpus_each * gpu.bandwidth_gib_s * GIB)
    computing = 2 * of_response / (gpus_each * gpu.tflops * 1e12 * gpu.utilization)  # a token
    prompts = work.drawn / work.group / engines * (work.limit - work.response) * of_prompt / of_response
    return prompts * computing + rounds * work.response * max(reading, rows * computing)


def estimate(node: Node, size: ModelSize) -> Estimate | None:
    """The stage's GPUs, memory and GPU-hours for a model of this size; None for stages that are not estimated."""
    work, hardware = work_of(node), node.hardware
    if work is None or hardware.gpu is None:
        return None
    if "fitted" in node.inputs:  # a reward model fitted to preferences, of the policy's own size
        work = replace(work, rewards=work.rewards + size.parameters)
    tuning: Finetuning = node.config.finetuning  # type: ignore[attr-defined]  # whatever is estimated has one
    vllm = hardware.vllm
    server = work.engine == "vllm" and vllm.mode == "server" and work.drawn > 0
    shared = vllm.tensor_parallel if work.engine == "vllm" else 1
    engines = vllm.data_parallel if server else max(1, work.processes // shared)
    rows = vllm.rows if work.engine == "vllm" else hardware.rollout_batch
    seconds = training_seconds(size, work, hardware.gpu) + drawing_seconds(
        size, work, hardware.gpu, rows, engines, shared)
    gpus = hardware.processes + hardware.server_slots
    parts = training_memory(size, tuning, work, hardware)
    engine, apart = engine_memory(size, work, hardware)
    return Estimate(gpus, Memory(*parts, engine, apart), hardware.gpu.memory_gib, gpus * seconds / 3600)


def work_of(node: Node) -> Work | None:
    """What a stage computes, the published reward models beside the policy included; None when not estimated."""
    work = cost_of(get_kind(node.kind), node.config, node.hardware)
    return work and replace(work, rewards=sum(REWARD_MODELS.get(path, 0) for path in _reward_paths(node)))


def _reward_paths(node: Node) -> list[str]:
    """The published reward models beside the policy; those of unknown size count nothing (see `unknown`)."""
    sources = node.inputs.get("rewards", {})
    models = sources.values() if isinstance(sources, Mapping) else []
    return [source.config.path for source in models if isinstance(source.config, hub.Config)]


def unknown(nodes: Iterable[Node]) -> list[str]:
    """Published reward models whose size is not known here, so that estimates leave them out."""
    return sorted({path for node in nodes for path in _reward_paths(node)} - set(REWARD_MODELS))
