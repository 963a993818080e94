"""`predict` on a folder of photographs beside one picture after the other (`workers=0`).

JPEGs of 12 megapixels, made here from noise of several scales; ResNet-18 with random weights, batch
8. "exact" decodes whole pictures in threads, "fast" at a fraction of their size. The pictures a
second are in the facts. `--count N` takes N photographs, links to sixteen different ones.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import torch
from measure import Bench
from PIL import Image

from resnet_zoo import ImageClassification, resnet18
from resnet_zoo.inference.predict import predict

DIFFERENT, SIZE, BATCH = 16, (4000, 3000), 8


def _count() -> int:
    """The number behind --count, which measure does not know."""
    if "--count" not in sys.argv:
        return DIFFERENT
    place = sys.argv.index("--count")
    count = int(sys.argv[place + 1])
    del sys.argv[place : place + 2]
    return count


COUNT = _count()


def photographs(folder: Path) -> list[Path]:
    """Pictures with detail at several scales, which compress as photographs do."""
    paths = []
    for index in range(DIFFERENT):
        picture = Image.effect_noise((500, 375), 80 + index).resize(SIZE, Image.Resampling.BICUBIC)
        fine = Image.effect_noise((1000, 750), 40).resize(SIZE, Image.Resampling.BILINEAR)
        color = Image.merge("RGB", (picture, Image.blend(picture, fine, 0.4), fine))
        paths.append(folder / f"{index:03}.jpg")
        color.save(paths[-1], quality=88)
    for index in range(DIFFERENT, COUNT):
        paths.append(folder / f"{index:05}.jpg")
        paths[-1].hardlink_to(paths[index % DIFFERENT])
    return paths[:COUNT]


def main() -> None:
    versions = {"torch": torch.__version__, "pillow": Image.__version__}
    bench = Bench("resnet-zoo predict", "one picture after the other", versions=versions, repeats=5)
    torch.manual_seed(0)
    model, transforms = resnet18().eval(), ImageClassification(crop_size=224)
    common = {"transforms": transforms, "batch_size": BATCH}
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder))
        for decode in ("exact", "fast"):

            def ours(decode: str = decode) -> list:
                return list(predict(model, paths, **common, decode=decode))

            row = bench.compare(
                f"{COUNT} photographs, 12 megapixels, {decode}, {torch.get_num_threads()} threads",
                ours,
                lambda: list(predict(model, paths, **common, workers=0)),
                warmup=1 if COUNT <= DIFFERENT else 0,
                repeats=None if COUNT <= DIFFERENT else 1,
            )
            if row is not None and row.peer is not None:
                rate = round(COUNT / row.ours["median_ms"] * 1e3, 1)
                bench.fact(f"{decode}, pictures/s", rate)
    bench.finish()


if __name__ == "__main__":
    main()
