"""The pointwise half of a step: which kernels do it. On the CPU the compiled ones; on CUDA, where
the fused plan is an explicit choice anyway, the compiled ones or Triton's."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from .. import _C  # type: ignore[attr-defined]

_CUDA_DTYPES = {
    "native": (torch.float32,),
    "triton": (torch.float32, torch.bfloat16, torch.float16),
}
_cuda_gates = "native"


def set_cuda_gates(kernels: str) -> str:
    """Chooses what computes the gates of the fused plan on CUDA; returns the choice before.

    Args:
        kernels: "native", the compiled kernels of this package, float32 only: the default.
            "triton", Triton's, which come with a CUDA build of torch, for half precisions too. Both
            are compiled and simulated, but were never run.

    Raises ValueError for another name, RuntimeError where Triton is not installed.
    """
    global _cuda_gates
    if kernels not in _CUDA_DTYPES:
        raise ValueError(f"set_cuda_gates: takes 'native' or 'triton', got {kernels!r}")
    if kernels == "triton":
        _triton()
    before, _cuda_gates = _cuda_gates, kernels
    return before


def cuda_dtypes() -> tuple[torch.dtype, ...]:
    """The dtypes of input that the chosen kernels take on CUDA."""
    return _CUDA_DTYPES[_cuda_gates]


def uses_triton(tensor: Tensor) -> bool:
    return tensor.is_cuda and _cuda_gates == "triton"


def _triton() -> ModuleType:
    try:
        from . import triton_gates
    except ModuleNotFoundError as missing:
        if missing.name != "triton":
            raise
        raise RuntimeError(
            "set_cuda_gates: Triton is not installed; it comes with a CUDA build of torch"
        ) from None
    return triton_gates


def gates_forward(c: Tensor, *arguments: object) -> None:
    """_C.gates_forward or triton_gates.gates_forward with these arguments; c says where."""
    if uses_triton(c):
        _triton().gates_forward(*arguments)
    else:
        _C.gates_forward(*arguments, torch.get_num_threads())


def gates_backward(c: Tensor, *arguments: object) -> None:
    """_C.gates_backward or triton_gates.gates_backward with these arguments; c says where."""
    if uses_triton(c):
        _triton().gates_backward(*arguments)
    else:
        _C.gates_backward(*arguments, torch.get_num_threads())
