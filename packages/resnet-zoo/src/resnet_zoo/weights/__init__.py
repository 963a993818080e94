"""Weights: from a name to a source, from the source to a verified file, from there to tensors."""

from .cache import Remote, WeightsError, cache_dir, fetch
from .checkpoint import read_metadata, read_state_dict, save_weights
from .keys import LoadReport, StateDict, load_into, unwrap
from .names import (
    BASE,
    LICENCE_NOTE,
    WEIGHTS,
    ResNet18_Weights,
    ResNet34_Weights,
    ResNet50_Weights,
    ResNet101_Weights,
    ResNet152_Weights,
    ResNeXt50_32X4D_Weights,
    ResNeXt101_32X8D_Weights,
    ResNeXt101_64X4D_Weights,
    Weights,
    WeightsEnum,
    Wide_ResNet50_2_Weights,
    Wide_ResNet101_2_Weights,
    imagenet_categories,
)
from .sources import Source, resolve

__all__ = [
    "BASE",
    "LICENCE_NOTE",
    "WEIGHTS",
    "LoadReport",
    "Remote",
    "ResNeXt50_32X4D_Weights",
    "ResNeXt101_32X8D_Weights",
    "ResNeXt101_64X4D_Weights",
    "ResNet18_Weights",
    "ResNet34_Weights",
    "ResNet50_Weights",
    "ResNet101_Weights",
    "ResNet152_Weights",
    "Source",
    "StateDict",
    "Weights",
    "WeightsEnum",
    "WeightsError",
    "Wide_ResNet50_2_Weights",
    "Wide_ResNet101_2_Weights",
    "cache_dir",
    "fetch",
    "imagenet_categories",
    "load_into",
    "read_metadata",
    "read_state_dict",
    "resolve",
    "save_weights",
    "unwrap",
]
