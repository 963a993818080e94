"""The trainer: same curve on any grid, exact resumption, SIGTERM, evaluation, and text from it."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from tp_parallel import GPTConfig, ParallelContext, __main__
from tp_parallel.layers.rotary import RotaryScaling
from tp_parallel.pipeline import build_stages
from tp_parallel.training import checkpoint, generate, pretrain

OPTIONS = ["--layers", "2", "--hidden", "16", "--heads", "2", "--seq", "16", "--batch", "4",
           "--steps", "6", "--warmup", "2", "--eval-every", "3", "--eval-batches", "1",
           "--dtype", "float64"]  # fmt: skip


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog, again and again. " * 20)
    return path


def run(text, *more):
    report = pretrain.pretrain(pretrain.parse(["--data", str(text), *OPTIONS, *more]))
    return report.losses, report.evaluations, report.first_step


def test_losses_and_evaluations_are_equal_on_every_grid(world, text):
    losses, evaluations, _ = run(text)
    assert losses[-1] < losses[0]
    for grid in (["--tp", "2"], ["--dp", "2"], ["--pp", "2", "--schedule", "zero_bubble"]):
        for got_losses, got_evaluations, _ in world(2, run_split, text=text, more=grid):
            assert got_losses == pytest.approx(losses, abs=1e-10)
            assert got_evaluations == pytest.approx(evaluations, abs=1e-10)


def run_split(text, more):
    return run(text, *more)


def test_a_run_resumes_where_its_checkpoint_ends_and_equals_the_uninterrupted_one(text, tmp_path):
    whole, _, _ = run(text, "--dropout", "0.1")
    folder = str(tmp_path / "run")
    context = ParallelContext(device="cpu")
    settings = pretrain.parse(["--data", str(text), *OPTIONS, "--dropout", "0.1", "--save", folder,
                               "--save-every", "2"])  # fmt: skip

    first = interrupted(settings, context, after=2)
    assert first.interrupted
    assert len(first.losses) == 2
    second = pretrain.pretrain(settings, context=ParallelContext(device="cpu"))
    assert second.first_step == 2
    assert first.losses + second.losses == whole


def interrupted(settings, context, after):
    """Runs and sends itself SIGTERM within step `after`."""

    def provider(config, context, chunks):
        stages = pretrain.build_stages(config, context, chunks=chunks)

        def hook(*_):
            if context.step == after - 1 and stages[0].training:
                os.kill(os.getpid(), signal.SIGTERM)

        stages[0].embedding.register_forward_pre_hook(hook)
        return stages

    return pretrain.pretrain(settings, provider, context)


def test_metrics_hold_one_line_a_step_and_a_checkpoint_generates_text(text, tmp_path, capsys):
    folder, metrics = tmp_path / "run", tmp_path / "metrics.jsonl"
    run(text, "--save", str(folder), "--metrics", str(metrics), "--peak-tflops", "1")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(6))
    assert all(row["mfu"] == pytest.approx(row["tflops_per_device"]) for row in steps)
    capsys.readouterr()
    assert generate.main(["--checkpoint", str(folder), "--prompt", "the ", "--tokens", "9",
                          "--temperature", "0"]) == 0  # fmt: skip
    greedy = capsys.readouterr().out
    assert greedy.startswith("the ")
    assert len(greedy.rstrip("\n")) >= 4


def test_tensorboard_gets_every_scalar(text, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    losses, evaluations, _ = run(text, "--tensorboard", str(tmp_path / "board"))
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [e.value for e in board.Scalars("loss")] == pytest.approx(losses, rel=1e-6)
    held_out = {e.step: e.value for e in board.Scalars("evaluation")}
    assert held_out == pytest.approx(evaluations, rel=1e-6)
    assert {"grad_norm", "lr", "tokens_per_second"} <= set(board.Tags()["scalars"])


def test_a_hugging_face_tokenizer_file_is_learned_from_and_written_with(text, tmp_path, capsys):
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=["?"])
    words.train_from_iterator([text.read_text()], trainer)
    words.save(str(tmp_path / "tokenizer.json"))
    losses, _, _ = run(text, "--tokenizer", str(tmp_path / "tokenizer.json"), "--save",
                       str(tmp_path / "run"), "--held-out", "0.2")  # fmt: skip
    assert losses[-1] < losses[0]
    assert generate.main(["--checkpoint", str(tmp_path / "run"), "--prompt", "the quick brown",
                          "--tokens", "3", "--temperature", "0"]) == 0  # fmt: skip
    assert capsys.readouterr().out.startswith("the quick brown")


def generated(folder, tp):
    context = ParallelContext(tp=tp, device="cpu")
    model, _ = generate.load_model(checkpoint.latest(folder), context)
    ids = torch.tensor([[116, 104, 101, 32]])
    return generate.generate(model, ids, 12, temperature=0.7, top_k=20).tolist()


def test_generation_is_the_same_on_every_tensor_parallel_size(world, text, tmp_path):
    run(text, "--save", str(tmp_path / "run"))
    one = world(1, generated, folder=tmp_path / "run", tp=1)[0]
    assert world(2, generated, folder=tmp_path / "run", tp=2) == [one, one]
    assert len(one[0]) == 16


def test_no_option_is_taken_for_an_abbreviation_by_torchrun():
    from torch.distributed.run import get_args_parser

    taken = [option for action in get_args_parser()._actions for option in action.option_strings]
    for field in pretrain.fields(pretrain.Settings):
        flag = "--" + field.name.replace("_", "-")
        assert not [option for option in taken if option.startswith(flag)], flag


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--micro-batch", "3"], "multiple of --micro-batch, got 3"),
        (["--held-out", "1.5"], r"held_out must be in \[0, 1\), got 1.5"),
        (["--seq", "4000"], "too few for windows of 4000"),
        (["--hidden", "15"], "hidden must be a multiple of heads, got 15 and 2"),
        (["--schedule", "gpipe", "--chunks", "2"], "only 'interleaved' takes chunks"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_training(text, more, message):
    with pytest.raises(ValueError, match=message):
        run(text, *more)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain"], "pretrain: data must name a text or token file"),
        (["pretrain", "--data", "missing.txt"], "there is no 'missing.txt'"),
        (["pretrain", "--data", "."], "data must be a file, got the folder"),
        (["pretrain", "--data", __file__, "--steps", "-1"], "steps must be at least 0, got -1"),
        (["pretrain", "--data", __file__, "--tp", "2"], "start 2 processes"),
        (["pretrain", "--data", __file__, "--load", "missing"], "missing has no manifest.json"),
        (["pretrain", "--data", __file__, "--metrics", "."], "metrics must be a file"),
        (["generate", "--checkpoint", "missing"], "missing has no manifest.json"),
        (["generate", "--checkpoint", __file__], "Not a directory"),
        (["convert", "missing", "out"], "missing has no manifest.json"),
    ],
)
def test_a_command_that_does_not_fit_ends_in_one_sentence(words, message, capsys):
    assert __main__.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"tp-parallel {words[0]}: ")
    assert said.count("\n") == 1
    assert message in said


def test_a_result_that_cannot_be_printed_or_a_wrong_option_is_told(capsys):
    done = subprocess.run(
        [sys.executable, "-m", "tp_parallel.pretrain", "--data", "missing.txt"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tp_parallel"],
            env=environment, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.stderr == "tp-parallel: [Errno 28] No space left on device\n"
    assert done.returncode == 2
    assert __main__.main(["--wrong"]) == 2
    assert capsys.readouterr().err.startswith("tp-parallel: no option '--wrong'")
    assert __main__.main(["-h"]) == 0


def test_the_module_prints_version_and_back_ends(capsys):
    assert __main__.main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("tp-parallel ")
    assert "gloo" in out


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"save_every": 0}, "save_every must be at least 1, got 0"),
     ({"kv_heads": 0}, "kv_heads must be at least 1, got 0"),
     ({"ffn": -4}, "ffn must be at least 1, got -4"),
     ({"micro_batch": 0}, "micro_batch must be at least 1"),
     ({"steps": -1}, "steps must be at least 0"),
     ({"clip_grad": 0.0}, "clip_grad must be above 0"),
     ({"dropout": 1.5}, r"dropout must be in \[0, 1\)"),
     ({"timeout": -1.0}, "timeout must be above 0"),
     ({"allow": "head"}, "allow must name fields of the model, got 'head'")],
)  # fmt: skip
def test_a_setting_that_no_run_can_have_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        pretrain.pretrain(pretrain.Settings(data="none.txt", **setting))


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"lr": float("inf")}, "lr must be at least 0, got inf"),
     ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
     ({"batch": True}, "batch must be a whole number, got True"),
     ({"hidden": "16"}, "hidden must be a whole number, got '16'"),
     ({"zero": 1}, "zero must be True or False"),
     ({"init": "Local"}, "init must be one of whole, local, got 'Local'"),
     ({"schedule": "2f2b"}, "schedule must be one of gpipe"),
     ({"held_out": 0.0}, "eval_every needs a held_out above 0"),
     ({"recompute_keep": "attention"}, "recompute_keep has no effect without recompute"),
     ({"world": 8}, "world has no effect without dry_run"),
     ({"chunks": 2}, "only 'interleaved' takes chunks, got '1f1b', 2"),
     ({"end_token": 3}, "end_token needs a .npy"),
     ({"load": "run", "hidden": 64}, "hidden comes from what load names"),
     ({"load": "run", "init": "local"}, "init comes from what load names"),
     ({"architecture": "config.json", "untie": True}, "untie comes from what architecture names"),
     ({"data": "tokens.NPZ"}, "data must be a text file or tokens"),
     ({"data": "text.txt.gz"}, "data must be a text file or tokens")],
)  # fmt: skip
def test_a_setting_of_another_kind_or_without_effect_is_named(setting, message):
    with pytest.raises((ValueError, TypeError), match=message):
        pretrain.check_settings(pretrain.Settings(**{"data": "none.txt", **setting}))


@pytest.mark.parametrize(
    "field",
    [{"kv_heads": 0}, {"ffn": -4}, {"dropout": 1.0}, {"init_std": float("inf")},
     {"norm_eps": float("nan")}, {"max_positions": 8.0}, {"kv_heads": True}, {"ffn": 2.5},
     {"bias": "no"}, {"windows": (3.5,)}, {"rotary_base": "1e4"}, {"rotary_scaling": "linear"}],
)  # fmt: skip
def test_a_config_names_the_field_that_is_wrong(field):
    with pytest.raises((ValueError, TypeError), match=f"GPTConfig: {next(iter(field))} must be"):
        GPTConfig(vocab_size=8, hidden=8, layers=1, heads=2, **field)


@pytest.mark.parametrize(
    "field",
    [{"rotary_scaling": RotaryScaling("linear", 2.0)}, {"rotary_base_windowed": 1e4},
     {"zero_centred_norm": True}],
)  # fmt: skip
def test_a_field_that_another_leaves_without_effect_is_refused(field):
    with pytest.raises(ValueError, match=f"GPTConfig: {next(iter(field))} needs"):
        GPTConfig(vocab_size=8, hidden=8, layers=1, heads=2, **field)


def test_numpys_numbers_become_pythons_and_go_into_json():
    config = GPTConfig(vocab_size=np.int64(8), hidden=8, layers=1, heads=2, windows=[np.int32(3)])
    assert json.loads(json.dumps(config.to_dict()))["windows"] == [3]


@pytest.mark.parametrize("change", [{"seed": 99}, {"data": "other"}, {"eval_every": 2}])
def test_a_run_goes_on_with_the_text_it_began_with_or_is_told_otherwise(tmp_path, change):
    for name, words in (("text", "the quick brown fox. "), ("other", "the quick brown fix. ")):
        (tmp_path / name).write_text(words * 60)
    base = {"data": str(tmp_path / "text"), "layers": 1, "hidden": 16, "heads": 2, "seq": 16,
            "batch": 4, "eval_every": 0, "save": str(tmp_path / "run")}  # fmt: skip
    pretrain.pretrain(pretrain.Settings(**base, steps=1))
    if "data" in change:
        change = {"data": str(tmp_path / change["data"])}
    with pytest.raises(ValueError, match=r"resume from is of other data: (seed|content|held_out) "):
        pretrain.pretrain(pretrain.Settings(**{**base, **change}, steps=2))
    report = pretrain.pretrain(pretrain.Settings(**{**base, **change}, steps=2, allow="data"))
    assert report.first_step == 1


def poisoned(settings, step):
    """A provider of models whose gradient is NaN in `step`, whichever run meets it."""

    def build(config, context, chunks):
        models = build_stages(config, context, chunks=chunks)
        weight = models[0].embedding.word.weight
        weight.register_hook(lambda g: g * float("nan") if context.step == step else g)
        return models

    return pretrain.pretrain(settings, build)


def test_a_step_without_a_finite_gradient_is_skipped_counted_and_survives_a_restart(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 30)
    base = {"data": str(text), "layers": 1, "hidden": 16, "heads": 2, "seq": 16, "batch": 4,
            "eval_every": 0, "held_out": 0.0, "save": str(tmp_path / "run"), "save_every": 2,
            "metrics": str(tmp_path / "metrics")}  # fmt: skip
    with pytest.raises(FloatingPointError, match="the gradient norm is nan"):
        poisoned(pretrain.Settings(**base, steps=4), 3)
    report = poisoned(pretrain.Settings(**base, steps=6, skip_steps=1), 3)
    assert (report.first_step, report.skipped) == (2, [3])
    rows = [json.loads(line) for line in (tmp_path / "metrics").read_text().splitlines()]
    assert [row["step"] for row in rows if row["grad_norm"] is None] == [3]
    with pytest.raises(FloatingPointError):  # the one that may be skipped was
        poisoned(pretrain.Settings(**base, steps=8, skip_steps=1), 7)


def test_a_finished_run_says_so(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 30)
    settings = pretrain.Settings(
        data=str(text), layers=1, hidden=16, heads=2, seq=16, batch=4, eval_every=0, held_out=0.0,
        steps=2, save=str(tmp_path / "run"),
    )  # fmt: skip
    pretrain.pretrain(settings)
    pretrain.pretrain(settings)
    assert "already at step 2 of 2" in capsys.readouterr().err
