"""Grad-CAM against its definition, written out with hooks."""

import pytest
import torch
from PIL import Image

from resnet_zoo import get_model
from resnet_zoo.seeing.gradcam import colorize, grad_cam, overlay


def test_heat_equals_the_definition(calibrate):
    model = calibrate(get_model("resnet18", num_classes=6))
    x = torch.randn(2, 3, 64, 64)
    kept = {}
    handle = model.layer3.register_forward_hook(lambda *a: kept.update(maps=a[2]))
    logits = model(x)
    handle.remove()
    best = logits.argmax(1)
    (gradient,) = torch.autograd.grad(logits[range(2), best].sum(), kept["maps"])
    heat = (gradient.mean((2, 3), keepdim=True) * kept["maps"]).sum(1, keepdim=True).relu()
    heat = torch.nn.functional.interpolate(heat, (64, 64), mode="bilinear")[:, 0]
    heat = heat / heat.amax((1, 2), keepdim=True)
    ours, classes = grad_cam(model, x, stage=3)
    assert torch.equal(classes, best)
    assert torch.allclose(ours, heat, atol=1e-5)
    assert model.fc.weight.grad is None


def test_wrong_use_is_named():
    model = get_model("resnet18", num_classes=2, planes=8)
    with pytest.raises(ValueError, match="evaluation mode"):
        grad_cam(model.train(), torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match="stage must be"):
        grad_cam(model.eval(), torch.zeros(2, 3, 32, 32), stage=0)


def test_overlay_keeps_cold_parts_and_paints_hot_ones():
    picture = Image.new("RGB", (8, 8), (10, 200, 10))
    heat = torch.zeros(8, 8)
    heat[:, 4:] = 1
    out = overlay(picture, heat, strength=1.0)
    assert out.getpixel((0, 0)) == (10, 200, 10)
    assert out.getpixel((7, 0)) == (200, 0, 0)
    assert colorize(torch.tensor([[0.0, 0.5, 1.0]])).tolist() == [
        [[0, 0, 131], [40, 220, 180], [200, 0, 0]]
    ]
