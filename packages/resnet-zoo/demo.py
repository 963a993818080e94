"""Train a small ResNet on scikit-learn's handwritten digits, beside its SVC, and show what it sees.

The split is that of scikit-learn's own example: the first half in file order to learn from, the
second half to be tested on. Pictures: a panel of predictions, Grad-CAM overlays, and the structure
of ResNet-50, drawn from the live model.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import matplotlib
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from resnet_zoo import resnet50
from resnet_zoo.inference.predict import top_k
from resnet_zoo.seeing.draw import draw_svg
from resnet_zoo.seeing.gradcam import grad_cam, overlay
from resnet_zoo.training import ArraySource, Recipe, Result, train

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SIDE = 16  # the 8x8 pictures are scaled up: the stages halve the map three times
RECIPE = {
    "epochs": 30,
    "lr": 0.1,
    "model_args": {"stem": "small", "planes": 16},
    # other hands lean, place and size their digits otherwise
    "rotate": 15.0,
    "translate": 0.12,
    "zoom": 0.15,
    "ema": 0.98,
}
GOOD, BAD = "#1f8a70", "#c0392b"


def digits() -> tuple[ArraySource, ArraySource, float]:
    """Training and test halves, and the test accuracy of scikit-learn's SVC in percent."""
    data = load_digits()
    half = len(data.images) // 2
    svc = SVC(gamma=0.001).fit(data.data[:half], data.target[:half])
    score = 100 * svc.score(data.data[half:], data.target[half:])
    images = torch.from_numpy(data.images * (255 / 16)).float()[:, None]
    images = torch.nn.functional.interpolate(
        images, size=(SIDE, SIDE), mode="bicubic", antialias=True
    )
    images = images.clamp(0, 255).round().to(torch.uint8)
    labels = torch.from_numpy(data.target)
    learn = ArraySource(images[:half], labels[:half])
    test = ArraySource(images[half:], labels[half:], learn.categories, learn.mean, learn.std)
    return learn, test, score


def predictions(result: Result, test: ArraySource) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes and probabilities for the whole test half."""
    batches = test.batches([list(range(len(test)))], Recipe.preset("small"), 0, train=False)
    with torch.inference_mode():
        best = top_k(result.model(next(batches)[0]), 1, None)
    return (
        torch.tensor([row[0]["index"] for row in best]),
        torch.tensor([row[0]["probability"] for row in best]),
    )


def panel(result: Result, test: ArraySource, svc: float, out: Path) -> int:
    """Every mistake first, then pictures in file order; returns the number of mistakes."""
    guesses, sure = predictions(result, test)
    wrong = (guesses != test.labels).nonzero().flatten().tolist()
    columns, rows = 12, 4
    shown = (wrong + [i for i in range(len(test)) if i not in wrong])[: columns * rows]
    figure, axes = plt.subplots(rows, columns, figsize=(12.6, 5.6), dpi=130)
    for index, axis in zip(shown, axes.flat, strict=True):
        good = guesses[index] == test.labels[index]
        axis.imshow(test.images[index, 0], cmap="gray_r", interpolation="nearest")
        axis.set_xticks([]), axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set(color=GOOD if good else BAD, linewidth=1 if good else 2.5)
        label = f"{guesses[index]}  {sure[index]:.0%}"
        label += "" if good else f"\n(is {test.labels[index]})"
        axis.set_title(label, fontsize=9, color=GOOD if good else BAD, pad=3)
    figure.suptitle(
        f"{len(test)} unseen digits: ResNet {result.top1:.2f} %, SVC {svc:.2f} %.  "
        f"All {len(wrong)} mistakes first, in red",
        fontsize=12,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(out)
    plt.close(figure)
    return len(wrong)


def cams(result: Result, test: ArraySource, out: Path) -> None:
    """One digit of each class, with the heat of its prediction over it."""
    first = [int((test.labels == digit).nonzero()[3]) for digit in range(10)]
    batch, _ = next(test.batches([first], Recipe.preset("small"), 0, train=False))
    heat, classes = grad_cam(result.model, batch, stage=2)
    figure, axes = plt.subplots(2, 10, figsize=(12.6, 3.3), dpi=130)
    for column, index in enumerate(first):
        picture = Image.fromarray(255 - test.images[index, 0].numpy()).resize((128, 128), 0)
        painted = overlay(picture, heat[column], strength=0.75)
        for row, shown in enumerate((picture.convert("RGB"), painted)):
            axes[row, column].imshow(shown)
            axes[row, column].axis("off")
        axes[0, column].set_title(f"read as {classes[column]}", fontsize=10, pad=4)
    figure.suptitle("Grad-CAM of stage 2: what spoke for the predicted class", fontsize=12)
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    figure.savefig(out)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and card.json")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    print(f"digits: SVC, then {RECIPE['epochs']} epochs of a small ResNet-18", file=sys.stderr)
    learn, test, svc = digits()
    recipe = Recipe.preset("small", **RECIPE)
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        result = train(learn, test, recipe, folder)
        seconds = time.monotonic() - started
    mistakes = panel(result, test, svc, out / "digits.png")
    cams(result, test, out / "gradcam.png")
    (out / "resnet50.svg").write_text(draw_svg(resnet50(), title="resnet50"), encoding="utf-8")
    parameters = sum(p.numel() for p in result.model.parameters())
    card = {
        "title": "resnet-zoo",
        "summary": "A narrow ResNet-18 learns scikit-learn's 8x8 handwritten digits from the first "
        f"half ({len(learn)} pictures) and reads the second half; scikit-learn's SVC has the same "
        "split.",
        "figures": [
            {"label": "ResNet, unseen half", "value": f"{result.top1:.2f} %"},
            {"label": "scikit-learn SVC, same split", "value": f"{svc:.2f} %"},
            {"label": f"mistakes among {len(test)}", "value": str(mistakes)},
            {"label": "training, seconds", "value": f"{seconds:.0f}"},
            {"label": "parameters", "value": f"{parameters:,}"},
        ],
        "beside": {"result": "fast-2026-11-24.json", "case": "resnet50, batch 1, 1 thread"},
        "pictures": [
            {"file": "digits.png", "caption": "Predictions on the unseen half, mistakes first"},
            {"file": "gradcam.png", "caption": "Grad-CAM: where the evidence was"},
            {"file": "resnet50.svg", "caption": "resnet-zoo draw resnet50 -o resnet50.svg"},
        ],
        "code": "from resnet_zoo.training import ArraySource, Recipe, train\n"
        "learn, test = ArraySource(images[:half], labels[:half]), ...\n"
        f"recipe = Recipe.preset('small', epochs={recipe.epochs}, lr={recipe.lr}, ...)\n"
        "result = train(learn, test, recipe, 'run')   # resumes exactly if interrupted\n"
        "# then: resnet-zoo predict scan.png --weights run/best.safetensors",
    }
    (out / "card.json").write_text(json.dumps(card, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
