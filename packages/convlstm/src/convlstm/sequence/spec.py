"""The static part of a ConvLSTM cell: geometry, activations, and the sizes that follow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral

from .activations import resolve_activation

DATA_FORMATS = ("channels_first", "channels_last")


def is_integer(value: object) -> bool:
    """Whether a value counts something: numpy's integers do, truth values do not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def to_tuple(value: int | Sequence[int], rank: int, name: str, owner: str) -> tuple[int, ...]:
    """`value` as `rank` positive integers; one integer is repeated."""
    values = (value,) * rank if is_integer(value) or not isinstance(value, Iterable) else value
    values = tuple(values)
    if len(values) != rank or any(not is_integer(v) or v < 1 for v in values):
        raise ValueError(
            f"{owner}: {name} must be a positive integer or {rank} of them, got {value!r}"
        )
    return tuple(int(v) for v in values)


@dataclass(frozen=True)
class CellSpec:
    """What a cell computes, without its weights.

    `padding` is "valid" or "same"; "same" is TensorFlow's rule: the output has ceil(n / stride)
    positions, and an odd padding cell goes to the end. The recurrent convolution is always "same"
    with stride 1 and dilation 1.
    """

    rank: int
    hidden_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str = "valid"
    activation: str = "tanh"
    recurrent_activation: str = "sigmoid"

    def __post_init__(self) -> None:
        if self.padding not in ("valid", "same"):
            raise ValueError(f'ConvLSTM: padding must be "valid" or "same", got {self.padding!r}')
        if self.hidden_channels < 1:
            raise ValueError(
                f"ConvLSTM: hidden_channels must be at least 1, got {self.hidden_channels}"
            )
        if max(self.stride) > 1 and max(self.dilation) > 1:
            raise ValueError(
                f"ConvLSTM: stride {self.stride} and dilation {self.dilation} cannot both exceed 1"
            )
        resolve_activation(self.activation)
        resolve_activation(self.recurrent_activation)

    @classmethod
    def make(
        cls,
        rank: int,
        hidden_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        **rest: str,
    ) -> CellSpec:
        owner = f"ConvLSTM{rank}d"
        return cls(
            rank,
            hidden_channels,
            to_tuple(kernel_size, rank, "kernel_size", owner),
            to_tuple(stride, rank, "stride", owner),
            to_tuple(dilation, rank, "dilation", owner),
            **rest,
        )

    def input_pads(self, size: Sequence[int]) -> list[tuple[int, int]]:
        """(before, after) zeros for each spatial axis of an input of the given `size`."""
        if self.padding == "valid":
            return [(0, 0)] * self.rank
        return [
            same_pads(n, k, s, d)
            for n, k, s, d in zip(size, self.kernel_size, self.stride, self.dilation, strict=True)
        ]

    def recurrent_pads(self) -> list[tuple[int, int]]:
        """(before, after) zeros for each spatial axis of the state."""
        return [((k - 1) // 2, k - 1 - (k - 1) // 2) for k in self.kernel_size]

    def state_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Spatial size of the state and the output for an input of spatial `size`."""
        out = []
        for n, k, s, d in zip(size, self.kernel_size, self.stride, self.dilation, strict=True):
            span = (k - 1) * d + 1
            m = -(-n // s) if self.padding == "same" else (n - span) // s + 1
            if m < 1:
                raise ValueError(
                    f"ConvLSTM{self.rank}d: an input of size {tuple(size)} is smaller than the "
                    f'kernel (span {span}); use padding="same" or a larger input'
                )
            out.append(m)
        return tuple(out)


def same_pads(n: int, k: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's "same" padding of one axis of length `n`: (before, after)."""
    out = -(-n // stride)
    total = max((out - 1) * stride + (k - 1) * dilation + 1 - n, 0)
    return total // 2, total - total // 2


def flat_pads(pads: Sequence[tuple[int, int]]) -> list[int]:
    """(before, after) of each axis in the order that torch.nn.functional.pad wants: last first."""
    return [p for pair in reversed(list(pads)) for p in pair]
