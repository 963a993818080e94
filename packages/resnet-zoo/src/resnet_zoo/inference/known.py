"""Which folded networks are run by other means than their modules: those with every part in place.

What stands here as "a block" or "a stem" is computed by `fused`, `int8` and `onnx_graph` from its
weights alone, so each part must be exactly the module that its place is for.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ..models.blocks import (
    BasicBlock,
    Bottleneck,
    EfficientChannelAttention,
    PadRightAndBottom,
    SqueezeExcite,
)
from ..models.features import ResNetFeatures
from ..models.fold import norm_pairs, runs_as_written
from ..models.resnet import ResNet

Kinds = tuple[type[nn.Module], ...]
_CONV, _NORM, _RELU = (nn.Conv2d,), (nn.Identity,), (nn.ReLU,)  # norms are folded away
_STEM = (_CONV, _NORM, _RELU, _CONV, _NORM, _RELU, _CONV)
_STEM_POOL = (nn.MaxPool2d, nn.AvgPool2d, nn.Identity)
_LAST_POOL = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Identity)
_HEAD = (nn.Linear, nn.Identity, nn.ReLU, nn.Dropout)  # one, or a sequence of them
_ATTENTION = {
    SqueezeExcite: {"fc1": _CONV, "act": _RELU, "fc2": _CONV, "gate": (nn.Sigmoid,)},
    EfficientChannelAttention: {"conv": (nn.Conv1d,), "gate": (nn.Sigmoid,)},
}


def unknown_part(folded: ResNet | ResNetFeatures) -> str | None:
    """Why a folded network is not one of those that are known here, or None."""
    names = {id(module): name for name, module in folded.named_modules()}
    for owner, _, name in norm_pairs(folded):
        norm = owner.get_submodule(name)
        if not isinstance(norm, nn.Identity):
            return f"{norm} is not a batch norm and cannot be folded"
    for module, kinds in _parts(folded):
        name = names.get(id(module), "a part")
        if type(module) not in kinds:
            return f"{name} is a {type(module).__name__}, which is not known here"
        if not runs_as_written(module):
            return f"{name} has hooks or a forward of its own"
        if told := _unusual(module):
            return f"{name} {told}"
    return None


def _parts(folded: ResNet | ResNetFeatures) -> Iterator[tuple[nn.Module, Kinds]]:
    """Every module that the network runs, and what may stand in its place."""
    if isinstance(folded.conv1, nn.Sequential):
        yield from _in_order(folded.conv1, _STEM)
    else:
        yield folded.conv1, _CONV
    yield folded.relu, _RELU
    yield folded.maxpool, _STEM_POOL
    for stage in folded.stages:
        yield stage, (nn.Sequential,)
        for block in stage:
            yield from _of_block(block)
    if isinstance(folded, ResNet):
        yield folded.avgpool, _LAST_POOL
        if isinstance(folded.fc, nn.Sequential):
            yield from _in_order(folded.fc, (_HEAD,) * len(folded.fc))
        else:
            yield folded.fc, _HEAD


def _of_block(block: BasicBlock | Bottleneck) -> Iterator[tuple[nn.Module, Kinds]]:
    yield block, (BasicBlock, Bottleneck)
    for number in range(1, 4 if isinstance(block, Bottleneck) else 3):
        yield block.get_submodule(f"conv{number}"), _CONV
    yield block.relu, _RELU
    if block.se is not None:
        yield block.se, tuple(_ATTENTION)
        for name, kinds in _ATTENTION[type(block.se)].items():
            yield block.se.get_submodule(name), kinds
    if block.downsample is not None:
        yield block.downsample, (nn.Sequential,)
        plain = len(block.downsample) == 2
        first = (nn.AvgPool2d, nn.Identity, nn.Sequential)
        yield from _in_order(block.downsample, (_CONV, _NORM) if plain else (first, _CONV, _NORM))
        if isinstance(block.downsample[0], nn.Sequential):
            yield from _in_order(block.downsample[0], ((PadRightAndBottom,), (nn.AvgPool2d,)))


def _in_order(parts: nn.Sequential, kinds: tuple[Kinds, ...]) -> Iterator[tuple[nn.Module, Kinds]]:
    """A sequence and its parts; one that is longer or shorter is in no place of its own."""
    yield parts, (nn.Sequential,) if len(parts) == len(kinds) else ()
    yield from zip(parts, kinds, strict=True)


def _unusual(module: nn.Module) -> str | None:
    """A setting that the modules here never have, or None."""
    if isinstance(module, Bottleneck) and module.pool is not None:
        return "averages inside its branch, which is not known here"
    if isinstance(module, nn.Conv2d) and (
        module.padding_mode != "zeros" or isinstance(module.padding, str)
    ):
        return f"pads by {module.padding_mode}, {module.padding!r}"
    if isinstance(module, nn.MaxPool2d) and (module.ceil_mode or module.return_indices):
        return "rounds up or returns indices"
    if isinstance(module, nn.AvgPool2d) and module.divisor_override is not None:
        return "divides by a number of its own"
    if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
        size = module.output_size
        if (size, size) != (1, 1) and tuple(size) != (1, 1):
            return f"pools to {size}"
    return None
