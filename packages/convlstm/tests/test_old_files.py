"""A run that version 0.1 wrote opens for ever: as a model, and to go on from."""

import tarfile
from pathlib import Path

import pytest
import torch

import convlstm
from convlstm import data, train
from convlstm.forecasting.training import load_checkpoint

FILES = Path(__file__).parent / "data" / "version_0_1.tar.xz"


@pytest.fixture
def folder(tmp_path):
    with tarfile.open(FILES) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # 3.11.4
        archive.extractall(tmp_path)
    return tmp_path


def test_a_checkpoint_of_version_0_1_is_a_model(folder):
    model = load_checkpoint(folder)
    assert model(torch.zeros(1, 3, 8, 8, 1)).shape == (1, 3, 8, 8, 1)


def test_a_run_of_version_0_1_goes_on(folder):
    options = train.TrainOptions(steps=1, batch=1, every=1, validation=1, ahead=1, ema=0.9)
    model = convlstm.next_frame("small", size=(8, 8), filters=1)
    trainer = train.Trainer(model, data.MovingSquares(6, (8, 8)), options, folder, progress=False)
    assert trainer.resume()
    assert trainer.progress.step == 1
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)["weights"]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
