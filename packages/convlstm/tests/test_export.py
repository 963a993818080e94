"""Models as exported graphs: any number of sequences and steps."""

import numpy as np
import pytest
import torch

import convlstm
from convlstm import forecasting, models
from convlstm.keras.exporting import by_scan, export_onnx


def layer(**options):
    torch.manual_seed(0)
    options = {"padding": "same", "return_sequences": True, **options}
    return convlstm.ConvLSTM2d(2, 4, 3, **options).eval()


def test_torch_export_takes_any_batch_and_any_number_of_steps():
    batch, steps = torch.export.Dim("batch", min=1), torch.export.Dim("steps", min=1)
    model = layer()
    with torch.no_grad():
        program = torch.export.export(
            model, (torch.rand(2, 5, 2, 8, 8),), dynamic_shapes=({0: batch, 1: steps},)
        )
        for shape in ((3, 7), (1, 1), (2, 64)):
            x = torch.rand(*shape, 2, 8, 8)
            assert torch.equal(program.module()(x), model(x))


def test_truncated_steps_are_still_taken_in_pieces():
    whole, cut = layer(), layer(truncate=3)
    x = torch.rand(2, 8, 2, 6, 6, requires_grad=True)
    assert torch.allclose(cut(x), whole(x), atol=1e-6)
    (gradient,) = torch.autograd.grad(cut(x)[:, -1].sum(), x)
    assert not gradient[:, :6].any()
    assert gradient[:, 6:].any()


@pytest.mark.parametrize("options", [{}, {"norm": "layer"}, {"peephole": True, "stride": 2}])
def test_the_scan_gives_what_the_loop_gives(options):
    model = layer(return_state=True, **options)
    x = torch.rand(2, 5, 2, 8, 8)
    with torch.no_grad():
        want = model(x)
        with by_scan(model):
            got = model(x)
    assert model.plan == "auto"
    for a, b in zip((got[0], *got[1]), (want[0], *want[1]), strict=True):
        assert (a - b).abs().max() < 5e-6  # tiles round otherwise than torch's convolution
    with pytest.raises(ValueError, match="takes no mask"), by_scan(model):
        model(x, mask=torch.ones(2, 5, dtype=torch.bool))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layer", "next frame", "forecaster"])
def test_onnx_runtime_gives_the_same_for_other_batches_and_steps(tmp_path, kind):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    shape, steps = (8, 8, 1), True
    if kind == "layer":
        model, shape = layer(), (2, 8, 8)
    elif kind == "next frame":
        model = models.next_frame("seed", size=(8, 8), filters=2)
    else:
        model, steps = forecasting.forecaster((8, 8), filters=2, width=4), False
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    model.train()
    export_onnx(model, torch.rand(1, 8, *shape), tmp_path / "m.onnx", dynamic_steps=steps,
                verbose=False)  # fmt: skip
    assert model.training
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"))
    (given,) = session.get_inputs()
    model.eval()
    for size in ((3, 11), (1, 1)) if steps else ((3, 8), (1, 8)):
        x = torch.rand(*size, *shape)
        (y,) = session.run(None, {given.name: x.numpy()})
        with torch.no_grad():
            assert np.abs(y - model(x).numpy()).max() < 2e-6
