"""Training: exact resume, the parts of the recipe, sources, several processes, the command."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_zoo import load_model, read_metadata
from resnet_zoo.cli import main
from resnet_zoo.training import ArraySource, FolderSource, Recipe, evaluate, open_source, train
from resnet_zoo.training.augment import augment_batch, beta, mix, random_affine, trivial_augment
from resnet_zoo.training.data import generator_for
from resnet_zoo.training.state import Average, learning_rate, make_optimizer

SMALL = {
    "model_args": {"stem": "small", "planes": 8, "stochastic_depth": 0.2},
    "batch_size": 16,
    "epochs": 3,
    "warmup_epochs": 1.0,
}


def stripes(count, seed):
    """Horizontal against vertical stripes: a task of two classes that a few steps can learn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    rows = (torch.arange(8) % 2 * 200).expand(8, 8)
    images = torch.stack([rows if label else rows.T for label in labels])
    noise = torch.randint(0, 56, (count, 8, 8), generator=generator)
    return (images + noise).to(torch.uint8)[:, None], labels


@pytest.fixture
def sources():
    learn = ArraySource(*stripes(100, 0))
    images, labels = stripes(40, 1)
    return learn, ArraySource(images, labels, learn.categories, learn.mean, learn.std)


def recipe(**changes):
    return Recipe.preset("small", **{**SMALL, **changes})


def test_a_few_epochs_learn_and_the_files_can_be_used(sources, tmp_path):
    result = train(*sources, recipe(epochs=6), tmp_path)
    assert result.top1 >= 95
    assert [json.loads(line)["epoch"] for line in (tmp_path / "metrics.jsonl").open()] == [
        1, 2, 3, 4, 5, 6,
    ]  # fmt: skip
    model = load_model(tmp_path / "final.safetensors").eval()
    again = evaluate(model, sources[1], recipe())
    assert again == (result.top1, result.top5)
    assert read_metadata(tmp_path / "best.safetensors")["categories"] == ["0", "1"]


@pytest.mark.parametrize("stop", [4, 6, 11])
def test_a_stopped_run_goes_on_to_the_same_weights_to_the_last_bit(sources, tmp_path, stop):
    torch.set_num_threads(1)
    mixed = recipe(mixup=0.2, cutmix=1.0, erase=0.3, accumulate=1)
    whole = train(*sources, mixed, tmp_path / "whole")
    train(*sources, mixed, tmp_path / "parts", stop_after=stop)
    resumed = train(*sources, mixed, tmp_path / "parts")
    for (key, a), b in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), key
    assert (whole.top1, whole.best_top1) == (resumed.top1, resumed.best_top1)


def test_a_finished_run_is_not_trained_again(sources, tmp_path):
    first = train(*sources, recipe(epochs=1), tmp_path)
    again = train(*sources, recipe(epochs=1), tmp_path)
    assert torch.equal(first.model.fc.weight, again.model.fc.weight)
    assert again.top1 == first.top1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_metrics_hold_each_epoch_once_after_a_kill_and_a_restart(sources, tmp_path):
    file = tmp_path / "metrics.jsonl"

    def epochs():
        return [json.loads(line)["epoch"] for line in file.open()]

    train(*sources, recipe(epochs=2), tmp_path, stop_after=6)  # one epoch is 6 steps
    with file.open("a") as more:  # killed between the report of epoch 2 and its checkpoint
        more.write('{"epoch": 2}\n{"epo')
    train(*sources, recipe(epochs=2), tmp_path)
    assert epochs() == [1, 2]
    train(*sources, recipe(epochs=1), tmp_path, resume=False)
    assert epochs() == [1]


def test_another_recipe_in_the_same_folder_is_refused_with_the_difference(sources, tmp_path):
    train(*sources, recipe(), tmp_path, stop_after=1)
    with pytest.raises(ValueError, match=r"lr: 0\.05 then, 0\.1 now"):
        train(*sources, recipe(lr=0.1), tmp_path)
    train(*sources, recipe(lr=0.1), tmp_path, resume=False, stop_after=1)


def test_tensorboard_is_written_or_its_absence_is_told(sources, tmp_path):
    wanted = recipe(epochs=1, tensorboard=True)
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(RuntimeError, match="needs the package tensorboard; cure"):
            train(*sources, wanted, tmp_path)
    else:
        train(*sources, wanted, tmp_path)
        assert list((tmp_path / "tensorboard").glob("events.*"))


def test_accumulated_forwards_equal_one_large_batch():
    from resnet_zoo import get_model

    grads = []
    for parts in (1, 4):
        torch.manual_seed(0)
        model = get_model("resnet18", stem="small", planes=8, num_classes=2).eval()
        x, y = torch.randn(8, 3, 8, 8), torch.tensor([0, 1] * 4)
        for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (torch.nn.functional.cross_entropy(model(a), b) / parts).backward()
        grads.append(model.conv1.weight.grad)
    assert torch.allclose(*grads, atol=1e-6)


def test_accumulation_takes_one_step_for_several_forwards(sources, tmp_path):
    result = train(*sources, recipe(epochs=1, accumulate=3, ema=0.0), tmp_path)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["position"] == {"epoch": 1, "step": 0, "best": result.best_top1}
    counter = state["model"]["bn1.num_batches_tracked"]
    assert counter == 100 // (16 * 3) * 3


def test_the_learning_rate_warms_up_and_ends_at_zero():
    plan = recipe(epochs=10, warmup_epochs=2.0)
    rates = [learning_rate(plan, epoch / 4) for epoch in range(41)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[8] == 1.0
    assert rates[24] == pytest.approx(0.5)
    assert rates[40] == pytest.approx(0.0, abs=1e-12)
    assert rates[:9] == sorted(rates[:9])
    assert rates[8:] == sorted(rates[8:], reverse=True)


def test_norms_and_biases_have_no_weight_decay_and_frozen_parts_no_optimizer():
    from resnet_zoo import get_model

    model = get_model("resnet18", planes=8).freeze(1)
    optimizer = make_optimizer(model, recipe(head_lr=3.0, weight_decay=0.1))
    seen = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in seen
            continue
        group = seen[id(parameter)]
        assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0), name
        assert group["factor"] == (3.0 if name.startswith("fc.") else 1.0)


def test_the_average_follows_its_formula():
    from resnet_zoo import get_model

    model = get_model("resnet18", planes=8)
    average = Average(model, 0.9)
    expected = model.fc.weight.detach().clone()
    for step in range(1, 5):
        model.fc.weight.data.add_(1.0)
        model.bn1.num_batches_tracked += 1
        average.update(model)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.fc.weight.detach()
    assert torch.allclose(average.tensors["fc.weight"], expected, atol=1e-6)
    assert average.tensors["bn1.num_batches_tracked"] == 4


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_targets_are_shares_of_the_pictures(kind):
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 16, 16).clone()
    targets = torch.eye(6)
    for seed in range(20):
        mixed, shares = mix(
            images, targets, recipe(**{kind: 1.0}), torch.Generator().manual_seed(seed)
        )
        assert torch.allclose(shares.sum(1), torch.ones(6), atol=1e-6)
        means = shares @ torch.arange(6.0)
        assert torch.allclose(mixed.mean((1, 2, 3)), means, atol=1e-4)


def test_beta_has_the_moments_of_its_distribution():
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([beta(generator, 0.4) for _ in range(4000)])
    assert draws.mean().item() == pytest.approx(0.5, abs=0.02)
    assert draws.var().item() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)


def test_affine_without_strength_is_the_identity_and_a_shift_shifts():
    images = torch.rand(2, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    assert torch.allclose(random_affine(images, 0, 0, 0, generator), images, atol=1e-5)
    assert not torch.allclose(random_affine(images, 0, 0.2, 0, generator), images, atol=1e-2)


def test_augmentation_depends_on_the_generator_alone():
    images = torch.rand(4, 3, 12, 12)
    plan = recipe(erase=0.5, flip=True)
    first, second = (augment_batch(images, plan, generator_for(1, 2, 3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment_batch(images, plan, generator_for(1, 2, 4)))


def test_trivial_augment_keeps_size_and_mode_for_every_operation():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8))
    outputs = [trivial_augment(image, torch.Generator().manual_seed(s)) for s in range(120)]
    assert {(o.size, o.mode) for o in outputs} == {((24, 20), "RGB")}
    assert len({o.tobytes() for o in outputs}) > 60


# -- sources ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """DIR/{a,b}/*.png with 12 pictures each, as train and valid."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("valid", 4)):
        for label, name in enumerate("ab"):
            place = tmp_path / part / name
            place.mkdir(parents=True)
            for index in range(count):
                noise = rng.integers(0, 40, (36, 30, 3), dtype=np.uint8)
                noise[..., label] += 200
                Image.fromarray(noise).save(place / f"{index}.png")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_training_from_a_folder_by_the_command(folder, capsys, workers):
    arguments = [
        "train", str(folder / "train"), "--valid", str(folder / "valid"), "-o", str(folder / "run"),
        "--preset", "finetune", "--device", "cpu",
    ]  # fmt: skip
    choices = {
        "model": "resnet18",
        "model_args": '{"stem": "small", "planes": 8}',
        "epochs": 4,
        "batch_size": 6,
        "lr": 0.05,
        "crop_size": 24,
        "resize_size": 32,
        "workers": workers,
        "trivial_augment": "true",
    }
    for name, value in choices.items():
        arguments += ["--set", f"{name}={value}"]
    assert main(arguments) == 0, capsys.readouterr().err
    assert "top-1" in capsys.readouterr().out
    picture = str(folder / "valid" / "b" / "0.png")
    weights = str(folder / "run" / "best.safetensors")
    assert main(["predict", picture, "--weights", weights, "--json", "--top-k", "1"]) == 0
    guess = json.loads(capsys.readouterr().out)["predictions"][0]
    assert guess["category"] in ("a", "b")


@pytest.mark.parametrize("form", ["npz NHW", "npz NHWC", "safetensors NCHW"])
def test_array_files_open_in_any_usual_layout(tmp_path, form):
    images, labels = stripes(10, 3)
    if form.startswith("safetensors"):
        from safetensors.torch import save_file

        path = tmp_path / "d.safetensors"
        names = {"categories": json.dumps(["across", "down"])}
        save_file({"images": images, "labels": labels}, path, metadata=names)
    else:
        path = tmp_path / "d.npz"
        array = images[:, 0].numpy()
        array = array[..., None].repeat(3, -1) if form.endswith("NHWC") else array
        np.savez(path, images=array, labels=labels.numpy(), categories=["across", "down"])
    source = open_source(path)
    assert source.categories == ["across", "down"]
    assert torch.equal(source.images[:, :1], images)
    assert source.channels == (3 if form.endswith("NHWC") else 1)
    other = open_source(path, like=source)
    assert (other.mean, other.std) == (source.mean, source.std)


def test_wrong_sources_and_recipes_are_named(folder, tmp_path):
    images, labels = stripes(4, 0)
    with pytest.raises(ValueError, match="uint8"):
        ArraySource(images.float(), labels)
    with pytest.raises(ValueError, match="labels must be 4 integers"):
        ArraySource(images, labels[:3])
    with pytest.raises(ValueError, match=r"labels must be in \[0, 1\)"):
        ArraySource(images, labels, ["only"])
    with pytest.raises(ValueError, match="there is no folder"):
        FolderSource(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no images"):
        FolderSource(tmp_path / "empty")
    with pytest.raises(ValueError, match="unknown: b"):
        FolderSource(folder / "valid", ["a"])
    with pytest.raises(ValueError, match="one step needs"):
        train(ArraySource(images, labels), ArraySource(images, labels), recipe(), tmp_path / "r")
    single = ArraySource(images, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 2 classes"):
        train(single, single, recipe(batch_size=2), tmp_path / "r")
    with pytest.raises(ValueError, match="Recipe: lr must be positive"):
        recipe(lr=0)
    with pytest.raises(ValueError, match="there is no 'huge'"):
        Recipe.preset("huge")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named_and_rotated_ones_are_turned_as_for_predictions(folder, workers):
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.zeros((32, 64, 3), dtype=np.uint8)
    wide[:, :32] = 255
    Image.fromarray(wide).save(folder / "valid" / "a" / "0.png", exif=exif)
    (folder / "valid" / ".cache").mkdir()
    source = FolderSource(folder / "valid")
    assert source.categories == ["a", "b"]
    chosen = recipe(workers=workers, crop_size=224, resize_size=224)
    images, _ = next(source.batches([[0]], chosen, 0, train=False))
    top, bottom = images[0, :, :100].mean(), images[0, :, -100:].mean()
    assert top > bottom + 1
    broken = folder / "valid" / "a" / "1.png"
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"1\.png: ") as caught:
        list(source.batches([[0, 1]], chosen, 0, train=False))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(broken))


# -- several processes --------------------------------------------------------------------------

SCRIPT = textwrap.dedent(
    """
    import sys, torch
    torch.set_num_threads(1)
    from resnet_zoo.training import Recipe, open_source, train
    learn = open_source(sys.argv[1])
    result = train(
        learn, open_source(sys.argv[1], like=learn),
        Recipe.preset("small", model_args={"stem": "small", "planes": 8}, epochs=2, batch_size=8,
                      ema=0.0, warmup_epochs=0.5),
        sys.argv[2], device="cpu",
    )
    print("top1", result.top1)
    """
)


def torchrun(arguments, **environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_two_processes_train_one_model_and_agree(tmp_path):
    images, labels = stripes(64, 0)
    np.savez(tmp_path / "d.npz", images=images.numpy(), labels=labels.numpy())
    (tmp_path / "run.py").write_text(SCRIPT)
    run = torchrun([tmp_path / "run.py", tmp_path / "d.npz", tmp_path / "out"])
    assert run.returncode == 0, run.stderr
    told = [line for line in run.stdout.splitlines() if line.startswith("top1")]
    assert len(told) == 2
    assert told[0] == told[1]
    state = torch.load(tmp_path / "out" / "last.ckpt", weights_only=True)
    assert state["model"]["bn1.num_batches_tracked"] == 2 * 64 // (8 * 2)
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_two_processes_share_a_folder_and_write_one_result(folder, tmp_path):
    from resnet_zoo import get_model, save_weights

    arguments = {"num_classes": 2, "stem": "small", "planes": 8}
    metadata = {"model": "resnet18", "model_args": arguments, "categories": ["a", "b"]}
    save_weights(get_model("resnet18", **arguments), tmp_path / "w.safetensors", metadata)
    (folder / "valid" / "b" / "broken.png").write_text("not an image")
    out = tmp_path / "deep" / "result.jsonl"
    run = torchrun(
        ["-m", "resnet_zoo", "predict", folder / "valid", "--weights", tmp_path / "w.safetensors",
         "-o", out, "--device", "cpu"]
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "1 of 9 files have an" in run.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sum("error" in row for row in rows) == 1
    assert [row["file"] for row in rows] == sorted(
        str(path) for path in (folder / "valid").rglob("*.png")
    )


# -- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "momentum"), [(0, 1e30), (2, float("nan"))])
def test_a_diverging_run_is_an_error_and_keeps_its_last_good_state(
    sources, tmp_path, every, momentum
):
    chosen = recipe(epochs=3, warmup_epochs=0.0, checkpoint_steps=every)
    train(*sources, chosen, tmp_path, stop_after=7)  # one epoch is 6 steps
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    for group in state["optimizer"]["state"].values():
        group["momentum_buffer"].fill_(momentum)
    torch.save(state, tmp_path / "last.ckpt")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    said = r"train: .* in epoch 2, step .*last\.ckpt is the last good state"
    with pytest.raises(RuntimeError, match=said):
        train(*sources, chosen, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_command_ends_with_another_exit_code_when_training_diverges(tmp_path, capsys):
    images, labels = stripes(64, 0)
    np.savez(tmp_path / "d.npz", images=images.numpy(), labels=labels.numpy())
    data = str(tmp_path / "d.npz")
    command = ["train", data, "--valid", data, "-o", str(tmp_path / "run"), "--preset", "small"]
    choices = ['model_args={"stem": "small", "planes": 8}', "batch_size=16", "lr=1e30", "epochs=2"]
    for choice in choices:
        command += ["--set", choice]
    assert main([*command, "--device", "cpu"]) == 2
    assert "cure: a lower lr" in capsys.readouterr().err
    assert not (tmp_path / "run" / "best.safetensors").exists()


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("epochs", "ten", "epochs must be a whole number of at least 1, got 'ten'"),
        ("epochs", 2.5, "epochs must be"),
        ("epochs", True, "epochs must be"),
        ("lr", float("nan"), "lr must be positive"),
        ("lr", "0.1", "lr must be positive"),
        ("model", "resnet51", "model must be the name of a model"),
        ("model_args", "small", "model_args must be keywords"),
        ("crop_scale", [0.5], "crop_scale must be two numbers"),
        ("crop_scale", [0.9, 0.1], "crop_scale must be two numbers"),
        ("crop_scale", ["a", "b"], "crop_scale must be two numbers"),
        ("flip", "no", "flip must be true or false"),
        ("freeze", 7, "freeze must be a whole number from -1 to 4"),
        ("workers", -1, "workers must be"),
        ("mixup", -0.1, "mixup must be at least 0"),
        ("momentum", 1.5, "momentum must be in"),
        ("seed", 0.5, "seed must be a whole number"),
        ("lerning_rate", 0.1, "there is no setting 'lerning_rate'; there are model"),
    ],
)
def test_a_wrong_setting_is_named_with_its_demand(setting, value, said):
    with pytest.raises((ValueError, TypeError), match=said):
        Recipe.preset("small", **{setting: value})


def test_every_setting_has_a_demand_and_every_preset_meets_it():
    from resnet_zoo.training.recipe import _DEMANDS, PRESETS

    assert set(_DEMANDS) == set(Recipe.__dataclass_fields__)
    for name in PRESETS:
        again = Recipe(**json.loads(json.dumps(Recipe.preset(name).to_dict())))
        assert again == Recipe.preset(name)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_measured_normalisation_is_that_of_all_pixels_in_little_memory(channels):
    images = torch.randint(0, 256, (600, channels, 7, 5), dtype=torch.uint8)
    source = ArraySource(images, torch.arange(600) % 3)
    flat = images.double().div(255).transpose(0, 1).flatten(1)
    assert source.mean == pytest.approx(flat.mean(1).tolist(), abs=1e-6)
    assert source.std == pytest.approx(flat.std(1).tolist(), abs=1e-6)


def test_the_default_dtype_of_torch_does_not_reach_the_pictures(folder):
    array = ArraySource(*stripes(8, 0))
    files = FolderSource(folder / "train")
    chosen = recipe(workers=0, crop_size=24, resize_size=24)
    torch.set_default_dtype(torch.float64)
    try:
        dtypes = [next(s.batches([[0, 1]], chosen, 0, train=True))[0].dtype for s in (array, files)]
    finally:
        torch.set_default_dtype(torch.float32)
    assert dtypes == [torch.float32, torch.float32]


def test_a_run_goes_on_with_the_pictures_it_began_with_alone(sources, tmp_path):
    learn, valid = sources
    train(learn, valid, recipe(), tmp_path, stop_after=1)
    fewer = ArraySource(learn.images[:90], learn.labels[:90], learn.categories)
    renamed = ArraySource(learn.images, learn.labels, ["no", "yes"])
    for changed, said in ((fewer, "pictures: 100 then, 90 now"), (renamed, "classes: .* then")):
        with pytest.raises(ValueError, match=f"belongs to other data \\({said}.*--overwrite"):
            train(changed, valid, recipe(), tmp_path)
    whole = (tmp_path / "last.ckpt").read_bytes()
    for damaged in (whole[:100], b"", b"no checkpoint"):
        (tmp_path / "last.ckpt").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"last\.ckpt is damaged .*--overwrite"):
            train(learn, valid, recipe(), tmp_path)
