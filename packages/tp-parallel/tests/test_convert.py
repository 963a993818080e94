"""A Hugging Face folder to a checkpoint and back: in bounded pieces, to the same bits."""

import json
import sys

import pytest
import torch

from tp_parallel import CheckpointError, GPTConfig, GPTModel, ParallelContext, __main__, checkpoint
from tp_parallel.layers.rotary import RotaryScaling
from tp_parallel.models import safetensors
from tp_parallel.models.huggingface import (
    config_from_huggingface,
    import_huggingface,
    shapes,
    table,
)
from tp_parallel.pipeline import build_stages
from tp_parallel.training import convert

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
CONFIGS = {
    "llama": {"model_type": "llama", "vocab_size": 37, "hidden_size": 32, "num_hidden_layers": 4,
              "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
              "max_position_embeddings": 16, "rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    "gpt2": {"model_type": "gpt2", "vocab_size": 37, "n_embd": 32, "n_layer": 3, "n_head": 4,
             "n_positions": 16, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"},
    "qwen2": {"model_type": "qwen2", "vocab_size": 37, "hidden_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 1, "intermediate_size": 48,
              "max_position_embeddings": 16, "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
}  # fmt: skip


def folder_of(kind, path, files=2):
    """A Hugging Face folder with random weights in `files` files; returns them by name."""
    path.mkdir()
    config = config_from_huggingface(CONFIGS[kind])
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(shape, generator=generator) * 0.2
        for entry in table(config)
        for name, shape in zip(entry.theirs, shapes(config)[entry.ours], strict=True)
    }
    (path / "config.json").write_text(json.dumps(CONFIGS[kind]))
    (path / "tokenizer.json").write_text("{}")
    names = sorted(state)
    for i in range(files):
        some = [(name, tuple(state[name].shape)) for name in names[i::files]]
        file = path / f"model-{i}.safetensors"
        safetensors.write_file(file, some, torch.float32, state.__getitem__)
    return state


def split_logits(path, tp, pp):
    context = ParallelContext(tp=tp, pp=pp, device="cpu")
    config = GPTConfig(**checkpoint.read_manifest(path)["model"])
    models = build_stages(config, context, initialize=False)
    checkpoint.load(path, models, context=context)
    if pp > 1:
        return {k: v for m in models for k, v in m.gather_full().items()}
    return context.tp.all_gather(models[0](IDS).detach(), -1, label="test")[..., :37]


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_folder_becomes_a_checkpoint_for_any_grid_and_the_same_folder_again(
    world, kind, tmp_path
):
    state = folder_of(kind, tmp_path / "hf")
    layout = {"tp": 2, "pp": 2}
    path = convert.import_folder(tmp_path / "hf", tmp_path / "run", **layout)
    config = config_from_huggingface(CONFIGS[kind])
    whole = GPTModel(config, context=ParallelContext(device="cpu"), initialize=False)
    whole.load_full(import_huggingface(state, config))
    want = whole(IDS).detach()
    for got in world(2, split_logits, path=path, tp=2, pp=1):
        torch.testing.assert_close(got, want)
    parts = world(4, split_logits, path=path, **layout)
    got = {name: value for each in parts for name, value in each.items()}
    assert all(torch.equal(got[name], value) for name, value in whole.gather_full().items())
    back = convert.export_folder(tmp_path / "run", tmp_path / "back", shard_bytes=9000)
    files = safetensors.TensorFiles(back)
    assert files.shapes.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(files.read(name, (0, len(value))), value), name
    index = json.loads((back / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == state.keys()
    assert len(set(index["weight_map"].values())) > 2
    assert (back / "tokenizer.json").read_text() == "{}"


def test_transformers_reads_what_was_written_and_the_other_way_round(tmp_path):
    sys.modules.setdefault("torchvision", None)
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    fields = {k: v for k, v in CONFIGS["llama"].items() if k != "model_type"}
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields)).eval()
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="20kB")
    path = convert.import_folder(tmp_path / "hf", tmp_path / "run", tp=2)
    back = convert.export_folder(path, tmp_path / "back")
    again = transformers.LlamaForCausalLM.from_pretrained(back).eval()
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, theirs(IDS).logits)


def test_no_read_and_no_file_is_larger_than_it_may_be_and_nothing_is_read_twice(
    tmp_path, monkeypatch
):
    state = folder_of("llama", tmp_path / "hf")
    readers = []
    monkeypatch.setattr(convert, "TensorFiles", lambda *a: readers.append(
        safetensors.TensorFiles(*a)) or readers[-1])  # fmt: skip
    path = convert.import_folder(
        tmp_path / "hf", tmp_path / "run", tp=2, pp=4, most=1000, file_bytes=8192
    )
    row = max(value.shape[-1] for value in state.values()) * 4
    assert 0 < readers[0].largest_read <= max(1000, row)
    whole = sum(value.numel() * 4 for value in state.values())
    by_columns = sum(v.numel() * 4 for n, v in state.items() if "o_proj" in n or "down_proj" in n)
    assert readers[0].bytes_read == whole + by_columns  # each of 2 ranks reads the rows it cuts
    largest = max(value.numel() * 4 for value in state.values())
    sizes = [file.stat().st_size for file in path.glob("*.distcp")]
    assert len(sizes) > 8
    assert max(sizes) < 8192 + largest + 20000  # torch.save adds about a kilobyte a tensor


def test_a_model_trained_here_is_exported_and_one_that_nobody_computes_is_refused(tmp_path):
    context = ParallelContext(device="cpu")
    config = GPTConfig(vocab_size=37, hidden=32, layers=2, heads=4, max_positions=16,
                       activation="gelu_tanh")  # fmt: skip
    model = GPTModel(config, context=context)
    checkpoint.save(tmp_path / "run", 5, [model], None, context=context)
    folder = convert.export_folder(tmp_path / "run", tmp_path / "hf")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "gpt2"
    path = convert.import_folder(folder, tmp_path / "again")
    other = GPTModel(config, context=context, initialize=False)
    checkpoint.load(path, [other], context=context, allow=("embedding_dropout", "ffn", "head_size"))
    assert torch.equal(model(IDS), other(IDS))
    odd = GPTConfig(vocab_size=37, hidden=32, layers=2, heads=4, logit_softcap=3.0)
    with pytest.raises(ValueError, match="no model_type of Hugging Face computes this model"):
        convert.config_to_huggingface(odd)


GEMMA = {"activation": "geglu_tanh", "post_norms": True, "zero_centred_norm": True,
         "embedding_scale": 4.0, "head_size": 8}  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gpt_neox", "mistral", "gemma2",
                                  "gemma3_text", "gpt2"])  # fmt: skip
def test_the_config_of_a_trained_model_names_the_family_that_computes_it(kind):
    shape = {"vocab_size": 9, "hidden": 16, "layers": 2, "heads": 4, "kv_heads": 2, "bias": False,
             "norm": "rmsnorm", "position": "rotary", "activation": "swiglu"}  # fmt: skip
    config = GPTConfig(**shape | {
        "llama": {"rotary_scaling": RotaryScaling("dynamic", 2.0, 512)},
        "qwen2": {"qkv_bias": True, "windows": (0, 4)},
        "qwen3": {"qk_norm": True, "head_size": 8,
                  "rotary_scaling": RotaryScaling("llama3", 8.0, 16)},
        "mistral": {"windows": (4, 4), "rotary_scaling": RotaryScaling("yarn", 2.0, 8, fast=16.0)},
        "gemma2": GEMMA | {"attention_softcap": 50.0, "windows": (4, 0), "attention_scale": 0.125},
        "gemma3_text": GEMMA | {"qk_norm": True, "windows": (4, 0), "rotary_base": 1e6,
                                "rotary_base_windowed": 1e4},
        "gpt2": {"norm": "layernorm", "bias": True, "activation": "gelu_tanh", "kv_heads": None,
                 "position": "learned", "attention_scale": 1.0},
        "gpt_neox": {"norm": "layernorm", "bias": True, "activation": "gelu", "kv_heads": 4},
    }[kind])  # fmt: skip
    assert convert.config_to_huggingface(config)["model_type"] == kind


def test_damaged_foreign_and_quantised_files_are_refused(tmp_path):
    folder_of("llama", tmp_path / "hf")
    file = tmp_path / "hf" / "model-0.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-8])
    with pytest.raises(ValueError, match="is damaged"):
        convert.import_folder(tmp_path / "hf", tmp_path / "run")
    file.write_bytes(content.replace(b'"F32"', b'"I8" ', 1))
    with pytest.raises(ValueError, match="no quantised ones"):
        convert.import_folder(tmp_path / "hf", tmp_path / "run")
    file.unlink()
    with pytest.raises(ValueError, match="is in no file of the folder"):
        convert.import_folder(tmp_path / "hf", tmp_path / "run")
    (tmp_path / "hf" / "model-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no \*.safetensors; save the model with"):
        convert.import_folder(tmp_path / "hf", tmp_path / "run")
    assert not (tmp_path / "run" / "step_00000000").exists()
    with pytest.raises(CheckpointError):
        convert.export_folder(tmp_path / "run", tmp_path / "out")


def test_the_command_converts_both_ways_and_an_unknown_command_is_named(tmp_path, capsys):
    folder_of("qwen2", tmp_path / "hf")
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    assert __main__.main(["convert", str(tmp_path / "hf"), run, "--tp", "2"]) == 0
    assert __main__.main(["convert", run, out]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == out
    assert __main__.main(["trian"]) == 2
    assert "no command 'trian'" in capsys.readouterr().err


def test_a_converted_model_writes_text_with_the_tokenizer_that_came_with_it(tmp_path, capsys):
    tokenizers = pytest.importorskip("tokenizers")
    folder_of("llama", tmp_path / "hf")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(
        {f"w{i}": i for i in range(37)}, unk_token="w0"))  # fmt: skip
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "hf" / "tokenizer.json"))
    assert __main__.main(["convert", str(tmp_path / "hf"), str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert __main__.main(["generate", "--checkpoint", str(tmp_path / "run"), "--prompt", "w3 w1",
                          "--tokens", "4", "--temperature", "0"]) == 0  # fmt: skip
    text = capsys.readouterr().out.split()
    assert text[:2] == ["w3", "w1"]
    assert len(text) == 6
