"""Weights of other libraries as weights of spconv 2.x, which is what the layers here load.

spconv 2.x saves (out, k..., in) since 2.2 and needs no conversion: `load_state_dict` is enough,
also for layers inside OpenPCDet or mmdet3d models. spconv 1.x saved (k..., in, out).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from .conv import SparseConvolution


def from_spconv_1(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict of spconv 1.x in the layout of `model`'s sparse layers.

    Args:
        model: holds the layers whose weights are converted; other entries pass unchanged.
        state_dict: names as in model.state_dict().

    Returns: a new dictionary; tensors are converted copies where layers are sparse convolutions.

    Raises: ValueError if a weight has not the old shape (k..., in, out) of its layer.
    """
    converted = dict(state_dict)
    for name, layer in model.named_modules():
        key = f"{name}.weight" if name else "weight"
        if not isinstance(layer, SparseConvolution) or key not in state_dict:
            continue
        weight = state_dict[key]
        old = (*layer.kernel_size, layer.in_channels // layer.groups, layer.out_channels)
        if tuple(weight.shape) != old:
            raise ValueError(
                f"from_spconv_1: {key} must have shape {old}, as spconv 1.x saves it, "
                f"got {tuple(weight.shape)}"
            )
        if layer.conv1x1:  # the memory is read as (in, out): it is that already
            converted[key] = weight.reshape(layer.weight.shape).clone()
        else:
            converted[key] = weight.movedim(-1, 0).contiguous()
    return converted


def _from_kernels(
    name: str,
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    reverse_axes: bool,
    first_axis_fastest: Callable[[int], bool],
) -> dict[str, Tensor]:
    converted = dict(state_dict)
    for path, layer in model.named_modules():
        prefix = f"{path}." if path else ""
        if not isinstance(layer, SparseConvolution) or f"{prefix}kernel" not in state_dict:
            continue
        kernel = converted.pop(f"{prefix}kernel")
        sizes = (math.prod(layer.kernel_size), layer.in_channels, layer.out_channels)
        plain = tuple(kernel.shape) == sizes[1:] and sizes[0] == 1
        if layer.groups != 1 or not (plain or tuple(kernel.shape) == sizes):
            raise ValueError(
                f"{name}: {prefix}kernel must have shape {sizes} for a layer without groups, got "
                f"{tuple(kernel.shape)}"
            )
        theirs = layer.kernel_size[::-1] if reverse_axes else layer.kernel_size
        axes = list(range(layer.ndim))
        if first_axis_fastest(sizes[0]):
            grid = kernel.reshape(*theirs[::-1], *sizes[1:]).permute(*axes[::-1], -2, -1)
        else:
            grid = kernel.reshape(*theirs, *sizes[1:])
        if reverse_axes:
            grid = grid.permute(*axes[::-1], -2, -1)
        if layer.conv1x1:  # the memory is read as (in, out): it is that already
            converted[f"{prefix}weight"] = grid.reshape(layer.weight.shape).clone()
        else:
            converted[f"{prefix}weight"] = grid.movedim(-1, 0).contiguous()
        bias = converted.get(f"{prefix}bias")
        if bias is not None:
            converted[f"{prefix}bias"] = bias.reshape(-1)
    return converted


def from_minkowski(
    model: nn.Module, state_dict: Mapping[str, Tensor], reverse_axes: bool = False
) -> dict[str, Tensor]:
    """A state_dict of MinkowskiEngine 0.5 in the layout of `model`'s sparse layers.

    `kernel` (K, in, out), its first spatial axis the fastest, becomes `weight`; `bias` (1, out)
    becomes (out,). An odd kernel is centred there: give such a strided layer here padding
    (kernel - 1) / 2. After what torchsparse's sources say of it; neither read nor run there.

    Args:
        model: holds the layers whose weights are converted; other entries pass unchanged.
        state_dict: names as in model.state_dict(), with `kernel` for `weight`.
        reverse_axes: its coordinates were x, y, z and those of `model` are z, y, x.

    Raises: ValueError if a kernel has not the shape of its layer.
    """
    return _from_kernels("from_minkowski", model, state_dict, reverse_axes, lambda _: True)


def from_torchsparse(
    model: nn.Module, state_dict: Mapping[str, Tensor], reverse_axes: bool = False
) -> dict[str, Tensor]:
    """A state_dict of torchsparse 1.4 and 2.0 in the layout of `model`'s sparse layers; as
    `from_minkowski`, but the first spatial axis is the fastest for kernels of an odd number of
    cells only, else the slowest. Read from its sources (nn/utils/kernel.py), not run against it.
    """
    odd = lambda volume: volume % 2 == 1  # noqa: E731
    return _from_kernels("from_torchsparse", model, state_dict, reverse_axes, odd)
