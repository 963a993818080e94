"""Whole numbers of 8 bits: calibrated on pictures, close to the model, the error stated."""

import copy
import pickle

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from resnet_zoo import get_model, optimize
from resnet_zoo.inference.int8 import Int8ResNet, Scale, _max_pool, unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason="no 8-bit convolutions here")


def net(calibrate, name="resnet18", **arguments):
    torch.manual_seed(0)
    return calibrate(get_model(name, **{"planes": 16, "num_classes": 9, **arguments}))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", {}), ("resnet50", {}), ("resnext50_32x4d", {"planes": 32}),
        ("resnet26t", {}), ("seresnet18", {}), ("ecaresnet26t", {}),
        ("resnet18", {"stem": "small", "global_pool": "max"}), ("resnet50", {"output_stride": 8}),
    ],
)  # fmt: skip
@torch.no_grad()
def test_every_kind_of_network_is_close_at_several_sizes(calibrate, name, arguments):
    model = net(calibrate, name, **arguments)
    fast = Int8ResNet(model, [torch.randn(4, 3, 64, 64)])
    for shape in ((2, 3, 64, 64), (1, 3, 65, 50)):
        x = torch.randn(shape)
        expected = model(x)
        assert 1e-5 < (fast(x) - expected).norm() / expected.norm() < 0.2
        assert fast(x).dtype is torch.float32


@torch.no_grad()
def test_maps_of_a_trunk_are_close_and_outlive_the_next_block(calibrate):
    for stem in ("imagenet", "small"):
        trunk = net(calibrate, stem=stem, features_only=True)
        pictures = torch.randn(4, 3, 32, 32)
        fast = optimize(
            trunk, dtype=torch.int8, calibration=pictures, example=(2, 3, 32, 32), tolerance=0.5
        )
        assert fast.report.trials[0].agreement is None
        for a, b in zip(fast(pictures), trunk(pictures), strict=True):
            assert (a - b).norm() / b.norm() < 0.1


def test_scales_hold_zero_exactly_and_keep_the_order():
    scale = Scale.within(-0.7, 2.0)
    assert scale.read(scale.store(torch.zeros(1, 1, 1, 1))).item() == 0.0
    x = torch.linspace(-0.7, 2.0, 500)[:, None, None, None]
    assert (scale.read(scale.store(x)) - x).abs().max() <= scale.step * 0.5001
    pool, stored = nn.MaxPool2d(3, 2, 1), torch.randint(0, 255, (2, 4, 13, 10), dtype=torch.uint8)
    assert torch.equal(_max_pool(pool, stored, Scale(0.5)).float(), pool(stored.float()))


def test_trained_on_digits_it_agrees_on_pictures_it_has_not_seen():
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    labels = torch.from_numpy(data.target)
    torch.manual_seed(0)
    model = get_model("resnet18", stem="small", planes=8, num_classes=10, in_channels=1).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(4):
        for rows in torch.randperm(1000).split(50):
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    fast = optimize(model, dtype=torch.int8, calibration=images[:256], example=(8, 1, 8, 8))
    trial = fast.report.trials[0]
    assert 0 < trial.error < 0.1
    assert f"same class in {trial.agreement:.2%}" in str(fast.report)
    with torch.no_grad():
        right, ours = model(images[1000:]).argmax(1), fast(images[1000:]).argmax(1)
    assert (right == labels[1000:]).float().mean() > 0.85
    assert (right == ours).float().mean() >= 0.99


def test_it_is_copied_and_pickled_and_refuses_what_the_model_refuses(calibrate):
    model = net(calibrate)
    x = torch.randn(2, 3, 32, 32)
    fast = optimize(model, dtype=torch.int8, calibration=[x, x[:1]], example=x)
    given = next(trial for trial in fast.report.trials if trial.name == "as given")
    assert given.milliseconds is not None
    expected = fast(x)
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(twin(x), expected)
    with pytest.raises(RuntimeError, match=r"must be torch\.float32, got torch\.int8"):
        fast(x.to(torch.int8))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"dtype": torch.int8}, "belong together"),
        ({"calibration": torch.zeros(1, 3, 32, 32)}, "belong together"),
        ({"dtype": torch.int8, "calibration": []}, "got none"),
        ({"dtype": torch.int8, "calibration": torch.zeros(3, 32, 32)}, r"got \(3, 32, 32\)"),
        ({"dtype": torch.int8, "calibration": torch.zeros(1, 3, 32, 32), "engine": "auto"},
         "int8 is computed by the engine torch"),
    ],
)  # fmt: skip
def test_wrong_use_is_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        optimize(get_model("resnet18", planes=8).eval(), **arguments)
