"""The machine's shape: nothing here may change a number, so nothing here enters a stage's key."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlfamily.settings import Strict, Url


class VllmPlacement(Strict):
    """How vLLM is placed on the machine; none of it may change a number.

    mode               colocated: in each training process; server: an OpenAI-compatible server of its own
    server_url         a server that runs already; null: each stage starts one, on processors of its own
    tensor_parallel    processes (colocated) or processors (server) that share one copy of the model
    data_parallel      copies of the model behind a server; colocated, every group of processes has its own
    memory_share       share of a GPU's memory for weights and KV cache
    kv_cache_mib       size of the KV cache in MiB instead, for CPUs; 0: what memory_share leaves
    rows               responses decoded together
    eager              no CUDA graphs and no compilation: slower, starts sooner
    sleep              give the GPU's memory back between rollouts
    retries            of a call to a server that fails for a passing reason
    timeout_seconds    of a call to a server, and of its start
    """

    mode: Literal["colocated", "server"]
    server_url: Url | None
    tensor_parallel: int = Field(gt=0)
    data_parallel: int = Field(gt=0)
    memory_share: float = Field(gt=0, le=1)
    kv_cache_mib: int = Field(ge=0)
    rows: int = Field(gt=0)
    eager: bool
    sleep: bool
    retries: int = Field(ge=0)
    timeout_seconds: float = Field(gt=0)

    @property
    def shared(self) -> int:
        """Training processes that draw with one engine together, and so draw the same responses."""
        return self.tensor_parallel if self.mode == "colocated" else 1


class Gpu(Strict):
    """What estimates assume of one GPU: memory in GiB, peak TFLOP/s in bf16, memory bandwidth in GiB/s.

    `utilization` is the share of the peak that training and prefill are taken to reach.
    """

    memory_gib: float = Field(gt=0)
    tflops: float = Field(gt=0)
    bandwidth_gib_s: float = Field(gt=0)
    utilization: float = Field(gt=0, le=1)


class Hardware(Strict):
    """A choice of the hardware group."""

    kind: Literal["cpu", "gpu"]
    slots: int = Field(ge=0)
    processes: int = Field(gt=0)
    sharding: Literal["none", "fsdp"]
    micro_tokens: int = Field(gt=0)
    micro_batch: int = Field(gt=0)
    rollout_batch: int = Field(gt=0)
    checkpoint_seconds: float = Field(ge=0)
    vllm: VllmPlacement
    gpu: Gpu | None


class StageHardware(Hardware):
    """The hardware as one stage has it: `processes` are its own, `server_slots` those of a server that it starts.

    `wandb` and `wandb_folder` say where a run is mirrored to, `wandb_names` what of: what was chosen in each group of
    settings, and the `table` it was first planned for.
    """

    server_slots: int = Field(ge=0)
    wandb: Literal["offline", "online", "off"]
    wandb_folder: str
    wandb_names: dict[str, str]
