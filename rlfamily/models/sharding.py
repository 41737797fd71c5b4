"""FSDP2 through accelerate: each process of a run holds a share of the weights, gradients and optimiser state.

Every pass through a sharded model is collective: all processes must make as many, in the same order. The optimiser
works value by value, so it is given the shares as plain tensors; only the gradient norm needs all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, ParallelismConfig
from accelerate.utils import FullyShardedDataParallelPlugin, InitProcessGroupKwargs
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from rlfamily.errors import UserError
from rlfamily.hardware import Hardware
from rlfamily.models import Finetuning, policy
from rlfamily.models.loaded import Loaded
from rlfamily.models.policy import Policy
from rlfamily.models.sharded import is_sharded, kept

Model = TypeVar("Model", bound=Loaded)

# How long processes wait for one another: for the first one, while it writes a large checkpoint or starts a server.
# Nobody waits for the dead: torchrun ends all processes when one dies.
PATIENCE = timedelta(hours=6)


def accelerator(hardware: Hardware) -> Accelerator:
    """CPU, one GPU, or the processes started together; with `sharding` fsdp, `load` shards what it loads.

    Raises UserError when the GPU is missing.
    accelerate's constructor takes FSDP on GPUs only, and its `prepare` one model only. Its state takes the plugin and
    the mesh all the same, and `fsdp2_prepare_model`, which `prepare` calls, shards any model on both kinds.
    """
    cpu = hardware.kind == "cpu"
    if not cpu and not torch.cuda.is_available():
        raise UserError("hardware=gpu: no CUDA device is visible: use hardware=cpu, or check the driver")
    if cpu:
        torch.set_num_threads(1)
    found = Accelerator(cpu=cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    if hardware.sharding == "fsdp" and found.num_processes > 1:
        layout = ParallelismConfig(dp_shard_size=found.num_processes)
        found.state.parallelism_config = layout
        found.state.device_mesh = layout.get_device_mesh(found.device.type)
        found.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False)
    return found


def load(folder: Path, finetuning: Finetuning, accelerator: Accelerator, trainable: bool) -> Policy:
    """Load a policy as `policy.load` does, sharded when the accelerator shards. Raises UserError as it does."""
    return placed(lambda device: policy.load(folder, finetuning, device, trainable), accelerator)


def placed(load: Callable[[torch.device], Model], accelerator: Accelerator) -> Model:
    """The model that `load` gives for a device, sharded when the accelerator shards. Raises what `load` raises."""
    if getattr(accelerator.state, "fsdp_plugin", None) is None:
        return load(accelerator.device)
    # Sharded out of main memory, layer by layer: the whole model may be too large for one device.
    loaded = load(torch.device("cpu"))
    loaded.model = fsdp2_prepare_model(accelerator, loaded.model)
    loaded.device = accelerator.device
    for module in loaded.model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # gradients are sums over rows, not means over processes
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other
            module.set_reshard_after_forward(True)  # a forward without backward would leave whole weights behind
    return loaded


def share(weight: Tensor) -> Tensor:
    """This process's share of a weight, on the same memory; the weight itself when it is not sharded."""
    return weight.to_local().detach() if isinstance(weight, DTensor) else weight


def share_of(value: Tensor, weight: Tensor) -> Tensor:
    """This process's share of a whole tensor that is laid out as `weight` is. Needs no other process."""
    if not isinstance(weight, DTensor):
        return value
    return distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None).to_local()


def clip_gradients(
    weights: Sequence[Tensor], shares: Sequence[Tensor], limit: float, accelerator: Accelerator
) -> float:
    """Clip the gradients of the shares to a common norm of `limit`; returns the norm before, over all processes.

    Raises RuntimeError when it is not finite.
    """
    if not any(map(is_sharded, weights)):
        return float(clip_grad_norm_(shares, limit, error_if_nonfinite=True))
    split, copied = (
        [part.grad for part, weight in zip(shares, weights, strict=True)
         if part.grad is not None and is_sharded(weight) == sharded] for sharded in (True, False))
    norm = (accelerator.reduce(get_total_norm(split) ** 2, reduction="sum") + get_total_norm(copied) ** 2).sqrt()
    if not norm.isfinite():
        raise RuntimeError("the gradient norm is not finite")
    clip_grads_with_norm_(shares, limit, norm)
    return float(norm)


def whole_state(optimizer: dict[str, Any], weights: Sequence[Tensor]) -> dict[str, Any]:
    """An optimiser's state_dict with whole moments in the first process; collective. `weights` in its order."""
    def gather(moment: Tensor, weight: Tensor) -> Tensor:
        if not isinstance(weight, DTensor):
            return moment
        return kept(DTensor.from_local(moment, weight.device_mesh, weight.placements, run_check=False,
                                       shape=weight.shape, stride=weight.stride()))

    return _converted(optimizer, weights, gather)


def state_share(optimizer: dict[str, Any], weights: Sequence[Tensor]) -> dict[str, Any]:
    """This process's share of what `whole_state` gave."""
    return _converted(optimizer, weights, share_of)


def _converted(
    optimizer: dict[str, Any], weights: Sequence[Tensor], convert: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Any]:
    """Counters have no axis and stay as they are."""
    return optimizer | {"state": {
        index: {name: convert(value, weights[index]) if value.dim() else value for name, value in moments.items()}
        for index, moments in optimizer["state"].items()}}
