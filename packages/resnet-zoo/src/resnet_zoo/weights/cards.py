"""What stands beside weights: timm's and transformers' config.json, in our terms.

A card is a dict with any of "model", "categories" and "transforms" (`ImageClassification`'s
arguments).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..pictures.transforms import IMAGENET_MEAN, IMAGENET_STD, ImageClassification
from .cache import WeightsError
from .names import imagenet_categories

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, which transformers writes
_MOST_PIXELS = 4096  # along a side of what a card asks for
_SQUASH_FROM = 384  # transformers' ConvNextImageProcessor does not crop from this size on


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises WeightsError for anything else, OSError where the system
    does not let it be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"weights: {path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"weights: {path} holds {type(content).__name__}, not an object")
    return content


def card_from(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None) -> dict[str, Any]:
    """The card of a config.json, and of preprocessor_config.json; {} for another tool's file.

    Raises WeightsError for values of other types than those files have.
    """
    try:
        if "architecture" in config or "pretrained_cfg" in config:
            return _from_timm(config)
        if config.get("model_type") == "resnet" or "ResNet" in str(config.get("architectures")):
            return _from_transformers(config, preprocessor)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        raise WeightsError(
            f"weights: {CONFIG} or {PREPROCESSOR} beside the weights holds what no such file does "
            f"({error}); cure: correct or remove it"
        ) from error
    return {}


def checked(card: dict[str, Any], label: str) -> dict[str, Any]:
    """`card`, whose values are those of a stranger's file. Raises WeightsError, with `label`, for
    classes that are no names, and for a preprocessing that there is not."""
    try:
        names, transforms = card.get("categories"), card.get("transforms")
        if names and not all(isinstance(name, str) for name in names):
            raise TypeError(f"categories must be names, got {names!r:.80}")
        if transforms:
            made = ImageClassification(**transforms)
            sides = (made.crop_size, made.resize_size)
            if max(max(s) if isinstance(s, Sequence) else s for s in sides) > _MOST_PIXELS:
                raise ValueError(f"sides must be at most {_MOST_PIXELS}, got {sides}")
        if not isinstance(card.get("model"), (str, type(None))):
            raise TypeError(f"model must be a name, got {card['model']!r:.80}")
    except (TypeError, ValueError, OverflowError) as error:
        raise WeightsError(
            f"weights: {label}: what it, or {CONFIG} beside it, says of classes and preprocessing "
            f"is damaged: {error}"
        ) from error
    return card


def _from_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """timm's pretrained_cfg: the crop fraction becomes the resize length, rounded down."""
    card = {**config, **(config.get("pretrained_cfg") or {})}
    channels, *sides = card.get("test_input_size") or card.get("input_size") or (3, 224, 224)
    fraction = card.get("test_crop_pct") or card.get("crop_pct") or 0.875
    scaled = [int(side / fraction) for side in sides]
    square = sides[0] == sides[1]
    transforms: dict[str, Any] = {
        "crop_size": sides[0] if square else sides,
        "resize_size": scaled[0] if square else scaled,
        "mean": list(card.get("mean") or IMAGENET_MEAN)[:channels],
        "std": list(card.get("std") or IMAGENET_STD)[:channels],
        "interpolation": card.get("interpolation") or "bilinear",
    }
    if (mode := card.get("crop_mode") or "center") != "center":
        transforms["crop_mode"] = mode
    model = card.get("architecture")
    if not isinstance(model, (str, type(None))):
        raise TypeError(f"architecture must be a name, got {model!r:.80}")
    described: dict[str, Any] = {"model": model, "transforms": transforms}
    if names := card.get("label_names"):
        described["categories"] = list(names)
    elif card.get("num_classes") == 1000:
        described["categories"] = list(imagenet_categories())
    return described


def _from_transformers(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None
) -> dict[str, Any]:
    if config.get("downsample_in_bottleneck"):
        raise WeightsError(
            "weights: the config says downsample_in_bottleneck: these are weights of a ResNet that "
            "strides in its first 1x1 convolution, which this package does not build"
        )
    described: dict[str, Any] = {}
    labels = config.get("id2label") or {}
    if labels:
        described["categories"] = [labels[key] for key in sorted(labels, key=int)]
    if preprocessor is None:
        return described
    if told := _not_done_here(preprocessor):
        warnings.warn(
            f"resnet-zoo: {PREPROCESSOR} says {told}, which is not done here; it is not used",
            stacklevel=5,
        )
        return described
    size, crop = preprocessor.get("size", 224), preprocessor.get("crop_size")
    normal = preprocessor.get("do_normalize", True)
    transforms: dict[str, Any] = {
        "mean": list(preprocessor.get("image_mean") or IMAGENET_MEAN) if normal else [0.0] * 3,
        "std": list(preprocessor.get("image_std") or IMAGENET_STD) if normal else [1.0] * 3,
        "interpolation": _RESAMPLE[preprocessor.get("resample", 2)],
    }
    if isinstance(size, Mapping) and "height" in size:  # exactly that size, whatever the ratio
        transforms["resize_size"] = transforms["crop_size"] = [size["height"], size["width"]]
        transforms["crop_mode"] = "squash"
    else:
        short = size if isinstance(size, int) else size["shortest_edge"]
        transforms["resize_size"] = transforms["crop_size"] = short
        if crop is None and short < _SQUASH_FROM:
            transforms["resize_size"] = int(short / (preprocessor.get("crop_pct") or 0.875))
        elif crop is None:
            transforms["crop_mode"] = "squash"
    if crop is not None and preprocessor.get("do_center_crop", True):
        transforms["crop_size"] = crop if isinstance(crop, int) else [crop["height"], crop["width"]]
    described["transforms"] = {
        key: value[0]
        if isinstance(value, list) and key.endswith("_size") and value[0] == value[1]
        else value
        for key, value in transforms.items()
    }
    return described


def _not_done_here(preprocessor: Mapping[str, Any]) -> str:
    """A setting that `ImageClassification` has no argument for; "" if there is none."""
    by_ratio = "height" not in str(preprocessor.get("size"))
    uncropped = by_ratio and preprocessor.get("crop_size") is not None
    for name, value in (("do_resize", True), ("do_rescale", True), ("do_center_crop", True)):
        if preprocessor.get(name, value) is not value and (name != "do_center_crop" or uncropped):
            return f"{name}={preprocessor[name]}"
    if preprocessor.get("resample", 2) not in _RESAMPLE:
        return f"resample={preprocessor['resample']}"
    factor = preprocessor.get("rescale_factor", 1 / 255)
    return "" if abs(factor * 255 - 1) < 1e-3 else f"rescale_factor={factor}"
