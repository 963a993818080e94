"""ResNet, ResNeXt and Wide ResNet: one network class, two residual blocks.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv 1512.03385); Xie et al.,
ResNeXt (arXiv 1611.05431); Zagoruyko & Komodakis, Wide ResNet (arXiv 1605.07146). The bottleneck
strides in its 3x3 convolution ("v1.5"), as the published ImageNet weights expect.

Module names, construction order and the order of floating-point operations are those of
torchvision.models.resnet, so that state dicts, seeds and outputs agree to the last bit. What
torchvision does not have (`stem`, `in_channels`, `stochastic_depth`, freezing, the head methods)
adds neither parameters nor operations when it is left at its default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

NormLayer = Callable[..., nn.Module]
STEMS = ("imagenet", "small")


def conv3x3(
    in_planes: int, out_planes: int, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """3x3 convolution that keeps the spatial size at stride 1, without bias (a norm follows)."""
    return nn.Conv2d(
        in_planes, out_planes, 3, stride, dilation, dilation=dilation, groups=groups, bias=False
    )


def conv1x1(in_planes: int, out_planes: int, stride: int = 1) -> nn.Conv2d:
    """1x1 convolution without bias."""
    return nn.Conv2d(in_planes, out_planes, kernel_size=1, stride=stride, bias=False)


def stochastic_depth(branch: Tensor, rate: float, training: bool) -> Tensor:
    """Drop the residual branch of whole samples with probability `rate`, scaling up the others.

    Huang et al., "Deep Networks with Stochastic Depth" (arXiv 1603.09382). `branch` is
    (N, C, H, W). The identity outside training or at rate 0.
    """
    if not training or rate == 0.0:
        return branch
    keep = torch.rand(branch.shape[0], 1, 1, 1, device=branch.device) >= rate
    return branch * keep.to(branch.dtype) / (1.0 - rate)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: the block of ResNet-18 and -34.

    (N, inplanes, H, W) -> (N, planes, H / stride, W / stride). Raises ValueError for groups or
    base_width other than 1 and 64, NotImplementedError for dilation > 1, as torchvision does.
    """

    expansion = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: NormLayer | None = None,
    ) -> None:
        super().__init__()
        norm_layer = norm_layer or nn.BatchNorm2d
        if groups != 1 or base_width != 64:
            raise ValueError(
                f"BasicBlock: groups and base_width must be 1 and 64, got {groups} and "
                f"{base_width}; grouped or wide networks are built from Bottleneck"
            )
        if dilation > 1:
            raise NotImplementedError(
                f"BasicBlock: dilation must be 1, got {dilation}; dilated networks are built from "
                "Bottleneck (resnet50 and larger)"
            )
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn1 = norm_layer(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = norm_layer(planes)
        self.downsample = downsample
        self.stride = stride
        self.drop_rate = 0.0

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = stochastic_depth(out, self.drop_rate, self.training)
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand by 4, and a shortcut: the block of ResNet-50 and larger.

    (N, inplanes, H, W) -> (N, 4 planes, H / stride, W / stride). The inner width is
    int(planes * base_width / 64) * groups; the stride and the dilation are in the 3x3.
    """

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: NormLayer | None = None,
    ) -> None:
        super().__init__()
        norm_layer = norm_layer or nn.BatchNorm2d
        width = int(planes * (base_width / 64.0)) * groups
        self.conv1 = conv1x1(inplanes, width)
        self.bn1 = norm_layer(width)
        self.conv2 = conv3x3(width, width, stride, groups, dilation)
        self.bn2 = norm_layer(width)
        self.conv3 = conv1x1(width, planes * self.expansion)
        self.bn3 = norm_layer(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride
        self.drop_rate = 0.0

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out = stochastic_depth(out, self.drop_rate, self.training)
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """A stem, four stages of residual blocks, average pooling and a linear classifier.

    Args:
        block: BasicBlock or Bottleneck.
        layers: blocks in each of the four stages.
        num_classes: outputs of the classifier `fc`.
        zero_init_residual: start the last norm of every block at zero (arXiv 1706.02677).
        groups, width_per_group: grouped (ResNeXt) and wide 3x3 convolutions; Bottleneck only.
        replace_stride_with_dilation: three flags for stages 2 to 4; Bottleneck only.
        norm_layer: called with the number of channels; BatchNorm2d by default.
        in_channels: channels of the image.
        stem: "imagenet" (7x7 stride 2, then 3x3 max pool: /4) or "small" (3x3 stride 1, no pool:
            /1), the usual choice for 32x32 images.
        planes: channels of the stem and first stage; each later stage has twice as many. A
            multiple of 8; less than 64 gives narrow networks, for tiny pictures.
        stochastic_depth: drop rate of the last block; earlier blocks drop linearly less often.

    Input (N, in_channels, H, W), floating point; output (N, num_classes).
    Raises ValueError for a wrong `replace_stride_with_dilation`, `stem`, `planes` or
    `stochastic_depth`.
    """

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
    ) -> None:
        super().__init__()
        dilate = (False, False, False)
        if replace_stride_with_dilation is not None:
            dilate = tuple(replace_stride_with_dilation)
        if len(dilate) != 3:
            raise ValueError(
                "ResNet: replace_stride_with_dilation must be None or 3 flags (stages 2 to 4), "
                f"got {replace_stride_with_dilation!r}"
            )
        if stem not in STEMS:
            raise ValueError(f"ResNet: stem must be one of {', '.join(STEMS)}, got {stem!r}")
        # Fewer corrupt the heap in torch 2.13: oneDNN's backward of 1x1 stride-2 convolutions of 4
        # channels in channels-last layout writes outside its buffers on AVX2.
        if planes < 8 or planes % 8:
            raise ValueError(f"ResNet: planes must be a multiple of 8, got {planes}")
        if not 0.0 <= stochastic_depth < 1.0:
            raise ValueError(f"ResNet: stochastic_depth must be in [0, 1), got {stochastic_depth}")
        self._norm_layer = norm_layer or nn.BatchNorm2d
        self.inplanes = planes
        self.dilation = 1
        self.groups = groups
        self.base_width = width_per_group
        self.stem = stem
        self.frozen_stages = -1

        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, planes, 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = conv3x3(in_channels, planes)
        self.bn1 = self._norm_layer(planes)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        self.layer1 = self._make_layer(block, planes, layers[0])
        self.layer2 = self._make_layer(block, planes * 2, layers[1], stride=2, dilate=dilate[0])
        self.layer3 = self._make_layer(block, planes * 4, layers[2], stride=2, dilate=dilate[1])
        self.layer4 = self._make_layer(block, planes * 8, layers[3], stride=2, dilate=dilate[2])
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(self.inplanes, num_classes)
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
            downsample = nn.Sequential(
                conv1x1(self.inplanes, planes * block.expansion, stride),
                norm_layer(planes * block.expansion),
            )
        common = {"groups": self.groups, "base_width": self.base_width, "norm_layer": norm_layer}
        # The first block of a dilated stage still has the dilation of the stage before.
        stage = [
            block(self.inplanes, planes, stride, downsample, dilation=first_dilation, **common)
        ]
        self.inplanes = planes * block.expansion
        for _ in range(1, blocks):
            stage.append(block(self.inplanes, planes, dilation=self.dilation, **common))
        return nn.Sequential(*stage)

    def _init_weights(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
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

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        """layer1 to layer4."""
        return self.layer1, self.layer2, self.layer3, self.layer4

    def blocks(self) -> list[BasicBlock | Bottleneck]:
        """All residual blocks, in the order of execution."""
        return [block for stage in self.stages for block in stage]

    @property
    def num_features(self) -> int:
        """Channels in front of the classifier (512 or 2048 in the published models)."""
        return self.inplanes

    def forward_stem(self, x: Tensor) -> Tensor:
        """Image to the activation in front of the pooling: (N, 64, H/2, W/2), H, W if small."""
        return self.relu(self.bn1(self.conv1(x)))

    def forward_features(self, x: Tensor) -> Tensor:
        """Image to the last feature map, (N, num_features, H/32, W/32) for the ImageNet stem."""
        x = self.maxpool(self.forward_stem(x))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature map to (N, num_classes); to the pooled (N, num_features) with `pre_logits`."""
        x = torch.flatten(self.avgpool(x), 1)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> ResNet:
        """Replace `fc` by a fresh one on the same device and dtype; 0 makes it the identity."""
        if num_classes < 0:
            raise ValueError(f"reset_classifier: num_classes must be >= 0, got {num_classes}")
        if num_classes == 0:
            self.fc = nn.Identity()
        else:
            like = self.conv1.weight
            self.fc = nn.Linear(
                self.num_features, num_classes, device=like.device, dtype=like.dtype
            )
        return self

    def freeze(self, stages: int) -> ResNet:
        """Stop training of the stem (0), and of the stages up to `stages` (1 to 4); -1 unfreezes.

        Their parameters stop requiring gradients and their norms stay in evaluation mode, also
        after `train()`.
        """
        if not -1 <= stages <= 4:
            raise ValueError(
                f"freeze: stages must be -1 (nothing), 0 (stem) or 1 to 4, got {stages}"
            )
        self.frozen_stages = stages
        self.requires_grad_(True)
        for part in self._frozen_parts():
            part.requires_grad_(False)
        return self.train(self.training)

    def _frozen_parts(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.conv1, self.bn1, *self.stages[: self.frozen_stages]]

    def train(self, mode: bool = True) -> ResNet:
        """As nn.Module.train, except that frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self
