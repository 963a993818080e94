"""ResNet v2 as Big Transfer has it: norms before convolutions, groups and standardised weights.

He et al., "Identity Mappings in Deep Residual Networks" (arXiv 1603.05027); Kolesnikov et al.,
"Big Transfer" (arXiv 1912.11370); weight standardisation: arXiv 1903.10520. Module names and the
order of operations are timm's.
"""

# TorchScript reads this file and knows no postponed annotations.
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .resnet import take_indices

STAGES = 4


class StandardConv2d(nn.Conv2d):
    """A convolution whose kernels are brought to mean 0 and variance 1 at each call."""

    def __init__(self, in_planes: int, out_planes: int, size: int, stride: int = 1) -> None:
        super().__init__(in_planes, out_planes, size, stride, (size - 1) // 2, bias=False)
        self.eps = 1e-8

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.weight.reshape(1, self.out_channels, -1)
        weight = functional.batch_norm(
            kernels, None, None, training=True, momentum=0.0, eps=self.eps
        )
        return functional.conv2d(x, weight.reshape_as(self.weight), None, self.stride, self.padding)


class GroupNormReLU(nn.GroupNorm):
    """Group normalisation with 32 groups, then ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return torch.relu_(x)


class Projection(nn.Module):
    """The convolution of a shortcut, under timm's name."""

    def __init__(self, in_planes: int, out_planes: int, stride: int) -> None:
        super().__init__()
        self.conv = StandardConv2d(in_planes, out_planes, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class PreActBottleneck(nn.Module):
    """(N, in_planes, H, W) -> (N, out_planes, H / stride, W / stride); nothing after the sum."""

    def __init__(self, in_planes: int, out_planes: int, stride: int, project: bool) -> None:
        super().__init__()
        width = out_planes // 4
        self.downsample = Projection(in_planes, out_planes, stride) if project else None
        self.norm1 = GroupNormReLU(in_planes)
        self.conv1 = StandardConv2d(in_planes, width, 1)
        self.norm2 = GroupNormReLU(width)
        self.conv2 = StandardConv2d(width, width, 3, stride)
        self.norm3 = GroupNormReLU(width)
        self.conv3 = StandardConv2d(width, out_planes, 1)

    def forward(self, x: Tensor) -> Tensor:
        active = self.norm1(x)
        shortcut = x if self.downsample is None else self.downsample(active)
        out = self.conv2(self.norm2(self.conv1(active)))
        return self.conv3(self.norm3(out)) + shortcut


class _Stage(nn.Module):
    def __init__(self, in_planes: int, out_planes: int, stride: int, depth: int) -> None:
        super().__init__()
        first = PreActBottleneck(in_planes, out_planes, stride, project=True)
        later = [PreActBottleneck(out_planes, out_planes, 1, False) for _ in range(depth - 1)]
        self.blocks = nn.Sequential(first, *later)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class PreActResNet(nn.Module):
    """A stem, four stages of pre-activation blocks, a norm, the mean, a 1x1 convolution.

    Args:
        block: PreActBottleneck.
        layers: blocks in each of the four stages.
        num_classes: outputs; 0 for the mean itself.
        in_channels: channels of the image.
        planes: channels of the stem; the stages have 4, 8, 16 and 32 times as many. A multiple of
            32 groups times 4.
        global_pool: "avg", or "" for the map (then with num_classes 0).

    Input (N, in_channels, H, W), floating point; output (N, num_classes). Published weights expect
    mean and deviation 0.5. Raises ValueError for arguments that make no sense.
    """

    __jit_unused_properties__ = ("default_cfg",)

    def __init__(
        self,
        block: type[PreActBottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        planes: int = 64,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        if planes < 32 or planes % 32:
            raise ValueError(f"PreActResNet: planes must be a multiple of 32, got {planes}")
        if block is not PreActBottleneck or len(layers) != STAGES:
            raise ValueError("PreActResNet: the block is PreActBottleneck, in four stages")
        self.in_channels = in_channels
        self.stem = nn.Sequential(
            OrderedDict(
                conv=StandardConv2d(in_channels, planes, 7, 2),
                pad=nn.ConstantPad2d(1, 0.0),
                pool=nn.MaxPool2d(3, 2),
            )
        )
        self.stages, before = nn.Sequential(), planes
        self.feature_info = [{"num_chs": planes, "reduction": 2, "module": "stem.conv"}]
        for number, depth in enumerate(layers):
            channels = planes * 4 * 2**number
            self.stages.append(_Stage(before, channels, 2 if number else 1, depth))
            info = {"num_chs": channels, "reduction": 4 * 2**number, "module": f"stages.{number}"}
            self.feature_info.append(info)
            before = channels
        self.num_features = self.head_hidden_size = before
        self.norm = GroupNormReLU(before)
        self.head = nn.Module()
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, StandardConv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        """Image to the last feature map, (N, num_features, H/32, W/32)."""
        return self.norm(self.stages(self.stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature map to (N, num_classes); to the mean (N, num_features) with `pre_logits`."""
        if self.global_pool == "":
            return x
        x = x.mean((2, 3), keepdim=True)
        return torch.flatten(x if pre_logits else self.head.fc(x), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    @torch.jit.unused
    def forward_intermediates(
        self, x: Tensor, indices: int | Sequence[int] | None = None, *, norm: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """(last map, [maps]) of `indices`, 0 (stem) to 4; `norm` for the last one as well."""
        taken, found = take_indices(indices), []
        x = self.stem.conv(x)
        maps = [x]
        x = self.stem.pool(self.stem.pad(x))
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        last = self.norm(x)
        for index in taken:
            found.append(last if norm and index == STAGES else maps[index])
        return last, found

    def get_classifier(self) -> nn.Module:
        """The classifier, a 1x1 convolution."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> "PreActResNet":
        """Replace the classifier by a fresh one; 0 makes it the identity."""
        pool = getattr(self, "global_pool", "avg") if global_pool is None else global_pool
        if num_classes < 0 or pool not in ("avg", "") or (pool == "" and num_classes):
            raise ValueError(
                "PreActResNet: global_pool must be 'avg', or '' with num_classes=0, got "
                f"{pool!r} with {num_classes} classes"
            )
        self.num_classes, self.global_pool = num_classes, pool
        self.head.fc = nn.Identity()
        if num_classes:
            like = self.norm.weight
            fc = nn.Conv2d(self.num_features, num_classes, 1, device=like.device, dtype=like.dtype)
            nn.init.normal_(fc.weight, std=0.01)
            nn.init.zeros_(fc.bias)  # type: ignore[arg-type]
            self.head.fc = fc
        return self

    @property
    def default_cfg(self) -> dict[str, Any]:
        """timm's description of a model, as far as it is known here."""
        return {
            "num_classes": self.num_classes, "input_size": (self.in_channels, 224, 224),
            "crop_pct": 0.875, "interpolation": "bilinear",
            "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
            "first_conv": "stem.conv", "classifier": "head.fc",
            **getattr(self, "pretrained_cfg", {}),
        }  # fmt: skip
