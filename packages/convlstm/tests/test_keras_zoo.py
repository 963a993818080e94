"""Files really written by six releases of Keras and TensorFlow load, and go back to Keras.

keras_fixtures.py wrote them; keras_fixtures.tar.xz holds them with inputs and outputs.
"""

import runpy
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import convlstm
from convlstm.keras import read_keras
from convlstm.keras.graph import flat
from convlstm.keras.model import GraphModel, SequenceModel
from convlstm.keras.normalizations import GroupNorm

ARCHIVE = Path(__file__).with_name("keras_fixtures.tar.xz")
SCRIPT = runpy.run_path(str(ARCHIVE.with_name("keras_fixtures.py")))
KINDS, fill = SCRIPT["KINDS"], SCRIPT["fill"]
WRITERS = ["tf2.12", "tf2.15", "k3.0.5", "k3.5.0", "k3.7.0", "k3.15.1"]
# What the writer itself could not build or write.
MISSING = {("k3.0.5", "both_directions", ".h5")} | {
    ("k3.0.5", "nested", ending) for ending in (".keras", ".h5", ".weights.h5")
}
CASES = [
    (w, k, e) for w in WRITERS for k in KINDS for e in (".keras", ".h5") if (w, k, e) not in MISSING
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("zoo")
    with tarfile.open(ARCHIVE) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # 3.11.4
        archive.extractall(target)
    return target


def loaded(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return convlstm.load_keras(path)


def numbers(folder, writer, kind):
    with np.load(folder / writer / f"{kind}.npz") as arrays:
        x = [torch.from_numpy(arrays[k]) for k in sorted(arrays) if k[0] == "x"]
        y = [arrays[k] for k in sorted(arrays) if k[0] == "y"]
    return x, y


def outputs(model, x):
    with torch.no_grad():
        return list(flat(model(*x)))


def agree(got, want):
    for a, b in zip(got, want, strict=True):
        assert np.abs(np.asarray(a) - b).max() <= 1e-6 * max(1, np.abs(b).max())


@pytest.mark.parametrize(("writer", "kind", "ending"), CASES)
def test_a_file_of_every_writer_loads_with_its_numbers(folder, writer, kind, ending):
    x, y = numbers(folder, writer, kind)
    agree(outputs(loaded(folder / writer / f"{kind}{ending}"), x), y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("writer", ["tf2.12", "k3.0.5", "k3.15.1"])
def test_a_model_goes_back_to_keras_with_its_numbers(keras, folder, tmp_path, writer, kind):
    if (writer, kind, ".keras") in MISSING:
        writer = "k3.5.0"
    x, y = numbers(folder, writer, kind)
    ours = loaded(folder / writer / f"{kind}.keras")
    for ending in (".keras", ".h5"):
        path = tmp_path / f"back{ending}"
        convlstm.save_keras(ours, path)
        theirs = keras.models.load_model(path)
        got = theirs(list(x) if len(x) > 1 else x[0], training=False)
        got = got if isinstance(got, list | tuple) else [got]
        agree([g.detach().numpy() for g in got], y)
        agree(outputs(loaded(path), x), y)


WEIGHTS = [
    (w, k)
    for w in WRITERS
    for k in KINDS
    if not w.startswith("tf") and (w, k, ".weights.h5") not in MISSING
]


@pytest.mark.parametrize(("writer", "kind"), WEIGHTS)
def test_a_weights_file_of_every_writer_loads_into_the_model(folder, writer, kind):
    path = folder / writer / f"{kind}.weights.h5"
    x, y = numbers(folder, writer, kind)
    model = loaded(folder / writer / f"{kind}.keras")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    convlstm.load_keras_weights(model, path)
    agree(outputs(model, x), y)


def test_chains_and_graphs_are_told_apart(folder):
    assert isinstance(loaded(folder / "k3.5.0" / "next_frame.keras"), SequenceModel)
    assert isinstance(loaded(folder / "k3.5.0" / "u_net.keras"), GraphModel)
    two = loaded(folder / "k3.5.0" / "inputs_and_outputs.keras")
    x, y = numbers(folder, "k3.5.0", "inputs_and_outputs")
    with torch.no_grad():
        agree(list(flat(two({"radar": x[0], "about": x[1]}))), [*y])
        agree(list(flat(two(list(x)))), [*y])
    with pytest.raises(ValueError, match="the inputs are radar, about"):
        two(x[0])


def test_a_keras_2_model_goes_in_trains_and_goes_back(keras, folder, tmp_path):
    from convlstm.__main__ import main

    source = str(folder / "tf2.15" / "hard_sigmoid.h5")
    x, y = numbers(folder, "tf2.15", "hard_sigmoid")
    assert main(["import-keras", source, str(tmp_path / "run")]) == 0
    model = convlstm.forecasting.load_checkpoint(tmp_path / "run")
    assert model.layers[0].spec.recurrent_activation == "hard_sigmoid_keras2"
    agree(outputs(model, x), y)
    model.train()
    before = model.layers[0].weight_ih.clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(x[0]).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before, model.layers[0].weight_ih)
    convlstm.save_keras(model.eval(), tmp_path / "new.keras")
    theirs = keras.models.load_model(tmp_path / "new.keras")
    agree([theirs(x[0]).detach().numpy()], [outputs(model, x)[0].numpy()])


def test_a_channels_first_model_comes_back_from_its_checkpoint(folder, tmp_path):
    from convlstm.__main__ import main

    x, y = numbers(folder, "k3.7.0", "channels_first")
    source = str(folder / "k3.7.0" / "channels_first.keras")
    assert main(["import-keras", source, str(tmp_path / "run")]) == 0
    agree(outputs(convlstm.forecasting.load_checkpoint(tmp_path / "run"), x), y)


def test_training_only_options_go_back_to_keras_as_they_came(folder, tmp_path):
    ours = loaded(folder / "k3.0.5" / "classifier.keras")
    convlstm.save_keras(ours, tmp_path / "again.keras")
    first = read_keras(folder / "k3.0.5" / "classifier.keras").layers[0].config
    again = read_keras(tmp_path / "again.keras").layers[0].config
    assert first["kernel_regularizer"]["class_name"] == "L2"
    for key in ("kernel_regularizer", "recurrent_initializer", "kernel_initializer"):
        assert again[key] == first[key]
    assert first["recurrent_initializer"]["class_name"] == "OrthogonalInitializer"


def built(keras, *layers, shape=(3, 8, 8, 2), names=False):
    model = keras.Sequential([keras.Input(shape), *layers])
    fill(model)
    return model


LAYERS = {
    "relu with all options": lambda k: k.ReLU(max_value=0.7, negative_slope=0.3, threshold=0.1),
    "prelu": lambda k: k.PReLU(shared_axes=[1, 2, 3]),
    "elu": lambda k: k.ELU(0.3),
    "softmax": lambda k: k.Softmax(axis=2),
    "layer normalisation over two axes": lambda k: k.LayerNormalization(axis=[-2, -1]),
    "group normalisation": lambda k: k.GroupNormalization(2),
    "unscaled batch normalisation": lambda k: k.BatchNormalization(scale=False, center=False),
    "max pooling, same": lambda k: k.MaxPooling3D((1, 3, 3), strides=(1, 2, 2), padding="same"),
    "average pooling, same": lambda k: k.AveragePooling3D((1, 3, 3), strides=1, padding="same"),
    "global maximum": lambda k: k.GlobalMaxPooling3D(keepdims=True),
    "transposed": lambda k: k.Conv3DTranspose(3, (2, 3, 4), strides=(1, 2, 2), padding="valid"),
    "transposed, same": lambda k: k.Conv3DTranspose(
        3, (1, 4, 5), strides=(1, 3, 2), padding="same"
    ),
    "depthwise": lambda k: k.TimeDistributed(k.DepthwiseConv2D(3, depth_multiplier=2)),
    "separable": lambda k: k.TimeDistributed(k.SeparableConv2D(4, 3, strides=2, padding="same")),
    "separable in one dimension": lambda k: k.TimeDistributed(
        k.TimeDistributed(k.SeparableConv1D(4, 3, activation="gelu"))
    ),
    "bilinear": lambda k: k.TimeDistributed(k.UpSampling2D((2, 3), interpolation="bilinear")),
    "padding and cropping": lambda k: k.Cropping3D(((0, 1), (2, 1), (1, 0))),
    "zero padding": lambda k: k.ZeroPadding3D(((0, 1), (2, 1), (1, 0))),
    "permute": lambda k: k.Permute((4, 1, 3, 2)),
    "reshape": lambda k: k.Reshape((-1, 16, 2)),
    "dense": lambda k: k.Dense(3, activation="softmax", use_bias=False),
    "rescaling": lambda k: k.Rescaling(2.0, offset=[0.1, 0.2]),
    "groups and dilation": lambda k: k.Conv3D(4, (1, 3, 3), groups=2, dilation_rate=(1, 2, 2)),
    "merged directions": lambda k: k.Bidirectional(
        k.ConvLSTM2D(2, 3, padding="same"), merge_mode="mul"
    ),
    "named activation": lambda k: k.Activation("hard_silu"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_keras_numbers_in_and_out(keras, tmp_path, name):
    theirs = built(keras, LAYERS[name](keras.layers))
    x = torch.randn(2, 3, 8, 8, 2)
    want = theirs(x, training=False).detach().numpy()
    theirs.save(tmp_path / "m.keras")
    ours = loaded(tmp_path / "m.keras")
    agree(outputs(ours, [x]), [want])
    assert ours.output_shape((2, 3, 8, 8, 2)) == want.shape
    convlstm.save_keras(ours, tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    agree([again(x, training=False).detach().numpy()], [want])


def test_an_average_over_uneven_padding_leaves_the_padding_out(keras, tmp_path):
    """As TensorFlow and JAX do; Keras 3.15 on torch repeats the last value there."""
    theirs = built(keras, keras.layers.AveragePooling3D((2, 3, 3), strides=2, padding="same"))
    x = torch.randn(2, 3, 8, 8, 2)
    theirs.save(tmp_path / "m.keras")
    (got,) = outputs(loaded(tmp_path / "m.keras"), [x])
    mean = x[:, 0:2, 0:3, 2:5].mean((1, 2, 3))
    agree([got[:, 0, 0, 1]], [mean.numpy()])
    agree([got[:, 1, 3, 3]], [x[:, 2:, 6:, 6:].mean((1, 2, 3)).numpy()])


@pytest.mark.parametrize("last", [False, True], ids=["in the middle", "at the end"])
def test_a_graph_inside_a_graph_goes_in_and_out(keras, tmp_path, last):
    layers = keras.layers
    frame = keras.Input((8, 8, 1))
    parts = [layers.Conv2D(2, 1)(frame), layers.Conv2D(2, 3, padding="same")(frame)]
    inner = keras.Model(frame, layers.Add()(parts))
    start = keras.Input((4, 8, 8, 1))
    first = layers.ConvLSTM2D(1, 3, padding="same")(start)
    if last:
        end = [inner(first), inner(layers.ReLU()(first))]
    else:
        end = layers.Activation("relu")(layers.Add()([inner(first), layers.Conv2D(2, 1)(first)]))
    theirs = keras.Model(start, end)
    fill(theirs)
    x = torch.rand(2, 4, 8, 8, 1)
    theirs.save(tmp_path / "m.keras")
    ours = loaded(tmp_path / "m.keras")
    convlstm.save_keras(ours, tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")

    def numbers_of(model):
        return [t.detach().numpy() for t in flat(model(x))]

    agree(numbers_of(ours), numbers_of(theirs))
    agree(numbers_of(again), numbers_of(theirs))


def test_normalisation_by_the_files_statistics(keras, tmp_path):
    layer = keras.layers.Normalization(axis=-1)
    data = np.random.default_rng(0).random((5, 3, 4, 4, 2)).astype("float32") * 9
    layer.adapt(data)
    theirs = keras.Sequential([keras.Input((3, 4, 4, 2)), layer])
    theirs.save(tmp_path / "m.keras")
    ours = loaded(tmp_path / "m.keras")
    agree(outputs(ours, [torch.from_numpy(data)]), [theirs(data).detach().numpy()])


def test_group_normalisation_keeps_its_digits_where_the_mean_is_large():
    """In float64: 1.6e-6 off; torch's group_norm 3e-3, Keras on torch 1e-3."""
    layer = GroupNorm(groups=2)
    layer.build((None, 8, 8, 4))
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(2, 8, 8, 4) + 100
    weight, bias = (p.double() for p in layer.parameters())
    want = torch.nn.functional.group_norm(x.double().movedim(3, 1), 2, weight, bias, eps=1e-3)
    assert (layer(x) - want.movedim(1, 3)).abs().max() < 1e-5
    half = layer(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half - layer(x.bfloat16().float())).abs().max() < 0.03


def test_a_frozen_layer_stays_frozen(keras, tmp_path):
    theirs = built(keras, keras.layers.BatchNormalization(), keras.layers.Conv3D(1, 1))
    theirs.layers[0].trainable = False
    theirs.save(tmp_path / "m.keras")
    ours = loaded(tmp_path / "m.keras").train()
    assert [p.requires_grad for p in ours.parameters()] == [False, False, True, True]
    x = torch.randn(2, 3, 8, 8, 2)
    agree([ours(x).detach()], [theirs(x, training=True).detach().numpy()])


def _lambda(keras):
    return [keras.layers.Lambda(lambda x: 2 * x, output_shape=(3, 8, 8, 2))]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (_lambda, r"class Lambda is not read: it holds Python code"),
        (lambda k: [k.layers.Reshape((3, 128)), k.layers.LSTM(2)], "class LSTM is not read"),
        (lambda k: [k.layers.Masking(), k.layers.ConvLSTM2D(1, 1)], "class Masking is not read"),
    ],
)
def test_what_is_not_known_is_refused_by_name(keras, tmp_path, layers, message):
    built(keras, *layers(keras)).save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match=message):
        convlstm.load_keras(tmp_path / "m.keras")


def test_half_precision_policies_are_announced(keras, tmp_path):
    layer = keras.layers.ConvLSTM2D(2, 3, dtype="mixed_bfloat16")
    built(keras, layer).save(tmp_path / "m.keras")
    with pytest.warns(UserWarning, match="mixed_bfloat16.*computes in float32"):
        convlstm.load_keras(tmp_path / "m.keras")


def test_a_weights_file_of_another_model_is_refused_and_nothing_is_loaded(keras, tmp_path):
    ours = convlstm.next_frame("small", size=(8, 8), filters=2)
    before = [p.clone() for p in ours.parameters()]
    built(keras, keras.layers.ConvLSTM2D(2, 5), shape=(3, 8, 8, 1)).save_weights(
        tmp_path / "m.weights.h5"
    )
    with pytest.raises(ValueError, match="no weights for conv_lstm2d_1"):
        convlstm.load_keras_weights(ours, tmp_path / "m.weights.h5")
    assert all(torch.equal(a, b) for a, b in zip(before, ours.parameters(), strict=True))


def test_a_saved_model_folder_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "saved_model.pb").write_bytes(b"\x08\x01")
    with pytest.raises(ValueError, match=r"SavedModel of TensorFlow.*save\('model.keras'\)"):
        convlstm.load_keras(tmp_path / "old")


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("merge", ["concat", "sum", None])
def test_both_directions_with_channels_first_are_joined_as_keras_does(
    keras, tmp_path, merge, states
):
    """Keras joins the last axis, which is the width then."""
    inner = keras.layers.ConvLSTM2D(
        3, 3, data_format="channels_first", return_state=states, return_sequences=not states
    )
    both = keras.layers.Bidirectional(inner, merge_mode=merge)
    theirs = keras.Sequential([keras.Input((4, 2, 7, 6)), both])
    if states or merge is None:
        x = keras.Input((4, 2, 7, 6))
        theirs = keras.Model(x, both(x))
    path = tmp_path / "m.keras"
    theirs.save(path)
    ours = convlstm.load_keras(path)
    convlstm.save_keras(ours, path)
    x = torch.randn(2, 4, 2, 7, 6)
    with torch.no_grad():
        want = list(flat(theirs(x)))
        for found in (ours(x), keras.models.load_model(path)(x)):
            for a, b in zip(flat(found), want, strict=True):
                torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_our_own_join_of_channels_that_come_first_is_not_passed_off_as_keras(tmp_path):
    layer = convlstm.Bidirectional(2, 2, 3, 3, padding="same")
    model = convlstm.SequenceModel([layer], ["both"], (None, 4, 2, 7, 6))
    assert model(torch.randn(2, 4, 2, 7, 6)).shape == (2, 6, 7, 6)
    with pytest.raises(ValueError, match="Keras' Bidirectional joins the last axis"):
        convlstm.save_keras(model, tmp_path / "m.keras")


@pytest.mark.parametrize("layer", ["Cropping1D", "ZeroPadding1D", "UpSampling1D"])
def test_layers_of_one_dimension_go_back_to_keras(keras, tmp_path, layer):
    theirs = keras.Sequential([keras.Input((7, 3)), getattr(keras.layers, layer)(2)])
    path = tmp_path / "m.keras"
    theirs.save(path)
    convlstm.save_keras(convlstm.load_keras(path), path)
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(keras.models.load_model(path)(x), theirs(x))


def both_ways(keras, tmp_path, theirs, *xs):
    """Loads a model of random weights from both formats, sends it back, compares all three."""
    rng = np.random.default_rng(0)
    theirs.set_weights([np.abs(rng.normal(0, 0.4, w.shape)) + 0.3 for w in theirs.weights])
    given = xs[0] if len(xs) == 1 else list(xs)
    for ending in (".keras", ".h5"):
        path = tmp_path / f"m{ending}"
        theirs.save(path)
        ours = convlstm.load_keras(path)
        convlstm.save_keras(ours, path)
        with torch.no_grad():
            want = list(flat(theirs(given)))
            for found in (ours(given), keras.models.load_model(path)(given)):
                for a, b in zip(flat(found), want, strict=True):
                    torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("axis", [-1, (1, 3), (3, 1), None], ids=str)
def test_a_normalization_with_weights_goes_both_ways(keras, tmp_path, axis):
    layers = [keras.Input((5, 4, 3)), keras.layers.Normalization(axis=axis)]
    both_ways(keras, tmp_path, keras.Sequential(layers), torch.randn(2, 5, 4, 3))


def test_weights_without_axes_keep_their_shape(keras, tmp_path):
    q, v = keras.Input((5, 4)), keras.Input((6, 4))
    model = keras.Model([q, v], keras.layers.Attention(use_scale=True)([q, v]))
    both_ways(keras, tmp_path, model, torch.randn(2, 5, 4), torch.randn(2, 6, 4))


@pytest.mark.parametrize("shape", [(5, 4, 3), (4, 4, 4)], ids=str)
def test_a_layer_normalization_takes_its_axes_in_the_order_of_the_file(keras, tmp_path, shape):
    layers = [keras.Input(shape), keras.layers.LayerNormalization(axis=(-1, 1))]
    both_ways(keras, tmp_path, keras.Sequential(layers), torch.randn(2, *shape))


def test_models_that_take_and_give_dicts_have_keras_order(keras, tmp_path):
    """Keras numbers a dict's tensors by key; its JSON has them in the order of the code."""
    q, p = keras.Input((6, 4), name="second"), keras.Input((6, 3), name="first")
    outs = {"z": keras.layers.Dense(2)(q), "a": keras.layers.Dense(5)(p)}
    inner = keras.Model({"q": q, "p": p}, outs)
    x, y = keras.Input((6, 3)), keras.Input((6, 4))
    got = inner({"p": x, "q": y})
    model = keras.Model([x, y], [keras.layers.Dense(3)(got["z"]), got["a"]])
    both_ways(keras, tmp_path, model, torch.randn(2, 6, 3), torch.randn(2, 6, 4))
    both_ways(keras, tmp_path, inner, {"q": torch.randn(2, 6, 4), "p": torch.randn(2, 6, 3)})


def test_a_layer_that_does_nothing_is_read(keras, tmp_path):
    layers = [keras.Input((5, 4)), keras.layers.Identity(), keras.layers.Dense(2)]
    both_ways(keras, tmp_path, keras.Sequential(layers), torch.randn(2, 5, 4))
