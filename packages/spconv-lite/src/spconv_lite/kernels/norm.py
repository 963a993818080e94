"""The BatchNorm behind a convolution, in inference: an operator's arguments, and their fold."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Norm(NamedTuple):
    """Sums less `mean`, over the root of `variance` plus `eps`, times `gain`, plus `offset`; each
    (out,)."""

    mean: Tensor
    variance: Tensor
    gain: Tensor | None
    offset: Tensor | None
    eps: float

    def folded(self, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """As a scale and a shift (out,), float32 at least, of sums that have no bias yet."""
        scale = torch.rsqrt(_wide(self.variance) + self.eps)
        if self.gain is not None:
            scale = scale * self.gain
        shift = -self.mean * scale
        if bias is not None:
            shift = torch.addcmul(shift, _wide(bias), scale)
        return scale, shift if self.offset is None else shift + self.offset


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
