"""Rotary positions (Su et al., 2021, arXiv 2104.09864) and the ways to stretch them.

linear    every frequency divided by the factor                 Chen et al., 2023, arXiv 2306.15595
dynamic   a larger base for sequences beyond the trained length  "NTK-aware", as transformers has it
yarn      high frequencies kept, low ones divided, a ramp between; scores scaled by the square of
          the attention factor                                   Peng et al., 2023, arXiv 2309.00071
llama3    the same by wavelength, without the scale              Llama 3.1
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

KINDS = ("linear", "dynamic", "yarn", "llama3")


@dataclass(frozen=True)
class RotaryScaling:
    """How the frequencies of rotary positions are stretched.

    Attributes: `kind` of `KINDS`; `factor` of the stretch; `original` tokens of the sequences
    before it ("dynamic", "yarn", "llama3"); `low`, `high`: wavelengths original / low and above are
    divided, original / high and below kept ("llama3"); `fast`, `slow`: turns over the original
    length from which on a frequency is kept, and up to which it is divided ("yarn"); `truncate`:
    the ramp between them begins and ends at whole pairs; `attention`: factor of cos and sin (None:
    0.1 ln(factor) + 1 for "yarn"). Raises ValueError for an unknown kind or numbers out of range.
    """

    kind: str
    factor: float
    original: int | None = None
    low: float = 1.0
    high: float = 4.0
    fast: float = 32.0
    slow: float = 1.0
    truncate: bool = True
    attention: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"RotaryScaling: kind must be one of {KINDS}, got {self.kind!r}")
        if not 1.0 <= self.factor < math.inf:
            raise ValueError(f"RotaryScaling: factor must be at least 1, got {self.factor}")
        if self.kind != "linear" and (self.original is None or self.original < 1):
            raise ValueError(
                f"RotaryScaling: {self.kind} needs original, the tokens of the sequences before "
                f"the stretch, got {self.original}"
            )

    @property
    def attention_factor(self) -> float:
        """By which cos and sin are multiplied."""
        if self.attention is not None:
            return self.attention
        return 0.1 * math.log(self.factor) + 1.0 if self.kind == "yarn" else 1.0


def frequencies(
    dim: int, base: float, scaling: RotaryScaling | None, length: int, device: torch.device
) -> torch.Tensor:
    """Radians a position of each of dim / 2 pairs, float64; `length`: of the whole sequence."""
    if scaling is not None and scaling.kind == "dynamic" and length > scaling.original:
        stretch = scaling.factor * length / scaling.original - (scaling.factor - 1)
        base = base * stretch ** (dim / (dim - 2))
    plain = base ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float64) / dim)
    if scaling is None or scaling.kind == "dynamic":
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    keep = _kept_by_turns(scaling, dim, base, plain) if scaling.kind == "yarn" else (
        _kept_by_wavelength(scaling, plain)
    )  # fmt: skip
    return plain * keep + plain / scaling.factor * (1 - keep)


def _kept_by_turns(
    scaling: RotaryScaling, dim: int, base: float, plain: torch.Tensor
) -> torch.Tensor:
    """YaRN's ramp, 1 where a frequency is kept: linear in the pair's number."""

    def pair(turns: float) -> float:  # that makes so many turns over the original length
        return dim * math.log(scaling.original / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = pair(scaling.fast), pair(scaling.slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    last = last if last != first else first + 0.001
    number = torch.arange(len(plain), device=plain.device, dtype=plain.dtype)
    return 1 - ((number - first) / (last - first)).clamp(0, 1)


def _kept_by_wavelength(scaling: RotaryScaling, plain: torch.Tensor) -> torch.Tensor:
    """Llama 3's ramp, 1 where a frequency is kept: linear in the turns over the original length."""
    turns = scaling.original * plain / (2 * math.pi)
    return ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)


def rotary_table(
    positions: torch.Tensor,
    dim: int,
    base: float,
    dtype: torch.dtype,
    scaling: RotaryScaling | None = None,
    length: int | None = None,
) -> torch.Tensor:
    """cos and sin of the angles of int64 `positions` [sequence] or [batch, sequence].

    length: of the longest sequence, on which "dynamic" depends; None: of `positions`.
    Returns [2, sequence, dim / 2] or [2, batch, 1, sequence, dim / 2] of `dtype`, computed in
    float64.
    """
    length = positions.shape[-1] if length is None else length
    turn = frequencies(dim, base, scaling, length, positions.device)
    angles = positions.double().unsqueeze(-1) * turn
    if positions.dim() == 2:
        angles = angles.unsqueeze(1)
    table = torch.stack((angles.cos(), angles.sin()))
    if scaling is not None:
        table = table * scaling.attention_factor
    return table.to(dtype)


def rotate(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Turns the pairs (x[i], x[i + d/2]) of the first d values of each head of [batch, heads,
    sequence, head], by a table from `rotary_table` with d / 2 angles.
    """
    cos, sin = table.to(x.dtype)
    turned = 2 * cos.shape[-1]
    a, b = x[..., :turned].chunk(2, -1)
    parts = [a * cos - b * sin, b * cos + a * sin]
    if turned < x.shape[-1]:
        parts.append(x[..., turned:])
    return torch.cat(parts, -1)
