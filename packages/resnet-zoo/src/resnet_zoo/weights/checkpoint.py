"""Weight files: read into tensors, and written.

Told by their content, not by their name: safetensors; what torch.save writes, through
`torch.load(weights_only=True)` only, which refuses files that carry code; torch's tars of 2017.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import pathlib
import pickle
import re
import struct
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..files import replacing, system_error
from .cache import WeightsError
from .keys import LoadReport, StateDict, load_into, unwrap
from .legacy_tar import is_legacy_tar, read_legacy_tar

__all__ = [
    "PICKLE_SUFFIXES",
    "SUFFIXES",
    "LoadReport",
    "load_into",
    "read_metadata",
    "read_state_dict",
    "save_weights",
]

PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt", ".pkl")
SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
_METADATA_KEY = "resnet_zoo"
# Inert classes that training scripts store beside the tensors.
_HARMLESS = (
    argparse.Namespace, types.SimpleNamespace, pathlib.PosixPath, pathlib.PurePosixPath,
    datetime.datetime, datetime.date, datetime.timedelta, datetime.timezone,
)  # fmt: skip
_AGAIN = "fetch it again"
# What a file may be that is no weight file: how it begins, what that is, the cure.
_OTHERS = (
    (b"<!doctype", "a web page", _AGAIN),
    (b"<html", "a web page", _AGAIN),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "git lfs pull"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it, and name the file inside"),
    (b"\x89hdf", "an HDF5 file, as Keras writes it", "take the repository's file for PyTorch"),
)


def read_state_dict(path: str | Path) -> StateDict:
    """Tensors of a weight file on the CPU, under the names of torchvision and timm.

    Raises WeightsError with what is wrong, OSError where the system does not let it be read.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"read_state_dict: there is no file {path}")
    if _is_safetensors(path):
        return unwrap(_read_safetensors(path), str(path))
    return unwrap(_read_pickle(path), str(path))


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What `save_weights` stored beside the tensors (model, classes, transforms); {} if nothing.

    Raises OSError for a file that is not there or cannot be opened.
    """
    if not _is_safetensors(Path(path)):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY, "{}")
        metadata = json.loads(text)
    except (SafetensorError, ValueError, RecursionError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def save_weights(
    model: nn.Module, path: str | Path, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a model's state dict as safetensors, aside and renamed, with JSON `metadata`.

    The network inside DataParallel, DistributedDataParallel and torch.compile is written under its
    own names.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in _inside(model).state_dict().items()
    }
    header = {"format": "pt", _METADATA_KEY: json.dumps(dict(metadata or {}))}
    with replacing(path) as aside:
        save_file(tensors, aside, metadata=header)


def _inside(model: nn.Module) -> nn.Module:
    """The network in DataParallel, AveragedModel, torch.compile and their like."""
    for name in ("_orig_mod", "module"):
        if isinstance(inner := getattr(model, name, None), nn.Module):
            return _inside(inner)
    return model


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a JSON header, then that header."""
    with open(path, "rb") as file:
        start = file.read(9)
    if len(start) < 9:
        return path.suffix == ".safetensors"
    (length,) = struct.unpack("<Q", start[:8])
    sound = start[8:] == b"{" and length <= path.stat().st_size
    zipped = start.startswith(b"PK\x03\x04")  # what torch.save writes, by any name
    return sound or (path.suffix == ".safetensors" and not zipped)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # of a damaged header the library raises several kinds
        if system := system_error(error, path):
            raise system from error
        what, _ = _looks_like(path)
        raise WeightsError(
            f"read_state_dict: {path} is not a sound safetensors file ({what}): "
            f"{error}. Cure: fetch it again, or check that the whole file was copied"
        ) from error


def _read_pickle(path: Path) -> Any:
    try:
        if is_legacy_tar(path):
            return read_legacy_tar(path)
        allowed = torch.serialization.safe_globals([*_HARMLESS, *_numpys()])
        with open(path, "rb") as file, allowed:  # of a path torch would judge the name
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickled bytes may call what is allowed in any wrong way
        if system := system_error(error, path):
            raise system from error
        if re.search("unsupported (global|class)|can only |TorchScript", str(error), re.IGNORECASE):
            told = f"was refused: {_carries_code(path)}"
        else:
            what, cure = _looks_like(path)
            lines = str(error).splitlines() or [type(error).__name__]
            # the unpickler's sentences are about its own settings
            reason = "" if isinstance(error, pickle.UnpicklingError) else f": {lines[0]}"
            told = f"is damaged or not a weight file ({what}){reason}. Cure: {cure}"
        raise WeightsError(f"read_state_dict: {path} {told}") from error


def _carries_code(path: Path) -> str:
    if _is_torchscript(path):
        return (
            "it is a TorchScript archive, which holds code beside tensors. Cure: where you trust "
            "it, torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    return (
        "it holds Python objects beside tensors, which could run code on this machine when "
        "loaded. Cure: use weights in safetensors, or have whoever made the file save "
        "only model.state_dict()"
    )


def _is_torchscript(path: Path) -> bool:
    try:
        reader = torch._C.PyTorchFileReader(str(path))
        return "constants.pkl" in reader.get_all_records()
    except RuntimeError:
        return False


def _numpys() -> list[Any]:
    """What numpy's numbers and arrays are pickled with: accuracies, losses, random states.

    Arrays of objects are not among them: a forged one holds addresses.
    """
    try:
        import numpy as np
    except ImportError:  # tensors alone are read without it
        return []
    kinds: list[Any] = [np.ndarray, np.dtype, *{type(np.dtype(c)) for c in "?bhilBHILefdUS"}]
    with contextlib.suppress(ImportError, AttributeError):
        for name, made in (("scalar", np.float64(0)), ("_reconstruct", np.zeros(1))):
            function = made.__reduce__()[0]
            kinds += [function, (function, f"numpy.core.multiarray.{name}")]
    return kinds


def _looks_like(path: Path) -> tuple[str, str]:
    """What a file that is no weight file seems to be, and the cure."""
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        return "an empty file", _AGAIN
    for begin, what, cure in _OTHERS:
        if start.lstrip().lower().startswith(begin):
            return what, cure
    with contextlib.suppress(zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        names = zipfile.ZipFile(path).namelist()
        if not any(name.endswith("data.pkl") for name in names):
            return f"a zip archive with {', '.join(names[:3])}", "name the weight file inside"
    if start.startswith(b"PK\x03\x04"):
        return "a zip archive as torch.save writes it", _AGAIN
    if start[:2] in (b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "a pickle that torch.save did not write", "torch.save(tensors, FILE)"
    if start[257:262] == b"ustar":
        return "a tar archive; torch.save wrote such files until 2017", _AGAIN
    return f"{path.stat().st_size:,} bytes that begin with {start[:4].hex(' ')}", _AGAIN
