"""Random changes of pictures and labels, all drawn from a generator that the caller seeds.

Batches: affine maps, flips, random erasing (arXiv 1708.04896), mixup (arXiv 1710.09412), cutmix
(arXiv 1905.04899). Single PIL images: random resized crop, TrivialAugment (arXiv 2103.10158).
"""

from __future__ import annotations

import math

import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Generator, Tensor
from torch.nn import functional

from .recipe import Recipe


def uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def beta(generator: Generator, alpha: float) -> float:
    """A draw from Beta(alpha, alpha), by Johnk's method (alpha <= 1) or as a ratio of gammas."""
    gamma = torch._standard_gamma(torch.full((2,), alpha), generator=generator)
    return (gamma[0] / gamma.sum().clamp(min=1e-12)).item()


def augment_batch(images: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
    """Affine maps, flips and erasing, one draw for each sample. (N, C, H, W) float."""
    if recipe.rotate or recipe.translate or recipe.zoom:
        images = random_affine(images, recipe.rotate, recipe.translate, recipe.zoom, generator)
    if recipe.flip:
        flips = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(flips.to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)
    return random_erase(images, recipe.erase, generator) if recipe.erase else images


def random_affine(
    images: Tensor, degrees: float, translate: float, zoom: float, generator: Generator
) -> Tensor:
    """Rotate, shift and scale each picture about its centre; the border value is repeated."""
    count = len(images)
    draws = torch.rand(4, count, generator=generator) * 2 - 1
    angle = draws[0] * math.radians(degrees)
    scale = 1 / (1 + draws[1] * zoom)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [cos, -sin, 2 * translate * draws[2], sin, cos, 2 * translate * draws[3]]
    theta = torch.stack(rows, dim=1).view(count, 2, 3).to(images)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def random_erase(images: Tensor, probability: float, generator: Generator) -> Tensor:
    """Set one rectangle (2 % to 33 % of the area) to zero, the mean after normalisation."""
    height, width = images.shape[-2:]
    images = images.clone()
    for sample in images:
        if uniform(generator, 0, 1) < probability:
            top, left, bottom, right = _rectangle(
                height, width, uniform(generator, 0.02, 0.33), generator
            )
            sample[..., top:bottom, left:right] = 0
    return images


def _rectangle(
    height: int, width: int, area: float, generator: Generator
) -> tuple[int, int, int, int]:
    """A rectangle of about `area` of the picture: (top, left, bottom, right)."""
    ratio = math.exp(uniform(generator, math.log(0.3), math.log(3.3)))
    tall = min(round(math.sqrt(height * width * area * ratio)), height)
    wide = min(round(math.sqrt(height * width * area / ratio)), width)
    top = int(uniform(generator, 0, height - tall + 1))
    left = int(uniform(generator, 0, width - wide + 1))
    return top, left, top + tall, left + wide


def mix(
    images: Tensor, targets: Tensor, recipe: Recipe, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix (a fair coin where both are on). `targets` are (N, classes) probabilities."""
    choices = [name for name in ("mixup", "cutmix") if getattr(recipe, name) > 0]
    if not choices:
        return images, targets
    kind = choices[int(uniform(generator, 0, len(choices)))]
    keep = beta(generator, getattr(recipe, kind))
    other = torch.randperm(len(images), generator=generator).to(images.device)
    if kind == "mixup":
        images = images * keep + images[other] * (1 - keep)
    else:
        height, width = images.shape[-2:]
        tall, wide = round(height * math.sqrt(1 - keep)), round(width * math.sqrt(1 - keep))
        top = int(uniform(generator, 0, height - tall + 1))
        left = int(uniform(generator, 0, width - wide + 1))
        box = (..., slice(top, top + tall), slice(left, left + wide))
        images = images.clone()
        images[box] = images[other][box]
        keep = 1 - tall * wide / (height * width)
    return images, targets * keep + targets[other] * (1 - keep)


def random_resized_crop(
    image: Image.Image, size: int, scale: tuple[float, float], generator: Generator
) -> Image.Image:
    """A crop of random area and shape (3/4 to 4/3), scaled to size x size, antialiased."""
    width, height = image.size
    for _ in range(10):
        area = width * height * uniform(generator, *scale)
        ratio = math.exp(uniform(generator, math.log(3 / 4), math.log(4 / 3)))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            left = int(uniform(generator, 0, width - wide + 1))
            top = int(uniform(generator, 0, height - tall + 1))
            break
    else:
        wide = tall = min(width, height)
        left, top = (width - wide) // 2, (height - tall) // 2
    box = (left, top, left + wide, top + tall)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def trivial_augment(image: Image.Image, generator: Generator) -> Image.Image:
    """One operation of random strength, the wide variant of the paper."""
    kind = int(uniform(generator, 0, 14))
    strength = uniform(generator, 0, 1)
    sign = 1 if uniform(generator, 0, 1) < 0.5 else -1
    width, height = image.size
    if kind == 0:
        return image
    if kind <= 5:
        shear, shift, turn = 0.99 * strength * sign, 32 * strength * sign, 135 * strength * sign
        matrices = {
            1: (1, shear, 0, 0, 1, 0),
            2: (1, 0, 0, shear, 1, 0),
            3: (1, 0, shift, 0, 1, 0),
            4: (1, 0, 0, 0, 1, shift),
        }
        if kind == 5:
            return image.rotate(turn)
        return image.transform((width, height), Image.Transform.AFFINE, matrices[kind])
    if kind <= 9:
        tools = (
            ImageEnhance.Brightness,
            ImageEnhance.Color,
            ImageEnhance.Contrast,
            ImageEnhance.Sharpness,
        )
        return tools[kind - 6](image).enhance(1 + 0.99 * strength * sign)
    if kind == 10:
        return ImageOps.posterize(image, 8 - round(6 * strength))
    if kind == 11:
        return ImageOps.solarize(image, round(255 * (1 - strength)))
    return ImageOps.autocontrast(image) if kind == 12 else ImageOps.equalize(image)
