"""A ResNet as partitions of oneDNN's graph: each convolution compiled once, with its tail.

torch calls oneDNN's Graph API (oneDNN's documentation, "Graph extension") from frozen TorchScript
when `torch.jit.enable_onednn_fusion` is on. A compiled partition costs a few microseconds a call,
where an operator of `fused.py` makes its primitive anew at each call (30 to 60 us). It is for one
shape of input and one number of threads; the setting, which is global in torch, is on only while a
graph is made.

Of a batch the stem and the first stage run picture by picture: their maps are large, and those of
one picture stay in the processor's cache.
"""

from __future__ import annotations

import contextlib
import functools
import io
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.features import ResNetFeatures
from ..models.fold import fold_batchnorm
from ..models.resnet import ResNet
from . import fused
from .known import unknown_part
from .ways import Cast

_LAYOUT = torch.channels_last
_CALLS = 2  # until a graph is final: one is profiled, the next one compiled and run
_LAST_BY_PICTURE = 1  # step 0 is the stem, step 1 the pooling and the first stage
_Run = Callable[[Tensor], Tensor]
_making = threading.Lock()  # of graphs: the setting is one for the process


def unavailable(dtype: torch.dtype = torch.float32) -> str | None:
    """None if oneDNN's graph can run here in `dtype`, else the reason."""
    if not hasattr(torch.jit, "enable_onednn_fusion"):
        return f"torch {torch.__version__} has no oneDNN fusion in TorchScript"
    return fused.unavailable(dtype)


@dataclass
class _Piece:
    """Steps of a network that are one graph: what comes out is an output, or goes on only."""

    steps: nn.Sequential
    by_picture: bool
    kept: bool


def _pieces(folded: ResNet | ResNetFeatures, batch: int) -> list[_Piece]:
    """The network cut behind each map that is returned, and where pictures come together."""
    first, *later = folded.stages or [nn.Identity()]
    steps = [nn.Sequential(folded.conv1, folded.relu), nn.Sequential(folded.maxpool, first), *later]
    if isinstance(folded, ResNetFeatures):
        steps = steps[: folded.out_indices[-1] + 1]
        kept = list(folded.out_indices)
    else:
        flat = nn.Flatten(1) if folded.global_pool != "" else nn.Identity()
        steps.append(nn.Sequential(folded.avgpool, flat, folded.fc))
        kept = [len(steps) - 1]
    ends = sorted({*kept, min(_LAST_BY_PICTURE, kept[-1])} if batch > 1 else kept)
    return [
        _Piece(
            nn.Sequential(*steps[start : end + 1]),
            by_picture=batch > 1 and end <= _LAST_BY_PICTURE,
            kept=end in kept,
        )
        for start, end in zip([0, *(end + 1 for end in ends)], ends, strict=False)
    ]


class OneDnnGraph(nn.Module):
    """Inference on the CPU: input (N, C, H, W) as the model's, output as the model's in float32.

    Compiled for the shape of `example`, and again when torch's number of threads changes; other
    shapes run folded. A copy compiles at its first call. Raises RuntimeError where `unavailable` or
    `unknown_part` gives a reason, ValueError where the batch norms cannot be folded.
    """

    made: tuple[int, Callable[[Tensor], list[Tensor]]] | None

    def __init__(
        self, model: ResNet | ResNetFeatures, example: Tensor, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        folded = fold_batchnorm(model)
        if reason := unavailable(dtype) or unknown_part(folded):
            raise RuntimeError(f"OneDnnGraph: {reason}")
        self.plain = Cast(folded, dtype, _LAYOUT)
        self.shape, self.made = tuple(example.shape), None
        self._graph(example)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if tuple(x.shape) != self.shape:
            return self.plain(x)
        maps = [found.float() for found in self._graph(x)(self._laid_out(x))]
        return maps if isinstance(self.plain.model, ResNetFeatures) else maps[0]

    def _laid_out(self, x: Tensor) -> Tensor:
        # One step after the other: torch's copy that does both at once takes twice as long.
        x = x.detach().to(self.plain.dtype).contiguous(memory_format=_LAYOUT)
        # Of a dimension of 1 any stride is contiguous; a graph knows those that it was made with.
        _, channels, height, width = x.shape
        picture, row = channels * height * width, channels * width
        return x.as_strided(x.shape, (picture, 1, row, channels))

    def _graph(self, x: Tensor) -> Callable[[Tensor], list[Tensor]]:
        """What runs inputs like `x` with the number of threads there is now."""
        threads = torch.get_num_threads()
        made = self.made
        if made is None or made[0] != threads:
            with _making:
                made = self.made  # by another thread, while this one waited
                if made is None or made[0] != threads:
                    with _fusing():
                        made = threads, self._compiled(self._laid_out(x))
                    self.made = made
        return made[1]

    def _compiled(self, x: Tensor) -> Callable[[Tensor], list[Tensor]]:
        graphs = []
        for piece in _pieces(self.plain.model, len(x)):
            graph = _traced(piece.steps, x[:1] if piece.by_picture else x)
            run = functools.partial(_by_picture, graph) if piece.by_picture else graph
            graphs.append((run, piece.kept))
            x = run(x)
        return functools.partial(_in_turn, graphs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "made": None}


def _in_turn(graphs: list[tuple[_Run, bool]], x: Tensor) -> list[Tensor]:
    """One graph after the other: what comes out of those that are kept."""
    found = []
    for run, kept in graphs:
        x = run(x)
        if kept:
            found.append(x)
    return found


def _by_picture(graph: _Run, x: Tensor) -> Tensor:
    """What `graph` gives for a batch, computed for one picture after the other."""
    first = graph(x[:1])
    whole = torch.empty((len(x), *first.shape[1:]), dtype=first.dtype, memory_format=_LAYOUT)
    whole[0] = first[0]
    for index in range(1, len(x)):
        whole[index] = graph(x[index : index + 1])[0]
    return whole


def _traced(steps: nn.Module, x: Tensor) -> _Run:
    """`steps` as a graph for inputs like `x`. One output: of several torch fuses no bfloat16.

    What was traced in the process torch keeps until it ends, and what is made of it, weights too;
    what was loaded it frees.
    """
    file = io.BytesIO()
    with warnings.catch_warnings():  # torch recommends its compiler, which needs another one
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(steps.eval(), x, check_trace=False), file)
        file.seek(0)
        graph = torch.jit.freeze(torch.jit.load(file).eval())
    for _ in range(_CALLS):
        graph(x)
    return graph


@contextlib.contextmanager
def _fusing() -> Iterator[None]:
    """torch's setting on, and as it was afterwards."""
    before = torch.jit.onednn_fusion_enabled()
    torch.jit.enable_onednn_fusion(True)
    try:
        yield
    finally:
        torch.jit.enable_onednn_fusion(before)
