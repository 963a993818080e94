"""The README's first example, as written: weights over the network, top-5 of a photo."""

import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from resnet_zoo import ResNet50_Weights, cache_dir, resnet50

README = Path(__file__).parents[1] / "README.md"


def test_the_first_example_gives_the_top_five_of_torchvision(
    torchvision, server, tmp_path, monkeypatch, capsys
):
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL).group(1)
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
    Image.fromarray(photo).save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)

    exec(compile(code, "README.md", "exec"), {})

    printed = capsys.readouterr().out.splitlines()
    model = torchvision.models.resnet50().eval()
    model.load_state_dict(tensors)
    card = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    with torch.no_grad():
        image = card.transforms()(Image.open("cat.jpg")).unsqueeze(0)
        best = model(image).softmax(1)[0].topk(5)
    assert printed == [f"{card.meta['categories'][i]}: {p:.1%}" for p, i in zip(*best, strict=True)]
    assert (cache_dir() / name).is_file()
    assert len(server.requests) == 1
