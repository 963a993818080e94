"""All choices of a training run in one record, and presets for the usual cases.

"imagenet" follows the ingredients of Wightman et al., "ResNet strikes back" (arXiv 2110.00476) and
of torchvision's newer recipe: long cosine, label smoothing, mixup and cutmix, averaged weights.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

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
        self.crop_scale = tuple(self.crop_scale)
        checks = {
            "optimizer": (self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
            "precision": (self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 2, "at least 2 (norms need two samples)"),
            "accumulate": (self.accumulate >= 1, "at least 1"),
            "lr": (self.lr > 0, "positive"),
            "ema": (0 <= self.ema < 1, "in [0, 1)"),
            "erase": (0 <= self.erase <= 1, "in [0, 1]"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
        }
        for name, (good, demand) in checks.items():
            if not good:
                raise ValueError(f"Recipe: {name} must be {demand}, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        plain = dataclasses.asdict(self)
        plain["crop_scale"] = list(self.crop_scale)
        return plain

    @staticmethod
    def preset(name: str, **changes: Any) -> Recipe:
        """One of PRESETS with changes."""
        if name not in PRESETS:
            raise ValueError(f"Recipe.preset: there is no {name!r}; there are {', '.join(PRESETS)}")
        return Recipe(**{**PRESETS[name], **changes})


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
