"""ResNet v2 of Big Transfer: keys and numbers of timm, files with and without their classifier."""

import pytest
import torch

from resnet_zoo import get_model, load_report, optimize
from resnet_zoo.models.variants import VARIANTS

NAMES = [name for name in VARIANTS if name.startswith("resnetv2_")]


@pytest.mark.parametrize("name", NAMES)
def test_keys_shapes_and_feature_info_are_timms(timm, name):
    with torch.device("meta"):
        ours, theirs = get_model(name), timm.create_model(name)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, v.shape) for k, v in theirs.state_dict().items()
    ]
    assert ours.feature_info == theirs.feature_info
    for key in ("mean", "std", "first_conv", "classifier"):
        assert ours.default_cfg[key] == theirs.default_cfg[key]


@torch.no_grad()
def test_numbers_and_maps_equal_timm_in_both_directions(timm):
    torch.manual_seed(0)
    theirs = timm.create_model("resnetv2_50x1_bit", num_classes=7).eval()
    ours = get_model("resnetv2_50x1_bit", num_classes=7).eval()
    for source, target in ((theirs, ours), (get_model("resnetv2_50x1_bit", num_classes=7), theirs)):
        target.load_state_dict(source.state_dict(), strict=True)
        ours.load_state_dict(target.state_dict(), strict=True)
        for shape in ((2, 3, 64, 64), (1, 3, 97, 61)):
            x = torch.randn(shape)
            assert torch.equal(ours(x), theirs(x))
            for indices, norm in ((None, False), ((1, -1), True)):
                last, maps = ours.forward_intermediates(x, indices, norm=norm)
                expected, others = theirs.forward_intermediates(x, indices, norm=norm)
                assert torch.equal(last, expected)
                assert all(torch.equal(a, b) for a, b in zip(maps, others, strict=True))
        assert torch.equal(torch.jit.script(ours)(x), theirs(x))


@torch.no_grad()
def test_a_file_enters_whole_with_a_fresh_head_or_without_one(tmp_path):
    torch.manual_seed(0)
    name, path = "resnetv2_50x1_bit", tmp_path / "w.pth"
    model = get_model(name, num_classes=7, planes=32).eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)
    x = torch.randn(1, 3, 64, 64)
    whole = get_model(name, weights=path, planes=32).eval()
    assert torch.equal(whole(x), model(x))
    bare = get_model(name, weights=path, planes=32, num_classes=0).eval()
    assert torch.equal(bare(x), model.forward_head(model.forward_features(x), pre_logits=True))
    assert load_report(bare).left_out == ["head.fc.weight", "head.fc.bias"]
    with pytest.warns(UserWarning, match="freshly initialised"):
        fresh = get_model(name, weights=path, planes=32, num_classes=3)
    assert load_report(fresh).reinitialized == ["head.fc.weight", "head.fc.bias"]
    grey = get_model(name, weights=path, planes=32, in_chans=1)
    assert load_report(grey).summed == ["stem.conv.weight"]
    assert grey.reset_classifier(0, "").eval()(x[:, :1]).shape == (1, 1024, 2, 2)


def test_what_it_has_not_is_named():
    with pytest.raises(ValueError, match="take its forward_intermediates"):
        get_model("resnetv2_50x1_bit", features_only=True)
    with pytest.raises(ValueError, match="planes must be a multiple of 32"):
        get_model("resnetv2_50x1_bit", planes=48)
    with pytest.raises(TypeError, match="must be a ResNet or its features, got PreActResNet"):
        optimize(get_model("resnetv2_50x1_bit", planes=32).eval())


def test_it_is_summarised_but_not_drawn(capsys):
    from resnet_zoo.cli import main

    name = "resnetv2_50x1_bit"
    assert main(["summary", name, "--depth", "stage", "--size", "64"]) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert [row for row in rows if row.startswith("stages")] == [f"stages.{i}" for i in range(4)]
    assert "total" in rows
    assert main(["summary", name, "--depth", "block", "--size", "64"]) == 0
    assert capsys.readouterr().out.count("PreActBottleneck") == 16
    assert main(["draw", name]) == 2
    assert "cure: resnet-zoo summary" in capsys.readouterr().err
