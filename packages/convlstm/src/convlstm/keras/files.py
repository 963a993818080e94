"""Keras' model and weight files, read from their bytes and written with h5py: no Keras, no
TensorFlow.

Read: `.keras` (Keras 3, and TensorFlow from 2.12 on), `.weights.h5`, and legacy `.h5` of Keras 2
and 3, with or without a model in it. Written: the same three, as Keras 3 writes them. A file may
come from a stranger: see hdf5.py for what is refused.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from .._files import replacing, system_error
from .h5 import MAX_RATIO, MAX_TEXT_BYTES, Reader, Tree, h5py

# The Keras whose files these functions write like.
KERAS_VERSION = "3.15.1"


@dataclass
class KerasLayer:
    """One layer of a file: Keras' class, its configuration and its weights in the file's order."""

    class_name: str
    name: str
    config: dict[str, Any]
    weights: list[np.ndarray] = field(default_factory=list)


@dataclass
class KerasFile:
    """What a file holds. `layers` are the outermost, in model order; a weights file has names and
    arrays only, and no config. Weights are a `tree` (Keras 3) or `lists` by layer name (legacy)."""

    keras_version: str
    config: dict[str, Any] | None
    tree: Tree | None = None
    lists: dict[str, list[np.ndarray]] = field(default_factory=dict)

    @property
    def layers(self) -> list[KerasLayer]:
        if self.config is None:
            return self._bare_layers()
        entries = _entries(self.config)
        found = [
            KerasLayer(e["class_name"], e["config"].get("name", ""), dict(e["config"]))
            for e in entries
            if e["class_name"] != "InputLayer"
        ]
        if self.tree is None:
            for layer in found:
                layer.weights = self.lists.get(layer.name, [])
        else:
            groups = {name: flat_arrays(t) for name, t in _groups(self.tree).items()}
            by_class: dict[str, list[list[np.ndarray]]] = {}
            for name in sorted(groups, key=_by_number):
                by_class.setdefault(_class_of(name), []).append(groups[name])
            for layer in found:
                left = by_class.get(layer.class_name, [])
                layer.weights = left.pop(0) if left else []
        return found

    def _bare_layers(self) -> list[KerasLayer]:
        if self.tree is None:
            return [KerasLayer(_class_of(n), n, {}, a) for n, a in self.lists.items() if a]
        groups = _groups(self.tree)
        return [
            KerasLayer(_class_of(n), groups[n].name or n, {}, flat_arrays(groups[n]))
            for n in sorted(groups, key=_by_number)
        ]

    @property
    def input_shape(self) -> tuple[int | None, ...] | None:
        for entry in _entries(self.config) if self.config else ():
            c = entry["config"]
            shape = c.get("batch_shape", c.get("batch_input_shape"))
            if shape is not None:
                return tuple(shape)
        return None


def _entries(config: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    inner = config["config"]
    return inner["layers"] if isinstance(inner, Mapping) else inner


def _groups(tree: Tree) -> dict[str, Tree]:
    for name in ("layers", "_layer_checkpoint_dependencies"):
        if name in tree.children:
            return tree.children[name].children
    return {}


def flat_arrays(tree: Tree) -> list[np.ndarray]:
    """All weights below a group: those of the cell or the inner layers, then its own."""
    inner = [
        array
        for name in ("cell", "layer", "forward_layer", "backward_layer")
        if name in tree.children
        for array in flat_arrays(tree.children[name])
    ]
    return inner + tree.arrays


def _by_number(group: str) -> tuple[str, int]:
    stem, _, number = group.rpartition("_")
    return (stem, int(number)) if number.isdigit() and stem else (group, 0)


def _class_of(name: str) -> str:
    """The class that a group or a layer of a weights file is called after."""
    from .registry import REGISTRY
    from .weights import snake

    stem = re.sub(r"_\d+$", "", name).replace("_", "")
    return {snake(c).replace("_", ""): c for c in REGISTRY}.get(stem, stem)


# Reading


def read_keras(path: str | os.PathLike[str]) -> KerasFile:
    """Reads a `.keras`, `.weights.h5` or legacy `.h5` file.

    Raises OSError for a file that cannot be opened or read, and ValueError for one that is none of
    these, is damaged, points outside itself, or asks for far more memory than it has bytes.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(_folder(path))
    if not path.is_file():
        raise FileNotFoundError(f"read_keras: there is no file {path}")
    try:
        if zipfile.is_zipfile(path):
            return _read_archive(path)
        with open(path, "rb") as file:
            return _read_hdf5(Reader(file))
    except (
        OSError, KeyError, zipfile.BadZipFile, json.JSONDecodeError, TypeError, ValueError,
        RuntimeError, NotImplementedError, RecursionError, AttributeError, OverflowError,
        MemoryError, UnicodeError, EOFError,
    ) as error:  # fmt: skip
        if system := system_error(error, path):
            raise system from error
        told = "or not enough memory" if isinstance(error, MemoryError) else error
        raise ValueError(f"read_keras: {path} is no Keras file, or damaged: {told}") from error


def _folder(path: Path) -> str:
    if (path / "saved_model.pb").exists():
        return (
            f"read_keras: {path} is a SavedModel of TensorFlow: a graph of operations without "
            "layers. Load it where TensorFlow 2.15 or older is installed and save it again: "
            f"tf.keras.models.load_model({str(path)!r}).save('model.keras')"
        )
    return f"read_keras: {path} is a folder, not a Keras file"


def _read_archive(path: Path) -> KerasFile:
    """A zip of metadata.json, config.json and model.weights.h5."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        config = json.loads(_member(archive, "config.json", size, MAX_TEXT_BYTES))
        metadata = json.loads(_member(archive, "metadata.json", size, 1 << 20))
        data = _member(archive, "model.weights.h5", size, None)
    if not isinstance(config, dict) or not isinstance(metadata, dict):
        raise ValueError("config.json and metadata.json must be objects")
    reader = Reader(io.BytesIO(data))
    tree = reader.tree(reader.root)
    return KerasFile(str(metadata.get("keras_version", "3")), config, tree)


def _member(archive: zipfile.ZipFile, name: str, size: int, most: int | None) -> bytes:
    """The bytes of a member of an archive of `size` bytes. Raises ValueError where it unpacks to
    too many, before it is unpacked where it says so itself."""
    about = archive.getinfo(name)
    # zipfile bounds what it unpacks at a time for these two alone; Keras stores without compression
    if about.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that Keras does not write")
    packed = min(about.compress_size, size)
    bound = MAX_RATIO * packed
    bound = bound if most is None else min(most, bound)
    data = b""
    if about.file_size <= bound:
        with archive.open(about) as member:
            data = member.read(bound + 1)
    if about.file_size > bound or len(data) > bound:
        raise ValueError(f"{name} unpacks to more than {bound:,} bytes from {packed:,}")
    return data


def _read_hdf5(reader: Reader) -> KerasFile:
    root = reader.root
    names = {"layer_names", "layer_names0"} & set(root.attributes)
    if names or "model_weights" in root.members:
        return _read_legacy(reader)
    tree = reader.tree(root)
    if not _groups(tree):
        raise ValueError("the HDF5 file has neither layers nor layer_names")
    return KerasFile("3", None, tree)


def _read_legacy(reader: Reader) -> KerasFile:
    """Groups named after layers, each with `weight_names`: the paths of its arrays, in order."""
    file = reader.root
    root = file.member("model_weights") if "model_weights" in file.members else file
    version = reader.text(root, "keras_version") or reader.text(file, "keras_version") or "2"
    config_text = reader.text(file, "model_config")
    config = None if config_text is None else json.loads(config_text)
    lists = {}
    for name in reader.texts(root, "layer_names"):
        node = reader.item(root, name)
        paths = reader.texts(node, "weight_names")
        lists[name] = [reader.array(reader.item(node, p)) for p in paths]
    return KerasFile(version, config, None, lists)


# Writing


def write_file(
    path: str | os.PathLike[str], model: nn.Module, config: Mapping[str, Any] | None
) -> None:
    """Writes a model: by the ending of `path`, `.keras`, `.weights.h5` or `.h5`.

    config: as Keras 3 reads it; a weights file needs none. Raises ValueError for another ending.
    """
    text, module = str(path), h5py()
    if text.endswith(".weights.h5"):
        with replacing(path) as temporary, module.File(temporary, "w") as file:
            _write_tree(model, file)
    elif text.endswith(".h5"):
        with replacing(path) as temporary, module.File(temporary, "w") as file:
            _write_legacy(file, model, config)
    elif text.endswith(".keras"):
        weights = io.BytesIO()
        with module.File(weights, "w") as file:
            _write_tree(model, file)
        now = datetime.now().strftime("%Y-%m-%d@%H:%M:%S")
        metadata = {"keras_version": KERAS_VERSION, "date_saved": now}
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr("metadata.json", json.dumps(metadata))
            archive.writestr("config.json", json.dumps(config))
            archive.writestr("model.weights.h5", weights.getvalue())
    else:
        raise ValueError(f"write_keras: path must end in .keras, .weights.h5 or .h5, got {text}")


def _write_tree(
    module: nn.Module, group: Any, name: str = "", seen: set[int] | None = None
) -> None:
    from ..layers.cell import ConvLSTMBase
    from ..layers.stack import Bidirectional
    from .recurrent import TimeDistributed
    from .weights import children, exported_arrays, is_model, snake

    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    group.require_group("vars").attrs["name"] = name
    inner: list[tuple[str, nn.Module]] = []
    if is_model(module):
        counts: dict[str, int] = {}
        root = group.create_group("layers")
        for class_name, label, layer in children(module):
            stem = snake(class_name)
            number = counts[stem] = counts.get(stem, -1) + 1
            node = root.create_group(f"{stem}_{number}" if number else stem)
            _write_tree(layer, node, label, seen)
    elif isinstance(module, TimeDistributed):
        inner = [("layer", module.layer)]
    elif isinstance(module, Bidirectional):
        inner = [
            ("forward_layer", module.forward_layer),
            ("backward_layer", module.backward_layer),
        ]
    else:
        holder = group["vars"]
        if isinstance(module, ConvLSTMBase):
            holder = group.create_group("cell/vars")
            holder.attrs["name"] = "conv_lstm_cell"
        for k, array in enumerate(exported_arrays(module)):
            holder.create_dataset(str(k), data=array)
    for key, part in inner:
        _write_tree(part, group.create_group(key), key, seen)


def _write_legacy(file: Any, model: nn.Module, config: Mapping[str, Any] | None) -> None:
    from .weights import children, exported_arrays, legacy_slots

    file.attrs["backend"] = "torch"
    file.attrs["keras_version"] = KERAS_VERSION
    file.attrs["model_config"] = json.dumps(config).encode()
    root = file.create_group("model_weights")
    root.attrs["backend"] = "torch"
    root.attrs["keras_version"] = KERAS_VERSION
    layers = children(model)
    root.attrs["layer_names"] = np.array([name.encode() for _, name, _ in layers])
    root.create_group("top_level_model_weights").attrs["weight_names"] = np.array([], "S1")
    for _, name, layer in layers:
        node = root.create_group(name)
        found = legacy_slots(layer)
        paths = [f"{name}/{k}_{slot.name}" for k, slot in enumerate(found)]
        node.attrs["weight_names"] = np.array([p.encode() for p in paths] or [], "S")
        for path, array in zip(paths, exported_arrays(layer, found), strict=True):
            node.create_dataset(path, data=array)
