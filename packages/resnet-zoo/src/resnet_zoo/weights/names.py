"""The published ImageNet weights: addresses, hashes, accuracies, preprocessing.

The entries have torchvision's names, and point to the same files at download.pytorch.org. Accuracy,
GMACs and recipes are upstream's (top-1 and top-5 on the ImageNet-1K validation set).
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from ..pictures.transforms import ImageClassification
from .cache import Remote, fetch
from .checkpoint import read_state_dict

BASE = "https://download.pytorch.org/models"
LICENCE_NOTE = (
    "published by torchvision (BSD-3-Clause code); trained on ImageNet-1K, whose terms of access "
    "allow non-commercial research and education: judge for yourself what holds for the weights"
)


@cache
def imagenet_categories() -> tuple[str, ...]:
    """The 1000 ImageNet-1K class names, in the order of the outputs.

    The wording is that of torchvision's models/_meta.py (BSD-3-Clause, Copyright (c) Soumith
    Chintala 2016; see NOTICE).
    """
    text = resources.files(__package__).joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


@dataclass(frozen=True)
class Weights:
    """One published weight file."""

    model: str
    sha256: str  # the first 8 hex digits, which upstream puts into the file name
    resize_size: int
    acc1: float
    acc5: float
    num_params: int
    gmacs: float
    megabytes: float  # upstream's file size, MiB
    recipe: str

    @property
    def file_name(self) -> str:
        return f"{self.model}-{self.sha256}.pth"


_TABLE = """
model             sha256  resize  top-1  top-5 parameters   GMAC     MiB recipe
resnet18          f37072fd 256 69.758 89.078  11689512  1.814  44.661 reference#resnet
resnet34          b627a593 256 73.314 91.420  21797672  3.664  83.275 reference#resnet
resnet50          0676ba61 256 76.130 92.862  25557032  4.089  97.781 reference#resnet
resnet50          11ad3fa6 232 80.858 95.434  25557032  4.089  97.790 3995#issuecomment-1013906621
resnet101         63fe2227 256 77.374 93.546  44549160  7.801 170.511 reference#resnet
resnet101         cd907fc2 232 81.886 95.780  44549160  7.801 170.530 3995#new-recipe
resnet152         394f9c45 256 78.312 94.046  60192808 11.514 230.434 reference#resnet
resnet152         f82ba261 232 82.284 96.002  60192808 11.514 230.474 3995#new-recipe
resnext50_32x4d   7cdf4587 256 77.618 93.698  25028904  4.230  95.789 reference#resnext
resnext50_32x4d   1a0047aa 232 81.198 95.340  25028904  4.230  95.833 3995#new-recipe
resnext101_32x8d  8ba56ff5 256 79.312 94.526  88791336 16.414 339.586 reference#resnext
resnext101_32x8d  110c445d 232 82.834 96.228  88791336 16.414 339.673 3995#new-recipe-with-fixres
resnext101_64x4d  173b62eb 232 83.246 96.454  83455272 15.460 319.318 5935
wide_resnet50_2   95faca4d 256 78.468 94.086  68883240 11.398 131.820 912#issue-445437439
wide_resnet50_2   9ba9bcbe 232 81.602 95.758  68883240 11.398 263.124 3995#new-recipe-with-fixres
wide_resnet101_2  32ee1156 256 78.848 94.284 126886696 22.753 242.896 912#issue-445437439
wide_resnet101_2  d733dc28 232 82.510 96.020 126886696 22.753 484.747 3995#new-recipe
"""
_UPSTREAM = "https://github.com/pytorch/vision/"
_RECIPES = {  # the part of the table's last column before "#"
    "reference": "tree/main/references/classification",
    "3995": "issues/3995",
    "5935": "pull/5935",
    "912": "pull/912",
}


def _row(line: str) -> Weights:
    model, sha256, resize, acc1, acc5, parameters, gmacs, megabytes, recipe = line.split()
    page, _, place = recipe.partition("#")
    return Weights(
        model,
        sha256,
        int(resize),
        float(acc1),
        float(acc5),
        int(parameters),
        float(gmacs),
        float(megabytes),
        _UPSTREAM + _RECIPES[page] + (f"#{place}" if place else ""),
    )


_PUBLISHED = {row.sha256: row for row in map(_row, _TABLE.strip().splitlines()[1:])}


class WeightsEnum(enum.Enum):
    """Base of the weight entries; `value` is a Weights record."""

    @property
    def url(self) -> str:
        """Where the file is: upstream, or below RESNET_ZOO_MIRROR."""
        base = os.environ.get("RESNET_ZOO_MIRROR") or BASE
        return f"{base.rstrip('/')}/{self.value.file_name}"

    @property
    def meta(self) -> dict[str, Any]:
        """Classes, accuracy, size, cost, recipe and licence note, under torchvision's keys."""
        record = self.value
        return {
            "categories": list(imagenet_categories()),
            "num_params": record.num_params,
            "min_size": (1, 1),
            "recipe": record.recipe,
            "_metrics": {"ImageNet-1K": {"acc@1": record.acc1, "acc@5": record.acc5}},
            "_ops": record.gmacs,
            "_file_size": record.megabytes,
            "licence": LICENCE_NOTE,
        }

    def transforms(self, **changes: Any) -> ImageClassification:
        """The preprocessing these weights were evaluated with; `crop_size=` etc. change it."""
        arguments = {"crop_size": 224, "resize_size": self.value.resize_size, **changes}
        return ImageClassification(**arguments)

    def remote(self) -> Remote:
        """The file's address, its name in the cache and the known digits of its SHA-256."""
        return Remote(self.url, self.value.file_name, self.value.sha256)

    def path(self, *, progress: bool = True, offline: bool | None = None) -> Path:
        """Verified local file, downloaded if need be. Raises WeightsError."""
        return fetch(self.remote(), progress=progress, offline=offline)

    def get_state_dict(
        self, *, progress: bool = True, check_hash: bool = True, offline: bool | None = None
    ) -> dict[str, Tensor]:
        """The tensors, on the CPU. Raises WeightsError.

        `check_hash` is torchvision's; the hash is always checked here, whatever it says.
        """
        return read_state_dict(self.path(progress=progress, offline=offline))

    @classmethod
    def verify(cls, entry: Any) -> WeightsEnum | None:
        """`entry` itself, or the entry of that name. Raises TypeError or ValueError."""
        if entry is None or isinstance(entry, cls):
            return entry
        if isinstance(entry, str):
            name = entry.removeprefix(cls.__name__ + ".")
            if name in cls.__members__:
                return cls[name]
            names = ", ".join(cls.__members__)
            raise ValueError(f"{cls.__name__}: there is no entry {entry!r}; there are {names}")
        raise TypeError(
            f"{cls.__name__}.verify: entry must be one of it or its name, got {entry!r}"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


class ResNet18_Weights(WeightsEnum):
    IMAGENET1K_V1 = _PUBLISHED["f37072fd"]
    DEFAULT = IMAGENET1K_V1


class ResNet34_Weights(WeightsEnum):
    IMAGENET1K_V1 = _PUBLISHED["b627a593"]
    DEFAULT = IMAGENET1K_V1


class ResNet50_Weights(WeightsEnum):
    IMAGENET1K_V1 = _PUBLISHED["0676ba61"]
    IMAGENET1K_V2 = _PUBLISHED["11ad3fa6"]
    DEFAULT = IMAGENET1K_V2


class ResNet101_Weights(WeightsEnum):
    IMAGENET1K_V1 = _PUBLISHED["63fe2227"]
    IMAGENET1K_V2 = _PUBLISHED["cd907fc2"]
    DEFAULT = IMAGENET1K_V2


class ResNet152_Weights(WeightsEnum):
    IMAGENET1K_V1 = _PUBLISHED["394f9c45"]
    IMAGENET1K_V2 = _PUBLISHED["f82ba261"]
    DEFAULT = IMAGENET1K_V2


class ResNeXt50_32X4D_Weights(WeightsEnum):
    IMAGENET1K_V1 = _PUBLISHED["7cdf4587"]
    IMAGENET1K_V2 = _PUBLISHED["1a0047aa"]
    DEFAULT = IMAGENET1K_V2


class ResNeXt101_32X8D_Weights(WeightsEnum):
    IMAGENET1K_V1 = _PUBLISHED["8ba56ff5"]
    IMAGENET1K_V2 = _PUBLISHED["110c445d"]
    DEFAULT = IMAGENET1K_V2


class ResNeXt101_64X4D_Weights(WeightsEnum):
    IMAGENET1K_V1 = _PUBLISHED["173b62eb"]
    DEFAULT = IMAGENET1K_V1


class Wide_ResNet50_2_Weights(WeightsEnum):
    IMAGENET1K_V1 = _PUBLISHED["95faca4d"]
    IMAGENET1K_V2 = _PUBLISHED["9ba9bcbe"]
    DEFAULT = IMAGENET1K_V2


class Wide_ResNet101_2_Weights(WeightsEnum):
    IMAGENET1K_V1 = _PUBLISHED["32ee1156"]
    IMAGENET1K_V2 = _PUBLISHED["d733dc28"]
    DEFAULT = IMAGENET1K_V2


WEIGHTS: dict[str, type[WeightsEnum]] = {
    "resnet18": ResNet18_Weights,
    "resnet34": ResNet34_Weights,
    "resnet50": ResNet50_Weights,
    "resnet101": ResNet101_Weights,
    "resnet152": ResNet152_Weights,
    "resnext50_32x4d": ResNeXt50_32X4D_Weights,
    "resnext101_32x8d": ResNeXt101_32X8D_Weights,
    "resnext101_64x4d": ResNeXt101_64X4D_Weights,
    "wide_resnet50_2": Wide_ResNet50_2_Weights,
    "wide_resnet101_2": Wide_ResNet101_2_Weights,
}


def published(file_name: str = "", sha256: str = "") -> WeightsEnum | None:
    """The entry whose file has this name, or this full SHA-256; None if there is none."""
    for kind in WEIGHTS.values():
        for entry in kind:
            record = entry.value
            if record.file_name == file_name or (sha256 and sha256.startswith(record.sha256)):
                return entry
    return None
