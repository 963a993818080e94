"""CLIP's modified ResNets: equal to timm's, and files of timm and open_clip in both directions."""

import re

import pytest
import torch

from resnet_zoo import get_model, load_report, optimize
from resnet_zoo.models.variants import VARIANTS

CLIP = [name for name in VARIANTS if "clip" in name]
SMALL = ("resnet50_clip", "resnet50_clip_gap")


def calibrated(model, side=64):
    model.train()
    with torch.no_grad():
        model(torch.randn(2, 3, side, side))
    return model.eval()


def openai(state):
    """Our tensors under the names of OpenAI's and open_clip's image tower."""
    stem = {"conv1.0": "conv1", "conv1.1": "bn1", "conv1.3": "conv2", "conv1.4": "bn2",
            "conv1.6": "conv3", "bn1": "bn3"}  # fmt: skip
    named = {}
    for key, value in state.items():
        for ours, theirs in stem.items():
            if key.startswith(f"{ours}."):
                key = theirs + key.removeprefix(ours)
                break
        key = re.sub(r"downsample\.(\d)", lambda m: f"downsample.{int(m[1]) - 1}", key)
        named["visual." + key.replace("avgpool.", "attnpool.")] = value
    return named


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("name", CLIP)
def test_every_clip_network_has_the_sizes_of_timm(timm, name):
    with torch.device("meta"):
        ours, theirs = get_model(name), timm.create_model(name)
    count = lambda model: sum(value.numel() for value in model.state_dict().values())  # noqa: E731
    assert count(ours) == count(theirs)
    assert ours.num_classes == theirs.num_classes
    assert ours.num_features == theirs.num_features


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_files_of_timm_give_timms_outputs(timm, tmp_path, name):
    torch.manual_seed(0)
    theirs = calibrated(timm.create_model(name))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = get_model(name, weights=tmp_path / "w.pth").eval()
    assert load_report(ours).left_out == []
    for side in (64, 96):  # both resample the positions
        x = torch.randn(2, 3, side, side)
        assert relative(ours(x), theirs(x)) < 1e-5
    trunk = get_model(name, weights=tmp_path / "w.pth", features_only=True).eval()
    maps = trunk(x)
    assert relative(maps[-1], theirs.forward_features(x)) < 1e-5
    assert [m.shape[-1] for m in maps] == [48, 24, 12, 6, 3]
    assert trunk.strides == [2, 4, 8, 16, 32]


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_our_networks_go_to_timm_and_back_under_the_names_of_openai(timm, tmp_path, name):
    from timm.models.byobnet import checkpoint_filter_fn

    torch.manual_seed(1)
    ours = calibrated(get_model(name))
    named = openai(ours.state_dict())
    theirs = timm.create_model(name).eval()
    theirs.load_state_dict(checkpoint_filter_fn(dict(named), theirs), strict=True)
    x = torch.randn(1, 3, 64, 96)
    assert relative(ours(x), theirs(x)) < 1e-5
    text = {"logit_scale": torch.ones(()), "transformer.resblocks.0.ln_1.weight": torch.ones(4)}
    torch.save({"state_dict": {f"module.{k}": v for k, v in {**named, **text}.items()}},
               tmp_path / "w.pt")  # fmt: skip
    again = get_model(name, weights=tmp_path / "w.pt").eval()
    assert torch.equal(again(x), ours(x))
    assert load_report(again).left_out == [f"module.{key}" for key in text]
    torch.save({k.removeprefix("visual."): v for k, v in named.items()}, tmp_path / "v.pt")
    assert torch.equal(get_model(name, weights=tmp_path / "v.pt").eval()(x), ours(x))


@torch.no_grad()
def test_a_fresh_head_replaces_the_projection_or_the_attention(tmp_path):
    torch.manual_seed(2)
    model = calibrated(get_model("resnet50_clip"))
    torch.save(openai(model.state_dict()), tmp_path / "w.pt")
    with pytest.warns(UserWarning, match="freshly initialised"):
        fresh = get_model("resnet50_clip", weights=tmp_path / "w.pt", num_classes=5)
    assert load_report(fresh).reinitialized == ["avgpool.c_proj.weight", "avgpool.c_proj.bias"]
    assert torch.equal(fresh.avgpool.q_proj.weight, model.avgpool.q_proj.weight)
    x = torch.randn(1, 3, 64, 64)
    pooled = model.reset_classifier(0).eval()(x)
    assert pooled.shape == (1, 2048)
    bare = get_model("resnet50_clip", weights=tmp_path / "w.pt", num_classes=0).eval()
    assert torch.equal(bare(x), pooled)
    averaged = get_model("resnet50_clip_gap", weights=tmp_path / "w.pt").eval()
    assert torch.equal(averaged(x), model.reset_classifier(0, "avg")(x))
    assert "avgpool.c_proj.weight" in load_report(averaged).left_out
    assert model.reset_classifier(3).eval()(x).shape == (1, 3)


def test_it_is_scripted_folded_and_optimised():
    torch.manual_seed(3)
    model = calibrated(get_model("resnet50_clip", planes=32, num_classes=6))
    x = torch.randn(2, 3, 64, 64)
    fast = optimize(model, "fast", example=(2, 3, 64, 64))
    with torch.no_grad():
        for twin in (torch.jit.script(model), fast):
            assert relative(twin(x), model(x)) < 1e-5
    told = {trial.name: trial.note for trial in fast.report.trials}
    assert "averages inside its branch" in told.get("fused oneDNN", "averages inside its branch")
    with pytest.raises(ValueError, match="average_stride must be False but for Bottleneck"):
        get_model("resnet18", average_stride=True)
