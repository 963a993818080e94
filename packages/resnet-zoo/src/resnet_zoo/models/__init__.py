"""Models: the residual network, the names it goes by, its feature maps, its folded form."""

from .builders import (
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
from .features import ResNetFeatures
from .fold import fold_batchnorm
from .preact import PreActResNet
from .resnet import BasicBlock, Bottleneck, ResNet
from .variants import ARCHITECTURES, VARIANTS, Architecture

__all__ = [
    "ARCHITECTURES",
    "VARIANTS",
    "Architecture",
    "BasicBlock",
    "Bottleneck",
    "PreActResNet",
    "ResNet",
    "ResNetFeatures",
    "fold_batchnorm",
    "get_model",
    "get_model_weights",
    "get_weight",
    "list_models",
    "load_model",
    "load_report",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
