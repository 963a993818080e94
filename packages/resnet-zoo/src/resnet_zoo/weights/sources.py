"""Where weights come from: a published entry, its name, a file, an address, a Hugging Face repo.

`resolve` turns what a user writes after `weights=` into a `Source`, which knows the file, the
classes and the preprocessing. Nothing is downloaded before `Source.path` is called.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..pictures.transforms import ImageClassification
from .cache import Remote, WeightsError, cache_dir, fetch, is_offline, sha256_of
from .cards import CONFIG, PREPROCESSOR, card_from, checked, read_json
from .checkpoint import SUFFIXES, read_metadata
from .hub import FILES, Repo
from .names import WEIGHTS, WeightsEnum, published

# Weight files of a folder, the best first: a snapshot's, a training run's.
_IN_FOLDER = (*FILES, "best.safetensors", "final.safetensors")
_STATE_DICT = " (a state dict; cure: load_state_dict on a fresh model)"
ASSUMED = {"crop_size": 224, "resize_size": 256}


@dataclass
class Source:
    """One set of weights: `label` for messages. A model keeps its source, so it can be pickled."""

    label: str
    offline: bool | None = None
    progress: bool = True
    _card: dict[str, Any] | None = field(default=None, init=False, compare=False, repr=False)

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
        """What is known beside the tensors: "categories", "transforms", "model"; read once.

        Raises WeightsError for values that are none of these.
        """
        if self._card is None:
            self._card = checked(self._describe(), self.label)
        return self._card

    def _describe(self) -> dict[str, Any]:
        path = self.path()
        own = read_metadata(path)
        return own if own.get("transforms") else {**self._beside(path), **own}

    def _beside(self, path: Path) -> dict[str, Any]:
        """What is known of a file that does not say itself how its pictures were prepared."""
        return _published_card(path, self.label)

    def categories(self) -> list[str] | None:
        """Class names in the order of the outputs, or None if the source does not say."""
        names = self.describe().get("categories")
        return list(names) if names else None

    def transforms(self, **changes: Any) -> ImageClassification:
        """The preprocessing of the weights; `crop_size=` etc. change it.

        Where the source does not say, the 256/224 preset is taken, with a warning that says so.
        """
        stored = self.describe().get("transforms")
        if not stored:
            warnings.warn(
                f"resnet-zoo: {self.label} does not say how its pictures were prepared; assumed: "
                "resize 256, crop 224, bilinear, ImageNet's mean and std",
                stacklevel=2,
            )
        return ImageClassification(**{**(stored or ASSUMED), **changes})


@dataclass
class FileSource(Source):
    """A file on this machine, named by `label`.

    What it is comes from its own metadata, from its name and hash if it is a published file, or
    from the config.json beside it; a warning says if that is of another model than `model`.
    """

    model: str | None = None

    def remote(self) -> None:
        return None

    def location(self) -> Path:
        return Path(self.label)

    path = location

    def _beside(self, path: Path) -> dict[str, Any]:
        return _published_card(path, self.label) or _card_beside(path, self.model)


@dataclass
class EntrySource(Source):
    """A published entry."""

    entry: WeightsEnum | None = None

    def remote(self) -> Remote:
        return self.entry.remote()

    def _describe(self) -> dict[str, Any]:
        return _card_of_entry(self.entry)


@dataclass
class HubSource(Source):
    """A Hugging Face repo: weights beside config.json, as timm and transformers lay them out."""

    repo: Repo = field(default_factory=lambda: Repo(""))

    def remote(self, name: str = FILES[0]) -> Remote:
        return self.repo.remote(name)

    def path(self) -> Path:
        for name in FILES:
            if kept := self._kept(name):
                return kept
        for name in FILES[:-1]:
            try:
                return self._fetch(name)
            except WeightsError as error:
                if is_offline(self.offline) or getattr(error.__cause__, "status", 0) != 404:
                    raise
        return self._fetch(FILES[-1])

    def _kept(self, name: str) -> Path | None:
        """A file that is here already; ours is verified again when it is fetched."""
        if found := self.repo.cached(name):
            return found
        return self._fetch(name) if (cache_dir() / self.remote(name).name).is_file() else None

    def _fetch(self, name: str, progress: bool | None = None) -> Path:
        progress = self.progress if progress is None else progress
        return fetch(self.remote(name), offline=self.offline, progress=progress)

    def _describe(self) -> dict[str, Any]:
        config = read_json(self._kept(CONFIG) or self._fetch(CONFIG, progress=False))
        preprocessor = None
        if "architecture" not in config and "pretrained_cfg" not in config:
            try:
                found = self._kept(PREPROCESSOR) or self._fetch(PREPROCESSOR, progress=False)
                preprocessor = read_json(found)
            except WeightsError as error:
                if getattr(error.__cause__, "status", 0) != 404:
                    raise
        return card_from(config, preprocessor)


def resolve(
    weights: Any, model: str | None = None, *, offline: bool | None = None, progress: bool = True
) -> Source:
    """Source of `weights`, which may be an entry, its name, a path, an address or a repo id.

    Args:
        weights: `ResNet50_Weights.IMAGENET1K_V2`, "IMAGENET1K_V2" or "DEFAULT" (with `model`),
            "ResNet50_Weights.IMAGENET1K_V2", a weight file, a folder with one, an https address, or
            a repo on the Hugging Face hub: "owner/name", "owner/name@revision",
            "hf:owner/name/sub/folder@revision".
        model: name of the model that will take the weights; checked against entries.
        offline, progress: passed to the cache.

    Raises TypeError or ValueError for an entry of another model or an unknown name, WeightsError
    for a file that is not there.
    """
    if isinstance(weights, (str, os.PathLike)):
        text = os.fsdecode(weights)
        if not text:  # Path("") would be the current folder
            raise ValueError("weights: the name is empty; say None for a fresh model")
        if Path(text).is_file():
            return FileSource(text, offline, progress, model=model)
        if Path(text).is_dir():
            return FileSource(str(_file_in(Path(text))), offline, progress, model=model)
        if text.startswith(("https://", "http://")):
            return Source(text, offline, progress)
        if text.lower().endswith(SUFFIXES):
            raise WeightsError(f"weights: there is no file {text}")
        if repo := Repo.parse(text):
            return HubSource(str(repo), offline, progress, repo)
        weights = _entry_named(text, model)
    if not isinstance(weights, WeightsEnum):
        raise TypeError(
            "resolve: weights must be an entry, a name, a path, an address or a Hugging Face repo, "
            f"got {weights!r:.80}" + _STATE_DICT * isinstance(weights, Mapping)
        )
    if model is not None and not isinstance(weights, WEIGHTS.get(model, ())):
        wanted = f"of {WEIGHTS[model].__name__}" if model in WEIGHTS else "a file or a repo"
        raise TypeError(f"{model}: weights must be {wanted}, got {weights}")
    return EntrySource(str(weights), offline, progress, weights)


def _entry_named(text: str, model: str | None) -> WeightsEnum:
    enum_name, dot, _ = text.partition(".")
    if dot:
        for kind in WEIGHTS.values():
            if kind.__name__ == enum_name:
                return kind.verify(text)
    elif model in WEIGHTS:
        return WEIGHTS[model].verify(text)
    elif model is not None:
        raise ValueError(
            f"{model}: weights must be a file, an address or a Hugging Face repo such as "
            f"timm/{model}.a1_in1k, got {text!r}: it has no published entries"
        )
    raise ValueError(
        f"weights: {text!r} is neither a file, an address, a repo (owner/name) nor an entry such "
        "as ResNet50_Weights.IMAGENET1K_V2"
    )


def _file_in(folder: Path) -> Path:
    """The weight file of a folder: a snapshot of a repo, a training run, or the only one."""
    for name in _IN_FOLDER:
        if (folder / name).is_file():
            return folder / name
    found = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if len(found) != 1:
        told = ", ".join(path.name for path in found[:4]) or "none"
        raise WeightsError(
            f"weights: {folder} is a folder; a weight file was expected in it ({_IN_FOLDER[0]}, or "
            f"one with {', '.join(SUFFIXES)}), found: {told}. Cure: name the file"
        )
    return found[0]


def _card_of_entry(entry: WeightsEnum) -> dict[str, Any]:
    return {
        "categories": entry.meta["categories"],
        "transforms": entry.transforms().to_dict(),
        "model": entry.value.model,
    }


def _published_card(path: Path, label: str) -> dict[str, Any]:
    """The card of a published file, wherever it lies: known by its name, or else by its hash."""
    digest = sha256_of(path)
    if (entry := published(sha256=digest)) is not None:
        return _card_of_entry(entry)
    if (entry := published(path.name)) is None:
        return {}
    warnings.warn(
        f"resnet-zoo: {label} has the name of {entry}, but its SHA-256 starts with {digest[:8]}: "
        f"it is damaged or was changed; the preprocessing and classes of {entry} are assumed",
        stacklevel=4,
    )
    return _card_of_entry(entry)


def _card_beside(path: Path, model: str | None) -> dict[str, Any]:
    """What config.json in the same folder says, if it is one that goes with these weights."""
    config, preprocessor = path.with_name(CONFIG), path.with_name(PREPROCESSOR)
    if not config.is_file():
        return {}
    try:
        content = read_json(config)
    except WeightsError as error:
        warnings.warn(f"resnet-zoo: {error}; it is not used", stacklevel=4)
        return {}
    card = card_from(content, read_json(preprocessor) if preprocessor.is_file() else None)
    if model is not None and card.get("model") in set(WEIGHTS) - {model}:
        told = f"{config} is of {card['model']}, not of {model}; its preprocessing is assumed"
        warnings.warn(f"resnet-zoo: {told}", stacklevel=4)
    return card
