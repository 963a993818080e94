"""CUDA graphs: captured on the device of the example, and found out where they only play it back.
On a device that is not there: what is asked of torch.cuda is written down."""

import contextlib

import pytest
import torch
from torch import nn

from resnet_zoo import get_model, optimize
from resnet_zoo.inference import optimization
from resnet_zoo.inference.ways import Cast, CudaGraph


@pytest.fixture
def asked(monkeypatch):
    """What was asked of torch.cuda: (what, device that was current)."""
    current, asked = ["cuda:0"], []

    @contextlib.contextmanager
    def device(which):
        before, current[0] = current[0], str(which)
        try:
            yield
        finally:
            current[0] = before

    class Stream:
        def __init__(self, of):
            asked.append((f"stream of {of}", current[0]))

        wait_stream = synchronize = lambda *_: None

    class Empty:
        """A graph without kernels, as one that was captured on another device's stream."""

        def replay(self):
            asked.append(("replay", current[0]))

    @contextlib.contextmanager
    def graph(graph, stream):
        assert isinstance(stream, Stream)
        asked.append(("capture", current[0]))
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda which=None: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Empty)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return asked


def test_a_graph_is_captured_and_replayed_on_the_device_of_its_example(asked):
    made = CudaGraph(nn.Linear(3, 2, device="meta"), torch.empty(1, 3, device="meta"))
    assert asked == [("stream of meta", "meta"), ("capture", "meta")]
    assert made(torch.empty(1, 3, device="meta")).shape == (1, 2)
    assert made(torch.empty(4, 3, device="meta")).shape == (4, 2)  # another shape: no replay
    assert asked[2:] == [("replay", "meta")]


def test_a_graph_that_plays_back_its_example_is_not_kept(asked, monkeypatch):
    """An empty graph is the fastest candidate, and right for the example."""
    torch.manual_seed(0)
    model = get_model("resnet18", num_classes=10, stem="small", planes=8).eval()
    plain = optimization._candidates

    def with_a_graph(model, level, dtype, x, *rest):
        empty = lambda: CudaGraph(Cast(model, dtype, torch.contiguous_format), x)  # noqa: E731
        return plain(model, level, dtype, x, *rest) | {"CUDA graph": empty}

    monkeypatch.setattr(optimization, "_candidates", with_a_graph)
    report = optimize(model, "fast", example=(1, 3, 32, 32)).report
    graph = next(trial for trial in report.trials if trial.name == "CUDA graph")
    assert graph.note == "not used: outside the error allowed"
    assert report.kept != "CUDA graph"
