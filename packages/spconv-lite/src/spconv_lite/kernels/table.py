"""The operator table: which kernels run the operators on which kind of device.

Each entry is a module with the functions of `Kernels`. A new kind of kernels (one folder or file
beside these) is one more entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from torch import Tensor

from ..geometry import Geometry, Rulebook
from . import cpu, cuda, plain


class Kernels(Protocol):
    """What a module of kernels offers; outputs are allocated in there."""

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
    ) -> Tensor: ...

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


_KERNELS: dict[tuple[str, str], Kernels] = {
    ("cpu", "native"): cast(Kernels, cpu),
    ("cpu", "torch"): cast(Kernels, plain),
    ("cuda", "native"): cast(Kernels, cuda),
    ("cuda", "torch"): cast(Kernels, plain),
}
_chosen: dict[str, Kernels] = {"cpu": cast(Kernels, cpu), "cuda": cast(Kernels, plain)}


def set_kernels(device_type: str, kernels: str) -> str:
    """Chooses what runs the operators, and so the layers, of one kind of device.

    Args:
        device_type: "cpu" or "cuda".
        kernels: "native", the compiled kernels of this package: the default on the CPU; on CUDA
            they are compiled and simulated, but were never run. "torch", plain torch operators on
            that device: the default on CUDA.

    Returns: the choice before. A rulebook made by one kind on CUDA is refused by the other. Choose
    before torch.compile or torch.export trace a network: its graph keeps the sizes of one kind.

    Raises: ValueError for other names, RuntimeError for CUDA kernels that this build does not have
    or whose stream this torch does not name.
    """
    module = _KERNELS.get((device_type, kernels))
    if module is None:
        raise ValueError(
            'set_kernels: takes "cpu" or "cuda", then "native" or "torch", got '
            f"{device_type!r} and {kernels!r}"
        )
    if module is cuda:
        cuda.require_kernels()
    before = _chosen[device_type]
    _chosen[device_type] = module
    names = [name for (kind, name), m in _KERNELS.items() if m is before and kind == device_type]
    return names[0]
