"""Every command and function with the declared dependencies alone.

A process in which all other installed packages are hidden does the package's jobs: what a plain
`pip install` of the package can do.
"""

import os
import re
import subprocess
import sys
import textwrap
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(texts, seen):
    """Add to `seen` all distributions that requirements bring, with what those bring."""
    for requirement in map(Requirement, texts):
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        name = canonicalize_name(requirement.name)
        if wanted and name not in seen:
            seen.add(name)
            closure(distribution(name).requires or (), seen)
    return seen


def declared():
    """The dependencies in pyproject.toml, which may be newer than what is installed."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE).group(1)
    return re.findall(r'"([^"]+)"', listed)


HIDE = """
import sys
from importlib.machinery import PathFinder

class Visible:
    @staticmethod
    def find_spec(name, path=None, target=None):
        hidden = name.partition(".")[0] in HIDDEN
        return None if hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Visible if finder is PathFinder else finder for finder in sys.meta_path]
"""

JOBS = """
import json, torch, resnet_zoo as rz
from PIL import Image
from resnet_zoo.cli import main
from resnet_zoo.training import ArraySource, Recipe, train

def run(*arguments, code=0):
    assert main([str(a) for a in arguments]) == code, arguments

tiny = {"stem": "small", "planes": 8}
images = torch.randint(0, 255, (48, 3, 16, 16), dtype=torch.uint8)
labels = torch.arange(48) % 2
source = ArraySource(images, labels)
train(source, source, Recipe.preset("small", epochs=1, batch_size=16, model_args=tiny), "run")
from safetensors.torch import save_file
save_file({"images": images, "labels": labels}, "d.safetensors")
import numpy as np
np.savez("d.npz", images=images.numpy(), labels=labels.numpy())
for data in ("d.safetensors", "d.npz"):
    run("train", data, "--valid", data, "-o", data + "-run", "--preset", "small", "--device", "cpu",
        "--set", "epochs=1", "--set", "batch_size=16", "--set", "model_args=" + json.dumps(tiny))
for label in "ab":
    for index in range(4):
        import os
        os.makedirs(f"photos/{label}", exist_ok=True)
        Image.effect_noise((40, 30), 50).convert("RGB").save(f"photos/{label}/{index}.jpg")
run("train", "photos", "--valid", "photos", "-o", "photo-run", "--device", "cpu", "--set",
    "epochs=1", "--set", "batch_size=4", "--set", "model=resnet18", "--set", "crop_size=24",
    "--set", "resize_size=32", "--set", "model_args=" + json.dumps(tiny), "--set", "workers=1")
weights = "photo-run/best.safetensors"
run("predict", "photos", "--weights", weights, "-o", "rows.jsonl", "--cam", "heat")
run("predict", "photos", "--weights", weights, "--json", "--decode", "fast", "--optimize", "fast")
run("list"), run("info", "resnet50"), run("summary", "resnet18"), run("draw", "resnet18")
run("draw", "resnet26t", "-o", "d.svg"), run("weights", "path", "resnet50")
run("weights", "verify"), run("bench", "resnet18", "--size", "64", "--engine", "auto")
run("export", weights, "-o", "m.onnx", code=2)
run("predict", "photos/a/0.jpg", "--model", "resnet18", "--offline", code=2)
model = rz.load_model(weights).eval()
rz.save_weights(model, "again.safetensors")
torch.save(model.state_dict(), "again.pth")
for path in ("again.safetensors", "again.pth"):
    rz.resnet18(weights=path, **tiny)
rz.resnet18(weights="again.pth", features_only=True, **tiny)
rz.optimize(model, "fold")(torch.randn(1, 3, 32, 32))
torch.jit.script(rz.ResNet18_Weights.DEFAULT.transforms())
print("all done")
"""


@pytest.mark.slow
def test_every_command_and_function_works_with_the_declared_dependencies_alone(tmp_path):
    kept = closure(declared(), {"resnet-zoo"})
    assert "numpy" in kept
    hidden = {
        module
        for module, owners in packages_distributions().items()
        if not any(canonicalize_name(owner) in kept for owner in owners)
        and module not in ("_distutils_hack", "setuptools", "pkg_resources")
    }
    assert {"timm", "pytest"} <= hidden
    code = f"HIDDEN = {sorted(hidden)!r}\n" + textwrap.dedent(HIDE) + textwrap.dedent(JOBS)
    (tmp_path / "jobs.py").write_text(
        f"if __name__ == '__main__':\n{textwrap.indent(code, '    ')}"
    )
    done = subprocess.run(
        [sys.executable, "jobs.py"],
        cwd=tmp_path,
        env=os.environ | {"TORCH_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("all done\n")
    assert "cure: pip install resnet-zoo[onnx]" in done.stderr
