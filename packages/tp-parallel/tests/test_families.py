"""Models people have: every family's logits are those of transformers, from configs drawn at
random, and every field of a config is honoured or refused by name.
"""

import contextlib
import random
import sys

import pytest
import torch

from tp_parallel import GPTModel, ParallelContext, reference
from tp_parallel.models.families import FAMILIES
from tp_parallel.models.huggingface import (
    config_from_huggingface,
    export_huggingface,
    import_huggingface,
)
from tp_parallel.training.convert import config_to_huggingface

CLASSES = {"gpt2": "GPT2", "gpt_neox": "GPTNeoX", "llama": "Llama", "mistral": "Mistral",
           "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma2": "Gemma2",
           "gemma3_text": "Gemma3"}  # fmt: skip
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5]])
ROPES = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 8},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "beta_fast": 16.0,
     "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 0.3, "truncate": False},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8,
     "attention_factor": 1.3},
]  # fmt: skip


def drawn_config(kind, seed):
    """The fields of a config of the family `kind`, every choice of it drawn."""
    draw = random.Random(f"{kind} {seed}")
    heads = draw.choice([4, 6, 8])
    kv = draw.choice([n for n in (1, 2, heads) if heads % n == 0])
    d = draw.choice([4, 8, 16])
    hidden = heads * draw.choice([d, 5])
    if kind == "gpt2":
        hidden = heads * d
        return {"vocab_size": 37, "n_embd": hidden, "n_layer": 2, "n_head": heads,
                "n_positions": 16, "n_inner": draw.choice([None, 24]),
                "layer_norm_epsilon": draw.choice([1e-5, 1e-3]),
                "activation_function": draw.choice(["gelu_new", "gelu", "relu", "silu"]),
                "scale_attn_weights": draw.random() < 0.5,
                "resid_pdrop": 0.1, "embd_pdrop": 0.3, "attn_pdrop": 0.2,
                "tie_word_embeddings": draw.random() < 0.5}  # fmt: skip
    rope = dict(draw.choice(ROPES)) | {"rope_theta": draw.choice([100.0, 10000.0])}
    common = {"vocab_size": 37, "hidden_size": hidden, "num_hidden_layers": 3,
              "num_attention_heads": heads, "intermediate_size": 24,
              "max_position_embeddings": draw.choice([8, 16]) if rope["rope_type"] == "dynamic"
              else 16, "rope_parameters": rope, "attention_dropout": 0.1,
              "tie_word_embeddings": draw.random() < 0.5}  # fmt: skip
    if kind == "gpt_neox":
        rope["partial_rotary_factor"] = draw.choice([0.5, 1.0])
        return common | {"hidden_size": heads * 8, "layer_norm_eps": 1e-4, "hidden_dropout": 0.0,
                         "hidden_act": draw.choice(["gelu", "relu", "gelu_new"]),
                         "use_parallel_residual": draw.random() < 0.5,
                         "attention_bias": draw.random() < 0.5}  # fmt: skip
    common |= {"num_key_value_heads": kv, "head_dim": d, "rms_norm_eps": draw.choice([1e-6, 1e-3])}
    if kind in ("gemma2", "gemma3_text"):
        common |= {"query_pre_attn_scalar": draw.choice([16, 50]),
                   "sliding_window": draw.choice([3, 5]), "attention_bias": draw.random() < 0.5,
                   "attn_logit_softcapping": 5.0, "final_logit_softcapping": draw.choice(
                       [None, 3.0])}  # fmt: skip
        if kind == "gemma3_text":
            common |= {"attn_logit_softcapping": None, "rope_parameters": {
                "full_attention": rope, "sliding_attention":
                {"rope_type": "default", "rope_theta": 50.0}},
                "layer_types": draw.choice([["sliding_attention", "full_attention"] * 2,
                                            ["full_attention"] * 4])[:3]}  # fmt: skip
            common["max_position_embeddings"] = 16
            common["rope_parameters"]["full_attention"] = ROPES[draw.randrange(2)] | {
                "rope_theta": 1000.0}  # fmt: skip
        return common
    common["hidden_act"] = draw.choice(["silu", "gelu", "gelu_pytorch_tanh", "relu"])
    if kind in ("llama", "qwen3"):
        common["attention_bias"] = draw.random() < 0.5
    if kind == "llama":
        common["mlp_bias"] = draw.random() < 0.5
    if kind == "mistral":
        common["sliding_window"] = draw.choice([None, 4])
    if kind == "qwen2":
        common |= {"head_dim": None, "hidden_size": heads * d}
    if kind in ("qwen2", "qwen3"):
        common |= {"use_sliding_window": draw.random() < 0.6, "sliding_window": 4,
                   "max_window_layers": draw.choice([0, 1])}  # fmt: skip
    return {name: value for name, value in common.items() if value is not None}


@contextlib.contextmanager
def wide():
    """transformers computes some things in float32 whatever the model is (angles, softmax, norms);
    inside this block it takes float64 for them.
    """
    patch = pytest.MonkeyPatch()
    torch.set_default_dtype(torch.float64)
    patch.setattr(torch, "float", torch.float64)
    patch.setattr(torch, "float32", torch.float64)
    patch.setattr(torch.Tensor, "float", torch.Tensor.double)
    try:
        yield
    finally:
        patch.undo()
        torch.set_default_dtype(torch.float32)


def their_model(kind, fields, dtype):
    # text models need no torchvision, and one that was built for another torch stops the import
    sys.modules.setdefault("torchvision", None)
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    name = CLASSES[kind]
    config = getattr(transformers, f"{name}{'Text' if kind == 'gemma3_text' else ''}Config")(
        **fields, attn_implementation="eager" if kind == "gemma2" else "sdpa"
    )
    class_ = "GPT2LMHeadModel" if kind == "gpt2" else f"{name}ForCausalLM"
    model = getattr(transformers, class_)(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.2
    return model


def in_files(kind, name):
    """The name under which transformers 5 saves what it calls `name` in memory."""
    return "embed_out.weight" if (kind, name) == ("gpt_neox", "lm_head.weight") else name


def compare(kind, fields, dtype, tolerance):
    with wide() if dtype == torch.float64 else contextlib.nullcontext(), torch.no_grad():
        theirs = their_model(kind, fields, dtype)
        want = theirs(IDS).logits
    given = theirs.config.to_dict()
    given["tie_word_embeddings"] = theirs.config.tie_word_embeddings
    config = config_from_huggingface(given, dtype=str(dtype).removeprefix("torch."))
    model = GPTModel(config, context=ParallelContext(device="cpu"), initialize=False).eval()
    model.load_full(import_huggingface(theirs.state_dict(), config))
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), want, rtol=tolerance, atol=tolerance)
    back = export_huggingface(model.gather_full(), config)
    state = {in_files(kind, name): value for name, value in theirs.state_dict().items()}
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(back[name], value), name
    return model, config


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(i, marks=pytest.mark.slow)
                                               for i in range(2, 20))])  # fmt: skip
@pytest.mark.parametrize("kind", FAMILIES)
def test_random_configs_give_the_logits_of_transformers_and_their_tensors_back(kind, seed):
    fields = drawn_config(kind, seed)
    model, config = compare(kind, fields, torch.float64, 1e-10)
    got = reference.gpt_logits(config, model.gather_full(), IDS)
    torch.testing.assert_close(got, model(IDS).detach(), rtol=1e-9, atol=1e-10)
    if seed == 0:
        compare(kind, fields, torch.float32, 1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_config_that_is_written_computes_the_same_in_transformers(kind, seed):
    theirs = their_model(kind, drawn_config(kind, seed), torch.float32)
    given = theirs.config.to_dict() | {"tie_word_embeddings": theirs.config.tie_word_embeddings}
    config = config_from_huggingface(given)
    written = config_to_huggingface(config)
    name = written.pop("model_type")  # another family may compute the same
    other = their_model(name, written, torch.float32)
    other.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other(IDS).logits, theirs(IDS).logits)
    assert (name == kind) or not kind.startswith("gemma")


_SHAPE = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4,
          "intermediate_size": 48, "max_position_embeddings": 256}  # fmt: skip
_RMS = _SHAPE | {"num_key_value_heads": 2, "rms_norm_eps": 1e-6}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 64}  # fmt: skip
OLDER = {
    "llama": _RMS | {"rope_theta": 500000.0, "rope_scaling": _LLAMA3, "torch_dtype": "bfloat16",
                     "pretraining_tp": 1, "eos_token_id": [1, 2], "hidden_act": "silu"},
    "qwen2": _RMS | {"rope_theta": 1e6, "use_sliding_window": False, "sliding_window": 128,
                     "max_window_layers": 2, "use_mrope": False, "tie_word_embeddings": True,
                     "rope_scaling": {"type": "yarn", "factor": 4.0,
                                      "original_max_position_embeddings": 64}},
    "mistral": _RMS | {"rope_theta": 1e4, "sliding_window": 16, "head_dim": 8},
    "gemma2": _RMS | {"head_dim": 8, "hidden_act": "gelu_pytorch_tanh", "cache_implementation":
                      "hybrid", "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 16,
                      "query_pre_attn_scalar": 8, "sliding_window_size": 16, "rope_theta": 1e4},
    "gemma3_text": _RMS | {"head_dim": 8, "rope_local_base_freq": 10000, "rope_theta": 1e6,
                           "sliding_window_pattern": 3, "sliding_window": 16,
                           "query_pre_attn_scalar": 8, "rope_scaling": None},
    "gpt_neox": _SHAPE | {"layer_norm_eps": 1e-5, "rotary_pct": 0.25, "rotary_emb_base": 10000,
                          "hidden_act": "gelu", "use_parallel_residual": True},
}  # fmt: skip


@pytest.mark.parametrize("kind", OLDER)
def test_config_files_of_before_transformers_5_are_read_as_it_reads_them(kind):
    sys.modules.setdefault("torchvision", None)
    transformers = pytest.importorskip("transformers")
    older = {"model_type": kind, **OLDER[kind]}
    name = f"{CLASSES[kind]}{'Text' if kind == 'gemma3_text' else ''}Config"
    newer = getattr(transformers, name)(**OLDER[kind]).to_dict()
    got, want = config_from_huggingface(older), config_from_huggingface(newer)
    assert got.head_dim == want.head_dim
    for field, value in want.to_dict().items():
        if field == "head_size":  # may be left to hidden / heads
            continue
        assert got.to_dict()[field] == pytest.approx(value), field
