"""timm's own tests/test_models.py with the builder swapped: four models, eleven tests each.

The file is not in timm's wheel. RESNET_ZOO_TIMM_TESTS names it, from a checkout of
huggingface/pytorch-image-models.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FILE = os.environ.get("RESNET_ZOO_TIMM_TESTS", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILE, reason="RESNET_ZOO_TIMM_TESTS names no tests/test_models.py"),
]
MODELS = ("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2")
TESTS = 11  # of a model: forward, backward, configurations, script, features, fx, ...
SWAPPED = f"""
import resnet_zoo

def list_models(*_, **asked):
    return [] if asked.get("pretrained") else {list(MODELS)!r}

def list_pretrained(*_):
    return []

def create_model(name, pretrained=False, **arguments):
    assert not pretrained
    return resnet_zoo.get_model(name, **arguments)
"""
STUB = """
import torch
library = torch.library.Library("torchvision", "FRAGMENT")
if torch.version.cuda is None:
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


@pytest.mark.usefixtures("timm")
def test_every_test_of_timm_passes_for_four_models(tmp_path):
    lines = Path(FILE).read_text(encoding="utf-8").splitlines()
    last = max(n for n, line in enumerate(lines) if re.match(r"from timm\b.* import ", line))
    lines.insert(last + 1, SWAPPED)
    (tmp_path / "conftest.py").write_text(STUB)
    (tmp_path / "test_swapped.py").write_text("\n".join(lines))
    chosen = " or ".join(MODELS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "-p", "no:cacheprovider",
         "--rootdir", str(tmp_path), "-k", chosen, str(tmp_path / "test_swapped.py")],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert f"{len(MODELS) * TESTS} passed" in done.stdout, done.stdout[-4000:] + done.stderr[-1000:]
    assert not re.search(r"\d+ (failed|skipped|errors?|xfailed)", done.stdout)
