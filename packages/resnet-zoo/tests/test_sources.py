"""What is known of weights wherever they lie: preprocessing, classes; the Hugging Face hub."""

import dataclasses
import hashlib
import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from PIL import Image

from resnet_zoo import (
    ImageClassification,
    ResNet50_Weights,
    WeightsError,
    imagenet_categories,
    resnet18,
    resnet50,
    resolve,
    save_weights,
)
from resnet_zoo.weights.cards import card_from

TINY = {"stem": "small", "planes": 8}
V2 = ResNet50_Weights.IMAGENET1K_V2
TIMM = {
    "architecture": "resnet50", "num_classes": 1000,
    "pretrained_cfg": {"test_input_size": [3, 288, 288], "test_crop_pct": 0.95, "crop_pct": 0.9,
                       "interpolation": "bicubic", "crop_mode": "center"},
}  # fmt: skip


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small file that is the published one: its hash is the entry's."""
    torch.manual_seed(0)
    torch.save(resnet18(num_classes=4, **TINY).state_dict(), tmp_path / "w.pth")
    digest = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    record = dataclasses.replace(V2.value, sha256=digest[:8])
    monkeypatch.setattr(V2, "_value_", record)
    return tmp_path / "w.pth"


@pytest.mark.parametrize("name", ["resnet50-{}.pth", "my copy.pth", "blob"])
def test_a_published_file_is_known_by_its_hash_wherever_it_lies(published, tmp_path, name):
    place = tmp_path / "elsewhere" / name.format(V2.value.sha256)
    place.parent.mkdir()
    published.rename(place)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = resnet18(weights=place, **TINY).source
        assert source.transforms() == V2.transforms()
    assert source.categories() == list(imagenet_categories())
    assert source.transforms(crop_size=320).crop_size == 320


def test_a_published_file_by_address_is_the_entry(published, server):
    server.files[V2.value.file_name] = published.read_bytes()
    source = resolve(f"{server.url}/mirror/{V2.value.file_name}")
    assert source.transforms() == V2.transforms()
    assert source.categories() == list(imagenet_categories())


def test_a_file_with_a_published_name_and_another_hash_says_so(tmp_path):
    path = tmp_path / V2.value.file_name
    torch.save(resnet18(num_classes=4, **TINY).state_dict(), path)
    source = resnet18(weights=path, **TINY).source
    with pytest.warns(UserWarning, match=r"has the name of ResNet50_Weights.IMAGENET1K_V2, but"):
        assert source.transforms() == V2.transforms()


def test_a_file_that_says_nothing_is_told_with_what_is_assumed(tmp_path):
    torch.save(resnet18(num_classes=4, **TINY).state_dict(), tmp_path / "w.pth")
    source = resolve(tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="does not say how its pictures were prepared; assumed"):
        transform = source.transforms()
    assert (transform.crop_size, transform.resize_size) == (224, 256)
    assert source.categories() is None


@pytest.mark.parametrize("way", ["file", "folder", "pickle"])
def test_config_json_beside_a_file_is_read_as_on_the_hub(tmp_path, way):
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    model = resnet18(num_classes=1000, **TINY)
    if way == "pickle":
        torch.save(model.state_dict(), snapshot / "pytorch_model.bin")
    else:
        save_weights(model, snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(json.dumps(TIMM))
    source = resnet18(weights=snapshot if way != "file" else snapshot / "model.safetensors", **TINY)
    source = source.source
    transform = source.transforms()
    assert (transform.crop_size, transform.resize_size) == (288, 303)
    assert transform.interpolation == "bicubic"
    assert source.categories() == list(imagenet_categories())


def test_metadata_without_preprocessing_does_not_hide_config_json(tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(resnet18(num_classes=1000, **TINY), path, {"note": "mine", "categories": ["a"]})
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    source = resolve(path)
    assert source.transforms().interpolation == "bicubic"
    assert source.categories() == ["a"]


def test_the_config_of_another_model_is_told(tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(resnet18(num_classes=1000, **TINY), path)
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    with pytest.warns(UserWarning, match=r"config\.json is of resnet50, not of resnet18"):
        resolve(path, "resnet18").transforms()


def test_the_config_of_another_tool_is_no_card(tmp_path):
    save_weights(resnet18(num_classes=4, **TINY), tmp_path / "w.safetensors")
    for text in ('{"learning_rate": 1}', "[1]", "no json"):
        (tmp_path / "config.json").write_text(text)
        with pytest.warns(UserWarning, match="assumed"):
            resolve(tmp_path / "w.safetensors").transforms()


@pytest.mark.parametrize("size", [224, 384])
def test_a_snapshot_of_transformers_has_its_preprocessing(torchvision, tmp_path, size):
    transformers = pytest.importorskip("transformers")
    try:
        from transformers.models.convnext.image_processing_pil_convnext import (
            ConvNextImageProcessorPil as Processor,
        )
    except ImportError:
        Processor = transformers.ConvNextImageProcessor
    processor = Processor(size={"shortest_edge": size}, crop_pct=0.875, resample=3)
    config = {
        "model_type": "resnet", "architectures": ["ResNetForImageClassification"],
        "id2label": {"1": "dog", "0": "cat", "10": "fox"},
    }  # fmt: skip
    save_weights(resnet18(num_classes=4, **TINY), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({
        "crop_pct": 0.875, "size": {"shortest_edge": size}, "resample": 3,
        "image_mean": list(processor.image_mean), "image_std": list(processor.image_std),
    }))  # fmt: skip
    source = resolve(tmp_path)
    assert source.categories() == ["cat", "dog", "fox"]
    image = Image.effect_noise((500, 400), 60).convert("RGB")
    theirs = processor(image, return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(source.transforms()(image), theirs, atol=1e-5)


HF = {"model_type": "resnet", "id2label": {"0": "cat", "1": "dog"}}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            {"size": {"height": 64, "width": 48}},
            {"crop_size": (64, 48), "resize_size": (64, 48), "crop_mode": "squash"},
        ),
        (
            {"size": {"shortest_edge": 96}, "crop_size": {"height": 64, "width": 48}},
            {"crop_size": (64, 48), "resize_size": 96},
        ),
        (
            {"size": {"shortest_edge": 224}, "do_normalize": False},
            {"crop_size": 224, "resize_size": 256, "mean": [0.0] * 3, "std": [1.0] * 3},
        ),
    ],
)
def test_a_preprocessor_of_another_kind_is_followed(said, expected):
    card = card_from(HF, said)
    assert ImageClassification(**card["transforms"]) == ImageClassification(**expected)


@pytest.mark.parametrize(
    "said",
    [
        {"do_resize": False}, {"do_rescale": False}, {"rescale_factor": 1 / 127.5},
        {"resample": 1},
        {"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": False},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_preprocessor_asks_for_in_vain_is_told(said):
    with pytest.warns(UserWarning, match="is not done here"):
        assert "transforms" not in card_from(HF, said)


@pytest.mark.parametrize(
    ("config", "preprocessor"),
    [
        ({"architecture": "resnet18", "pretrained_cfg": {"input_size": 224}}, None),
        ({"architecture": "resnet18", "pretrained_cfg": {"crop_pct": "0.9"}}, None),
        ({"architecture": "resnet18", "pretrained_cfg": [1]}, None),
        (HF, {"size": [224, 224]}),
        (HF, {"size": {"longest_edge": 224}}),
        ({**HF, "id2label": ["cat"]}, None),
    ],
    ids=str,
)
def test_a_card_of_other_types_is_refused_by_name(config, preprocessor):
    with pytest.raises(WeightsError, match="correct or remove it"):
        card_from(config, preprocessor)


def test_a_resnet_that_strides_in_the_first_convolution_is_refused(tmp_path):
    save_weights(resnet18(num_classes=4, **TINY), tmp_path / "model.safetensors")
    config = {"model_type": "resnet", "downsample_in_bottleneck": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="downsample_in_bottleneck"):
        resolve(tmp_path).transforms()


def test_a_folder_without_weights_or_with_several_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"is a folder; a weight file was expected.*found: none"):
        resnet50(weights=tmp_path)
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"found: a\.pth, b\.pth"):
        resnet50(weights=tmp_path)


# -- the hub --------------------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """Serves `files` by path; `private` ones only with the token."""

    daemon_threads = True

    def __init__(self, files, elsewhere=None):
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.files, self.elsewhere, self.seen = files, elsewhere, []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,)).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _HubHandler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        token = self.headers.get("Authorization")
        self.server.seen.append((self.path, token))
        if "private" in self.path and token != "Bearer hf_secret":
            return self.send_error(401)
        data = self.server.files.get(self.path)
        if data is None:
            return self.send_error(404)
        if self.server.elsewhere and self.path.endswith("safetensors"):
            self.send_response(302)
            self.send_header("Location", self.server.elsewhere + self.path)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return self.wfile.write(data)


@pytest.fixture
def weights(tmp_path):
    save_weights(resnet18(num_classes=4, **TINY), tmp_path / "w.safetensors")
    return (tmp_path / "w.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("asked", "base"),
    [
        ("me/net", "/me/net/resolve/main"),
        ("me/net@v1.2", "/me/net/resolve/v1.2"),
        ("hf:me/net/deep/er", "/me/net/resolve/main/deep/er"),
        ("hf-hub:me/net/deep@refs/pr/3", "/me/net/resolve/refs/pr/3/deep"),
    ],
)
def test_revisions_and_folders_of_a_repo_are_asked_for(monkeypatch, weights, asked, base):
    files = {f"{base}/model.safetensors": weights, f"{base}/config.json": json.dumps(TIMM).encode()}
    with Hub(files) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        source = resnet18(weights=asked, **TINY).source
        assert source.transforms().crop_size == 288
        again = resnet18(weights=asked, offline=True, **TINY).source
        assert again.transforms().crop_size == 288
        assert [path for path, _ in hub.seen] == list(files)


def test_an_older_repo_has_its_weights_in_a_pickle(monkeypatch, tmp_path):
    torch.save(resnet18(num_classes=4, **TINY).state_dict(), tmp_path / "w")
    files = {"/me/old/resolve/main/pytorch_model.bin": (tmp_path / "w").read_bytes()}
    with Hub(files) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        resnet18(weights="me/old", **TINY)
        resnet18(weights="me/old", offline=True, **TINY)
        with pytest.raises(WeightsError, match="404"):
            resnet18(weights="me/nothing", **TINY)


@pytest.mark.parametrize("where", ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME"])
def test_a_private_repo_is_read_with_the_users_token(monkeypatch, weights, tmp_path, where):
    files = {"/me/private/resolve/main/model.safetensors": weights}
    (tmp_path / "token").write_text("hf_secret\n")
    value = {"HF_TOKEN": "hf_secret", "HF_TOKEN_PATH": tmp_path / "token", "HF_HOME": tmp_path}
    with Hub(files) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(WeightsError, match=r"401[\s\S]*set HF_TOKEN"):
            resnet18(weights="me/private", **TINY)
        monkeypatch.setenv(where, str(value[where]))
        loaded = resnet18(weights="me/private", **TINY)
    assert "hf_secret" not in repr(loaded.source) + repr(loaded.source.remote())


def test_the_token_is_not_sent_to_another_server(monkeypatch, weights):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    path = "/me/net/resolve/main/model.safetensors"
    with Hub({path: weights}) as storage:
        elsewhere = storage.url.replace("127.0.0.1", "localhost")
        with Hub({path: weights}, elsewhere) as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            resnet18(weights="me/net", **TINY)
        assert hub.seen == [(path, "Bearer hf_secret")]
        assert storage.seen == [(path, None)]


@pytest.mark.parametrize("damaged", [False, True])
def test_what_huggingface_hub_has_downloaded_is_used_where_it_lies(
    monkeypatch, weights, tmp_path, damaged, capsys
):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    root = tmp_path / "hub" / "models--me--net"
    for name, data in (
        ("model.safetensors", weights),
        ("config.json", json.dumps(TIMM).encode()),
    ):
        blob = root / "blobs" / hashlib.sha256(data).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data[:-1] if damaged and name.startswith("model") else data)
        link = root / "snapshots" / "abc" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    if damaged:
        with pytest.raises(WeightsError, match="downloads are off"):
            resnet18(weights="me/net", offline=True, **TINY)
        assert "is damaged and not used" in capsys.readouterr().err
        return
    loaded = resnet18(weights="me/net", offline=True, **TINY)
    assert loaded.source.path() == root / "snapshots" / "abc" / "model.safetensors"
    assert loaded.source.transforms().crop_size == 288
    assert resnet18(weights="me/net@abc", offline=True, **TINY).source.categories()
