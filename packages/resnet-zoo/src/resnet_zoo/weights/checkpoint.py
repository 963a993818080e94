"""Reading weight files and putting them into a model.

Accepts safetensors, and .pth/.pt/.bin files through `torch.load(weights_only=True)` only, which
refuses files that carry code. Wrappers that training scripts add (`state_dict`, `model`, `ema`, the
prefixes `module.` and `_orig_mod.`) are taken off. The keys are those of torchvision and timm.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .cache import WeightsError

PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".tar")
SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
_WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model")
_PREFIXES = ("_orig_mod.", "module.")
_METADATA_KEY = "resnet_zoo"


@dataclass
class LoadReport:
    """What a load did: where the tensors came from and which entries did not come from there."""

    source: str
    loaded: int = 0
    reinitialized: list[str] = field(default_factory=list)
    summed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.loaded} entries from {self.source}"
        if self.reinitialized:
            text += f"; freshly initialised: {', '.join(self.reinitialized)}"
        if self.summed:
            text += f"; summed over the colour channels: {', '.join(self.summed)}"
        return text


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a weight file on the CPU, by key. Raises WeightsError with what is wrong."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"read_state_dict: there is no file {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _unwrap(_read_pickle(path), path)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What `save_weights` stored beside the tensors (model, classes, transforms); {} if nothing."""
    path = Path(path)
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY, "{}")
        metadata = json.loads(text)
    except (SafetensorError, OSError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def save_weights(
    model: nn.Module, path: str | Path, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a model's state dict as safetensors, aside and renamed, with JSON `metadata`."""
    path = Path(path)
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    header = {"format": "pt", _METADATA_KEY: json.dumps(dict(metadata or {}))}
    aside = path.with_name(path.name + ".tmp")
    save_file(tensors, aside, metadata=header)
    aside.replace(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"read_state_dict: {path} is not a sound safetensors file ({_looks_like(path)}): "
            f"{error}. Cure: fetch it again, or check that the whole file was copied"
        ) from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _looks_like(path) == "a web page":
            detail = "it is a web page, not a weight file. Cure: fetch it again"
        elif re.search("unsupported (global|class)", str(error), re.IGNORECASE):
            detail = (
                "it holds Python objects beside tensors, which could run code on this machine when "
                "loaded. Cure: use weights in safetensors, or have whoever made the file save "
                "only model.state_dict()"
            )
        else:
            detail = (
                f"it is damaged or not a weight file ({_looks_like(path)}). Cure: fetch it again"
            )
        raise WeightsError(f"read_state_dict: {path} was refused: {detail}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"read_state_dict: {path} is damaged or not a weight file ({_looks_like(path)}): "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}. "
            "Cure: fetch it again"
        ) from error


def _looks_like(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        return "an empty file"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself"
    if start.startswith(b"PK\x03\x04"):
        return "a zip archive as torch.save writes it"
    return f"{path.stat().st_size:,} bytes that begin with {start[:4].hex(' ')}"


def _unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    for name in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
            break
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(
            f"read_state_dict: {path} holds {type(loaded).__name__}, not a state dict"
        )
    wrong = [key for key, value in loaded.items() if not isinstance(value, Tensor)]
    if wrong:
        raise WeightsError(
            f"read_state_dict: {path} is not a state dict: {wrong[0]!r} is "
            f"{type(loaded[wrong[0]]).__name__}, not a tensor"
        )
    tensors = {str(key): value for key, value in loaded.items()}
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def load_into(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str, *, new_head: bool = False
) -> LoadReport:
    """Copy `tensors` into `model`, casting to its dtype; the keys and shapes must match.

    With `new_head`, `fc.*` of another shape (or absent) keeps its fresh initialisation. A `conv1`
    for RGB enters a grey model (in_channels=1) summed over the colours, which gives what the RGB
    model would say to a grey picture. Both are listed in the report. Raises WeightsError otherwise.
    """
    report = LoadReport(source)
    own = model.state_dict()
    tensors = dict(tensors)
    for key in [key for key in own if key.startswith("fc.")] if new_head else []:
        if key not in tensors or tensors[key].shape != own[key].shape:
            report.reinitialized.append(key)
            tensors[key] = own[key]
    stem = "conv1.weight"
    if stem in tensors and stem in own and own[stem].shape != tensors[stem].shape:
        summed = tensors[stem].sum(dim=1, keepdim=True)
        if tensors[stem].shape[1] == 3 and summed.shape == own[stem].shape:
            tensors[stem] = summed
            report.summed.append(stem)
    _refuse_mismatch(own, tensors, source)
    model.load_state_dict(tensors, strict=False)
    report.loaded = len(tensors) - len(report.reinitialized)
    if report.reinitialized:
        warnings.warn(
            f"resnet-zoo: the classifier ({', '.join(report.reinitialized)}) does not come from "
            f"{source} but is freshly initialised: train it before use",
            stacklevel=4,
        )
    return report


def _refuse_mismatch(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    # Files older than PyTorch 0.4.1 have no batch counters; the norm then starts at zero.
    counter = ".num_batches_tracked"
    missing = [key for key in own if key not in tensors and not key.endswith(counter)]
    unexpected = [key for key in tensors if key not in own]
    shapes = [
        f"{key}: {tuple(tensors[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    faults = [
        f"{len(keys)} {what}: {'; '.join(keys[:3])}{'; ...' if len(keys) > 3 else ''}"
        for what, keys in (
            ("keys missing", missing),
            ("keys unexpected", unexpected),
            ("of another shape", shapes),
        )
        if keys
    ]
    if faults:
        raise WeightsError(
            f"load_into: {source} does not fit this model ({' | '.join(faults)}). Cure: check the "
            "model's name and arguments; for another number of classes say num_classes="
        )
