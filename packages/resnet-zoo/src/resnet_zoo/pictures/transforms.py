"""Image preprocessing for classification: resize, centre crop, scale to [0, 1], normalise.

The numbers equal those of torchvision's `ImageClassification` preset and of timm's evaluation
transforms, for PIL images and tensors; antialiasing is always on, since leaving it off is the usual
cause of lost accuracy.
"""

# TorchScript reads this file: it knows neither postponed annotations nor rounding to int.
# ruff: noqa: RUF005, RUF046, UP006, UP035
import math
from collections.abc import Sequence
from typing import Any, List

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from .images import in_8_bits

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROP_MODES = ("center", "squash", "border")
_PIL_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def pil_to_tensor(image: Image.Image) -> Tensor:
    """PIL image to uint8 (C, H, W); modes other than L and RGB are converted to RGB first."""
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    channels = len(image.getbands())
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, channels).permute(2, 0, 1).contiguous()


def resize(image: Any, short: int, interpolation: str = "bilinear") -> Any:
    """Scale a PIL image or (..., C, H, W) tensor, antialiased, so that its shorter side is `short`.

    Integer tensors are computed in float32 and rounded back.
    """
    if isinstance(image, Image.Image):
        return _resize_pil(image, _size_after(image.height, image.width, [short]), interpolation)
    size = _size_after(image.shape[-2], image.shape[-1], [short])
    return _resize_tensor(image, size, interpolation)


def center_crop(image: Any, size: int) -> Any:
    """Cut the central size x size; an image that is smaller is padded with zeros first."""
    if isinstance(image, Image.Image):
        return _crop_pil(image, size, size, None)
    return _crop_tensor(image, size, size, [])


def to_float(image: Tensor) -> Tensor:
    """uint8 0..255 to float32 0..1; floating point passes as float32."""
    if image.is_floating_point():
        return image.to(torch.float32)
    if image.dtype != torch.uint8:
        raise TypeError(
            "ImageClassification: an image tensor must be uint8 or floating point, got "
            + str(image.dtype)
            + "; scale it to [0, 1] float32 first"
        )
    return image.to(torch.float32).div(255)


def _size_after(height: int, width: int, resize: List[int], mode: str = "center") -> List[int]:
    """(height, width) of the scaled image; `resize` is the shorter side, or (height, width).

    "center" covers the size asked for and "border" fits into it, both keeping the ratio; "squash"
    takes exactly that size. The longer side is truncated, as torchvision does, where one number is
    given, and rounded, as timm does, where two are.
    """
    if len(resize) == 1 and mode == "center":
        short = resize[0]
        if width <= height:
            return [int(short * height / width), short]
        return [short, int(short * width / height)]
    wanted = [resize[0], resize[-1]]
    if mode == "squash":
        return wanted
    ratios = [height / wanted[0], width / wanted[1]]
    ratio = max(ratios[0], ratios[1]) if mode == "border" else min(ratios[0], ratios[1])
    return [int(round(height / ratio)), int(round(width / ratio))]


def _resize_pil(image: Image.Image, size: Sequence[int], interpolation: str) -> Image.Image:
    height, width = size
    if (width, height) == image.size:
        return image
    return image.resize((width, height), _PIL_FILTERS[interpolation])


def _resize_tensor(image: Tensor, size: List[int], interpolation: str) -> Tensor:
    if image.shape[-2] == size[0] and image.shape[-1] == size[1]:
        return image
    exact = image
    if image.dtype != torch.float32 and image.dtype != torch.float64:
        exact = image.to(torch.float32)
    leading = list(image.shape[:-3])
    batch = exact.reshape([-1] + list(image.shape[-3:]))
    out = functional.interpolate(
        batch, size=size, mode=interpolation, align_corners=False, antialias=True
    )
    out = out.reshape(leading + [image.shape[-3]] + size)
    if image.is_floating_point():
        return out.to(image.dtype)
    if interpolation == "bicubic":
        out = out.clamp(min=0, max=255)
    return out.round().to(image.dtype)


def _padding(size: int, wanted: int) -> List[int]:
    """Numbers of pixels in front and behind that bring a side to what is wanted."""
    return [max((wanted - size) // 2, 0), max((wanted - size + 1) // 2, 0)]


def _crop_pil(
    image: Image.Image, height: int, width: int, fill: Sequence[int] | None
) -> Image.Image:
    (top, bottom), (left, right) = _padding(image.height, height), _padding(image.width, width)
    if top or bottom or left or right:
        color = 0 if fill is None else fill[0] if len(fill) == 1 else tuple(fill)
        size = (image.width + left + right, image.height + top + bottom)
        padded = Image.new(image.mode, size, color)
        padded.paste(image, (left, top))
        image = padded
    top, left = round((image.height - height) / 2.0), round((image.width - width) / 2.0)
    return image.crop((left, top, left + width, top + height))


def _crop_tensor(image: Tensor, height: int, width: int, fill: List[float]) -> Tensor:
    """`fill` has a number for each channel, or none for zeros."""
    rows, columns = _padding(image.shape[-2], height), _padding(image.shape[-1], width)
    if sum(rows) + sum(columns) > 0:
        pad = [columns[0], columns[1], rows[0], rows[1]]
        if len(fill) > 0:
            border = torch.tensor(fill, dtype=image.dtype, device=image.device).view(-1, 1, 1)
            inside = functional.pad(torch.ones_like(image), pad)
            image = functional.pad(image, pad)
            image = torch.where(inside > 0, image, border.expand_as(image))
        else:
            image = functional.pad(image, pad)
    top = int(round((image.shape[-2] - height) / 2.0))
    left = int(round((image.shape[-1] - width) / 2.0))
    return image[..., top : top + height, left : left + width]


def _check_shape(image: Tensor, channels: int) -> None:
    given = image.shape[-3]
    if (given != 1 and given != channels) or image.shape[-2] == 0 or image.shape[-1] == 0:
        raise ValueError(
            "ImageClassification: an image tensor must be (..., "
            + str(channels)
            + ", H, W), or (..., 1, H, W), with pixels, got "
            + str(image.shape)
            + "; convert it to RGB first (channels before height and width)"
        )


class ImageClassification(nn.Module):
    """Preprocessing as a module: PIL image or tensor to normalised float32.

    A PIL image gives (C, crop, crop); a tensor (..., C, H, W), uint8 or float in [0, 1], gives
    (..., C, crop, crop), where one channel serves as three. The result is float32 whatever torch's
    default dtype is. A PIL image that is not RGB is converted when three channels are expected, one
    of 16 bits is scaled to 8. `torch.jit.script` takes it, for tensors.

    Args:
        crop_size: what the model sees: the side of a square, or (height, width).
        resize_size: length of the shorter side before the crop, or (height, width).
        mean, std: one number a channel; their length decides grey (1) or RGB (3).
        interpolation: "bilinear" or "bicubic".
        crop_mode: timm's: "center" scales the image over `resize_size`; "squash" to exactly that
            size, whatever its ratio; "border" into that size, with a border of the mean colour.

    Raises ValueError for arguments that make no sense; the call TypeError for what is no image,
    ValueError for one of other channels, without pixels, or of numbers whose white is not known.
    """

    def __init__(
        self,
        *,
        crop_size: int | Sequence[int],
        resize_size: int | Sequence[int] = 256,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        interpolation: str = "bilinear",
        crop_mode: str = "center",
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("interpolation", interpolation, tuple(_PIL_FILTERS)),
            ("crop_mode", crop_mode, CROP_MODES),
        ):
            if value not in known:
                raise ValueError(
                    f"ImageClassification: {name} must be {' or '.join(known)}, got {value!r}"
                )
        if len(mean) != len(std) or len(mean) not in (1, 3):
            raise ValueError(
                f"ImageClassification: mean and std must have 1 or 3 numbers, got {mean}, {std}"
            )
        if not all(math.isfinite(value) for value in mean) or not all(value > 0 for value in std):
            raise ValueError(
                f"ImageClassification: mean must be finite and std positive, got {mean}, {std}"
            )
        self.crop_size = _side("crop_size", crop_size)
        self.resize_size = _side("resize_size", resize_size)
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.interpolation = interpolation
        self.crop_mode = crop_mode
        self._crop = _pair(self.crop_size)
        self._resize = (
            [self.resize_size] if isinstance(self.resize_size, int) else list(self.resize_size)
        )
        self._mean, self._std = list(self.mean), list(self.std)

    def forward(self, image: Tensor) -> Tensor:
        if not isinstance(image, Tensor):
            image = self._from_pil(image)
        elif image.dim() < 3:
            raise TypeError(
                "ImageClassification: the image must be a PIL image or a tensor (..., C, H, W), "
                + "got "
                + str(image.shape)
            )
        else:
            _check_shape(image, len(self._mean))
            size = _size_after(image.shape[-2], image.shape[-1], self._resize, self.crop_mode)
            image = _resize_tensor(image, size, self.interpolation)
            image = _crop_tensor(image, self._crop[0], self._crop[1], self._fill(image))
        image = to_float(image)
        mean = torch.tensor(self._mean, dtype=image.dtype, device=image.device).view(-1, 1, 1)
        std = torch.tensor(self._std, dtype=image.dtype, device=image.device).view(-1, 1, 1)
        return (image - mean) / std

    def _fill(self, image: Tensor) -> List[float]:
        """The border's colour on the scale of `image`; none: zeros."""
        if self.crop_mode != "border":
            return torch.jit.annotate(List[float], [])
        if image.is_floating_point():
            return self._mean
        return [float(int(round(255 * value))) for value in self._mean]

    @torch.jit.unused
    def _from_pil(self, image: Any) -> Tensor:
        """uint8 (C, crop, crop)."""
        if not isinstance(image, Image.Image):
            raise TypeError(
                "ImageClassification: the image must be a PIL image or a tensor (..., C, H, W), "
                f"got {getattr(image, 'shape', type(image).__name__)}"
            )
        mode = "L" if len(self.mean) == 1 else "RGB"
        image = in_8_bits(image)
        image = image if image.mode == mode else image.convert(mode)
        size = _size_after(image.height, image.width, self._resize, self.crop_mode)
        image = _resize_pil(image, size, self.interpolation)
        fill = [round(255 * value) for value in self.mean] if self.crop_mode == "border" else None
        return pil_to_tensor(_crop_pil(image, *self._crop, fill))

    @torch.jit.unused
    def denormalize(self, batch: Tensor) -> Tensor:
        """Undo mean and std: (..., C, H, W) back to [0, 1], for pictures."""
        mean = batch.new_tensor(self.mean).view(-1, 1, 1)
        std = batch.new_tensor(self.std).view(-1, 1, 1)
        return (batch * std + mean).clamp(0, 1)

    @torch.jit.unused
    def to_dict(self) -> dict[str, Any]:
        """The constructor's arguments, for JSON; `ImageClassification(**d)` is equal again."""
        arguments: dict[str, Any] = {
            "crop_size": self.crop_size,
            "resize_size": self.resize_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
        }
        if self.crop_mode != "center":  # files of today stay readable by earlier versions
            arguments["crop_mode"] = self.crop_mode
        return arguments

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageClassification) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:  # modules are kept in sets
        return hash(repr(self.to_dict()))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in self.to_dict().items())
        return f"ImageClassification({arguments})"


def _side(name: str, value: int | Sequence[int]) -> int | tuple[int, int]:
    """A length, or (height, width) where they differ. Raises ValueError, TypeError."""
    if isinstance(value, (str, bytes, float)) or not isinstance(value, (int, Sequence)):
        raise TypeError(
            f"ImageClassification: {name} must be a whole number or (height, width), got {value!r}"
        )
    sides = [value] if isinstance(value, int) else list(value)
    if len(sides) not in (1, 2) or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(
            f"ImageClassification: {name} must be positive, one number or two, got {value!r}"
        )
    if len(sides) == 1:
        return sides[0]
    return sides[0], sides[1]


def _pair(side: int | tuple[int, int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else side
