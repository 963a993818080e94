"""Whether the values of a tensor can be looked at."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensor


def can_read(tensor: torch.Tensor) -> bool:
    """Whether there are values and reading them costs no wait: on the host, not under
    torch.compile, no fake tensor.
    """
    if tensor.device.type != "cpu" or tensor.numel() == 0 or torch.compiler.is_compiling():
        return False
    return not isinstance(tensor, FakeTensor)
