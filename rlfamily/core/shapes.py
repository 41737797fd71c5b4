"""One-line shape contracts."""

from __future__ import annotations

from torch import Tensor


def check(**tensors: Tensor | None) -> None:
    """Check that tensors have the axes their names' suffixes spell, one size per letter.

    `check(logp_NT=x, rewards_N=r)` wants x of two axes and r as long as x's first. None is skipped.
    Raises ValueError naming the tensor, its shape and what was expected.
    """
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        axes = name.rsplit("_", 1)[-1]
        if tensor.dim() != len(axes):
            raise ValueError(f"{name}: shape {tuple(tensor.shape)} does not have the axes {axes}")
        for axis, size in zip(axes, tensor.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(f"{name}: shape {tuple(tensor.shape)} but {axis}={sizes[axis]} elsewhere")


def check_batch(batch: object) -> None:
    """`check` of every tensor that is a field of `batch`."""
    check(**{name: value for name, value in vars(batch).items() if isinstance(value, Tensor)})


def require(tensor: Tensor | None, name: str) -> Tensor:
    """Return `tensor`.

    Raises ValueError when it is None: a forward that the loss NEEDS was not made.
    """
    if tensor is None:
        raise ValueError(f"{name} is None, but these settings need it")
    return tensor
