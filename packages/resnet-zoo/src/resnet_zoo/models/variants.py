"""Every network of the package as a row of settings: its name, block, depth and what is special.

The names are torchvision's and timm's, whose weights the networks take.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .blocks import BasicBlock, Bottleneck
from .preact import PreActBottleneck, PreActResNet
from .resnet import ResNet


@dataclass(frozen=True)
class Architecture:
    """What a name stands for."""

    block: type[BasicBlock | Bottleneck | PreActBottleneck]
    layers: tuple[int, int, int, int]
    fixed: dict[str, Any] = field(default_factory=dict)  # keywords of ResNet that the name decides
    about: str = ""
    usual: dict[str, Any] = field(default_factory=dict)  # keywords that it suggests
    network: type[ResNet | PreActResNet] = ResNet
    head: str = "fc"  # where the outputs are computed


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with 32 groups (arXiv 1803.08494)."""
    return nn.GroupNorm(32, channels)


_18, _26, _34, _50 = (2, 2, 2, 2), (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3)
_101, _152, _200 = (3, 4, 23, 3), (3, 8, 36, 3), (3, 24, 36, 3)
_D = {"stem": "deep", "average_shortcut": True}
_T = {"stem": "tiered", "average_shortcut": True}
_C = {"stem": "deep"}
_SE, _ECA = {"attention": "se"}, {"attention": "eca"}
_CLIP = {"stem": "clip", "average_shortcut": True, "average_stride": True}


def _next(groups: int, width: int) -> dict[str, int]:
    return {"groups": groups, "width_per_group": width}


def _row(
    block: type[BasicBlock | Bottleneck], layers: Any, about: str, **fixed: Any
) -> Architecture:
    return Architecture(block, layers, fixed, about)


# Those whose weights torchvision publishes.
ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": _row(BasicBlock, _18, "ResNet-18: 11.7 M parameters, 1.8 GMAC"),
    "resnet34": _row(BasicBlock, _34, "ResNet-34: 21.8 M parameters, 3.7 GMAC"),
    "resnet50": _row(Bottleneck, _50, "ResNet-50 (v1.5): 25.6 M parameters, 4.1 GMAC"),
    "resnet101": _row(Bottleneck, _101, "ResNet-101 (v1.5): 44.5 M parameters, 7.8 GMAC"),
    "resnet152": _row(Bottleneck, _152, "ResNet-152 (v1.5): 60.2 M parameters, 11.5 GMAC"),
    "resnext50_32x4d": _row(
        Bottleneck, _50, "ResNeXt-50, 32 groups of width 4: 25.0 M parameters, 4.2 GMAC",
        **_next(32, 4),
    ),
    "resnext101_32x8d": _row(
        Bottleneck, _101, "ResNeXt-101, 32 groups of width 8: 88.8 M parameters, 16.4 GMAC",
        **_next(32, 8),
    ),
    "resnext101_64x4d": _row(
        Bottleneck, _101, "ResNeXt-101, 64 groups of width 4: 83.5 M parameters, 15.5 GMAC",
        **_next(64, 4),
    ),
    "wide_resnet50_2": _row(
        Bottleneck, _50, "Wide ResNet-50-2, inner width doubled: 68.9 M parameters, 11.4 GMAC",
        width_per_group=128,
    ),
    "wide_resnet101_2": _row(
        Bottleneck, _101, "Wide ResNet-101-2, inner width doubled: 126.9 M parameters, 22.8 GMAC",
        width_per_group=128,
    ),
}  # fmt: skip


def _clip() -> dict[str, Architecture]:
    """The image towers of CLIP: with attention pooling, and ("gap") with a plain average."""
    rows = {}
    for name, layers, width, side, out in (
        ("50", _50, 64, 7, 1024),
        ("101", _101, 64, 7, 512),
        ("50x4", (4, 6, 10, 6), 80, 9, 640),
        ("50x16", (6, 8, 18, 8), 96, 12, 768),
        ("50x64", (3, 15, 36, 10), 128, 14, 1024),
    ):
        usual, about = {"planes": width, "num_classes": 0}, f"CLIP's modified ResNet-{name}"
        pooled = {"global_pool": "attention", "map_side": side, "num_classes": out}
        rows[f"resnet{name}_clip"] = Architecture(
            Bottleneck,
            layers,
            _CLIP,
            f"{about}, {out} outputs",
            {**usual, **pooled},
            head="avgpool.c_proj",
        )
        rows[f"resnet{name}_clip_gap"] = Architecture(
            Bottleneck, layers, _CLIP, f"{about}, averaged", usual
        )
    return rows


def _bit() -> dict[str, Architecture]:
    """ResNet v2 of Big Transfer, by depth and width."""
    rows = {}
    for depth, layers, factor in (
        (50, _50, 1), (50, _50, 3), (101, _101, 1), (101, _101, 3), (152, _152, 2), (152, _152, 4)
    ):  # fmt: skip
        rows[f"resnetv2_{depth}x{factor}_bit"] = Architecture(
            PreActBottleneck, layers, {}, f"ResNet-{depth} v2 of Big Transfer, {factor} times wide",
            {"planes": 64 * factor}, PreActResNet, "head.fc",
        )  # fmt: skip
    return rows


# Those whose weights timm publishes: "D" has a deep stem and averaging shortcuts, "T" a tiered stem
# too, "C" the deep stem alone.
VARIANTS: dict[str, Architecture] = {
    "resnet10t": _row(BasicBlock, (1, 1, 1, 1), "ResNet-10-T", **_T),
    "resnet14t": _row(Bottleneck, (1, 1, 1, 1), "ResNet-14-T", **_T),
    "resnet18d": _row(BasicBlock, _18, "ResNet-18-D", **_D),
    "resnet26": _row(Bottleneck, _26, "ResNet-26"),
    "resnet26d": _row(Bottleneck, _26, "ResNet-26-D", **_D),
    "resnet26t": _row(Bottleneck, _26, "ResNet-26-T", **_T),
    "resnet34d": _row(BasicBlock, _34, "ResNet-34-D", **_D),
    "resnet50c": _row(Bottleneck, _50, "ResNet-50-C", **_C),
    "resnet50d": _row(Bottleneck, _50, "ResNet-50-D", **_D),
    "resnet50t": _row(Bottleneck, _50, "ResNet-50-T", **_T),
    "resnet101c": _row(Bottleneck, _101, "ResNet-101-C", **_C),
    "resnet101d": _row(Bottleneck, _101, "ResNet-101-D", **_D),
    "resnet152c": _row(Bottleneck, _152, "ResNet-152-C", **_C),
    "resnet152d": _row(Bottleneck, _152, "ResNet-152-D", **_D),
    "resnet200": _row(Bottleneck, _200, "ResNet-200"),
    "resnet200d": _row(Bottleneck, _200, "ResNet-200-D", **_D),
    "resnext50d_32x4d": _row(Bottleneck, _50, "ResNeXt-50-D 32x4d", **_next(32, 4), **_D),
    "resnext101_32x4d": _row(Bottleneck, _101, "ResNeXt-101 32x4d", **_next(32, 4)),
    "resnext101_32x16d": _row(Bottleneck, _101, "ResNeXt-101 32x16d", **_next(32, 16)),
    "resnet50_gn": _row(Bottleneck, _50, "ResNet-50, group norms", norm_layer=group_norm),
    "seresnet18": _row(BasicBlock, _18, "SE-ResNet-18", **_SE),
    "seresnet34": _row(BasicBlock, _34, "SE-ResNet-34", **_SE),
    "seresnet50": _row(Bottleneck, _50, "SE-ResNet-50", **_SE),
    "seresnet50t": _row(Bottleneck, _50, "SE-ResNet-50-T", **_SE, **_T),
    "seresnet101": _row(Bottleneck, _101, "SE-ResNet-101", **_SE),
    "seresnet152": _row(Bottleneck, _152, "SE-ResNet-152", **_SE),
    "seresnet152d": _row(Bottleneck, _152, "SE-ResNet-152-D", **_SE, **_D),
    "seresnext50_32x4d": _row(Bottleneck, _50, "SE-ResNeXt-50 32x4d", **_SE, **_next(32, 4)),
    "seresnext101_32x4d": _row(Bottleneck, _101, "SE-ResNeXt-101 32x4d", **_SE, **_next(32, 4)),
    "seresnext101_32x8d": _row(Bottleneck, _101, "SE-ResNeXt-101 32x8d", **_SE, **_next(32, 8)),
    "ecaresnet26t": _row(Bottleneck, _26, "ECA-ResNet-26-T", **_ECA, **_T),
    "ecaresnet50d": _row(Bottleneck, _50, "ECA-ResNet-50-D", **_ECA, **_D),
    "ecaresnet50t": _row(Bottleneck, _50, "ECA-ResNet-50-T", **_ECA, **_T),
    "ecaresnet101d": _row(Bottleneck, _101, "ECA-ResNet-101-D", **_ECA, **_D),
    **_clip(),
    **_bit(),
}

ALL: dict[str, Architecture] = {**ARCHITECTURES, **VARIANTS}
