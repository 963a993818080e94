"""The operator table: which kernels run the operators on which kind of device.

Each entry is a module with the functions of `Kernels`. A new kind of kernels (one folder or file
beside these) is one more entry.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from ..geometry import Geometry, Rulebook
from . import cpu, cuda, plain
from .cpu import Ends


class ConvAlgo(enum.Enum):
    """spconv's names of its algorithms; layers take one, and run what `set_kernels` chose."""

    Native = 0
    MaskImplicitGemm = 1
    MaskSplitImplicitGemm = 2


class Kernels(Protocol):
    """What a module of kernels offers; outputs are allocated in there."""

    WAITS: frozenset[str]  # the operators that wait for the device
    # Of layers that take the BatchNorm and ReLU behind them along: by `conv_norm` where a module
    # has it, else by the `ends` of `conv`.
    MERGES: frozenset[torch.dtype]

    def padded_pairs(self, indices: Tensor, g: Geometry) -> tuple[Tensor, Tensor, Tensor]: ...

    def build(self, indices: Tensor, g: Geometry) -> tuple[Tensor, Rulebook]: ...

    def turn(self, book: Rulebook, in_rows: int, out_rows: int, volume: int) -> Rulebook: ...

    def conv(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        book: Rulebook,
        out_rows: int,
        groups: int,
        ends: Ends = ...,
    ) -> Tensor: ...  # `ends` where MERGES has the dtype

    def conv_input_grad(
        self,
        grad: Tensor,
        weight: Tensor,
        book: Rulebook,
        in_rows: int,
        groups: int,
        symmetric: bool,
    ) -> Tensor: ...

    def conv_weight_grad(
        self,
        features: Tensor,
        grad: Tensor,
        book: Rulebook,
        weight_shape: Sequence[int],
        groups: int,
    ) -> Tensor: ...

    def max_pool(
        self, features: Tensor, book: Rulebook, out_rows: int, volume: int, from_zero: bool
    ) -> Tensor: ...

    def select_sum(
        self,
        features: Tensor,
        of_features: Tensor,
        of_output: Tensor,
        book: Rulebook,
        volume: int,
        turned: bool,
    ) -> Tensor: ...


_KERNELS: dict[tuple[str, str], Kernels] = {
    ("cpu", "native"): cast(Kernels, cpu),
    ("cpu", "torch"): cast(Kernels, plain),
    ("cuda", "native"): cast(Kernels, cuda),
    ("cuda", "torch"): cast(Kernels, plain),
}
_chosen: dict[str, Kernels] = {"cpu": cast(Kernels, cpu), "cuda": cast(Kernels, plain)}


def merges(device_type: str, dtype: torch.dtype) -> bool:
    """Whether a layer takes the BatchNorm and ReLU behind it along."""
    return device_type in _chosen and dtype in _chosen[device_type].MERGES


def cpu_kernels_run(device_type: str) -> bool:
    """Whether the compiled CPU kernels are what runs a device's operators."""
    return _chosen.get(device_type) is _KERNELS["cpu", "native"]


def _triton() -> Kernels:
    """Triton's kernels: imported by who asks for them, as Triton is no part of a CPU torch."""
    try:
        from . import triton
    except ModuleNotFoundError as missing:
        if missing.name != "triton":
            raise
        raise RuntimeError(
            "set_kernels: Triton is not installed; it comes with a CUDA build of torch"
        ) from None
    return cast(Kernels, triton)


def set_kernels(device_type: str, kernels: str) -> str:
    """Chooses what runs the operators, and so the layers, of one kind of device.

    Args:
        device_type: "cpu" or "cuda".
        kernels: "native", the compiled kernels of this package: the default on the CPU; on CUDA
            they are compiled and simulated, but were never run. "torch", plain torch operators on
            that device: the default on CUDA. "triton", on CUDA only: tensor cores by Triton, for
            float16, bfloat16 and float32; compiled and interpreted, but never run.

    Returns: the choice before. A rulebook made by one kind on CUDA is refused by the other. Choose
    before torch.compile or torch.export trace a network: its graph keeps the sizes of one kind.

    Raises: ValueError for other names, RuntimeError for CUDA kernels that this build does not have
    or whose stream this torch does not name.
    """
    if (device_type, kernels) == ("cuda", "triton"):
        _KERNELS[device_type, kernels] = _triton()
    module = _KERNELS.get((device_type, kernels))
    if module is None:
        raise ValueError(
            'set_kernels: takes "cpu" or "cuda", then "triton" (CUDA), "native" or "torch", got '
            f"{device_type!r} and {kernels!r}"
        )
    if hasattr(module, "require_kernels"):
        module.require_kernels()
    before = _chosen[device_type]
    _chosen[device_type] = module
    names = [name for (kind, name), m in _KERNELS.items() if m is before and kind == device_type]
    return names[0]
