"""The ten models by name: builders, weights, and the registry.

`resnet50(weights="IMAGENET1K_V2")` builds the network and loads verified weights. The keywords of
`ResNet` pass through; `groups` and `width_per_group` are fixed by the name.
"""

from __future__ import annotations

import fnmatch
import os
import warnings
from dataclasses import dataclass, field
from typing import Any

from ..weights.cache import WeightsError
from ..weights.checkpoint import LoadReport, load_into, read_metadata, read_state_dict
from ..weights.names import WEIGHTS, WeightsEnum
from ..weights.sources import resolve
from .features import ResNetFeatures
from .resnet import BasicBlock, Bottleneck, ResNet


@dataclass(frozen=True)
class Architecture:
    """What a name stands for."""

    block: type[BasicBlock | Bottleneck]
    layers: tuple[int, int, int, int]
    fixed: dict[str, int] = field(default_factory=dict)


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": Architecture(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Architecture(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Architecture(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Architecture(Bottleneck, (3, 4, 23, 3)),
    "resnet152": Architecture(Bottleneck, (3, 8, 36, 3)),
    "resnext50_32x4d": Architecture(Bottleneck, (3, 4, 6, 3), {"groups": 32, "width_per_group": 4}),
    "resnext101_32x8d": Architecture(
        Bottleneck, (3, 4, 23, 3), {"groups": 32, "width_per_group": 8}
    ),
    "resnext101_64x4d": Architecture(
        Bottleneck, (3, 4, 23, 3), {"groups": 64, "width_per_group": 4}
    ),
    "wide_resnet50_2": Architecture(Bottleneck, (3, 4, 6, 3), {"width_per_group": 128}),
    "wide_resnet101_2": Architecture(Bottleneck, (3, 4, 23, 3), {"width_per_group": 128}),
}


def _resnet(
    name: str,
    pretrained: bool | None,
    weights: Any,
    progress: bool,
    *,
    offline: bool | None = None,
    features_only: bool = False,
    out_indices: tuple[int, ...] = (0, 1, 2, 3, 4),
    **kwargs: Any,
) -> ResNet | ResNetFeatures:
    """Build `name`, load `weights` if any, and wrap it when only features are wanted."""
    architecture = ARCHITECTURES[name]
    weights = _legacy(name, pretrained, weights)
    for key, value in architecture.fixed.items():
        if kwargs.setdefault(key, value) != value:
            raise ValueError(f"{name}: {key} is {value} by its name, got {kwargs[key]}")
    if weights is None:
        model = ResNet(architecture.block, architecture.layers, **kwargs)
    else:
        model = _pretrained(name, architecture, weights, offline, progress, kwargs)
    return ResNetFeatures(model, out_indices) if features_only else model


def _legacy(name: str, pretrained: bool | None, weights: Any) -> Any:
    """Translate the `pretrained` flag of old code, with a warning that names the new way."""
    if pretrained is None:
        return weights
    if not isinstance(pretrained, bool):
        raise TypeError(f"{name}: weights are given by keyword: {name}(weights={pretrained!r})")
    if weights is not None:
        raise ValueError(f"{name}: give weights= or pretrained=, not both")
    entry = WEIGHTS[name]["IMAGENET1K_V1"] if pretrained else None
    said = f'"{entry.name}"' if entry else "None"
    warnings.warn(
        f"{name}(pretrained={pretrained}) is old spelling; say {name}(weights={said})",
        FutureWarning,
        stacklevel=4,
    )
    return entry


def _pretrained(
    name: str,
    architecture: Architecture,
    weights: Any,
    offline: bool | None,
    progress: bool,
    kwargs: dict[str, Any],
) -> ResNet:
    """A model with the tensors of `weights`; its `load_report` and `source` say what they are."""
    source = resolve(weights, name, offline=offline, progress=progress)
    tensors = read_state_dict(source.path())
    new_head = "num_classes" in kwargs
    if not new_head and "fc.weight" in tensors:
        kwargs["num_classes"] = tensors["fc.weight"].shape[0]
    model = ResNet(architecture.block, architecture.layers, **kwargs)
    model.load_report = load_into(model, tensors, source.label, new_head=new_head)
    model.source = source
    return model


def load_report(model: ResNet) -> LoadReport | None:
    """What loading did for a model that was built with weights, else None."""
    return getattr(model, "load_report", None)


def load_model(path: str | os.PathLike[str], **kwargs: Any) -> ResNet:
    """The model of a file that `save_weights` or training wrote, which says how it was built.

    `kwargs` change its arguments, e.g. `num_classes`. Raises WeightsError if the file does not name
    its model: then build it by name, with `weights=path`.
    """
    metadata = read_metadata(path)
    if metadata.get("model") not in ARCHITECTURES:
        raise WeightsError(
            f"load_model: {path} does not say which model it belongs to; cure: "
            f"get_model(NAME, weights={os.fspath(path)!r}), or --model NAME"
        )
    arguments = {**metadata.get("model_args", {}), **kwargs}
    return get_model(metadata["model"], weights=path, **arguments)


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern, such as "resnext*"."""
    return [name for name in ARCHITECTURES if fnmatch.fnmatch(name, pattern)]


def get_model(name: str, **kwargs: Any) -> ResNet | ResNetFeatures:
    """Build a model by its name, with the keywords of its builder."""
    return _resnet(
        _known(name),
        kwargs.pop("pretrained", None),
        kwargs.pop("weights", None),
        kwargs.pop("progress", True),
        **kwargs,
    )


def get_model_weights(name: str) -> type[WeightsEnum]:
    """The weight entries of a model."""
    return WEIGHTS[_known(name)]


def get_weight(name: str) -> WeightsEnum:
    """One entry by its full name, such as "ResNet50_Weights.IMAGENET1K_V2"."""
    kind = {cls.__name__: cls for cls in WEIGHTS.values()}.get(name.partition(".")[0])
    if kind is None:
        raise ValueError(f"get_weight: there is no entry {name!r}; write ResNet50_Weights.DEFAULT")
    return kind.verify(name)


def _known(name: str) -> str:
    if name.lower() not in ARCHITECTURES:
        raise ValueError(f"there is no model {name!r}; there are {', '.join(ARCHITECTURES)}")
    return name.lower()


def resnet18(
    pretrained: bool | None = None, *, weights: Any = None, progress: bool = True, **kwargs: Any
) -> ResNet:
    """ResNet-18: 11.7 M parameters, 1.8 GMAC.

    Args:
        pretrained: the old flag; True means weights="IMAGENET1K_V1", with a warning.
        weights: None for a fresh model, or an entry (`ResNet18_Weights.IMAGENET1K_V1`), its name
            ("IMAGENET1K_V1", "DEFAULT"), a .safetensors or .pth file, an address, or a
            Hugging Face repo ("timm/resnet18.a1_in1k").
        progress: show a download on stderr, if that is a terminal.
        offline: True forbids downloads; None asks RESNET_ZOO_OFFLINE and HF_HUB_OFFLINE.
        features_only, out_indices: return a `ResNetFeatures` of the chosen feature maps.
        **kwargs: the keywords of `ResNet`. With weights, another `num_classes` keeps a fresh
            classifier and says so.

    Raises WeightsError when the weights cannot be brought in safely, ValueError and TypeError for
    arguments that contradict each other.
    """
    return _resnet("resnet18", pretrained, weights, progress, **kwargs)


def resnet34(
    pretrained: bool | None = None, *, weights: Any = None, progress: bool = True, **kwargs: Any
) -> ResNet:
    """ResNet-34: 21.8 M parameters, 3.7 GMAC.

    The arguments are those of `resnet18`.
    """
    return _resnet("resnet34", pretrained, weights, progress, **kwargs)


def resnet50(
    pretrained: bool | None = None, *, weights: Any = None, progress: bool = True, **kwargs: Any
) -> ResNet:
    """ResNet-50 (v1.5): 25.6 M parameters, 4.1 GMAC.

    The arguments are those of `resnet18`.
    """
    return _resnet("resnet50", pretrained, weights, progress, **kwargs)


def resnet101(
    pretrained: bool | None = None, *, weights: Any = None, progress: bool = True, **kwargs: Any
) -> ResNet:
    """ResNet-101 (v1.5): 44.5 M parameters, 7.8 GMAC.

    The arguments are those of `resnet18`.
    """
    return _resnet("resnet101", pretrained, weights, progress, **kwargs)


def resnet152(
    pretrained: bool | None = None, *, weights: Any = None, progress: bool = True, **kwargs: Any
) -> ResNet:
    """ResNet-152 (v1.5): 60.2 M parameters, 11.5 GMAC.

    The arguments are those of `resnet18`.
    """
    return _resnet("resnet152", pretrained, weights, progress, **kwargs)


def resnext50_32x4d(
    pretrained: bool | None = None, *, weights: Any = None, progress: bool = True, **kwargs: Any
) -> ResNet:
    """ResNeXt-50, 32 groups of width 4: 25.0 M parameters, 4.2 GMAC.

    The arguments are those of `resnet18`.
    """
    return _resnet("resnext50_32x4d", pretrained, weights, progress, **kwargs)


def resnext101_32x8d(
    pretrained: bool | None = None, *, weights: Any = None, progress: bool = True, **kwargs: Any
) -> ResNet:
    """ResNeXt-101, 32 groups of width 8: 88.8 M parameters, 16.4 GMAC.

    The arguments are those of `resnet18`.
    """
    return _resnet("resnext101_32x8d", pretrained, weights, progress, **kwargs)


def resnext101_64x4d(
    pretrained: bool | None = None, *, weights: Any = None, progress: bool = True, **kwargs: Any
) -> ResNet:
    """ResNeXt-101, 64 groups of width 4: 83.5 M parameters, 15.5 GMAC.

    The arguments are those of `resnet18`.
    """
    return _resnet("resnext101_64x4d", pretrained, weights, progress, **kwargs)


def wide_resnet50_2(
    pretrained: bool | None = None, *, weights: Any = None, progress: bool = True, **kwargs: Any
) -> ResNet:
    """Wide ResNet-50-2, inner width doubled: 68.9 M parameters, 11.4 GMAC.

    The arguments are those of `resnet18`.
    """
    return _resnet("wide_resnet50_2", pretrained, weights, progress, **kwargs)


def wide_resnet101_2(
    pretrained: bool | None = None, *, weights: Any = None, progress: bool = True, **kwargs: Any
) -> ResNet:
    """Wide ResNet-101-2, inner width doubled: 126.9 M parameters, 22.8 GMAC.

    The arguments are those of `resnet18`.
    """
    return _resnet("wide_resnet101_2", pretrained, weights, progress, **kwargs)
