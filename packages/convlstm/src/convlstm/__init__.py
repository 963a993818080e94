"""ConvLSTM for PyTorch: equal to Keras, faster, with Keras' files and the next-frame example."""

from importlib.metadata import version

from .cell import ConvLSTMCell1d, ConvLSTMCell2d, ConvLSTMCell3d
from .forecasting import forecast
from .graphs import graphed
from .layers import ConvLSTM1d, ConvLSTM2d, ConvLSTM3d
from .models import SequenceModel, detach, load_keras, load_keras_weights, next_frame, save_keras
from .optim import KerasAdam
from .stack import Bidirectional, ConvLSTM

__version__ = version("convlstm")

__all__ = [
    "Bidirectional",
    "ConvLSTM",
    "ConvLSTM1d",
    "ConvLSTM2d",
    "ConvLSTM3d",
    "ConvLSTMCell1d",
    "ConvLSTMCell2d",
    "ConvLSTMCell3d",
    "KerasAdam",
    "SequenceModel",
    "detach",
    "forecast",
    "graphed",
    "load_keras",
    "load_keras_weights",
    "next_frame",
    "save_keras",
]
