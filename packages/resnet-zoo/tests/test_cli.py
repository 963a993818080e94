"""The commands, as a user runs them: output, exit codes, sentences."""

import json
import os
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_zoo import get_model, save_weights
from resnet_zoo.cli import EXAMPLES, _parser, main


@pytest.fixture
def trained(tmp_path):
    """A small model file that says how it was built, and a folder with two images and a fake."""
    arguments = {"num_classes": 3, "stem": "small", "planes": 8}
    torch.manual_seed(0)
    model = get_model("resnet18", **arguments)
    metadata = {
        "model": "resnet18",
        "model_args": arguments,
        "categories": ["cat", "dog", "fox"],
        "transforms": {"crop_size": 32, "resize_size": 32},
    }
    path = tmp_path / "small.safetensors"
    save_weights(model, path, metadata)
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / name)
    (folder / "c.png").write_text("not an image")
    return path, folder, model.eval()


def test_predict_on_a_folder_reports_good_and_bad_files(trained, capsys):
    path, folder, _ = trained
    code = main(["predict", str(folder), "--weights", str(path), "--top-k", "2", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 1
    assert [row["file"][-5:] for row in rows] == ["a.png", "b.jpg", "c.png"]
    assert rows[2]["error"] == "not an image"
    for row in rows[:2]:
        assert len(row["predictions"]) == 2
        assert row["predictions"][0]["category"] in ("cat", "dog", "fox")
        assert row["predictions"][0]["probability"] >= row["predictions"][1]["probability"]


@pytest.mark.parametrize("name", [b"caf\xe9.png", "a\u2028b\x85.png".encode()])
def test_a_picture_of_any_name_is_one_line_of_the_result(trained, tmp_path, capsys, name):
    path, folder, _ = trained
    odd = folder / os.fsdecode(name)
    try:
        odd.write_bytes((folder / "a.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    out = tmp_path / "result.jsonl"
    chosen = ["predict", str(odd), str(folder / "b.jpg"), "--weights", str(path)]
    assert main([*chosen, "-o", str(out)]) == 0
    lines = out.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["file"] for line in lines[:-1]] == [str(odd), str(folder / "b.jpg")]
    assert main([*chosen, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.split("\n")[0])["file"] == str(odd)
    assert main(chosen) == 0


def test_predict_gives_what_the_model_gives(trained, capsys):
    path, folder, model = trained
    main(["predict", str(folder / "a.png"), "--weights", str(path), "--top-k", "3", "--json"])
    row = json.loads(capsys.readouterr().out)
    from resnet_zoo import resolve

    image = resolve(path).transforms()(Image.open(folder / "a.png"))
    with torch.inference_mode():
        expected = model(image[None]).softmax(1)[0]
    for guess in row["predictions"]:
        assert guess["probability"] == pytest.approx(expected[guess["index"]].item(), abs=2e-6)


def test_predict_writes_one_result_file_and_overlays(trained, tmp_path):
    path, folder, _ = trained
    out, heat = tmp_path / "result.jsonl", tmp_path / "heat"
    code = main(
        ["predict", str(folder), "--weights", str(path), "-o", str(out), "--cam", str(heat)]
    )
    assert code == 1
    assert len(out.read_text().splitlines()) == 3
    assert sorted(p.name for p in heat.iterdir()) == ["a-cam.png", "b-cam.png"]
    assert Image.open(heat / "a-cam.png").size == (32, 32)
    assert sorted(p.name for p in tmp_path.iterdir() if "result" in p.name) == ["result.jsonl"]


def test_missing_weights_offline_end_in_one_sentence_with_the_cure(trained, capsys):
    _, folder, _ = trained
    code = main(["predict", str(folder), "--model", "resnet18", "--offline"])
    error = capsys.readouterr().err
    assert code == 2
    assert "resnet18-f37072fd.pth" in error
    assert "RESNET_ZOO_OFFLINE" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "nowhere.jpg"], "no file or folder nowhere.jpg"),
        (["summary", "resnet51"], "no model 'resnet51'"),
        (["info", "ResNet50_Weights.V9"], "no entry"),
        (["list", "vgg*"], "no model matches"),
        (["weights", "download"], "say which"),
        (["draw", "resnet18", "-o", "x.png"], "must end in .svg"),
        (["bench", "resnet18", "--device", "warp"], "warp"),
        (["info", "resnet50d"], "resnet50d has no weights among torchvision's. Cure: name a file"),
        (["list", "resnet50d"], "resnet50d has no weights among torchvision's. Cure: name a file"),
        (["predict", ".", "--cam", __file__], "--cam must be a folder for pictures"),
    ],
)
def test_wrong_use_is_exit_code_two_and_names_the_fault(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "x.jpg", "--batch", "0"],
        ["predict", "x.jpg", "--top-k", "-1"],
        ["summary", "resnet18", "--size", "big"],
    ],
)
def test_numbers_that_make_no_sense_are_refused_before_anything_is_done(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "at least 1" in capsys.readouterr().err


def test_bench_times_a_trained_file(trained, capsys):
    path, _, _ = trained
    assert main(["bench", str(path), "--size", "16", "--level", "fold"]) == 0
    assert "input 1x3x16x16" in capsys.readouterr().out


@pytest.mark.parametrize("command", EXAMPLES)
def test_the_help_of_a_command_ends_with_examples_that_it_takes(command, capsys):
    for example in EXAMPLES[command]:
        assert _parser().parse_args([command, *shlex.split(example)]).command == command
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert EXAMPLES[command][0] in capsys.readouterr().out.partition("examples:")[2]


def test_an_empty_folder_is_told(tmp_path, capsys):
    assert main(["predict", str(tmp_path), "--model", "resnet18"]) == 2
    assert f"in {tmp_path}" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_one_sentence_with_the_cure(trained, capsys):
    path, folder, _ = trained
    assert main(["predict", str(folder), "--weights", str(path), "--device", "cuda"]) == 2
    error = capsys.readouterr().err
    assert "sees no CUDA device" in error
    assert "--device cpu" in error


def test_a_model_of_one_class_predicts(tmp_path, capsys):
    arguments = {"num_classes": 1, "stem": "small", "planes": 8}
    metadata = {"model": "resnet18", "model_args": arguments, "categories": ["cat"]}
    save_weights(get_model("resnet18", **arguments), tmp_path / "w.safetensors", metadata)
    Image.new("L", (40, 30), 128).save(tmp_path / "grey.png")
    command = ["predict", str(tmp_path), "--weights", str(tmp_path / "w.safetensors"), "--json"]
    assert main(command) == 0
    guesses = json.loads(capsys.readouterr().out)["predictions"]
    assert guesses == [{"index": 0, "category": "cat", "probability": 1.0}]


def test_a_reader_that_leaves_is_no_error():
    code = "import sys; from resnet_zoo.cli import main; sys.exit(main(['info', 'resnet50']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0


def test_list_and_info_show_the_published_entries(capsys):
    assert main(["list", "resnext*", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {entry["model"] for entry in entries} == {
        "resnext50_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
    }
    assert main(["info", "ResNet50_Weights.DEFAULT"]) == 0
    assert "80.858" in capsys.readouterr().out


def test_summary_totals_are_the_published_parameters_and_macs(capsys):
    assert main(["summary", "resnext50_32x4d", "--depth", "stage"]) == 0
    total = capsys.readouterr().out.splitlines()[-1].split()
    assert total == ["total", "25,028,904", "4,230.5"]


def test_draw_has_every_block_and_projection_and_is_sound_xml(tmp_path, capsys):
    out = tmp_path / "r50.svg"
    assert main(["draw", "resnet50", "-o", str(out)]) == 0
    text = out.read_text()
    titles = [node.text for node in ET.fromstring(text).iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 16
    assert titles[0] == "layer1.0, shortcut: conv 1x1, 256"
    assert sum("identity" in title for title in titles) == 12
    assert "2048 x 7 x 7" in text
    capsys.readouterr()
    assert main(["draw", "resnet18"]) == 0
    assert (
        "layer4.1   conv 3x3, 512 -> conv 3x3, 512  (+) shortcut identity"
        in capsys.readouterr().out
    )


def test_weights_path_and_verify_name_the_cache(capsys):
    assert main(["weights", "path", "resnet50"]) == 0
    assert capsys.readouterr().out.strip().endswith("hub/checkpoints/resnet50-11ad3fa6.pth")
    assert main(["weights", "path", "owner/repo", "http://127.0.0.1:9/x-01234567.pth"]) == 0
    there = capsys.readouterr().out.split()  # without asking the network
    assert there[0].endswith("hub/checkpoints/owner--repo--model.safetensors")
    assert there[1].endswith("hub/checkpoints/x-01234567.pth")
    assert main(["weights", "verify", "owner/repo"]) == 1
    assert main(["weights", "verify", "resnet18"]) == 1
    assert "it is not there" in capsys.readouterr().out


def test_predict_in_eight_bits_is_calibrated_on_the_pictures_given(tmp_path, calibrate, capsys):
    torch.manual_seed(0)
    model = calibrate(get_model("resnet18", planes=8, num_classes=4))
    arguments = {"planes": 8, "num_classes": 4}
    weights = tmp_path / "w.safetensors"
    save_weights(model, weights, {"model": "resnet18", "model_args": arguments})
    for seed in range(3):
        noise = Image.effect_noise((300, 260), 90 + 20 * seed)
        noise.convert("RGB").save(tmp_path / f"{seed}.png")
    (tmp_path / "bad.png").write_text("no picture")
    files = [str(path) for path in sorted(tmp_path.glob("*.png"))]
    common = ["predict", *files, "--weights", str(weights), "--json", "--top-k", "1"]
    assert main([*common, "--optimize", "fast", "--dtype", "int8"]) == 1  # one file is no picture
    said = capsys.readouterr()
    assert "kept: int8 oneDNN" in said.err
    assert "same class in" in said.err
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [("error" in row) for row in rows] == [False, False, False, True]
    assert main([*common, "--dtype", "int8"]) == 2
    assert "goes with --optimize" in capsys.readouterr().err
    unread = ["predict", files[-1], "--weights", str(weights), "--optimize", "fast"]
    assert main([*unread, "--dtype", "int8"]) == 2
    assert "none of 1 files can be read to calibrate on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (["--engine", "auto"], "--engine auto goes with --optimize"),
        (["--dtype", "bfloat16"], "--dtype bfloat16 goes with --optimize"),
        (["-o", "."], "--out must be a file to write, . is a folder"),
    ],
)
def test_choices_that_would_do_nothing_are_refused(choice, said, capsys):
    assert main(["predict", "x.png", *choice]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("given", "kept"), [(None, "1"), ("0", "0")])
def test_the_commands_ask_for_huge_pages_unless_the_user_has_said(given, kept):
    environment = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    if given is not None:
        environment["THP_MEM_ALLOC_ENABLE"] = given
    code = "import os, resnet_zoo.__main__; print(os.environ['THP_MEM_ALLOC_ENABLE'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.decode().strip() == kept, done.stderr


def test_a_result_that_nobody_takes_ends_in_one_sentence():
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "resnet_zoo", "list", "resnet18"],
            env=environment, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.stderr == "resnet-zoo list: [Errno 28] No space left on device\n"
    assert done.returncode == 2
