"""Writes the model files of tests/keras_fixtures.tar.xz with the Keras that runs it.

    python keras_fixtures.py FOLDER WRITER      # in an environment with one Keras or TensorFlow
    python keras_fixtures.py FOLDER --pack TAR  # when all writers have written

WRITER names the folder: tf2.12, tf2.15 (their tf.keras), k3.0.5, k3.5.0, k3.7.0, k3.15.1. The
weights and inputs follow from the shapes alone, so all writers hold the same models; outputs are
kept beside them. The tests read `KINDS`.
"""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

import numpy as np


def _chain(keras, *layers, shape=(4, 8, 8, 1)):
    return keras.Sequential([keras.Input(shape), *layers])


def next_frame(keras):
    layers = keras.layers
    return _chain(
        keras,
        layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True, name="encoder"),
        layers.BatchNormalization(),
        layers.ConvLSTM2D(2, 3, padding="same", return_sequences=True, dropout=0.1),
        layers.Conv3D(1, 3, activation="sigmoid", padding="same"),
    )


def hard_sigmoid(keras):
    layers = keras.layers
    return _chain(
        keras,
        layers.ConvLSTM2D(
            2, 3, padding="same", recurrent_activation="hard_sigmoid", return_sequences=True
        ),
        layers.ConvLSTM2D(2, 3, recurrent_activation="hard_sigmoid"),
    )


def classifier(keras):
    layers = keras.layers
    return _chain(
        keras,
        layers.ConvLSTM2D(2, 3, return_sequences=True, kernel_regularizer="l2"),
        layers.TimeDistributed(layers.MaxPooling2D(2)),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Dense(4, kernel_initializer=keras.initializers.VarianceScaling(2.0)),
        layers.LeakyReLU(),
        layers.Dense(3, activation="softmax"),
    )


def channels_first(keras):
    layers = keras.layers
    return _chain(
        keras,
        layers.ConvLSTM2D(3, 3, padding="same", data_format="channels_first"),
        layers.BatchNormalization(axis=1),
        shape=(4, 2, 8, 6),
    )


def both_directions(keras):
    layers = keras.layers
    inner = layers.ConvLSTM2D(2, 3, padding="same", return_sequences=True)
    return _chain(
        keras,
        layers.Bidirectional(inner),
        layers.LayerNormalization(),
        layers.GlobalAveragePooling3D(),
        layers.Dense(2),
    )


def u_net(keras):
    layers = keras.layers
    start = keras.Input((4, 8, 8, 1))
    a = layers.ConvLSTM2D(2, 3, padding="same", return_sequences=True)(start)
    down = layers.TimeDistributed(layers.MaxPooling2D(2))(a)
    b = layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True)(down)
    up = layers.TimeDistributed(layers.UpSampling2D(2))(b)
    c = layers.Concatenate()([a, up])
    d = layers.ReLU(max_value=0.5, negative_slope=0.1, threshold=0.05)(c)
    return keras.Model(start, layers.Conv3D(1, 1, activation="sigmoid")(d))


def inputs_and_outputs(keras):
    layers = keras.layers
    radar, about = keras.Input((4, 8, 8, 1), name="radar"), keras.Input((3,), name="about")
    a, h, c = layers.ConvLSTM2D(2, 3, padding="same", return_sequences=True, return_state=True)(
        radar
    )
    b = layers.ConvLSTM2D(2, 3, padding="same")(a, initial_state=[h, c])
    x = layers.Concatenate()([layers.Flatten()(b), layers.Dense(3, activation="relu")(about)])
    return keras.Model([radar, about], [layers.Dense(2)(x), layers.Dense(1)(x)])


def nested(keras):
    layers = keras.layers
    frames = _chain(
        keras,
        layers.Conv2D(3, 3, padding="same"),
        layers.BatchNormalization(),
        layers.Conv2D(2, 3, padding="same"),
        shape=(8, 8, 1),
    )
    start = keras.Input((4, 8, 8, 1))
    x = layers.ConvLSTM2D(2, 3, padding="same")(layers.TimeDistributed(frames)(start))
    head = _chain(keras, layers.Conv2DTranspose(1, 3, padding="same"), shape=(8, 8, 2))
    return keras.Model(start, head(x))


KINDS = {
    kind.__name__: kind
    for kind in (
        next_frame, hard_sigmoid, classifier, channels_first, both_directions, u_net,
        inputs_and_outputs, nested,
    )
}  # fmt: skip


def fill(model):
    """Weights that follow from their shapes: every writer has the same."""
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            (abs(w) if w.ndim == 1 else w).astype("float32")
            for w in (0.3 * rng.standard_normal(v.shape) for v in model.get_weights())
        ]
    )


def inputs_of(model):
    rng = np.random.default_rng(1)
    return [rng.random((2, *x.shape[1:])).astype("float32") for x in model.inputs]


def outputs_of(model, inputs):
    found = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    found = found if isinstance(found, (list, tuple)) else [found]
    return [np.asarray(y.detach() if hasattr(y, "detach") else y) for y in found]


def write(folder: Path, keras) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in KINDS.items():
        model = build(keras)
        fill(model)
        inputs = inputs_of(model)
        arrays = {f"x{k}": x for k, x in enumerate(inputs)}
        arrays |= {f"y{k}": y for k, y in enumerate(outputs_of(model, inputs))}
        np.savez(folder / f"{name}.npz", **arrays)
        for ending in (".keras", ".h5", ".weights.h5"):
            try:
                if ending == ".weights.h5":
                    model.save_weights(str(folder / f"{name}{ending}"))
                else:
                    model.save(str(folder / f"{name}{ending}"))
            except Exception as error:  # some releases cannot write some of them themselves
                print(f"{folder.name}: {name}{ending}: {error!r}"[:200])
                (folder / f"{name}{ending}").unlink(missing_ok=True)


def pack(folder: Path, archive: Path) -> None:
    # In one stream the files of all writers share what they have in common.
    files = [path for path in folder.rglob("*.*") if path.is_file()]
    with tarfile.open(archive, "w:xz", preset=9) as out:
        for path in sorted(files, key=lambda p: (p.suffix, p.name, p)):
            about = tarfile.TarInfo(str(path.relative_to(folder)))
            about.size = path.stat().st_size
            with open(path, "rb") as file:
                out.addfile(about, file)


if __name__ == "__main__":
    target, writer = Path(sys.argv[1]), sys.argv[2]
    if writer == "--pack":
        pack(target, Path(sys.argv[3]))
    elif writer.startswith("tf"):
        import tensorflow

        write(target / writer, tensorflow.keras)
    else:
        import keras

        write(target / writer, keras)
