"""Random models of Keras: graphs of the layers that are read, of one input (B, 4, 8, 8, 2)."""

from __future__ import annotations

import numpy as np

# By the rank of a tensor with its batch axis: layers and their options, each drawn from a list.
ACTIVATIONS = ["relu", "tanh", "sigmoid", "elu", "softplus", "hard_sigmoid", "gelu", "silu", None]
PADS = ["same", "valid"]
ANY_RANK = {
    "Activation": {"activation": [a for a in ACTIVATIONS if a]},
    "BatchNormalization": {"scale": [True, False], "epsilon": [1e-3, 1e-2]},
    "LayerNormalization": {"axis": [-1], "center": [True, False]},
    "Dense": {"units": [2, 4], "activation": ACTIVATIONS, "use_bias": [True, False]},
    "Dropout": {"rate": [0.3]},
    "GaussianNoise": {"stddev": [0.2]},
    "ReLU": {"max_value": [None, 0.5], "negative_slope": [0.0, 0.1], "threshold": [0.0, 0.2]},
    "LeakyReLU": {"negative_slope": [0.05, 0.3]},
    "ELU": {"alpha": [1.0, 0.5]},
    "PReLU": {},
    "Softmax": {"axis": [-1]},
    "Rescaling": {"scale": [2.0, 0.5], "offset": [0.0, -0.3]},
}
CONVOLUTION = {
    "filters": [2, 4], "kernel_size": [1, 2, 3], "padding": PADS, "activation": ACTIVATIONS,
    "use_bias": [True, False],
}  # fmt: skip
RECURRENT = {
    "filters": [2, 3], "kernel_size": [1, 2, 3], "padding": PADS, "return_sequences": [True, False],
    "go_backwards": [True, False], "activation": ["tanh", "relu", "silu"],
    "recurrent_activation": ["sigmoid", "hard_sigmoid"], "strides": [1, 1, 2],
    "use_bias": [True, False], "unit_forget_bias": [True, False],
}  # fmt: skip
BY_RANK = {
    5: {
        **ANY_RANK,
        "ConvLSTM2D": RECURRENT,
        "Conv3D": {**CONVOLUTION, "strides": [1, (1, 2, 2)]},
        "Conv3DTranspose": {**CONVOLUTION, "strides": [1, (1, 2, 2)]},
        "MaxPooling3D": {"pool_size": [(1, 2, 2), 2], "padding": PADS},
        "AveragePooling3D": {"pool_size": [(1, 2, 2), 2], "padding": PADS},
        "UpSampling3D": {"size": [(1, 2, 2), 2]},
        "ZeroPadding3D": {"padding": [1, (0, 1, 2), ((1, 0), (0, 2), (1, 1))]},
        "Cropping3D": {"cropping": [(0, 1, 1), ((1, 0), (0, 1), (0, 0))]},
        "SpatialDropout3D": {"rate": [0.4]},
        "GlobalAveragePooling3D": {"keepdims": [True, False]},
        "GlobalMaxPooling3D": {},
        "GroupNormalization": {"groups": [1, -1]},
    },
    4: {
        **ANY_RANK,
        "Conv2D": {**CONVOLUTION, "strides": [1, 2]},
        "Conv2DTranspose": {**CONVOLUTION, "strides": [1, 2]},
        "DepthwiseConv2D": {"kernel_size": [2, 3], "depth_multiplier": [1, 2], "padding": PADS},
        "SeparableConv2D": {"filters": [2, 3], "kernel_size": [2, 3], "padding": PADS},
        "ConvLSTM1D": {k: v for k, v in RECURRENT.items() if k != "strides"},
        "MaxPooling2D": {"pool_size": [2, 3], "strides": [None, 1], "padding": PADS},
        "AveragePooling2D": {"pool_size": [2, 3], "strides": [None, 1], "padding": PADS},
        "UpSampling2D": {"size": [2, (1, 2)], "interpolation": ["nearest", "bilinear"]},
        "ZeroPadding2D": {"padding": [1, ((0, 1), (2, 0))]},
        "Cropping2D": {"cropping": [1, ((0, 1), (1, 0))]},
        "GlobalAveragePooling2D": {},
        "GlobalMaxPooling2D": {"keepdims": [True, False]},
        "Flatten": {},
        "GroupNormalization": {"groups": [1, -1]},
    },
    3: {
        **ANY_RANK,
        "Conv1D": {**CONVOLUTION, "padding": [*PADS, "causal"]},
        "MaxPooling1D": {"pool_size": [2], "padding": PADS},
        "AveragePooling1D": {"pool_size": [2], "padding": PADS},
        "UpSampling1D": {"size": [2]},
        "GlobalAveragePooling1D": {},
        "Flatten": {},
    },
    2: {**ANY_RANK, "RepeatVector": {"n": [3]}},
}
WRAPPED = {"Conv2D": CONVOLUTION, "Dense": ANY_RANK["Dense"], "MaxPooling2D": {"pool_size": [2]}}
MERGES = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"]


def _drawn(rng: np.random.Generator, options: dict) -> dict:
    chosen = {name: values[rng.integers(len(values))] for name, values in options.items()}
    return {name: value for name, value in chosen.items() if value is not None}


def _new_layer(keras, rng, rank: int):
    if rank == 5 and rng.random() < 0.12:
        name = list(WRAPPED)[rng.integers(len(WRAPPED))]
        return keras.layers.TimeDistributed(
            getattr(keras.layers, name)(**_drawn(rng, WRAPPED[name]))
        )
    if rank == 5 and rng.random() < 0.06:
        options = {**RECURRENT, "go_backwards": [False], "strides": [1]}
        inner = keras.layers.ConvLSTM2D(**_drawn(rng, options))
        merge = ["concat", "sum", "ave", "mul"][rng.integers(4)]
        return keras.layers.Bidirectional(inner, merge_mode=merge)
    kinds = BY_RANK[rank]
    name = list(kinds)[rng.integers(len(kinds))]
    return getattr(keras.layers, name)(**_drawn(rng, kinds[name]))


def random_model(keras, seed: int):
    """A model of 3 to 9 calls with branches, merges, shared layers and one or two outputs."""
    rng = np.random.default_rng(seed)
    start = keras.Input((4, 8, 8, 2))
    tensors, used = [start], []
    for _ in range(int(rng.integers(3, 10))):
        x = tensors[-1] if rng.random() < 0.7 else tensors[rng.integers(len(tensors))]
        alike = [t for t in tensors if t.shape == x.shape and t is not x]
        if alike and rng.random() < 0.4:
            merge = getattr(keras.layers, MERGES[rng.integers(len(MERGES))])()
            tensors.append(merge([x, alike[rng.integers(len(alike))]]))
            continue
        again = [layer for layer, shape in used if shape == x.shape]
        if again and rng.random() < 0.15:
            layer = again[rng.integers(len(again))]
        else:
            layer = _new_layer(keras, rng, len(x.shape))
        try:
            y = layer(x)
        except ValueError:  # a window larger than the frame
            continue
        if all(n is None or 0 < n <= 64 for n in y.shape):
            used.append((layer, x.shape))
            tensors.append(y)
    if len(tensors) == 1:
        tensors.append(keras.layers.ConvLSTM2D(2, 3)(start))
    outputs = tensors[-1] if rng.random() < 0.7 else [tensors[-1], tensors[-2]]
    if isinstance(outputs, list) and outputs[1] is start:
        outputs = outputs[0]
    model = keras.Model(start, outputs)
    arrays = []
    for weight in model.weights:
        array = rng.normal(0, 0.4, weight.shape).astype("float32")
        if weight.name in ("moving_variance", "variance"):
            array = np.abs(array) + 0.5
        arrays.append(array)
    model.set_weights([np.asarray(a) for a in arrays])
    return model
