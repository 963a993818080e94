"""CUDA graphs: all kernels of a model launched at once, for sequences of one shape.

A ConvLSTM over T steps launches about ten kernels for each layer and step, and on a small map the
launches take longer than the kernels. A graph records them once. It is an explicit choice: nothing
here runs unless it is asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Calls before the capture, so that libraries have chosen their algorithms and allocated.
WARM_UP = 3


class Graphed:
    """A model's inference as a CUDA graph, for inputs of the shape and dtype of `example`.

    A call copies its input in, replays the graph, and returns a copy of the output; it does not
    synchronise. The weights are read where they lie, so updates in place are seen. The model must
    be in eval mode, on CUDA, and must not keep state between calls. Raises ValueError for a model
    or an input that does not fit.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        if example.device.type != "cuda":
            raise ValueError(
                f"graphed: example must be on cuda, got {example.device}; CUDA graphs are for GPUs"
            )
        if model.training:
            raise ValueError(
                "graphed: the model is in training mode; call model.eval() first, or take "
                "torch.cuda.make_graphed_callables for training"
            )
        if any(getattr(m, "stateful", False) for m in model.modules()):
            raise ValueError("graphed: a stateful layer keeps its state; a graph would not")
        self._input = example.clone()
        stream = torch.cuda.Stream(example.device)
        stream.wait_stream(torch.cuda.current_stream(example.device))
        with torch.cuda.stream(stream), torch.no_grad():
            for _ in range(WARM_UP):
                model(self._input)
        torch.cuda.current_stream(example.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream), torch.no_grad():
            self._output = model(self._input)

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape != self._input.shape or x.dtype != self._input.dtype:
            raise ValueError(
                f"graphed: x must be {self._input.dtype} of shape {tuple(self._input.shape)} as "
                f"the example was, got {x.dtype} of {tuple(x.shape)}; make another graph for it"
            )
        self._input.copy_(x)
        self._graph.replay()
        return self._output.clone()


def graphed(model: nn.Module, example: Tensor) -> Graphed:
    """The model's inference as a CUDA graph; see `Graphed`."""
    return Graphed(model, example)
