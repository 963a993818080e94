"""One step of a ConvLSTM as a module, and what cells and layers share: weights, Keras' layout."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from ..sequence import reference
from ..sequence.activations import activation_name
from ..sequence.spec import DATA_FORMATS, CellSpec, is_integer
from .initializers import Initializer, initialize

# Keras' class names, which a saved configuration carries.
KERAS_CLASSES = {1: "ConvLSTM1D", 2: "ConvLSTM2D", 3: "ConvLSTM3D"}
_KERAS_NAMES = {
    "strides": "stride",
    "padding": "padding",
    "data_format": "data_format",
    "dilation_rate": "dilation",
    "activation": "activation",
    "recurrent_activation": "recurrent_activation",
    "use_bias": "bias",
    "kernel_initializer": "kernel_initializer",
    "recurrent_initializer": "recurrent_initializer",
    "bias_initializer": "bias_initializer",
    "unit_forget_bias": "unit_forget_bias",
    "dropout": "dropout",
    "recurrent_dropout": "recurrent_dropout",
}


class CellOptions(TypedDict, total=False):
    """The options of a cell, which a layer passes on; `ConvLSTMBase` has their defaults and
    `ConvLSTM2d` says what they mean."""

    stride: int | Sequence[int]
    padding: str
    dilation: int | Sequence[int]
    data_format: str
    activation: str | None
    recurrent_activation: str | None
    bias: bool
    kernel_initializer: Initializer
    recurrent_initializer: Initializer
    bias_initializer: Initializer
    unit_forget_bias: bool
    dropout: float
    recurrent_dropout: float
    peephole: bool | Sequence[int]
    norm: str | None
    norm_groups: int
    device: torch.device | str | None
    dtype: torch.dtype | None


def with_options(base: Any) -> Callable[[type], type]:
    """Shows the options of `base` in a subclass's signature, in place of `**cell`."""

    def show(cls: Any) -> Any:
        own = inspect.signature(cls.__init__)
        parts = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        known = {p.name for p in parts}
        inherited = inspect.signature(base.__init__).parameters.values()
        parts += [p for p in inherited if p.name not in known and p.kind is p.KEYWORD_ONLY]
        cls.__signature__ = own.replace(parameters=parts[1:])  # type: ignore[attr-defined]
        return cls

    return show


class ConvLSTMBase(nn.Module):
    """Weights and options that a cell and a layer share. See `ConvLSTM2d` for the arguments."""

    rank: int

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: str = "valid",
        dilation: int | Sequence[int] = 1,
        data_format: str = "channels_first",
        activation: str | None = "tanh",
        recurrent_activation: str | None = "sigmoid",
        bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        recurrent_initializer: Initializer = "orthogonal",
        bias_initializer: Initializer = "zeros",
        unit_forget_bias: bool = True,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        peephole: bool | Sequence[int] = False,
        norm: str | None = None,
        norm_groups: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if data_format not in DATA_FORMATS:
            raise ValueError(f"{name}: data_format must be one of {DATA_FORMATS}: {data_format!r}")
        if norm not in (None, "layer", "group"):
            raise ValueError(f'{name}: norm must be None, "layer" or "group", got {norm!r}')
        for label, value in (("in_channels", in_channels), ("hidden_channels", hidden_channels)):
            if not is_integer(value) or value < 1:
                raise ValueError(f"{name}: {label} must be a positive integer, got {value!r}")
        in_channels, hidden_channels = int(in_channels), int(hidden_channels)
        if not isinstance(padding, str):
            raise ValueError(
                f'{name}: padding must be "valid" or "same", got {padding!r}; a ConvLSTM has no '
                'number of zeros: "same" keeps the size of the input'
            )
        self.spec = CellSpec.make(
            self.rank,
            hidden_channels,
            kernel_size,
            stride,
            dilation,
            padding=padding.lower(),
            activation=activation_name(activation),
            recurrent_activation=activation_name(recurrent_activation),
        )
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.channels_last = data_format == "channels_last"
        self.kernel_initializer = kernel_initializer
        self.recurrent_initializer = recurrent_initializer
        self.bias_initializer = bias_initializer
        self.unit_forget_bias = unit_forget_bias
        # Keras clips the rates, and a rate of exactly 1 drops nothing there.
        self.dropout = min(1.0, max(0.0, dropout))
        self.recurrent_dropout = min(1.0, max(0.0, recurrent_dropout))

        kernel = self.spec.kernel_size
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        gates = 4 * hidden_channels
        self.weight_ih = nn.Parameter(torch.empty(gates, in_channels, *kernel, **options))
        self.weight_hh = nn.Parameter(torch.empty(gates, hidden_channels, *kernel, **options))
        self.bias = nn.Parameter(torch.empty(gates, **options)) if bias else None
        self.peephole: nn.Parameter | None = None
        if peephole is not False:
            size = (1,) * self.rank if peephole is True else tuple(peephole)
            if len(size) != self.rank:
                raise ValueError(f"{name}: peephole must be a bool or {self.rank} sizes: {size}")
            self.peephole = nn.Parameter(torch.empty(3, hidden_channels, *size, **options))
        self.gate_norm: nn.GroupNorm | None = None
        self.cell_norm: nn.GroupNorm | None = None
        if norm is not None:
            groups = 1 if norm == "layer" else norm_groups
            self.gate_norm = nn.GroupNorm(4 * groups, gates, **options)
            self.cell_norm = nn.GroupNorm(groups, hidden_channels, **options)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws all weights anew with the layer's initialisers; peepholes become zeros."""
        self.weight_ih.copy_(self._drawn(self.kernel_initializer, self.in_channels))
        self.weight_hh.copy_(self._drawn(self.recurrent_initializer, self.hidden_channels))
        if self.bias is not None:
            f = self.hidden_channels
            if self.unit_forget_bias:
                parts = [(f,), None, (2 * f,)]
                drawn = [
                    torch.ones(f) if p is None else initialize(self.bias_initializer, p)
                    for p in parts
                ]
                self.bias.copy_(torch.cat(drawn))
            else:
                self.bias.copy_(initialize(self.bias_initializer, (4 * f,)))
        if self.peephole is not None:
            self.peephole.zero_()

    def _drawn(self, initializer: Initializer, channels: int) -> Tensor:
        shape = (*self.spec.kernel_size, channels, 4 * self.hidden_channels)
        return _from_keras_kernel(initialize(initializer, shape))

    # Keras' weights

    @torch.no_grad()
    def load_keras_weights(self, arrays: Sequence[Any]) -> None:
        """Copies [kernel, recurrent_kernel, bias] in Keras' layout and order into this layer.

        arrays: numpy arrays or tensors of shape (k..., in, 4F), (k..., F, 4F) and (4F,); without
        the last where the layer has no bias. Raises ValueError for another number or shape.
        """
        wanted = [self.weight_ih, self.weight_hh] + ([] if self.bias is None else [self.bias])
        name = f"{type(self).__name__}.load_keras_weights"
        if len(arrays) != len(wanted):
            raise ValueError(
                f"{name}: arrays must hold {len(wanted)} arrays (kernel, recurrent_kernel"
                f"{', bias' if self.bias is not None else ''}), got {len(arrays)}"
            )
        tensors = []
        for weight, array in zip(wanted, arrays, strict=True):
            tensor = torch.as_tensor(array)
            if tensor.dim() > 1:
                tensor = _from_keras_kernel(tensor)
            if tensor.shape != weight.shape:
                raise ValueError(
                    f"{name}: an array in torch's layout must have shape {tuple(weight.shape)}, "
                    f"got {tuple(tensor.shape)}"
                )
            tensors.append(tensor)
        for weight, tensor in zip(wanted, tensors, strict=True):
            weight.copy_(tensor)

    def keras_weights(self) -> list[Any]:
        """[kernel, recurrent_kernel, bias] as numpy arrays in Keras' layout (copies)."""
        if self.peephole is not None or self.gate_norm is not None:
            raise ValueError(f"{type(self).__name__}: Keras has no peepholes and no norm inside")
        weights = [self.weight_ih, self.weight_hh] + ([] if self.bias is None else [self.bias])
        return [_to_keras_kernel(w.detach()).cpu().numpy().copy() for w in weights]

    # Steps

    def _check_input(self, x: Tensor, dims: int) -> None:
        name, order = type(self).__name__, "(B, " + ("T, " if dims == self.rank + 3 else "")
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: x must be a tensor, got {type(x).__name__}")
        if self.channels_last:
            order, axis = order + "size..., C)", -1
        else:
            order, axis = order + "C, size...)", dims - self.rank - 1
        if x.dim() != dims or x.shape[axis] != self.in_channels:
            raise ValueError(
                f"{name}: x must have shape {order} with C = {self.in_channels}, "
                f"got {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise TypeError(f"{name}: x must be floating point, got {x.dtype}")

    def _compute_weights(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x and the weights in the dtype of the convolutions: autocast's where that is on."""
        tensors: list[Tensor | None] = [x, self.weight_ih, self.weight_hh, self.bias]
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            tensors = [None if t is None else t.to(dtype) for t in tensors]
        x, w_ih, w_hh, bias = tensors
        if x.dtype != w_ih.dtype:
            raise TypeError(
                f"{type(self).__name__}: x must have the weights' dtype {w_ih.dtype}, got "
                f"{x.dtype}; convert one of them, or use torch.autocast"
            )
        return x, w_ih, w_hh, bias

    def _start(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """(h, c) channels first, for x (B, ..., C, size...) channels first; zeros by default."""
        size = self.spec.state_size(x.shape[-self.rank :])
        shape = (x.shape[0], self.hidden_channels, *size)
        cell_dtype = cell_state_dtype(x.dtype)
        if state is None:
            return x.new_zeros(shape), x.new_zeros(shape, dtype=cell_dtype)
        h, c = (self._to_first(s) for s in state)
        for label, s in (("h", h), ("c", c)):
            if tuple(s.shape) != shape:
                raise ValueError(
                    f"{type(self).__name__}: the initial {label} must have shape {shape} "
                    f"(channels first), got {tuple(s.shape)}; a state that was kept is "
                    "forgotten by reset_state() of a layer, reset() of a Stream"
                )
            if s.device != x.device:
                raise ValueError(
                    f"{type(self).__name__}: the initial {label} must be on {x.device}, "
                    f"got {s.device}"
                )
        return h.to(x.dtype), c.to(cell_dtype)

    def _extras(self, x: Tensor, h: Tensor) -> reference.CellExtras:
        """Peepholes, norms and freshly drawn dropout masks for steps like x (B, C, size...)."""
        masks = [None, None]
        if self.training:
            for k, (tensor, rate) in enumerate([(x, self.dropout), (h, self.recurrent_dropout)]):
                if 0.0 < rate < 1.0:
                    keep = torch.rand(4, *tensor.shape, device=x.device) >= rate
                    masks[k] = keep.to(tensor.dtype) / (1 - rate)
        return reference.CellExtras(
            self.peephole, masks[0], masks[1], self.gate_norm, self.cell_norm
        )

    def _to_first(self, x: Tensor) -> Tensor:
        return x.movedim(-1, -1 - self.rank) if self.channels_last else x

    def _to_format(self, x: Tensor) -> Tensor:
        return x.movedim(-1 - self.rank, -1) if self.channels_last else x

    def extra_repr(self) -> str:
        s = self.spec
        return (
            f"{self.in_channels}, {self.hidden_channels}, kernel_size={s.kernel_size}, "
            f"stride={s.stride}, padding={s.padding!r}, dilation={s.dilation}"
        )


class _Cell(ConvLSTMBase):
    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step: x (B, C, size...) and state (h, c) to the new (h, c).

        In training mode dropout draws new masks at each call; use the layer for masks that are
        shared over time.
        """
        self._check_input(x, self.rank + 2)
        x, w_ih, w_hh, bias = self._compute_weights(x)
        x = self._to_first(x)
        h, c = self._start(x, state)
        h, c = reference.step(x, h, c, w_ih, w_hh, bias, self.spec, self._extras(x, h))
        return self._to_format(h), self._to_format(c)


class ConvLSTMCell1d(_Cell):
    """One step over (B, C, L). Arguments as in `ConvLSTM2d`."""

    rank = 1


class ConvLSTMCell2d(_Cell):
    """One step over (B, C, H, W). Arguments as in `ConvLSTM2d`."""

    rank = 2


class ConvLSTMCell3d(_Cell):
    """One step over (B, C, D, H, W). Arguments as in `ConvLSTM2d`."""

    rank = 3


def cell_state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the cell state: float32 for half precisions, else the same."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def keras_arguments(
    config: Mapping[str, Any], keras_version: str = "3"
) -> tuple[tuple[int, Any], dict[str, Any]]:
    """((filters, kernel_size), keyword arguments) of a Keras configuration.

    What Keras leaves to its defaults gets Keras' defaults (data_format "channels_last"). For a
    configuration that Keras 2 wrote, "hard_sigmoid" is Keras 2's.
    """
    options = {ours: config[name] for name, ours in _KERAS_NAMES.items() if name in config}
    for name in ("stride", "dilation"):
        if isinstance(options.get(name), list):
            options[name] = tuple(options[name])
    if options.get("data_format") is None:
        options["data_format"] = "channels_last"
    for name in ("activation", "recurrent_activation"):
        value = options.get(name, "")
        if isinstance(value, Mapping):
            value = value.get("config", value.get("class_name"))
            options[name] = value if isinstance(value, str) else value["name"]
        if value == "hard_sigmoid" and str(keras_version).startswith(("1", "2")):
            options[name] = "hard_sigmoid_keras2"
    kernel = config["kernel_size"]
    return (config["filters"], tuple(kernel) if isinstance(kernel, list) else kernel), options


def _from_keras_kernel(kernel: Tensor) -> Tensor:
    """(k..., in, out) to (out, in, k...)."""
    rank = kernel.dim() - 2
    return kernel.permute(rank + 1, rank, *range(rank)).contiguous()


def _to_keras_kernel(weight: Tensor) -> Tensor:
    """(out, in, k...) to (k..., in, out); a bias stays as it is."""
    if weight.dim() == 1:
        return weight
    return weight.permute(*range(2, weight.dim()), 1, 0)
