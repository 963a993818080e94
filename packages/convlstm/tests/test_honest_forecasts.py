"""No model by default sees what it is to predict, and a validation is a forecast."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import convlstm
from convlstm import data, metrics, models, train
from convlstm.__main__ import main
from convlstm.forecasting import forecast
from convlstm.forecasting.streaming import Stream, why_not_streamed

SIZE = (12, 12)


def small(preset="small", **options):
    torch.manual_seed(0)
    return models.next_frame(preset, size=SIZE, filters=3, **options)


@pytest.mark.parametrize("preset", sorted(models.PRESETS))
def test_an_output_of_every_preset_follows_from_the_frames_before_it(preset):
    model = small(preset).eval()
    x = torch.rand(2, 6, *SIZE, 1)
    other = x.clone()
    other[:, 4:] = torch.rand(2, 2, *SIZE, 1)
    with torch.no_grad():
        a, b = model(x), model(other)
    assert torch.equal(a[:, :4], b[:, :4])
    assert not torch.equal(a[:, 4:], b[:, 4:])
    assert models.sees_ahead(model) == []


@pytest.mark.parametrize("preset", ["seed", "moving-mnist"])
def test_the_example_of_keras_sees_ahead_and_says_so(preset, capsys, tmp_path):
    model = small(preset, keras_example=True).eval()
    assert models.sees_ahead(model) == ["conv3d"]
    x = torch.rand(1, 4, *SIZE, 1)
    other = x.clone()
    other[:, 3] = 0
    with torch.no_grad():
        assert not torch.equal(model(x)[:, 2], model(other)[:, 2])
    options = ["--size", "12x12", "--filters", "2", "--frames", "6", "--steps", "1", "--every", "1"]
    out = str(tmp_path / "run")
    assert (
        main(["train", "--out", out, "--preset", preset, "--keras-example", "--json", *options])
        == 0
    )
    shown = capsys.readouterr()
    assert json.loads(shown.out)["sees_ahead"] == ["conv3d"]
    assert "leaks the answer" in shown.err


class Hidden:
    """A source whose frames after the first `given` can be changed."""

    def __init__(self, inner, given, noise):
        self.inner, self.given, self.noise = inner, given, noise

    def batch(self, seed, number, size, held_out=False):
        x = self.inner.batch(seed, number, size, held_out).copy()
        if held_out and self.noise:
            x[:, self.given :] = np.random.default_rng(9).random(x[:, self.given :].shape)
        return x


def cases():
    found = [(p, False, False) for p in sorted(models.PRESETS)]
    return [*found, ("seed", True, False), ("moving-mnist", True, False), ("small", False, True)]


@pytest.mark.parametrize(("preset", "example", "colour"), cases())
def test_the_validation_of_every_preset_is_an_independent_forecast(preset, example, colour):
    inner = data.MovingDigits(8, SIZE, digit=6, colour=colour)
    options = train.TrainOptions(steps=2, batch=2, every=2, validation=3, ahead=3, loss="mse")
    rows = []
    for noise in (False, True):
        model = small(preset, keras_example=example, colour=colour)
        trainer = train.Trainer(model, Hidden(inner, 5, noise), options)
        trainer.run()
        x = torch.from_numpy(trainer.source.batch(0, 0, 3, True))
        history = x[:, :5]  # by hand: the whole history again for each frame
        model.eval()
        for _ in range(3):
            with torch.no_grad():
                y = model(history)
            history = torch.cat([history, y[:, -1:] if y.dim() == 5 else y[:, None]], 1)
        want = F.mse_loss(history[:, 5:], x[:, 5:]).item()
        assert trainer.history[-1]["val_loss"] == pytest.approx(want, abs=1e-6)
        by_lead = metrics.by_lead_time(metrics.mse, history[:, 5:], x[:, 5:])
        assert trainer.history[-1]["val_mse_by_lead"] == pytest.approx(by_lead, rel=1e-4)
        rows.append(history[:, 5:])
    # What lay behind the given frames changed nothing of the forecast.
    assert torch.equal(*rows)


def test_a_forecast_carries_its_states_and_leaves_the_model_alone():
    model = small()
    for layer in model.layers[:2]:
        layer.stateful = True
    model.layers[0].eval()  # a flag of its own
    flags = [m.training for m in model.modules()]
    x = torch.rand(2, 4, *SIZE, 1)
    with torch.no_grad():
        model(x)
    kept = [layer.state for layer in model.layers[:2]]
    first, second = forecast(model, x, 3), forecast(model, x, 3)
    assert torch.equal(first, second)
    assert [m.training for m in model.modules()] == flags
    for (h, c), layer in zip(kept, model.layers, strict=False):
        assert torch.equal(h, layer.state[0])
        assert torch.equal(c, layer.state[1])
    for layer in model.layers[:2]:
        layer.stateful = False
    history = x
    for _ in range(3):
        with torch.no_grad():
            history = torch.cat([history, model.eval()(history)[:, -1:]], 1)
    assert (first - history[:, 4:]).abs().max() <= 1e-6


def test_stateful_layers_in_a_model_that_sees_ahead_do_not_run_on():
    model = small("seed", keras_example=True).eval()
    assert "several frames" in why_not_streamed(model)
    x = torch.rand(1, 4, *SIZE, 1)
    right = forecast(model, x, 2)
    for layer in model.layers:
        if hasattr(layer, "stateful"):
            layer.stateful = True
    assert torch.equal(forecast(model, x, 2), right)
    assert torch.equal(forecast(model, x, 2), right)


def test_a_stream_gives_frame_by_frame_what_the_sequence_gives():
    model = small("seed").eval()
    x = torch.rand(2, 5, *SIZE, 1)
    stream = Stream(model)
    got = torch.stack([stream.step(x[:, t]) for t in range(5)], 1)
    with torch.no_grad():
        assert (got - model(x)).abs().max() <= 1e-6
    stream.reset()
    assert (stream.step(x[:, 0]) - got[:, 0]).abs().max() <= 1e-6
    with pytest.raises(ValueError, match="conv3d looks at several frames at once"):
        Stream(small("seed", keras_example=True))


def test_training_on_its_own_output_sends_gradients_through_the_forecast():
    options = train.TrainOptions(steps=3, batch=2, every=3, validation=2, rollout=3, clip=1.0)
    trainer = train.Trainer(small(), data.MovingDigits(7, SIZE, digit=6), options)
    trainer.run()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trainer.model.parameters())
    norm = torch.linalg.vector_norm(
        torch.stack([p.grad.norm() for p in trainer.model.parameters()])
    )
    assert norm <= 1.0 + 1e-4


def test_scores_of_events_follow_their_definitions():
    p = torch.tensor([1.0, 1, 0, 0, 1, 0, 0, 0]).view(1, 1, 2, 4, 1)
    t = torch.tensor([1.0, 0, 1, 0, 1, 0, 0, 0]).view(1, 1, 2, 4, 1)
    assert metrics.csi(p, t, 0.5) == pytest.approx(2 / 4)
    assert metrics.pod(p, t, 0.5) == pytest.approx(2 / 3)
    assert metrics.far(p, t, 0.5) == pytest.approx(1 / 3)
    assert metrics.hss(p, t, 0.5) == pytest.approx(2 * (2 * 4 - 1) / (3 * 5 + 3 * 5))
    assert metrics.fss(t, t, 0.5) == pytest.approx(1)
    assert metrics.fss(p, t, 0.5, 1) == pytest.approx(1 - 2 / 6)
    members = torch.stack([t, t + 1])
    assert metrics.crps(members, t) == pytest.approx(0.5 - 0.25)
    assert np.isnan(metrics.csi(0 * p, 0 * t, 0.5))


# Runs


ARGUMENTS = ["--filters", "2", "--frames", "5", "--batch", "2", "--size", "16x16", "--json"]


def trained(out, *more):
    return main(["train", "--out", str(out), *ARGUMENTS, *more])


def test_a_finished_run_is_never_overwritten_unless_told_to(tmp_path, capsys):
    run = tmp_path / "run"
    assert trained(run, "--steps", "2") == 0
    before = (run / train.CHECKPOINT).read_bytes()
    assert trained(run, "--steps", "1") == 1
    assert "already holds a run; --resume" in capsys.readouterr().err
    assert (run / train.CHECKPOINT).read_bytes() == before
    assert trained(run, "--steps", "1", "--overwrite") == 0
    assert train.read_checkpoint(run)["progress"]["step"] == 1
    assert len((run / "history.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--lr", "0.5"], "lr 0.5 (the run has 0.006)"),
        (["--size", "20x20"], "size (20, 20) (the run has (16, 16))"),
        (["--optimizer", "keras-adam"], "optimizer 'keras-adam' (the run has 'adam')"),
        (["--data", "squares"], "data 'squares' (the run has 'digits')"),
        (["--preset", "seed"], "preset 'seed' (the run has 'small')"),
        (["--filters", "3"], "filters 3 (the run has 2)"),
        (["--seed", "1", "--loss", "mae"], "seed 1 (the run has 0), loss 'mae'"),
        (["--no-decay"], "decay False (the run has True)"),
    ],
)
def test_a_resume_with_other_options_is_refused_by_name(tmp_path, capsys, more, named):
    assert trained(tmp_path, "--steps", "1") == 0
    before = (tmp_path / train.CHECKPOINT).read_bytes()
    assert trained(tmp_path, "--steps", "3", "--resume", *more) == 1
    assert named in capsys.readouterr().err
    assert (tmp_path / train.CHECKPOINT).read_bytes() == before
    assert main(["train", "--out", str(tmp_path), "--steps", "2", "--resume"]) == 0
    assert train.read_checkpoint(tmp_path)["progress"]["step"] == 2


def test_no_steps_are_none(tmp_path, capsys):
    assert trained(tmp_path, "--steps", "0") == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 0
    assert train.read_checkpoint(tmp_path)["progress"]["step"] == 0
    with pytest.raises(ValueError, match="steps must be at least 0"):
        train.TrainOptions(steps=-1)


def test_the_end_of_a_run_is_told_in_lines_of_short_numbers(tmp_path, capsys):
    assert trained(tmp_path, "--steps", "2") == 0
    found = json.loads(capsys.readouterr().out)
    plain = [word for word in ARGUMENTS if word != "--json"]
    assert main(["train", "--out", str(tmp_path), "--overwrite", *plain, "--steps", "2"]) == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    by_lead = told["val_mse_by_lead"].split()
    assert [float(v) for v in by_lead] == pytest.approx(found["val_mse_by_lead"], rel=1e-5)
    assert max(map(len, by_lead)) <= 8
    assert told["sees_ahead"] == "none"


def test_the_best_state_is_kept_beside_the_last(tmp_path):
    options = train.TrainOptions(steps=4, batch=2, every=1, validation=2, lr=0.5)
    trainer = train.Trainer(small(), data.MovingDigits(6, SIZE, digit=6), options, tmp_path)
    progress = trainer.run()
    best = min(trainer.history, key=lambda row: row["val_loss"])
    assert progress.best_step == best["step"]
    assert train.read_checkpoint(tmp_path / "best.pt")["progress"]["step"] == best["step"]


def short_trainer(folder, **options):
    wanted = train.TrainOptions(steps=1, batch=1, every=1, validation=1)
    return train.Trainer(small(), data.MovingDigits(4, SIZE, digit=6), wanted, folder, **options)


def test_two_trainings_in_one_folder_are_refused(tmp_path):
    first = short_trainer(tmp_path)
    with first._locked(), pytest.raises(RuntimeError, match="another training is at work"):
        short_trainer(tmp_path).run()
    short_trainer(tmp_path).run()


@pytest.mark.parametrize("what", ["run", "save"])
def test_overwriting_leaves_the_files_of_a_training_at_work_alone(tmp_path, what):
    first = short_trainer(tmp_path)
    first.run()
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with first._locked():
        with pytest.raises(RuntimeError, match="another training is at work"):
            getattr(short_trainer(tmp_path, overwrite=True), what)()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept
    getattr(short_trainer(tmp_path, overwrite=True), what)()


def test_who_waits_for_a_folder_locks_the_file_that_others_see(tmp_path):
    """A lock on a file that its holder removed would keep nobody out."""
    with short_trainer(tmp_path)._locked():
        seen = (tmp_path / ".lock").stat().st_ino
    with short_trainer(tmp_path)._locked():
        assert (tmp_path / ".lock").stat().st_ino == seen


def test_options_that_would_do_nothing_are_refused(tmp_path):
    for options in ({"preset": "small"}, {"preset": "seed", "colour": True}):
        with pytest.raises(ValueError, match="keras_example is of the presets seed and moving"):
            models.next_frame(size=SIZE, filters=2, keras_example=True, **options)
    model = convlstm.forecasting.forecaster((8, 8), given=2, ahead=2, filters=2, width=4, blocks=1)
    options = train.TrainOptions(steps=1, batch=1, validation=1, rollout=2)
    with pytest.raises(ValueError, match="rollout is of models that give one frame at a time"):
        train.Trainer(model, data.MovingDigits(4, (8, 8), digit=6), options).run()


def test_a_stream_is_offered_by_the_wing():
    assert convlstm.forecasting.Stream is Stream
