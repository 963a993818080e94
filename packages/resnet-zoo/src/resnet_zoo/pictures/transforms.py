"""Image preprocessing for classification: resize, centre crop, scale to [0, 1], normalise.

The numbers equal those of torchvision's `ImageClassification` preset, for PIL images and tensors;
antialiasing is always on, since leaving it off is the usual cause of lost accuracy.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_PIL_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def pil_to_tensor(image: Image.Image) -> Tensor:
    """PIL image to uint8 (C, H, W); modes other than L and RGB are converted to RGB first."""
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    channels = len(image.getbands())
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, channels).permute(2, 0, 1).contiguous()


def _resized_size(height: int, width: int, short: int) -> tuple[int, int]:
    """(height, width) whose shorter side is `short`; the longer one is truncated, as upstream."""
    if width <= height:
        return int(short * height / width), short
    return short, int(short * width / height)


def resize(image: Any, short: int, interpolation: str = "bilinear") -> Any:
    """Scale a PIL image or (..., C, H, W) tensor, antialiased, so that its shorter side is `short`.

    Integer tensors are computed in float32 and rounded back.
    """
    if isinstance(image, Image.Image):
        height, width = _resized_size(image.height, image.width, short)
        if (width, height) == image.size:
            return image
        return image.resize((width, height), _PIL_FILTERS[interpolation])
    size = _resized_size(image.shape[-2], image.shape[-1], short)
    if tuple(size) == tuple(image.shape[-2:]):
        return image
    exact = image if image.dtype in (torch.float32, torch.float64) else image.float()
    batch = exact.reshape(-1, *exact.shape[-3:])
    out = functional.interpolate(
        batch, size=list(size), mode=interpolation, align_corners=False, antialias=True
    ).reshape(*image.shape[:-2], *size)
    if image.dtype.is_floating_point:
        return out.to(image.dtype)
    if interpolation == "bicubic":
        out = out.clamp(min=0, max=255)
    return out.round().to(image.dtype)


def center_crop(image: Any, size: int) -> Any:
    """Cut the central size x size; an image that is smaller is padded with zeros first."""
    pil = isinstance(image, Image.Image)
    width, height = image.size if pil else (image.shape[-1], image.shape[-2])
    if width < size or height < size:
        left, top = max((size - width) // 2, 0), max((size - height) // 2, 0)
        right, bottom = max((size - width + 1) // 2, 0), max((size - height + 1) // 2, 0)
        if pil:
            padded = Image.new(image.mode, (width + left + right, height + top + bottom))
            padded.paste(image, (left, top))
            image = padded
        else:
            image = functional.pad(image, [left, right, top, bottom])
        width, height = width + left + right, height + top + bottom
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    if pil:
        return image.crop((left, top, left + size, top + size))
    return image[..., top : top + size, left : left + size]


def to_float(image: Tensor) -> Tensor:
    """uint8 0..255 to float32 0..1; floating point passes as float32."""
    if image.dtype.is_floating_point:
        return image.to(torch.float32)
    if image.dtype != torch.uint8:
        raise TypeError(
            f"ImageClassification: an image tensor must be uint8 or floating point, got "
            f"{image.dtype}; scale it to [0, 1] float32 first"
        )
    return image.to(torch.float32).div(255)


class ImageClassification:
    """Callable preprocessing: PIL image or tensor to normalised float32.

    A PIL image gives (C, crop, crop); a tensor (..., C, H, W), uint8 or float in [0, 1], gives
    (..., C, crop, crop). A PIL image that is not RGB is converted when three channels are expected.

    Args:
        crop_size: side of the square that the model sees.
        resize_size: length of the shorter side before the crop.
        mean, std: one number a channel; their length decides grey (1) or RGB (3).
        interpolation: "bilinear" or "bicubic".
    """

    def __init__(
        self,
        *,
        crop_size: int,
        resize_size: int = 256,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        interpolation: str = "bilinear",
    ) -> None:
        if interpolation not in _PIL_FILTERS:
            raise ValueError(
                f"ImageClassification: interpolation must be bilinear or bicubic, got "
                f"{interpolation!r}"
            )
        if len(mean) != len(std) or len(mean) not in (1, 3):
            raise ValueError(
                f"ImageClassification: mean and std must have 1 or 3 numbers, got {mean}, {std}"
            )
        self.crop_size = crop_size
        self.resize_size = resize_size
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.interpolation = interpolation

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        if isinstance(image, Image.Image):
            mode = "L" if len(self.mean) == 1 else "RGB"
            image = image if image.mode == mode else image.convert(mode)
        elif not isinstance(image, Tensor) or image.ndim < 3:
            raise TypeError(
                "ImageClassification: the image must be a PIL image or a tensor (..., C, H, W), "
                f"got {getattr(image, 'shape', type(image).__name__)}"
            )
        image = center_crop(resize(image, self.resize_size, self.interpolation), self.crop_size)
        if isinstance(image, Image.Image):
            image = pil_to_tensor(image)
        mean = torch.tensor(self.mean, device=image.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=image.device).view(-1, 1, 1)
        return (to_float(image) - mean) / std

    def denormalize(self, batch: Tensor) -> Tensor:
        """Undo mean and std: (..., C, H, W) back to [0, 1], for pictures."""
        mean = torch.tensor(self.mean, device=batch.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=batch.device).view(-1, 1, 1)
        return (batch * std + mean).clamp(0, 1)

    def to_dict(self) -> dict[str, Any]:
        """The constructor's arguments, for JSON; `ImageClassification(**d)` is equal again."""
        return {
            "crop_size": self.crop_size,
            "resize_size": self.resize_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageClassification) and self.to_dict() == other.to_dict()

    __hash__ = None

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in self.to_dict().items())
        return f"ImageClassification({arguments})"
