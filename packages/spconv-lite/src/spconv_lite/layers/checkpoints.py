"""Weights of spconv 1.x as weights of 2.x, which is what the layers here load.

spconv 2.x saves (out, k..., in) since 2.2 and needs no conversion: `load_state_dict` is enough,
also for layers inside OpenPCDet or mmdet3d models. spconv 1.x saved (k..., in, out).
"""

from __future__ import annotations

from collections.abc import Mapping

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
