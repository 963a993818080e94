"""Hugging Face's configs, field by field: honoured, of no effect on the numbers, or refused.

A field that stands in no list is refused by name: what it does is unknown here, and a model that
computes something else is worse than none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..layers.rotary import RotaryScaling

Fields = dict[str, Any]

# what changes no logit: names, ids, how a library runs or saves the model
_NAMES = """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures
    attn_implementation auto_map begin_suppress_tokens bos_token_id cache_implementation
    chunk_size_feed_forward classifier_dropout cross_attention_hidden_size decoder_start_token_id
    dtype eos_token_id experimental finetuning_task forced_bos_token_id forced_eos_token_id
    id2label initializer_range label2id max_length min_length model_type num_labels
    output_attentions output_hidden_states output_scores pad_token_id prefix pretraining_tp
    problem_type remove_invalid_values return_dict return_dict_in_generate rope_theta rope_scaling
    rope_parameters summary_activation summary_first_dropout summary_proj_to_labels summary_type
    summary_use_proj suppress_tokens task_specific_params tf_legacy_loss tokenizer_class
    torch_dtype torchscript transformers_version transformers.js_config use_bfloat16 use_cache
    use_return_dict gradient_checkpointing partial_rotary_factor rotary_pct rotary_emb_base
    rope_local_base_freq do_sample temperature top_k top_p repetition_penalty early_stopping
    num_beams num_beam_groups num_return_sequences length_penalty diversity_penalty typical_p
    no_repeat_ngram_size encoder_no_repeat_ngram_size exponential_decay_length_penalty
    bad_words_ids sep_token_id n_ctx sliding_window_pattern _sliding_window_pattern
    sliding_window_size
"""
NEUTRAL = frozenset(_NAMES.split())

MOST_LAYERS = 1 << 16
# fields of any family that must have this value (or be absent): another one is not computed here
FIXED: Fields = {
    "is_encoder_decoder": False, "is_decoder": False, "add_cross_attention": False,
    "scale_attn_by_inverse_layer_idx": False, "pruned_heads": {}, "quantization_config": None,
    "tie_encoder_decoder": False, "use_bidirectional_attention": False,
}  # fmt: skip

PLAIN_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh",
                     "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu",
                     "silu": "silu", "swish": "silu"}  # fmt: skip
GATED_ACTIVATIONS = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu",
                     "gelu_pytorch_tanh": "geglu_tanh", "gelu_new": "geglu_tanh",
                     "relu": "reglu"}  # fmt: skip

_LLAMA = {
    "vocab_size": "vocab_size", "hidden_size": "hidden", "num_hidden_layers": "layers",
    "num_attention_heads": "heads", "num_key_value_heads": "kv_heads", "head_dim": "head_size",
    "intermediate_size": "ffn", "max_position_embeddings": "max_positions",
    "rms_norm_eps": "norm_eps", "attention_dropout": "attention_dropout",
    "tie_word_embeddings": "tie_embeddings",
}  # fmt: skip
_LLAMA_ALWAYS: Fields = {"position": "rotary", "norm": "rmsnorm", "bias": False,
                         "tie_embeddings": False}  # fmt: skip
_GEMMA = _LLAMA | {"attn_logit_softcapping": "attention_softcap",
                   "final_logit_softcapping": "logit_softcap"}  # fmt: skip
_GEMMA_ALWAYS = _LLAMA_ALWAYS | {"zero_centred_norm": True, "post_norms": True,
                                 "tie_embeddings": True, "head_size": 256}  # fmt: skip


_OPTIONAL = {"n_inner", "head_dim", "attention_dropout", "hidden_dropout", "attn_pdrop",
             "resid_pdrop", "embd_pdrop", "tie_word_embeddings", "attn_logit_softcapping",
             "final_logit_softcapping"}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One `model_type`.

    Attributes: `renamed`, their fields that are ours under another name; `always`, what the family
    does without a field for it, and defaults of fields; `read` turns the other fields, named in
    `reads`, into ours; `fixed`, fields that must have this value here; `gated`, whether `act` names
    a gated activation.
    """

    renamed: Mapping[str, str]
    always: Fields
    read: Callable[[Fields, Fields], None]
    reads: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = ()  # type: ignore[assignment]
    gated: bool = True
    act: str = "hidden_act"
    default_act: str = "silu"

    @property
    def activations(self) -> Mapping[str, str]:
        """Our names of the activations that `act` may name."""
        return GATED_ACTIVATIONS if self.gated else PLAIN_ACTIVATIONS

    def fields(self, hf: Mapping[str, Any], kind: str) -> Fields:
        """Fields of a GPTConfig. Raises ValueError naming the field that is not computed here."""
        check_fields(hf, kind, self)
        given = self.always.keys() | {self.renamed[name] for name in _OPTIONAL & {*self.renamed}}
        missing = [theirs for theirs, ours in self.renamed.items()
                   if theirs not in hf and ours not in given]  # fmt: skip
        if missing:
            raise _refused(kind, missing[0], "is missing, and its default is not the same for all")
        out = dict(self.always)
        out |= {ours: hf[theirs] for theirs, ours in self.renamed.items()
                if hf.get(theirs) is not None}  # fmt: skip
        if not isinstance(out["layers"], int) or out["layers"] > MOST_LAYERS:
            theirs = next(name for name, ours in self.renamed.items() if ours == "layers")
            raise _refused(kind, theirs, f"must be at most {MOST_LAYERS}, got {out['layers']!r}")
        names = self.activations
        name = hf.get(self.act) or self.default_act
        if name not in names:
            raise _refused(kind, self.act, f"must be one of {sorted(names)}, got {name!r}")
        out["activation"] = names[name]
        self.read(dict(hf), out)
        return out


def check_fields(hf: Mapping[str, Any], kind: str, family: Family) -> None:
    """Raises ValueError for a field that is unknown here or has a value not computed here."""
    fixed = FIXED | dict(family.fixed)
    known = {*NEUTRAL, *family.renamed, *family.reads, family.act, *fixed}
    for name, value in hf.items():
        if name in fixed and value is not None and value != fixed[name]:
            raise _refused(
                kind, name, f"is {value!r}, which is not computed here; only {fixed[name]!r} is"
            )
        if name not in known and value not in (None, False):
            raise _refused(
                kind, name, f"is {value!r}, which is not known here and might change the numbers; "
                "leave it out of the config if it does not"
            )  # fmt: skip


def _refused(kind: str, name: str, text: str) -> ValueError:
    return ValueError(f"config_from_huggingface: {name} of a {kind!r} config {text}")


# -- rotary positions


def read_rotary(hf: Fields, out: Fields) -> None:
    """rope_theta, rope_scaling (of before transformers 5) or rope_parameters."""
    rope = dict(hf.get("rope_parameters") or hf.get("rope_scaling") or {})
    if rope and all(isinstance(value, Mapping) for value in rope.values()):
        whole = rope.pop("full_attention", {})
        local = rope.pop("sliding_attention", whole)
        if rope or local.get("rope_type", "default") != "default":
            raise ValueError(
                "config_from_huggingface: rope_parameters of layers with a window must be of type "
                f"'default', got {local}, {rope}"
            )
        out["rotary_base_windowed"] = float(local.get("rope_theta", 10000.0))
        rope = dict(whole)
    base = rope.pop("rope_theta", None) or hf.get("rope_theta") or hf.get("rotary_emb_base")
    out["rotary_base"] = float(base or 10000.0)
    fraction = rope.pop("partial_rotary_factor", None) or hf.get("partial_rotary_factor")
    out["rotary_fraction"] = float(fraction or hf.get("rotary_pct") or 1.0)
    older = rope.pop("type", None)
    kind = rope.pop("rope_type", None) or older or "default"
    if kind != "default":
        out["rotary_scaling"] = _scaling(kind, rope, out)
    elif rope.keys() - {"factor"}:
        raise ValueError(f"config_from_huggingface: rope_parameters has {sorted(rope)} but no type")


ROPE_NAMES = {"factor": "factor", "original_max_position_embeddings": "original",
              "low_freq_factor": "low", "high_freq_factor": "high", "beta_fast": "fast",
              "beta_slow": "slow", "truncate": "truncate",
              "attention_factor": "attention"}  # fmt: skip


def _scaling(kind: str, rope: Fields, out: Fields) -> RotaryScaling:
    scales = {name: rope.pop(name, None) for name in ("mscale", "mscale_all_dim")}
    odd = rope.keys() - ROPE_NAMES.keys()
    if odd or kind not in ("linear", "dynamic", "yarn", "llama3"):
        raise ValueError(
            "config_from_huggingface: rotary positions of type 'linear', 'dynamic', 'yarn' and "
            f"'llama3' are computed here, got {kind!r} with {sorted(odd) or 'the usual fields'}"
        )
    own = {ROPE_NAMES[name]: value for name, value in rope.items() if value is not None}
    length = out["max_positions"]
    if own.get("factor") is None:
        own["factor"] = length / own["original"]
    if all(scales.values()) and "attention" not in own:
        top, bottom = (0.1 * scale * math.log(own["factor"]) + 1.0 for scale in scales.values())
        own["attention"] = top / bottom
    if kind == "dynamic":  # transformers stretches beyond max_position_embeddings, without a bound
        own["original"] = length
        out["max_positions"] = int(length * own["factor"])
    return RotaryScaling(kind, **own)


# -- the families


def _read_gpt2(hf: Fields, out: Fields) -> None:
    if hf.get("scale_attn_weights") is False:
        out["attention_scale"] = 1.0


def _read_neox(hf: Fields, out: Fields) -> None:
    read_rotary(hf, out)
    if "rotary_pct" not in hf and "rope_parameters" not in hf:
        out["rotary_fraction"] = 0.25  # the family's default
    bias = hf.get("attention_bias", True)
    out |= {"qkv_bias": None if bias else False, "out_bias": None if bias else False,
            "parallel_residual": hf.get("use_parallel_residual", True)}  # fmt: skip


def _read_llama(hf: Fields, out: Fields) -> None:
    read_rotary(hf, out)
    _read_bias(hf, out)


def _read_bias(hf: Fields, out: Fields) -> None:
    for name in ("qkv_bias", "out_bias") if hf.get("attention_bias") else ():
        out[name] = True
    if hf.get("mlp_bias"):
        out["mlp_bias"] = True


def _windows(hf: Fields, layers: int, is_local: Callable[[int], bool]) -> tuple[int, ...] | None:
    """The window of each layer, by `layer_types` or, where there are none, by the family's rule."""
    window, types = hf.get("sliding_window"), hf.get("layer_types")
    if types is not None:
        foreign = {*types} - {"full_attention", "sliding_attention"}
        if foreign or len(types) != layers:
            raise ValueError(
                "config_from_huggingface: layer_types must name full_attention or "
                f"sliding_attention for each of {layers} layers, got {types}"
            )
    if window is None:
        return None
    local = [types[i] == "sliding_attention" if types else is_local(i) for i in range(layers)]
    return tuple(window if each else 0 for each in local) if any(local) else None


def _read_mistral(hf: Fields, out: Fields) -> None:
    _read_llama(hf, out)
    out["windows"] = _windows(hf, out["layers"], lambda _: True)


def _read_qwen(hf: Fields, out: Fields) -> None:
    _read_llama(hf, out)
    if hf.get("use_sliding_window"):
        first = hf.get("max_window_layers", 28)
        out["windows"] = _windows(hf, out["layers"], lambda i: i >= first)


def _read_gemma(hf: Fields, out: Fields) -> None:
    _read_llama(hf, out)
    out["embedding_scale"] = float(out["hidden"]) ** 0.5
    out["attention_scale"] = float(hf.get("query_pre_attn_scalar", 256)) ** -0.5


def _read_gemma2(hf: Fields, out: Fields) -> None:
    out |= {name: default for name, default in (("attention_softcap", 50.0),
            ("logit_softcap", 30.0)) if _THEIR_CAPS[name] not in hf}  # fmt: skip
    _read_gemma(hf, out)
    out["windows"] = _windows({"sliding_window": 4096} | hf, out["layers"], lambda i: i % 2 == 0)


_THEIR_CAPS = {ours: theirs for theirs, ours in _GEMMA.items() if "softcap" in ours}


def _read_gemma3(hf: Fields, out: Fields) -> None:
    _read_gemma(hf, out)
    every = hf.get("sliding_window_pattern") or hf.get("_sliding_window_pattern") or 6
    window = {"sliding_window": 4096} | hf
    out["windows"] = _windows(window, out["layers"], lambda i: bool((i + 1) % every))
    if "rope_parameters" not in hf:  # of before transformers 5
        out["rotary_base"] = float(hf.get("rope_theta") or 1e6)
        out["rotary_base_windowed"] = float(hf.get("rope_local_base_freq") or 10000.0)


_WINDOWED = ("attention_bias", "sliding_window", "layer_types", "use_sliding_window",
             "max_window_layers")  # fmt: skip
_GEMMA_READS = (*_WINDOWED[:3], "query_pre_attn_scalar")
FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        {"vocab_size": "vocab_size", "n_embd": "hidden", "n_layer": "layers", "n_head": "heads",
         "n_inner": "ffn", "n_positions": "max_positions", "layer_norm_epsilon": "norm_eps",
         "attn_pdrop": "attention_dropout",
         "resid_pdrop": "dropout", "embd_pdrop": "embedding_dropout",
         "tie_word_embeddings": "tie_embeddings"},
        {}, _read_gpt2, ("scale_attn_weights",),
        fixed={"reorder_and_upcast_attn": False}, gated=False, act="activation_function",
        default_act="gelu_new",
    ),
    "gpt_neox": Family(
        {"vocab_size": "vocab_size", "hidden_size": "hidden", "num_hidden_layers": "layers",
         "num_attention_heads": "heads", "intermediate_size": "ffn",
         "max_position_embeddings": "max_positions", "layer_norm_eps": "norm_eps",
         "attention_dropout": "attention_dropout", "hidden_dropout": "dropout",
         "tie_word_embeddings": "tie_embeddings"},
        {"position": "rotary", "tie_embeddings": False}, _read_neox,
        ("attention_bias", "use_parallel_residual"), gated=False, default_act="gelu",
    ),
    "llama": Family(_LLAMA, _LLAMA_ALWAYS | {"kv_heads": None}, _read_llama,
                    ("attention_bias", "mlp_bias")),
    "mistral": Family(_LLAMA, _LLAMA_ALWAYS, _read_mistral, ("sliding_window",)),
    "qwen2": Family(_LLAMA, _LLAMA_ALWAYS | {"qkv_bias": True}, _read_qwen, _WINDOWED[1:]),
    "qwen3": Family(_LLAMA, _LLAMA_ALWAYS | {"qk_norm": True, "head_size": 128}, _read_qwen,
                    _WINDOWED),
    "gemma2": Family(_GEMMA, _GEMMA_ALWAYS, _read_gemma2, _GEMMA_READS, act="hidden_activation",
                     default_act="gelu_pytorch_tanh", fixed={"hidden_act": "gelu_pytorch_tanh"}),
    "gemma3_text": Family(_GEMMA, _GEMMA_ALWAYS | {"qk_norm": True}, _read_gemma3, _GEMMA_READS,
                          act="hidden_activation", default_act="gelu_pytorch_tanh",
                          fixed={"hidden_act": "gelu_pytorch_tanh"}),
}  # fmt: skip


def config_fields(hf: Mapping[str, Any]) -> Fields:
    """Fields of the GPTConfig of a `config.json`. Raises ValueError for what is not computed."""
    kind = hf.get("model_type")
    if kind not in FAMILIES:
        names = ", ".join(map(repr, FAMILIES))
        raise ValueError(
            f"config_from_huggingface: model_type must be one of {names}, got {kind!r}"
        )
    return FAMILIES[kind].fields(hf, kind)
