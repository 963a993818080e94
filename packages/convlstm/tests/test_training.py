"""Data, training, checkpoints, forecasts, pictures and the commands."""

import json

import numpy as np
import pytest
import torch

from convlstm import data, forecasting, metrics, models, pictures, train
from convlstm.__main__ import main

SIZE = (16, 16)


def trainer(folder=None, steps=6, preset="seed", **options):
    torch.manual_seed(0)
    model = models.next_frame(preset, size=SIZE, filters=2)
    source = data.MovingDigits(5, SIZE, digit=8)
    options = {"steps": steps, "batch": 2, "every": 2, "validation": 2, **options}
    return train.Trainer(model, source, train.TrainOptions(**options), folder)


@pytest.mark.parametrize(
    "source",
    [data.MovingDigits(6, SIZE, digit=8), data.MovingSquares(6, SIZE)],
    ids=["digits", "squares"],
)
def test_batches_depend_on_seed_and_number_alone(source):
    a, b = source.batch(1, 5, 3), source.batch(1, 5, 3)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, source.batch(1, 6, 3))
    assert not np.array_equal(a, source.batch(2, 5, 3))
    assert a.shape == (3, 6, *SIZE, 1)
    assert a.dtype == np.float32
    assert a.min() >= 0
    assert 0.5 < a.max() <= 1
    assert not np.array_equal(a[:, 0], a[:, 1])


def test_held_out_digits_are_never_trained_on(monkeypatch):
    seen = {True: set(), False: set()}
    digits = data._digits(8)

    class Spy:
        def __len__(self):
            return len(digits)

        def __getitem__(self, k):
            seen[held].add(int(k))
            return digits[k]

    monkeypatch.setattr(data, "_digits", lambda side: Spy())
    for held in (True, False):
        data.MovingDigits(2, SIZE, digit=8).batch(0, 0, 200, held_out=held)
    assert min(seen[True]) >= data.FIRST_HELD_OUT_DIGIT > max(seen[False])


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.run()
    first = trainer(tmp_path / "cut", steps=6)
    for _ in range(3):
        first.update()
    first.save()
    second = trainer(tmp_path / "cut")
    torch.nn.init.zeros_(second.model.layers[0].weight_ih)
    assert second.resume()
    second.run()
    for a, b in zip(whole.model.state_dict().values(), second.model.state_dict().values(), strict=True):  # fmt: skip  # noqa: E501
        assert torch.equal(a, b)


def test_a_half_written_checkpoint_is_refused_and_never_takes_the_place_of_a_whole_one(tmp_path):
    t = trainer(tmp_path)
    t.save()
    file = tmp_path / train.CHECKPOINT
    whole = file.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", train.CHECKPOINT]
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no checkpoint, or damaged"):
        train.load_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError):
        train.load_checkpoint(tmp_path / "none")


def test_training_stops_early_without_progress(tmp_path):
    t = trainer(tmp_path, steps=40, preset="small", lr=0.0, patience=2)
    progress = t.run()
    assert progress.stopped
    assert progress.step == 6  # the first validation is the best, then two without a better one


def test_training_lowers_the_loss_and_writes_its_history(tmp_path):
    t = trainer(tmp_path, steps=30, every=10, lr=0.02, batch=4)
    t.run()
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [10, 20, 30]
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]


def test_a_loss_that_is_no_number_stops_training_with_advice():
    t = trainer(lr=0.1)
    torch.nn.init.constant_(t.model.layers[-1].bias, float("nan"))
    with pytest.raises(RuntimeError, match="lower lr"):
        t.run()


def test_tensorboard_files_are_written(tmp_path):
    t = trainer(tmp_path, steps=2)
    board = train._summary_writer(tmp_path)
    t._board = board
    t.run()
    assert list((tmp_path / "tensorboard").glob("events.*"))


class Mover(torch.nn.Module):
    """Moves each frame one pixel to the right, and counts what it was given."""

    def forward(self, x):
        self.given = x.shape[1]
        return torch.roll(x, 1, 3)


def test_a_forecast_feeds_each_frame_back():
    x = torch.rand(2, 3, 8, 8, 1)
    model = Mover()
    got = forecasting.forecast(model, x, 3)
    for k in range(3):
        assert torch.equal(got[:, k], torch.roll(x[:, -1], k + 1, 2))
    assert model.given == 5
    with pytest.raises(ValueError, match="at least 1"):
        forecasting.forecast(model, x, 0)


def test_baselines_copy_and_move_the_last_frame():
    frame = torch.zeros(1, 12, 12, 1)
    frame[:, 4:6, 3:5] = 1
    x = torch.stack([torch.roll(frame, (k, 2 * k), (1, 2)) for k in range(2)], 1)
    moved = forecasting.shift_last(x, 2)
    assert torch.equal(moved[:, 0], torch.roll(frame, (2, 4), (1, 2)))
    assert torch.equal(moved[:, 1], torch.roll(frame, (3, 6), (1, 2)))
    assert torch.equal(forecasting.copy_last(x, 2)[:, 1], x[:, -1])


def test_metrics_follow_their_definitions():
    torch.manual_seed(0)
    a, b = torch.rand(2, 2, 3, 16, 16, 1).unbind(0)
    d = (a - b).numpy()
    assert metrics.mse(a, b) == pytest.approx((d**2).sum((2, 3, 4)).mean(), rel=1e-5)
    assert metrics.mae(a, b) == pytest.approx(np.abs(d).sum((2, 3, 4)).mean(), rel=1e-5)
    want = (-10 * np.log10((d**2).mean((2, 3, 4)))).mean()
    assert metrics.psnr(a, b) == pytest.approx(want, rel=1e-5)
    assert metrics.ssim(a, a) == pytest.approx(1.0)
    assert metrics.psnr(a, a) == pytest.approx(100.0)
    # One window: by hand from the definition.
    p, t = a[:1, :1, :11, :11], b[:1, :1, :11, :11]
    line = np.exp(-((np.arange(11) - 5.0) ** 2) / 4.5)
    w = np.outer(line, line) / line.sum() ** 2
    x, y = p[0, 0, ..., 0].double().numpy(), t[0, 0, ..., 0].double().numpy()
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy = (w * x * x).sum() - mx**2, (w * y * y).sum() - my**2
    cov = (w * x * y).sum() - mx * my
    c1, c2 = 1e-4, 9e-4
    want = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert metrics.ssim_gaussian(p, t) == pytest.approx(want, rel=1e-6)
    # OpenSTL's, by scikit-image: equal weights of 7x7, unbiased, range 2.
    x, y = x[:7, :7], y[:7, :7]
    vx, vy, cov = x.var(ddof=1), y.var(ddof=1), np.cov(x.ravel(), y.ravel())[0, 1]
    c1, c2 = 0.02**2, 0.06**2
    mx, my = x.mean(), y.mean()
    want = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert metrics.ssim(a[:1, :1, :7, :7], b[:1, :1, :7, :7]) == pytest.approx(want, rel=1e-6)
    with pytest.raises(ValueError, match="one shape"):
        metrics.mse(a, b[:, :2])


def test_frames_come_from_folders_and_animations(tmp_path):
    from PIL import Image

    frames = (np.random.default_rng(0).random((5, 8, 6)) * 255).astype("uint8")
    folder = tmp_path / "frames"
    folder.mkdir()
    for k, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{k:03}.png")
    got = data.load_frames(folder)
    assert got.shape == (5, 8, 6, 1)
    assert np.allclose(got[..., 0], frames / 255, atol=1e-6)
    assert data.load_frames(folder, (4, 4), channels=3, limit=2).shape == (2, 4, 4, 3)
    pictures.gif({"a": got}, tmp_path / "a.gif")
    assert len(data.load_frames(tmp_path / "a.gif")) == 5
    with pytest.raises(ValueError, match="no pictures"):
        data.load_frames(_empty(tmp_path))
    with pytest.raises(FileNotFoundError):
        data.load_frames(tmp_path / "none")


def _empty(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_the_commands_train_predict_draw_export_and_import(tmp_path, capsys):
    run = str(tmp_path / "run")
    small = ["--size", "16x16", "--filters", "2", "--frames", "5", "--batch", "2", "--every", "2"]
    assert main(["train", "--out", run, "--steps", "2", "--json", *small]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2
    assert main(["train", "--out", run, "--steps", "4", "--json", "--resume", *small]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 4
    strip, gif = str(tmp_path / "s.png"), str(tmp_path / "f.gif")
    ahead = ["--given", "4", "--steps", "2"]
    assert main(["predict", run, "--json", "--count", "2", "--strip", strip, *ahead]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {
        "model",
        "last frame copied",
        "last frame moved on",
        "optical flow",
    }
    assert main(["gif", run, "--out", gif, *ahead]) == 0
    assert len(data.load_frames(gif)) == 6
    keras_file = str(tmp_path / "m.keras")
    assert main(["export", run, keras_file]) == 0
    assert main(["import-keras", keras_file, str(tmp_path / "again")]) == 0
    capsys.readouterr()
    a, b = (train.load_checkpoint(p).state_dict() for p in (run, tmp_path / "again"))
    assert all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))
    assert main(["predict", str(tmp_path / "none")]) == 1
    assert "there is no" in capsys.readouterr().err


def test_the_colour_model_gives_the_one_next_frame():
    model = models.next_frame("seed", size=SIZE, filters=2, colour=True)
    x = torch.rand(2, 4, *SIZE, 3)
    assert model(x).shape == (2, *SIZE, 3)
    source = data.MovingDigits(5, SIZE, digit=8, colour=True)
    t = train.Trainer(model, source, train.TrainOptions(steps=1, batch=2, every=1, validation=2))
    t.run()
    assert forecasting.forecast(model, x, 2).shape == (2, 2, *SIZE, 3)
