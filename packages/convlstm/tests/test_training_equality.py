"""The 40-filter model follows Keras' losses over Adam steps on MAE."""

import numpy as np
import torch

from convlstm import models
from convlstm.optim import KerasAdam


def test_the_seed_model_has_the_size_of_keras():
    assert models.parameter_count(models.next_frame("seed", keras_example=True)) == 407_001


def test_five_adam_steps_on_mae_follow_the_losses_of_keras(keras, tmp_path):
    ours = models.next_frame("seed", keras_example=True, size=(16, 16))
    models.save_keras(ours, tmp_path / "m.keras")
    theirs = keras.models.load_model(tmp_path / "m.keras")
    theirs.compile(optimizer=keras.optimizers.Adam(), loss="mae", metrics=["mae"])
    rng = np.random.default_rng(0)
    x = (rng.random((2, 4, 16, 16, 1)) > 0.7).astype("float32")
    y = np.roll(x, 1, axis=2)
    optimizer = KerasAdam(ours.parameters())
    ours.train()
    losses = []
    for _ in range(5):
        loss = (ours(torch.tensor(x)) - torch.tensor(y)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append((loss.item(), float(theirs.train_on_batch(x, y)[0])))
    got, want = np.array(losses).T
    assert want[-1] < want[0]
    assert np.abs(got - want).max() <= 1e-4
