"""ConvLSTM for PyTorch: equal to Keras, faster, with Keras' files and the next-frame example."""

from .cell import ConvLSTMCell1d, ConvLSTMCell2d, ConvLSTMCell3d
from .layers import ConvLSTM1d, ConvLSTM2d, ConvLSTM3d

__version__ = "0.1.0"

__all__ = [
    "ConvLSTM1d",
    "ConvLSTM2d",
    "ConvLSTM3d",
    "ConvLSTMCell1d",
    "ConvLSTMCell2d",
    "ConvLSTMCell3d",
]
