"""ConvLSTM for PyTorch: equal to Keras, faster, with Keras' files and the next-frame example."""

from importlib.metadata import version

from . import _moved

_moved.install()

from .forecasting import forecast, next_frame  # noqa: E402
from .keras import (  # noqa: E402
    KerasAdam,
    SequenceModel,
    load_keras,
    load_keras_weights,
    save_keras,
)
from .layers import (  # noqa: E402
    Bidirectional,
    ConvLSTM,
    ConvLSTM1d,
    ConvLSTM2d,
    ConvLSTM3d,
    ConvLSTMCell1d,
    ConvLSTMCell2d,
    ConvLSTMCell3d,
    detach,
    graphed,
)

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
