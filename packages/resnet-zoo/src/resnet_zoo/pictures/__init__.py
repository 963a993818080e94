"""Pictures: image files to upright 8-bit images, and images to the tensors a network expects."""

from .images import SUFFIXES, images_below, open_image
from .transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageClassification,
    center_crop,
    pil_to_tensor,
    resize,
    to_float,
)

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "SUFFIXES",
    "ImageClassification",
    "center_crop",
    "images_below",
    "open_image",
    "pil_to_tensor",
    "resize",
    "to_float",
]
