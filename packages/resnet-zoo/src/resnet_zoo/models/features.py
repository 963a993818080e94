"""Feature maps of a ResNet, for detection, segmentation and transfer.

Index 0 is the stem (in front of the pooling), 1 to 4 are the stages, as in timm's `features_only`.
"""

# TorchScript reads this file and knows no postponed annotations.
from collections.abc import Sequence
from typing import Any, List  # noqa: UP035 (TorchScript)

import torch
from torch import Tensor, nn

from .frozen import Freezable
from .resnet import ResNet, checkpointed, take_indices


class FeatureInfo:
    """Channels, strides and names of the chosen feature maps: timm's protocol."""

    def __init__(self, info: list[dict[str, Any]], out_indices: Sequence[int]) -> None:
        self.info = [{**row, "index": index} for index, row in enumerate(info)]
        self.out_indices = tuple(out_indices)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """`key` of the chosen maps; of one index, or of several, whether chosen or not."""
        if isinstance(idx, int):
            return self.info[idx][key]
        return [self.info[index][key] for index in (self.out_indices if idx is None else idx)]

    def get_dicts(
        self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None
    ) -> Any:
        """All facts of the chosen maps, or those of `keys`."""
        if isinstance(idx, int):
            row = self.info[idx]
            return row if keys is None else {key: row[key] for key in keys}
        indices = self.out_indices if idx is None else idx
        return [self.get_dicts(keys, index) for index in indices]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Numbers of channels."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Strides against the image."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Names of the modules that give the maps."""
        return self.get("module", idx)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.info[index]

    def __len__(self) -> int:
        return len(self.info)


class ResNetFeatures(Freezable):
    """The trunk of a ResNet, returning a list of feature maps.

    (N, C, H, W) -> [(N, channels[i], H / strides[i], W / strides[i])], one for each chosen index.
    Later stages are not run and not kept. The model's modules are shared, not copied; what was
    frozen in it stays frozen here.

    Args:
        model: a ResNet.
        out_indices: ascending choice of 0 (stem) and 1 to 4 (stages); negative ones count from the
            end, a single number n takes the last n.
    """

    __jit_unused_properties__ = ("default_cfg", "stages")

    def __init__(self, model: ResNet, out_indices: int | Sequence[int] = (0, 1, 2, 3, 4)) -> None:
        super().__init__()
        indices = _ascending(out_indices)
        self.out_indices = indices
        self._indices = list(indices)
        self.conv1, self.bn1, self.relu, self.maxpool = (
            model.conv1,
            model.bn1,
            model.relu,
            model.maxpool,
        )
        for number, stage in enumerate(model.stages[: indices[-1]], start=1):
            self.add_module(f"layer{number}", stage)
        self.feature_info = FeatureInfo(model.feature_info, indices)
        self.channels = self.feature_info.channels()
        self.strides = self.feature_info.reduction()
        self.output_fmt = "NCHW"
        self.grad_checkpointing = False
        self.frozen_stages = model.frozen_stages
        self._default_cfg = model.default_cfg
        self.load_report = getattr(model, "load_report", None)
        self.source = getattr(model, "source", None)

    def forward(self, x: Tensor) -> List[Tensor]:  # noqa: UP006
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return self._checkpointed(x)
        x = self.relu(self.bn1(self.conv1(x)))
        found = [x]
        if hasattr(self, "layer1"):
            x = self.layer1(self.maxpool(x))
            found.append(x)
        if hasattr(self, "layer2"):
            x = self.layer2(x)
            found.append(x)
        if hasattr(self, "layer3"):
            x = self.layer3(x)
            found.append(x)
        if hasattr(self, "layer4"):
            x = self.layer4(x)
            found.append(x)
        return [found[index] for index in self._indices]

    @torch.jit.unused
    def _checkpointed(self, x: Tensor) -> List[Tensor]:  # noqa: UP006
        found = [self.relu(self.bn1(self.conv1(x)))]
        for number, stage in enumerate(self.stages):
            found.append(checkpointed(stage, found[-1] if number else self.maxpool(found[0])))
        return [found[index] for index in self.out_indices]

    @property
    def stages(self) -> list[nn.Sequential]:
        """The stages that are kept: layer1 to the last one chosen."""
        return [getattr(self, f"layer{n}") for n in range(1, 5) if hasattr(self, f"layer{n}")]

    @property
    def default_cfg(self) -> dict[str, Any]:
        """That of the model; see ResNet.default_cfg."""
        return self._default_cfg

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As ResNet.set_grad_checkpointing."""
        self.grad_checkpointing = enable


def _ascending(out_indices: int | Sequence[int]) -> tuple[int, ...]:
    try:
        indices = take_indices(out_indices)
    except ValueError:
        indices = []
    if not indices or indices != sorted(set(indices)):
        raise ValueError(
            "ResNetFeatures: out_indices must ascend within 0 (stem) to 4, or count from the end, "
            f"got {out_indices}"
        )
    return tuple(indices)
