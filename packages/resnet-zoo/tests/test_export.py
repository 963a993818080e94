"""ONNX: the exported file against the model, through ONNX Runtime."""

import pytest
import torch

from resnet_zoo import get_model, optimize, save_weights
from resnet_zoo.cli import main
from resnet_zoo.inference.export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture
def model():
    torch.manual_seed(5)
    model = get_model("resnet18", planes=16, num_classes=7).train()
    with torch.no_grad():
        model(torch.randn(4, 3, 64, 64))
    return model.eval()


def run(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])


@pytest.mark.parametrize("fold", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_file_agrees_with_the_model_for_any_batch(model, tmp_path, fold):
    path = export_onnx(model, tmp_path / "m.onnx", size=64, fold=fold)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 64, 64)
        with torch.no_grad():
            expected = model(x)
        assert (run(path, x) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_engine_gives_what_the_model_gives(model):
    fast = optimize(model, engine="onnxruntime", example=(2, 3, 64, 64))
    assert fast.report.kept == "onnxruntime"
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(fast(x), model(x), atol=1e-5)


def test_the_command_exports_a_trained_file(model, tmp_path, capsys):
    arguments = {"planes": 16, "num_classes": 7}
    save_weights(model, tmp_path / "w.safetensors", {"model": "resnet18", "model_args": arguments})
    out = tmp_path / "m.onnx"
    code = main(
        [
            "export",
            str(tmp_path / "w.safetensors"),
            "--size",
            "64",
            "--fixed-batch",
            "--out",
            str(out),
        ]
    )
    assert code == 0, capsys.readouterr().err
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(run(out, x), model(x), atol=1e-5)


def test_the_command_takes_no_choice_without_following_it(model, tmp_path, capsys):
    path, target = tmp_path / "small.pth", tmp_path / "small.onnx"
    small = get_model("resnet18", num_classes=3, stem="small").eval()
    torch.save(small.state_dict(), path)
    command = ["export", "resnet18", "--weights", str(path), "--out", str(target), "--size", "32"]
    assert main([*command, "--stem", "small"]) == 0
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(run(target, x), small(x), atol=1e-5)
    assert main(["export", str(path), *command[2:]]) == 2
    assert "goes with a model's name" in capsys.readouterr().err


def test_wrong_use_is_named(model, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.onnx"):
        export_onnx(model, tmp_path / "m.pb")
    with pytest.raises(ValueError, match="evaluation mode"):
        export_onnx(model.train(), tmp_path / "m.onnx")
    with pytest.raises(RuntimeError, match="float32 on the CPU"):
        optimize(model.eval(), engine="onnxruntime", dtype=torch.bfloat16, example=(1, 3, 64, 64))
