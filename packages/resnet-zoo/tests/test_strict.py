"""Folding, fusing and optimising only what is known; optimised models as members of other code."""

import copy
import ctypes
import gc
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from resnet_zoo import fold_batchnorm, get_model, optimize
from resnet_zoo.inference import EQUAL, engines, onednn_graph
from resnet_zoo.inference.export import export_onnx
from resnet_zoo.inference.fused import FusedResNet, unavailable
from resnet_zoo.inference.known import unknown_part
from resnet_zoo.inference.onednn_graph import OneDnnGraph

SIDE = 48
X = (2, 3, SIDE, SIDE)
fused = pytest.mark.skipif(unavailable() is not None, reason="no fused convolutions here")


def calibrated(model):
    torch.manual_seed(0)
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 3, SIDE, SIDE))
    return model.eval()


def small(name="resnet18", **kwargs):
    torch.manual_seed(1)
    return calibrated(get_model(name, planes=16, num_classes=6, **kwargs))


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


class NormAct(nn.BatchNorm2d):
    def forward(self, x):
        return torch.relu(super().forward(x))


class Block(type(get_model("resnet18", planes=8).layer1[0])):
    def forward(self, x):
        return super().forward(x) * 2


def with_subclassed_norm():
    return calibrated(get_model("resnet18", planes=16, num_classes=6, norm_layer=NormAct))


def with_a_part_in_train_mode():
    model = small()
    model.layer4.train()
    return model


def with_one_norm_in_train_mode():
    model = small()
    model.layer2[0].downsample[1].train()
    return model


def with_hook():
    model = small()
    model.layer1[0].bn1.register_forward_hook(lambda m, x, y: y * 2)
    return model


def with_old_weight_norm():
    model = small()
    nn.utils.weight_norm(model.layer1[0].conv1)
    return model


def with_parametrization():
    model = small()
    nn.utils.parametrizations.weight_norm(model.layer1[0].conv1)
    return model


def with_own_block():
    model = small()
    model.layer2[1].__class__ = Block
    return model


def with_patched_forward():
    model = small()
    inner = model.layer1[0].forward
    model.layer1[0].forward = lambda x: inner(x) * 2
    return model


def with_hooked_stem():
    model = small("resnet26t")
    model.conv1.register_forward_hook(lambda m, x, y: y * 2)
    return model


class Branch(nn.Sequential):
    def forward(self, x):
        return self[1](torch.relu(self[0](x)))


def with_own_shortcut():
    model = small()
    model.layer2[0].downsample = Branch(*model.layer2[0].downsample).eval()
    return model


def with_one_convolution_for_two_norms():
    model = small()
    model.layer1[1].conv2 = model.layer1[0].conv2
    return model


def with_something_else_in_a_stage():
    model = small()
    model.layer1.append(nn.Identity())
    return model


REFUSED = [
    with_subclassed_norm, with_a_part_in_train_mode, with_one_norm_in_train_mode, with_hook,
    with_old_weight_norm, with_parametrization, with_own_block, with_patched_forward,
    with_hooked_stem, with_own_shortcut, with_one_convolution_for_two_norms,
    with_something_else_in_a_stage,
]  # fmt: skip


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_folding_would_change_is_refused_by_name(make):
    model = make()
    with pytest.raises(ValueError, match=r"fold_batchnorm: (bn1|conv1|layer\d)"):
        fold_batchnorm(model)
    if unavailable() is None:
        with pytest.raises(ValueError, match="fold_batchnorm"):
            FusedResNet(model)


@pytest.mark.parametrize("make", [with_subclassed_norm, with_hook, with_parametrization])
@torch.no_grad()
def test_optimize_keeps_what_it_does_not_know_as_given(make):
    model = make()
    fast = optimize(model, "fast", example=X)
    assert fast.report.kept == "as given"
    x = torch.randn(X)
    assert torch.equal(fast(x), model(x))
    assert any("fold_batchnorm" in trial.note for trial in fast.report.trials)
    with pytest.raises(RuntimeError, match="nothing stayed within"):
        optimize(model, "fold", example=X)


@torch.no_grad()
def test_synchronised_and_frozen_norms_are_folded(torchvision):
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(small())
    frozen = get_model(
        "resnet18", planes=16, num_classes=6, norm_layer=torchvision.ops.FrozenBatchNorm2d
    ).eval()
    frozen.load_state_dict(small().state_dict(), strict=False)
    for model in (sync, frozen):
        folded = fold_batchnorm(model)
        assert {type(m).__name__ for m in folded.modules()}.isdisjoint(
            {"SyncBatchNorm", "FrozenBatchNorm2d"}
        )
        x = torch.randn(X)
        assert relative(folded(x), model(x)) < 1e-5


@fused
@torch.no_grad()
def test_relu6_in_place_of_relu_is_seen():
    model = small()
    model.layer1[0].relu = nn.ReLU6()
    with pytest.raises(RuntimeError, match=r"layer1\.0\.relu is a ReLU6"):
        FusedResNet(model)
    x = torch.randn(X)
    assert relative(optimize(model, "fast", example=X)(x), model(x)) < 1e-5


def put(place, part):
    def change(model):
        owner, _, name = place.rpartition(".")
        setattr(model.get_submodule(owner), name, part())

    return change


def adapted(model):
    model.conv1 = nn.Sequential(nn.Conv2d(3, 3, 1), model.conv1)


ELSEWHERE = {
    "no ReLU": put("layer1.0.relu", nn.Identity),
    "another activation": put("layer2.0.relu", nn.Sigmoid),
    "no ReLU after the stem": put("relu", nn.Identity),
    "grid of means": put("avgpool", lambda: nn.AdaptiveAvgPool2d((2, 2))),
    "pool that rounds up": put("maxpool", lambda: nn.MaxPool2d(3, 2, ceil_mode=True)),
    "average with a divisor": put("maxpool", lambda: nn.AvgPool2d(3, 2, 1, divisor_override=4)),
    "adapter in front": adapted,
    "padding by name": put("conv1", lambda: nn.Conv2d(3, 16, 7, padding="same", bias=False)),
    "another act": put("layer1.0.se.act", nn.SiLU),
    "another gate": put("layer1.0.se.gate", nn.Hardsigmoid),
    "plain convolution as shortcut": put("layer2.0.downsample", lambda: nn.Conv2d(16, 32, 1, 2)),
    "stem of other parts": put(
        "conv1", lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3))
    ),
}


@fused
@pytest.mark.parametrize("kind", ELSEWHERE)
@torch.no_grad()
def test_a_known_module_in_another_place_is_seen(kind):
    model = small("seresnet18").reset_classifier(0)
    ELSEWHERE[kind](model)
    model = calibrated(model)
    folded = fold_batchnorm(model)
    assert unknown_part(folded) is not None
    x = torch.randn(X)
    with pytest.raises(RuntimeError, match="FusedResNet: "):
        FusedResNet(model)
    with pytest.raises(RuntimeError, match="OneDnnGraph: "):
        OneDnnGraph(model, x)
    assert relative(folded(x), model(x)) < 1e-5


@fused
@torch.no_grad()
def test_heads_of_dropout_and_hidden_layers_are_known(tmp_path):
    model = small()
    model.fc = nn.Sequential(nn.Dropout(0.2), nn.Linear(128, 8), nn.ReLU(), nn.Linear(8, 3))
    model = calibrated(model)
    x = torch.randn(X)
    assert relative(FusedResNet(model)(x), model(x)) < 1e-5
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(export_onnx(model, tmp_path / "m.onnx", size=SIDE)))
    assert session.get_outputs()[0].shape == ["batch", 3]
    assert relative(torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), model(x)) < 1e-5


VARIANTS = ("resnet26t", "resnet50d", "seresnet18", "ecaresnet26t", "resnext50_32x4d")


@fused
@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_variants_fold_and_fuse(name):
    model = small(name) if name != "resnext50_32x4d" else small(name, output_stride=8)
    for shape in (X, (1, 3, 61, 97)):
        x = torch.randn(shape)
        expected = model(x)
        assert relative(fold_batchnorm(model)(x), expected) < 1e-5
        assert relative(FusedResNet(model)(x), expected) < 1e-5
        if shape == X:
            assert relative(OneDnnGraph(model, x)(x), expected) < 1e-5


@fused
@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("indices", [(0, 1, 2, 3, 4), (1, 3), (4,)])
@torch.no_grad()
def test_optimised_trunks_give_every_map(stem, indices):
    trunk = calibrated(
        get_model("resnet18", planes=16, stem=stem, features_only=True, out_indices=indices)
    )
    x = torch.randn(X)
    expected = trunk(x)
    fast = optimize(trunk, "fast", example=X)
    assert {"fused oneDNN", "oneDNN graph"} <= {t.name for t in fast.report.trials if not t.note}
    for run in (fast, FusedResNet(trunk)):
        found = run(x)
        assert len(found) == len(indices)
        assert all(relative(a, b) < 1e-5 for a, b in zip(found, expected, strict=True))


# -- the optimised model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture(scope="module", params=["fold", "oneDNN graph", "fused oneDNN", "onnxruntime"])
def fast(request, model):
    kind = request.param
    if kind == "onnxruntime":
        pytest.importorskip("onnxruntime")
        return optimize(model, engine="onnxruntime", example=X)
    if kind != "fold" and unavailable() is not None:
        pytest.skip("no fused convolutions here")
    done = optimize(model, "fold", example=X)
    if kind == "fused oneDNN":
        done.run = FusedResNet(model)
    if kind == "oneDNN graph":
        done.run = OneDnnGraph(model, torch.randn(X))
    return done


@pytest.mark.parametrize(
    "change",
    [
        lambda x: (x * 255).to(torch.uint8), lambda x: x.long(), lambda x: x.double(),
        lambda x: x.half(), lambda x: x + 0j, lambda x: x[:, :1], lambda x: x[0],
        lambda x: x.to("meta"), lambda x: x.numpy(),
    ],
)  # fmt: skip
def test_inputs_that_the_model_refuses_are_refused(model, fast, change):
    x = change(torch.rand(X))
    if x is not None and not (isinstance(x, torch.Tensor) and x.is_meta):
        with pytest.raises((RuntimeError, ValueError, TypeError, AttributeError)):
            model(x)
    with pytest.raises((RuntimeError, TypeError), match="Optimized: the input must be"):
        fast(x)


@pytest.mark.parametrize("shape", [X, (0, 3, SIDE, SIDE), (1, 3, 64, 33), (3, 3, 40, 72)])
@torch.no_grad()
def test_inputs_that_the_model_takes_are_taken(model, fast, shape):
    x = torch.randn(shape)
    assert fast(x).shape == model(x).shape
    if len(x):
        assert relative(fast(x), model(x)) < 1e-4


def test_outputs_are_ordinary_tensors(fast):
    x = torch.randn(X)
    y = fast(x)
    y /= 2.0
    nn.Linear(6, 2)(fast(x)).sum().backward()
    with torch.inference_mode():
        inside = fast(torch.randn(X))
    assert not inside.is_inference()
    assert not fast(x.requires_grad_()).requires_grad


def test_autocast_around_it_changes_nothing(fast):
    x = torch.randn(X)
    expected = fast(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(x), expected)


@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_a_picture_that_is_not_finite_gives_nan_and_the_others_their_numbers(fast, fault):
    x = torch.randn(X)
    expected = fast(x)[1]
    x[0, 1, 20, 30] = fault
    found = fast(x)
    assert found[0].isnan().all()
    assert relative(found[1], expected) < 1e-6


def test_threads_that_share_a_fresh_copy_agree(fast):
    x = torch.randn(X)
    expected, twin = fast(x), pickle.loads(pickle.dumps(fast))
    with ThreadPoolExecutor(4) as pool:
        assert all(relative(y, expected) < 1e-6 for y in pool.map(twin, [x] * 8))


def test_copies_and_pickles_give_the_same_and_parents_train(fast):
    x = torch.randn(X)
    expected = fast(x)
    pickles = [pickle.dumps(fast, protocol) for protocol in (2, 5)]  # torch.save takes 2
    for twin in (copy.deepcopy(fast), *map(pickle.loads, pickles)):
        assert relative(twin(x), expected) < 1e-6
        assert twin.report.kept == fast.report.kept
    parent = nn.Sequential(fast, nn.Linear(6, 2)).train()
    assert parent.training
    assert not any(m.training for m in fast.modules())
    parent.to("cpu").float()
    for move in (lambda: parent.double(), lambda: fast.half(), lambda: fast.to("meta")):
        with pytest.raises(RuntimeError, match="optimize it there"):
            move()


@fused
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_graph_is_made_of_fused_convolutions_and_again_for_other_threads(dtype, capfd):
    if unavailable(dtype) is not None:
        pytest.skip(unavailable(dtype))
    trunk = calibrated(small(features_only=True))
    x, threads = torch.randn(X), torch.get_num_threads()
    graph = OneDnnGraph(trunk, x, dtype)
    assert not torch.jit.onednn_fusion_enabled()
    before, expected = graph.made, trunk(x)
    capfd.readouterr()
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        found = graph(x)
    told = capfd.readouterr().out
    assert graph.made is before
    assert told.count("graph,exec,cpu") >= len(trunk.stages) * 4  # each convolution, of any picture
    assert "aten::_convolution;aten::add;aten::relu" in told
    tolerance = 1e-5 if dtype is torch.float32 else 0.05
    assert all(relative(a, b) < tolerance for a, b in zip(found, expected, strict=True))
    try:
        torch.set_num_threads(threads % 2 + 1)
        assert all(relative(a, b) < tolerance for a, b in zip(graph(x), expected, strict=True))
        assert graph.made is not before
    finally:
        torch.set_num_threads(threads)


@fused
@torch.no_grad()
def test_one_picture_is_fused_whatever_the_strides_of_its_batch(capfd):
    model = small()
    graph = OneDnnGraph(model, torch.randn(1, 3, SIDE, SIDE))
    x = torch.randn(SIDE, SIDE, 3).permute(2, 0, 1).unsqueeze(0)
    assert x.is_contiguous(memory_format=torch.channels_last)
    capfd.readouterr()
    told = []
    for picture in (x.contiguous(), x):
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            graph(picture)
        told.append(capfd.readouterr().out.count("graph,exec,cpu"))
    assert told[0] == told[1] > 0


@fused
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux and its C library for memory")
@torch.no_grad()
def test_a_graph_is_freed_with_its_weights():
    x, weights = torch.randn(1, 1000), 1000 * 10_000 * 4

    def resident_after_a_graph():
        onednn_graph._traced(nn.Linear(1000, 10_000).requires_grad_(False), x)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is freed goes back at once
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before, *_, after = (resident_after_a_graph() for _ in range(4))
    assert after - before < 1.5 * weights


def test_optimize_within_autocast_measures_the_arithmetic_that_it_keeps(model):
    with torch.autocast("cpu", torch.bfloat16):
        done = optimize(model, "fold", example=X)
    x = torch.randn(X)
    assert relative(done(x), model(x).detach()) < 1e-5


# -- engines --------------------------------------------------------------------------------------


def test_auto_tries_what_is_installed_and_reports_it(model):
    installed = [
        name
        for name in engines.ENGINES
        if engines.unavailable(name, torch.float32, torch.device("cpu")) is None
    ]
    done = optimize(model, "fast", engine="auto", example=X)
    trials = {trial.name: trial for trial in done.report.trials}
    assert {"fold", "as given", *installed} <= set(trials)
    timed = {name: t.milliseconds for name, t in trials.items() if t.milliseconds is not None}
    assert timed[done.report.kept] <= EQUAL * min(timed.values())
    x = torch.randn(X)
    with torch.no_grad():
        assert relative(done(x), model(x)) < 1e-5


@torch.no_grad()
def test_a_detection_backbone_is_optimised_by_the_fastest_engine(torchvision):
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.misc import FrozenBatchNorm2d

    trunk = small(features_only=True, out_indices=(1, 2, 3, 4), norm_layer=FrozenBatchNorm2d)
    fast = optimize(trunk, "fast", engine="auto", example=X)
    tried = {trial.name for trial in fast.report.trials if trial.milliseconds is not None}
    assert {
        name
        for name in engines.ENGINES
        if engines.unavailable(name, torch.float32, torch.device("cpu")) is None
    } <= tried
    pyramid = FeaturePyramidNetwork(trunk.channels, 16).eval()
    for shape in (X, (1, 3, 97, 66)):
        x = torch.randn(shape)
        named = lambda maps: {str(i): m for i, m in enumerate(maps)}  # noqa: E731
        ours, expected = pyramid(named(fast(x))), pyramid(named(trunk(x)))
        assert all(relative(ours[k], expected[k]) < 1e-4 for k in expected)
    for name in tried & set(engines.ENGINES):
        alone = optimize(trunk, engine=name, example=X)
        assert all(relative(a, b) < 1e-4 for a, b in zip(alone(x), trunk(x), strict=True))
        twin = pickle.loads(pickle.dumps(alone))
        assert all(torch.equal(a, b) for a, b in zip(twin(x), alone(x), strict=True))


def test_an_engine_that_plays_back_its_example_is_found_out(model, monkeypatch):
    class Parrot(nn.Module):
        def __init__(self, inner, x, dtype):
            super().__init__()
            self.out = inner(x)

        def forward(self, x):
            return self.out

    monkeypatch.setitem(engines.ENGINES, "onnxruntime", Parrot)
    with pytest.raises(RuntimeError, match="nothing stayed within"):
        optimize(model, engine="onnxruntime", example=X)


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, torch.jit.script, torch.nn.Sequential])
def test_a_network_that_is_none_of_ours_is_refused_by_its_type(model, wrap):
    with pytest.raises(TypeError, match="fold_batchnorm: model must be a ResNet"):
        fold_batchnorm(wrap(model))


@pytest.mark.parametrize("norm", ["frozen", nn.BatchNorm2d(8)], ids=["name", "module"])
def test_a_norm_layer_that_is_no_class_is_refused_by_name(norm):
    with pytest.raises(ValueError, match="norm_layer must be called with a number of channels"):
        get_model("resnet18", norm_layer=norm)
