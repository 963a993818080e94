"""Predictions over many files: order, errors, memory, decoding at a fraction of the size."""

import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_zoo import ImageClassification
from resnet_zoo.inference.predict import predict
from resnet_zoo.pictures.images import decoded_ahead, images_below, open_image

TRANSFORM = ImageClassification(crop_size=16, resize_size=16)


class Brightness(torch.nn.Module):
    """Logits that tell pictures apart; remembers its batches."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        return torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], 1)


@pytest.fixture
def photos(tmp_path):
    for index in range(23):
        Image.new("RGB", (20, 18), (index * 11,) * 3).save(tmp_path / f"{index:02}.png")
    for index in (3, 4, 22):
        (tmp_path / f"{index:02}.png").write_text("no picture")
    return images_below(tmp_path)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_rows_come_in_order_and_broken_files_make_no_batch_smaller(photos, workers):
    model = Brightness()
    rows = list(predict(model, photos, transforms=TRANSFORM, batch_size=8, workers=workers))
    assert [row["file"] for row in rows] == [str(path) for path in photos]
    assert [i for i, row in enumerate(rows) if "error" in row] == [3, 4, 22]
    assert model.batches == [8, 8, 4]
    for path, row in zip(photos, rows, strict=True):
        if "error" not in row:
            expected = Brightness()(TRANSFORM(open_image(path))[None]).softmax(1).max().item()
            assert row["predictions"][0]["probability"] == pytest.approx(expected, abs=1e-5)


def test_few_pictures_are_held_ahead_and_threads_end(photos):
    held, most, lock = 0, 0, threading.Lock()

    def decode(path):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return path

    taken = []
    for path in decoded_ahead(photos, decode, workers=3, ahead=5):
        with lock:
            held -= 1
        taken.append(path)
    assert taken == photos
    assert most <= 6
    rows = decoded_ahead(photos, decode, workers=3, ahead=5)
    next(rows)
    rows.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


@pytest.mark.parametrize("orientation", [1, 6])
def test_fast_decoding_keeps_the_picture_and_enough_of_its_pixels(tmp_path, orientation):
    ramp = np.tile(np.linspace(0, 255, 1600, dtype=np.uint8), (1200, 1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.stack([ramp, ramp[:, ::-1], ramp], -1)).save(
        tmp_path / "a.jpg", exif=exif, quality=95
    )
    whole, part = open_image(tmp_path / "a.jpg"), open_image(tmp_path / "a.jpg", short=256)
    assert min(whole.size) == 1200
    assert 256 <= min(part.size) < 512
    assert (part.width > part.height) == (whole.width > whole.height)
    transform = ImageClassification(crop_size=224)
    assert (transform(part) - transform(whole)).abs().max() < 0.1
    small = open_image(tmp_path / "a.jpg", short=1100)
    assert small.size == whole.size


def test_webp_is_a_picture_like_any_other(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 40, dtype=np.uint8), (30, 1))
    picture = Image.fromarray(np.stack([ramp, ramp[:, ::-1], ramp], -1))
    for name in ("a.png", "b.webp", "c.WEBP"):
        picture.save(tmp_path / name, lossless=True)
    found = images_below(tmp_path)
    assert [path.name for path in found] == ["a.png", "b.webp", "c.WEBP"]
    rows = list(predict(Brightness(), found, transforms=TRANSFORM))
    assert rows[0]["predictions"] == rows[1]["predictions"] == rows[2]["predictions"]


def test_what_predict_does_not_know_is_named(photos, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="decode must be exact or fast"):
        next(predict(Brightness(), photos, transforms=TRANSFORM, decode="lazy"))
    (tmp_path / "x.heic").write_bytes(b"\x00\x00\x00\x18ftypheic")
    assert tmp_path / "x.heic" in images_below(tmp_path)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"x\.heic: not an image .* pip install pillow-heif"):
        open_image(tmp_path / "x.heic")
