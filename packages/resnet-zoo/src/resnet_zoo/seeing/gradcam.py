"""Grad-CAM: which part of a picture spoke for a class.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017 (arXiv 1610.02391). A map's weight is the spatial mean of the gradient of
the class score; the positive part of the weighted sum is scaled to [0, 1].
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..models.resnet import ResNet

_STOPS = (
    (0.0, 0, 0, 131),
    (0.25, 0, 96, 255),
    (0.5, 40, 220, 180),
    (0.75, 255, 210, 0),
    (1.0, 200, 0, 0),
)


def grad_cam(
    model: ResNet, images: Tensor, classes: Tensor | None = None, stage: int = 4
) -> tuple[Tensor, Tensor]:
    """Heat maps (N, H, W) in [0, 1] at the size of `images`, and the classes (N,) they are for.

    Args:
        model: in evaluation mode.
        images: preprocessed (N, C, H, W).
        classes: int64 (N,); the predicted ones by default.
        stage: whose feature maps are weighed, 1 to 4. Earlier ones are finer and less telling.

    Raises ValueError in train mode, since the batch would change the norms.
    """
    if model.training:
        raise ValueError("grad_cam: the model must be in evaluation mode; cure: model.eval()")
    if not 1 <= stage <= 4:
        raise ValueError(f"grad_cam: stage must be 1 to 4, got {stage}")
    with torch.enable_grad():
        x = model.maxpool(model.forward_stem(images))
        for layer in model.stages[:stage]:
            x = layer(x)
        maps = x.detach().requires_grad_(True)
        x = maps
        for layer in model.stages[stage:]:
            x = layer(x.clone())
        logits = model.forward_head(x)
        chosen = logits.argmax(1) if classes is None else classes.to(logits.device)
        score = logits.gather(1, chosen[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, maps)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = functional.relu((weights * maps.detach()).sum(1, keepdim=True))
    size = list(images.shape[-2:])
    heat = functional.interpolate(heat, size=size, mode="bilinear", align_corners=False)[:, 0]
    peak = heat.amax(dim=(1, 2), keepdim=True)
    return heat / peak.clamp(min=1e-12), chosen


def colorize(heat: Tensor) -> Tensor:
    """(H, W) in [0, 1] to uint8 (H, W, 3): blue is cold, red is hot."""
    stops = torch.tensor(_STOPS)
    upper = torch.bucketize(heat.clamp(0, 1).cpu(), stops[:, 0].contiguous()).clamp(
        1, len(stops) - 1
    )
    low, high = stops[upper - 1], stops[upper]
    share = ((heat.cpu() - low[..., 0]) / (high[..., 0] - low[..., 0])).clamp(0, 1)[..., None]
    return (low[..., 1:] + share * (high[..., 1:] - low[..., 1:])).round().to(torch.uint8)


def overlay(image: Image.Image, heat: Tensor, strength: float = 0.5) -> Image.Image:
    """The picture with a (H, W) heat map over it; hotter parts are painted more strongly."""
    base = image.convert("RGB")
    height, width = heat.shape
    layer = Image.frombytes("RGB", (width, height), bytes(colorize(heat).flatten().tolist()))
    alpha = (heat.clamp(0, 1).cpu() * 255 * strength).round().to(torch.uint8)
    mask = Image.frombytes("L", (width, height), bytes(alpha.flatten().tolist()))
    size, smooth = base.size, Image.Resampling.BILINEAR
    base.paste(layer.resize(size, smooth), (0, 0), mask.resize(size, smooth))
    return base
