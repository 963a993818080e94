"""Equal numbers with Keras 3 on its torch backend: outputs, states, gradients."""

import numpy as np
import pytest
import torch

import convlstm
from convlstm.layers import LAYERS

OUTPUT, INPUT_GRAD, WEIGHT_GRAD = 1e-6, 2e-6, 1e-5


def keras_layer(keras, rank, **options):
    return getattr(keras.layers, f"ConvLSTM{rank}D")(**options)


def build_pair(keras, rank, x, **options):
    """A Keras layer and ours with the same random weights, built for the input x (numpy)."""
    theirs = keras_layer(keras, rank, **options)
    theirs.build(x.shape)
    rng = np.random.default_rng(1)
    weights = [(0.3 * rng.standard_normal(w.shape)).astype("float32") for w in theirs.get_weights()]
    theirs.set_weights(weights)
    axis = 2 if options.get("data_format") == "channels_first" else -1
    ours = LAYERS[rank].from_keras_config(theirs.get_config(), in_channels=x.shape[axis])
    ours.load_keras_weights(weights)
    return theirs, ours


def keras_kernel_layout(grad):
    if grad.dim() == 1:
        return grad
    return grad.permute(*range(2, grad.dim()), 1, 0)


def compare(keras, difference, rank, shape, mask=None, state=False, **options):
    """Runs both layers forward and backward on random data and asserts the bars."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype("float32")
    options = {"return_state": True, **options}
    theirs, ours = build_pair(keras, rank, x, **options)
    xa = torch.tensor(x, requires_grad=True)
    xb = torch.tensor(x, requires_grad=True)
    initial = None
    if state:
        size = theirs.compute_output_shape(shape)[1]
        initial = [torch.tensor(rng.standard_normal(size).astype("float32")) for _ in range(2)]
    kwargs = {} if mask is None else {"mask": torch.tensor(mask)}
    out_a, h_a, c_a = theirs(xa, initial_state=initial, **kwargs)
    out_b, (h_b, c_b) = ours(xb, initial_state=initial, **kwargs)
    for a, b in ((out_a, out_b), (h_a, h_b), (c_a, c_b)):
        assert difference(b.detach(), a.detach()) <= OUTPUT
    seeds = [torch.tensor(rng.standard_normal(t.shape).astype("float32")) for t in (out_a, c_a)]
    ((out_a * seeds[0]).sum() + (c_a * seeds[1]).sum()).backward()
    ((out_b * seeds[0]).sum() + (c_b * seeds[1]).sum()).backward()
    assert difference(xb.grad, xa.grad) <= INPUT_GRAD
    ours_grads = [ours.weight_ih.grad, ours.weight_hh.grad]
    if ours.bias is not None:
        ours_grads.append(ours.bias.grad)
    for variable, grad in zip(theirs.trainable_weights, ours_grads, strict=True):
        assert difference(keras_kernel_layout(grad), variable.value.grad) <= WEIGHT_GRAD


FLAGS = {
    "valid": {},
    "same": {"padding": "same"},
    "stride": {"strides": 2},
    "stride same": {"strides": (2, 3), "padding": "same"},
    "dilation": {"dilation_rate": 2},
    "dilation same": {"dilation_rate": (2, 3), "padding": "same"},
    "even kernel": {"kernel_size": 4, "padding": "same"},
    "even and odd kernel": {"kernel_size": (2, 5), "padding": "same"},
    "pointwise kernel": {"kernel_size": 1},
    "even kernel valid": {"kernel_size": (2, 4)},
    "stride same even": {"kernel_size": 4, "strides": 2, "padding": "same"},
    "channels first": {"data_format": "channels_first", "padding": "same"},
    "hard sigmoid": {"recurrent_activation": "hard_sigmoid"},
    "relu": {"activation": "relu"},
    "linear": {"activation": None},
    "softsign gates": {"activation": "softsign", "recurrent_activation": "sigmoid"},
    "silu": {"activation": "silu"},
    "no bias": {"use_bias": False},
    "sequences": {"return_sequences": True},
    "backwards": {"go_backwards": True, "return_sequences": True},
    "initial state": {"state": True, "return_sequences": True},
    "unroll": {"unroll": True, "return_sequences": True},
}


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS.keys())
def test_each_flag_gives_the_numbers_of_keras(keras, difference, flags):
    options = {"filters": 3, "kernel_size": 3, **flags}
    shape = (2, 4, 2, 9, 8) if options.get("data_format") == "channels_first" else (2, 4, 9, 8, 2)
    compare(keras, difference, 2, shape, **options)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_one_and_three_dimensions_give_the_numbers_of_keras(keras, difference, rank, padding):
    shape = (2, 3, *(6, 5, 4)[:rank], 2)
    compare(
        keras, difference, rank, shape, filters=3, kernel_size=3, padding=padding,
        return_sequences=True,
    )  # fmt: skip


MASKS = {
    "ragged": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]],
    "leading": [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]],
    "holes": [[1, 0, 1, 0, 1], [0, 1, 0, 0, 1], [1, 1, 0, 1, 1]],
    "one sequence empty": [[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]],
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"return_sequences": True},
        {"return_sequences": True, "zero_output_for_mask": True},
        {"return_sequences": True, "state": True},
        {"return_sequences": True, "go_backwards": True},
    ],
    ids=["last", "sequences", "zeros", "state", "backwards"],
)
def test_masks_give_the_numbers_of_keras(keras, difference, mask, flags):
    compare(
        keras, difference, 2, (3, 5, 6, 5, 2), mask=np.array(mask, dtype=bool),
        filters=3, kernel_size=3, padding="same", **flags,
    )  # fmt: skip


def random_options(rng):
    """One random combination of flags, masks and shapes."""
    rank = int(rng.choice([1, 2, 2, 2, 3]))
    options = {
        "filters": int(rng.integers(1, 6)),
        "kernel_size": tuple(int(k) for k in rng.integers(1, 5, rank)),
        "padding": str(rng.choice(["same", "valid"])),
        "data_format": str(rng.choice(["channels_last", "channels_first"])),
        "activation": str(rng.choice(["tanh", "relu", "sigmoid", "softsign"])),
        "recurrent_activation": str(rng.choice(["sigmoid", "hard_sigmoid"])),
        "use_bias": bool(rng.integers(2)),
        "return_sequences": bool(rng.integers(2)),
        "go_backwards": bool(rng.integers(2)),
    }
    kind = rng.integers(3)
    if kind == 1:
        options["strides"] = tuple(int(s) for s in rng.integers(1, 4, rank))
    elif kind == 2:
        options["dilation_rate"] = tuple(int(s) for s in rng.integers(1, 3, rank))
    batch, steps, channels = (int(n) for n in rng.integers(1, 4, 3))
    size = tuple(int(n) for n in rng.integers(8, 11, rank))
    if rank == 3:
        size = tuple(n - 1 for n in size)
    if options["data_format"] == "channels_last":
        shape = (batch, steps, *size, channels)
    else:
        shape = (batch, steps, channels, *size)
    mask = None
    if rng.integers(3) == 0:
        mask = rng.integers(0, 2, (batch, steps)).astype(bool)
        options["zero_output_for_mask"] = bool(rng.integers(2))
    return rank, shape, mask, bool(rng.integers(2)), options


@pytest.mark.parametrize("block", range(10))
def test_random_combinations_give_the_numbers_of_keras(keras, difference, block):
    rng = np.random.default_rng(block)
    for case in range(20):
        rank, shape, mask, state, options = random_options(rng)
        try:
            compare(keras, difference, rank, shape, mask=mask, state=state, **options)
        except AssertionError as error:
            raise AssertionError(
                f"case {case}: rank {rank}, {shape}, mask {mask}, {options}"
            ) from error


def test_stateful_chunks_equal_keras_and_the_whole(keras, difference):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 7, 6, 2)).astype("float32")
    options = {"filters": 3, "kernel_size": 3, "padding": "same", "return_sequences": True}
    theirs, ours = build_pair(keras, 2, x, stateful=True, **options)
    chunks = []
    for part in (x[:, :2], x[:, 2:3], x[:, 3:]):
        chunks.append(ours(torch.tensor(part)).detach())
        assert difference(chunks[-1], theirs(part).detach()) <= OUTPUT
    _, whole = build_pair(keras, 2, x, **options)
    assert difference(torch.cat(chunks, 1), whole(torch.tensor(x)).detach()) <= OUTPUT
    ours.reset_state()
    theirs.reset_state()
    assert difference(ours(torch.tensor(x)).detach(), theirs(x).detach()) <= OUTPUT


def test_unit_forget_bias_starts_as_in_keras(keras):
    theirs = keras.layers.ConvLSTM2D(3, 3, bias_initializer="ones")
    theirs.build((1, 2, 5, 5, 2))
    ours = convlstm.ConvLSTM2d(2, 3, 3, bias_initializer="ones")
    assert np.array_equal(ours.keras_weights()[2], theirs.get_weights()[2])
    kernel, recurrent = ours.keras_weights()[:2]
    assert kernel.shape == theirs.get_weights()[0].shape
    flat = recurrent.reshape(-1, 12)
    assert np.allclose(flat.T @ flat, np.eye(12), atol=1e-5)
    limit = np.sqrt(6 / (9 * 2 + 9 * 12))
    assert 0.9 * limit < np.abs(kernel).max() <= limit
