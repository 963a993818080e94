"""The shape of a GPT, checked once, before anything is built."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from typing import Any

import torch

from .activation import ACTIVATIONS
from .kinds import check_kinds
from .rotary import RotaryScaling

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
_POSITIVE = ("vocab_size", "hidden", "layers", "heads", "max_positions")
_POSITIVE_OR_NONE = ("kv_heads", "ffn", "head_size")
_ABOVE_ZERO = ("norm_eps", "init_std", "rotary_base", "embedding_scale")
_ABOVE_ZERO_OR_NONE = ("rotary_base_windowed", "attention_scale", "attention_softcap",
                       "logit_softcap")  # fmt: skip


@dataclass(frozen=True)
class GPTConfig:
    """Shape and variants of a decoder-only transformer.

    Attributes:
        kv_heads: key and value heads, below `heads` for grouped-query attention; None: equal.
        head_size: width of a head; None: hidden / heads.
        ffn: inner width of the MLP; None: 4 * hidden.
        position: "learned" or "rotary".
        rotary_fraction: share of each head that rotary positions turn.
        rotary_base_windowed: base of the layers with a window; None: rotary_base, scaled too.
        rotary_scaling: how the frequencies are stretched; None: not at all.
        windows: for each layer, how many tokens a token sees, itself included; 0: all before it.
            None: all layers see all.
        norm: "layernorm" or "rmsnorm"; zero_centred_norm: the weight is kept as weight - 1.
        post_norms: norms after attention and MLP too, before the residual sum.
        parallel_residual: attention and MLP read the same input, their outputs are added together.
        activation: of `activation.ACTIVATIONS`.
        bias: of all linear layers and layer norms; qkv_bias, out_bias, mlp_bias: of some; None: as
            `bias`.
        qk_norm: an RMS norm over each head of queries and keys.
        attention_scale: factor of the scores; None: 1 / sqrt(head size).
        attention_softcap, logit_softcap: c tanh(x / c) of the scores and of the logits.
        embedding_scale: factor of the word embedding.
        dropout: after attention, MLP and embedding; embedding_dropout: after that; None: `dropout`.
        tie_embeddings: the input embedding is the output layer.
        sequence_parallel: activations between the split layers are cut over the sequence.
        recompute: store only each layer's input and run the layer again in the backward pass;
            recompute_keep "attention": but for the attention itself, whose result is stored too.

    Raises ValueError for values that do not fit together, TypeError for one of another kind.
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
    head_size: int | None = None
    rotary_fraction: float = 1.0
    rotary_base_windowed: float | None = None
    rotary_scaling: RotaryScaling | None = None
    windows: tuple[int, ...] | None = None
    zero_centred_norm: bool = False
    post_norms: bool = False
    parallel_residual: bool = False
    qkv_bias: bool | None = None
    out_bias: bool | None = None
    mlp_bias: bool | None = None
    qk_norm: bool = False
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float = 1.0
    embedding_dropout: float | None = None
    recompute_keep: str = "nothing"

    def __post_init__(self) -> None:
        self._read_json()
        self._check_kinds()
        _one_of("position", self.position, ("learned", "rotary"))
        _one_of("norm", self.norm, ("layernorm", "rmsnorm"))
        _one_of("activation", self.activation, tuple(ACTIVATIONS))
        _one_of("dtype", self.dtype, tuple(_DTYPES))
        _one_of("recompute_keep", self.recompute_keep, ("nothing", "attention"))
        self._check_numbers()
        if self.recompute_keep == "attention" and (
            self.attention_dropout or self.attention_softcap is not None
        ):
            raise ValueError(
                "GPTConfig: recompute_keep 'attention' needs an attention without dropout and "
                f"softcap, got {self.attention_dropout} and {self.attention_softcap}"
            )
        if self.head_size is None and self.hidden % self.heads:
            raise ValueError(
                f"GPTConfig: hidden must be a multiple of heads, got {self.hidden} and "
                f"{self.heads}; or give head_size"
            )
        if self.heads % self.groups:
            raise ValueError(
                f"GPTConfig: heads must be a multiple of kv_heads, got {self.heads} and "
                f"{self.groups}"
            )
        if self.position == "rotary" and (self.rotary_dim % 2 or not self.rotary_dim):
            raise ValueError(
                f"GPTConfig: rotary needs an even head size, got {self.rotary_dim} of "
                f"{self.head_dim} that turn"
            )
        self._check_effects()
        if self.windows is not None and (
            len(self.windows) != self.layers or any(window < 0 for window in self.windows)
        ):
            raise ValueError(
                f"GPTConfig: windows must hold a number of tokens, or 0, for each of the "
                f"{self.layers} layers, got {self.windows}"
            )

    def _read_json(self) -> None:
        """Takes the lists and dictionaries that JSON makes of tuples and dataclasses."""
        if isinstance(self.windows, list):
            object.__setattr__(self, "windows", tuple(self.windows))
        if isinstance(self.rotary_scaling, dict):
            object.__setattr__(self, "rotary_scaling", RotaryScaling(**self.rotary_scaling))

    def _check_kinds(self) -> None:
        """Raises TypeError for a value of another kind than its field's; whole numbers like NumPy's
        become Python's, which JSON can keep.
        """
        check_kinds("GPTConfig", self)
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Integral) and not isinstance(value, bool):
                object.__setattr__(self, each.name, int(value))
        if self.windows is not None:
            odd = [w for w in self.windows if isinstance(w, bool) or not isinstance(w, Integral)]
            if odd:
                raise TypeError(f"GPTConfig: windows must be whole numbers, got {self.windows}")
            object.__setattr__(self, "windows", tuple(map(int, self.windows)))
        if not isinstance(self.rotary_scaling, RotaryScaling | None):
            raise TypeError(
                "GPTConfig: rotary_scaling must be a RotaryScaling or None, got "
                f"{self.rotary_scaling!r}"
            )

    def _check_effects(self) -> None:
        """Raises ValueError for what another field would leave without effect."""
        for name, other, wanted in (
            ("rotary_scaling", "position", "rotary"),
            ("rotary_base_windowed", "position", "rotary"),
            ("zero_centred_norm", "norm", "rmsnorm"),
        ):
            if getattr(self, name) and getattr(self, other) != wanted:
                raise ValueError(
                    f"GPTConfig: {name} needs {other} {wanted!r}, got {getattr(self, other)!r}"
                )

    def _check_numbers(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"GPTConfig: {name} must be positive, got {getattr(self, name)}")
        for name in _POSITIVE_OR_NONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"GPTConfig: {name} must be positive or None, got {value}")
        for name in ("dropout", "attention_dropout", "embedding_dropout"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                raise ValueError(f"GPTConfig: {name} must be in [0, 1), got {value}")
        for name in _ABOVE_ZERO + _ABOVE_ZERO_OR_NONE:
            value = getattr(self, name)
            if not (value is None and name in _ABOVE_ZERO_OR_NONE) and not 0.0 < value < math.inf:
                raise ValueError(f"GPTConfig: {name} must be above 0 and finite, got {value}")
        if not 0.0 < self.rotary_fraction <= 1.0:
            raise ValueError(
                f"GPTConfig: rotary_fraction must be in (0, 1], got {self.rotary_fraction}"
            )

    @property
    def groups(self) -> int:
        """Key and value heads."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden // self.heads if self.head_size is None else self.head_size

    @property
    def rotary_dim(self) -> int:
        """How much of a head turns."""
        return int(self.head_dim * self.rotary_fraction)

    @property
    def inner(self) -> int:
        """Inner width of the MLP."""
        return 4 * self.hidden if self.ffn is None else self.ffn

    @property
    def torch_dtype(self) -> torch.dtype:
        return _DTYPES[self.dtype]

    def window(self, layer: int) -> int:
        """How many tokens a token sees in `layer`, itself included; 0: all before it."""
        return 0 if self.windows is None else self.windows[layer]

    def has_bias(self, part: str) -> bool:
        """Whether the linear layers of `part` ("qkv", "out", "mlp") add a bias."""
        own = getattr(self, f"{part}_bias")
        return self.bias if own is None else own

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON can keep them."""
        fields = asdict(self)
        if self.windows is not None:
            fields["windows"] = list(self.windows)
        return fields


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"GPTConfig: {name} must be one of {allowed}, got {value!r}")
