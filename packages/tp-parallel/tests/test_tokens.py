"""Token files: Megatron's and .npy, mapped; documents; a sampler that a checkpoint continues."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from tp_parallel import ParallelContext, __main__
from tp_parallel.training import checkpoint, pretrain
from tp_parallel.training.data import TextData, make_tokenizer, shared_tokens
from tp_parallel.training.tokens import TokenData, open_tokens, shuffled, write_tokens

DOCUMENTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15]]
SMALL = {"tokenizer": "bytes", "layers": 2, "hidden": 16, "heads": 2, "seq": 16, "batch": 4,
         "eval_every": 0, "held_out": 0.0, "dtype": "float64", "warmup": 2}  # fmt: skip


def corpus(path, documents=40, seed=0):
    """A .bin/.idx of documents of random lengths."""
    draw = np.random.default_rng(seed)
    write_tokens(path, (draw.integers(0, 256, draw.integers(3, 40)) for _ in range(documents)),
                 np.uint16)  # fmt: skip
    return str(path) + ".bin"


def test_the_index_is_megatrons_byte_for_byte_and_is_read_back(tmp_path):
    assert write_tokens(tmp_path / "c", DOCUMENTS, np.uint16) == 11
    want = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 4, 5)
    want += struct.pack("<4i", 3, 1, 5, 2) + struct.pack("<4q", 0, 6, 8, 18)
    want += struct.pack("<5q", 0, 1, 2, 3, 4)
    assert (tmp_path / "c.idx").read_bytes() == want
    for name in ("c", "c.bin", "c.idx"):
        stream, begins = open_tokens(tmp_path / name)
        assert stream.tolist() == [token for document in DOCUMENTS for token in document]
        assert begins.tolist() == [0, 3, 4, 9]
    assert isinstance(stream, np.memmap)


def test_an_array_is_mapped_and_its_end_token_ends_documents(tmp_path):
    np.save(tmp_path / "a.npy", np.array([1, 2, 0, 3, 0, 4, 5], np.uint16))
    stream, begins = open_tokens(tmp_path / "a.npy", end=0)
    assert isinstance(stream, np.memmap)
    assert begins.tolist() == [0, 3, 5]
    assert open_tokens(tmp_path / "a.npy").begins.tolist() == [0]


def test_damaged_and_foreign_files_are_refused(tmp_path):
    write_tokens(tmp_path / "c", DOCUMENTS)
    index = (tmp_path / "c.idx").read_bytes()
    floats = index.replace(b"\x04\x04\x00", b"\x06\x04\x00", 1)
    for content, message in ((index[:-9], "ends too early"), (b"x" * 80, "is no index"),
                             (floats, "dtype 6")):  # fmt: skip
        (tmp_path / "c.idx").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            open_tokens(tmp_path / "c")
    for place in (-8, -1):  # the last boundary of a document: far beyond the sequences, negative
        (tmp_path / "c.idx").write_bytes(index[:place] + b"\xff" + index[place:][1:])
        with pytest.raises(ValueError, match="documents begin among its"):
            open_tokens(tmp_path / "c")
    (tmp_path / "c.idx").write_bytes(index)
    (tmp_path / "c.bin").write_bytes(b"1234")
    with pytest.raises(ValueError, match="does not hold what"):
        open_tokens(tmp_path / "c")
    with pytest.raises(ValueError, match="must fit into uint16, got 0 to 70000"):
        write_tokens(tmp_path / "d", [[0, 70000]], np.uint16)
    np.save(tmp_path / "f.npy", np.zeros(3))
    with pytest.raises(ValueError, match="must hold integers in one dimension"):
        open_tokens(tmp_path / "f.npy")


@pytest.mark.parametrize("count", [1, 2, 5, 64, 1000])
def test_a_shuffle_visits_every_place_once(count):
    got = [shuffled(i, count, 7) for i in range(count)]
    assert sorted(got) == list(range(count))
    assert count < 5 or got != list(range(count))


def test_an_epoch_gives_every_window_once_and_the_next_one_in_another_order(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(101, dtype=np.int32))
    data = TokenData(tmp_path / "a.npy", 10, held_out=0.2)
    first, second = (data.samples(start, 8).ids[:, 0].tolist() for start in (0, 8))
    assert sorted(first) == sorted(second) == list(range(0, 80, 10))
    assert first != second
    assert data.samples(6, 4).ids[:, 0].tolist() == first[6:] + second[:2]
    assert data.held_out(0, 2).ids[:, 0].tolist() == [80, 90]
    assert torch.equal(data.samples(0, 8).labels, data.samples(0, 8).ids + 1)


def test_positions_begin_anew_with_a_document_and_no_label_leads_into_another(tmp_path):
    write_tokens(tmp_path / "c", DOCUMENTS)
    data = TokenData(tmp_path / "c", 5, held_out=0.0, documents=True)
    ids, labels, positions = data._read([0, 1])
    assert ids.tolist() == [[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]
    assert labels.tolist() == [[6, 7, -100, -100, 10], [11, 12, 13, -100, 15]]
    assert positions.tolist() == [[0, 1, 2, 0, 0], [0, 1, 2, 3, 0]]


def run(settings, **more):
    report = pretrain.pretrain(pretrain.Settings(**SMALL | settings), **more)
    return report.losses


def run_split(settings):
    return run(settings)


def test_documents_train_to_the_same_numbers_on_every_grid(world, tmp_path):
    base = {"data": corpus(tmp_path / "c"), "documents": True, "steps": 3, "eval_every": 3,
            "held_out": 0.2}  # fmt: skip
    for shape in ({}, {"position": "rotary"}):
        want = run(base | shape)
        for grid in ({"pp": 2}, {"tp": 2, "sequence_parallel": True}, {"dp": 2}):
            for got in world(2, run_split, settings=base | shape | grid):
                assert got == pytest.approx(want, abs=1e-10)


def test_a_resumed_run_goes_on_with_the_next_sample_even_with_another_batch(tmp_path, monkeypatch):
    base = {"data": corpus(tmp_path / "c"), "save": str(tmp_path / "run")}
    whole = run({**base, "save": None, "steps": 4})
    assert run(base | {"steps": 2}) + run(base | {"steps": 4}) == whole
    taken = []
    samples = TokenData.samples
    monkeypatch.setattr(TokenData, "samples", lambda self, first, rows: taken.append(
        (first, rows)) or samples(self, first, rows))  # fmt: skip
    run(base | {"steps": 5, "batch": 8})
    assert taken == [(16, 8)]
    manifest = checkpoint.read_manifest(checkpoint.latest(base["save"]))
    assert manifest["extra"]["samples"] == 24


def test_other_data_than_the_checkpoints_is_refused_unless_allowed(tmp_path):
    base = {"data": corpus(tmp_path / "c"), "save": str(tmp_path / "run")}
    run(base | {"steps": 1})
    other = base | {"data": corpus(tmp_path / "d", 50), "steps": 2}
    with pytest.raises(ValueError, match=r"of other data: tokens \d+ there, \d+ here; resume with"):
        run(other)
    assert len(run(other | {"allow": "data"})) == 1


def test_callbacks_get_every_row(tmp_path):
    rows = []
    run({"data": corpus(tmp_path / "c"), "steps": 2, "eval_every": 2, "held_out": 0.2},
        callbacks=[rows.append])  # fmt: skip
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert {"loss", "grad_norm", "tokens_per_second"} <= rows[0].keys()
    assert "evaluation" in rows[2]


def test_a_text_file_is_mapped_and_not_copied(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"every byte is a token, \xff too. " * 9)
    data = pretrain.TextData(tmp_path / "t.txt", pretrain.make_tokenizer("bytes"), 8)
    assert data.train.dtype == torch.uint8
    assert data.batch(0, 2)[0].dtype == torch.int64


def shared(path, tokenizer, length):
    context = ParallelContext(dp=2, device="cpu")
    tokens = shared_tokens(path, make_tokenizer(tokenizer), context)
    data = TextData(path, make_tokenizer(tokenizer), length, context=context)
    left = Path(tokens.filename).exists()
    return isinstance(tokens, np.memmap), left, tokens.tolist(), data.batch(0, 2)[0].tolist()


def test_a_text_is_encoded_once_a_host_and_mapped_by_all_its_ranks(world, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, "no": 1, "copy": 2}, "?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "t.txt").write_text("no copy of a copy " * 50)
    arguments = {"path": tmp_path / "t.txt", "tokenizer": str(tmp_path / "tokenizer.json")}
    one = TextData(tmp_path / "t.txt", make_tokenizer(arguments["tokenizer"]), 8)
    want = one.batch(0, 2)[0].tolist()
    for mapped, left, tokens, batch in world(2, shared, length=8, **arguments):
        assert mapped
        assert not left
        assert tokens == [1, 2, 0, 0, 2] * 50
        assert batch == want
    with pytest.raises(FileNotFoundError, match=r"the path of a tokenizer.json, got 'no.json'"):
        make_tokenizer("no.json")


def test_what_is_no_tokenizer_no_npy_and_no_pair_is_named(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "book.txt").write_text("the cat")
    with pytest.raises(ValueError, match=r"path of a tokenizer\.json, got '.*book\.txt'"):
        make_tokenizer(str(tmp_path / "book.txt"))
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"bad\.npy is damaged or no \.npy: "):
        open_tokens(tmp_path / "bad.npy")
    (tmp_path / "x.bin").write_bytes(b"123")
    with pytest.raises(FileNotFoundError, match=r"no file .*x\.idx; tokens are x\.bin and x\.idx"):
        open_tokens(tmp_path / "x.bin")


def test_data_may_be_the_prefix_of_a_pair(tmp_path):
    write_tokens(tmp_path / "corpus", DOCUMENTS)
    settings = pretrain.Settings(data=str(tmp_path / "corpus"), layers=1, hidden=16, heads=2, seq=4,
                                 batch=2, steps=1, eval_every=0)  # fmt: skip
    pretrain.check_settings(settings)
    data = pretrain._data(settings, None, None)
    assert data.facts() == TokenData(tmp_path / "corpus.bin", 4, held_out=0.0).facts()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"save": "book.txt"}, "save must be a folder, got '.*book.txt': .*book.txt is a file"),
        ({"save": "book.txt/run"}, "save must be a folder, got .*: .*book.txt is a file"),
        ({"tensorboard": "book.txt"}, "tensorboard must be a folder, got"),
        ({"metrics": "."}, "metrics must be a file, got the folder"),
        ({"metrics": "no/m.jsonl"}, "metrics must be a file in a folder that is there, .*; make "),
        ({"data": "."}, "data must be a file, got the folder"),
        ({"data": "none.txt"}, "data must name a text or token file, there is no '.*none.txt'"),
    ],
)
def test_a_path_that_cannot_be_is_refused_before_the_first_step(setting, message, tmp_path):
    (tmp_path / "book.txt").write_text("the cat sat " * 100)
    paths = {name: str(tmp_path / path) for name, path in {"data": "book.txt", **setting}.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=f"pretrain: {message}"):
        pretrain.pretrain(pretrain.Settings(**paths))


def test_a_dry_run_prints_the_plan_and_says_what_does_not_fit(tmp_path, capsys):
    options = ["pretrain", "--dry-run", "--world", "16", "--tp", "2", "--pp", "2", "--layers", "4"]
    assert __main__.main(options) == 0
    assert "tp 2 x pp 2 x dp 4: 16 ranks" in capsys.readouterr().out
    assert __main__.main([*options, "--device-gib", "0.0001"]) == 1
    assert "a rank of stage 0 needs" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"world must be tp \* pp \* dp, got 9"):
        pretrain.dry_run(pretrain.Settings(dry_run=True, world=9, tp=2))
    with pytest.raises(ValueError, match="data must name a text or token file"):
        pretrain.pretrain(pretrain.Settings())


def test_help_is_by_topic(capsys):
    with pytest.raises(SystemExit):
        pretrain.parse(["--help"])
    out = capsys.readouterr().out
    titles = ["data:", "its shape:", "the grid of processes:", "checkpoints:", "faults:",
              "dry run:"]  # fmt: skip
    places = [out.index(f"\n{title}\n") for title in titles]
    assert places == sorted(places)


def test_local_initialisation_and_an_architecture_come_from_the_command_line(world, tmp_path):
    hf = {"model_type": "llama", "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2,
          "num_attention_heads": 4, "num_key_value_heads": 1, "intermediate_size": 48,
          "max_position_embeddings": 64, "rms_norm_eps": 1e-6}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(hf))
    plain = {"layers": 4, "hidden": 128, "heads": 4}  # as by default: the file says the shape
    settings = plain | {"data": corpus(tmp_path / "c"), "steps": 2, "init": "local", "tp": 2,
                        "architecture": str(tmp_path / "config.json")}  # fmt: skip
    one, two = world(2, run_split, settings=settings)
    assert one == two
    assert one[0] == pytest.approx(np.log(300), abs=0.1)


def test_the_flops_of_a_token_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    from tp_parallel import GPTConfig, GPTModel

    config = GPTConfig(
        vocab_size=64, hidden=32, layers=2, heads=4, kv_heads=2, head_size=12, ffn=40,
        max_positions=16, position="rotary", norm="rmsnorm", activation="swiglu", bias=False,
        tie_embeddings=False, attention_softcap=9.0,
    )  # fmt: skip
    model = GPTModel(config, context=ParallelContext(device="cpu"))
    ids = torch.zeros(2, 16, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(ids, ids).sum().backward()
    assert counter.get_total_flops() == pretrain.flops_per_token(config, 16) * ids.numel()
