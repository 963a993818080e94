"""CUDA graphs: all kernels of a model launched at once, for sequences of one shape.

A ConvLSTM over T steps launches two kernels or more for each layer and step, and on a small map the
launches take longer than the kernels. A graph records them once. It is an explicit choice: nothing
here runs unless it is asked for.
"""

from __future__ import annotations

import dataclasses
from numbers import Number
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

# Calls before the capture, so that libraries have chosen their algorithms and allocated.
WARM_UP = 3


def without_weight_cache(kind: str) -> torch.autocast:
    """The autocast that is in force, or none, but with no weights kept in its dtype: the cache goes
    with the autocast that filled it, and a graph would go on to read its freed memory."""
    return torch.autocast(
        kind,
        dtype=torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
        cache_enabled=False,
    )


class Graphed:
    """A model's inference as a CUDA graph, for inputs of the shape and dtype of `example`.

    A call copies its input in, replays the graph, and returns a copy of the output (or of each
    tensor in its tuples, lists, dicts and dataclasses); it does not synchronise. The weights are
    read where they lie, so updates in place are seen; the autocast is that of the capture. The
    model must be in eval mode, on CUDA, and must not keep state between calls. Raises ValueError
    for a model or an input that does not fit, TypeError for an output with other objects in it.
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
        with torch.cuda.device(example.device), torch.no_grad(), without_weight_cache("cuda"):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    copied(model(self._input))
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            # (other threads, of a loader that pins memory, may go on to use the device)
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._output = model(self._input)

    def __call__(self, x: Tensor) -> Any:
        if x.shape != self._input.shape or x.dtype != self._input.dtype:
            raise ValueError(
                f"graphed: x must be {self._input.dtype} of shape {tuple(self._input.shape)} as "
                f"the example was, got {x.dtype} of {tuple(x.shape)}; make another graph for it"
            )
        self._input.copy_(x)
        with torch.cuda.device(self._input.device):
            self._graph.replay()
        return copied(self._output)


# What holds no memory of the graph.
_PLAIN = (Number, str, bytes, type(None), torch.dtype, torch.device)


def copied(output: Any) -> Any:
    """The same with tensors of its own. Raises TypeError for what may hold tensors unseen."""
    return tree_map(_copied_leaf, output)


def _copied_leaf(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.clone()
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        fields = [field for field in dataclasses.fields(leaf) if field.init]
        copies = {field.name: copied(getattr(leaf, field.name)) for field in fields}
        return dataclasses.replace(leaf, **copies)
    if isinstance(leaf, _PLAIN):
        return leaf
    raise TypeError(
        "graphed: the model must give tensors, in tuples, lists, dicts or dataclasses, got a "
        f"{type(leaf).__name__}, whose memory the next call would overwrite; give its tensors"
    )


def graphed(model: nn.Module, example: Tensor) -> Graphed:
    """The model's inference as a CUDA graph; see `Graphed`."""
    return Graphed(model, example)
