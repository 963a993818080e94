"""A folded network as an ONNX graph, node by node: in milliseconds, with any batch and size.

Only networks of exactly the modules that are known here are written (`known.unknown_part`
says which); others go through torch's exporter, see export.py. Operators are those of opset 17.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..models.blocks import (
    BasicBlock,
    Bottleneck,
    EfficientChannelAttention,
    PadRightAndBottom,
    SqueezeExcite,
)
from ..models.features import ResNetFeatures
from ..models.resnet import ResNet, input_channels

_OPSET, _IR = 17, 9


class _Graph:
    """Nodes and weights; each node's output has a name of its own."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], output, **attributes))
        return output

    def weight(self, values: Any) -> str:
        """A constant of a tensor, or of a list of whole numbers."""
        import numpy
        from onnx import numpy_helper

        name = f"weight_{len(self.weights)}"
        if isinstance(values, Tensor):
            array = values.detach().float().cpu().contiguous().numpy()
        else:
            array = numpy.asarray(values, dtype=numpy.int64)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def run(self, module: nn.Module, x: str) -> str:
        """The nodes of a module; the name of its output."""
        return _WRITERS[type(module)](self, module, x)


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _convolution(graph: _Graph, conv: nn.Conv2d | nn.Conv1d, x: str) -> str:
    operands = [x, graph.weight(conv.weight)]
    if conv.bias is not None:
        operands.append(graph.weight(conv.bias))
    return graph.node(
        "Conv", *operands, kernel_shape=list(conv.kernel_size), strides=list(conv.stride),
        pads=list(conv.padding) * 2, dilations=list(conv.dilation), group=conv.groups,
    )  # fmt: skip


def _pool(graph: _Graph, pool: Any, x: str) -> str:
    kind, more = "MaxPool", {}
    if isinstance(pool, nn.AvgPool2d):
        kind, more = "AveragePool", {"count_include_pad": int(pool.count_include_pad)}
    elif _pair(pool.dilation) != [1, 1]:
        more = {"dilations": _pair(pool.dilation)}
    return graph.node(
        kind, x, kernel_shape=_pair(pool.kernel_size), strides=_pair(pool.stride),
        pads=_pair(pool.padding) * 2, ceil_mode=int(pool.ceil_mode), **more,
    )  # fmt: skip


def _sequence(graph: _Graph, parts: nn.Sequential, x: str) -> str:
    for part in parts:
        x = graph.run(part, x)
    return x


def _linear(graph: _Graph, linear: nn.Linear, x: str) -> str:
    operands = [x, graph.weight(linear.weight)]
    if linear.bias is not None:
        operands.append(graph.weight(linear.bias))
    return graph.node("Gemm", *operands, transB=1)


def _squeeze_excite(graph: _Graph, part: SqueezeExcite, x: str) -> str:
    weights = graph.node("GlobalAveragePool", x)
    for module in (part.fc1, part.act, part.fc2, part.gate):
        weights = graph.run(module, weights)
    return graph.node("Mul", x, weights)


def _channel_attention(graph: _Graph, part: EfficientChannelAttention, x: str) -> str:
    weights = graph.node("GlobalAveragePool", x)
    weights = graph.node("Reshape", weights, graph.weight([0, 1, -1]))
    weights = graph.run(part.gate, graph.run(part.conv, weights))
    return graph.node("Mul", x, graph.node("Reshape", weights, graph.weight([0, -1, 1, 1])))


def _block(graph: _Graph, block: BasicBlock | Bottleneck, x: str) -> str:
    names = [name for name in ("conv1", "conv2", "conv3") if hasattr(block, name)]
    out = x
    for name in names:
        out = graph.run(block.get_submodule(name), out)
        if name != names[-1]:
            out = graph.node("Relu", out)
    if block.se is not None:
        out = graph.run(block.se, out)
    shortcut = x if block.downsample is None else graph.run(block.downsample, x)
    return graph.node("Relu", graph.node("Add", out, shortcut))


_WRITERS: dict[type[nn.Module], Any] = {
    nn.Identity: lambda graph, module, x: x,
    nn.Dropout: lambda graph, module, x: x,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.ReLU: lambda graph, module, x: graph.node("Relu", x),
    nn.Sigmoid: lambda graph, module, x: graph.node("Sigmoid", x),
    nn.MaxPool2d: _pool,
    nn.AvgPool2d: _pool,
    nn.AdaptiveAvgPool2d: lambda graph, module, x: graph.node("GlobalAveragePool", x),
    nn.AdaptiveMaxPool2d: lambda graph, module, x: graph.node("GlobalMaxPool", x),
    nn.Linear: _linear,
    nn.Sequential: _sequence,
    BasicBlock: _block,
    Bottleneck: _block,
    SqueezeExcite: _squeeze_excite,
    EfficientChannelAttention: _channel_attention,
    PadRightAndBottom: lambda graph, module, x: graph.node(
        "Pad", x, graph.weight([0, 0, 0, 0, 0, 0, 1, 1])
    ),
}


def onnx_graph(
    folded: ResNet | ResNetFeatures,
    name: str,
    outputs: list[str],
    sizes: list[int | str],
) -> Any:
    """The ModelProto of a folded network that has no unknown part.

    Args:
        folded: from `fold_batchnorm`.
        name: of the input, (N, C, H, W).
        outputs: names of the logits, or of each map of a trunk.
        sizes: N, H and W: a number, or the name of a free one.
    """
    import onnx
    from onnx import TensorProto, helper

    graph, batch = _Graph(), sizes[0]
    x = graph.node("Relu", graph.run(folded.conv1, name))
    maps = [x]
    x = graph.run(folded.maxpool, x)
    for stage in folded.stages:
        x = graph.run(stage, x)
        maps.append(x)
    if isinstance(folded, ResNetFeatures):
        found = [maps[index] for index in folded.out_indices]
        shapes = [[batch, info, None, None] for info in folded.channels]
    else:
        x = graph.run(folded.avgpool, x)
        widths = [part.out_features for part in folded.fc.modules() if isinstance(part, nn.Linear)]
        shape: list[Any] = [batch, [folded.num_features, *widths][-1]]
        if folded.global_pool != "":
            x = graph.node("Flatten", x)
        else:
            shape += [None, None]
        found, shapes = [graph.run(folded.fc, x)], [shape]
    for inner, outer in zip(found, outputs, strict=True):
        graph.nodes.append(helper.make_node("Identity", [inner], [outer], outer))
    given = [batch, input_channels(folded), *sizes[1:]]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "resnet",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, given)],
            [
                helper.make_tensor_value_info(outer, TensorProto.FLOAT, shape)
                for outer, shape in zip(outputs, shapes, strict=True)
            ],
            graph.weights,
        ),
        producer_name="resnet-zoo",
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
    model.ir_version = _IR
    onnx.checker.check_model(model)
    return model
