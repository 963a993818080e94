"""ResNet, ResNeXt and Wide ResNet with exact weights, a safe cache and fast inference.

import resnet_zoo
model = resnet_zoo.resnet50(weights="IMAGENET1K_V2").eval()
"""

from importlib.metadata import PackageNotFoundError, version

from . import _moved
from .inference.optimization import Optimized, optimize
from .models.builders import (
    get_model,
    get_model_weights,
    get_weight,
    list_models,
    load_model,
    load_report,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from .models.features import ResNetFeatures
from .models.fold import fold_batchnorm
from .models.resnet import BasicBlock, Bottleneck, ResNet
from .pictures.images import open_image
from .pictures.transforms import ImageClassification
from .weights.cache import WeightsError, cache_dir
from .weights.checkpoint import LoadReport, read_metadata, read_state_dict, save_weights
from .weights.names import (
    WEIGHTS,
    ResNet18_Weights,
    ResNet34_Weights,
    ResNet50_Weights,
    ResNet101_Weights,
    ResNet152_Weights,
    ResNeXt50_32X4D_Weights,
    ResNeXt101_32X8D_Weights,
    ResNeXt101_64X4D_Weights,
    WeightsEnum,
    Wide_ResNet50_2_Weights,
    Wide_ResNet101_2_Weights,
    imagenet_categories,
)
from .weights.sources import Source, resolve

_moved.install()
__getattr__ = _moved.attribute

__all__ = [
    "WEIGHTS",
    "BasicBlock",
    "Bottleneck",
    "ImageClassification",
    "LoadReport",
    "Optimized",
    "ResNeXt50_32X4D_Weights",
    "ResNeXt101_32X8D_Weights",
    "ResNeXt101_64X4D_Weights",
    "ResNet",
    "ResNet18_Weights",
    "ResNet34_Weights",
    "ResNet50_Weights",
    "ResNet101_Weights",
    "ResNet152_Weights",
    "ResNetFeatures",
    "Source",
    "WeightsEnum",
    "WeightsError",
    "Wide_ResNet50_2_Weights",
    "Wide_ResNet101_2_Weights",
    "cache_dir",
    "fold_batchnorm",
    "get_model",
    "get_model_weights",
    "get_weight",
    "imagenet_categories",
    "list_models",
    "load_model",
    "load_report",
    "open_image",
    "optimize",
    "read_metadata",
    "read_state_dict",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "resolve",
    "save_weights",
    "wide_resnet50_2",
    "wide_resnet101_2",
]

try:
    __version__ = version("resnet-zoo")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "unknown"
