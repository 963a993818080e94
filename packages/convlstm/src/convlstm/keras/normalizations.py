"""Keras' normalisations, with Keras' epsilon, axes and moving averages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import KerasModule, Shape, Slot, split_config


def one_axis(axis: int | Sequence[int], name: str) -> int:
    """An axis that Keras may have written as a list of one."""
    if isinstance(axis, int):
        return axis
    if len(axis) != 1:
        raise ValueError(f"{name}: axis must be one axis, got {axis}")
    return axis[0]


def known_length(shape: Shape, axis: int, name: str) -> int:
    length = shape[axis]
    if length is None:
        raise ValueError(f"{name}: axis {axis} of the input must be known, got shape {shape}")
    return length


def fold_steps(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """(B, T, ...) as (B T, ...) and the way back; time first where that needs no copy."""
    b, t = x.shape[:2]
    swapped = x.transpose(0, 1)
    if not x.is_contiguous() and swapped.is_contiguous():
        return swapped.reshape(t * b, *x.shape[2:]), lambda y: y.reshape(
            t, b, *y.shape[1:]
        ).transpose(0, 1)
    return x.reshape(b * t, *x.shape[2:]), lambda y: y.reshape(b, t, *y.shape[1:])


class BatchNorm(KerasModule):
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
        # A frozen layer keeps its averages, as Keras' `trainable=False` does.
        if not self.training or self.carried.get("trainable") is False:
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
    def from_keras_config(
        cls, config: Mapping[str, Any], shapes: Sequence[Shape], keras_version: str = "3"
    ) -> BatchNorm:
        names = dict.fromkeys(("axis", "momentum", "epsilon", "center", "scale"))
        given, carried = split_config(cls.keras_class, config, names, {})
        axis = one_axis(given.pop("axis", -1), "BatchNormalization")
        given["eps"] = given.pop("epsilon", 1e-3)
        module = cls(known_length(shapes[0], axis, "BatchNormalization"), axis, **given)
        module.carry(carried)
        return module

    def keras_options(self) -> dict[str, Any]:
        return {
            "axis": self.axis,
            "momentum": self.momentum,
            "epsilon": self.eps,
            "center": self.bias is not None,
            "scale": self.weight is not None,
        }

    def slots(self) -> list[Slot]:
        learned = [Slot(self, n) for n in ("weight", "bias") if getattr(self, n) is not None]
        return learned + [Slot(self, n, trainable=False) for n in ("running_mean", "running_var")]


class _Affine(KerasModule):
    """gamma and beta of a normalisation, float32 inside for half precisions."""

    def _make(self, shape: Sequence[int]) -> None:
        self.weight = nn.Parameter(torch.ones(*shape)) if self.scale else None
        self.bias = nn.Parameter(torch.zeros(*shape)) if self.center else None

    def slots(self) -> list[Slot]:
        return [Slot(self, n) for n in ("weight", "bias") if getattr(self, n) is not None]


class LayerNorm(_Affine):
    """Keras' LayerNormalization over one axis or several."""

    keras_class = "LayerNormalization"
    options: ClassVar = {
        "axis": -1, "epsilon": 1e-3, "center": True, "scale": True, "rms_scaling": False,
    }  # fmt: skip

    def build(self, *shapes: Shape) -> None:
        if self.rms_scaling:
            raise ValueError("LayerNormalization: rms_scaling is not read; it changed in Keras 3.9")
        rank = len(shapes[0])
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        self.axes = tuple(a % rank for a in axes)  # Keras' weights have the axes in this order
        self._make([known_length(shapes[0], a, self.keras_class) for a in self.axes])

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        var, mean = torch.var_mean(wide, self.axes, correction=0, keepdim=True)
        y = (wide - mean) * torch.rsqrt(var + self.epsilon)
        shape = [n if a in self.axes else 1 for a, n in enumerate(x.shape)]
        if self.weight is not None:
            y = y * self.weight.reshape(shape)
        if self.bias is not None:
            y = y + self.bias.reshape(shape)
        return y.to(x.dtype)


class GroupNorm(_Affine):
    """Keras' GroupNormalization: over groups of channels and all other axes but the batch's."""

    keras_class = "GroupNormalization"
    options: ClassVar = {"groups": 32, "axis": -1, "epsilon": 1e-3, "center": True, "scale": True}

    def build(self, *shapes: Shape) -> None:
        channels = known_length(shapes[0], self.axis, self.keras_class)
        if self.groups == -1:
            self.groups = channels
        if channels % self.groups:
            raise ValueError(
                f"GroupNormalization: groups must divide the channels, got {self.groups} groups "
                f"for {channels} channels"
            )
        self._make([channels])

    def forward(self, x: Tensor) -> Tensor:
        # torch's group_norm takes the variance as mean(x^2) - mean(x)^2, which loses most of its
        # digits where the mean is large; var_mean does not (Welford 1962).
        wide = x.movedim(self.axis, 1).to(torch.promote_types(x.dtype, torch.float32))
        parts = wide.unflatten(1, (self.groups, -1))
        var, mean = torch.var_mean(parts, tuple(range(2, parts.dim())), correction=0, keepdim=True)
        y = ((parts - mean) * torch.rsqrt(var + self.epsilon)).flatten(1, 2)
        shape = [-1, *[1] * (y.dim() - 2)]
        if self.weight is not None:
            y = y * self.weight.view(shape)
        if self.bias is not None:
            y = y + self.bias.view(shape)
        return y.movedim(1, self.axis).to(x.dtype)


class Normalization(KerasModule):
    """Keras' Normalization: (x - mean) / sqrt(variance) with numbers from the file."""

    keras_class = "Normalization"
    options: ClassVar = {"axis": -1, "mean": None, "variance": None, "invert": False}

    def build(self, *shapes: Shape) -> None:
        axes = () if self.axis is None else self.axis
        axes = (axes,) if isinstance(axes, int) else axes
        rank = len(shapes[0])
        self.axes = tuple(sorted(a % rank for a in axes))
        if self.mean is None:
            kept = [known_length(shapes[0], a, self.keras_class) for a in self.axes]
            self.register_buffer("adapt_mean", torch.zeros(kept))
            self.register_buffer("adapt_variance", torch.ones(kept))
            self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def _shaped(self, value: Any, x: Tensor) -> Tensor:
        value = torch.as_tensor(np.asarray(value) if isinstance(value, tuple) else value)
        value = value.to(x.device, x.dtype)
        if value.dim() == len(self.axes):
            lengths = dict(zip(self.axes, value.shape, strict=True))
            return value.reshape([lengths.get(a, 1) for a in range(x.dim())])
        return value

    def forward(self, x: Tensor) -> Tensor:
        given = self.mean is not None
        mean = self._shaped(self.mean if given else self.adapt_mean, x)
        variance = self._shaped(self.variance if given else self.adapt_variance, x)
        deviation = variance.sqrt().clamp_min(1e-7)
        return mean + x * deviation if self.invert else (x - mean) / deviation

    def slots(self) -> list[Slot]:
        if self.mean is not None:
            return []
        return [Slot(self, n, trainable=False) for n in ("adapt_mean", "adapt_variance", "count")]


CLASSES = [BatchNorm, GroupNorm, LayerNorm, Normalization]
