"""The networks against torchvision and timm: structure, numbers, training, errors."""

import pytest
import torch
from torch import nn

from resnet_zoo import BasicBlock, Bottleneck, ResNet, get_model, list_models

NAMES = list_models()  # those that torchvision has
SMALL = ("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2")
LARGE = [name for name in NAMES if name not in SMALL]


def pair(torchvision, name, **kwargs):
    """Our model and torchvision's, each built from the same seed."""
    torch.manual_seed(7)
    ours = get_model(name, **kwargs)
    torch.manual_seed(7)
    theirs = torchvision.models.get_model(name, **kwargs)
    return ours, theirs


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_has_the_keys_order_and_shapes_of_torchvision(torchvision, name):
    with torch.device("meta"):
        ours, theirs = get_model(name).state_dict(), torchvision.models.get_model(name).state_dict()
    assert list(ours) == list(theirs)
    assert [t.shape for t in ours.values()] == [t.shape for t in theirs.values()]


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_has_the_keys_order_and_shapes_of_timm(timm, name):
    with torch.device("meta"):
        ours, theirs = get_model(name).state_dict(), timm.create_model(name).state_dict()
    assert list(ours) == list(theirs)
    assert [t.shape for t in ours.values()] == [t.shape for t in theirs.values()]


@pytest.mark.parametrize(
    "name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
)
@torch.no_grad()
def test_same_seed_gives_the_weights_and_outputs_of_torchvision_to_the_last_bit(
    torchvision, timm, calibrate, name
):
    ours, theirs = pair(torchvision, name)
    for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    theirs.load_state_dict(calibrate(ours).state_dict(), strict=True)
    third = timm.create_model(name)
    third.load_state_dict(theirs.state_dict(), strict=True)
    ours.load_state_dict(third.state_dict(), strict=True)
    theirs.eval(), third.eval()
    for shape in ((2, 3, 40, 40), (1, 3, 97, 61)):
        x = torch.randn(shape)
        assert torch.equal(ours(x), theirs(x))
        assert torch.equal(ours(x), third(x))


@pytest.mark.parametrize("flags", [(False, False, True), (False, True, True), (True, True, True)])
@torch.no_grad()
def test_dilated_variants_equal_torchvision(torchvision, calibrate, flags):
    ours, theirs = pair(torchvision, "resnet50", replace_stride_with_dilation=list(flags))
    theirs.load_state_dict(calibrate(ours, 48).state_dict())
    x = torch.randn(1, 3, 65, 80)
    assert torch.equal(ours(x), theirs.eval()(x))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("zero_init", [False, True])
def test_one_sgd_step_in_train_mode_equals_torchvision_with_buffers(torchvision, name, zero_init):
    models = pair(torchvision, name, zero_init_residual=zero_init, num_classes=10)
    x, y = torch.randn(4, 3, 64, 64), torch.tensor([1, 5, 3, 9])
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        nn.functional.cross_entropy(model.train()(x), y).backward()
        optimizer.step()
    ours, theirs = (model.state_dict() for model in models)
    for key in theirs:
        assert torch.equal(ours[key], theirs[key]), key


@torch.no_grad()
def test_custom_norm_layer_equals_torchvision(torchvision):
    def norm(channels):
        return nn.GroupNorm(8, channels)

    ours, theirs = pair(torchvision, "resnet50", norm_layer=norm)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("side", ["ours", "torchvision"])
def test_the_errors_of_torchvision_are_raised(torchvision, side):
    get = get_model if side == "ours" else torchvision.models.get_model
    with pytest.raises(ValueError, match="replace_stride_with_dilation"):
        get("resnet50", replace_stride_with_dilation=[True])
    with pytest.raises(ValueError, match="groups"):
        get("resnet18", groups=2)
    with pytest.raises(NotImplementedError, match=r"[Dd]ilation"):
        get("resnet18", replace_stride_with_dilation=[False, True, True])
    with pytest.raises(ValueError, match="groups"):
        get("resnext50_32x4d", groups=8)
    with pytest.raises(ValueError, match="width_per_group"):
        get("wide_resnet50_2", width_per_group=64)


def test_parameter_count_is_what_the_weight_entry_says():
    from resnet_zoo import WEIGHTS

    for name in NAMES:
        with torch.device("meta"):
            count = sum(p.numel() for p in get_model(name).parameters())
        assert all(entry.meta["num_params"] == count for entry in WEIGHTS[name])


def test_small_stem_keeps_the_resolution_of_small_images():
    model = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=10, stem="small", in_channels=1).eval()
    assert model.forward_features(torch.zeros(2, 1, 32, 32)).shape == (2, 512, 4, 4)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    with pytest.raises(ValueError, match="stem must be one of imagenet, small"):
        ResNet(BasicBlock, (1, 1, 1, 1), stem="tiny")
    with pytest.raises(ValueError, match="planes must be a multiple of 8"):
        ResNet(BasicBlock, (1, 1, 1, 1), planes=4)


def test_forward_is_the_head_of_the_features_and_pre_logits_feed_fc(calibrate):
    model = calibrate(get_model("resnet18", num_classes=5))
    x = torch.randn(2, 3, 64, 64)
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    assert torch.equal(model.fc(pooled), model(x))


def test_reset_classifier_replaces_only_the_head():
    model = get_model("resnet18").double().eval()
    trunk = model.layer4[1].conv2.weight
    assert model.reset_classifier(7)(torch.zeros(1, 3, 32, 32).double()).shape == (1, 7)
    assert model.layer4[1].conv2.weight is trunk
    assert model.fc.weight.dtype == torch.float64
    assert model.reset_classifier(0)(torch.zeros(1, 3, 32, 32).double()).shape == (1, 512)
    with pytest.raises(ValueError, match="num_classes must be >= 0"):
        model.reset_classifier(-1)


def test_frozen_stages_do_not_learn_and_their_norms_stay_in_evaluation_mode():
    model = get_model("resnet18", num_classes=3).freeze(2).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    optimizer.step()
    changed = {
        k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])
    }
    assert changed == {"layer3", "layer4", "fc"}
    assert not model.layer1[0].bn1.training
    assert model.layer3[0].bn1.training
    model.freeze(-1)
    assert model.layer1[0].bn1.training
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="stages must be"):
        model.freeze(5)


def test_stochastic_depth_drops_whole_samples_in_training_only_and_keeps_the_mean():
    from resnet_zoo.models.resnet import stochastic_depth

    torch.manual_seed(0)
    branch = torch.ones(4000, 2, 1, 1)
    dropped = stochastic_depth(branch, 0.25, True)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(dropped[:, 0], dropped[:, 1])
    assert abs(dropped.mean().item() - 1.0) < 0.03
    assert stochastic_depth(branch, 0.25, False) is branch
    rates = [b.drop_rate for b in get_model("resnet18", stochastic_depth=0.35).blocks()]
    assert rates == pytest.approx([0.35 * i / 7 for i in range(8)])


def test_block_of_stride_two_halves_the_map():
    down = nn.Sequential(nn.Conv2d(8, 32, 1, 2, bias=False), nn.BatchNorm2d(32))
    assert Bottleneck(8, 8, 2, down)(torch.zeros(1, 8, 9, 9)).shape == (1, 32, 5, 5)
