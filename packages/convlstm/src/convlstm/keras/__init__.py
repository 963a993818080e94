"""Keras' models and files without Keras: what stands beside ConvLSTM, read, run and written."""

from .builder import GraphBuilder
from .exporting import export_onnx
from .files import KerasFile, KerasLayer, read_keras
from .layers import Activation, BatchNorm, Conv, Dropout, TimeDistributed
from .model import GraphModel, SequenceModel, load_keras, load_keras_weights, save_keras
from .optim import KerasAdam
from .registry import REGISTRY

__all__ = [
    "REGISTRY",
    "Activation",
    "BatchNorm",
    "Conv",
    "Dropout",
    "GraphBuilder",
    "GraphModel",
    "KerasAdam",
    "KerasFile",
    "KerasLayer",
    "SequenceModel",
    "TimeDistributed",
    "export_onnx",
    "load_keras",
    "load_keras_weights",
    "read_keras",
    "save_keras",
]
