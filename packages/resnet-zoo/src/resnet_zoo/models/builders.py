"""The models by name: builders, weights, and the registry.

`resnet50(weights="IMAGENET1K_V2")` builds the network and loads verified weights: from the name to
a source, from the source to a file, from the file to tensors, from the tensors to the model. The
keywords of `ResNet` pass through; what the name decides is fixed.
"""

from __future__ import annotations

import fnmatch
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..weights.cache import WeightsError
from ..weights.checkpoint import read_metadata, read_state_dict
from ..weights.keys import LoadReport, load_into
from ..weights.names import WEIGHTS, WeightsEnum
from ..weights.sources import resolve
from .features import ResNetFeatures
from .resnet import ResNet
from .variants import ALL, ARCHITECTURES, Architecture

# timm's spelling of our keywords.
_ALIASES = {"in_chans": "in_channels", "drop_path_rate": "stochastic_depth"}


def get_model(name: str | Callable[..., Any], **kwargs: Any) -> ResNet | ResNetFeatures:
    """Build a model by its name (or its builder), with the keywords of its builder.

    Raises ValueError for a name that there is not.
    """
    return _build(_known(name), **kwargs)


def _build(
    name: str,
    *,
    pretrained: bool | None = None,
    weights: Any = None,
    progress: bool = True,
    offline: bool | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] = (0, 1, 2, 3, 4),
    feature_cls: str | None = None,
    **kwargs: Any,
) -> ResNet | ResNetFeatures:
    """Build `name`, load `weights` if any, and wrap it when only features are wanted.

    `feature_cls` is timm's choice among ways to take features; there is one here.
    """
    architecture = ALL[name]
    weights = _legacy(name, pretrained, weights)
    for theirs, ours in _ALIASES.items():
        if theirs in kwargs:
            if ours in kwargs:
                raise TypeError(f"{name}: {theirs} and {ours} are one setting; give one of them")
            kwargs[ours] = kwargs.pop(theirs)
    asked = set(kwargs)
    kwargs = {**architecture.usual, **kwargs}
    for key, value in architecture.fixed.items():
        if kwargs.setdefault(key, value) != value:
            raise ValueError(f"{name}: {key} is {value} by its name, got {kwargs[key]}")
    if features_only and weights is not None:
        kwargs["num_classes"] = 0  # no classifier is wanted, and the file may have none
        asked.add("num_classes")
        kwargs["global_pool"] = "avg"
    if features_only and architecture.network is not ResNet:
        raise ValueError(f"{name}: has no features_only; take its forward_intermediates()")
    if weights is None:
        model = architecture.network(architecture.block, architecture.layers, **kwargs)
    else:
        new_head = "num_classes" in asked
        model = _pretrained(name, architecture, weights, offline, progress, kwargs, new_head)
    model.pretrained_cfg = {"architecture": name}
    return ResNetFeatures(model, out_indices) if features_only else model


def _legacy(name: str, pretrained: bool | None, weights: Any) -> Any:
    """Translate the `pretrained` flag of old code, with a warning that names the new way."""
    if pretrained is None:
        return weights
    if not isinstance(pretrained, bool):
        raise TypeError(f"{name}: weights are given by keyword: {name}(weights={pretrained!r:.80})")
    if weights is not None:
        raise ValueError(f"{name}: give weights= or pretrained=, not both")
    if pretrained and name not in WEIGHTS:
        raise ValueError(
            f"{name}: torchvision has no weights of it; say which: {name}(weights=...)"
        )
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
    new_head: bool,
) -> ResNet:
    """A model with the tensors of `weights`; its `load_report` and `source` say what they are."""
    source = resolve(weights, name, offline=offline, progress=progress)
    path = source.path()
    tensors = read_state_dict(path)
    if not new_head and f"{architecture.head}.weight" in tensors:
        kwargs["num_classes"] = tensors[f"{architecture.head}.weight"].shape[0]
    model = architecture.network(architecture.block, architecture.layers, **kwargs)
    model.load_report = load_into(model, tensors, source.label, new_head=new_head)
    model.source = source
    return model


def load_report(model: ResNet | ResNetFeatures) -> LoadReport | None:
    """What loading did for a model that was built with weights, else None."""
    return getattr(model, "load_report", None)


def load_model(path: str | os.PathLike[str], **kwargs: Any) -> ResNet:
    """The model of a file that `save_weights` or training wrote, which says how it was built.

    `kwargs` change its arguments, e.g. `num_classes`. Raises WeightsError if the file does not name
    its model: then build it by name, with `weights=path`.
    """
    metadata = read_metadata(path)
    name = metadata.get("model")
    if not isinstance(name, str) or name not in ALL:
        raise WeightsError(
            f"load_model: {path} does not say which model it belongs to; cure: "
            f"get_model(NAME, weights={os.fspath(path)!r}), or in a command the model's name and "
            "the file as --weights"
        )
    arguments = metadata.get("model_args", {})
    _refuse_larger(path, name, arguments)
    return get_model(name, weights=path, **{**arguments, **kwargs})


def _refuse_larger(path: str | os.PathLike[str], name: str, arguments: Any) -> None:
    """Raises WeightsError for arguments, read from the file, that are none, or those of a network
    of more numbers than the file has bytes for: no memory is taken for it."""
    try:
        with torch.device("meta"):
            model = _build(name, **arguments)
    except (
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise WeightsError(f"load_model: {path} has damaged model_args: {error}") from error
    needed = sum(p.numel() for p in model.parameters())
    if needed > os.path.getsize(path):  # a byte each is less than any file has
        raise WeightsError(
            f"load_model: {path} has model_args of a network of {needed:,} numbers, and "
            f"{os.path.getsize(path):,} bytes"
        )


def list_models(pattern: str = "*", *, variants: bool = False) -> list[str]:
    """Names of the models that match a shell pattern, such as "resnext*".

    Those with published entries; with `variants` also those whose weights timm publishes.
    """
    return [name for name in (ALL if variants else ARCHITECTURES) if fnmatch.fnmatch(name, pattern)]


def get_model_weights(name: str | Callable[..., Any]) -> type[WeightsEnum]:
    """The weight entries of a model, given by its name or its builder.

    Raises ValueError for a variant, which has none.
    """
    known = _known(name)
    if known not in WEIGHTS:
        raise ValueError(f"get_model_weights: {known} has no published entries")
    return WEIGHTS[known]


def get_weight(name: str) -> WeightsEnum:
    """One entry by its full name, such as "ResNet50_Weights.IMAGENET1K_V2"."""
    kind = {cls.__name__: cls for cls in WEIGHTS.values()}.get(name.partition(".")[0])
    if kind is None:
        raise ValueError(f"get_weight: there is no entry {name!r}; write ResNet50_Weights.DEFAULT")
    return kind.verify(name)


def _known(name: str | Callable[..., Any]) -> str:
    text = name if isinstance(name, str) else getattr(name, "__name__", repr(name))
    if text.lower() not in ALL:
        raise ValueError(f"get_model: there is no model {text!r}; there are {', '.join(ALL)}")
    return text.lower()


# -- one builder a name ---------------------------------------------------------------------------


def _builder(name: str) -> Callable[..., Any]:
    """The builder of a name."""

    def build(
        pretrained: bool | None = None, *, weights: Any = None, progress: bool = True, **kwargs: Any
    ) -> ResNet:
        return _build(name, pretrained=pretrained, weights=weights, progress=progress, **kwargs)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"""{ALL[name].about}.

    Args:
        pretrained: the old flag; True means weights="IMAGENET1K_V1", with a warning.
        weights: None for a fresh model, or an entry (`ResNet18_Weights.IMAGENET1K_V1`), its name
            ("IMAGENET1K_V1", "DEFAULT"), a weight file or a folder with one, an address, or a
            Hugging Face repo ("timm/resnet18.a1_in1k").
        progress: show a download on stderr, if that is a terminal.
        offline: True forbids downloads; None asks RESNET_ZOO_OFFLINE and HF_HUB_OFFLINE.
        features_only, out_indices: return a `ResNetFeatures` of the chosen feature maps.
        **kwargs: the keywords of `ResNet` (timm's `in_chans` and `drop_path_rate` too). With
            weights, another `num_classes` keeps a fresh classifier and says so.

    Raises WeightsError when the weights cannot be brought in safely, ValueError and TypeError for
    arguments that contradict each other.
    """
    return build


resnet18 = _builder("resnet18")
resnet34 = _builder("resnet34")
resnet50 = _builder("resnet50")
resnet101 = _builder("resnet101")
resnet152 = _builder("resnet152")
resnext50_32x4d = _builder("resnext50_32x4d")
resnext101_32x8d = _builder("resnext101_32x8d")
resnext101_64x4d = _builder("resnext101_64x4d")
wide_resnet50_2 = _builder("wide_resnet50_2")
wide_resnet101_2 = _builder("wide_resnet101_2")
