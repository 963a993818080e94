"""Files that version 0.1 wrote open for ever: a training checkpoint, and weights that name their
model."""

import tarfile
from pathlib import Path

import pytest
import torch

from resnet_zoo import load_model, resnet18
from resnet_zoo.training.recipe import Recipe
from resnet_zoo.training.state import Average, Position, load_checkpoint, make_optimizer

FILES = Path(__file__).parent / "data" / "version_0_1.tar.xz"
TINY = {"stem": "small", "planes": 8}


@pytest.fixture
def folder(tmp_path):
    with tarfile.open(FILES) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # 3.11.4
        archive.extractall(tmp_path)
    return tmp_path


def test_weights_of_version_0_1_open_with_their_classes_and_preprocessing(folder):
    model = load_model(folder / "best.safetensors")
    weight = model.state_dict()["conv1.weight"].flatten()
    assert len(set(weight.tolist())) == 5
    assert weight.abs().max() == 0.25
    assert model.source.categories() == ["a", "b", "c"]
    assert model.source.transforms().crop_size == 8


def test_a_run_of_version_0_1_goes_on(folder):
    recipe = Recipe.preset("small", epochs=2, model_args=TINY)
    model = resnet18(**TINY, num_classes=3)
    average, optimizer = Average(model, 0.9), make_optimizer(model, recipe)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    position = load_checkpoint(
        folder / "last.ckpt", model, average, optimizer, scaler, recipe, {"pictures": 4}
    )
    assert position == Position(1, 2, 33.0)
    assert average.steps == 5
    assert optimizer.state
    saved = load_model(folder / "best.safetensors").state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
