"""Keras' models and files without Keras: what stands beside ConvLSTM, read, run and written."""

from .files import KerasFile, KerasLayer, read_keras, write_keras
from .layers import Activation, BatchNorm, Conv, Dropout, TimeDistributed
from .model import SequenceModel, load_keras, load_keras_weights, save_keras
from .optim import KerasAdam

__all__ = [
    "Activation",
    "BatchNorm",
    "Conv",
    "Dropout",
    "KerasAdam",
    "KerasFile",
    "KerasLayer",
    "SequenceModel",
    "TimeDistributed",
    "load_keras",
    "load_keras_weights",
    "read_keras",
    "save_keras",
    "write_keras",
]
