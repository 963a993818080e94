"""What stands beside weights: timm's and transformers' config.json, in our terms.

A card is a dict with any of "model", "categories" and "transforms" (`ImageClassification`'s
arguments).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..pictures.transforms import IMAGENET_MEAN, IMAGENET_STD
from .cache import WeightsError
from .names import imagenet_categories

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, which transformers writes
_SQUASH_FROM = 384  # transformers' ConvNextImageProcessor does not crop from this size on


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises WeightsError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise WeightsError(f"weights: {path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"weights: {path} holds {type(content).__name__}, not an object")
    return content


def card_from(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None) -> dict[str, Any]:
    """The card of a config.json, and of preprocessor_config.json; {} for another tool's file."""
    if "architecture" in config or "pretrained_cfg" in config:
        return _from_timm(config)
    if config.get("model_type") == "resnet" or "ResNet" in str(config.get("architectures")):
        return _from_transformers(config, preprocessor)
    return {}


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
    described: dict[str, Any] = {"model": card.get("architecture"), "transforms": transforms}
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
    size, crop = preprocessor.get("size", 224), preprocessor.get("crop_size")
    short = size if isinstance(size, int) else size.get("shortest_edge", size.get("height"))
    transforms: dict[str, Any] = {
        "crop_size": short,
        "resize_size": short,
        "mean": list(preprocessor.get("image_mean") or IMAGENET_MEAN),
        "std": list(preprocessor.get("image_std") or IMAGENET_STD),
        "interpolation": _RESAMPLE.get(preprocessor.get("resample", 2), "bilinear"),
    }
    if crop is not None and preprocessor.get("do_center_crop", True):
        transforms["crop_size"] = crop if isinstance(crop, int) else crop["height"]
    elif short < _SQUASH_FROM:
        transforms["resize_size"] = int(short / preprocessor.get("crop_pct", 0.875))
    else:
        transforms["crop_mode"] = "squash"
    described["transforms"] = transforms
    return described
