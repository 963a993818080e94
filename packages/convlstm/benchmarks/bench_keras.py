"""The 40-filter model beside Keras' own, on the backend that KERAS_BACKEND names.

Both with one thread: the same file, weights and input; a training step is MAE with Adam.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import keras
import numpy as np
import torch
from measure import Bench

import convlstm

BACKEND = keras.backend.backend()
torch.set_num_threads(1)


def versions() -> dict[str, str]:
    found = {"torch": torch.__version__, "keras": keras.__version__}
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        found["tensorflow"] = tf.__version__
    return found


def main() -> None:
    bench = Bench(
        f"convlstm beside Keras on {BACKEND}", f"Keras, {BACKEND} backend",
        versions=versions(), repeats=3,
    )  # fmt: skip
    torch.manual_seed(0)
    ours = convlstm.next_frame("seed", keras_example=True).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed.keras"
        convlstm.save_keras(ours, path)
        theirs = keras.models.load_model(path)
    x = np.random.default_rng(0).random((5, 10, 40, 40, 1), np.float32)
    y = np.random.default_rng(1).random((5, 10, 40, 40, 1), np.float32)
    given, truth = torch.from_numpy(x), torch.from_numpy(y)

    def ours_inference():
        with torch.no_grad():
            return ours(given)

    def keras_inference():
        return theirs.predict_on_batch(x)

    error = np.abs(ours_inference().numpy() - np.asarray(keras_inference())).max()
    assert error < 1e-5, f"the two models differ by {error}"
    case = "B 5, T 10, 40x40"
    bench.compare(f"{case}, inference", ours_inference, keras_inference)

    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-3)
    theirs.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mae")
    ours.train()

    def ours_training():
        optimizer.zero_grad()
        (ours(given) - truth).abs().mean().backward()
        optimizer.step()

    bench.compare(f"{case}, training step", ours_training, lambda: theirs.train_on_batch(x, y))
    bench.finish()


if __name__ == "__main__":
    main()
