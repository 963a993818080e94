"""The layers that stand beside ConvLSTM in Keras' models, with Keras' numbers.

Each has `keras_class`, `keras_config(name)`, `keras_weights()` and `load_keras_weights(arrays)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.cell import _from_keras_kernel, _to_keras_kernel
from ..layers.initializers import Initializer, initialize
from ..sequence.activations import activation_name, resolve_activation
from ..sequence.reference import CONV
from ..sequence.spec import DATA_FORMATS, flat_pads, same_pads, to_tuple
from . import few_outputs


def fold_steps(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """(B, T, ...) as (B T, ...) and the way back; time first where that needs no copy."""
    b, t = x.shape[:2]
    swapped = x.transpose(0, 1)
    if not x.is_contiguous() and swapped.is_contiguous():
        return swapped.reshape(t * b, *x.shape[2:]), lambda y: y.reshape(
            t, b, *y.shape[1:]
        ).transpose(0, 1)
    return x.reshape(b * t, *x.shape[2:]), lambda y: y.reshape(b, t, *y.shape[1:])


class BatchNorm(nn.Module):
    """Keras' BatchNormalization: eps 1e-3, moving averages with momentum 0.99 of the *biased*
    batch variance (torch's are 1e-5, 0.9 and unbiased).

    channels: length of the normalised axis. axis: which one, -1 for channels last.
    Input of any rank of at least 2; statistics are float32 for half precisions.
    """

    keras_class = "BatchNormalization"

    def __init__(
        self,
        channels: int,
        axis: int = -1,
        momentum: float = 0.99,
        eps: float = 1e-3,
        center: bool = True,
        scale: bool = True,
    ) -> None:
        super().__init__()
        self.axis, self.momentum, self.eps = axis, momentum, eps
        self.weight = nn.Parameter(torch.ones(channels)) if scale else None
        self.bias = nn.Parameter(torch.zeros(channels)) if center else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        channels = self.running_mean.shape[0]
        if x.shape[self.axis] != channels:
            raise ValueError(
                f"BatchNorm: axis {self.axis} must have {channels} channels, got {tuple(x.shape)}"
            )
        y = x.movedim(self.axis, -1)
        unfold = None
        if y.dim() > 3:
            y, unfold = fold_steps(y)
        folded = y.shape
        # (N, C, ...) in channels-last memory: torch's kernels for that read rows of C.
        y = y.reshape(folded[0], -1, 1, channels).permute(0, 3, 1, 2)
        y = self._normalise(y)
        y = y.permute(0, 2, 3, 1).reshape(folded)
        if unfold is not None:
            y = unfold(y)
        return y.movedim(-1, self.axis)

    def _normalise(self, y: Tensor) -> Tensor:
        if not self.training:
            mean, var = self.running_mean, self.running_var
            return F.batch_norm(y, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        y = F.batch_norm(y, mean, var, self.weight, self.bias, True, 1.0, self.eps)
        count = y.numel() // y.shape[1]
        biased = (count - 1) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, 1 - self.momentum)
            self.running_var.lerp_(var * biased, 1 - self.momentum)
        return y

    @classmethod
    def from_keras_config(cls, config: Mapping[str, Any], in_channels: int) -> BatchNorm:
        axis = config.get("axis", -1)
        axis = axis[0] if isinstance(axis, list) else axis
        names = {"momentum": "momentum", "epsilon": "eps", "center": "center", "scale": "scale"}
        options = {ours: config[k] for k, ours in names.items() if k in config}
        return cls(in_channels, axis, **options)

    def keras_config(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "axis": self.axis,
            "momentum": self.momentum,
            "epsilon": self.eps,
            "center": self.bias is not None,
            "scale": self.weight is not None,
        }

    def _tensors(self) -> list[Tensor]:
        every = [self.weight, self.bias, self.running_mean, self.running_var]
        return [t for t in every if t is not None]

    def keras_weights(self) -> list[np.ndarray]:
        return [t.detach().cpu().numpy().copy() for t in self._tensors()]

    @torch.no_grad()
    def load_keras_weights(self, arrays: Sequence[Any]) -> None:
        _copy_all("BatchNorm", self._tensors(), [torch.as_tensor(a) for a in arrays])


class Conv(nn.Module):
    """Keras' Conv1D, Conv2D or Conv3D (`rank`), with TensorFlow's "same" padding.

    Input (B, C, size...) or (B, size..., C) by `data_format`; a Conv3D over a sequence takes time
    as its first axis.
    """

    def __init__(
        self,
        rank: int,
        in_channels: int,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: str = "valid",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        data_format: str = "channels_last",
        activation: str | None = None,
        bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
    ) -> None:
        super().__init__()
        if padding not in ("valid", "same", "causal") or (padding == "causal" and rank != 1):
            raise ValueError(f'Conv: padding must be "valid" or "same", got {padding!r}')
        if data_format not in DATA_FORMATS:
            raise ValueError(f"Conv: data_format must be one of {DATA_FORMATS}: {data_format!r}")
        self.rank, self.padding, self.groups = rank, padding, groups
        self.kernel_size = to_tuple(kernel_size, rank, "kernel_size", "Conv")
        self.stride = to_tuple(stride, rank, "stride", "Conv")
        self.dilation = to_tuple(dilation, rank, "dilation", "Conv")
        self.channels_last = data_format == "channels_last"
        self.activation = activation_name(activation)
        self._activate = resolve_activation(self.activation)
        kernel = initialize(kernel_initializer, (*self.kernel_size, in_channels // groups, filters))
        self.weight = nn.Parameter(_from_keras_kernel(kernel))
        self.bias = nn.Parameter(torch.zeros(filters)) if bias else None

    @property
    def keras_class(self) -> str:
        return f"Conv{self.rank}D"

    def _pads(self, size: Sequence[int]) -> list[tuple[int, int]]:
        axes = list(zip(size, self.kernel_size, self.stride, self.dilation, strict=True))
        if self.padding == "same":
            return [same_pads(*axis) for axis in axes]
        if self.padding == "causal":
            return [((k - 1) * d, 0) for _, k, _, d in axes]
        return [(0, 0)] * self.rank

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_last:
            pads = self._pads(x.shape[1:-1])
            if few_outputs.takes(x, self.weight, self.stride, self.dilation, self.groups):
                y = few_outputs.convolve(x, self.weight, pads)
                return self._activate(y if self.bias is None else y + self.bias.to(y.dtype))
            x = x.movedim(-1, 1)
        pads = self._pads(x.shape[2:])
        padding: tuple[int, ...] = tuple(a for a, _ in pads)
        if any(a != b for a, b in pads):
            x, padding = F.pad(x, flat_pads(pads)), (0,) * self.rank
        convolve = CONV[self.rank]
        y = convolve(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        y = self._activate(y)
        return y.movedim(1, -1) if self.channels_last else y

    @classmethod
    def from_keras_config(cls, rank: int, config: Mapping[str, Any], in_channels: int) -> Conv:
        names = {
            "strides": "stride", "padding": "padding", "dilation_rate": "dilation",
            "groups": "groups", "data_format": "data_format", "activation": "activation",
            "use_bias": "bias",
        }  # fmt: skip
        options = {ours: config[k] for k, ours in names.items() if config.get(k) is not None}
        return cls(rank, in_channels, config["filters"], config["kernel_size"], **options)

    def keras_config(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "filters": self.weight.shape[0],
            "kernel_size": list(self.kernel_size),
            "strides": list(self.stride),
            "padding": self.padding,
            "data_format": "channels_last" if self.channels_last else "channels_first",
            "dilation_rate": list(self.dilation),
            "groups": self.groups,
            "activation": self.activation,
            "use_bias": self.bias is not None,
        }

    def keras_weights(self) -> list[np.ndarray]:
        weights = [self.weight] + ([] if self.bias is None else [self.bias])
        return [_to_keras_kernel(w.detach()).cpu().numpy().copy() for w in weights]

    @torch.no_grad()
    def load_keras_weights(self, arrays: Sequence[Any]) -> None:
        wanted = [self.weight] + ([] if self.bias is None else [self.bias])
        given = [torch.as_tensor(a) for a in arrays]
        given = [_from_keras_kernel(t) if t.dim() > 1 else t for t in given]
        _copy_all(f"Conv{self.rank}D", wanted, given)


class Activation(nn.Module):
    """Keras' Activation: a function by its name."""

    keras_class = "Activation"

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.activation = activation_name(activation)
        self._activate = resolve_activation(self.activation)

    def forward(self, x: Tensor) -> Tensor:
        return self._activate(x)

    def keras_config(self, name: str) -> dict[str, Any]:
        return {"name": name, "activation": self.activation}

    def keras_weights(self) -> list[np.ndarray]:
        return []

    def load_keras_weights(self, arrays: Sequence[Any]) -> None:
        _copy_all("Activation", [], list(arrays))


class Dropout(nn.Dropout):
    """Keras' Dropout, elementwise."""

    keras_class = "Dropout"

    def keras_config(self, name: str) -> dict[str, Any]:
        return {"name": name, "rate": self.p}

    def keras_weights(self) -> list[np.ndarray]:
        return []

    def load_keras_weights(self, arrays: Sequence[Any]) -> None:
        _copy_all("Dropout", [], [])


class TimeDistributed(nn.Module):
    """Keras' TimeDistributed: the inner layer on each step of (B, T, ...)."""

    keras_class = "TimeDistributed"

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y, unfold = fold_steps(x)
        return unfold(self.layer(y))

    def keras_config(self, name: str) -> dict[str, Any]:
        inner = self.layer.keras_config(f"{name}_inner")
        entry = {
            "module": "keras.layers",
            "class_name": self.layer.keras_class,
            "config": inner,
            "registered_name": None,
        }
        return {"name": name, "layer": entry}

    def keras_weights(self) -> list[np.ndarray]:
        return self.layer.keras_weights()

    def load_keras_weights(self, arrays: Sequence[Any]) -> None:
        self.layer.load_keras_weights(arrays)


def _copy_all(name: str, wanted: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    shapes = [tuple(t.shape) for t in wanted]
    if [tuple(t.shape) for t in given] != shapes:
        raise ValueError(
            f"{name}.load_keras_weights: arrays in torch's layout must have shapes {shapes}, "
            f"got {[tuple(t.shape) for t in given]}"
        )
    for tensor, array in zip(wanted, given, strict=True):
        tensor.copy_(array)
