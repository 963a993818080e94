"""All choices of a training run in one record, and presets for the usual cases.

"imagenet" follows the ingredients of Wightman et al., "ResNet strikes back" (arXiv 2110.00476) and
of torchvision's newer recipe: long cosine, label smoothing, mixup and cutmix, averaged weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..models.variants import ALL

OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass
class Recipe:
    """What to train and how. Lengths are in epochs; `lr` is for the whole batch of one step."""

    model: str = "resnet50"
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None  # start from these (fine-tuning)
    freeze: int = -1  # stages that do not learn: see ResNet.freeze
    epochs: int = 100
    batch_size: int = 128  # of one process and one forward
    accumulate: int = 1  # forwards for each step of the optimizer
    optimizer: str = "sgd"
    lr: float = 0.5
    head_lr: float = 1.0  # factor for the classifier (fine-tuning)
    momentum: float = 0.9
    weight_decay: float = 2e-5  # not applied to norms and biases
    warmup_epochs: float = 5.0
    label_smoothing: float = 0.1
    mixup: float = 0.0  # alpha of the Beta distribution; 0 is off
    cutmix: float = 0.0
    ema: float = 0.0  # decay of the averaged weights; 0 is off
    clip_norm: float = 0.0
    precision: str = "float32"
    channels_last: bool = True
    # augmentation
    crop_size: int = 224
    resize_size: int = 256  # for evaluation
    crop_scale: tuple[float, float] = (0.08, 1.0)  # area of the random crop (folders)
    flip: bool = True
    trivial_augment: bool = False  # arXiv 2103.10158 (folders)
    rotate: float = 0.0  # degrees (arrays)
    translate: float = 0.0  # share of the side (arrays)
    zoom: float = 0.0  # relative change of size (arrays)
    erase: float = 0.0  # probability of random erasing
    # machinery
    seed: int = 0
    workers: int = 4
    checkpoint_steps: int = 0  # save inside an epoch too, every so many steps
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, (kinds, good, demand) in _DEMANDS.items():
            value = getattr(self, name)
            right = isinstance(value, kinds) and (isinstance(value, bool) <= (bool in kinds))
            finite = not isinstance(value, float) or math.isfinite(value)
            if not (right and finite and good(value)):
                error = ValueError if right else TypeError
                raise error(f"Recipe: {name} must be {demand}, got {value!r}")
        self.crop_scale = tuple(self.crop_scale)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        plain = dataclasses.asdict(self)
        plain["crop_scale"] = list(self.crop_scale)
        return plain

    @staticmethod
    def preset(name: str, **changes: Any) -> Recipe:
        """One of PRESETS with changes. Raises ValueError, TypeError, naming what is wrong."""
        if name not in PRESETS:
            raise ValueError(f"Recipe.preset: there is no {name!r}; there are {', '.join(PRESETS)}")
        if unknown := [key for key in changes if key not in Recipe.__dataclass_fields__]:
            names = ", ".join(Recipe.__dataclass_fields__)
            raise TypeError(f"Recipe: there is no setting {unknown[0]!r}; there are {names}")
        return Recipe(**{**PRESETS[name], **changes})


_WHOLE, _REAL, _TEXT, _FLAG = (int,), (int, float), (str,), (bool,)


def _within(low: float, high: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: low <= value <= high


def _below(high: float) -> Callable[[Any], bool]:
    return lambda value: 0 <= value < high


def _is_crop_scale(value: Any) -> bool:
    numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in value]
    return len(value) == 2 and all(numbers) and 0 < value[0] <= value[1] <= 1


# Of each setting: its kinds, what must hold, and how that is said.
_DEMANDS: dict[str, tuple[tuple[type, ...], Callable[[Any], bool], str]] = {
    "model": (_TEXT, lambda v: v.lower() in ALL, "the name of a model (resnet-zoo list)"),
    "model_args": ((dict,), lambda v: True, 'keywords of the model, e.g. {"stem": "small"}'),
    "weights": ((str, type(None)), lambda v: v != "", "an entry, file, address or repo, or null"),
    "freeze": (_WHOLE, _within(-1, 4), "a whole number from -1 to 4"),
    "epochs": (_WHOLE, _within(1), "a whole number of at least 1"),
    "batch_size": (_WHOLE, _within(2), "a whole number of at least 2 (norms need two samples)"),
    "accumulate": (_WHOLE, _within(1), "a whole number of at least 1"),
    "optimizer": (_TEXT, lambda v: v in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
    "lr": (_REAL, lambda v: v > 0, "positive"),
    "head_lr": (_REAL, _within(0), "at least 0"),
    "momentum": (_REAL, _below(1), "in [0, 1)"),
    "weight_decay": (_REAL, _within(0), "at least 0"),
    "warmup_epochs": (_REAL, _within(0), "at least 0"),
    "label_smoothing": (_REAL, _below(1), "in [0, 1)"),
    "mixup": (_REAL, _within(0), "at least 0"),
    "cutmix": (_REAL, _within(0), "at least 0"),
    "ema": (_REAL, _below(1), "in [0, 1)"),
    "clip_norm": (_REAL, _within(0), "at least 0"),
    "precision": (_TEXT, lambda v: v in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
    "channels_last": (_FLAG, lambda v: True, "true or false"),
    "crop_size": (_WHOLE, _within(8), "a whole number of at least 8"),
    "resize_size": (_WHOLE, _within(8), "a whole number of at least 8"),
    "crop_scale": ((list, tuple), _is_crop_scale, "two numbers, 0 < low <= high <= 1"),
    "flip": (_FLAG, lambda v: True, "true or false"),
    "trivial_augment": (_FLAG, lambda v: True, "true or false"),
    "rotate": (_REAL, _within(0, 180), "in [0, 180] degrees"),
    "translate": (_REAL, _within(0, 1), "in [0, 1]"),
    "zoom": (_REAL, _below(1), "in [0, 1)"),
    "erase": (_REAL, _within(0, 1), "in [0, 1]"),
    "seed": (_WHOLE, lambda v: True, "a whole number"),
    "workers": (_WHOLE, _within(0), "a whole number of at least 0"),
    "checkpoint_steps": (_WHOLE, _within(0), "a whole number of at least 0"),
    "tensorboard": (_FLAG, lambda v: True, "true or false"),
}

PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {
        "epochs": 300,
        "mixup": 0.2,
        "cutmix": 1.0,
        "ema": 0.9998,
        "trivial_augment": True,
        "erase": 0.1,
        "crop_size": 176,
        "resize_size": 232,
    },
    "finetune": {
        "epochs": 20,
        "batch_size": 32,
        "lr": 0.01,
        "head_lr": 10.0,
        "warmup_epochs": 1.0,
        "weight_decay": 1e-4,
        "crop_scale": (0.25, 1.0),
        "ema": 0.99,
    },
    # digits, letters and other tiny pictures without a mirror image
    "small": {
        "model": "resnet18",
        "model_args": {"stem": "small", "planes": 32},
        "epochs": 30,
        "batch_size": 64,
        "lr": 0.05,
        "weight_decay": 5e-4,
        "warmup_epochs": 2.0,
        "ema": 0.99,
        "flip": False,
        "rotate": 10.0,
        "translate": 0.08,
        "zoom": 0.1,
    },
}
