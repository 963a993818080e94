"""What a graph of layers is made of: tensors by the calls that give them, and the calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor


class Ref(NamedTuple):
    """A tensor of a graph: output `tensor` of call number `node` of a layer."""

    layer: str
    node: int
    tensor: int


@dataclass(frozen=True)
class Call:
    """One call of a layer. args and kwargs: values with `Ref`s where tensors go."""

    layer: str
    node: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def filled(part: Any, values: Mapping[Ref, Tensor]) -> Any:
    """A structure with tensors in place of its refs."""
    if isinstance(part, Ref):
        return values[part]
    if isinstance(part, Mapping):
        return {k: filled(v, values) for k, v in part.items()}
    if isinstance(part, list | tuple):
        return [filled(v, values) for v in part]
    return part


def _by_key(part: Mapping[str, Any]) -> list[Any]:
    """The values of a dict in Keras' order, by which a call's tensors are numbered."""
    return [part[key] for key in sorted(part)]


def flat(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Mapping):
        out = _by_key(out)
    if isinstance(out, list | tuple):
        for part in out:
            yield from flat(part)
    else:
        yield out


def refs(part: Any) -> Iterator[Ref]:
    if isinstance(part, Ref):
        yield part
    elif isinstance(part, Mapping):
        for value in _by_key(part):
            yield from refs(value)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from refs(value)
