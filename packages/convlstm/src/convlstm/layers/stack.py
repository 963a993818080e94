"""Layers of layers: both directions of time, and several ConvLSTM one above the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..sequence.spec import is_integer
from .layer import LAYERS
from .state import State

MERGES = ("concat", "sum", "mul", "ave", None)


class Bidirectional(nn.Module):
    """A ConvLSTM forward and one backward in time, merged; equal to Keras' Bidirectional.

    rank: 1, 2 or 3. merge: "concat" (channels side by side), "sum", "mul", "ave", or None for a
    tuple of both. The other arguments are those of `ConvLSTM2d`; return_state gives
    (output, (forward state, backward state)).
    """

    def __init__(
        self,
        rank: int,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int | Sequence[int],
        *,
        merge: str | None = "concat",
        return_sequences: bool = False,
        return_state: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if rank not in LAYERS:
            raise ValueError(f"Bidirectional: rank must be 1, 2 or 3, got {rank!r}")
        if merge not in MERGES:
            raise ValueError(f"Bidirectional: merge must be one of {MERGES}, got {merge!r}")
        if "go_backwards" in options:
            raise ValueError("Bidirectional: go_backwards is not an option: it runs both ways")
        options = {**options, "return_sequences": return_sequences, "return_state": True}
        args = (in_channels, hidden_channels, kernel_size)
        self.forward_layer = LAYERS[rank](*args, **options)
        self.backward_layer = LAYERS[rank](*args, **options, go_backwards=True)
        self.merge, self.return_state = merge, return_state
        self.return_sequences = return_sequences
        self.rank = rank
        # Of "concat": the channels'. Keras' own joins the last axis, whatever the format.
        self.concat_axis = -1 if self.forward_layer.channels_last else -1 - rank

    def reset_state(self, batch: int | None = None) -> None:
        """Forgets the states that stateful layers keep; see `ConvLSTM2d.reset_state`."""
        self.forward_layer.reset_state(batch)
        self.backward_layer.reset_state(batch)

    @property
    def out_channels(self) -> int:
        return self.forward_layer.hidden_channels * (2 if self.merge == "concat" else 1)

    def forward(
        self,
        x: Tensor,
        initial_state: tuple[State, State] | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ):
        """x, mask and lengths as in `ConvLSTM2d`; initial_state is (forward, backward)."""
        first, second = initial_state or (None, None)
        a, state_a = self.forward_layer(x, first, mask, lengths)
        b, state_b = self.backward_layer(x, second, mask, lengths)
        if self.return_sequences:
            b = b.flip(1)
        out = self._merged(a, b)
        return (out, (state_a, state_b)) if self.return_state else out

    def _merged(self, a: Tensor, b: Tensor):
        if self.merge is None:
            return a, b
        if self.merge == "concat":
            return torch.cat([a, b], self.concat_axis)
        if self.merge == "sum":
            return a + b
        return a * b if self.merge == "mul" else (a + b) / 2


class ConvLSTM(nn.Module):
    """Several ConvLSTM layers one above the other, as torch.nn.LSTM has them.

    rank: 1, 2 or 3. hidden_channels: one number for all layers, or one for each of num_layers.
    kernel_size: one for all, or a list with one for each. dropout: of the outputs between layers,
    in training mode. The other arguments are those of `ConvLSTM2d`, padding "same" by default.

    x (B, T, C, size...) to (outputs (B, T, F, size...), states): one (h, c) for each layer, or a
    pair of them where it is bidirectional. Only the first layer takes a stride.
    """

    def __init__(
        self,
        rank: int,
        in_channels: int,
        hidden_channels: int | Sequence[int],
        kernel_size: Any,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        padding: str = "same",
        stride: int | Sequence[int] = 1,
        **options: Any,
    ) -> None:
        super().__init__()
        if rank not in LAYERS:
            raise ValueError(
                f"ConvLSTM: rank must be 1, 2 or 3 spatial axes, got {rank!r}; the order is "
                "ConvLSTM(rank, in_channels, hidden_channels, kernel_size, num_layers)"
            )
        if not is_integer(num_layers) or num_layers < 1:
            raise ValueError(f"ConvLSTM: num_layers must be at least 1, got {num_layers!r}")
        widths = self._each(hidden_channels, num_layers, "hidden_channels")
        kernels = kernel_size if isinstance(kernel_size, list) else [kernel_size] * num_layers
        if len(kernels) != num_layers:
            raise ValueError(
                f"ConvLSTM: kernel_size must be one for all or a list of {num_layers}, got "
                f"{kernel_size!r}"
            )
        for fixed in ("return_sequences", "return_state"):
            if fixed in options:
                raise ValueError(
                    f"ConvLSTM: {fixed} is not an option: outputs and states are given"
                )
        options = {**options, "padding": padding, "return_sequences": True, "return_state": True}
        self.layers = nn.ModuleList()
        width = in_channels
        for k in range(num_layers):
            own = {**options, "stride": stride if k == 0 else 1}
            if bidirectional:
                layer: nn.Module = Bidirectional(rank, width, widths[k], kernels[k], **own)
                width = layer.out_channels
            else:
                layer = LAYERS[rank](width, widths[k], kernels[k], **own)
                width = widths[k]
            self.layers.append(layer)
        self.out_channels = width
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def from_ndrplz(cls, weights: Mapping[str, Tensor], **options: Any) -> ConvLSTM:
        """The stack of a state dict of ndrplz/ConvLSTM_pytorch, with its weights.

        weights: `cell_list.0.conv.weight` (4F, C + F, kh, kw) and `.bias`, ... with gates in the
        order i, f, o, g and odd kernels, as that library needs them. x is (B, T, C, H, W) here
        (its batch_first=True). options: as of `ConvLSTM`. Raises ValueError for other names, and
        for even kernels, for which that library changes the size of the state.
        """
        layers: list[tuple[Tensor, Tensor | None]] = []
        while (weight := weights.get(f"cell_list.{len(layers)}.conv.weight")) is not None:
            layers.append((weight, weights.get(f"cell_list.{len(layers)}.conv.bias")))
        if not layers or len(weights) != sum(1 if b is None else 2 for _, b in layers):
            raise ValueError(
                "ConvLSTM.from_ndrplz: weights must be named cell_list.N.conv.weight and .bias, "
                f"got {', '.join(sorted(weights)[:4])}"
            )
        widths = [weight.shape[0] // 4 for weight, _ in layers]
        kernels = [tuple(weight.shape[2:]) for weight, _ in layers]
        if any(k % 2 == 0 for kernel in kernels for k in kernel):
            raise ValueError(f"ConvLSTM.from_ndrplz: kernels must be odd, got {kernels}")
        in_channels = layers[0][0].shape[1] - widths[0]
        bias = layers[0][1] is not None
        stack = cls(2, in_channels, widths, kernels, len(layers), bias=bias, **options)
        with torch.no_grad():
            for layer, (weight, own) in zip(stack.layers, layers, strict=True):
                i, f, o, g = weight.chunk(4)
                channels = layer.in_channels
                both = torch.cat([i, f, g, o])
                layer.weight_ih.copy_(both[:, :channels])
                layer.weight_hh.copy_(both[:, channels:])
                if own is not None:
                    i, f, o, g = own.chunk(4)
                    layer.bias.copy_(torch.cat([i, f, g, o]))
        return stack

    @staticmethod
    def _each(value: int | Sequence[int], count: int, name: str) -> list[int]:
        values = [value] * count if is_integer(value) else list(value)  # type: ignore[arg-type]
        if len(values) != count:
            raise ValueError(
                f"ConvLSTM: {name} must be one for all or {count}, got {value!r}; the order is "
                "ConvLSTM(rank, in_channels, hidden_channels, kernel_size, num_layers)"
            )
        return values  # type: ignore[return-value]

    def forward(
        self,
        x: Tensor,
        initial_states: Sequence[Any] | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, list[Any]]:
        """Runs all layers; initial_states has one entry for each, as the second result does."""
        count = len(self.layers)
        if initial_states is not None and len(initial_states) != count:
            raise ValueError(
                f"ConvLSTM: initial_states must have {count} entries, got {len(initial_states)}"
            )
        states = []
        for k, layer in enumerate(self.layers):
            start = None if initial_states is None else initial_states[k]
            x, state = layer(x, start, mask, lengths)
            states.append(state)
            if k + 1 < count:
                x = self.dropout(x)
        return x, states

    def reset_state(self) -> None:
        """Forgets the states that stateful layers keep."""
        for module in self.modules():
            if module is not self and hasattr(module, "reset_state"):
                module.reset_state()
