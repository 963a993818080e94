"""Which array of a file belongs to which weight of a model, as Keras decides it.

Keras 3 (and TensorFlow's `.keras` since 2.12) writes a tree of groups: `layers/conv_lstm2d_1/cell/
vars/0`. A group is called after the class of its layer and numbered in the order of the model; the
layers' own names do not count. Legacy files have a flat list of arrays for each layer, under its
name, with all trainable weights before the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from ..layers.cell import ConvLSTMBase
from ..layers.stack import Bidirectional
from .base import Slot, slots
from .h5 import Tree
from .recurrent import TimeDistributed
from .registry import class_of

# hard_sigmoid of Keras 2 is clip(x / 5 + 1/2), of Keras 3 clip(x / 6 + 1/2).
KERAS_2_SLOPE = 6 / 5


def snake(class_name: str) -> str:
    """ConvLSTM2D as conv_lstm2d: the stem of Keras 3's groups."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", class_name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def children(module: nn.Module) -> list[tuple[str, str, nn.Module]]:
    """(class, name, layer) of a model's layers."""
    return [
        (class_of(layer), name, layer)
        for layer, name in zip(module.layers, module.names, strict=True)
    ]


def is_model(module: nn.Module) -> bool:
    return hasattr(module, "names") and hasattr(module, "layers")


def holds_arrays(tree: Tree) -> bool:
    """Whether a group has weights in it; the states of random generators are none."""
    return bool(tree.arrays) or any(
        holds_arrays(child) for name, child in tree.children.items() if name != "seed_generator"
    )


# Loading


def load_weights(model: nn.Module, file: Any) -> None:
    """Copies a file's weights into `model`. Raises ValueError where they do not fit it; then
    nothing is copied."""
    pairs: list[tuple[Slot, np.ndarray]] = []
    if file.tree is not None:
        _from_tree(model, file.tree, "", pairs, set())
    else:
        _from_lists(model, file.lists, pairs)
    for slot, array in pairs:
        if tuple(array.shape) != slot.shape():
            raise ValueError(
                f"load_keras_weights: {type(slot.owner).__name__}.{slot.name} must have shape "
                f"{slot.shape()} in Keras' layout, the file has {tuple(array.shape)}"
            )
    for slot, array in pairs:
        slot.write(array)


def _root(tree: Tree) -> Tree:
    for name in ("layers", "_layer_checkpoint_dependencies"):
        if name in tree.children:
            return tree.children[name]
    return Tree()


def _from_tree(module: nn.Module, tree: Tree, where: str, pairs: list, seen: set[int]) -> None:
    if id(module) in seen:
        return
    seen.add(id(module))
    if is_model(module):
        _from_groups(module, _root(tree), where, pairs, seen)
    elif isinstance(module, TimeDistributed):
        _from_tree(module.layer, tree.child("layer"), where, pairs, seen)
    elif isinstance(module, Bidirectional):
        _from_tree(module.forward_layer, tree.child("forward_layer"), where, pairs, seen)
        _from_tree(module.backward_layer, tree.child("backward_layer"), where, pairs, seen)
    else:
        holder = tree.child("cell") if isinstance(module, ConvLSTMBase) else tree
        _pair(slots(module), holder.arrays, where, pairs)


def _pair(wanted: Sequence[Slot], arrays: Sequence[np.ndarray], where: str, pairs: list) -> None:
    if len(wanted) != len(arrays):
        raise ValueError(
            f"load_keras_weights: {where} must have {len(wanted)} arrays, the file has "
            f"{len(arrays)}"
        )
    pairs += zip(wanted, arrays, strict=True)


def _by_number(group: str) -> tuple[str, int]:
    stem, _, number = group.rpartition("_")
    return (stem, int(number)) if number.isdigit() and stem else (group, 0)


def _from_groups(model: nn.Module, root: Tree, where: str, pairs: list, seen: set[int]) -> None:
    groups: dict[str, list[str]] = {}
    for group in sorted(root.children, key=_by_number):
        if holds_arrays(root.children[group]):
            groups.setdefault(_plain(_by_number(group)[0]), []).append(group)
    for class_name, name, layer in children(model):
        if id(layer) in seen or not slots(layer):
            continue
        left = groups.get(_plain(snake(class_name)), [])
        path = f"{where}{name}"
        if not left:
            raise ValueError(
                f"load_keras_weights: the file has no weights for {path} ({class_name}); "
                f"{_census(model, root)}"
            )
        _from_tree(layer, root.children[left.pop(0)], f"{path}/", pairs, seen)
    rest = [g for left in groups.values() for g in left]
    if rest:
        raise ValueError(
            f"load_keras_weights: the file has weights for {', '.join(rest)}, which the model does "
            f"not have; {_census(model, root)}"
        )


def _plain(stem: str) -> str:
    """Keras 2 wrote conv_lst_m2d at times."""
    return stem.replace("_", "")


def _census(model: nn.Module, root: Tree) -> str:
    ours: dict[str, int] = {}
    for class_name, _, layer in children(model):
        if slots(layer):
            ours[class_name] = ours.get(class_name, 0) + 1
    theirs = [g for g, t in sorted(root.children.items()) if holds_arrays(t)]
    return f"the model has the layers {ours}, the file {theirs}"


def legacy_slots(module: nn.Module) -> list[Slot]:
    """A layer's weights in the order of legacy files: what is trained before the rest."""
    every = slots(module)
    frozen = getattr(module, "carried", {}).get("trainable") is False

    def is_trained(slot: Slot) -> bool:
        own = getattr(slot.owner, "carried", {}).get("trainable")
        return slot.trainable and not frozen and own is not False

    return [s for s in every if is_trained(s)] + [s for s in every if not is_trained(s)]


def _from_lists(model: nn.Module, lists: Mapping[str, list[np.ndarray]], pairs: list) -> None:
    given = {name: arrays for name, arrays in lists.items() if arrays}
    wanted = [(c, n, layer) for c, n, layer in children(model) if slots(layer)]
    names = [n for _, n, _ in wanted]
    if set(given) != set(names):
        given = _renamed(wanted, given)
    for _, name, layer in wanted:
        _pair(legacy_slots(layer), given[name], name, pairs)


def _renamed(wanted, given: Mapping[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """A file's lists under the model's names: in order within each class."""
    by_class: dict[str, list[list[np.ndarray]]] = {}
    for name, arrays in given.items():
        by_class.setdefault(_plain(re.sub(r"_\d+$", "", name)), []).append(arrays)
    ours: dict[str, list[str]] = {}
    for class_name, name, _ in wanted:
        ours.setdefault(_plain(snake(class_name)), []).append(name)
    counts = [{k: len(v) for k, v in sorted(d.items())} for d in (ours, by_class)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"load_keras_weights: the model has the layers {counts[0]}, the file {counts[1]}"
        )
    pairs = ((n, a) for stem, names in ours.items() for n, a in zip(names, by_class[stem]))  # noqa: B905
    return dict(pairs)


# Saving


def exported_arrays(module: nn.Module, of: Sequence[Slot] | None = None) -> list[np.ndarray]:
    """A layer's weights as Keras 3 needs them: with Keras 2's recurrent hard_sigmoid, the
    arguments of the gates i, f and o are 1.2 times as large, for Keras 3's smaller slope."""
    return [_exported(slot) for slot in (slots(module) if of is None else of)]


def _exported(slot: Slot) -> np.ndarray:
    array = slot.read()
    owner = slot.owner
    if not isinstance(owner, ConvLSTMBase):
        return array
    if owner.spec.recurrent_activation == "hard_sigmoid_keras2":
        scale = np.full(4, KERAS_2_SLOPE, array.dtype)
        scale[2] = 1  # the candidate c has the other activation
        array = array * np.repeat(scale, owner.hidden_channels)
    return array
