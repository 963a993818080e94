"""Ways to run a folded network in plain torch: cast, compiled, captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def _float(found: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    return [part.float() for part in found] if isinstance(found, list) else found.float()


class Cast(nn.Module):
    """A folded model in another layout and dtype, with float32 outputs."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, layout: torch.memory_format) -> None:
        super().__init__()
        self.model = model.to(dtype=dtype).to(memory_format=layout)  # type: ignore[call-overload]
        self.dtype, self.channels_last = dtype, layout is torch.channels_last

    @property
    def layout(self) -> torch.memory_format:
        """That of the maps; no attribute, since torch.save's pickle does not take one."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        return _float(self.model(x.to(self.dtype, memory_format=self.layout)))


class Compiled(Cast):
    """torch.compile with frozen weights for the shape of `example`; others run as usual.

    A copy compiles again, at its first call with that shape.
    """

    compiled: Callable[[Tensor], Any]

    def __init__(self, model: nn.Module, dtype: torch.dtype, example: Tensor) -> None:
        super().__init__(model, dtype, torch.channels_last)
        self.shape = example.shape
        self._compile(example)

    def _compile(self, example: Tensor) -> None:
        import torch._inductor.config as inductor  # on request: it costs most of a second

        self.__dict__["compiled"] = torch.compile(self.model, dynamic=False)
        # The tracer asks this setting, not torch.compile's options, whether weights are constants.
        with inductor.patch(freezing=True), torch.no_grad():
            self.compiled(example.to(self.dtype, memory_format=self.layout))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if x.shape != self.shape:
            return super().forward(x)
        if x.is_inference():  # a kind of its own to the compiler, which would start again
            x = x.clone()
        if "compiled" not in self.__dict__:
            self._compile(x)
        return _float(self.compiled(x.to(self.dtype, memory_format=self.layout)))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "compiled"}


class CudaGraph(nn.Module):
    """Replays a captured forward for the shape it was captured with; other shapes run as usual.

    Captured on the device of the example, whichever is current; a copy captures again.
    """

    captured: tuple[Any, Tensor, Any]

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.model = model
        self.shape = example.shape
        self._capture(example)

    def _capture(self, example: Tensor) -> None:
        input_ = example.clone()
        with torch.cuda.device(example.device):
            stream = torch.cuda.Stream(example.device)
            stream.wait_stream(torch.cuda.current_stream(example.device))
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.model(input_)
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                output = self.model(input_)
        self.__dict__["captured"] = (graph, input_, output)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if x.shape != self.shape:
            return self.model(x)
        if "captured" not in self.__dict__:
            self._capture(x)
        graph, input_, output = self.captured
        with torch.cuda.device(input_.device):
            input_.copy_(x)
            graph.replay()
            return [t.clone() for t in output] if isinstance(output, list) else output.clone()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "captured"}
