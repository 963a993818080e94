"""Files that version 0.1 wrote open for ever: a checkpoint with its optimizer, and tokens."""

import tarfile
from pathlib import Path

import pytest

from tp_parallel import AdamW, ParallelContext, checkpoint
from tp_parallel.training.generate import load_model
from tp_parallel.training.tokens import open_tokens

FILES = Path(__file__).parent / "data" / "version_0_1.tar.xz"


@pytest.fixture
def folder(tmp_path):
    with tarfile.open(FILES) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # 3.11.4
        archive.extractall(tmp_path)
    return tmp_path


def test_a_checkpoint_of_version_0_1_is_read_with_its_optimizer(folder):
    path = checkpoint.latest(folder)
    with ParallelContext(device="cpu") as context:
        model, manifest = load_model(path, context)
        assert (manifest["step"], manifest["extra"]) == (7, {"note": "kept"})
        values = {name: value.detach() for name, value in model.named_parameters()}
        assert all(value.abs().max() <= 0.25 for value in values.values())
        assert len(set(values["embedding.word.weight"].flatten().tolist())) == 5
        optimizer = AdamW([model], context, lr=1e-2)
        checkpoint.load(path, [model], optimizer, context=context)


def test_tokens_of_version_0_1_are_read(folder):
    tokens = open_tokens(folder / "t")
    assert tokens.stream.tolist() == [1, 2, 3, 4, 5]
    assert tokens.begins.tolist() == [0, 3]
