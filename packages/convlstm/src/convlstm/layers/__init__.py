"""The modules that users build: cells, layers, stacks of layers, and their CUDA graphs."""

from .cell import ConvLSTMCell1d, ConvLSTMCell2d, ConvLSTMCell3d
from .graphs import Graphed, graphed
from .layer import LAYERS, ConvLSTM1d, ConvLSTM2d, ConvLSTM3d
from .stack import Bidirectional, ConvLSTM
from .state import State, detach

__all__ = [
    "LAYERS",
    "Bidirectional",
    "ConvLSTM",
    "ConvLSTM1d",
    "ConvLSTM2d",
    "ConvLSTM3d",
    "ConvLSTMCell1d",
    "ConvLSTMCell2d",
    "ConvLSTMCell3d",
    "Graphed",
    "State",
    "detach",
    "graphed",
]
