"""Feature maps of a ResNet, for detection, segmentation and transfer.

Index 0 is the stem (in front of the pooling), 1 to 4 are the stages, as in timm's `features_only`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .resnet import Bottleneck, ResNet


class ResNetFeatures(nn.Module):
    """The trunk of a ResNet, returning a list of feature maps.

    (N, C, H, W) -> [(N, channels[i], H / strides[i], W / strides[i])], one for each chosen index.
    Later stages are not run and not kept. The model's modules are shared, not copied.

    Args:
        model: a ResNet.
        out_indices: ascending choice of 0 (stem) and 1 to 4 (stages).
    """

    def __init__(self, model: ResNet, out_indices: Sequence[int] = (0, 1, 2, 3, 4)) -> None:
        super().__init__()
        indices = tuple(out_indices)
        if (
            not indices
            or list(indices) != sorted(set(indices))
            or not 0 <= indices[0] <= indices[-1] <= 4
        ):
            raise ValueError(
                f"ResNetFeatures: out_indices must ascend within 0 (stem) to 4, got {indices}"
            )
        self.out_indices = indices
        self.conv1, self.bn1, self.relu, self.maxpool = (
            model.conv1,
            model.bn1,
            model.relu,
            model.maxpool,
        )
        for number, stage in enumerate(model.stages[: indices[-1]], start=1):
            self.add_module(f"layer{number}", stage)
        info = _feature_info(model)
        self.channels = [info[index][0] for index in indices]
        self.strides = [info[index][1] for index in indices]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.relu(self.bn1(self.conv1(x)))
        found = [x] if 0 in self.out_indices else []
        for number in range(1, self.out_indices[-1] + 1):
            x = getattr(self, f"layer{number}")(self.maxpool(x) if number == 1 else x)
            if number in self.out_indices:
                found.append(x)
        return found


def _feature_info(model: ResNet) -> list[tuple[int, int]]:
    """(channels, stride against the image) of the stem and the four stages."""
    stride = model.conv1.stride[0]
    info = [(model.conv1.out_channels, stride)]
    if not isinstance(model.maxpool, nn.Identity):
        stride *= 2
    for stage in model.stages:
        last = stage[-1]
        stride *= stage[0].stride
        convolution = last.conv3 if isinstance(last, Bottleneck) else last.conv2
        info.append((convolution.out_channels, stride))
    return info
