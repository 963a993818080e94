"""The README's first example, as written: weights over the network, top-5 of a photo."""

import dataclasses
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from resnet_zoo import ResNet50_Weights, cache_dir, resnet50
from resnet_zoo.cli import main

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def tensors(server, tmp_path, monkeypatch):
    """ResNet-50's entry stands for random weights on a server; the folder has a rotated photo."""
    torch.manual_seed(0)
    tensors = resnet50().state_dict()
    file = io.BytesIO()
    torch.save(tensors, file)
    name, digest = server.add("resnet50", file.getvalue(), ".pth")
    entry = ResNet50_Weights.IMAGENET1K_V2
    published = dataclasses.replace(entry.value, sha256=digest[:8])
    monkeypatch.setattr(entry, "_value_", published)
    monkeypatch.setenv("RESNET_ZOO_MIRROR", server.url)
    photo = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by a quarter
    Image.fromarray(photo).save(tmp_path / "cat.jpg", exif=exif)
    monkeypatch.chdir(tmp_path)
    return tensors, name


def first_example():
    text = README.read_text(encoding="utf-8")
    return re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)


def test_the_first_example_gives_the_top_five_of_torchvision_and_so_does_the_shell_line(
    torchvision, tensors, server, capsys
):
    tensors, name = tensors
    exec(compile(first_example(), "README.md", "exec"), {})

    printed = capsys.readouterr().out.splitlines()
    model = torchvision.models.resnet50().eval()
    model.load_state_dict(tensors)
    card = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    with torch.no_grad():
        upright = ImageOps.exif_transpose(Image.open("cat.jpg"))
        assert upright.size == (300, 400)
        image = card.transforms()(upright).unsqueeze(0)
        best = model(image).softmax(1)[0].topk(5)
    assert printed == [f"{card.meta['categories'][i]}: {p:.2%}" for p, i in zip(*best, strict=True)]
    assert (cache_dir() / name).is_file()
    assert len(server.requests) == 1

    line = re.search(r"```bash\n(resnet-zoo predict .*?)\n```", README.read_text(encoding="utf-8"))
    assert main(shlex.split(line.group(1))[1:]) == 0
    file, *rows = capsys.readouterr().out.splitlines()
    assert file == "cat.jpg"
    found = [row.split(maxsplit=1) for row in rows]
    assert [f"{category}: {share}" for share, category in found] == printed


@pytest.mark.parametrize("variable", ["RESNET_ZOO_OFFLINE", "RESNET_ZOO_MIRROR"])
def test_offline_the_first_example_and_the_shell_line_say_one_sentence(
    variable, tmp_path, monkeypatch, capsys
):
    value = "1" if variable.endswith("OFFLINE") else "http://127.0.0.1:9"
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("cat.jpg")
    with pytest.raises(SystemExit) as stopped:
        exec(compile(first_example(), "README.md", "exec"), {})
    said = stopped.value.code
    assert "resnet50-11ad3fa6.pth" in said
    assert "Cure: " in said
    assert "\n" not in said
    assert main(["predict", "cat.jpg", "--model", "resnet50", "--top-k", "5"]) == 2
    assert capsys.readouterr().err == f"resnet-zoo predict: {said}\n"
