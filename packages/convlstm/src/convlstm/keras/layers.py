"""The layers that stand beside ConvLSTM in Keras' models, with Keras' numbers: all of them.

Each lies in the module of its kind; registry.py says which Keras class builds which.
"""

from .convolutions import Conv, ConvTranspose, DepthwiseConv, SeparableConv
from .dense import Attention, Dense
from .merging import Add, Average, Concatenate, Maximum, Minimum, Multiply, Subtract
from .normalizations import BatchNorm, GroupNorm, LayerNorm, Normalization, fold_steps
from .pointwise import (
    ELU,
    Activation,
    AlphaDropout,
    Dropout,
    GaussianDropout,
    GaussianNoise,
    Identity,
    LeakyReLU,
    PReLU,
    ReLU,
    Rescaling,
    Softmax,
)
from .recurrent import TimeDistributed
from .shapes import Flatten, Permute, RepeatVector, Reshape

__all__ = [
    "ELU",
    "Activation",
    "Add",
    "AlphaDropout",
    "Attention",
    "Average",
    "BatchNorm",
    "Concatenate",
    "Conv",
    "ConvTranspose",
    "Dense",
    "DepthwiseConv",
    "Dropout",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "GroupNorm",
    "Identity",
    "LayerNorm",
    "LeakyReLU",
    "Maximum",
    "Minimum",
    "Multiply",
    "Normalization",
    "PReLU",
    "Permute",
    "ReLU",
    "RepeatVector",
    "Rescaling",
    "Reshape",
    "SeparableConv",
    "Softmax",
    "Subtract",
    "TimeDistributed",
    "fold_steps",
]
