"""Hugging Face layouts: import, split, same logits as written out in their layout, export
bitwise.
"""

import sys

import pytest
import torch
import torch.nn.functional as F

from tp_parallel import GPTModel, ParallelContext
from tp_parallel.loss import reference
from tp_parallel.models.huggingface import (
    config_from_huggingface,
    export_huggingface,
    import_huggingface,
)

GPT2 = {"model_type": "gpt2", "vocab_size": 29, "n_embd": 16, "n_layer": 2, "n_head": 4,
        "n_positions": 8, "n_inner": None, "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new", "resid_pdrop": 0.0, "attn_pdrop": 0.0,
        "tie_word_embeddings": True}  # fmt: skip
LLAMA = {"model_type": "llama", "vocab_size": 29, "hidden_size": 16, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24,
         "max_position_embeddings": 8, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
         "tie_word_embeddings": False}  # fmt: skip
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])


def values(**shapes):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, dtype=torch.float64, generator=generator) * 0.1
        + (1.0 if len(shape) == 1 and name.endswith("weight") else 0.0)
        for name, shape in shapes.items()
    }


def gpt2_state():
    shapes = {"transformer.wte.weight": (29, 16), "transformer.wpe.weight": (8, 16)}
    for i in range(2):
        for name, shape in {
            "ln_1": (16,), "attn.c_attn": (16, 48), "attn.c_proj": (16, 16), "ln_2": (16,),
            "mlp.c_fc": (16, 64), "mlp.c_proj": (64, 16),
        }.items():  # fmt: skip
            shapes[f"transformer.h.{i}.{name}.weight"] = shape
            shapes[f"transformer.h.{i}.{name}.bias"] = shape[-1:]
    shapes |= {"transformer.ln_f.weight": (16,), "transformer.ln_f.bias": (16,)}
    return values(**shapes)


def gpt2_logits(s):
    """GPT-2 as its checkpoint lays it out: x W + b, and c_attn cut in thirds."""
    x = s["transformer.wte.weight"][IDS] + s["transformer.wpe.weight"]
    for i in range(2):
        p = f"transformer.h.{i}."
        y = F.layer_norm(x, (16,), s[p + "ln_1.weight"], s[p + "ln_1.bias"], 1e-5)
        y = y @ s[p + "attn.c_attn.weight"] + s[p + "attn.c_attn.bias"]
        q, k, v = (t.view(2, 8, 4, 4).transpose(1, 2) for t in y.split(16, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + y @ s[p + "attn.c_proj.weight"] + s[p + "attn.c_proj.bias"]
        y = F.layer_norm(x, (16,), s[p + "ln_2.weight"], s[p + "ln_2.bias"], 1e-5)
        y = F.gelu(y @ s[p + "mlp.c_fc.weight"] + s[p + "mlp.c_fc.bias"], approximate="tanh")
        x = x + y @ s[p + "mlp.c_proj.weight"] + s[p + "mlp.c_proj.bias"]
    x = F.layer_norm(x, (16,), s["transformer.ln_f.weight"], s["transformer.ln_f.bias"], 1e-5)
    return x @ s["transformer.wte.weight"].t()


def llama_state():
    shapes = {"model.embed_tokens.weight": (29, 16), "model.norm.weight": (16,),
              "lm_head.weight": (29, 16)}  # fmt: skip
    for i in range(2):
        for name, shape in {"input_layernorm": (16,), "self_attn.q_proj": (16, 16),
                            "self_attn.k_proj": (8, 16), "self_attn.v_proj": (8, 16),
                            "self_attn.o_proj": (16, 16), "post_attention_layernorm": (16,),
                            "mlp.gate_proj": (24, 16), "mlp.up_proj": (24, 16),
                            "mlp.down_proj": (16, 24)}.items():  # fmt: skip
            shapes[f"model.layers.{i}.{name}.weight"] = shape
    return values(**shapes)


def llama_logits(s):
    """LLaMA as its checkpoint lays it out: separate projections, keys and values repeated."""

    def norm(x, name):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * s[name + ".weight"]

    frequency = 10000.0 ** -torch.tensor([0.0, 0.5], dtype=torch.float64)
    angle = torch.outer(torch.arange(8.0, dtype=torch.float64), frequency)
    cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()

    def turn(x):
        return x * cos + torch.cat([-x[..., 2:], x[..., :2]], -1) * sin

    x = s["model.embed_tokens.weight"][IDS]
    for i in range(2):
        p = f"model.layers.{i}."
        y = norm(x, p + "input_layernorm")
        q, k, v = (
            (y @ s[p + f"self_attn.{n}_proj.weight"].t()).view(2, 8, -1, 4).transpose(1, 2)
            for n in "qkv"
        )
        k, v = turn(k).repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        y = F.scaled_dot_product_attention(turn(q), k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + y @ s[p + "self_attn.o_proj.weight"].t()
        y = norm(x, p + "post_attention_layernorm")
        gate, up = (y @ s[p + f"mlp.{n}_proj.weight"].t() for n in ("gate", "up"))
        x = x + (F.silu(gate) * up) @ s[p + "mlp.down_proj.weight"].t()
    return norm(x, "model.norm") @ s["lm_head.weight"].t()


CASES = {"gpt2": (GPT2, gpt2_state, gpt2_logits), "llama": (LLAMA, llama_state, llama_logits)}


def split_logits(tp, kind):
    hf, state, _ = CASES[kind]
    config = config_from_huggingface(hf, dtype="float64")
    context = ParallelContext(tp=tp, device="cpu")
    model = GPTModel(config, context=context, initialize=False)
    model.load_full(import_huggingface(state(), config))
    logits = context.tp.all_gather(model(IDS).detach(), -1, label="test")[..., :29]
    return logits, export_huggingface(model.gather_full(), config)


@pytest.mark.parametrize("kind", CASES)
def test_an_imported_model_gives_their_logits_split_or_not_and_exports_bitwise(world, kind):
    _, state, logits = CASES[kind]
    theirs = state()
    for got, exported in world(2, split_logits, tp=2, kind=kind):
        torch.testing.assert_close(got, logits(theirs), rtol=1e-10, atol=1e-12)
        assert exported.keys() - {"lm_head.weight"} == theirs.keys() - {"lm_head.weight"}
        for name, value in theirs.items():
            assert torch.equal(exported[name], value), name


@pytest.mark.parametrize("kind", CASES)
def test_the_definition_gives_their_logits_too(kind):
    hf, state, logits = CASES[kind]
    config = config_from_huggingface(hf, dtype="float64")
    got = reference.gpt_logits(config, import_huggingface(state(), config), IDS)
    torch.testing.assert_close(got, logits(state()), rtol=1e-10, atol=1e-12)


def test_gpt2_names_without_the_prefix_are_read_too():
    config = config_from_huggingface(GPT2, dtype="float64")
    bare = {name.removeprefix("transformer."): value for name, value in gpt2_state().items()}
    got = import_huggingface(bare, config)
    want = import_huggingface(gpt2_state(), config)
    assert all(torch.equal(got[name], value) for name, value in want.items())


@pytest.mark.parametrize(("kind", "seed"), [("gpt2", 0), ("llama", 1)])
def test_transformers_itself_agrees(kind, seed, monkeypatch):
    # text models need no torchvision, and one that was built for another torch stops the import
    monkeypatch.setitem(sys.modules, "torchvision", None)
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    config_class, model_class = {
        "gpt2": ("GPT2Config", "GPT2LMHeadModel"), "llama": ("LlamaConfig", "LlamaForCausalLM")
    }[kind]  # fmt: skip
    hf = {k: v for k, v in CASES[kind][0].items() if k != "model_type"}
    theirs = getattr(transformers, model_class)(getattr(transformers, config_class)(**hf)).eval()
    config = config_from_huggingface(theirs.config.to_dict())
    model = GPTModel(config, context=ParallelContext(device="cpu"), initialize=False).eval()
    model.load_full(import_huggingface(theirs.state_dict(), config))
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), theirs(IDS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [({"model_type": "bert"}, "model_type must be one of 'gpt2', .*got 'bert'"),
     (LLAMA | {"rope_scaling": {"rope_type": "longrope"}}, "are computed here, got 'longrope'"),
     (LLAMA | {"hidden_act": "mish"}, "hidden_act of a 'llama' config must be one of"),
     (LLAMA | {"quantization_config": {"bits": 4}}, "quantization_config of a 'llama' .* is"),
     (LLAMA | {"residual_scale": 0.2}, "residual_scale .* 0.2, which is not known"),
     (GPT2 | {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx of"),
     (GPT2 | {"sliding_window": 4}, "sliding_window of a 'gpt2' .* not known"),
     ({k: v for k, v in LLAMA.items() if k != "rms_norm_eps"}, "rms_norm_eps .* is missing")],
)  # fmt: skip
def test_what_is_not_computed_here_is_refused_by_the_field(config, message):
    with pytest.raises(ValueError, match=message):
        config_from_huggingface(config)


def test_tensors_that_are_missing_left_over_or_of_another_shape_are_named():
    state = gpt2_state()
    del state["transformer.ln_f.bias"]
    with pytest.raises(KeyError, match=r"transformer\.ln_f\.bias"):
        import_huggingface(state, config_from_huggingface(GPT2))
    state = llama_state()
    state["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(16)
    with pytest.raises(ValueError, match=r"no part of the model takes model.layers.0.self_attn.q"):
        import_huggingface(state, config_from_huggingface(LLAMA))
    with pytest.raises(ValueError, match=r"gate_proj.weight' must have the shape \(20, 16\)"):
        import_huggingface(llama_state(), config_from_huggingface(LLAMA, ffn=20))
