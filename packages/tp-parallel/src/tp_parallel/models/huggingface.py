"""To and from Hugging Face's state dicts, as plain tensors by name.

A table says which of their tensors make one of ours, and in which form: GPT-2 keeps its weights
transposed and stacks all queries, then all keys, then all values; here the fused weight stacks one
group of heads after another, so that any cut gives whole groups, which is GPT-NeoX's layout too.
The others keep query, key, value, gate and up apart. Both directions are exact: values are moved,
never computed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..layers.activation import is_gated
from ..layers.config import GPTConfig
from .families import config_fields

State = dict[str, torch.Tensor]


def config_from_huggingface(hf: Mapping[str, Any], **changes: Any) -> GPTConfig:
    """The `GPTConfig` of a `config.json`; `changes` override fields.

    Of model_type gpt2, gpt_neox, llama, mistral, qwen2, qwen3, gemma2 or gemma3_text. Raises
    ValueError for another model type and, naming the field, for a variant that is not computed here
    or a field that nobody here knows or that is of another kind.
    """
    try:
        return GPTConfig(**config_fields(hf) | changes)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        said = isinstance(error, ValueError) and re.match(r"\w+: ", str(error))
        if said or any(name in str(error) for name in changes):
            raise
        raise ValueError(
            f"config_from_huggingface: a field of config.json is of another kind: {error}"
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """The object in a config.json. Raises ValueError, naming the file, for anything else."""
    try:
        hf = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"config_from_huggingface: {path} is no JSON: {error}") from error
    if not isinstance(hf, dict):
        raise ValueError(f"config_from_huggingface: {path} holds {type(hf).__name__}, no object")
    return hf


class Entry(NamedTuple):
    """One tensor of ours, `ours`, and what it is made of: their tensors `theirs`, in `form`:
    "plain"; "stacked" rows (gate, up); "heads": query, key and value rows, group by group;
    "transposed"; "transposed heads": one transposed tensor of all three.
    """

    ours: str
    theirs: tuple[str, ...]
    form: str = "plain"


def table(config: GPTConfig) -> list[Entry]:
    """Every tensor of the unsplit model, by our name, and its sources."""
    rows, head = _layout(config)(config)
    return rows if config.tie_embeddings else [*rows, Entry("head.weight", (head,))]


def shapes(config: GPTConfig) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of the tensors in `Entry.theirs`, by our name, in their layout."""
    whole = _our_shapes(config)
    out = {}
    for ours, theirs, form in table(config):
        rows, *rest = whole[ours]
        if form == "heads":
            d = config.head_dim
            cut = [config.heads * d, config.groups * d, config.groups * d]
            out[ours] = [(length, *rest) for length in cut]
        elif form == "stacked":
            out[ours] = [(rows // len(theirs), *rest)] * len(theirs)
        else:
            out[ours] = [tuple([*rest, rows] if form.startswith("transposed") else [rows, *rest])]
    return out


def import_huggingface(state: Mapping[str, torch.Tensor], config: GPTConfig) -> State:
    """Unsplit tensors under the names of `GPTModel`, for `model.load_full`.

    Raises KeyError naming the first tensor that is missing from `state`, ValueError for one of a
    wrong shape or one that no part of the model takes.
    """
    out: State = {}
    wanted, taken = shapes(config), set()
    for entry in table(config):
        sources = []
        for name, shape in zip(entry.theirs, wanted[entry.ours], strict=True):
            found = find(name, state)
            if found is None:
                raise KeyError(f"import_huggingface: {name!r} is not in the given state")
            if tuple(state[found].shape) != shape:
                raise ValueError(
                    f"import_huggingface: {found!r} must have the shape {shape}, got "
                    f"{tuple(state[found].shape)}; is the config that of the checkpoint?"
                )
            taken.add(found)
            sources.append(state[found])
        out[entry.ours] = join(entry, sources, config)
    check_left(state.keys() - taken, config)
    return out


def export_huggingface(state: Mapping[str, torch.Tensor], config: GPTConfig) -> State:
    """The reverse of `import_huggingface`; a tied output layer appears under its own name too."""
    out: State = {}
    for entry in table(config):
        out |= zip(entry.theirs, part(entry, state[entry.ours], config), strict=True)
    if config.tie_embeddings:
        out[_layout(config)(config)[1]] = state["embedding.word.weight"]
    return out


def find(name: str, state: Mapping[str, Any]) -> str | None:
    """The key of `state` for their tensor `name`: checkpoints come with and without the prefix of
    the model inside.
    """
    bare = name.partition(".")[2]
    return next((key for key in (name, bare, _LATER.get(name)) if key in state), None)


# transformers 5 names GPT-NeoX's output layer as everybody's in memory; the files keep the old name
_LATER = {"embed_out.weight": "lm_head.weight"}


# buffers, and rotary tables of before: nothing that is learned
_NO_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias",
               "rotary_emb.inv_freq")  # fmt: skip


def check_left(names: set[str], config: GPTConfig) -> None:
    """Raises ValueError for tensors of a checkpoint that no part of the model takes."""
    heads = ("lm_head.weight", "embed_out.weight") if config.tie_embeddings else ()
    left = [name for name in names if name not in heads and not name.endswith(_NO_WEIGHTS)]
    if left:
        raise ValueError(
            f"import_huggingface: no part of the model takes {', '.join(sorted(left)[:5])}; is the "
            "config that of the checkpoint?"
        )


# -- the three layouts: rows, and the name of an output layer of its own

Layout = Callable[[GPTConfig], tuple[list[Entry], str]]


def _layout(config: GPTConfig) -> Layout:
    if config.position == "learned":
        return _gpt2
    return _gpt_neox if config.norm == "layernorm" else _llama


def _gpt2(config: GPTConfig) -> tuple[list[Entry], str]:
    rows = [Entry("embedding.word.weight", ("transformer.wte.weight",)),
            Entry("embedding.position", ("transformer.wpe.weight",))]  # fmt: skip
    pairs = {"attention_norm": ("ln_1", "plain"), "mlp_norm": ("ln_2", "plain"),
             "attention.qkv": ("attn.c_attn", "transposed heads"),
             "attention.out": ("attn.c_proj", "transposed"),
             "mlp.up": ("mlp.c_fc", "transposed"),
             "mlp.down": ("mlp.c_proj", "transposed")}  # fmt: skip
    for i in range(config.layers):
        for ours, (theirs, form) in pairs.items():
            for kind in ("weight", "bias"):
                name = f"transformer.h.{i}.{theirs}.{kind}"
                rows.append(Entry(f"layers.{i}.{ours}.{kind}", (name,), form))
    rows += _with_bias("final_norm", "transformer.ln_f")
    return rows, "lm_head.weight"


def _gpt_neox(config: GPTConfig) -> tuple[list[Entry], str]:
    rows = [Entry("embedding.word.weight", ("gpt_neox.embed_in.weight",))]
    pairs = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm",
             "attention.qkv": "attention.query_key_value", "attention.out": "attention.dense",
             "mlp.up": "mlp.dense_h_to_4h", "mlp.down": "mlp.dense_4h_to_h"}  # fmt: skip
    bias = {"attention.qkv": config.has_bias("qkv"), "attention.out": config.has_bias("out")}
    for i in range(config.layers):
        for ours, theirs in pairs.items():
            rows += _with_bias(f"layers.{i}.{ours}", f"gpt_neox.layers.{i}.{theirs}",
                               bias=bias.get(ours, True))  # fmt: skip
    rows += _with_bias("final_norm", "gpt_neox.final_layer_norm")
    return rows, "embed_out.weight"


def _llama(config: GPTConfig) -> tuple[list[Entry], str]:
    """LLaMA and what followed it: parts are there as the config says."""
    rows = [Entry("embedding.word.weight", ("model.embed_tokens.weight",))]
    mlp_norm = "pre_feedforward_layernorm" if config.post_norms else "post_attention_layernorm"
    norms = {"attention_norm": "input_layernorm", "mlp_norm": mlp_norm}
    if config.post_norms:
        norms |= {"attention_post_norm": "post_attention_layernorm",
                  "mlp_post_norm": "post_feedforward_layernorm"}  # fmt: skip
    if config.qk_norm:
        norms |= {"attention.query_norm": "self_attn.q_norm", "attention.key_norm":
                  "self_attn.k_norm"}  # fmt: skip
    up = ("mlp.gate_proj", "mlp.up_proj") if is_gated(config.activation) else ("mlp.up_proj",)
    products = {"attention.qkv": (tuple(f"self_attn.{x}_proj" for x in "qkv"), "heads", "qkv"),
                "attention.out": (("self_attn.o_proj",), "plain", "out"),
                "mlp.up": (up, "stacked", "mlp"),
                "mlp.down": (("mlp.down_proj",), "plain", "mlp")}  # fmt: skip
    for i in range(config.layers):
        at = f"model.layers.{i}."
        for ours, theirs in norms.items():
            rows.append(Entry(f"layers.{i}.{ours}.weight", (f"{at}{theirs}.weight",)))
        for ours, (theirs, form, part) in products.items():
            for kind in ("weight", "bias") if config.has_bias(part) else ("weight",):
                names = tuple(f"{at}{name}.{kind}" for name in theirs)
                rows.append(Entry(f"layers.{i}.{ours}.{kind}", names, form))
    rows.append(Entry("final_norm.weight", ("model.norm.weight",)))
    return rows, "lm_head.weight"


def _with_bias(ours: str, theirs: str, bias: bool = True) -> list[Entry]:
    kinds = ("weight", "bias") if bias else ("weight",)
    return [Entry(f"{ours}.{kind}", (f"{theirs}.{kind}",)) for kind in kinds]


def _our_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every unsplit tensor that `table` may name."""
    h, d, inner = config.hidden, config.head_dim, config.inner
    up = inner * (2 if is_gated(config.activation) else 1)
    rows = {"attention.qkv": ((config.heads + 2 * config.groups) * d, h),
            "attention.out": (h, config.heads * d), "mlp.up": (up, h), "mlp.down": (h, inner),
            "attention.query_norm": (d,), "attention.key_norm": (d,)}  # fmt: skip
    out = {"embedding.word.weight": (config.vocab_size, h), "head.weight": (config.vocab_size, h),
           "embedding.position": (config.max_positions, h)}  # fmt: skip
    for entry in table(config):
        part = entry.ours.removesuffix(".weight").removesuffix(".bias")
        part = ".".join(part.split(".")[2:]) if part.startswith("layers.") else part
        shape = rows.get(part, (h,))
        out.setdefault(entry.ours, shape[:1] if entry.ours.endswith(".bias") else shape)
    return out


# -- one entry


def join(entry: Entry, sources: list[torch.Tensor], config: GPTConfig) -> torch.Tensor:
    """Their tensors as ours."""
    if entry.form.startswith("transposed"):
        sources = [sources[0].t() if sources[0].dim() == 2 else sources[0]]
    if not entry.form.endswith("heads"):
        return torch.cat(sources).contiguous()
    q, k, v = sources if len(sources) == 3 else sources[0].chunk(3)
    parts = [x.unflatten(0, (config.groups, -1, config.head_dim)) for x in (q, k, v)]
    return torch.cat(parts, 1).flatten(0, 2).contiguous()


def part(entry: Entry, tensor: torch.Tensor, config: GPTConfig) -> list[torch.Tensor]:
    """Our tensor as theirs."""
    parts = [tensor]
    if entry.form.endswith("heads"):
        heads = tensor.unflatten(0, (config.groups, -1, config.head_dim))
        cut = heads.shape[1] - 2
        parts = [heads[:, :cut], heads[:, cut : cut + 1], heads[:, cut + 1 :]]
        parts = [each.flatten(0, 2) for each in parts]
        parts = parts if len(entry.theirs) == 3 else [torch.cat(parts)]
    elif entry.form == "stacked":
        parts = list(tensor.chunk(len(entry.theirs)))
    if entry.form.startswith("transposed"):
        parts = [each.t() if each.dim() == 2 else each for each in parts]
    return [each.contiguous() for each in parts]


class Run(NamedTuple):
    """Consecutive rows of our tensor: `length` of them from row `start` of source number `source`
    (columns, where theirs is transposed).
    """

    source: int
    start: int
    length: int


def runs(entry: Entry, config: GPTConfig, rows: tuple[int, int], total: int) -> list[Run]:
    """Where rows [begin, end) of our tensor of `total` rows lie in their tensors."""
    d, per_group = config.head_dim, config.heads // config.groups
    if not entry.form.endswith("heads"):
        each = total // len(entry.theirs)
        spans = [Run(i, 0, each) for i in range(len(entry.theirs))]
    elif len(entry.theirs) == 3:
        spans = [Run(i, g * n * d, n * d) for g in range(config.groups)
                 for i, n in enumerate((per_group, 1, 1))]  # fmt: skip
    else:
        third = total // 3
        spans = [Run(0, i * third + g * d, d) for g in range(config.groups) for i in range(3)]
    out, at = [], 0
    for source, start, length in spans:
        low, high = max(rows[0], at), min(rows[1], at + length)
        if high > low:
            out.append(Run(source, start + low - at, high - low))
        at += length
    return out
