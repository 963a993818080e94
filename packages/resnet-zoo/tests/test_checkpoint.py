"""Weight files: what is accepted, what is refused and how it is said; names for `weights=`."""

import copy
import gzip
import io
import json
import os
import pickle
import struct
import zipfile

import pytest
import torch

from resnet_zoo import (
    ResNet18_Weights,
    ResNet50_Weights,
    WeightsError,
    get_model,
    get_model_weights,
    get_weight,
    imagenet_categories,
    list_models,
    load_model,
    load_report,
    read_state_dict,
    resnet18,
    resnet50,
    resolve,
    save_weights,
)
from resnet_zoo.weights.checkpoint import load_into

TINY = {"stem": "small", "planes": 8}


@pytest.fixture
def model():
    return resnet18(num_classes=5, **TINY)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_round_trip_is_exact(model, tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_weights(model, path)
    else:
        torch.save(model.state_dict(), path)
    assert same(resnet18(weights=path, **TINY), model)
    assert load_report(resnet18(weights=str(path), **TINY)).loaded == len(model.state_dict())


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
def test_wrappers_and_prefixes_of_training_scripts_are_taken_off(model, tmp_path, wrapper, prefix):
    path = tmp_path / "run.pth"
    state = {prefix + key: value for key, value in model.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3}, path)
    assert same(resnet18(weights=path, **TINY), model)


def test_half_precision_files_are_cast_and_do_not_change_the_model(model, tmp_path):
    path = tmp_path / "half.safetensors"
    save_weights(model.half(), path)
    loaded = resnet18(weights=path, **TINY)
    assert loaded.conv1.weight.dtype == torch.float32
    assert torch.equal(loaded.conv1.weight, model.conv1.weight.float())


def test_files_without_batch_counters_load(model, tmp_path):
    path = tmp_path / "old.pth"
    state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    torch.save(state, path)
    loaded = resnet18(weights=path, **TINY)
    assert torch.equal(loaded.fc.weight, model.fc.weight)


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_file_that_carries_code_is_refused_and_the_code_does_not_run(model, tmp_path):
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({**model.state_dict(), "extra": Attack(marker)}, path)
    with pytest.raises(WeightsError, match="could run code"):
        resnet18(weights=path, **TINY)
    assert not marker.exists()


def zipped(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"numbers")
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"PK\x03\x04 and then nothing", "zip archive"),
        (gzip.compress(b"weights"), "compressed by gzip"),
        (b"\x89HDF\r\n", "HDF5 file"),
        (pickle.dumps({"a": 1}), "torch.save did not write"),
        (zipped("w.npy"), "a zip archive with w.npy"),
        (b"\x80\x02 nonsense" * 9, "bytes that begin with 80 02"),
    ],
)
def test_what_is_no_weight_file_is_named(tmp_path, suffix, content, said):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_state_dict(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def safetensors_bytes(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 1 << 60),  # a header larger than the file
        safetensors_bytes({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"1234"),
        safetensors_bytes(  # overlapping tensors
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            },
            b"0" * 12,
        ),
        safetensors_bytes(  # the shape's product overflows
            {"a": {"dtype": "F32", "shape": [1 << 33, 1 << 33], "data_offsets": [0, 16]}}, b"0" * 16
        ),
    ],
)
def test_malformed_safetensors_are_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a sound safetensors file"):
        read_state_dict(path)


def test_a_truncated_pth_is_refused(model, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(WeightsError, match="damaged"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, torch.zeros(2)])
def test_a_pth_that_is_no_state_dict_is_refused(tmp_path, content):
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match="not a state dict"):
        read_state_dict(path)


def test_missing_unexpected_and_misshapen_keys_are_all_listed(model, tmp_path):
    state = model.state_dict()
    state["surprise"] = state.pop("bn1.weight")
    state["conv1.weight"] = torch.zeros(8, 3, 5, 5)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        resnet18(weights=tmp_path / "w.pth", **TINY)
    text = str(caught.value)
    assert "1 keys missing: bn1.weight" in text
    assert "1 keys unexpected: surprise" in text
    assert "conv1.weight: (8, 3, 5, 5) in the file, (8, 3, 3, 3) in the model" in text


def test_another_number_of_classes_keeps_only_the_head_fresh_and_says_so(model, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(model, path)
    with pytest.warns(UserWarning, match=r"fc.weight, fc.bias.*freshly initialised"):
        other = resnet18(weights=path, num_classes=9, **TINY)
    assert other.fc.out_features == 9
    assert load_report(other).reinitialized == ["fc.weight", "fc.bias"]
    assert torch.equal(other.layer4[1].conv2.weight, model.layer4[1].conv2.weight)
    kept = resnet18(weights=path, num_classes=5, **TINY)
    assert load_report(kept).reinitialized == []
    assert same(kept, model)


def test_colour_weights_enter_a_grey_model_summed(model, tmp_path, calibrate):
    path = tmp_path / "w.safetensors"
    save_weights(calibrate(model), path)
    grey = resnet18(weights=path, in_channels=1, **TINY).eval()
    assert load_report(grey).summed == ["conv1.weight"]
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.allclose(grey(x), model(x.expand(-1, 3, -1, -1)), atol=1e-4)


def test_a_loaded_model_can_be_pickled_and_copied(model, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(model, path)
    loaded = resnet18(weights=path, **TINY)
    for twin in (pickle.loads(pickle.dumps(loaded)), copy.deepcopy(loaded)):
        assert same(twin, model)
        assert twin.source.label == str(path)


@pytest.mark.parametrize(
    "weights", ["DEFAULT", "hf:timm/resnet50.a1_in1k", "https://example.org/r-00000000.pth"]
)
def test_sources_say_where_they_come_from_and_can_be_pickled(weights):
    source = resolve(weights, "resnet50", offline=True)
    assert pickle.loads(pickle.dumps(source)) == source
    with pytest.raises(WeightsError, match="downloads are off"):
        source.path()


def test_a_model_file_knows_its_model(model, tmp_path):
    arguments = {"num_classes": 5, **TINY}
    save_weights(model, tmp_path / "w.safetensors", {"model": "resnet18", "model_args": arguments})
    assert same(load_model(tmp_path / "w.safetensors"), model)
    save_weights(model, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="does not say which model"):
        load_model(tmp_path / "x.safetensors")


# -- names --------------------------------------------------------------------------------------


def test_pretrained_true_is_version_one_with_a_warning_that_names_weights():
    with (
        pytest.warns(FutureWarning, match=r'resnet50\(weights="IMAGENET1K_V1"\)'),
        pytest.raises(WeightsError, match=r"resnet50-0676ba61\.pth"),
    ):
        resnet50(pretrained=True, offline=True)
    with pytest.warns(FutureWarning), pytest.raises(WeightsError, match="0676ba61"):
        resnet50(True, offline=True)
    with pytest.warns(FutureWarning):
        assert resnet18(pretrained=False, planes=8).fc.out_features == 1000


def test_default_is_version_two_where_it_exists():
    assert ResNet50_Weights.DEFAULT is ResNet50_Weights.IMAGENET1K_V2
    with pytest.raises(WeightsError, match=r"resnet50-11ad3fa6\.pth"):
        resnet50(weights="DEFAULT", offline=True)
    with pytest.raises(WeightsError, match=r"resnet50-0676ba61\.pth"):
        resnet50(weights="ResNet50_Weights.IMAGENET1K_V1", offline=True)


@pytest.mark.parametrize(
    ("weights", "kind", "said"),
    [
        (ResNet18_Weights.DEFAULT, TypeError, "must be of ResNet50_Weights"),
        ("ResNet18_Weights.DEFAULT", TypeError, "must be of ResNet50_Weights"),
        ("IMAGENET1K_V3", ValueError, "there are IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
        ("missing.safetensors", WeightsError, "there is no file missing.safetensors"),
        ("sub/MISSING.PTH", WeightsError, "there is no file sub/MISSING.PTH"),
        ("", ValueError, "the name is empty"),
        ({"fc.weight": torch.zeros(1000, 2048)}, TypeError, "a state dict; cure: load_state_dict"),
        (3, TypeError, "got 3"),
        ("Res.Net", ValueError, "neither a file"),
    ],
)
def test_wrong_weights_are_named(weights, kind, said):
    with pytest.raises(kind, match=said):
        resnet50(weights=weights, offline=True)


def test_weights_and_pretrained_together_are_refused():
    with pytest.raises(ValueError, match="not both"):
        resnet18(pretrained=True, weights="DEFAULT")
    with pytest.raises(TypeError, match="by keyword"):
        resnet18("DEFAULT")


def test_the_registry_answers_by_name():
    assert len(list_models()) == 10
    assert list_models("wide*") == ["wide_resnet50_2", "wide_resnet101_2"]
    assert get_weight("ResNet18_Weights.DEFAULT") is ResNet18_Weights.IMAGENET1K_V1
    assert get_model_weights("resnet50") is ResNet50_Weights
    assert len(imagenet_categories()) == 1000
    with pytest.raises(ValueError, match="no model 'vgg16'"):
        get_model("vgg16")
    with pytest.raises(ValueError, match="no entry"):
        get_weight("VGG_Weights.X")


def test_import_brings_only_the_declared_packages():
    import subprocess
    import sys

    code = (
        "import sys, torch; before = set(sys.modules); import resnet_zoo\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    allowed = {"resnet_zoo", "PIL", "safetensors", "filelock", "tqdm", "torch"}
    assert {n for n in out.stdout.split() if not n.startswith("_")} <= allowed


def test_a_file_of_torch_is_read_by_any_name(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "w.safetensors")
    loaded = read_state_dict(tmp_path / "w.safetensors")
    assert torch.equal(loaded["conv1.weight"], model.state_dict()["conv1.weight"])


def test_a_classifier_of_other_parts_is_told_from_none(model, tmp_path):
    state = {k.replace("fc.", "fc.1."): v for k, v in model.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="classifier is made of other parts"):
        load_into(model, read_state_dict(tmp_path / "w.pth"), "w.pth")


def test_tensors_without_numbers_are_refused(model):
    state = {k: v.to("meta") for k, v in model.state_dict().items()}
    with pytest.raises(WeightsError, match="without numbers"):
        load_into(model, state, "w.pth")
