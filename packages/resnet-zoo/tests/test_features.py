"""Feature maps: channels and strides against timm, values against the whole model."""

import pytest
import torch

from resnet_zoo import ResNetFeatures, get_model


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
@torch.no_grad()
def test_channels_strides_and_values_equal_timm(timm, calibrate, name):
    ours = calibrate(get_model(name))
    theirs = timm.create_model(name, features_only=True).eval()
    whole = timm.create_model(name).eval()
    whole.load_state_dict(ours.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=False)
    features = ResNetFeatures(ours)
    assert features.channels == theirs.feature_info.channels()
    assert features.strides == theirs.feature_info.reduction()
    x = torch.randn(1, 3, 64, 96)
    for a, b, stride in zip(features(x), theirs(x), features.strides, strict=True):
        assert torch.equal(a, b)
        assert a.shape[-2:] == (64 // stride, 96 // stride)


def test_a_choice_of_indices_keeps_no_later_stage():
    features = get_model("resnet18", features_only=True, out_indices=(1, 3))
    assert not hasattr(features, "layer4")
    assert [tuple(f.shape) for f in features(torch.zeros(1, 3, 64, 64))] == [
        (1, 64, 16, 16),
        (1, 256, 4, 4),
    ]


def test_dilation_and_small_stem_show_in_the_strides():
    dilated = get_model(
        "resnet50", replace_stride_with_dilation=[False, True, True], features_only=True
    )
    assert dilated.strides == [2, 4, 8, 8, 8]
    assert get_model("resnet18", stem="small", features_only=True).strides == [1, 1, 2, 4, 8]


@pytest.mark.parametrize("indices", [(), (3, 1), (1, 1), (0, 5), (-1, 2)])
def test_wrong_indices_are_refused(indices):
    with pytest.raises(ValueError, match="out_indices must ascend"):
        get_model("resnet18", features_only=True, out_indices=indices)
