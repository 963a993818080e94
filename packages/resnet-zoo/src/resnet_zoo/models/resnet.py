"""ResNet, ResNeXt, Wide ResNet and their variants: one network class.

He et al. (arXiv 1512.03385); Xie et al., ResNeXt (arXiv 1611.05431); Zagoruyko & Komodakis, Wide
ResNet (arXiv 1605.07146); He et al., "Bag of Tricks", the deep stem and the averaging shortcut
(arXiv 1812.01187).

Module names, construction order and the order of floating-point operations are those of
torchvision.models.resnet, so that state dicts, seeds and outputs agree to the last bit; the methods
are those that timm's models share. What torchvision does not have adds neither parameters nor
operations when it is left at its default.
"""

# TorchScript reads this file and knows no postponed annotations.
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .blocks import (
    ATTENTIONS,
    AttentionPool,
    BasicBlock,
    Bottleneck,
    NormLayer,
    conv1x1,
    conv3x3,
    make_shortcut,
    stochastic_depth,
)
from .frozen import Freezable

__all__ = [
    "POOLS",
    "STEMS",
    "BasicBlock",
    "Bottleneck",
    "NormLayer",
    "ResNet",
    "conv1x1",
    "conv3x3",
    "stochastic_depth",
    "take_indices",
]

STEMS = ("imagenet", "small", "deep", "tiered", "clip")
POOLS = ("avg", "max", "attention", "")
# Flags of `replace_stride_with_dilation` that give an output stride.
_DILATED = {32: (False, False, False), 16: (False, False, True), 8: (False, True, True)}


class ResNet(Freezable):
    """A stem, four stages of residual blocks, pooling and a linear classifier.

    Args:
        block: BasicBlock or Bottleneck.
        layers: blocks in each of the four stages.
        num_classes: outputs of the classifier `fc`; 0 for none.
        zero_init_residual: start the last norm of every block at zero (arXiv 1706.02677).
        groups, width_per_group: grouped (ResNeXt) and wide 3x3 convolutions; Bottleneck only.
        replace_stride_with_dilation: three flags for stages 2 to 4; Bottleneck only.
        norm_layer: called with the number of channels; BatchNorm2d by default.
        in_channels: channels of the image.
        stem: "imagenet" (7x7 stride 2, then 3x3 max pool: /4), "small" (3x3 stride 1, no pool: /1),
            the usual choice for 32x32 images, "deep" and "tiered" (three 3x3, then max pool: /4),
            "clip" (as "deep", then an average: /4).
        planes: channels of the stem and first stage; each later stage has twice as many. A
            multiple of 8; less than 64 gives narrow networks, for tiny pictures.
        stochastic_depth: drop rate of the last block; earlier blocks drop linearly less often.
        average_shortcut: shortcuts average before they project ("D" networks).
        average_stride: the branches average too, in place of strided 3x3 (CLIP); Bottleneck only.
        attention: "se" or "eca" at the end of every block's branch.
        global_pool: "avg", "max", "attention" (CLIP's, whose projection gives the outputs), or ""
            for no pooling (then without a classifier).
        map_side: side of the last map that attention pooling has learned positions for.
        output_stride: 32, 16 or 8; dilates the last stages, also of BasicBlock.
        drop_rate: dropout in front of the classifier, in training.

    Input (N, in_channels, H, W), floating point; output (N, num_classes).
    Raises ValueError for arguments that make no sense, naming the one.
    """

    __jit_unused_properties__ = ("stages", "num_features", "head_hidden_size", "default_cfg",
                                 "feature_info")  # fmt: skip

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm_layer: NormLayer | None = None,
        *,
        in_channels: int = 3,
        stem: str = "imagenet",
        planes: int = 64,
        stochastic_depth: float = 0.0,
        average_shortcut: bool = False,
        average_stride: bool = False,
        attention: str | None = None,
        global_pool: str = "avg",
        map_side: int = 7,
        output_stride: int | None = None,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        dilate: tuple[bool, ...] = (False, False, False)
        if replace_stride_with_dilation is not None:
            dilate = tuple(replace_stride_with_dilation)
        if len(dilate) != 3:
            raise ValueError(
                "ResNet: replace_stride_with_dilation must be None or 3 flags (stages 2 to 4), "
                f"got {replace_stride_with_dilation!r}"
            )
        # Fewer planes corrupt the heap in torch 2.13: oneDNN's backward of 1x1 stride-2
        # convolutions of 4 channels in channels-last layout writes outside its buffers on AVX2.
        for name, value, good, demand in (
            ("stem", stem, stem in STEMS, f"one of {', '.join(STEMS)}"),
            ("planes", planes, planes >= 8 and planes % 8 == 0, "a multiple of 8"),
            ("stochastic_depth", stochastic_depth, 0.0 <= stochastic_depth < 1.0, "in [0, 1)"),
            ("drop_rate", drop_rate, 0.0 <= drop_rate < 1.0, "in [0, 1)"),
            ("attention", attention, attention in (None, *ATTENTIONS), "None, 'se' or 'eca'"),
            ("output_stride", output_stride, output_stride in (None, *_DILATED), "32, 16 or 8"),
            ("num_classes", num_classes, num_classes >= 0, ">= 0"),
            ("in_channels", in_channels, in_channels >= 1, "at least 1"),
            ("map_side", map_side, map_side >= 1, "at least 1"),
            (
                "norm_layer",
                norm_layer,
                norm_layer is None
                or (callable(norm_layer) and not isinstance(norm_layer, nn.Module)),
                "called with a number of channels, as the class nn.BatchNorm2d is",
            ),
            (
                "average_stride",
                average_stride,
                not average_stride or block is Bottleneck,
                "False but for Bottleneck",
            ),
        ):
            if not good:
                raise ValueError(f"ResNet: {name} must be {demand}, got {value!r}")
        if output_stride is not None:
            if any(dilate):
                raise ValueError(
                    "ResNet: give output_stride= or replace_stride_with_dilation=, not both"
                )
            dilate = _DILATED[output_stride]
        self._norm_layer = norm_layer or nn.BatchNorm2d
        self._free_dilation = output_stride is not None
        self.inplanes = planes
        self.dilation = 1
        self.groups = groups
        self.base_width = width_per_group
        self.stem = stem
        self.average_shortcut = average_shortcut
        self.average_stride = average_stride
        self.map_side = map_side
        self.attention = attention
        self.frozen_stages = -1
        self.grad_checkpointing = False
        self.drop_rate = drop_rate

        self.conv1 = _make_stem(stem, in_channels, planes, self._norm_layer)
        self.bn1 = self._norm_layer(planes)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = _make_stem_pool(stem)
        self.layer1 = self._make_layer(block, planes, layers[0])
        self.layer2 = self._make_layer(block, planes * 2, layers[1], stride=2, dilate=dilate[0])
        self.layer3 = self._make_layer(block, planes * 4, layers[2], stride=2, dilate=dilate[1])
        self.layer4 = self._make_layer(block, planes * 8, layers[3], stride=2, dilate=dilate[2])
        self.num_classes = num_classes
        self.avgpool = _make_pool(global_pool, num_classes, self.inplanes, map_side)
        self.global_pool = global_pool
        linear = num_classes and global_pool != "attention"
        self.fc = nn.Linear(self.inplanes, num_classes) if linear else nn.Identity()
        self._init_weights(zero_init_residual)
        self._set_drop_rates(stochastic_depth)

    def _make_layer(
        self,
        block: type[BasicBlock | Bottleneck],
        planes: int,
        blocks: int,
        stride: int = 1,
        dilate: bool = False,
    ) -> nn.Sequential:
        norm_layer, first_dilation = self._norm_layer, self.dilation
        if dilate:
            self.dilation *= stride
            stride = 1
        downsample = None
        if stride != 1 or self.inplanes != planes * block.expansion:
            downsample = make_shortcut(
                self.inplanes,
                planes * block.expansion,
                stride,
                norm_layer,
                average=self.average_shortcut,
                dilation=self.dilation,
                ceil=not self.average_stride,
            )
        common: dict[str, Any] = {
            "groups": self.groups,
            "base_width": self.base_width,
            "norm_layer": norm_layer,
            "attention": self.attention,
        }
        if self.average_stride:
            common["average_stride"] = True
        # The first block of a dilated stage still has the dilation of the stage before.
        first: dict[str, Any] = {"dilation": first_dilation}
        later: dict[str, Any] = {"dilation": self.dilation}
        if self._free_dilation:
            first = {"dilation": self.dilation, "first_dilation": first_dilation}
            later["first_dilation"] = self.dilation
        stage = [block(self.inplanes, planes, stride, downsample, **first, **common)]
        self.inplanes = planes * block.expansion
        for _ in range(1, blocks):
            stage.append(block(self.inplanes, planes, **later, **common))
        return nn.Sequential(*stage)

    def _init_weights(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)) and module.weight is not None:
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        if zero_init_residual:
            for block in self.blocks():
                last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
                if last.weight is not None:
                    nn.init.zeros_(last.weight)

    def _set_drop_rates(self, rate: float) -> None:
        blocks = self.blocks()
        for index, block in enumerate(blocks):
            block.drop_rate = rate * index / max(len(blocks) - 1, 1)

    # -- the forward --------------------------------------------------------------------------

    def forward_stem(self, x: Tensor) -> Tensor:
        """Image to the activation in front of the pooling: (N, 64, H/2, W/2), H, W if small."""
        return self.relu(self.bn1(self.conv1(x)))

    def forward_features(self, x: Tensor) -> Tensor:
        """Image to the last feature map, (N, num_features, H/32, W/32) for the ImageNet stem."""
        x = self.maxpool(self.forward_stem(x))
        if self.grad_checkpointing and not torch.jit.is_scripting():
            for stage in self.stages:
                x = checkpointed(stage, x)
            return x
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature map to (N, num_classes); to the pooled (N, num_features) with `pre_logits`.

        Without pooling (`global_pool=""`) the map itself is returned.
        """
        x = self.avgpool(x)
        if self.global_pool != "":
            x = torch.flatten(x, 1)
        if self.drop_rate > 0.0:
            x = functional.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    @torch.jit.unused
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps beside the last one: timm's protocol.

        Args:
            x: (N, C, H, W).
            indices: of 0 (stem) to 4; a number n for the last n; negative ones from the end.
            norm: ignored: there is no final norm.
            stop_early: leave out the stages behind the last index.
            output_fmt: "NCHW".
            intermediates_only: leave out the last map.

        Returns (last map, [maps]), or [maps].
        """
        if output_fmt != "NCHW":
            raise ValueError(f"forward_intermediates: output_fmt must be NCHW, got {output_fmt!r}")
        taken = take_indices(indices)
        x = self.forward_stem(x)
        found = [x] if 0 in taken else []
        x = self.maxpool(x)
        for number, stage in enumerate(self.stages[: max(taken) if stop_early else 4], start=1):
            x = checkpointed(stage, x) if self.grad_checkpointing else stage(x)
            if number in taken:
                found.append(x)
        return found if intermediates_only else (x, found)

    # -- what it is made of -------------------------------------------------------------------

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        """layer1 to layer4."""
        return self.layer1, self.layer2, self.layer3, self.layer4

    def blocks(self) -> list[Any]:
        """All residual blocks, in the order of execution."""
        return [block for stage in self.stages for block in stage]

    @property
    def num_features(self) -> int:
        """Channels of the last feature map (512 or 2048 in the published models)."""
        return self.feature_info[-1]["num_chs"]

    @property
    def head_hidden_size(self) -> int:
        """Channels in front of the classifier."""
        return self.num_features

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Of the stem and the stages: channels, stride against the image, name of the module."""
        return feature_info(self)

    @property
    def default_cfg(self) -> dict[str, Any]:
        """timm's description of a model: sizes, normalisation, names of the ends."""
        stride = self.feature_info[-1]["reduction"]
        return {
            "num_classes": self.num_classes,
            "input_size": (input_channels(self), 224, 224),
            "pool_size": (-(-224 // stride), -(-224 // stride)),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "conv1.0" if isinstance(self.conv1, nn.Sequential) else "conv1",
            "classifier": "fc",
            **getattr(self, "pretrained_cfg", {}),
        }

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns that group parameters by depth (for layer-wise learning rates)."""
        blocks = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return {"stem": r"^conv1|bn1|maxpool", "blocks": blocks}

    # -- changing it --------------------------------------------------------------------------

    def get_classifier(self, name_only: bool = False) -> Any:
        """The classifier, or its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> "ResNet":
        """Replace `fc` by a fresh one on the same device and dtype; 0 makes it the identity.

        `global_pool` changes the pooling too: "avg", "max", "" (none, with num_classes 0). With
        attention pooling it is the projection there that is replaced.
        """
        if num_classes < 0:
            raise ValueError(f"reset_classifier: num_classes must be >= 0, got {num_classes}")
        pool = self.global_pool if global_pool is None else global_pool
        channels, old = self.num_features, self.avgpool
        self.avgpool = _make_pool(pool, num_classes, channels, self.map_side)
        self.fc = nn.Identity()
        if isinstance(self.avgpool, AttentionPool):
            if isinstance(old, AttentionPool):
                old.c_proj, self.avgpool = self.avgpool.c_proj, old
        elif num_classes:
            self.fc = nn.Linear(channels, num_classes)
        like = next(self.conv1.parameters())
        for part in (self.avgpool, self.fc):
            part.to(like.device, like.dtype).train(self.training)
        self.global_pool = pool
        self.num_classes = num_classes
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep no activations inside the blocks; compute them again in the backward.

        Batch norms then see each batch twice: their running statistics move twice as fast.
        """
        self.grad_checkpointing = enable

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove the stages behind the last of `indices`, and the head; returns the indices."""
        taken = take_indices(indices)
        last = max(taken)
        for number in range(last + 1, 5):
            setattr(self, f"layer{number}", nn.Sequential())
        if prune_head or last < 4:
            self.reset_classifier(0, "")
        return taken


def _make_stem(stem: str, in_channels: int, planes: int, norm_layer: NormLayer) -> nn.Module:
    if stem == "imagenet":
        return nn.Conv2d(in_channels, planes, 7, stride=2, padding=3, bias=False)
    if stem == "small":
        return conv3x3(in_channels, planes)
    second = planes // 2
    first = 3 * (second // 4) if stem == "tiered" else second
    return nn.Sequential(
        conv3x3(in_channels, first, 2),
        norm_layer(first),
        nn.ReLU(inplace=True),
        conv3x3(first, second),
        norm_layer(second),
        nn.ReLU(inplace=True),
        conv3x3(second, planes),
    )


def _make_stem_pool(stem: str) -> nn.Module:
    if stem == "small":
        return nn.Identity()
    return nn.AvgPool2d(2) if stem == "clip" else nn.MaxPool2d(3, 2, 1)


def _make_pool(kind: str, num_classes: int, channels: int, side: int) -> nn.Module:
    if kind not in POOLS or (kind == "" and num_classes):
        raise ValueError(
            "ResNet: global_pool must be 'avg', 'max', 'attention', or '' with num_classes=0, got "
            f"{kind!r} with {num_classes} classes"
        )
    if kind == "":
        return nn.Identity()
    if kind == "attention":
        return AttentionPool(channels, num_classes, side)
    return nn.AdaptiveAvgPool2d((1, 1)) if kind == "avg" else nn.AdaptiveMaxPool2d((1, 1))


def input_channels(model: ResNet) -> int:
    """Channels of the image that a model takes."""
    return first_convolution(model).in_channels


def first_convolution(model: nn.Module) -> nn.Conv2d:
    """The convolution that sees the image: the first one."""
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d))


def feature_info(model: ResNet) -> list[dict[str, Any]]:
    """Of the stem and each stage that is left: channels, stride against the image, module name."""
    stride = first_convolution(model).stride[0]
    last_stem = [module for module in model.conv1.modules() if isinstance(module, nn.Conv2d)][-1]
    info = [{"num_chs": last_stem.out_channels, "reduction": stride, "module": "relu"}]
    if not isinstance(model.maxpool, nn.Identity):
        stride *= 2
    for number, stage in enumerate(model.stages, start=1):
        if not len(stage):
            break
        last = stage[-1]
        stride *= stage[0].stride
        convolution = last.conv3 if isinstance(last, Bottleneck) else last.conv2
        channels = convolution.out_channels
        info.append({"num_chs": channels, "reduction": stride, "module": f"layer{number}"})
    return info


def take_indices(indices: int | Sequence[int] | None, count: int = 5) -> list[int]:
    """Indices of feature maps: all for None, the last n for a number, negative ones from the end.

    Raises ValueError for one that there is not.
    """
    if indices is None:
        return list(range(count))
    chosen = range(-indices, 0) if isinstance(indices, int) else indices
    taken = [index + count if index < 0 else index for index in chosen]
    if not taken or not all(0 <= index < count for index in taken):
        raise ValueError(
            f"ResNet: feature indices must be within {-count} to {count - 1}, got {indices!r}"
        )
    return taken


def checkpointed(stage: nn.Sequential, x: Tensor) -> Tensor:
    """Run a stage block by block, keeping only what stands between the blocks."""
    for block in stage:
        x = checkpoint(block, x, use_reentrant=False)
    return x
