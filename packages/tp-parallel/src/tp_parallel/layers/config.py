"""The shape of a GPT, checked once, before anything is built."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class GPTConfig:
    """Shape and variants of a decoder-only transformer.

    Attributes: `kv_heads` below `heads` is grouped-query attention (None: equal); `ffn` is the
    inner width of the MLP (None: 4 * hidden); `position` "learned" or "rotary"; `norm` "layernorm"
    or "rmsnorm"; `activation` "gelu", "gelu_tanh", "relu" or "swiglu"; `tie_embeddings` uses the
    input embedding as output layer; `sequence_parallel` keeps activations between the split layers
    cut over the sequence; `recompute` stores only each layer's input and runs the layer again in
    the backward pass. Raises ValueError for values that do not fit together.
    """

    vocab_size: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int | None = None
    ffn: int | None = None
    max_positions: int = 1024
    position: str = "learned"
    rotary_base: float = 10000.0
    norm: str = "layernorm"
    norm_eps: float = 1e-5
    activation: str = "gelu"
    bias: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    tie_embeddings: bool = True
    init_std: float = 0.02
    sequence_parallel: bool = False
    recompute: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _one_of("position", self.position, ("learned", "rotary"))
        _one_of("norm", self.norm, ("layernorm", "rmsnorm"))
        _one_of("activation", self.activation, ("gelu", "gelu_tanh", "relu", "swiglu"))
        _one_of("dtype", self.dtype, tuple(_DTYPES))
        for name in ("vocab_size", "hidden", "layers", "heads", "max_positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"GPTConfig: {name} must be positive, got {getattr(self, name)}")
        for name in ("kv_heads", "ffn"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"GPTConfig: {name} must be positive or None, got {value}")
        for name in ("dropout", "attention_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"GPTConfig: {name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("norm_eps", "init_std", "rotary_base"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"GPTConfig: {name} must be above 0, got {getattr(self, name)}")
        if self.hidden % self.heads:
            raise ValueError(
                f"GPTConfig: hidden must be a multiple of heads, got {self.hidden} and {self.heads}"
            )
        if self.heads % self.groups:
            raise ValueError(
                f"GPTConfig: heads must be a multiple of kv_heads, got {self.heads} and "
                f"{self.groups}"
            )
        if self.position == "rotary" and self.head_dim % 2:
            raise ValueError(f"GPTConfig: rotary needs an even head size, got {self.head_dim}")

    @property
    def groups(self) -> int:
        """Key and value heads."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def inner(self) -> int:
        """Inner width of the MLP."""
        return 4 * self.hidden if self.ffn is None else self.ffn

    @property
    def torch_dtype(self) -> torch.dtype:
        return _DTYPES[self.dtype]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"GPTConfig: {name} must be one of {allowed}, got {value!r}")
