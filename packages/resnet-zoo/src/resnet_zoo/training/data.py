"""Pictures and labels for training: arrays in memory, or a folder with one sub-folder a class.

A source yields batches for a given list of indices; every random draw comes from (seed, epoch,
index), so a run that is resumed sees exactly the pictures it would have seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..pictures.images import SUFFIXES, images_below, open_image
from ..pictures.transforms import ImageClassification, pil_to_tensor
from .augment import augment_batch, random_resized_crop, trivial_augment
from .recipe import Recipe


def generator_for(*numbers: int) -> torch.Generator:
    """A generator whose stream depends on all of `numbers` (seed, epoch, step, ...)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = ((state ^ (number + 0x7F4A7C15)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state ^= state >> 31
    return torch.Generator().manual_seed(state & (2**63 - 1))


class ArraySource:
    """Pictures in memory.

    Args:
        images: uint8 (N, C, H, W) with C = 1 or 3.
        labels: int64 (N,), 0 <= label < len(categories).
        categories: class names; "0", "1", ... by default.
        mean, std: one number a channel, on the scale 0..1; measured from `images` by default.
            Give the training source's to the validation source.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        categories: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                "ArraySource: images must be uint8 (N, C, H, W) with 1 or 3 channels, got "
                f"{images.dtype} {tuple(images.shape)}"
            )
        if labels.shape != (len(images),) or labels.is_floating_point() or len(images) == 0:
            raise ValueError(
                f"ArraySource: labels must be {len(images)} integers (more than 0), got "
                f"{labels.dtype} {tuple(labels.shape)}"
            )
        names = categories or [str(i) for i in range(int(labels.max()) + 1)]
        if int(labels.min()) < 0 or int(labels.max()) >= len(names):
            raise ValueError(
                f"ArraySource: labels must be in [0, {len(names)}), got {int(labels.min())} to "
                f"{int(labels.max())}"
            )
        self.images, self.labels, self.categories = images, labels.long(), list(names)
        if mean is None or std is None:
            measured = _mean_and_std(images)
        self.mean = tuple(measured[0] if mean is None else mean)
        self.std = tuple(measured[1] if std is None else std)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    def transforms(self, recipe: Recipe) -> ImageClassification:
        """The preprocessing for pictures that the trained model will meet later."""
        height, width = self.images.shape[-2:]
        side = min(height, width)
        return ImageClassification(crop_size=side, resize_size=side, mean=self.mean, std=self.std)

    def batches(
        self, batches: Sequence[Sequence[int]], recipe: Recipe, epoch: int, train: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(images float (n, C, H, W), labels (n,)) for each list of indices."""
        mean = torch.tensor(self.mean, dtype=torch.float32).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32).view(-1, 1, 1)
        for chosen in batches:
            index = torch.as_tensor(chosen)
            images = (self.images[index].float() / 255 - mean) / std
            if train:
                generator = generator_for(recipe.seed, epoch, int(index[0]), len(index))
                images = augment_batch(images, recipe, generator)
            yield images, self.labels[index]


def _mean_and_std(images: Tensor, at_once: int = 256) -> tuple[list[float], list[float]]:
    """Of uint8 (N, C, H, W): mean and deviation of each channel on the scale 0..1.

    Counted in float64, a few pictures at once, so that little more than the pictures is held.
    """
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for part in images.split(at_once):
        scaled = part.double().div_(255)
        total += scaled.sum((0, 2, 3))
        squares += scaled.square_().sum((0, 2, 3))
    count = images.numel() // images.shape[1]
    mean = total / count
    variance = (squares - count * mean.square()).clamp(min=0) / max(count - 1, 1)
    return mean.float().tolist(), variance.sqrt().clamp(min=1e-3).float().tolist()


class FolderSource:
    """A folder with one sub-folder of images for each class, in alphabetical order.

    Hidden files and folders are left out.

    Args:
        folder: the root.
        categories: the classes that the sub-folders must be among (the training folder's, for
            validation); read from the folder by default.
    """

    channels = 3

    def __init__(self, folder: str | Path, categories: Sequence[str] | None = None) -> None:
        root = Path(folder)
        if not root.is_dir():
            raise ValueError(f"FolderSource: there is no folder {root}")
        found = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".")
        self.categories = list(categories) if categories else found
        if unknown := set(found) - set(self.categories):
            raise ValueError(
                f"FolderSource: {root} has classes that are unknown: {', '.join(sorted(unknown))}"
            )
        self.files: list[tuple[Path, int]] = [
            (path, label)
            for label, name in enumerate(self.categories)
            for path in images_below(root / name)
        ]
        if not self.files:
            raise ValueError(
                f"FolderSource: {root} has no images ({', '.join(SUFFIXES)}); the layout is "
                f"{root}/CLASS/*.jpg"
            )

    def __len__(self) -> int:
        return len(self.files)

    def transforms(self, recipe: Recipe) -> ImageClassification:
        """The preprocessing for evaluation."""
        crop = round(recipe.resize_size * 224 / 256) if recipe.crop_size < 224 else recipe.crop_size
        return ImageClassification(crop_size=crop, resize_size=recipe.resize_size)

    def batches(
        self, batches: Sequence[Sequence[int]], recipe: Recipe, epoch: int, train: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(images float (n, 3, S, S), labels (n,)) for each list of indices, decoded in workers.

        Raises ValueError, naming the file, for one that cannot be decoded.
        """
        samples = _FolderSamples(self.files, self.transforms(recipe), recipe, epoch, train)
        loader = DataLoader(
            samples,
            batch_sampler=list(batches),
            num_workers=recipe.workers,
            pin_memory=torch.cuda.is_available(),
        )
        try:
            yield from loader
        except ValueError as error:  # a worker's error comes with its traceback in the message
            told = str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
            raise ValueError(told) from error


class _FolderSamples(Dataset):
    def __init__(
        self,
        files: list[tuple[Path, int]],
        transform: ImageClassification,
        recipe: Recipe,
        epoch: int,
        train: bool,
    ) -> None:
        self.files, self.transform = files, transform
        self.recipe, self.epoch, self.train = recipe, epoch, train

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        image = open_image(path).convert("RGB")
        if not self.train:
            return self.transform(image), label
        recipe = self.recipe
        generator = generator_for(recipe.seed, self.epoch, int(index))
        image = random_resized_crop(image, recipe.crop_size, recipe.crop_scale, generator)
        if recipe.trivial_augment:
            image = trivial_augment(image, generator)
        mean = torch.tensor(self.transform.mean, dtype=torch.float32).view(-1, 1, 1)
        std = torch.tensor(self.transform.std, dtype=torch.float32).view(-1, 1, 1)
        tensor = (pil_to_tensor(image).float() / 255 - mean) / std
        return augment_batch(tensor[None], recipe, generator)[0], label


def open_source(path: str | Path, like: Any = None) -> ArraySource | FolderSource:
    """A source from a folder, a .safetensors or an .npz file with `images` and `labels`.

    `images` are uint8, (N, C, H, W), (N, H, W, C) or (N, H, W). `like` is the training source,
    whose classes and normalisation the validation source takes over.
    """
    path = Path(path)
    if path.is_dir():
        return FolderSource(path, like.categories if like else None)
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(
            f"open_source: {path} must be a folder, .safetensors or .npz with images and labels"
        )
    try:
        return _array_source(path, like)
    except Exception as error:  # of damaged files the libraries raise several kinds
        if isinstance(error, OSError) and error.filename:
            raise
        raise ValueError(f"open_source: {path} has no pictures with labels: {error}") from error


def _array_source(path: Path, like: Any) -> ArraySource:
    categories = None
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
            categories = json.loads((file.metadata() or {}).get("categories", "null"))
    else:
        import numpy as np

        with np.load(path, allow_pickle=False) as arrays:
            images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
            if "categories" in arrays:
                categories = [str(name) for name in arrays["categories"]]
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if like is None:
        return ArraySource(images.contiguous(), labels, categories)
    return ArraySource(images.contiguous(), labels, like.categories, like.mean, like.std)
