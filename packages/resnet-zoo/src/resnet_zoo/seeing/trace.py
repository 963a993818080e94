"""What a model does to shapes: one record for each leaf module, in the order of execution.

The forward runs on the meta device, so even the largest model costs no memory and no arithmetic.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """One executed leaf module."""

    name: str
    kind: str
    detail: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    parameters: int
    macs: int  # multiply-accumulates of convolutions and linear layers, for this batch


def trace(model: nn.Module, input_shape: tuple[int, ...] = (1, 3, 224, 224)) -> list[Layer]:
    """Layers of `model` for an input of `input_shape` (N, C, H, W). The model is left as it is."""
    twin = copy.deepcopy(model).to("meta").eval()
    layers: list[Layer] = []
    names = {module: name for name, module in twin.named_modules()}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layers.append(
            Layer(
                name=names[module],
                kind=type(module).__name__,
                detail=_detail(module),
                in_shape=tuple(inputs[0].shape),
                out_shape=tuple(output.shape),
                parameters=sum(p.numel() for p in module.parameters()),
                macs=_macs(module, output),
            )
        )

    leaves = [module for module in twin.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(record) for leaf in leaves]
    try:
        with torch.no_grad():
            dtype = next(twin.parameters()).dtype
            twin(torch.empty(input_shape, device="meta", dtype=dtype))
    finally:
        for handle in handles:
            handle.remove()
    return layers


def _macs(module: nn.Module, output: Tensor) -> int:
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        return output.numel() * module.in_channels // module.groups * height * width
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    return 0


def _detail(module: nn.Module) -> str:
    """The choices that matter, in few characters: "3x3 /2 g32 d2"."""
    if isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
        size, stride = _one(module.kernel_size), _one(module.stride)
        text = f"{size}x{size}" + (f" /{stride}" if stride != 1 else "")
        if isinstance(module, nn.Conv2d):
            text += f" g{module.groups}" if module.groups != 1 else ""
            text += f" d{_one(module.dilation)}" if _one(module.dilation) != 1 else ""
        return text
    return ""


def _one(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]
