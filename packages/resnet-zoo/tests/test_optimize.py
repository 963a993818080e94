"""Folding, fused convolutions, choosing by measuring: equal outputs, honest reports."""

import contextlib

import pytest
import torch
from torch import nn

from resnet_zoo import fold_batchnorm, get_model, optimize
from resnet_zoo.inference import fused
from resnet_zoo.inference.fused import FusedResNet, unavailable
from resnet_zoo.inference.optimization import TOLERANCE, _Compiled
from resnet_zoo.inference.timing import CLEARLY
from resnet_zoo.models.fold import norm_pairs

VARIANTS = {
    "resnet18": {},
    "resnet50": {},
    "resnext50_32x4d": {},
    "dilated": {
        "name": "resnet50",
        "planes": 16,
        "replace_stride_with_dilation": [False, True, True],
    },
    "small grey": {"name": "resnet18", "stem": "small", "in_channels": 1, "planes": 16},
    "wide": {"name": "wide_resnet50_2", "planes": 16},
}


def build(variant, calibrate):
    arguments = dict(VARIANTS[variant])
    torch.manual_seed(3)
    model = get_model(arguments.pop("name", variant), num_classes=20, **arguments)
    channels = model.conv1.in_channels
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, channels, 40, 40))
    return model.eval()


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_folded_and_fused_models_equal_the_original_at_several_sizes(variant, calibrate):
    model = build(variant, calibrate)
    folded = fold_batchnorm(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    others = {"folded": folded, "channels last": folded.to(memory_format=torch.channels_last)}
    if unavailable() is None:
        others["fused"] = FusedResNet(model)
    for shape in ((1, 64, 64), (3, 64, 64), (2, 97, 61)):
        x = torch.randn(shape[0], model.conv1.in_channels, *shape[1:])
        kept = x.clone()
        expected = model(x)
        for name, other in others.items():
            assert relative(other(x), expected) < 1e-5, (name, shape)
            assert relative(other(x.to(memory_format=torch.channels_last)), expected) < 1e-5
        assert torch.equal(x, kept)


@torch.no_grad()
def test_folding_twice_changes_nothing_and_leaves_the_original(calibrate):
    model = build("resnet18", calibrate)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    once = fold_batchnorm(model)
    twice = fold_batchnorm(once)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(once(x), twice(x))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert sum(1 for _ in norm_pairs(model)) == 1 + 16 + 3


def test_train_mode_is_refused(calibrate):
    model = get_model("resnet18", planes=8).train()
    with pytest.raises(ValueError, match="evaluation mode"):
        fold_batchnorm(model)
    with pytest.raises(ValueError, match="evaluation mode"):
        optimize(model)


def test_other_norms_are_kept_by_folding_and_refused_by_the_fused_model():
    model = get_model("resnet18", planes=8, norm_layer=lambda c: nn.GroupNorm(4, c)).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(fold_batchnorm(model)(x), model(x))
    if unavailable() is None:
        with pytest.raises(RuntimeError, match="not a batch norm"):
            FusedResNet(model)
    untracked = get_model(
        "resnet18", planes=8, norm_layer=lambda c: nn.BatchNorm2d(c, track_running_stats=False)
    )
    with pytest.raises(ValueError, match="no running statistics"):
        fold_batchnorm(untracked.eval())


@pytest.mark.parametrize("level", ["fold", "fast"])
def test_the_report_says_what_was_tried_and_what_was_kept(level, calibrate, monkeypatch):
    monkeypatch.setattr("resnet_zoo.inference.optimization.PATIENCE", float("inf"))
    model = build("resnet18", calibrate)
    fast = optimize(model, level, example=(2, 3, 64, 64))
    report = fast.report
    assert report.kept in {trial.name for trial in report.trials}
    assert report.input_shape == (2, 3, 64, 64)
    if level == "fast":
        times = {t.name: t.milliseconds for t in report.trials if t.milliseconds}
        assert times[report.kept] <= CLEARLY * min(times.values())
        assert {"fold", "fold, channels last", "as given"} <= set(times)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert relative(fast(x), model(x)) < 1e-5
    assert f"kept: {report.kept}" in str(report)
    assert not fast.train().training


def test_a_reduced_dtype_stays_within_its_stated_error_and_is_compared(calibrate):
    model = build("resnet18", calibrate)
    without = unavailable(torch.bfloat16)  # then float32 takes its place, and the report says why
    with pytest.warns(UserWarning, match="float32") if without else contextlib.nullcontext():
        fast = optimize(model, "fast", dtype=torch.bfloat16, example=(1, 3, 64, 64))
    kept = next(t for t in fast.report.trials if t.name == fast.report.kept)
    assert fast.report.dtype is (torch.float32 if without else torch.bfloat16)
    assert fast.report.tolerance == TOLERANCE[fast.report.dtype]
    assert kept.error <= fast.report.tolerance
    assert without or kept.error > 0
    assert fast.report.note == (f"in float32: {without}" if without else "")
    assert fast.report.note in str(fast.report)
    assert fast(torch.randn(1, 3, 64, 64).bfloat16()).dtype == torch.float32
    given = next(t for t in fast.report.trials if t.name == "as given")
    assert ("slower" in kept.note) == (kept.milliseconds > given.milliseconds)
    assert fast(torch.randn(1, 3, 64, 64)).dtype == torch.float32


def test_float32_in_bfloat16s_place_is_warned_of_and_has_float32s_tolerance(calibrate, monkeypatch):
    why = {torch.bfloat16: "no bfloat16 here"}
    monkeypatch.setattr(fused, "unavailable", lambda dtype=torch.float32: why.get(dtype))
    model = build("resnet18", calibrate)
    message = r"bfloat16 was asked for.*float32: no bfloat16 here"
    with pytest.warns(UserWarning, match=message) as told:
        fast = optimize(model, "fast", dtype=torch.bfloat16, example=(1, 3, 64, 64))
    assert [each.filename for each in told] == [__file__]
    assert (fast.report.dtype, fast.report.tolerance) == (torch.float32, TOLERANCE[torch.float32])
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert relative(fast(x), model(x)) < 1e-5
    with pytest.warns(UserWarning, match="bfloat16 was asked for"):
        fast = optimize(model, dtype=torch.bfloat16, example=(1, 3, 64, 64), tolerance=0.5)
    assert fast.report.tolerance == 0.5


def test_nothing_within_the_tolerance_is_an_error(calibrate):
    model = build("resnet18", calibrate)
    with pytest.raises(RuntimeError, match="nothing stayed within 1e-12"):
        optimize(model, "fold", tolerance=1e-12)
    broken = build("resnet18", calibrate)
    broken.fc.bias.data[0] = float("nan")
    with pytest.raises(RuntimeError, match="nothing stayed within"):
        optimize(broken, "fast", example=(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"level": "ludicrous"}, "level must be one of"),
        ({"engine": "tensorrt"}, "engine must be one of torch, onnxruntime, openvino, auto"),
        ({"dtype": torch.float64}, "dtype must be"),
    ],
)
def test_unknown_choices_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        optimize(get_model("resnet18", planes=8).eval(), **arguments)


@pytest.mark.slow
def test_the_compiled_model_equals_the_original(calibrate):
    model = build("resnet18", calibrate)
    fast = optimize(model, "max", example=(1, 3, 64, 64))
    compiled = next(t for t in fast.report.trials if t.name == "compiled")
    assert compiled.error < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(unavailable() is not None, reason="this torch has no fused convolutions")
def test_the_compiler_freezes_the_weights_and_leaves_other_shapes_alone(calibrate):
    from torch._inductor.utils import run_and_get_code

    model = build("dilated", calibrate)
    x = torch.randn(2, 3, 64, 64)
    compiled, code = run_and_get_code(_Compiled, fold_batchnorm(model), torch.float32, x)
    assert "convolution_pointwise" in "".join(code)  # only constant weights are packed and fused
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for other in (x, x.to(memory_format=torch.channels_last), x[:1], x[..., :48]):
            assert relative(compiled(other), model(other)) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_cuda_every_candidate_equals_the_original(calibrate, dtype):
    model = build("resnet50", calibrate).cuda()
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        tolerance = {torch.float32: 1e-4}.get(dtype)
        fast = optimize(model, "max", dtype=dtype, example=(4, 3, 64, 64), tolerance=tolerance)
    assert not [t for t in fast.report.trials if "not used" in t.note]
    x = torch.randn(4, 3, 64, 64, device="cuda")
    with torch.no_grad():
        assert relative(fast(x), model(x)) < 0.05
        assert fast(x[:1]).shape == (1, 20)


def test_a_model_in_bfloat16_is_no_candidate_for_float32():
    torch.manual_seed(0)
    model = get_model("resnet18", num_classes=10, stem="small", planes=8).bfloat16().eval()
    fast = optimize(model, "fast", example=(1, 3, 32, 32), tolerance=0.05)
    given = next(trial for trial in fast.report.trials if trial.name == "as given")
    assert "not in the dtype asked for" in given.note
    assert fast(torch.randn(1, 3, 32, 32)).dtype is torch.float32
