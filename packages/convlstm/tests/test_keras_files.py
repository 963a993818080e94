"""Keras' files: read into models that give Keras' numbers, and written back bit for bit."""

import zipfile

import h5py
import numpy as np
import pytest
import torch

import convlstm
from convlstm import keras_files, models
from convlstm.__main__ import main

BATCH = (2, 4, 8, 8, 1)


def chain(keras, functional=False):
    layers = keras.layers
    steps = [
        layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True, dropout=0.1),
        layers.BatchNormalization(),
        layers.ConvLSTM2D(2, 4, padding="same", return_sequences=True, use_bias=False),
        layers.BatchNormalization(scale=False),
        layers.TimeDistributed(layers.Conv2D(2, 3, padding="same", activation="relu")),
        layers.Activation("tanh"),
        layers.Conv3D(1, 3, activation="sigmoid", padding="same"),
    ]
    if functional:
        start = keras.Input((None, 8, 8, 1))
        x = start
        for layer in steps:
            x = layer(x)
        model = keras.Model(start, x)
    else:
        model = keras.Sequential([keras.Input((None, 8, 8, 1)), *steps])
    rng = np.random.default_rng(0)
    model.set_weights(
        [np.abs(rng.standard_normal(w.shape)).astype("float32") for w in model.get_weights()]
    )
    return model


def predicted(model, x):
    with torch.no_grad():
        return model(torch.tensor(x))


@pytest.fixture
def frames():
    return np.random.default_rng(1).random(BATCH).astype("float32")


@pytest.mark.parametrize("functional", [False, True], ids=["sequential", "functional"])
@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_model_of_keras_loads_with_its_numbers(keras, difference, tmp_path, frames, ending, functional):  # fmt: skip  # noqa: E501
    theirs = chain(keras, functional)
    theirs.save(tmp_path / f"m{ending}")
    ours = models.load_keras(tmp_path / f"m{ending}")
    want = theirs(frames, training=False).detach()
    assert difference(predicted(ours, frames), want) <= 1e-5


@pytest.mark.parametrize("ending", [".keras", ".h5", ".weights.h5"])
def test_what_we_write_keras_reads_back_bit_for_bit(keras, tmp_path, frames, ending):
    ours = models.from_keras_file(_file(keras, tmp_path))
    path = tmp_path / f"ours{ending}"
    models.save_keras(ours, path)
    if ending == ".weights.h5":
        theirs = chain(keras)
        theirs.load_weights(path)
    else:
        theirs = keras.models.load_model(path)
    flat = [w for layer in ours.keras_layers() for w in layer.weights]
    got = theirs.get_weights()
    assert len(got) == len(flat)
    for a, b in zip(got, flat, strict=True):
        assert np.array_equal(a, b)
    again = models.next_frame("small")
    if ending != ".weights.h5":
        again = models.load_keras(path)
        for a, b in zip(again.keras_layers(), ours.keras_layers(), strict=True):
            assert a.name == b.name
            assert all(np.array_equal(p, q) for p, q in zip(a.weights, b.weights, strict=True))


def _file(keras, tmp_path):
    chain(keras).save(tmp_path / "m.keras")
    return keras_files.read_keras(tmp_path / "m.keras")


def test_a_weights_file_loads_into_a_model_in_layer_order(keras, tmp_path):
    # More than ten layers of one class: as text, _10 sorts before _2.
    layers = [keras.layers.ConvLSTM2D(1, 1, padding="same", return_sequences=True) for _ in range(12)]  # fmt: skip  # noqa: E501
    theirs = keras.Sequential([keras.Input((None, 4, 4, 1)), *layers])
    rng = np.random.default_rng(0)
    theirs.set_weights([rng.standard_normal(w.shape) for w in theirs.get_weights()])
    theirs.save_weights(tmp_path / "w.weights.h5")
    theirs.save(tmp_path / "m.keras")
    ours = models.load_keras(tmp_path / "m.keras")
    for parameter in ours.parameters():
        torch.nn.init.zeros_(parameter)
    models.load_keras_weights(ours, tmp_path / "w.weights.h5")
    flat = [w for layer in ours.keras_layers() for w in layer.weights]
    for a, b in zip(theirs.get_weights(), flat, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_weights_file_of_keras_2_loads_by_its_weight_names(tmp_path, wrapped):
    rng = np.random.default_rng(0)
    shapes = {"kernel:0": (3, 3, 1, 12), "recurrent_kernel:0": (3, 3, 3, 12), "bias:0": (12,)}
    arrays = {k: rng.standard_normal(s).astype("float32") for k, s in shapes.items()}
    with h5py.File(tmp_path / "old.h5", "w") as file:
        root = file.create_group("model_weights") if wrapped else file
        root.attrs["layer_names"] = [b"input_1", b"conv_lst_m2d_1"]
        root.attrs["keras_version"] = b"2.3.1"
        root.create_group("input_1").attrs["weight_names"] = np.array([], "S1")
        node = root.create_group("conv_lst_m2d_1")
        node.attrs["weight_names"] = [f"conv_lst_m2d_1/{k}".encode() for k in shapes]
        for k, a in arrays.items():
            node[f"conv_lst_m2d_1/{k}"] = a
    file = keras_files.read_keras(tmp_path / "old.h5")
    assert file.keras_version == "2.3.1"
    (layer,) = file.layers
    assert layer.class_name == "ConvLSTM2D"
    for got, want in zip(layer.weights, arrays.values(), strict=True):
        assert np.array_equal(got, want)


def test_a_configuration_of_keras_2_keeps_its_slope_of_hard_sigmoid():
    from convlstm import ConvLSTM2d

    config = {"filters": 2, "kernel_size": [3, 3], "recurrent_activation": "hard_sigmoid"}
    old = ConvLSTM2d.from_keras_config(config, 1, keras_version="2.3.1")
    new = ConvLSTM2d.from_keras_config(config, 1, keras_version="3.0.0")
    assert old.spec.recurrent_activation == "hard_sigmoid_keras2"
    assert new.spec.recurrent_activation == "hard_sigmoid"


def test_damaged_files_are_refused_with_the_path_in_the_message(tmp_path, keras):
    chain(keras).save(tmp_path / "m.keras")
    data = (tmp_path / "m.keras").read_bytes()
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.keras"):
        keras_files.read_keras(tmp_path / "none.keras")
    for cut in (0, 10, len(data) // 2, len(data) - 30):
        (tmp_path / "cut.keras").write_bytes(data[:cut])
        with pytest.raises(ValueError, match=r"cut\.keras is no Keras file"):
            keras_files.read_keras(tmp_path / "cut.keras")
    with zipfile.ZipFile(tmp_path / "cut.keras", "w") as archive:
        archive.writestr("config.json", "{")
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", "")
    with pytest.raises(ValueError, match="no Keras file"):
        keras_files.read_keras(tmp_path / "cut.keras")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    model = models.next_frame("small", filters=2)
    path = tmp_path / "m.keras"
    path.write_text("old")
    del model.layers[0].weight_hh
    with pytest.raises(AttributeError):
        models.save_keras(model, path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.keras"]


def test_penalties_of_a_keras_layer_are_named_and_do_not_change_outputs(keras, tmp_path):
    layer = keras.layers.ConvLSTM2D(
        2,
        3,
        padding="same",
        kernel_regularizer="l2",
        recurrent_constraint=keras.constraints.MaxNorm(2),
    )
    model = keras.Sequential([keras.Input((3, 6, 6, 1)), layer])
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="kernel_regularizer.*recurrent_constraint.*not taken"):
        ours = models.load_keras(tmp_path / "model.keras")
    x = torch.rand(2, 3, 6, 6, 1)
    want = torch.as_tensor(keras.ops.convert_to_numpy(model(x)))
    assert (ours(x) - want).abs().max() <= 1e-6


def test_a_model_with_branches_loads_as_a_graph(keras, tmp_path):
    start = keras.Input((3, 6, 6, 1))
    parts = [keras.layers.ConvLSTM2D(2, 3, name=name)(start) for name in ("left", "right")]
    theirs = keras.Model(start, keras.layers.Add()(parts))
    theirs.save(tmp_path / "model.keras")
    ours = models.load_keras(tmp_path / "model.keras")
    assert isinstance(ours, models.GraphModel)
    x = torch.rand(2, 3, 6, 6, 1)
    assert (ours(x) - theirs(x)).abs().max() <= 1e-6


@pytest.mark.parametrize("name", ["model.hdf5", "model.H5", "a model"])
def test_commands_take_a_legacy_file_by_any_name(tmp_path, capsys, name):
    convlstm.save_keras(convlstm.next_frame("small", size=(8, 8), filters=2), tmp_path / "m.h5")
    (tmp_path / "m.h5").rename(tmp_path / name)
    assert main(["export", str(tmp_path / name), str(tmp_path / "again.keras")]) == 0
    assert (tmp_path / "again.keras").exists()


def test_a_model_in_bfloat16_is_written_in_float32(tmp_path):
    model = convlstm.next_frame("small", size=(8, 8), filters=2).bfloat16()
    convlstm.save_keras(model, tmp_path / "m.keras")
    again = convlstm.load_keras(tmp_path / "m.keras").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value.float(), again[name])
