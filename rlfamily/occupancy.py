"""What a stage of a configuration occupies while it runs."""

from __future__ import annotations

from pathlib import Path

from rlfamily.config import RunConfig
from rlfamily.hardware import StageHardware
from rlfamily.settings import Strict


def occupied(run: RunConfig, table: str, kind: str, config: Strict) -> StageHardware:
    """Only training runs as several processes, and a policy's server has its own slots."""
    hardware, placed = run.hardware, run.hardware.vllm
    drawing = getattr(config, "rollout", None) or getattr(config, "generation", None) or config
    vllm = getattr(drawing, "engine", "") == "vllm"
    serves = vllm and placed.mode == "server" and placed.server_url is None
    own = {"processes": hardware.processes if kind == "train" else placed.shared if vllm else 1,
           "server_slots": placed.tensor_parallel * placed.data_parallel if serves else 0,
           "wandb": run.wandb, "wandb_folder": str(Path(run.results).resolve()),
           "wandb_names": run.names | ({"table": table} if table else {})}
    return StageHardware.model_validate(hardware.model_dump() | own)
