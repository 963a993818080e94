"""To and from Hugging Face's GPT-2 and LLaMA state dicts, as plain tensors by name.

GPT-2 keeps its weights transposed and stacks all queries, then all keys, then all values; here the
fused weight stacks one head after another, so that any cut gives whole heads. LLaMA keeps query,
key, value, gate and up apart. Both directions are exact: values are moved, never computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..layers.config import GPTConfig

State = dict[str, torch.Tensor]

_GPT2_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu",
                     "relu": "relu"}  # fmt: skip


def config_from_huggingface(hf: Mapping[str, Any], **changes: Any) -> GPTConfig:
    """The `GPTConfig` of a `config.json` (model_type "gpt2" or "llama"); `changes` override fields.

    Raises ValueError for another model type or a variant that this library does not compute.
    """
    kind = hf.get("model_type")
    if kind == "gpt2":
        _refuse(hf, "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")
        if hf["activation_function"] not in _GPT2_ACTIVATIONS:
            raise ValueError(
                f"config_from_huggingface: activation_function must be one of "
                f"{sorted(_GPT2_ACTIVATIONS)}, got {hf['activation_function']!r}"
            )
        fields: dict[str, Any] = {
            "vocab_size": hf["vocab_size"], "hidden": hf["n_embd"], "layers": hf["n_layer"],
            "heads": hf["n_head"], "ffn": hf.get("n_inner"), "max_positions": hf["n_positions"],
            "norm_eps": hf["layer_norm_epsilon"],
            "activation": _GPT2_ACTIVATIONS[hf["activation_function"]],
            "dropout": hf.get("resid_pdrop", 0.0), "attention_dropout": hf.get("attn_pdrop", 0.0),
            "tie_embeddings": hf.get("tie_word_embeddings", True),
        }  # fmt: skip
    elif kind == "llama":
        _refuse(hf, "attention_bias", "mlp_bias")
        rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            raise ValueError(
                "config_from_huggingface: scaled rotary positions are not computed here"
            )
        head_dim = hf.get("head_dim")
        if head_dim and head_dim * hf["num_attention_heads"] != hf["hidden_size"]:
            raise ValueError(
                f"config_from_huggingface: head_dim times heads must be hidden_size "
                f"{hf['hidden_size']}, got {head_dim} * {hf['num_attention_heads']}"
            )
        fields = {
            "vocab_size": hf["vocab_size"], "hidden": hf["hidden_size"],
            "layers": hf["num_hidden_layers"], "heads": hf["num_attention_heads"],
            "kv_heads": hf.get("num_key_value_heads"), "ffn": hf["intermediate_size"],
            "max_positions": hf["max_position_embeddings"], "norm": "rmsnorm",
            "norm_eps": hf["rms_norm_eps"], "position": "rotary", "activation": "swiglu",
            "rotary_base": float(hf.get("rope_theta") or rope.get("rope_theta") or 10000.0),
            "bias": False, "tie_embeddings": hf.get("tie_word_embeddings", False),
        }  # fmt: skip
    else:
        raise ValueError(
            f"config_from_huggingface: model_type must be 'gpt2' or 'llama', got {kind!r}"
        )
    return GPTConfig(**fields | changes)


def import_huggingface(state: Mapping[str, torch.Tensor], config: GPTConfig) -> State:
    """Unsplit tensors under the names of `GPTModel`, for `model.load_full`.

    Raises KeyError naming the first tensor that is missing from `state`.
    """
    names = _llama_names(config) if config.position == "rotary" else _gpt2_names(config)
    prefix = "transformer." if config.position == "learned" else ""
    out: State = {}
    for ours, theirs in names:
        sources = []
        for name in theirs:
            # GPT-2 checkpoints come with and without the prefix
            found = name if name in state else name.removeprefix(prefix)
            if found not in state:
                raise KeyError(f"import_huggingface: {name!r} is not in the given state")
            sources.append(state[found])
        out[ours] = _join(ours, sources, config)
    return out


def export_huggingface(state: Mapping[str, torch.Tensor], config: GPTConfig) -> State:
    """The reverse of `import_huggingface`; a tied output layer appears under its own name too."""
    names = _llama_names(config) if config.position == "rotary" else _gpt2_names(config)
    out: State = {}
    for ours, theirs in names:
        out |= zip(theirs, _part(ours, state[ours], config), strict=True)
    if config.tie_embeddings:
        out["lm_head.weight"] = state["embedding.word.weight"]
    return out


def _gpt2_names(config: GPTConfig) -> list[tuple[str, list[str]]]:
    names = [
        ("embedding.word.weight", ["transformer.wte.weight"]),
        ("embedding.position", ["transformer.wpe.weight"]),
    ]
    pairs = [("attention_norm", "ln_1"), ("attention.qkv", "attn.c_attn"),
             ("attention.out", "attn.c_proj"), ("mlp_norm", "ln_2"), ("mlp.up", "mlp.c_fc"),
             ("mlp.down", "mlp.c_proj")]  # fmt: skip
    for i in range(config.layers):
        for ours, theirs in pairs:
            for kind in ("weight", "bias"):
                names.append((f"layers.{i}.{ours}.{kind}", [f"transformer.h.{i}.{theirs}.{kind}"]))
    names += [(f"final_norm.{k}", [f"transformer.ln_f.{k}"]) for k in ("weight", "bias")]
    return names if config.tie_embeddings else [*names, ("head.weight", ["lm_head.weight"])]


def _llama_names(config: GPTConfig) -> list[tuple[str, list[str]]]:
    names = [("embedding.word.weight", ["model.embed_tokens.weight"])]
    groups = [("attention_norm", ["input_layernorm"]),
              ("attention.qkv", [f"self_attn.{x}_proj" for x in "qkv"]),
              ("attention.out", ["self_attn.o_proj"]), ("mlp_norm", ["post_attention_layernorm"]),
              ("mlp.up", ["mlp.gate_proj", "mlp.up_proj"]),
              ("mlp.down", ["mlp.down_proj"])]  # fmt: skip
    for i in range(config.layers):
        for ours, theirs in groups:
            names.append(
                (f"layers.{i}.{ours}.weight", [f"model.layers.{i}.{t}.weight" for t in theirs])
            )
    names.append(("final_norm.weight", ["model.norm.weight"]))
    return names if config.tie_embeddings else [*names, ("head.weight", ["lm_head.weight"])]


def _join(ours: str, sources: list[torch.Tensor], config: GPTConfig) -> torch.Tensor:
    """Their tensors as ours: transposed back where GPT-2 transposes, q, k and v put head by
    head.
    """
    gpt2 = config.position == "learned"
    if gpt2 and sources[0].dim() == 2 and ours.startswith("layers."):
        sources = [sources[0].t()]
    if ".qkv." in ours:
        q, k, v = sources[0].chunk(3) if gpt2 else sources
        groups = config.groups
        parts = [x.unflatten(0, (groups, -1, config.head_dim)) for x in (q, k, v)]
        return torch.cat(parts, 1).flatten(0, 2).contiguous()
    return torch.cat(sources).contiguous()


def _part(ours: str, tensor: torch.Tensor, config: GPTConfig) -> list[torch.Tensor]:
    gpt2 = config.position == "learned"
    parts = [tensor]
    if ".qkv." in ours:
        heads = tensor.unflatten(0, (config.groups, -1, config.head_dim))
        cut = heads.shape[1] - 2
        parts = [heads[:, :cut], heads[:, cut : cut + 1], heads[:, cut + 1 :]]
        parts = [part.flatten(0, 2) for part in parts]
        if gpt2:
            parts = [torch.cat(parts)]
    elif ".mlp.up." in ours and not gpt2:
        parts = list(tensor.chunk(2))
    if gpt2 and tensor.dim() == 2 and ours.startswith("layers."):
        parts = [part.t() for part in parts]
    return [part.contiguous() for part in parts]


def _refuse(hf: Mapping[str, Any], *options: str) -> None:
    for option in options:
        if hf.get(option):
            raise ValueError(f"config_from_huggingface: {option}=True is not computed here")
