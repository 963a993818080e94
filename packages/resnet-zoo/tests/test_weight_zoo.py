"""Weight files as people have them: each enters the model right, or is named in one sentence."""

import argparse
import io
import pickle
import struct
import tarfile
from collections import OrderedDict
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from resnet_zoo import (
    WeightsError,
    get_model,
    load_report,
    read_state_dict,
    resnet18,
    resnet50,
    save_weights,
)

TINY = {"stem": "small", "planes": 8}


@pytest.fixture
def model():
    torch.manual_seed(1)
    return resnet18(num_classes=5, **TINY)


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def trunk(state):
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def noise(state):
    return {key: torch.zeros_like(value) for key, value in state.items()}


CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7",
            "fc": "9"}  # fmt: skip
WHOLE = {
    "bare": lambda s: s,
    "DataParallel": lambda s: prefixed(s, "module."),
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "compiled parts": lambda s: {k.replace("layer1.", "layer1._orig_mod."): v
                                 for k, v in s.items()},
    "FSDP": lambda s: {k.replace("layer2.0.", "layer2._fsdp_wrapped_module.0."): v
                       for k, v in s.items()},
    "Lightning": lambda s: {"state_dict": prefixed(s, "model."), "epoch": 3, "global_step": 7,
                            "pytorch-lightning_version": "2.1"},
    "Lightning, compiled net": lambda s: {"state_dict": prefixed(s, "net._orig_mod.")},
    "Lightning and a criterion": lambda s: {
        "state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(5)}},
    "pytorch/examples": lambda s: {"epoch": 9, "arch": "resnet18", "best_acc1": torch.tensor(70.0),
                                   "state_dict": prefixed(s, "module."), "optimizer": {}},
    "model_state_dict": lambda s: {"epoch": 3, "model_state_dict": s, "loss": 0.5},
    "model": lambda s: {"model": s, "args": {"lr": 0.1}},
    "Namespace": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1)},
    "numpy numbers": lambda s: {"state_dict": s, "best": np.float64(71.5), "step": np.int64(3)},
    "net": lambda s: {"net": prefixed(s, "module."), "acc": 91.2},
    "DeepSpeed": lambda s: {"module": s, "optimizer": None},
    "timm's average": lambda s: {"state_dict": noise(s), "state_dict_ema": s},
    "average beside it": lambda s: {"state_dict": {**noise(prefixed(s, "model.")),
                                                   **prefixed(s, "ema_model.module.")}},
    "teacher": lambda s: {"student": noise(prefixed(s, "module.")),
                          "teacher": prefixed(s, "module.")},
    "nested": lambda s: {"checkpoint": {"model": {"state_dict": s}}},
    "mmpretrain": lambda s: {"meta": {"epoch": 1}, "state_dict": {
        **prefixed(trunk(s), "backbone."),
        "head.fc.weight": s["fc.weight"], "head.fc.bias": s["fc.bias"]}},
    "Cadene": lambda s: {k.replace("fc.", "last_linear."): v for k, v in s.items()},
    "parameters": lambda s: OrderedDict((k, nn.Parameter(v) if v.is_floating_point() else v)
                                        for k, v in s.items()),
    "bytes as names": lambda s: {k.encode(): v for k, v in s.items()},
    "numbered children": lambda s: {"state_dict": {
        "backbone." + ".".join([CHILDREN[k.split(".")[0]], *k.split(".")[1:]]): v
        for k, v in s.items()}},
    "records of a run": lambda s: {
        "state_dict": s, "when": datetime(2026, 1, 2),
        "random": np.random.RandomState(0).get_state(), "names": np.array(["cat", "dog"]),
        "options": SimpleNamespace(lr=0.1)},
    "an average's settings beside the model": lambda s: {
        "ema": {"decay": torch.tensor(0.99)}, "model": s},
    "counters in float": lambda s: {k: v.float() for k, v in s.items()},
    "counters in half": lambda s: {k: v.half() for k, v in s.items()},
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
}  # fmt: skip


def same(loaded, state, exact=True):
    own = loaded.state_dict()
    return list(own) == list(state) and all(
        torch.equal(own[k], state[k] if exact else state[k].half().to(own[k].dtype)) for k in state
    )


@pytest.mark.parametrize("kind", WHOLE)
def test_a_checkpoint_of_any_trainer_gives_the_same_model(model, tmp_path, kind):
    state = model.state_dict()
    torch.save(WHOLE[kind](state), tmp_path / "w.pth")
    loaded = resnet18(weights=tmp_path / "w.pth", **TINY)
    assert same(loaded, state, exact="half" not in kind)
    assert load_report(loaded).loaded == len(state)


@pytest.mark.parametrize("kind", [k for k in WHOLE if "state_dict" not in str(WHOLE[k])])
@pytest.mark.parametrize("name", ["w.safetensors", "w.bin", "blob"])
def test_safetensors_of_any_name_and_prefix_are_read_alike(model, tmp_path, kind, name):
    made = WHOLE[kind](model.state_dict())
    if not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in made.items()):
        return  # safetensors hold texts as names and tensors alone
    save_file({k: v.detach().clone() for k, v in made.items()}, tmp_path / name)
    assert same(resnet18(weights=tmp_path / name, **TINY), model.state_dict(), "half" not in kind)


def test_arrays_of_objects_beside_the_tensors_are_refused(model, tmp_path):
    made = {"state_dict": model.state_dict(), "names": np.array(["cat", None], dtype=object)}
    torch.save(made, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth was refused"):
        resnet18(weights=tmp_path / "w.pth", **TINY)


def test_a_counter_that_half_precision_made_infinite_starts_at_zero(model, tmp_path):
    state = model.state_dict()
    state["bn1.num_batches_tracked"] = torch.tensor(100_000)
    torch.save({key: value.half() for key, value in state.items()}, tmp_path / "w.pth")
    loaded = resnet18(weights=tmp_path / "w.pth", **TINY).state_dict()
    assert loaded["bn1.num_batches_tracked"] == 0
    assert loaded["bn1.num_batches_tracked"].dtype is torch.int64


def test_the_network_inside_data_parallel_and_averages_is_saved_under_its_own_names(
    model, tmp_path
):
    path = tmp_path / "w.safetensors"
    for wrapped in (nn.DataParallel(model), torch.optim.swa_utils.AveragedModel(model)):
        save_weights(wrapped, path)
        assert same(resnet18(weights=path, **TINY), model.state_dict())


SELF_SUPERVISED = {
    "no classifier": lambda s: s,
    "MoCo": lambda s: {"state_dict": {
        **prefixed(s, "module.encoder_q."), **noise(prefixed(s, "module.encoder_k.")),
        "module.encoder_q.fc.weight": torch.ones(128, 64), "module.queue": torch.ones(128, 10)}},
    "MoCo v2": lambda s: {"state_dict": {
        **prefixed(s, "module.encoder_q."), "module.encoder_q.fc.0.weight": torch.ones(64, 64),
        "module.encoder_q.fc.2.weight": torch.ones(128, 64)}},
    "MoCo v3": lambda s: {"state_dict": {
        **prefixed(s, "module.base_encoder."), **noise(prefixed(s, "module.momentum_encoder."))}},
    "DINO": lambda s: {
        "student": noise(prefixed(s, "module.backbone.")), "epoch": 1,
        "teacher": {**prefixed(s, "module.backbone."), "module.head.mlp.0.weight": torch.ones(2)},
        "args": argparse.Namespace()},
    "SwAV": lambda s: {**prefixed(s, "module."), "module.prototypes.weight": torch.ones(30, 8),
                       "module.projection_head.0.weight": torch.ones(8, 64)},
    "BYOL": lambda s: {"state_dict": {
        **prefixed(s, "online_encoder."), **noise(prefixed(s, "target_encoder.")),
        "predictor.weight": torch.ones(2, 2)}},
    "lightly": lambda s: {"state_dict": {
        **prefixed(s, "backbone."), **noise(prefixed(s, "backbone_momentum."))}},
}  # fmt: skip


@pytest.mark.parametrize("kind", SELF_SUPERVISED)
def test_a_self_supervised_trunk_serves_features_or_a_fresh_classifier(model, tmp_path, kind):
    state = trunk(model.state_dict())
    torch.save(SELF_SUPERVISED[kind](state), tmp_path / "w.pth")
    features = resnet18(weights=tmp_path / "w.pth", features_only=True, **TINY)
    assert same(features, state)
    assert load_report(features).loaded == len(state)
    bare = resnet18(weights=tmp_path / "w.pth", num_classes=0, **TINY)
    assert same(bare, state)
    with pytest.warns(UserWarning, match="freshly initialised"):
        fresh = resnet18(weights=tmp_path / "w.pth", num_classes=7, **TINY)
    assert load_report(fresh).reinitialized == ["fc.weight", "fc.bias"]
    assert torch.equal(fresh.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    with pytest.raises(WeightsError, match=r"no classifier: say num_classes=N .* features_only"):
        resnet18(weights=tmp_path / "w.pth", **TINY)


def test_what_is_left_out_is_listed(model, tmp_path):
    made = {"state_dict": {**prefixed(model.state_dict(), "model."), "loss.w": torch.ones(1)}}
    torch.save(made, tmp_path / "w.pth")
    report = load_report(resnet18(weights=tmp_path / "w.pth", **TINY))
    assert report.left_out == ["loss.w"]
    assert "left out: loss.w" in str(report)


def test_two_equal_networks_in_one_file_are_not_guessed_between(model, tmp_path):
    state = model.state_dict()
    torch.save({**prefixed(state, "left."), **prefixed(state, "right.")}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"several networks \(left\., right\.\)"):
        resnet18(weights=tmp_path / "w.pth", **TINY)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.to(torch.int8), "torch.int8 in the file, torch.float32 in the model"),
        (lambda v: v.to(torch.complex64), "torch.complex64 in the file"),
        (lambda v: v.bool(), "torch.bool in the file"),
        (lambda v: v.to(torch.float8_e4m3fn), "torch.float8_e4m3fn in the file"),
        (lambda v: v.to_sparse() if v.ndim else v, "of layout torch.sparse_coo"),
        (lambda v: torch.quantize_per_tensor(v.float(), 0.1, 0, torch.qint8), "quantised"),
    ],
)
def test_numbers_of_another_kind_are_refused(model, tmp_path, change, said):
    state = model.state_dict()
    state["conv1.weight"] = change(state["conv1.weight"])
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=said):
        resnet18(weights=tmp_path / "w.pth", **TINY)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 6, 9])
def test_other_numbers_of_input_channels_follow_timm(timm, model, tmp_path, channels):
    save_weights(model, tmp_path / "w.safetensors")
    loaded = resnet18(weights=tmp_path / "w.safetensors", in_channels=channels, **TINY)
    theirs = timm.models.adapt_input_conv(channels, model.conv1.weight.detach().clone())
    assert torch.allclose(loaded.conv1.weight, theirs, rtol=0, atol=1e-7)
    told = load_report(loaded)
    assert (told.summed or told.repeated) == ["conv1.weight"]
    deep = get_model("resnet26t", planes=16, num_classes=3)
    save_weights(deep, tmp_path / "d.safetensors")
    loaded = get_model(
        "resnet26t", weights=tmp_path / "d.safetensors", planes=16, in_chans=channels
    )
    theirs = timm.models.adapt_input_conv(channels, deep.conv1[0].weight.detach().clone())
    assert torch.allclose(loaded.conv1[0].weight, theirs, rtol=0, atol=1e-7)


class FrozenBatchNorm2d(nn.Module):
    """As detection code has it: four buffers, no counter."""

    def __init__(self, channels):
        super().__init__()
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            self.register_buffer(name, torch.full((channels,), float(value)))

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


@torch.no_grad()
def test_frozen_norms_take_published_weights(model, tmp_path, calibrate):
    save_weights(calibrate(model, 16), tmp_path / "w.safetensors")
    path = tmp_path / "w.safetensors"
    frozen = resnet18(weights=path, norm_layer=FrozenBatchNorm2d, **TINY)
    x = torch.randn(2, 3, 16, 16)
    assert torch.allclose(frozen(x), model(x), rtol=1e-4, atol=1e-4)
    maps = resnet18(weights=path, norm_layer=FrozenBatchNorm2d, features_only=True, **TINY)
    assert torch.allclose(maps(x)[-1], model.forward_features(x), rtol=1e-4, atol=1e-4)


# -- transformers, torch's tar files --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classifier", "trunk"])
@torch.no_grad()
def test_weights_of_transformers_give_its_outputs(torchvision, tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=64, hidden_sizes=[256, 512, 1024, 2048], depths=[3, 4, 6, 3], num_labels=4,
        downsample_in_bottleneck=False,
    )  # fmt: skip
    torch.manual_seed(2)
    theirs = transformers.ResNetForImageClassification(config)
    theirs.train()(torch.randn(4, 3, 64, 64))
    theirs.eval()
    x = torch.randn(2, 3, 64, 64)
    if kind == "classifier":
        torch.save(theirs.state_dict(), tmp_path / "w.bin")
        ours = resnet50(weights=tmp_path / "w.bin").eval()
        assert torch.allclose(ours(x), theirs(x).logits, rtol=1e-4, atol=1e-5)
    else:
        torch.save(theirs.resnet.state_dict(), tmp_path / "w.bin")
        ours = resnet50(weights=tmp_path / "w.bin", features_only=True, out_indices=(4,)).eval()
        expected = theirs.resnet(x).last_hidden_state
        assert torch.allclose(ours(x)[0], expected, rtol=1e-4, atol=1e-4)


def legacy_tar(path, state, entries=()):
    """Write a state dict as torch.save did until 2017."""
    storages, tensors = io.BytesIO(), io.BytesIO()
    pickle.dump(len(state), storages, protocol=2)
    pickle.dump(len(state), tensors, protocol=2)
    kinds = {torch.float32: "Float", torch.int64: "Long", torch.float16: "Half"}
    for number, tensor in enumerate(state.values()):
        kind = kinds[tensor.dtype]
        pickle.dump((number, "cpu", getattr(torch, f"{kind}Storage")), storages, protocol=2)
        storages.write(struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes())
        pickle.dump((number, number, getattr(torch, f"{kind}Tensor")), tensors, protocol=2)
        numbers = [*tensor.shape, *tensor.stride(), 0]
        tensors.write(struct.pack(f"<{1 + len(numbers)}q", tensor.ndim, *numbers))
    pickle.dump([], storages, protocol=2)

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return thing[1] if isinstance(thing, tuple) and thing[:1] == ("tensor",) else None

    main = io.BytesIO()
    named = OrderedDict((key, ("tensor", str(number))) for number, key in enumerate(state))
    Pickler(main, protocol=2).dump(OrderedDict([*named.items(), *entries]))
    with tarfile.open(path, "w") as tar:
        for name, stream in (("storages", storages), ("tensors", tensors), ("pickle", main)):
            info = tarfile.TarInfo(name)
            info.size = len(stream.getvalue())
            stream.seek(0)
            tar.addfile(info, stream)


def test_a_tar_of_torch_as_of_2017_is_read(model, tmp_path):
    state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    legacy_tar(tmp_path / "resnet18-5c106cde.pth", state)
    read = torch.load(tmp_path / "resnet18-5c106cde.pth", weights_only=False)  # torch agrees
    loaded = resnet18(weights=tmp_path / "resnet18-5c106cde.pth", **TINY)
    for key, value in state.items():
        assert torch.equal(loaded.state_dict()[key], value)
        assert torch.equal(read[key], value)


def test_a_tar_that_carries_code_or_is_cut_is_refused(model, tmp_path):
    state = {"a": torch.ones(3)}
    legacy_tar(tmp_path / "evil.pth", state, [("x", print)])
    with pytest.raises(WeightsError, match="could run code"):
        read_state_dict(tmp_path / "evil.pth")
    legacy_tar(tmp_path / "cut.tar", state)
    whole = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:700])
    with pytest.raises(WeightsError, match=r"damaged .*until 2017"):
        read_state_dict(tmp_path / "cut.tar")


def test_a_torchscript_archive_is_named_with_the_cure(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "m.pt"))
    with pytest.raises(WeightsError, match=r"TorchScript archive.*torch\.jit\.load"):
        read_state_dict(tmp_path / "m.pt")
