"""Keras' layers that treat each value by itself: activations, rescaling, noise and dropout."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import KERAS_ACTIVATIONS, KerasModule, Shape, Slot, keras_activation


class Activation(KerasModule):
    """Keras' Activation: a function by its name."""

    keras_class = "Activation"
    options: ClassVar = {"activation": "linear"}

    def __init__(self, activation: str | None) -> None:
        super().__init__(activation=keras_activation(activation))

    def forward(self, x: Tensor) -> Tensor:
        return KERAS_ACTIVATIONS[self.activation](x)


class Identity(KerasModule):
    keras_class = "Identity"

    def forward(self, x: Tensor) -> Tensor:
        return x


class ReLU(KerasModule):
    """max_value from there on, x from `threshold` on, negative_slope (x - threshold) below."""

    keras_class = "ReLU"
    options: ClassVar = {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}

    def forward(self, x: Tensor) -> Tensor:
        # Keras' own order of steps (keras.activations.relu), which matters below a threshold < 0.
        slope, top = self.negative_slope or 0.0, self.max_value
        threshold = self.threshold or 0.0
        if slope and top is None and threshold == 0:
            return F.leaky_relu(x, slope)
        below = F.relu(threshold - x)
        y = x * (x > threshold) if threshold else F.relu(x)
        if top is not None:
            y = torch.clamp(y, 0, top)
        return y - slope * below if slope else y


class LeakyReLU(KerasModule):
    keras_class = "LeakyReLU"
    options: ClassVar = {"negative_slope": 0.3}
    aliases: ClassVar = {"alpha": "negative_slope"}

    def build(self, *shapes: Shape) -> None:
        self.negative_slope = float(self.negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.negative_slope)


class ThresholdedReLU(KerasModule):
    """Keras 2's: x above theta, else 0."""

    keras_class = "ThresholdedReLU"
    options: ClassVar = {"theta": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        return x * (x > self.theta)


class PReLU(KerasModule):
    """max(x, 0) + alpha min(x, 0) with a learned alpha; `shared_axes` share theirs."""

    keras_class = "PReLU"
    options: ClassVar = {"shared_axes": None}

    def build(self, *shapes: Shape) -> None:
        shape = list(shapes[0][1:])
        for axis in self.shared_axes or ():
            shape[axis - 1] = 1
        if None in shape:
            raise ValueError(f"PReLU: axes that share no alpha must be known, got {shapes[0]}")
        self.alpha = nn.Parameter(torch.zeros(*shape))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) - self.alpha * F.relu(-x)

    def slots(self) -> list[Slot]:
        return [Slot(self, "alpha")]


class ELU(KerasModule):
    keras_class = "ELU"
    options: ClassVar = {"alpha": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(x, float(self.alpha))


class Softmax(KerasModule):
    keras_class = "Softmax"
    options: ClassVar = {"axis": -1}

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.axis, int):
            return torch.softmax(x, self.axis)
        return torch.exp(x - torch.logsumexp(x, tuple(self.axis), keepdim=True))


class Rescaling(KerasModule):
    """x scale + offset; numbers, or one for each channel of the last axis."""

    keras_class = "Rescaling"
    options: ClassVar = {"scale": 1.0, "offset": 0.0}

    def forward(self, x: Tensor) -> Tensor:
        scale, offset = (torch.as_tensor(v, dtype=x.dtype) for v in (self.scale, self.offset))
        return x * scale.to(x.device) + offset.to(x.device)


# What does something in training mode alone.


class Dropout(KerasModule):
    """Keras' Dropout: elements, or blocks of them by the configuration's noise_shape."""

    keras_class = "Dropout"
    options: ClassVar = {"rate": 0.0}

    def __init__(self, rate: float) -> None:
        super().__init__(rate=rate)

    @property
    def p(self) -> float:
        """torch's name of the rate."""
        return self.rate

    def _noise_shape(self, x: Tensor) -> list[int]:
        shape = self.carried.get("noise_shape")
        if shape is None:
            return list(x.shape)
        return [n if m is None else m for n, m in zip(x.shape, shape, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not 0 < self.rate < 1:
            return x
        keep = torch.rand(self._noise_shape(x), device=x.device) >= self.rate
        return x * (keep.to(x.dtype) / (1 - self.rate))


class _SpatialDropout(Dropout):
    """Dropout of whole channels."""

    dropped = frozenset({"trainable", "noise_shape"})
    options: ClassVar = {"rate": 0.0, "data_format": None}

    def __init__(self, rate: float, data_format: str | None = None) -> None:
        KerasModule.__init__(self, rate=rate, data_format=data_format)

    def _noise_shape(self, x: Tensor) -> list[int]:
        channels = 1 if self.data_format == "channels_first" else x.dim() - 1
        return [n if axis in (0, channels) else 1 for axis, n in enumerate(x.shape)]


class SpatialDropout1D(_SpatialDropout):
    keras_class = "SpatialDropout1D"
    options: ClassVar = {"rate": 0.0}

    def __init__(self, rate: float) -> None:
        KerasModule.__init__(self, rate=rate)
        self.data_format = None


class SpatialDropout2D(_SpatialDropout):
    keras_class = "SpatialDropout2D"


class SpatialDropout3D(_SpatialDropout):
    keras_class = "SpatialDropout3D"


class GaussianNoise(KerasModule):
    keras_class = "GaussianNoise"
    options: ClassVar = {"stddev": 0.0}

    def forward(self, x: Tensor) -> Tensor:
        return x + self.stddev * torch.randn_like(x) if self.training else x


class GaussianDropout(KerasModule):
    """x times noise around 1 with the variance that dropout of this rate has."""

    keras_class = "GaussianDropout"
    options: ClassVar = {"rate": 0.0}

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not 0 < self.rate < 1:
            return x
        return x * (1 + math.sqrt(self.rate / (1 - self.rate)) * torch.randn_like(x))


class AlphaDropout(KerasModule):
    keras_class = "AlphaDropout"
    options: ClassVar = {"rate": 0.0}

    def forward(self, x: Tensor) -> Tensor:
        return F.alpha_dropout(x, self.rate, self.training)


class ActivityRegularization(KerasModule):
    """A penalty of Keras' training; the values pass."""

    keras_class = "ActivityRegularization"
    options: ClassVar = {"l1": 0.0, "l2": 0.0}

    def forward(self, x: Tensor) -> Tensor:
        return x


CLASSES = [
    Activation, ActivityRegularization, AlphaDropout, Dropout, ELU, GaussianDropout, GaussianNoise,
    Identity, LeakyReLU, PReLU, ReLU, Rescaling, Softmax, SpatialDropout1D, SpatialDropout2D,
    SpatialDropout3D, ThresholdedReLU,
]  # fmt: skip
