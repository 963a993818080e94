"""Forecasts of many frames at once, ensembles, baselines, and what training minimises."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

import convlstm
from convlstm import data, forecasting, metrics, train
from convlstm.__main__ import main
from convlstm.forecasting.advection import optical_flow
from convlstm.forecasting.losses import LOSSES, filled, where_known
from convlstm.forecasting.rollout import horizon

SIZE = (8, 12)


def small(**options):
    torch.manual_seed(0)
    options = {"given": 4, "ahead": 3, "filters": 3, "width": 4, "blocks": 1, **options}
    return forecasting.forecaster(SIZE, **options)


def test_all_frames_ahead_come_from_the_given_ones_alone():
    model = small()
    x = torch.rand(2, 6, *SIZE, 1)
    y = forecasting.forecast(model, x, 3)
    assert y.shape == (2, 3, *SIZE, 1)
    assert horizon(model) == 3
    assert torch.equal(y, model.eval()(x[:, 2:]))
    # beyond its horizon it takes its own output in
    again = model(torch.cat([x, y], 1)[:, -4:])
    assert torch.equal(forecasting.forecast(model, x, 5), torch.cat([y, again[:, :2]], 1))
    with pytest.raises(ValueError, match="takes 4 frames, x has 3"):
        forecasting.forecast(model, x[:, :3], 1)
    for options in ({"given": 1}, {"ahead": 0}):
        with pytest.raises(ValueError, match="given must be at least 2"):
            small(**options)
    with pytest.raises(ValueError, match="multiples of 4"):
        forecasting.forecaster((24, 30))


def test_a_forecaster_goes_to_keras_and_back(tmp_path):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    model = small(dropout=0.1).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    convlstm.save_keras(model, tmp_path / "m.keras")
    theirs = keras.models.load_model(tmp_path / "m.keras")
    x = torch.rand(2, 4, *SIZE, 1)
    with torch.no_grad():
        y = model(x)
        assert (torch.as_tensor(theirs(x)) - y).abs().max() < 1e-5 * y.abs().max()
        assert torch.equal(convlstm.load_keras(tmp_path / "m.keras")(x), y)
    assert horizon(convlstm.load_keras(tmp_path / "m.keras")) == 3


def test_a_forecaster_is_trained_and_resumed_by_the_commands(tmp_path, capsys):
    run = str(tmp_path / "run")
    options = ["--data", "cells", "--preset", "forecaster", "--size", "8x12", "--frames", "7"]
    options += ["--filters", "3", "--every", "2", "--ema", "0.9", "--accumulate", "2", "--json"]
    assert main(["train", "--out", run, *options, "--steps", "2", "--loss", "balanced"]) == 0
    assert main(["train", "--out", run, "--resume", "--steps", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["step"], told["sees_ahead"]) == (4, [])
    assert len(told["val_mse_by_lead"]) == 3
    ahead = ["--given", "4", "--steps", "3", "--count", "4", "--data", "cells", "--json"]
    assert main(["predict", run, *ahead, "--members", "3", "--noise", "0.1", "--matched"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {
        "model", "model, matched", "last frame copied", "last frame moved on", "optical flow",
        "ensemble",
    }  # fmt: skip
    assert all(len(v) == 3 and min(v) > 0 for v in found["ensemble"].values())


def test_validation_of_a_forecaster_is_an_independent_forecast():
    source = data.MovingCells(7, SIZE)
    options = train.TrainOptions(steps=3, batch=2, every=3, ahead=3, validation=5, loss="mse")
    trainer = train.Trainer(small(), source, options)
    trainer.run()
    x = torch.from_numpy(source.batch(0, 0, 5, held_out=True))
    shown = trainer.history[-1]["val_mse_by_lead"]
    # what a user has: the given frames and nothing of those to come
    hidden = torch.cat([x[:, :4], torch.full_like(x[:, 4:], 7)], 1)[:, :4]
    y = forecasting.forecast(trainer.model, hidden, 3)
    # relative: float32 has steps of 4e-6 at 40
    assert metrics.by_lead_time(metrics.mse, y, x[:, 4:]) == pytest.approx(shown, rel=1e-6)


def test_members_of_an_ensemble_differ_and_are_drawn_anew_from_a_seed():
    model = small(dropout=0.4).train()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.rand(2, 4, *SIZE, 1)
    state = torch.get_rng_state()
    members = forecasting.ensemble(model, x, 3, members=5)
    assert members.shape == (5, 2, 3, *SIZE, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in model.modules())
    assert torch.equal(members, forecasting.ensemble(model, x, 3, members=5))
    assert metrics.spread(members) > 0
    assert not torch.equal(members[0], members[1])
    assert not torch.equal(members, forecasting.ensemble(model, x, 3, members=5, seed=1))
    with pytest.raises(ValueError, match="no dropout and noise is 0"):
        forecasting.ensemble(small(), x, 3)
    noisy = forecasting.ensemble(small(), x, 3, members=2, noise=0.1)
    assert noisy.shape[0] == 2


def test_spread_and_crps_of_known_ensembles():
    g = torch.Generator().manual_seed(0)
    truth = torch.randn(4, 3, 16, 16, 1, generator=g)
    members = torch.randn(20, 4, 3, 16, 16, 1, generator=g)
    assert metrics.spread(members) == pytest.approx(1, abs=0.01)
    # of a standard normal forecast of a standard normal truth: 1 / sqrt(pi)
    assert metrics.crps(members, truth) == pytest.approx(0.5642 * (1 + 1 / 20), abs=0.02)


def test_a_matched_forecast_has_the_values_seen_last_in_its_own_order():
    forecast = torch.rand(2, 3, 6, 5, 2)
    given = torch.rand(2, 4, 6, 5, 2) ** 3
    found = forecasting.matched(forecast, given)
    for a, b in zip(found.unbind(1), forecast.unbind(1), strict=True):
        for c in range(2):
            ours, theirs, last = (t[..., c].flatten(1) for t in (a, b, given[:, -1]))
            assert torch.equal(ours.sort(1).values, last.sort(1).values)
            assert torch.equal(ours.argsort(1), theirs.argsort(1))
    assert torch.equal(forecasting.matched(given[:, -1:] / 2 - 1, given), given[:, -1:])
    holed = given.clone()
    holed[:, -1, 0] = float("nan")
    assert torch.equal(
        forecasting.matched(forecast, holed), forecasting.matched(forecast, filled(holed))
    )
    with pytest.raises(ValueError, match="differ in T alone"):
        forecasting.matched(forecast, given[..., :1])


def test_matching_brings_strong_rain_back_into_a_blurred_forecast():
    x = torch.from_numpy(data.MovingCells(10, (24, 24)).batch(0, 0, 32))
    given, truth = x[:, :8], x[:, 8:]
    blurred = torch.nn.functional.avg_pool2d(truth[..., 0], 7, 1, 3)[..., None]
    found = forecasting.matched(blurred, given)
    assert metrics.csi(found, truth, 0.65) > 2 * metrics.csi(blurred, truth, 0.65)


def drifting(steps: int, down: float, right: float) -> torch.Tensor:
    ys, xs = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    frames = [
        sum(
            torch.exp(-((ys - a - down * t) ** 2 + (xs - b - right * t) ** 2) / 18)
            for a, b in ((8, 22), (18, 14), (14, 28))
        )
        for t in range(steps)
    ]
    return torch.stack(frames)[None, ..., None]


@pytest.mark.parametrize(("down", "right"), [(0.7, -1.3), (2.5, 0.0), (-0.4, -0.6)])
def test_optical_flow_finds_the_motion_and_carries_the_last_frame_on(down, right):
    x = drifting(10, down, right)
    flow = optical_flow(x[:, 5:8, ..., 0])
    weight = x[:, 7, ..., 0]
    mean = ((flow * weight[:, None]).sum((0, 2, 3)) / weight.sum()).tolist()
    assert mean == pytest.approx([down, right], abs=0.1)
    y = forecasting.advect_last(x[:, :8], 2)
    copied = forecasting.copy_last(x[:, :8], 2)
    assert metrics.mse(y, x[:, 8:]) < 0.1 * metrics.mse(copied, x[:, 8:])


def test_cells_drift_grow_and_decay():
    source = data.MovingCells(16, (24, 24))
    x = source.batch(3, 1, 40)
    assert (x.min(), x.dtype.name, x.shape) == (0, "float32", (40, 16, 24, 24, 1))
    assert 0.6 < x.max() < 1
    assert 0.02 < (x >= 0.5).mean() < 0.2
    peak = x.max((2, 3, 4))
    rises = (peak[:, 5] > peak[:, 4] + 0.01).mean()
    assert 0.1 < rises < 0.9
    t = torch.from_numpy(x)
    still = metrics.mse(forecasting.copy_last(t[:, :8], 1), t[:, 8:9])
    assert metrics.mse(forecasting.advect_last(t[:, :8], 1), t[:, 8:9]) < still


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_is_least_at_the_truth_and_leaves_out_what_is_missing(name):
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(2, 3, 9, 9, 1, generator=g).round() if name == "bce" else None
    truth = torch.rand(2, 3, 9, 9, 1, generator=g) if truth is None else truth
    other = torch.rand(truth.shape, generator=g, requires_grad=True)
    loss = LOSSES[name]
    assert loss(truth, truth) < 1e-5 < loss(other, truth)
    holed = truth.clone()
    holed[:, :, 2:5, 3:6] = float("nan")
    found = where_known(loss, other, holed)
    (gradient,) = torch.autograd.grad(found, other)
    assert found.isfinite()
    if name not in ("edges", "ssim"):  # these look at a pixel's surroundings too
        assert not gradient[:, :, 2:5, 3:6].any()
    assert gradient[:, :, 7:].any()
    if name in ("mae", "mse"):
        known = ~holed.isnan()
        assert found.item() == pytest.approx(loss(other[known], truth[known]).item(), rel=1e-5)


def test_losses_that_keep_edges_prefer_a_shifted_edge_to_a_blurred_one():
    step = torch.zeros(1, 1, 12, 12, 1)
    step[..., 6:, :] = 1
    shifted = step.roll(1, 3)
    shifted[..., 0, :] = 0
    blurred = step.clone()
    blurred[..., 4:8, :] = torch.tensor([0.2, 0.4, 0.6, 0.8])[:, None]
    for name in ("edges", "ssim"):
        gained = LOSSES[name](blurred, step) / LOSSES[name](shifted, step)
        assert gained > LOSSES["mse"](blurred, step) / LOSSES["mse"](shifted, step)


def test_balanced_weights_are_those_of_the_paper():
    truth = torch.tensor([0.1, 0.5, 0.6, 0.7, 0.9]).view(1, 1, 5, 1, 1)
    weights = torch.stack([LOSSES["balanced"](truth + d, truth) for d in torch.eye(5).view(
        5, *truth.shape)])  # fmt: skip
    assert (weights * 5 / 2).tolist() == pytest.approx([1, 2, 5, 10, 30], rel=1e-4)


def test_missing_pixels_are_filled_with_what_was_known_before():
    x = torch.tensor([float("nan"), 2.0, float("nan"), 4.0, float("nan")]).view(1, 5, 1, 1, 1)
    assert filled(x).flatten().tolist() == [0, 2, 2, 4, 4]


def options_of(**given):
    return train.TrainOptions(
        **{"steps": 4, "batch": 2, "every": 2, "validation": 2, "loss": "mse", **given}
    )


def trained(folder=None, **given):
    trainer = train.Trainer(small(), data.MovingCells(7, SIZE), options_of(**given), folder)
    trainer.run()
    return trainer


def test_the_average_of_the_weights_is_kept_shown_and_resumed(tmp_path):
    whole = trained(tmp_path / "a", ema=0.5)
    weights = dict(whole.model.named_parameters())
    assert any(not torch.equal(weights[n], a) for n, a in whole.average.items())
    loaded = train.load_checkpoint(tmp_path / "a")
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, whole.average[name])
    trained(tmp_path / "b", ema=0.5, steps=2)
    second = train.Trainer(small(), data.MovingCells(7, SIZE), options_of(ema=0.5), tmp_path / "b")
    assert second.resume()
    second.run()
    for name, average in whole.average.items():
        assert torch.equal(average, second.average[name])
    plain = trained()
    assert plain.average == {}
    for name, parameter in plain.model.named_parameters():
        assert torch.equal(parameter, weights[name])  # the average changes no update


def test_accumulated_batches_are_one_large_one():
    class Halves:
        """Batch k of two sequences is a half of batch k // 2 of four."""

        def batch(self, seed, number, size, held_out=False):
            whole = data.MovingCells(7, SIZE).batch(seed, number * size // 4, 4)
            return whole[number * size % 4 :][:size]

    found = []
    for batch, accumulate in ((4, 1), (2, 2)):
        options = options_of(batch=batch, accumulate=accumulate, optimizer="keras-adam")
        trainer = train.Trainer(small(), Halves(), options)
        for p in trainer.model.parameters():
            p.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
        trainer.update()
        found.append([p.grad.clone() for p in trainer.model.parameters()])
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, rtol=1e-3, atol=1e-6)


def test_the_rate_falls_along_its_curve():
    for curve, half in (("linear", 0.5), ("cosine", 0.5)):
        trainer = train.Trainer(
            small(), data.MovingCells(7, SIZE),
            options_of(steps=100, decay=True, curve=curve, lr=1.0),
        )  # fmt: skip
        rates = []
        for step in (0, 25, 50, 100):
            trainer.progress.step = step
            trainer._set_rate(0)
            rates.append(trainer.optimizer.param_groups[0]["lr"])
        quarter = 0.75 if curve == "linear" else (1 + 0.5**0.5) / 2
        assert rates == pytest.approx([1, quarter, half, 0.02])
    for wrong in ({"curve": "step"}, {"ema": 1.0}, {"accumulate": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            options_of(**wrong)


@pytest.mark.slow
def test_seven_thousand_updates_beat_the_bar_on_digits():
    """MSE at t+1, t+4 and t+8 at most 5.6, 15.3 and 22.8, SSIM at t+4 at least 0.49, on 96 held-out
    sequences: some minutes of one thread (benchmarks/bench_forecasters.py)."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
    try:
        import bench_forecasters as bench
    finally:
        sys.path.pop(0)
    model, _ = bench.trained("ConvLSTM, direct", "digits", seconds=0, steps=7000)
    given, truth = bench.held_out("digits")
    row = bench.scores(forecasting.forecast(model, given, 8), truth, rain=False)
    assert row["mse"][0] <= 5.6
    assert row["mse"][3] <= 15.3
    assert row["mse"][7] <= 22.8
    assert row["ssim"][3] >= 0.49
