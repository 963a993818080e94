"""Where weights come from: a published entry, its name, a file, an address, a Hugging Face repo.

`resolve` turns what a user writes after `weights=` into a `Source`, which knows the file, the
classes and the preprocessing. Nothing is downloaded before `Source.path` is called.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..pictures.transforms import ImageClassification
from .cache import Remote, WeightsError, cache_dir, fetch
from .checkpoint import SUFFIXES, read_metadata
from .names import WEIGHTS, WeightsEnum

_REPO = re.compile(r"(?:hf:|hf-hub:)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)\Z")
HUB = "https://huggingface.co"


@dataclass
class Source:
    """One set of weights: `label` for messages. A model keeps its source, so it can be pickled."""

    label: str
    offline: bool | None = None
    progress: bool = True

    def remote(self) -> Remote | None:
        """Where the file comes from and what is known of it; None for a file of the user's own."""
        return Remote.from_url(self.label)

    def location(self) -> Path:
        """Where the file is, or would be once downloaded."""
        return cache_dir() / self.remote().name

    def path(self) -> Path:
        """The verified local file, fetched if need be. Raises WeightsError."""
        return fetch(self.remote(), offline=self.offline, progress=self.progress)

    def describe(self) -> dict[str, Any]:
        """What is known beside the tensors: "categories", "transforms", "model"."""
        return read_metadata(self.path())

    def categories(self) -> list[str] | None:
        """Class names in the order of the outputs, or None if the source does not say."""
        names = self.describe().get("categories")
        return list(names) if names else None

    def transforms(self) -> ImageClassification:
        """The preprocessing of the weights; the 256/224 preset where the source does not say."""
        stored = self.describe().get("transforms")
        return ImageClassification(**stored) if stored else ImageClassification(crop_size=224)


@dataclass
class FileSource(Source):
    """A file on this machine, named by `label`."""

    def remote(self) -> None:
        return None

    def location(self) -> Path:
        return Path(self.label)

    path = location


@dataclass
class EntrySource(Source):
    """A published entry."""

    entry: WeightsEnum | None = None

    def remote(self) -> Remote:
        return self.entry.remote()

    def describe(self) -> dict[str, Any]:
        return {
            "categories": self.entry.meta["categories"],
            "transforms": self.entry.transforms().to_dict(),
            "model": self.entry.value.model,
        }


@dataclass
class HubSource(Source):
    """A Hugging Face repo in timm's layout: model.safetensors beside config.json, revision main."""

    repo: str = ""

    def remote(self, name: str = "model.safetensors") -> Remote:
        base = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
        stem = self.repo.replace("/", "--")
        return Remote(f"{base}/{self.repo}/resolve/main/{name}", f"{stem}--{name}")

    def describe(self) -> dict[str, Any]:
        card = fetch(self.remote("config.json"), offline=self.offline, progress=False)
        try:
            config = json.loads(card.read_text(encoding="utf-8"))
        except ValueError as error:
            raise WeightsError(
                f"weights: config.json of {self.repo} is not JSON: {error}"
            ) from error
        return _from_timm_config(config)


def resolve(
    weights: Any, model: str | None = None, *, offline: bool | None = None, progress: bool = True
) -> Source:
    """Source of `weights`, which may be an entry, its name, a path, an address or a repo id.

    Args:
        weights: `ResNet50_Weights.IMAGENET1K_V2`, "IMAGENET1K_V2" or "DEFAULT" (with `model`),
            "ResNet50_Weights.IMAGENET1K_V2", a .safetensors/.pth file, an https address, or
            "owner/name" on the Hugging Face hub ("hf:owner/name" to be explicit).
        model: name of the model that will take the weights; checked against entries.
        offline, progress: passed to the cache.

    Raises TypeError or ValueError for an entry of another model or an unknown name, WeightsError
    for a file that is not there.
    """
    if isinstance(weights, (str, os.PathLike)):
        text = os.fspath(weights)
        if Path(text).is_file():
            return FileSource(text, offline, progress)
        if text.startswith(("https://", "http://")):
            return Source(text, offline, progress)
        if text.endswith(SUFFIXES):
            raise WeightsError(f"weights: there is no file {text}")
        if match := _REPO.match(text):
            return HubSource(f"hf:{match.group(1)}", offline, progress, match.group(1))
        weights = _entry_named(text, model)
    if not isinstance(weights, WeightsEnum):
        raise TypeError(
            "weights must be an entry, a name, a path, an address or a Hugging Face repo, "
            f"got {weights!r}"
        )
    if model is not None and not isinstance(weights, WEIGHTS[model]):
        raise TypeError(f"{model}: weights must be of {WEIGHTS[model].__name__}, got {weights}")
    return EntrySource(str(weights), offline, progress, weights)


def _entry_named(text: str, model: str | None) -> WeightsEnum:
    enum_name, dot, _ = text.partition(".")
    if dot:
        for kind in WEIGHTS.values():
            if kind.__name__ == enum_name:
                return kind.verify(text)
    elif model is not None:
        return WEIGHTS[model].verify(text)
    raise ValueError(
        f"weights: {text!r} is neither a file, an address, a repo (owner/name) nor an entry such "
        "as ResNet50_Weights.IMAGENET1K_V2"
    )


def _from_timm_config(config: dict[str, Any]) -> dict[str, Any]:
    """timm's pretrained_cfg in our terms: the crop fraction becomes the resize length."""
    card = {**config, **config.get("pretrained_cfg", {})}
    channels, side, _ = card.get("test_input_size") or card.get("input_size") or (3, 224, 224)
    fraction = card.get("test_crop_pct") or card.get("crop_pct") or 0.875
    described: dict[str, Any] = {
        "model": card.get("architecture"),
        "transforms": {
            "crop_size": side,
            "resize_size": int(side / fraction),
            "mean": card.get("mean", (0.485, 0.456, 0.406))[:channels],
            "std": card.get("std", (0.229, 0.224, 0.225))[:channels],
            "interpolation": card.get("interpolation", "bilinear"),
        },
    }
    if names := card.get("label_names"):
        described["categories"] = names
    elif card.get("num_classes") == 1000:
        described["categories"] = WEIGHTS["resnet50"]["IMAGENET1K_V1"].meta["categories"]
    return described
