"""The graph written node by node, through ONNX Runtime: equal at any batch and size."""

import sys

import pytest
import torch

from resnet_zoo import get_model
from resnet_zoo.inference.export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")

NETWORKS = {
    "basic": ("resnet18", {}),
    "bottleneck": ("resnet50", {}),
    "groups": ("resnext50_32x4d", {"planes": 32}),
    "deep stem, averages": ("resnet26d", {}),
    "squeeze": ("seresnet18", {}),
    "efficient attention": ("ecaresnet26t", {}),
    "dilated averages": ("resnet26d", {"output_stride": 8}),
    "small stem, one channel": ("resnet18", {"stem": "small", "in_channels": 1}),
    "largest": ("resnet18", {"global_pool": "max", "num_classes": 0}),
    "unpooled": ("resnet18", {"global_pool": "", "num_classes": 0}),
    "trunk": ("resnet18", {"features_only": True}),
    "part of a trunk": ("resnet26t", {"features_only": True, "out_indices": (1, -1)}),
}


@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_the_graph_gives_the_same_at_any_batch_height_and_width(tmp_path, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # torch's exporter is not asked
    name, arguments = NETWORKS[kind]
    torch.manual_seed(0)
    model = get_model(name, **{"planes": 16, "num_classes": 5, **arguments}).train()
    channels = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d)).in_channels
    model(torch.randn(4, channels, 64, 64))
    path = export_onnx(model.eval(), tmp_path / "m.onnx", dynamic_size=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [f"map{i}" for i in getattr(model, "out_indices", ())] or ["logits"]
    assert [output.name for output in session.get_outputs()] == names
    assert session.get_inputs()[0].shape == ["batch", channels, "height", "width"]
    for shape in ((2, 64, 64), (1, 97, 61), (3, 32, 20)):
        x = torch.randn(shape[0], channels, *shape[1:])
        expected = model(x)
        found = session.run(None, {"images": x.numpy()})
        for a, b in zip(found, expected if len(names) > 1 else [expected], strict=True):
            assert (torch.from_numpy(a) - b).abs().max() < 1e-5 * b.abs().max()
    again = export_onnx(model, tmp_path / "f.onnx", size=(32, 48), dynamic_batch=False)
    fixed = onnxruntime.InferenceSession(str(again), providers=["CPUExecutionProvider"])
    assert fixed.get_inputs()[0].shape == [1, channels, 32, 48]


@torch.no_grad()
def test_what_is_not_known_goes_through_torchs_exporter(tmp_path):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    trunk = get_model("resnet18", planes=32, features_only=True, out_indices=(2, 4),
                      norm_layer=lambda c: torch.nn.GroupNorm(4, c)).eval()  # fmt: skip
    path = export_onnx(trunk, tmp_path / "m.onnx", dynamic_size=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = torch.randn(3, 3, 97, 61)
    for a, b in zip(session.run(["map2", "map4"], {"images": x.numpy()}), trunk(x), strict=True):
        assert (torch.from_numpy(a) - b).abs().max() < 1e-4 * b.abs().max()


@torch.no_grad()
def test_trunks_are_exported_by_torch_export_with_free_sizes():
    trunk = get_model("resnet18", planes=16, features_only=True, out_indices=(1, 4)).eval()
    free = {
        0: torch.export.Dim("batch", min=1),
        2: torch.export.Dim("height", min=33),
        3: torch.export.Dim("width", min=33),
    }
    program = torch.export.export(
        trunk, (torch.zeros(2, 3, 64, 64),), dynamic_shapes={"x": free}, strict=False
    ).module()
    for shape in ((1, 3, 64, 64), (3, 3, 97, 61)):
        x = torch.randn(shape)
        assert all(torch.equal(a, b) for a, b in zip(program(x), trunk(x), strict=True))
