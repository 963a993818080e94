"""The parts of a ResNet: convolutions, attention, shortcuts, the two residual blocks.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv 1512.03385). The
bottleneck strides in its 3x3 convolution ("v1.5"), as the published ImageNet weights expect.
Squeeze-and-excitation: arXiv 1709.01507; efficient channel attention: arXiv 1910.03151; averaging
shortcuts ("D"): arXiv 1812.01187. Names and order of operations are torchvision's and timm's.
"""

# TorchScript reads this file and knows no postponed annotations.
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

NormLayer = Callable[..., nn.Module]
ATTENTIONS = ("se", "eca")


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


@torch.fx.wrap
def stochastic_depth(branch: Tensor, rate: float, training: bool) -> Tensor:
    """Drop the residual branch of whole samples with probability `rate`, scaling up the others.

    Huang et al., "Deep Networks with Stochastic Depth" (arXiv 1603.09382). `branch` is
    (N, C, H, W). The identity outside training or at rate 0.
    """
    if not training or rate == 0.0:
        return branch
    keep = torch.rand([branch.shape[0], 1, 1, 1], device=branch.device) >= rate
    return branch * keep.to(branch.dtype) / (1.0 - rate)


class SqueezeExcite(nn.Module):
    """Weigh channels by what the whole map says: (N, C, H, W) -> the same shape.

    The hidden width is C / 16, rounded to a multiple of 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, int(channels / 16 + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, hidden, kernel_size=1)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, channels, kernel_size=1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        weights = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.fc2(self.act(self.fc1(weights))))


class EfficientChannelAttention(nn.Module):
    """Weigh channels by their neighbours' means: (N, C, H, W) -> the same shape.

    One convolution over the channels, of odd width near (log2 C + 1) / 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = int(abs(math.log2(channels) + 1) / 2)
        width = max(width if width % 2 else width + 1, 3)
        self.conv = nn.Conv1d(1, 1, kernel_size=width, padding=width // 2, bias=False)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        weights = self.conv(x.mean((2, 3)).view(x.shape[0], 1, -1))
        return x * self.gate(weights).view(x.shape[0], -1, 1, 1).expand_as(x)


def make_attention(kind: str | None, channels: int) -> nn.Module | None:
    """The attention of a name ("se", "eca"), or None."""
    if kind is None:
        return None
    return SqueezeExcite(channels) if kind == "se" else EfficientChannelAttention(channels)


class AttentionPool(nn.Module):
    """The mean of a map asks all its positions: (N, C, H, W) -> (N, out), or (N, C) for out = 0.

    CLIP's pooling (Radford et al., arXiv 2103.00020, section 2.4): one layer of attention with
    heads of 64 channels. The learned positions are those of a map of `side` x `side`, and are
    resampled for others.
    """

    def __init__(self, channels: int, out: int, side: int = 7) -> None:
        super().__init__()
        if channels % 64:
            raise ValueError(f"AttentionPool: channels must be a multiple of 64, got {channels}")
        self.heads, self.side = channels // 64, side
        self.positional_embedding = nn.Parameter(
            torch.randn(side**2 + 1, channels) / math.sqrt(channels)
        )
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj: nn.Module = nn.Linear(channels, out) if out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        places = x.flatten(2).transpose(1, 2)
        places = torch.cat([places.mean(1, keepdim=True), places], 1)
        places = places + self._positions(height, width).to(x.dtype)
        query = self._split(self.q_proj(places[:, :1]))
        key, value = self._split(self.k_proj(places)), self._split(self.v_proj(places))
        found = functional.scaled_dot_product_attention(query, key, value)
        return self.c_proj(found.transpose(1, 2).reshape(count, channels))

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, 64).transpose(1, 2)

    def _positions(self, height: int, width: int) -> Tensor:
        if height == self.side and width == self.side:
            return self.positional_embedding
        grid = self.positional_embedding[1:].reshape(1, self.side, self.side, -1)
        grid = functional.interpolate(
            grid.permute(0, 3, 1, 2).float(), size=[height, width], mode="bicubic", antialias=True
        )
        return torch.cat([self.positional_embedding[:1], grid.flatten(2)[0].transpose(0, 1)])


class PadRightAndBottom(nn.Module):
    """One row and column of zeros, so that a 2x2 pooling of stride 1 keeps the size."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, [0, 1, 0, 1])


def make_shortcut(
    inplanes: int,
    planes: int,
    stride: int,
    norm_layer: NormLayer,
    *,
    average: bool = False,
    dilation: int = 1,
    ceil: bool = True,
) -> nn.Sequential:
    """The projection of a shortcut: a strided 1x1 convolution, or an average and a plain one.

    `ceil` averages a last odd row too.
    """
    if not average:
        return nn.Sequential(conv1x1(inplanes, planes, stride), norm_layer(planes))
    pool: nn.Module = nn.Identity()
    if stride != 1:
        pool = nn.AvgPool2d(2, stride, ceil_mode=ceil, count_include_pad=False)
    elif dilation > 1:
        pool = nn.Sequential(PadRightAndBottom(), nn.AvgPool2d(2, 1))
    return nn.Sequential(pool, conv1x1(inplanes, planes), norm_layer(planes))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: the block of ResNet-18 and -34.

    (N, inplanes, H, W) -> (N, planes, H / stride, W / stride). Raises ValueError for groups or
    base_width other than 1 and 64, NotImplementedError for dilation > 1 without `first_dilation`,
    as torchvision does; with it the first convolution has that dilation, the second `dilation`.
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
        *,
        first_dilation: int | None = None,
        attention: str | None = None,
    ) -> None:
        super().__init__()
        norm_layer = norm_layer or nn.BatchNorm2d
        if groups != 1 or base_width != 64:
            raise ValueError(
                f"BasicBlock: groups and base_width must be 1 and 64, got {groups} and "
                f"{base_width}; grouped or wide networks are built from Bottleneck"
            )
        if dilation > 1 and first_dilation is None:
            raise NotImplementedError(
                f"BasicBlock: dilation must be 1, got {dilation}; dilated networks are built from "
                "Bottleneck (resnet50 and larger), or with output_stride="
            )
        self.conv1 = conv3x3(inplanes, planes, stride, dilation=first_dilation or dilation)
        self.bn1 = norm_layer(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes, dilation=dilation)
        self.bn2 = norm_layer(planes)
        self.se = make_attention(attention, planes)
        self.downsample = downsample
        self.stride = stride
        self.drop_rate = 0.0

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.se is not None:
            out = self.se(out)
        if self.training and self.drop_rate > 0.0:
            out = stochastic_depth(out, self.drop_rate, self.training)
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand by 4, and a shortcut: the block of ResNet-50 and larger.

    (N, inplanes, H, W) -> (N, 4 planes, H / stride, W / stride). The inner width is
    int(planes * base_width / 64) * groups; the stride and the dilation are in the 3x3. With
    `average_stride` the 3x3 keeps the size and an average over the stride follows (CLIP).
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
        *,
        first_dilation: int | None = None,
        attention: str | None = None,
        average_stride: bool = False,
    ) -> None:
        super().__init__()
        norm_layer = norm_layer or nn.BatchNorm2d
        width = int(planes * (base_width / 64.0)) * groups
        self.conv1 = conv1x1(inplanes, width)
        self.bn1 = norm_layer(width)
        inside = 1 if average_stride else stride
        self.conv2 = conv3x3(width, width, inside, groups, first_dilation or dilation)
        self.bn2 = norm_layer(width)
        self.pool = nn.AvgPool2d(stride) if stride != inside else None
        self.conv3 = conv1x1(width, planes * self.expansion)
        self.bn3 = norm_layer(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.se = make_attention(attention, planes * self.expansion)
        self.downsample = downsample
        self.stride = stride
        self.drop_rate = 0.0

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        if self.pool is not None:
            out = self.pool(out)
        out = self.bn3(self.conv3(out))
        if self.se is not None:
            out = self.se(out)
        if self.training and self.drop_rate > 0.0:
            out = stochastic_depth(out, self.drop_rate, self.training)
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)
