"""Image files as they come from cameras, scanners and broken downloads."""

import warnings

import numpy as np
import pytest
from PIL import Image

from resnet_zoo.pictures.images import images_below, open_image
from resnet_zoo.pictures.transforms import ImageClassification

TRANSFORM = ImageClassification(crop_size=32, resize_size=32)


def ramp(height=24, width=40):
    """uint8 (H, W), dark on the left and bright on the right."""
    return np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (height, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photo_is_turned_upright(tmp_path, orientation):
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpose that a camera applied
    upright = Image.fromarray(np.stack([ramp()] * 3, -1))
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(np.asarray(open_image(tmp_path / "photo.png")), np.asarray(upright))


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, name):
    deep = ramp().astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / name)
    image = open_image(tmp_path / name)
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), ramp())


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "YCbCr"])
def test_every_usual_mode_becomes_three_channels_of_the_same_picture(tmp_path, mode):
    suffix = ".tif" if mode in ("CMYK", "YCbCr") else ".png"
    picture = Image.fromarray(ramp()).convert("RGB").convert(mode)
    picture.save(tmp_path / f"x{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = TRANSFORM.denormalize(TRANSFORM(open_image(tmp_path / f"x{suffix}")))
    assert seen.shape == (3, 32, 32)
    expected = TRANSFORM.denormalize(TRANSFORM(picture.convert("RGB")))
    assert (seen - expected).abs().max() < 0.01


def test_of_an_animation_the_first_picture_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    red, green, blue = open_image(tmp_path / "a.gif").convert("RGB").getpixel((4, 4))
    assert red > 250
    assert green == blue == 0


def test_what_cannot_be_read_is_named_with_its_fault(tmp_path):
    photo = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(ramp().astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(ramp().astype(np.int32) * 1_000_000).save(tmp_path / "wide.tif")
    for name, said in (
        ("cut.jpg", "truncated"),
        ("empty.png", "not an image"),
        ("float.tif", "no known white"),
        ("wide.tif", "no known white"),
        ("absent.png", "No such file"),
    ):
        with pytest.raises(ValueError, match=rf"{name}: .*{said}"):
            open_image(tmp_path / name)


def test_a_fault_without_words_is_told_by_its_kind(tmp_path, monkeypatch):
    def silent(*_):
        raise OSError

    monkeypatch.setattr(Image, "open", silent)
    with pytest.raises(ValueError, match=r"x\.png: OSError$"):
        open_image(tmp_path / "x.png")


def test_hidden_files_and_other_suffixes_are_left_out(tmp_path):
    for name in ("b/2.PNG", "a.jpeg", "b/._2.png", ".cache/3.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in images_below(tmp_path)]
    assert found == ["a.jpeg", "b/2.PNG"]
