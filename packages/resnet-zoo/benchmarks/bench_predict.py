"""`predict` on a folder of photographs beside one picture after the other, as it was before.

JPEGs of 12 megapixels, made here from noise of several scales; ResNet-18 with random weights, batch
8. "exact" decodes whole pictures in threads, "fast" at a fraction of their size. The pictures a
second are in the facts.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import torch
from measure import Bench
from PIL import Image

from resnet_zoo import ImageClassification, resnet18
from resnet_zoo.inference.predict import predict, top_k
from resnet_zoo.pictures.images import open_image

COUNT, SIZE, BATCH = 16, (4000, 3000), 8


def photographs(folder: Path) -> list[Path]:
    """Pictures with detail at several scales, which compress as photographs do."""
    paths = []
    for index in range(COUNT):
        picture = Image.effect_noise((500, 375), 80 + index).resize(SIZE, Image.Resampling.BICUBIC)
        fine = Image.effect_noise((1000, 750), 40).resize(SIZE, Image.Resampling.BILINEAR)
        color = Image.merge("RGB", (picture, Image.blend(picture, fine, 0.4), fine))
        paths.append(folder / f"{index:03}.jpg")
        color.save(paths[-1], quality=88)
    return paths


@torch.inference_mode()
def one_by_one(model: torch.nn.Module, paths: list[Path], transforms: ImageClassification) -> list:
    """Decode, scale and classify in one thread of Python, a batch at a time."""

    def rows() -> Iterator[list]:
        for start in range(0, len(paths), BATCH):
            batch = [transforms(open_image(path)) for path in paths[start : start + BATCH]]
            yield from top_k(model(torch.stack(batch)), 5, None)

    return list(rows())


def main() -> None:
    versions = {"torch": torch.__version__, "pillow": Image.__version__}
    bench = Bench("resnet-zoo predict", "one picture after the other", versions=versions, repeats=5)
    torch.manual_seed(0)
    model, transforms = resnet18().eval(), ImageClassification(crop_size=224)
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder))
        for decode in ("exact", "fast"):

            def ours(decode: str = decode) -> list:
                rows = predict(model, paths, transforms=transforms, batch_size=BATCH, decode=decode)
                return list(rows)

            row = bench.compare(
                f"{COUNT} photographs, 12 megapixels, {decode}, {torch.get_num_threads()} threads",
                ours,
                lambda: one_by_one(model, paths, transforms),
            )
            if row is not None and row.peer is not None:
                rate = round(COUNT / row.ours["median_ms"] * 1e3, 1)
                bench.fact(f"{decode}, pictures/s", rate)
    bench.finish()


if __name__ == "__main__":
    main()
