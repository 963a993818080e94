"""`predict` on a folder of photographs beside one picture after the other (`workers=0`).

JPEGs of 12 megapixels. No package ships such photographs: they are made here from the three small
ones that scikit-learn and matplotlib ship, each cut, mirrored, lit and turned otherwise, enlarged,
and with the noise of a sensor, without which an enlarged picture would decode too fast. ResNet-18
with random weights, batch 8. "exact" decodes whole pictures in threads, "fast" at a fraction of
their size. The pictures a second are in the facts. `--count N` takes N photographs (1,000 in the
result file), links to `DIFFERENT` different ones.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import torch
from measure import Bench
from PIL import Image, ImageChops, ImageEnhance, ImageOps

from resnet_zoo import ImageClassification, resnet18
from resnet_zoo.inference.predict import predict

DIFFERENT, SIZE, BATCH = 32, (4000, 3000), 8
NOISE = 6.0  # standard deviation of the sensor's noise, of 255


def _count() -> int:
    """The number behind --count, which measure does not know."""
    if "--count" not in sys.argv:
        return DIFFERENT
    place = sys.argv.index("--count")
    count = int(sys.argv[place + 1])
    del sys.argv[place : place + 2]
    return count


COUNT = _count()


def shipped() -> list[Image.Image]:
    """The photographs that packages of the tests' environment ship."""
    import matplotlib.cbook
    from sklearn.datasets import load_sample_images

    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        portrait = Image.open(file).convert("RGB")
    return [portrait, *(Image.fromarray(array) for array in load_sample_images().images)]


def varied(photograph: Image.Image, draw: random.Random) -> Image.Image:
    """Another photograph of `SIZE` out of one: cut, mirrored, lit, enlarged, with noise."""
    width, height = photograph.size
    wide = int(min(width, height * 4 / 3) * draw.uniform(0.6, 1.0))
    tall = wide * 3 // 4
    left, top = draw.randrange(width - wide + 1), draw.randrange(height - tall + 1)
    cut = photograph.crop((left, top, left + wide, top + tall))
    if draw.random() < 0.5:
        cut = ImageOps.mirror(cut)
    large = ImageEnhance.Brightness(cut).enhance(draw.uniform(0.7, 1.3))
    large = large.resize(SIZE, Image.Resampling.BICUBIC)
    noise = Image.effect_noise(SIZE, NOISE)
    return ImageChops.add(large, Image.merge("RGB", [noise] * 3), offset=-128)


def photographs(folder: Path) -> list[Path]:
    """The files, some of them to be turned by their EXIF orientation."""
    sources, draw, paths = shipped(), random.Random(0), []
    for index in range(min(DIFFERENT, COUNT)):
        photograph = varied(sources[index % len(sources)], draw)
        exif = Image.Exif()
        exif[0x0112] = draw.choice((1, 1, 1, 6, 8))  # orientation
        paths.append(folder / f"{index:05}.jpg")
        photograph.save(paths[-1], quality=88, exif=exif)
    for index in range(DIFFERENT, COUNT):
        paths.append(folder / f"{index:05}.jpg")
        paths[-1].hardlink_to(paths[index % DIFFERENT])
    return paths


def main() -> None:
    versions = {"torch": torch.__version__, "pillow": Image.__version__}
    bench = Bench("resnet-zoo predict", "one picture after the other", versions=versions, repeats=5)
    torch.manual_seed(0)
    model, transforms = resnet18().eval(), ImageClassification(crop_size=224)
    common = {"transforms": transforms, "batch_size": BATCH}
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder))
        size = sum(path.stat().st_size for path in paths) / len(paths)
        bench.fact("megabytes of a photograph", round(size / 1e6, 2))
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
