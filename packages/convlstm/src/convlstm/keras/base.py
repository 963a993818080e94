"""What a Keras layer is here: options by Keras' names, weights in Keras' order and layout, shapes.

A layer of this wing is a `KerasModule`. The ConvLSTM layers and `Bidirectional`, which know nothing
of Keras' models, take part through the three functions at the end (`slots`, `own_config`,
`output_shape`), each of which can be registered for a class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..sequence.activations import ACTIVATIONS, activation_name, resolve_activation

# A shape with its batch axis; None where a length is free.
Shape = tuple[int | None, ...]

# Options that change no output. The first are carried along as they are, so that a model goes back
# to Keras with them; the others are only Keras' own bookkeeping.
_CARRIED = ("initializer", "regularizer", "constraint")
_CARRIED_NAMES = {"trainable", "seed", "noise_shape", "unroll"}
_BOOKKEEPING = {
    "name", "dtype", "batch_input_shape", "batch_shape", "input_shape", "input_dtype", "sparse",
    "ragged", "implementation", "time_major", "fused", "synchronized", "quantization_config",
    "autocast", "build_config", "input_spec", "lora_rank", "lora_alpha", "optional",
    "use_gpu", "renorm_momentum", "renorm_clipping", "cpu_fused", "batch_size",
}  # fmt: skip


def is_carried(name: str) -> bool:
    return name.endswith(_CARRIED) or name in _CARRIED_NAMES


@dataclass(frozen=True)
class Slot:
    """One weight of a module. axes: the axes of the tensor in Keras' order, None for the same."""

    owner: nn.Module
    name: str
    axes: tuple[int, ...] | None = None
    trainable: bool = True

    @property
    def tensor(self) -> Tensor:
        return getattr(self.owner, self.name)

    def shape(self) -> tuple[int, ...]:
        """In Keras' order."""
        shape = tuple(self.tensor.shape)
        return shape if self.axes is None else tuple(shape[a] for a in self.axes)

    def read(self) -> np.ndarray:
        """A copy in Keras' layout."""
        tensor = self.tensor.detach()
        tensor = tensor if self.axes is None else tensor.permute(self.axes)
        if tensor.dtype is torch.bfloat16:  # numpy has none
            tensor = tensor.float()
        return np.array(tensor.cpu().numpy(), order="C")  # ascontiguousarray gives a scalar an axis

    @torch.no_grad()
    def write(self, array: np.ndarray | Tensor) -> None:
        """Copies a weight in Keras' layout; one without memory (meta) gets that of its own."""
        given = torch.as_tensor(array)
        if tuple(given.shape) != self.shape():
            raise ValueError(
                f"load_keras_weights: {type(self.owner).__name__}.{self.name} must have shape "
                f"{self.shape()} in Keras' layout, got {tuple(given.shape)}"
            )
        tensor = self.tensor
        if self.axes is not None:
            given = given.permute(tuple(self.axes.index(k) for k in range(len(self.axes))))
        if not tensor.is_meta:
            tensor.copy_(given)
            return
        whole = given.to(tensor.dtype).clone(memory_format=torch.contiguous_format)
        if isinstance(tensor, nn.Parameter):
            setattr(self.owner, self.name, nn.Parameter(whole, tensor.requires_grad))
        else:
            setattr(self.owner, self.name, whole)


def kernel_axes(rank: int) -> tuple[int, ...]:
    """Of a torch kernel (out, in, k...) in Keras' order (k..., in, out)."""
    return (*range(2, rank + 2), 1, 0)


class KerasModule(nn.Module):
    """A layer that Keras knows as `keras_class`, with Keras' options under Keras' names.

    options: each with its default. aliases: what older releases called them. A subclass draws or
    allocates its weights in `build`, from the shapes of its inputs with the batch axis.
    """

    keras_class: str
    options: ClassVar[Mapping[str, Any]] = {}
    aliases: ClassVar[Mapping[str, str]] = {}
    # What Keras 2 wrote for this class and Keras 3 does not take.
    dropped: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.carried: dict[str, Any] = {}
        unknown = sorted(set(given) - set(self.options))
        if unknown:
            raise TypeError(f"{self.keras_class}: there is no option {', '.join(unknown)}")
        for name, default in self.options.items():
            setattr(self, name, given.get(name, default))

    @classmethod
    def from_keras_config(
        cls, config: Mapping[str, Any], shapes: Sequence[Shape], keras_version: str = "3"
    ) -> KerasModule:
        """The layer of a configuration, for inputs of these shapes, with weights yet to be loaded.

        Raises ValueError for an option that is not known here.
        """
        given, carried = cls.read_config(config, keras_version)
        module = cls(**given)
        module.carry(carried)
        module.build(*shapes)
        return module

    @classmethod
    def read_config(
        cls, config: Mapping[str, Any], keras_version: str
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """(options, what is carried along) of a configuration."""
        given, carried = split_config(cls.keras_class, config, cls.options, cls.aliases)
        if "activation" in given:
            given["activation"] = keras_activation(given["activation"], keras_version)
        return given, carried

    def carry(self, carried: Mapping[str, Any]) -> None:
        """Keeps what no output depends on; a layer that is frozen in Keras is frozen here."""
        self.carried = {k: v for k, v in carried.items() if k not in self.dropped}

    def build(self, *shapes: Shape) -> None:
        """Makes the weights for inputs of these shapes."""

    def output_shape(self, *shapes: Shape) -> Any:
        """Of the output, or a list of them; that of the input unless a layer says otherwise."""
        return shapes[0]

    def slots(self) -> list[Slot]:
        """The weights in Keras' order."""
        return []

    def keras_options(self) -> dict[str, Any]:
        return {name: plain(getattr(self, name)) for name in self.options}

    def keras_config(self, name: str) -> dict[str, Any]:
        """The configuration that Keras 3 reads, under this name."""
        return {**self.carried, **self.keras_options(), "name": name}

    def keras_weights(self) -> list[np.ndarray]:
        """All weights as copies in Keras' order and layout."""
        return [slot.read() for slot in slots(self)]

    def load_keras_weights(self, arrays: Sequence[Any]) -> None:
        """Copies weights in Keras' order and layout. Raises ValueError for others."""
        write_all(type(self).__name__, slots(self), arrays)


def write_all(name: str, wanted: Sequence[Slot], given: Sequence[Any]) -> None:
    """Copies one array to each slot, or none at all. Raises ValueError where they do not fit."""
    shapes = [slot.shape() for slot in wanted]
    found = [tuple(torch.as_tensor(a).shape) for a in given]
    if shapes != found:
        raise ValueError(
            f"{name}.load_keras_weights: arrays in Keras' layout must have shapes {shapes}, "
            f"got {found}"
        )
    for slot, array in zip(wanted, given, strict=True):
        slot.write(array)


def split_config(
    class_name: str,
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    aliases: Mapping[str, str],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(options, what is carried along). Raises ValueError for what could change an output and is
    not known: a wrong number is worse than none."""
    given: dict[str, Any] = {}
    carried: dict[str, Any] = {}
    for key, value in config.items():
        key = aliases.get(key, key)
        if key in options:
            given[key] = tuple(value) if isinstance(value, list) else value
        elif is_carried(key):
            carried[key] = value
        elif key not in _BOOKKEEPING and value not in (None, False):
            raise ValueError(
                f"load_keras: {class_name} {config.get('name', '')!r} has the option "
                f"{key} = {value!r}, which is not known here"
            )
    return given, carried


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return value


# Activations that only Keras' layers have, over the last axis as Keras applies them.
KERAS_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **ACTIVATIONS,
    "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "hard_shrink": lambda x: F.hardshrink(x, 0.5),
    "soft_shrink": lambda x: F.softshrink(x, 0.5),
    "squareplus": lambda x: (x + torch.sqrt(x * x + 4)) / 2,
}


def keras_activation(value: Any, keras_version: str = "3") -> str:
    """The name of an activation in a configuration: a name, or a serialised function.

    "hard_sigmoid" of Keras 2 gets its older slope. Raises ValueError for one that is not known.
    """
    if isinstance(value, Mapping):
        inner = value.get("config", value.get("class_name"))
        if isinstance(inner, Mapping):
            inner = inner.get("name") if value.get("class_name") == "function" else None
        if not isinstance(inner, str):
            raise ValueError(
                f"load_keras: the activation {value.get('class_name')!r} is a layer or a class of "
                "its own; only functions by name are read (put the layer behind this one instead)"
            )
        value = inner
    name = activation_name(value)
    if name == "hard_sigmoid" and str(keras_version).startswith(("1", "2")):
        name = "hard_sigmoid_keras2"
    if name not in KERAS_ACTIVATIONS:
        resolve_activation(name)
    return name


@singledispatch
def slots(module: nn.Module) -> list[Slot]:
    """The weights of a layer or a model in Keras' order."""
    return module.slots()


@singledispatch
def own_config(module: nn.Module, name: str) -> dict[str, Any]:
    """A layer's configuration in Keras' terms, with activations by our names."""
    return module.keras_config(name)


@singledispatch
def output_shape(module: nn.Module, *shapes: Shape) -> Any:
    """The shape of a layer's output, or a list of them, for inputs of these shapes."""
    return module.output_shape(*shapes)
