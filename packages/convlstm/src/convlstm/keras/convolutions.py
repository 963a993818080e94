"""Keras' convolutions: plain, transposed, depthwise and separable, with TensorFlow's padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.initializers import Initializer, initialize
from ..sequence.reference import CONV
from ..sequence.spec import DATA_FORMATS, flat_pads, same_pads, to_tuple
from . import few_outputs
from .base import (
    KERAS_ACTIVATIONS,
    KerasModule,
    Shape,
    Slot,
    keras_activation,
    kernel_axes,
    split_config,
)

TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
# Keras' option -> the argument of a convolution here.
_NAMES = {
    "strides": "stride", "padding": "padding", "dilation_rate": "dilation", "groups": "groups",
    "data_format": "data_format", "activation": "activation", "use_bias": "bias",
}  # fmt: skip


def axes_of(shape: Shape, rank: int, channels_last: bool) -> tuple[tuple[int | None, ...], int]:
    """(spatial lengths, channels) of an input shape with its batch axis."""
    if len(shape) != rank + 2:
        raise ValueError(f"Conv{rank}D: the input must have {rank + 2} axes, got shape {shape}")
    channels = shape[-1] if channels_last else shape[1]
    if channels is None:
        raise ValueError(f"Conv{rank}D: the number of channels must be known, got shape {shape}")
    return (shape[1:-1] if channels_last else shape[2:]), channels


def with_channels(
    batch: int | None, size: Sequence[int | None], channels: int, channels_last: bool
) -> Shape:
    return (batch, *size, channels) if channels_last else (batch, channels, *size)


class _Convolution(KerasModule):
    """What the four share: geometry, format, activation, bias."""

    stem: str  # the class is stem.format(rank)
    causal = False

    def __init__(
        self,
        rank: int,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: str = "valid",
        dilation: int | Sequence[int] = 1,
        data_format: str = "channels_last",
        activation: str | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        wanted = ("valid", "same", "causal") if self.causal and rank == 1 else ("valid", "same")
        if padding not in wanted:
            raise ValueError(f"{name}: padding must be one of {wanted}, got {padding!r}")
        if data_format not in DATA_FORMATS:
            raise ValueError(f"{name}: data_format must be one of {DATA_FORMATS}: {data_format!r}")
        self.rank, self.padding = rank, padding
        self.kernel_size = to_tuple(kernel_size, rank, "kernel_size", name)
        self.stride = to_tuple(stride, rank, "stride", name)
        self.dilation = to_tuple(dilation, rank, "dilation", name)
        self.channels_last = data_format == "channels_last"
        self.activation = "linear" if activation is None else activation
        if self.activation not in KERAS_ACTIVATIONS:
            known = ", ".join(sorted(KERAS_ACTIVATIONS))
            raise ValueError(f"{name}: activation must be one of {known}; got {activation!r}")
        self._activate = KERAS_ACTIVATIONS[self.activation]

    @property
    def keras_class(self) -> str:  # type: ignore[override]
        return self.stem.format(self.rank)

    def _pads(self, size: Sequence[int]) -> list[tuple[int, int]]:
        axes = list(zip(size, self.kernel_size, self.stride, self.dilation, strict=True))
        if self.padding == "same":
            return [same_pads(*axis) for axis in axes]
        if self.padding == "causal":
            return [((k - 1) * d, 0) for _, k, _, d in axes]
        return [(0, 0)] * self.rank

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        """(N, C, size...) to (N, out, size...)."""
        pads = self._pads(x.shape[2:])
        padding: tuple[int, ...] = tuple(a for a, _ in pads)
        if any(a != b for a, b in pads):
            x, padding = F.pad(x, flat_pads(pads)), (0,) * self.rank
        return CONV[self.rank](x, weight, bias, self.stride, padding, self.dilation, groups)

    def _finished(self, y: Tensor) -> Tensor:
        """(N, out, size...) in the layer's format, activated."""
        return self._activate(y.movedim(1, -1) if self.channels_last else y)

    def _size(self, size: Sequence[int | None]) -> list[int | None]:
        out: list[int | None] = []
        for n, k, s, d in zip(size, self.kernel_size, self.stride, self.dilation, strict=True):
            span = 1 if self.padding != "valid" else (k - 1) * d + 1
            out.append(None if n is None else (n - span) // s + 1)
        return out

    def _bias_slots(self) -> list[Slot]:
        return [] if self.bias is None else [Slot(self, "bias")]

    def _geometry(self) -> dict[str, Any]:
        return {
            "kernel_size": list(self.kernel_size),
            "strides": list(self.stride),
            "padding": self.padding,
            "data_format": "channels_last" if self.channels_last else "channels_first",
            "dilation_rate": list(self.dilation),
            "activation": self.activation,
            "use_bias": self.bias is not None,
        }


class Conv(_Convolution):
    """Keras' Conv1D, Conv2D or Conv3D (`rank`), with TensorFlow's "same" padding.

    Input (B, C, size...) or (B, size..., C) by `data_format`; a Conv3D over a sequence takes time
    as its first axis. Raises ValueError for options and shapes that do not fit.
    """

    stem, causal = "Conv{}D", True

    def __init__(
        self,
        rank: int,
        in_channels: int,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        groups: int = 1,
        bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        **geometry: Any,
    ) -> None:
        super().__init__(rank, kernel_size, **geometry)
        self.groups = groups
        kernel = initialize(kernel_initializer, (*self.kernel_size, in_channels // groups, filters))
        self.weight = nn.Parameter(kernel.permute(rank + 1, rank, *range(rank)).contiguous())
        self.bias = nn.Parameter(torch.zeros(filters)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if not self.channels_last:
            return self._finished(self._convolved(x, self.weight, self.bias, self.groups))
        if few_outputs.takes(x, self.weight, self.stride, self.dilation, self.groups):
            y = few_outputs.convolve(x, self.weight, self._pads(x.shape[1:-1]))
            return self._activate(y if self.bias is None else y + self.bias.to(y.dtype))
        y = self._convolved(x.movedim(-1, 1), self.weight, self.bias, self.groups)
        return self._finished(y)

    def output_shape(self, *shapes: Shape) -> Shape:
        size, _ = axes_of(shapes[0], self.rank, self.channels_last)
        out = self._size(size)
        return with_channels(shapes[0][0], out, self.weight.shape[0], self.channels_last)

    def slots(self) -> list[Slot]:
        return [Slot(self, "weight", kernel_axes(self.rank)), *self._bias_slots()]

    def keras_options(self) -> dict[str, Any]:
        return {"filters": self.weight.shape[0], **self._geometry(), "groups": self.groups}


class ConvTranspose(_Convolution):
    """Keras' Conv1DTranspose, Conv2DTranspose or Conv3DTranspose (`rank`).

    The transpose of a convolution with TensorFlow's padding: "same" gives n * stride positions,
    "valid" n * stride + max(kernel - stride, 0), unless output_padding says otherwise.
    """

    stem = "Conv{}DTranspose"

    def __init__(
        self,
        rank: int,
        in_channels: int,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        output_padding: int | Sequence[int] | None = None,
        bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        **geometry: Any,
    ) -> None:
        super().__init__(rank, kernel_size, **geometry)
        self.output_padding = output_padding
        kernel = initialize(kernel_initializer, (*self.kernel_size, filters, in_channels))
        self.weight = nn.Parameter(kernel.permute(rank + 1, rank, *range(rank)).contiguous())
        self.bias = nn.Parameter(torch.zeros(filters)) if bias else None

    def _size(self, size: Sequence[int | None]) -> list[int | None]:
        extra = self.output_padding
        extras = (extra,) * self.rank if extra is None or isinstance(extra, int) else tuple(extra)
        out: list[int | None] = []
        axes = zip(size, self.kernel_size, self.stride, self.dilation, extras, strict=True)
        for n, k, s, d, more in axes:
            span = (k - 1) * d + 1
            if n is None:
                out.append(None)
            elif more is None:
                out.append(n * s + (max(span - s, 0) if self.padding == "valid" else 0))
            else:
                pad = span // 2 if self.padding == "same" else 0
                out.append((n - 1) * s + span - 2 * pad + more)
        return out

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(-1, 1) if self.channels_last else x
        size, wanted = x.shape[2:], self._size(x.shape[2:])
        y = TRANSPOSED[self.rank](x, self.weight, None, self.stride, 0, 0, 1, self.dilation)
        pads = []
        for n, m, k, s, d in zip(
            size, wanted, self.kernel_size, self.stride, self.dilation, strict=True
        ):
            whole = (n - 1) * s + (k - 1) * d + 1
            before = max(whole - m, 0) // 2 if self.padding == "same" else 0
            pads.append((-before, m - whole + before))
        y = F.pad(y, flat_pads(pads))
        if self.bias is not None:
            y = y + self.bias.view(-1, *(1,) * self.rank)
        return self._finished(y)

    def output_shape(self, *shapes: Shape) -> Shape:
        size, _ = axes_of(shapes[0], self.rank, self.channels_last)
        out = self._size(size)
        return with_channels(shapes[0][0], out, self.weight.shape[1], self.channels_last)

    def slots(self) -> list[Slot]:
        return [Slot(self, "weight", kernel_axes(self.rank)), *self._bias_slots()]

    def keras_options(self) -> dict[str, Any]:
        return {
            "filters": self.weight.shape[1],
            **self._geometry(),
            "output_padding": None if self.output_padding is None else _listed(self.output_padding),
        }


def _listed(value: int | Sequence[int]) -> int | list[int]:
    return value if isinstance(value, int) else list(value)


class DepthwiseConv(_Convolution):
    """Keras' DepthwiseConv1D or 2D (`rank`): `depth_multiplier` filters for each channel."""

    stem = "DepthwiseConv{}D"
    dropped = frozenset({"kernel_initializer", "kernel_regularizer", "kernel_constraint"})

    def __init__(
        self,
        rank: int,
        in_channels: int,
        kernel_size: int | Sequence[int],
        *,
        depth_multiplier: int = 1,
        bias: bool = True,
        **geometry: Any,
    ) -> None:
        super().__init__(rank, kernel_size, **geometry)
        self.depth_multiplier = depth_multiplier
        shape = (*self.kernel_size, in_channels, depth_multiplier)
        self.depthwise = nn.Parameter(initialize("glorot_uniform", shape))  # in Keras' layout
        self.bias = nn.Parameter(torch.zeros(in_channels * depth_multiplier)) if bias else None

    def _depthwise(self, x: Tensor, bias: Tensor | None) -> Tensor:
        channels = self.depthwise.shape[-2]
        weight = self.depthwise.movedim((-2, -1), (0, 1)).flatten(0, 1).unsqueeze(1)
        return self._convolved(x, weight, bias, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(-1, 1) if self.channels_last else x
        return self._finished(self._depthwise(x, self.bias))

    def output_shape(self, *shapes: Shape) -> Shape:
        size, channels = axes_of(shapes[0], self.rank, self.channels_last)
        out = self._size(size)
        many = channels * self.depth_multiplier
        return with_channels(shapes[0][0], out, many, self.channels_last)

    def slots(self) -> list[Slot]:
        return [Slot(self, "depthwise"), *self._bias_slots()]

    def keras_options(self) -> dict[str, Any]:
        return {**self._geometry(), "depth_multiplier": self.depth_multiplier}


class SeparableConv(DepthwiseConv):
    """Keras' SeparableConv1D or 2D (`rank`): a depthwise convolution, then one of 1x1."""

    stem, causal = "SeparableConv{}D", True

    def __init__(
        self,
        rank: int,
        in_channels: int,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        depth_multiplier: int = 1,
        bias: bool = True,
        **geometry: Any,
    ) -> None:
        super().__init__(
            rank, in_channels, kernel_size, depth_multiplier=depth_multiplier, bias=False,
            **geometry,
        )  # fmt: skip
        shape = (*(1,) * rank, in_channels * depth_multiplier, filters)
        self.pointwise = nn.Parameter(initialize("glorot_uniform", shape))  # in Keras' layout
        self.bias = nn.Parameter(torch.zeros(filters)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(-1, 1) if self.channels_last else x
        weight = self.pointwise.movedim((-1, -2), (0, 1))
        y = CONV[self.rank](self._depthwise(x, None), weight, self.bias)
        return self._finished(y)

    def output_shape(self, *shapes: Shape) -> Shape:
        size, _ = axes_of(shapes[0], self.rank, self.channels_last)
        out = self._size(size)
        return with_channels(shapes[0][0], out, self.pointwise.shape[-1], self.channels_last)

    def slots(self) -> list[Slot]:
        return [Slot(self, "depthwise"), Slot(self, "pointwise"), *self._bias_slots()]

    def keras_options(self) -> dict[str, Any]:
        return {"filters": self.pointwise.shape[-1], **super().keras_options()}


def build(
    cls: type[_Convolution],
    rank: int,
    config: Mapping[str, Any],
    shapes: Sequence[Shape],
    keras_version: str,
) -> _Convolution:
    """The convolution of a configuration, for an input of this shape."""
    names = (*_NAMES, "kernel_size", "filters", "depth_multiplier", "output_padding")
    given, carried = split_config(cls.stem.format(rank), config, dict.fromkeys(names), {})
    options = {_NAMES.get(k, k): v for k, v in given.items() if v is not None}
    options["activation"] = keras_activation(options.get("activation"), keras_version)
    channels_last = options.get("data_format", "channels_last") == "channels_last"
    _, channels = axes_of(shapes[0], rank, channels_last)
    kernel = options.pop("kernel_size")
    positional = [channels]
    if cls is not DepthwiseConv:
        positional.append(options.pop("filters"))
    if cls is not Conv and options.pop("groups", 1) != 1:
        raise ValueError(f"load_keras: {cls.stem.format(rank)} has groups, which it cannot have")
    module = cls(rank, *positional, kernel, **options)
    module.carry(carried)
    return module


KINDS: dict[str, tuple[type[_Convolution], int]] = {
    cls.stem.format(rank): (cls, rank)
    for cls, ranks in (
        (Conv, (1, 2, 3)),
        (ConvTranspose, (1, 2, 3)),
        (DepthwiseConv, (1, 2)),
        (SeparableConv, (1, 2)),
    )
    for rank in ranks
}
