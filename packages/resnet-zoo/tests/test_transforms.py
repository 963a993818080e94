"""Preprocessing against torchvision's presets, for PIL images and tensors."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_zoo import WEIGHTS, ImageClassification
from resnet_zoo.pictures.transforms import center_crop, pil_to_tensor, resize

SIZES = [(640, 480), (333, 500), (232, 232), (256, 300), (100, 70), (1025, 257)]


def picture(width, height, mode="RGB"):
    rng = np.random.default_rng(width * height)
    array = rng.integers(0, 256, (height // 7 + 1, width // 7 + 1, 3), dtype=np.uint8)
    return Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize_size", [256, 232])
def test_pil_path_equals_torchvision_to_the_last_bit(torchvision, size, resize_size):
    theirs = torchvision.transforms._presets.ImageClassification(
        crop_size=224, resize_size=resize_size
    )
    image = picture(*size)
    ours = ImageClassification(crop_size=224, resize_size=resize_size)
    assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_tensor_path_equals_torchvision_to_the_last_bit(torchvision, size, kind):
    theirs = torchvision.transforms._presets.ImageClassification(crop_size=224, resize_size=232)
    tensor = pil_to_tensor(picture(*size)).expand(2, -1, -1, -1)
    tensor = tensor if kind == "uint8" else tensor / 255
    ours = ImageClassification(crop_size=224, resize_size=232)
    assert torch.equal(ours(tensor), theirs(tensor))


@pytest.mark.parametrize("size", SIZES)
def test_pil_and_tensor_paths_agree_within_rounding(size):
    transform = ImageClassification(crop_size=224)
    image = picture(*size)
    difference = (transform(image) - transform(pil_to_tensor(image))).abs().max()
    assert difference <= 2 / 255 / 0.224


def test_every_entry_has_the_transforms_and_meta_of_torchvision(torchvision):
    for name, kind in WEIGHTS.items():
        theirs = torchvision.models.get_model_weights(name)
        assert list(kind.__members__) == list(theirs.__members__)
        assert kind.__name__ == theirs.__name__
        for entry in kind:
            other = theirs[entry.name]
            ours, preset = entry.transforms(), other.transforms()
            assert [ours.crop_size] == preset.crop_size
            assert [ours.resize_size] == preset.resize_size
            assert (list(ours.mean), list(ours.std)) == (preset.mean, preset.std)
            assert entry.value.file_name == other.url.rsplit("/", 1)[1]
            meta = entry.meta
            for key in ("categories", "num_params", "_metrics", "_ops", "_file_size", "recipe"):
                assert meta[key] == other.meta[key], (entry, key)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_other_modes_are_converted(mode):
    out = ImageClassification(crop_size=32, resize_size=40)(picture(60, 50, "RGB").convert(mode))
    assert out.shape == (3, 32, 32)
    assert torch.isfinite(out).all()


def test_grey_transform_gives_one_channel():
    grey = ImageClassification(crop_size=8, resize_size=8, mean=(0.5,), std=(0.25,))
    assert grey(picture(20, 10)).shape == (1, 8, 8)


def test_a_crop_larger_than_the_image_pads_with_zeros_as_torchvision(torchvision):
    image = picture(31, 20)
    theirs = torchvision.transforms.functional.center_crop(image, [40, 40])
    assert torch.equal(pil_to_tensor(center_crop(image, 40)), pil_to_tensor(theirs))
    tensor = pil_to_tensor(image)
    theirs = torchvision.transforms.functional.center_crop(tensor, [40, 40])
    assert torch.equal(center_crop(tensor, 40), theirs)


def test_denormalize_undoes_the_normalisation():
    transform = ImageClassification(crop_size=16, resize_size=16)
    image = torch.rand(3, 16, 16)
    assert torch.allclose(transform.denormalize(transform(image)), image, atol=1e-6)
    assert ImageClassification(**transform.to_dict()) == transform


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="interpolation must be"):
        ImageClassification(crop_size=8, interpolation="nearest")
    with pytest.raises(ValueError, match="mean and std"):
        ImageClassification(crop_size=8, mean=(0.5,))
    with pytest.raises(TypeError, match="PIL image or a tensor"):
        ImageClassification(crop_size=8)(np.zeros((3, 8, 8)))
    with pytest.raises(TypeError, match="uint8 or floating"):
        ImageClassification(crop_size=8)(torch.zeros(3, 9, 9, dtype=torch.int32))
    assert resize(torch.zeros(3, 5, 5), 5).shape == (3, 5, 5)


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float16, torch.float64])
def test_the_default_dtype_of_torch_changes_neither_the_numbers_nor_the_dtype(default):
    transform = ImageClassification(crop_size=24, resize_size=32)
    image = picture(60, 50)
    inputs = (image, pil_to_tensor(image), pil_to_tensor(image) / 255)
    expected = [transform(x) for x in inputs]
    torch.set_default_dtype(default)
    try:
        found = [ImageClassification(crop_size=24, resize_size=32)(x) for x in inputs]
        seen = transform.denormalize(found[0])
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert seen.dtype is torch.float32


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64])
def test_a_tensor_of_any_dtype_gives_what_torchvision_gives(torchvision, dtype):
    theirs = torchvision.transforms._presets.ImageClassification(crop_size=224, resize_size=232)
    x = pil_to_tensor(picture(333, 300))
    x = x if dtype is torch.uint8 else (x / 255).to(dtype)
    ours = ImageClassification(crop_size=224, resize_size=232)(x)
    assert ours.dtype is torch.float32
    assert torch.equal(ours, theirs(x))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_the_transform_is_a_module_that_can_be_scripted_pickled_copied_and_chained(mode):
    transform = ImageClassification(crop_size=(24, 16), resize_size=(30, 20), crop_mode=mode)
    scripted = torch.jit.script(transform)
    for x in (pil_to_tensor(picture(64, 41)), torch.rand(2, 3, 19, 64), torch.rand(3, 25, 25)):
        expected = transform(x)
        assert expected.shape[-2:] == (24, 16)
        assert torch.equal(scripted(x), expected)
        assert torch.equal(torch.nn.Sequential(transform, torch.nn.Identity())(x), expected)
        for twin in (pickle.loads(pickle.dumps(transform)), copy.deepcopy(transform)):
            assert twin == transform
            assert torch.equal(twin(x), expected)
    assert len({transform, ImageClassification(**transform.to_dict())}) == 1


def test_entries_take_another_crop_size():
    transform = WEIGHTS["resnet50"].DEFAULT.transforms(crop_size=320, resize_size=352)
    assert (transform.crop_size, transform.resize_size) == (320, 352)
    assert transform(picture(400, 500)).shape == (3, 320, 320)
    with pytest.raises(ValueError, match="crop_size must be positive"):
        ImageClassification(crop_size=0)
    with pytest.raises(TypeError, match="resize_size must be a whole number"):
        ImageClassification(crop_size=8, resize_size="256")


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(224, 224), (224, 160), (160, 224)])
@pytest.mark.parametrize("fraction", [0.875, 0.95, 1.0])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_crop_modes_equal_timm_to_the_last_bit(timm, mode, size, fraction, interpolation):
    theirs = timm.data.transforms_factory.transforms_imagenet_eval(
        size, crop_pct=fraction, crop_mode=mode, interpolation=interpolation
    )
    scaled = [math.floor(side / fraction) for side in size]
    ours = ImageClassification(
        crop_size=size,
        resize_size=scaled[0] if scaled[0] == scaled[1] else scaled,
        interpolation=interpolation,
        crop_mode=mode,
    )
    for sides in ((333, 500), (100, 70), (1025, 257)):
        image = picture(*sides)
        assert torch.equal(ours(image), theirs(image)), sides


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_scaled_and_not_cut_off(mode):
    deep = np.arange(300 * 280, dtype=np.uint32).reshape(300, 280) % 65536
    image = Image.fromarray(deep.astype(np.uint16 if mode == "I;16" else np.int32))
    expected = Image.fromarray((deep / 257).astype(np.uint8)).convert("RGB")
    transform = ImageClassification(crop_size=224)
    assert (transform(image) - transform(expected)).abs().max() < 2 / 255 / 0.224
    with pytest.raises(ValueError, match="no known white"):
        transform(Image.fromarray(deep.astype(np.float32)))


@pytest.mark.parametrize("shape", [(4, 30, 30), (30, 30, 3), (2, 6, 30, 30), (3, 0, 30)])
def test_tensors_of_other_channels_or_without_pixels_are_named(shape):
    transform = ImageClassification(crop_size=8, resize_size=8)
    with pytest.raises(ValueError, match=r"must be \(\.\.\., 3, H, W\), or"):
        transform(torch.zeros(shape))
    with pytest.raises(torch.jit.Error, match=r"must be \(\.\.\., 3, H, W\), or"):
        torch.jit.script(transform)(torch.zeros(shape))


def test_a_grey_tensor_is_what_a_grey_picture_is():
    image = picture(300, 260).convert("L")
    transform = ImageClassification(crop_size=224)
    grey = pil_to_tensor(image)
    assert torch.equal(transform(grey), transform(grey.expand(3, -1, -1)))
    assert (transform(grey) - transform(image)).abs().max() <= 2 / 255 / 0.224
