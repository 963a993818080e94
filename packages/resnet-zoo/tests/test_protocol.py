"""What code written for torchvision's and timm's backbones asks of a model."""

import copy
import pickle

import pytest
import torch
from torch import nn

from resnet_zoo import (
    ResNet50_Weights,
    get_model,
    get_model_weights,
    list_models,
    resnet18,
    resnet50,
)
from resnet_zoo.models.frozen import hold_in_evaluation
from resnet_zoo.models.variants import VARIANTS

FOUR = ("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2")
X = (2, 3, 64, 64)


# -- torchvision: graphs and scripts --------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_the_graph_has_the_node_names_of_torchvision(torchvision, name):
    from torchvision.models.feature_extraction import get_graph_node_names

    ours = get_graph_node_names(get_model(name))
    assert ours == get_graph_node_names(torchvision.models.get_model(name))


_DEEP = [name for name in list_models() if "101" in name or "152" in name]


@pytest.mark.parametrize(
    ("name", "training"),
    [
        *((name, False) for name in list_models() if name not in _DEEP),
        *((name, False) for name in ("resnet26t", "seresnet18", "ecaresnet26t")),
        ("resnet18", True),
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in _DEEP),
    ],
)
def test_every_model_and_its_graph_can_be_scripted(name, training):
    torch.manual_seed(0)
    model = get_model(name, planes=16, num_classes=5).train(training)
    x = torch.randn(X)
    scripted = torch.jit.script(model)
    graph = torch.jit.script(torch.fx.symbolic_trace(model))
    for twin in (scripted, graph):
        assert twin(x).shape == (2, 5)
    if not training:
        with torch.no_grad():
            expected = model(x)
            assert torch.equal(scripted(x), expected)
            assert torch.equal(graph(x), expected)


@pytest.mark.parametrize("indices", [(0, 1, 2, 3, 4), (1, 3), (-1,), (0,)])
@torch.no_grad()
def test_every_trunk_can_be_scripted(indices):
    trunk = resnet50(planes=16, features_only=True, out_indices=indices).eval()
    scripted = torch.jit.script(trunk)
    for a, b in zip(trunk(torch.ones(X)), scripted(torch.ones(X)), strict=True):
        assert torch.equal(a, b)


def test_stochastic_depth_is_one_node_of_the_graph_in_training_only():
    model = resnet18(planes=16, stochastic_depth=0.5)
    for training, count in ((True, 7), (False, 0)):  # the first block has rate 0
        graph = torch.fx.symbolic_trace(model.train(training))
        drops = [n for n in graph.graph.nodes if "stochastic_depth" in str(n.target)]
        assert len(drops) == count
        torch.jit.script(graph)(torch.randn(X)).sum().backward()


@pytest.mark.parametrize("trunk", [False, True])
def test_torch_export_takes_any_batch_height_and_width(trunk):
    model = resnet18(planes=16, features_only=trunk).eval()
    sizes = {0: torch.export.Dim("n", min=1), 2: torch.export.Dim("h", min=33),
             3: torch.export.Dim("w", min=33)}  # fmt: skip
    program = torch.export.export(model, (torch.randn(2, 3, 64, 72),), dynamic_shapes={"x": sizes})
    for shape in ((1, 3, 96, 41), (5, 3, 33, 64)):
        x = torch.randn(shape)
        found, expected = program.module()(x), model(x)
        for a, b in zip(*((v if trunk else [v]) for v in (found, expected)), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_entries_are_found_by_builder_and_state_dicts_take_torchvisions_keyword(server):
    assert get_model_weights(resnet50) is ResNet50_Weights
    assert get_model(resnet18, planes=8).num_classes == 1000
    assert (resnet50.__name__, pickle.loads(pickle.dumps(resnet50))) == ("resnet50", resnet50)
    assert "ResNet-50" in resnet50.__doc__
    with pytest.raises(RuntimeError, match="resnet50-11ad3fa6"):
        ResNet50_Weights.DEFAULT.get_state_dict(check_hash=True, progress=False, offline=True)
    with pytest.raises(ValueError, match="no published entries"):
        get_model_weights("resnet26d")


# -- timm -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOUR)
def test_the_model_describes_itself_as_timm_does(timm, name):
    ours, theirs = get_model(name), timm.create_model(name)
    assert (ours.num_classes, ours.num_features, ours.head_hidden_size) == (
        theirs.num_classes, theirs.num_features, theirs.head_hidden_size
    )  # fmt: skip
    rows = [{**row, "module": row["module"].replace("act1", "relu")} for row in theirs.feature_info]
    assert ours.feature_info == rows
    for key in ("input_size", "pool_size", "first_conv", "classifier", "num_classes"):
        assert ours.default_cfg[key] == theirs.default_cfg[key]
    assert ours.get_classifier() is ours.fc
    assert ours.group_matcher() == theirs.group_matcher()
    assert ours.group_matcher(coarse=True) == theirs.group_matcher(coarse=True)


@pytest.mark.parametrize("indices", [None, 2, (0, 2), (-1,), (-3, -1)])
@pytest.mark.parametrize("early", [True, False])
@torch.no_grad()
def test_intermediates_equal_timm(timm, calibrate, indices, early):
    ours = calibrate(resnet18())
    theirs = timm.create_model("resnet18").eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 64, 96)
    a, found = ours.forward_intermediates(x, indices=indices, stop_early=early)
    b, expected = theirs.forward_intermediates(x, indices=indices, stop_early=early)
    assert torch.equal(a, b)
    assert all(torch.equal(p, q) for p, q in zip(found, expected, strict=True))
    only = ours.forward_intermediates(x, indices=indices, intermediates_only=True)
    assert all(torch.equal(p, q) for p, q in zip(only, expected, strict=True))
    with pytest.raises(ValueError, match="feature indices must be"):
        ours.forward_intermediates(x, indices=(7,))


@torch.no_grad()
def test_the_head_can_be_taken_off_and_pooling_changed(timm, calibrate):
    ours = calibrate(resnet18(num_classes=7))
    x = torch.randn(X)
    maps = ours.forward_features(x)
    assert torch.equal(ours.reset_classifier(0)(x), maps.mean((2, 3)))
    assert torch.equal(ours.reset_classifier(0, "max")(x), maps.amax((2, 3)))
    assert torch.equal(ours.reset_classifier(0, "")(x), maps)
    assert ours.num_classes == 0
    assert ours.reset_classifier(3, "avg")(x).shape == (2, 3)
    bare = get_model("resnet18", num_classes=0, global_pool="").eval()
    assert bare(x).shape == (2, 512, 2, 2)
    with pytest.raises(ValueError, match="global_pool must be"):
        resnet18(global_pool="")
    kept = get_model("resnet18", planes=8).prune_intermediate_layers((0, 2))
    assert kept == [0, 2]
    pruned = get_model("resnet18", planes=8).eval()
    pruned.prune_intermediate_layers((-3,))
    assert pruned.num_features == 16
    assert pruned(x).shape == (2, 16, 8, 8)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet26d"])
@pytest.mark.parametrize("stride", [32, 16, 8])
@torch.no_grad()
def test_output_strides_equal_timm(timm, name, stride):
    torch.manual_seed(0)
    ours = get_model(name, output_stride=stride, num_classes=4).eval()
    theirs = timm.create_model(name, output_stride=stride, num_classes=4).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 65, 96)
    a, b = ours.forward_features(x), theirs.forward_features(x)
    assert a.shape[-1] == 96 // stride
    assert torch.allclose(a, b, rtol=1e-5, atol=1e-6 * b.abs().max().item())
    assert ours.feature_info[-1]["reduction"] == stride
    with pytest.raises(ValueError, match="output_stride must be 32, 16 or 8"):
        get_model(name, output_stride=4)


@pytest.mark.parametrize("trunk", [False, True])
def test_checkpointing_gives_the_same_gradients_and_keeps_less(trunk):
    torch.manual_seed(0)
    model = resnet50(planes=16, features_only=trunk).eval()
    grads, kept = [], []
    for on in (False, True):
        model.set_grad_checkpointing(on)
        model.zero_grad()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            out = model(torch.ones(X, requires_grad=True))
        (out[-1] if trunk else out).sum().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        kept.append(sum(sizes))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*grads, strict=True))
    assert kept[1] < kept[0] / 2


def test_trunks_have_timms_feature_info_and_count_from_the_end(timm):
    ours = resnet50(features_only=True, out_indices=(-3, -1))
    theirs = timm.create_model("resnet50", features_only=True, out_indices=(-3, -1))
    for fact in ("channels", "reduction", "module_name"):
        assert getattr(ours.feature_info, fact)() == getattr(theirs.feature_info, fact)()
        assert getattr(ours.feature_info, fact)(1) == getattr(theirs.feature_info, fact)(1)
    assert ours.out_indices == (2, 4)
    assert resnet50(planes=8, features_only=True, out_indices=2).out_indices == (3, 4)
    assert len(ours.feature_info) == 5


# -- variants -------------------------------------------------------------------------------------

_LARGE = ("101", "152", "200")
NAMED_AS_IN_TIMM = [name for name in VARIANTS if "clip" not in name and "v2" not in name]


@pytest.mark.parametrize("name", NAMED_AS_IN_TIMM)
def test_every_variant_has_the_keys_and_shapes_of_timm(timm, name):
    with torch.device("meta"):
        ours, theirs = get_model(name).state_dict(), timm.create_model(name).state_dict()
    assert list(ours) == list(theirs)
    assert [t.shape for t in ours.values()] == [t.shape for t in theirs.values()]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if any(n in name for n in _LARGE) else name
        for name in NAMED_AS_IN_TIMM
    ],
)
@torch.no_grad()
def test_every_variant_computes_what_timm_computes(timm, calibrate, name):
    torch.manual_seed(0)
    ours = calibrate(get_model(name, num_classes=11), 48)
    theirs = timm.create_model(name, num_classes=11).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for shape in ((2, 3, 64, 64), (1, 3, 97, 61)):
        x = torch.randn(shape)
        assert torch.equal(ours(x), theirs(x))


# -- frozen norms ---------------------------------------------------------------------------------


def _extractor(model):
    from torchvision.models.feature_extraction import create_feature_extractor

    return create_feature_extractor(model, {"layer2": "a", "layer4": "b"})


CONTAINERS = {
    "itself": lambda m: m,
    "Sequential": lambda m: nn.Sequential(m, nn.Linear(1000, 2)),
    "parts in Sequential": lambda m: nn.Sequential(*list(m.children())[:-2]),
    "features": lambda m: type(resnet18(planes=8, features_only=True))(m),
    "features in a detector": lambda m: nn.ModuleDict(
        {"body": type(resnet18(planes=8, features_only=True))(m, (1, 2, 3, 4))}
    ),
    "copy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "copied parts": lambda m: nn.Sequential(*copy.deepcopy(list(m.children())[:-2])),
    "extractor": _extractor,
    "graph": torch.fx.symbolic_trace,
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_frozen_norms_stay_frozen_in_every_container(torchvision, container):
    torch.manual_seed(0)
    model = resnet18(planes=8, stochastic_depth=0.3).freeze(2)
    whole = CONTAINERS[container](model)
    for _ in range(2):
        whole.train()
        run = whole["body"] if isinstance(whole, nn.ModuleDict) else whole
        before = {k: v.clone() for k, v in run.state_dict().items()}
        run(torch.randn(X))
        after = run.state_dict()
        changed = [k for k in before if not torch.equal(before[k], after[k])]
        assert changed  # the later stages learn
        frozen = [k for k in before if not _later(k, container)]
        assert len(frozen) > 20
        assert not set(changed) & set(frozen)
        whole.eval()


def _later(key, container):
    """Whether a key belongs to stage 3 or 4, in the numbering of the container."""
    parts = key.split(".")
    if "parts" in container:
        return int(parts[0]) >= 6
    return any(part in ("layer3", "layer4", "fc") for part in parts)


def test_unfreezing_lets_norms_learn_again():
    features = resnet18(planes=8, features_only=True).freeze(4).train()
    assert not any(m.training for m in features.modules() if isinstance(m, nn.BatchNorm2d))
    assert not any(p.requires_grad for p in features.parameters())
    features.freeze(-1)
    assert all(m.training for m in features.modules())
    assert all(p.requires_grad for p in features.parameters())
    with pytest.raises(ValueError, match="stages must be"):
        features.freeze(5)
    part = nn.BatchNorm2d(3)
    hold_in_evaluation(part)
    assert not part.train().training


@pytest.mark.parametrize("trunk", [False, True])
@pytest.mark.parametrize("wrap", [lambda m: m, nn.Sequential])
def test_frozen_norms_that_were_synchronised_later_stay_frozen(trunk, wrap):
    model = resnet18(planes=8, features_only=trunk).freeze(1)
    wrap(nn.SyncBatchNorm.convert_sync_batchnorm(wrap(model))).train()
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.SyncBatchNorm)}
    assert {n for n, m in norms.items() if not m.training} == {
        "bn1",
        *(f"layer1.{block}.bn{number}" for block in (0, 1) for number in (1, 2)),
    }
