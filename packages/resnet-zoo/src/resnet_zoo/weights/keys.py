"""Whose tensors these are: one `unwrap` for what training code stores, one judge of the keys.

`unwrap` finds the network in what a file holds, and gives its tensors the names of torchvision and
timm: out of wrappers (`state_dict`, `model`, `ema`, `teacher`, ...), from under a prefix
(`module.`, `encoder_q.`, `backbone.`, `visual.`, ...), out of transformers' names. `load_into` puts
them into a model and refuses whatever does not fit; both say what they left out.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .cache import WeightsError

COUNTER = ".num_batches_tracked"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Entries of a checkpoint that hold a network, the best first: averaged weights before learned ones.
_WRAPPERS = (
    "state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "teacher",
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "student",
    "backbone", "encoder", "trunk", "visual", "params", "weights",
)  # fmt: skip
# What compilers and sharding put between the names.
_SHELLS = re.compile(
    r"(?:(?<=\.)|\A)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# A key that every network has; what stands before it is the network's prefix.
_MARK = re.compile(
    r"((?:.*\.)?)(?:layer1\.0\.conv1\.weight|stages\.0\.blocks\.0\.conv1\.weight"
    r"|stages\.0\.0\.conv1_1x1\.conv\.weight|4\.0\.conv1\.weight"
    r"|encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight)\Z"
)
# Of several networks in one file, the one whose prefix has the earliest of these names.
_PREFERRED = (
    "ema", "ema_model", "model_ema", "teacher", "encoder_q", "online_encoder", "online_network",
    "base_encoder", "student", "encoder", "backbone", "model", "module",
)  # fmt: skip
# Self-supervised encoders whose `fc` is a projection, not a classifier.
_PROJECTING = {
    "encoder_q", "encoder_k", "base_encoder", "momentum_encoder", "online_encoder",
    "online_network", "target_encoder", "target_network",
}  # fmt: skip
# Classifiers under other names, beside the network or in it.
_HEADS = ("head.fc.", "classifier.1.", "classifier.", "last_linear.", "fc.")
_OURS = ("fc.", "head.fc.", "avgpool.c_proj.")  # what the models here call theirs
# Sequential(*model.children()), as lightly and others keep their trunks.
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4",
             "9": "fc"}  # fmt: skip
_STEM = {"conv1": "conv1.0", "bn1": "conv1.1", "conv2": "conv1.3", "bn2": "conv1.4",
         "conv3": "conv1.6", "bn3": "bn1"}  # fmt: skip
_ATTENTION = {"pos_embed": "positional_embedding", "q": "q_proj", "k": "k_proj", "v": "v_proj",
              "proj": "c_proj"}  # fmt: skip
# transformers' names, then those of timm's networks of configured blocks (CLIP).
_RENAMED = (
    (r"embedder\.embedder\.convolution\.", lambda m: "conv1."),
    (r"embedder\.embedder\.normalization\.", lambda m: "bn1."),
    (
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.(convolution|normalization)\.",
        lambda m: f"layer{int(m[1]) + 1}.{m[2]}.downsample.{int(m[3] == 'normalization')}.",
    ),
    (
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.(convolution|normalization)\.",
        lambda m: (
            f"layer{int(m[1]) + 1}.{m[2]}.{'conv' if m[4] == 'convolution' else 'bn'}"
            f"{int(m[3]) + 1}."
        ),
    ),
    (
        r"stem\.conv(\d)\.(conv|bn)\.",
        lambda m: _STEM[m[2] + m[1]] + ".",
    ),
    (
        r"stages\.(\d)\.(\d+)\.conv(\d)_(?:1x1|kxk)\.(conv|bn)\.",
        lambda m: f"layer{int(m[1]) + 1}.{m[2]}.{m[4]}{m[3]}.",
    ),
    (
        r"stages\.(\d)\.(\d+)\.shortcut\.conv\.(conv|bn)\.",
        lambda m: f"layer{int(m[1]) + 1}.{m[2]}.downsample.{1 + (m[3] == 'bn')}.",
    ),
    (
        r"head\.(pos_embed|q|k|v|proj)\b",
        lambda m: f"avgpool.{_ATTENTION[m[1]]}",
    ),
)


class StateDict(dict[str, Tensor]):
    """Tensors under the names of torchvision and timm; `left_out` are the file's other keys."""

    def __init__(self, tensors: Mapping[str, Tensor], left_out: Iterable[str] = ()) -> None:
        super().__init__(tensors)
        self.left_out = list(left_out)


@dataclass
class LoadReport:
    """What a load did: where the tensors came from and which entries did not come from there."""

    source: str
    loaded: int = 0
    reinitialized: list[str] = field(default_factory=list)
    summed: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.loaded} entries from {self.source}"
        for said, keys in (
            ("freshly initialised", self.reinitialized),
            ("summed over the colour channels", self.summed),
            ("repeated over the input channels", self.repeated),
            ("left out", self.left_out),
        ):
            if keys:
                text += f"; {said}: {_listed(keys)}"
        return text


def _listed(keys: Sequence[str], most: int = 6) -> str:
    more = f", and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


# -- unwrap -------------------------------------------------------------------------------------


def unwrap(loaded: Any, label: str) -> StateDict:
    """The network's tensors in what a weight file holds.

    Raises WeightsError, with `label`, where there is no state dict, or several networks and no
    reason to take one of them.
    """
    mapping = _descend(loaded)
    if not isinstance(mapping, Mapping) or not mapping:
        raise WeightsError(
            f"read_state_dict: {label} holds {type(mapping).__name__}, not a state dict"
        )
    wrong = [key for key, value in mapping.items() if not isinstance(value, Tensor)]
    if wrong:
        raise WeightsError(
            f"read_state_dict: {label} is not a state dict: {wrong[0]!r} is "
            f"{type(mapping[wrong[0]]).__name__}, not a tensor"
        )
    if larger := [_text(key) for key, value in mapping.items() if _exceeds_storage(value)]:
        raise WeightsError(
            f"read_state_dict: {label} is not a state dict: {larger[0]!r} has more numbers than "
            "are stored; cure: save its contiguous()"
        )
    tensors = {_SHELLS.sub("", _text(key)): value for key, value in mapping.items()}
    prefix = _prefix(tensors, label)
    inside = {key[len(prefix) :]: v for key, v in tensors.items() if key.startswith(prefix)}
    beside = {key: value for key, value in tensors.items() if not key.startswith(prefix)}
    numbered = "4.0.conv1.weight" in inside
    names = {key: _of_children(key) if numbered else _translated(key) for key in inside}
    found = StateDict(_of_clip({names[key]: value for key, value in inside.items()}))
    if _PROJECTING & set(prefix.split(".")):
        projection = [key for key in found if key.startswith("fc.")]
        for key in projection:
            del found[key]
        found.left_out += [prefix + key for key in projection]
    elif "fc.weight" not in found:
        _adopt_head(found, beside, prefix)
    found.left_out += beside
    return found


def _exceeds_storage(tensor: Tensor) -> bool:
    """Whether numbers are repeated by strides of 0: a copy would take memory without bound."""
    if tensor.is_meta or tensor.is_quantized or tensor.layout is not torch.strided:
        return False
    return tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()


def _descend(loaded: Any) -> Any:
    """Out of the wrappers, as long as one of them holds a network, or tensors at least."""
    while isinstance(loaded, Mapping):
        named = [loaded[name] for name in _WRAPPERS if name in loaded]
        inner = list(filter(_holds_network, named)) or list(filter(_holds_tensors, named))
        if not inner and not any(isinstance(value, Tensor) for value in loaded.values()):
            inner = [value for value in loaded.values() if _holds_tensors(value)]
            inner = inner if len(inner) == 1 else []
        if not inner:
            break
        loaded = inner[0]
    return loaded


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(item, Tensor) or _holds_tensors(item) for item in value.values()
    )


def _holds_network(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        _MARK.match(_SHELLS.sub("", _text(key))) or _holds_network(item)
        for key, item in value.items()
    )


def _text(key: Any) -> str:
    """A key as text; Python 2 wrote bytes."""
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def _prefix(tensors: Mapping[str, Tensor], label: str) -> str:
    prefixes = sorted({m[1] for m in map(_MARK.match, tensors) if m})
    if len(prefixes) < 2:
        return prefixes[0] if prefixes else ""
    for name in _PREFERRED:
        chosen = [prefix for prefix in prefixes if name in prefix.split(".")]
        if len(chosen) == 1:
            return chosen[0]
    if "" in prefixes:
        return ""
    raise WeightsError(
        f"read_state_dict: {label} holds several networks ({_listed(prefixes)}); cure: save the "
        "one that you want, e.g. model.backbone.state_dict()"
    )


def _translated(key: str) -> str:
    for pattern, name in _RENAMED:
        if match := re.match(pattern, key):
            return name(match) + key[match.end() :]
    return key


def _of_children(key: str) -> str:
    first, dot, rest = key.partition(".")
    return _CHILDREN.get(first, first) + dot + rest


def _of_clip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of OpenAI's and open_clip's image towers, which are told by their third stem norm."""
    if "bn3.weight" not in tensors or "conv3.weight" not in tensors:
        return tensors
    renamed = {}
    for key, value in tensors.items():
        first, _, rest = key.partition(".")
        if first == "attnpool":
            key = f"avgpool.{rest}"
        elif first in _STEM:
            key = f"{_STEM[first]}.{rest}"
        key = re.sub(r"\.downsample\.([01])\.", lambda m: f".downsample.{int(m[1]) + 1}.", key)
        renamed[key] = value
    return renamed


def _adopt_head(found: StateDict, beside: dict[str, Tensor], prefix: str) -> None:
    """Name a classifier `fc` that stands in the network, or beside it, under another name."""
    parent = ".".join(prefix.split(".")[:-2])
    parent = f"{parent}." if parent else ""
    for place, start in ((found, ""), (beside, parent)):
        for head in _HEADS:
            weight = place.get(f"{start}{head}weight")
            if weight is None or weight.ndim != 2:
                continue
            for part in ("weight", "bias"):
                if (tensor := place.pop(f"{start}{head}{part}", None)) is not None:
                    found[f"fc.{part}"] = tensor
            return


# -- the judge ----------------------------------------------------------------------------------


def load_into(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str, *, new_head: bool = False
) -> LoadReport:
    """Copy `tensors` into `model`, casting to its dtype; the keys and shapes must match.

    - With `new_head`, `fc.*` of another shape (or absent) keeps its fresh initialisation. With it,
      and for a model without a classifier, other heads in the file are left out.
    - A first convolution for RGB enters a model of other channels: summed over the colours for one
      channel, which gives what the RGB model would say to a grey picture; else repeated and scaled
      (timm's rule).
    - Batch counters may be missing, and are dropped where the norm has none (frozen norms). What a
      cast to half precision made of them is rounded; one that it made infinite starts at zero.

    All that did not go in is listed in the report. Raises WeightsError for everything else.
    """
    own = model.state_dict()
    report = LoadReport(source, left_out=list(getattr(tensors, "left_out", ())))
    tensors = {
        key: _counter(value) if key.endswith(COUNTER) else value
        for key, value in tensors.items()
        if not _is_spare_counter(key, own)
    }
    headless = not any(key.startswith(_OURS) for key in own)
    if new_head or headless:
        trunk = {key.split(".")[0] for key in own} - {"fc"}
        spare = [key for key in tensors if key not in own]
        for key in spare:
            if key.split(".")[0] not in trunk or key.startswith(_OURS):
                report.left_out.append(key)
                del tensors[key]
    for key in [key for key in own if key.startswith(_OURS)] if new_head else []:
        if key not in tensors or tensors[key].shape != own[key].shape:
            report.reinitialized.append(key)
            tensors[key] = own[key]
    _adapt_input(own, tensors, report)
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


def _is_spare_counter(key: str, own: Mapping[str, Tensor]) -> bool:
    return (
        key.endswith(COUNTER)
        and key not in own
        and key.removesuffix(COUNTER) + ".running_var" in own
    )


def _counter(given: Tensor) -> Tensor:
    """A batch counter as the norms have it, out of one that was cast with the weights."""
    if given.dtype not in _FLOATS or given.numel() != 1:
        return given
    return given.reshape(()).double().nan_to_num(0.0, 0.0, 0.0).round().long()


def _adapt_input(own: Mapping[str, Tensor], tensors: dict[str, Tensor], report: LoadReport) -> None:
    """Fit the first convolution's RGB kernels to the model's number of channels."""
    stem = next((key for key, value in own.items() if value.ndim == 4), "")
    given = tensors.get(stem)
    if given is None or given.ndim != 4 or given.shape[1] != 3 or not given.is_floating_point():
        return
    wanted = own[stem].shape[1]
    if given.shape == own[stem].shape or given[:, :1].shape != own[stem][:, :1].shape:
        return
    if wanted == 1:
        tensors[stem] = given.sum(dim=1, keepdim=True)
        report.summed.append(stem)
    else:
        repeated = given.float().repeat(1, -(-wanted // 3), 1, 1)[:, :wanted]
        tensors[stem] = (repeated * (3 / wanted)).to(given.dtype)
        report.repeated.append(stem)


def _refuse_mismatch(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    # Files older than PyTorch 0.4.1 have no batch counters; the norm then starts at zero.
    missing = [key for key in own if key not in tensors and not key.endswith(COUNTER)]
    both = [key for key in own if key in tensors]
    shapes = [
        f"{key}: {tuple(tensors[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in both
        if tensors[key].shape != own[key].shape
    ]
    kinds = {key: _wrong_kind(tensors[key], own[key]) for key in both}
    faults = [
        f"{len(keys)} {what}: {'; '.join(keys[:3])}{'; ...' if len(keys) > 3 else ''}"
        for what, keys in (
            ("keys missing", missing),
            ("keys unexpected", [key for key in tensors if key not in own]),
            ("of another shape", shapes),
            ("of another kind", [f"{key}: {told}" for key, told in kinds.items() if told]),
        )
        if keys
    ]
    if not faults:
        return
    cure = "check the model's name and arguments; for another number of classes say num_classes="
    other_head = [key for key in tensors if key.startswith("fc.") and key not in own]
    if other_head and all(key.startswith("fc.") for key in missing):
        cure = (
            "the file's classifier is made of other parts: give a fresh model's fc the same parts "
            "and call load_state_dict, or say num_classes=N for a fresh classifier"
        )
    elif missing and all(key.startswith("fc.") for key in missing):
        cure = (
            "the file has no classifier: say num_classes=N for a fresh one, num_classes=0 for "
            "none, or features_only=True for feature maps"
        )
    raise WeightsError(
        f"load_into: {source} does not fit this model ({' | '.join(faults)}). Cure: {cure}"
    )


def _wrong_kind(given: Tensor, own: Tensor) -> str | None:
    """Why a tensor's numbers are not those of the model: quantised, whole, complex, ..."""
    if given.is_meta:
        return "on the device meta, without numbers"
    if given.is_quantized or given.layout is not torch.strided:
        return "quantised" if given.is_quantized else f"of layout {given.layout}"
    if own.is_floating_point() and given.dtype not in _FLOATS:
        return f"{given.dtype} in the file, {own.dtype} in the model"
    if not own.is_floating_point() and (given.is_floating_point() or given.is_complex()):
        return f"{given.dtype} in the file, {own.dtype} in the model"
    return None
