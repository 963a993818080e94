"""The definition in plain torch: one process, no split, no fused kernel. Slow and obvious.

Tests compare every split model with these functions; docs point here for what a model computes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..layers.config import GPTConfig
from ..layers.rotary import frequencies

State = dict[str, torch.Tensor]


def gpt_logits(config: GPTConfig, state: State, ids: torch.Tensor) -> torch.Tensor:
    """Logits [batch, sequence, vocab_size] of token ids [batch, sequence]; no dropout.

    `state` holds the unsplit tensors under the names of `GPTModel` or `CodeGeeXModel`.
    """
    x = state["embedding.word.weight"][ids] * config.embedding_scale
    if config.position == "learned":
        x = x + state["embedding.position"][: ids.shape[1]]
    for index in range(config.layers):
        x = _layer(config, state, index, x)
    if "top_query.position" in state:
        x = _top_query(config, state, x)
    x = _norm(config, state, "final_norm.", x)
    head = "embedding.word.weight" if config.tie_embeddings else "head.weight"
    return _capped(x @ state[head].t(), config.logit_softcap)


def gpt_loss(
    config: GPTConfig, state: State, ids: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Mean cross entropy over the labels that are not -100."""
    return F.cross_entropy(gpt_logits(config, state, ids).flatten(0, 1), labels.flatten())


def cross_entropy(
    logits: torch.Tensor,
    target: torch.Tensor,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    z_loss: float = 0.0,
) -> torch.Tensor:
    """Loss of each token from whole logits [tokens, classes]: torch's, plus z_loss * lse^2."""
    loss = F.cross_entropy(
        logits, target, label_smoothing=label_smoothing, ignore_index=ignore_index, reduction="none"
    )
    penalty = z_loss * torch.logsumexp(logits, -1).square()
    return loss + penalty.masked_fill(target == ignore_index, 0.0)


def _layer(config: GPTConfig, state: State, index: int, x: torch.Tensor) -> torch.Tensor:
    name = f"layers.{index}."
    y = _norm(config, state, name + "attention_norm.", x)
    y = _attention(config, state, name + "attention.", y, index)
    if config.post_norms:
        y = _norm(config, state, name + "attention_post_norm.", y)
    if config.parallel_residual:
        return x + y + _mlp(config, state, name, x)
    x = x + y
    return x + _mlp(config, state, name, x)


def _mlp(config: GPTConfig, state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    y = _norm(config, state, name + "mlp_norm.", x)
    y = _linear(state, name + "mlp.up.", y)
    kind = {"swiglu": "silu", "reglu": "relu"}.get(config.activation, config.activation)
    gate, up = (y[..., : config.inner], y[..., config.inner :])
    if kind == "silu":
        y = gate * torch.sigmoid(gate)
    elif kind == "relu":
        y = gate.clamp(min=0)
    else:
        y = F.gelu(gate, approximate="tanh" if kind.endswith("tanh") else "none")
    y = _linear(state, name + "mlp.down.", y * up if up.shape[-1] else y)
    return _norm(config, state, name + "mlp_post_norm.", y) if config.post_norms else y


def _attention(
    config: GPTConfig, state: State, name: str, x: torch.Tensor, index: int
) -> torch.Tensor:
    batch, length, _ = x.shape
    per_group, d = config.heads // config.groups, config.head_dim
    qkv = _linear(state, name + "qkv.", x).view(batch, length, config.groups, per_group + 2, d)
    heads = []
    for group in range(config.groups):
        k, v = qkv[:, :, group, per_group], qkv[:, :, group, per_group + 1]
        for head in range(per_group):
            q = qkv[:, :, group, head]
            if config.qk_norm:
                q = _rms(config, q, state[name + "query_norm.weight"])
            key = _rms(config, k, state[name + "key_norm.weight"]) if config.qk_norm else k
            heads.append(_attend(config, q, key, v, config.window(index)))
    return _linear(state, name + "out.", torch.cat(heads, -1))


def _attend(
    config: GPTConfig, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int = 0
) -> torch.Tensor:
    """One head: [batch, sequence, head_dim] each."""
    length = k.shape[1]
    mask = torch.ones(length, length, dtype=torch.bool, device=k.device).triu(1)
    if window:
        mask |= torch.ones_like(mask).tril(-window)
    scale = config.attention_scale or 1 / math.sqrt(config.head_dim)
    scores = scale * _rotate(config, q, window) @ _rotate(config, k, window).transpose(1, 2)
    scores = _capped(scores, config.attention_softcap)
    return torch.softmax(scores.masked_fill(mask, -torch.inf), -1) @ v


def _capped(x: torch.Tensor, cap: float | None) -> torch.Tensor:
    return x if cap is None else cap * torch.tanh(x / cap)


def _top_query(config: GPTConfig, state: State, x: torch.Tensor) -> torch.Tensor:
    """CodeGeeX's last layer: queries from the positions alone."""
    name, d = "top_query.", config.head_dim
    y = _norm(config, state, name + "attention_norm.", x)
    key_value = _linear(state, name + "key_value.", y)
    q = _linear(state, name + "query.", state[name + "position"][: x.shape[1]])
    q = q.expand(len(x), -1, -1)
    heads = []
    for head in range(config.heads):
        at = head // (config.heads // config.groups) * 2 * d
        k, v = key_value[..., at : at + d], key_value[..., at + d : at + 2 * d]
        heads.append(_attend(config, q[..., head * d : (head + 1) * d], k, v))
    x = x + _linear(state, name + "out.", torch.cat(heads, -1))
    return x + _mlp(config, state, name, x)


def _rotate(config: GPTConfig, x: torch.Tensor, window: int = 0) -> torch.Tensor:
    """Rotary positions as complex multiplication: pair i is (x[i], x[i + d / 2]) of the first d."""
    if config.position != "rotary":
        return x
    length, dim, half = x.shape[1], config.rotary_dim, config.rotary_dim // 2
    base, scaling = config.rotary_base, config.rotary_scaling
    if window and config.rotary_base_windowed is not None:
        base, scaling = config.rotary_base_windowed, None
    frequency = frequencies(dim, base, scaling, length, x.device)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    pairs = torch.complex(x[..., :half].double(), x[..., half:dim].double())
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    turned *= scaling.attention_factor if scaling else 1.0
    return torch.cat((turned.real.to(x.dtype), turned.imag.to(x.dtype), x[..., dim:]), -1)


def _norm(config: GPTConfig, state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    if config.norm == "rmsnorm":
        return _rms(config, x, state[name + "weight"])
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + config.norm_eps)
    return centred * scale * state[name + "weight"] + state[name + "bias"]


def _rms(config: GPTConfig, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + config.norm_eps)
    return x * scale * (weight + 1.0 if config.zero_centred_norm else weight)


def _linear(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    y = x @ state[name + "weight"].t()
    return y + state[name + "bias"] if name + "bias" in state else y
