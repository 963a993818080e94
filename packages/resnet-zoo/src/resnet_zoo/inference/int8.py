"""A ResNet in whole numbers of 8 bits: static, one scale a channel, calibrated on pictures.

Weights are signed with a step for each output channel; maps are unsigned with one step each, chosen
once from the pictures given such that the mean square error is smallest. Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(arXiv 1712.05877); the choice of ranges: Nagel et al. (arXiv 2106.08295, section 3.1). The
convolutions are oneDNN's, which torch carries for its quantiser
(`torch.ops.onednn.qconv2d_pointwise`); bias, shortcut and ReLU are inside them, the classifier
stays in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.blocks import BasicBlock, Bottleneck
from ..models.features import ResNetFeatures
from ..models.fold import fold_batchnorm
from ..models.resnet import ResNet, first_convolution
from .known import unknown_part

_LAYOUT = torch.channels_last
_NEEDED = ("qconv2d_pointwise", "qconv_prepack")
_SAMPLE = 1 << 14  # values of a map that are looked at, for each batch of pictures
_SHARES = [share / 20 for share in range(12, 21)]  # of the range seen, tried as the range kept


def unavailable() -> str | None:
    """None if the convolutions can run here, else the reason."""
    if not torch.backends.mkldnn.is_available():
        return "this torch has no oneDNN"
    missing = [name for name in _NEEDED if not hasattr(torch.ops.onednn, name)]
    return f"torch {torch.__version__} has no onednn.{missing[0]}" if missing else None


@dataclass(frozen=True)
class Scale:
    """What a stored number means: (stored - zero) * step."""

    step: float
    zero: int = 0

    def store(self, x: Tensor) -> Tensor:
        """Real numbers to uint8, channels last; those out of range become its ends."""
        stored = x.float().mul(1 / self.step).round_().add_(self.zero).clamp_(0, 255)
        return stored.to(torch.uint8).contiguous(memory_format=_LAYOUT)

    def read(self, stored: Tensor) -> Tensor:
        """Real numbers, float32, of stored ones."""
        return (stored.float() - self.zero) * self.step

    @classmethod
    def within(cls, low: float, high: float) -> Scale:
        """The scale of a range, which is widened to hold zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = max((high - low) / 255, 1e-12)
        return cls(step, round(-low / step))


class _Seen:
    """Range and sample of the values of one map."""

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0
        self.parts: list[Tensor] = []
        self.generator = torch.Generator().manual_seed(0)

    def add(self, x: Tensor) -> None:
        low, high = torch.aminmax(x.detach())
        self.low, self.high = min(self.low, low.item()), max(self.high, high.item())
        flat = x.detach().reshape(-1)
        self.parts.append(flat[torch.randint(len(flat), (_SAMPLE,), generator=self.generator)])

    def scale(self) -> Scale:
        """That of the share of the range whose mean square error over the sample is smallest."""
        values = torch.cat(self.parts)[:, None, None, None]
        tried = [Scale.within(share * self.low, share * self.high) for share in _SHARES]
        return min(tried, key=lambda s: (s.read(s.store(values)) - values).square().sum().item())


def calibrate(folded: ResNet | ResNetFeatures, pictures: Sequence[Tensor]) -> dict[str, Scale]:
    """Scales of what enters each convolution and stage, and of what leaves each block and shortcut.

    Args:
        folded: without batch norms, float32.
        pictures: batches (N, C, H, W), preprocessed as the model takes them.
    """
    seen: dict[str, _Seen] = {}
    hooks = []
    for name, module in folded.named_modules():
        known = seen.setdefault(name, _Seen())
        if name.endswith("downsample") or isinstance(module, (BasicBlock, Bottleneck)):
            hooks.append(module.register_forward_hook(lambda m, i, o, s=known: s.add(o)))
        elif isinstance(module, nn.Conv2d) or name == "layer1":
            hooks.append(module.register_forward_pre_hook(lambda m, i, s=known: s.add(i[0])))
        else:
            del seen[name]
    try:
        with torch.no_grad():
            for batch in pictures:
                folded(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: known.scale() for name, known in seen.items()}


class _Convolution:
    """One folded convolution between stored maps; weights are packed at the first call.

    `taken` is the scale of what it gives; None for float32.
    """

    def __init__(self, conv: nn.Conv2d, given: Scale, taken: Scale | None) -> None:
        weight = conv.weight.detach().float()
        self.steps = weight.abs().amax((1, 2, 3)).clamp(min=1e-12) / 127
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.weight = (weight / self.steps[:, None, None, None]).round().to(torch.int8)
        self.bias = None if conv.bias is None else conv.bias.detach().float()
        self.geometry = (list(conv.stride), list(conv.padding), list(conv.dilation), conv.groups)
        self.given, self.taken = given, taken
        self.packed: Tensor | None = None

    def _operands(self, x: Tensor) -> tuple[Any, ...]:
        step, zero = self.given.step, self.given.zero
        if self.packed is None:
            self.packed = torch.ops.onednn.qconv_prepack(
                self.weight, self.steps, step, zero, *self.geometry, list(x.shape)
            )
        return x, step, zero, self.packed, self.steps, self.zeros

    def __call__(self, x: Tensor, tail: str) -> Tensor:
        """tail(conv(x)); `tail` is "relu" or "none"."""
        scale = self.taken or Scale(1.0)
        kind = torch.float32 if self.taken is None else torch.uint8
        return torch.ops.onednn.qconv2d_pointwise(
            *self._operands(x), self.bias, *self.geometry, scale.step, scale.zero, kind,
            tail, [], "",
        )  # fmt: skip

    def add_relu_(self, x: Tensor, residual: Tensor, held: Scale) -> Tensor:
        """relu(conv(x) + residual), written into `residual`, which was stored with `held`."""
        assert self.taken is not None
        return torch.ops.onednn.qconv2d_pointwise.binary(
            *self._operands(x), residual, self.bias, *self.geometry,
            self.taken.step, self.taken.zero, torch.uint8, held.step, held.zero,
            "sum", 1.0, "relu", [], "",
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """Packed weights have no storage to copy: a copy packs its own at its first call."""
        return {**self.__dict__, "packed": None}


class _Block:
    """One residual block, from maps stored with `given` to maps stored with `taken`."""

    def __init__(
        self, block: BasicBlock | Bottleneck, name: str, given: Scale, scales: dict[str, Scale]
    ) -> None:
        self.given, self.taken = given, scales[name]
        self.attention = block.se
        last = self.taken if block.se is None else None
        names = [part for part in ("conv1", "conv2", "conv3") if hasattr(block, part)]
        inside = [given, *(scales[f"{name}.{part}"] for part in names[1:]), last]
        self.convolutions = [
            _Convolution(block.get_submodule(part), before, after)
            for part, before, after in zip(names, inside, inside[1:], strict=False)
        ]
        self.pool: nn.Module | None = None
        self.projection: _Convolution | None = None
        self.held = given  # the scale of the shortcut
        if block.downsample is not None:
            *pool, convolution, _ = block.downsample
            self.pool = pool[0] if pool and not isinstance(pool[0], nn.Identity) else None
            self.held = scales[f"{name}.downsample"]
            self.projection = _Convolution(convolution, given, self.held)

    def __call__(self, x: Tensor, keep: bool) -> Tensor:
        """The block's output; written over `x` where that is its shortcut, unless it is kept."""
        out, residual = x, x
        for convolution in self.convolutions[:-1]:
            out = convolution(out, "relu")
        if self.projection is not None:
            if self.pool is not None:
                x = self.given.store(self.pool(self.given.read(x)))
            residual = self.projection(x, "none")
        elif keep:
            residual = x.clone(memory_format=_LAYOUT)
        if self.attention is None:
            return self.convolutions[-1].add_relu_(out, residual, self.held)
        out = self.attention(self.convolutions[-1](out, "none"))
        return self.taken.store(out.add_(self.held.read(residual)).relu_())


class Int8ResNet(nn.Module):
    """Inference on the CPU in 8 bits: input (N, C, H, W) float, output as the model's in float32.

    Of a ResNet: (N, num_classes); of a ResNetFeatures: the list of its maps. Any input size works.
    Fast where the processor multiplies bytes (AVX-512 VNNI, AMX); right everywhere.

    Args:
        model: in evaluation mode, on the CPU.
        pictures: batches (N, C, H, W) to calibrate on, preprocessed as the model takes them.

    Raises RuntimeError where `unavailable` or `unknown_part` gives a reason, ValueError where the
    batch norms cannot be folded.
    """

    def __init__(self, model: ResNet | ResNetFeatures, pictures: Sequence[Tensor]) -> None:
        super().__init__()
        if reason := unavailable():
            raise RuntimeError(f"Int8ResNet: {reason}")
        if first_convolution(model).weight.device.type != "cpu":
            raise RuntimeError("Int8ResNet: runs on the CPU; cure: model.cpu()")
        folded = fold_batchnorm(model).float()
        if reason := unknown_part(folded):
            raise RuntimeError(f"Int8ResNet: {reason}")
        if not len(folded.stages):
            raise RuntimeError("Int8ResNet: a trunk of the stem alone has nothing to gain")
        scales = calibrate(folded, pictures)
        stem = {n: m for n, m in folded.named_modules() if n.startswith("conv1")}
        names = [name for name, module in stem.items() if isinstance(module, nn.Conv2d)]
        inside = [scales[name] for name in [*names, "layer1"]]
        self.image, scale = inside[0], inside[-1]
        self.stem = [
            _Convolution(stem[name], before, after)
            for name, before, after in zip(names, inside, inside[1:], strict=False)
        ]
        self.stem_scale, self.maxpool = scale, folded.maxpool
        self.stages: list[list[_Block]] = []
        for number, stage in enumerate(folded.stages, start=1):
            self.stages.append([])
            for index, block in enumerate(stage):
                self.stages[-1].append(_Block(block, f"layer{number}.{index}", scale, scales))
                scale = self.stages[-1][-1].taken
        self.taken: tuple[int, ...] | None = None
        if isinstance(folded, ResNetFeatures):
            self.taken = folded.out_indices
        else:
            self.avgpool, self.flat = folded.avgpool, folded.global_pool != ""
            self.fc = folded.fc

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        x = self.image.store(x)
        for convolution in self.stem:
            x = convolution(x, "relu")
        maps, scales = [x], [self.stem_scale]
        x = _max_pool(self.maxpool, x, self.stem_scale)
        for number, stage in enumerate(self.stages, start=1):
            for index, block in enumerate(stage):
                # A map that is returned must outlive the next block; so must an unpooled stem.
                kept = index == 0 and self.taken is not None and number - 1 in self.taken
                x = block(x, kept)
            maps.append(x)
            scales.append(stage[-1].taken)
        if self.taken is not None:
            return [scales[index].read(maps[index]) for index in self.taken]
        x = self.avgpool(scales[-1].read(x))
        return self.fc(torch.flatten(x, 1) if self.flat else x)


def _max_pool(pool: nn.Module, x: Tensor, scale: Scale) -> Tensor:
    """The stem's pooling of stored numbers, whose order is that of the real ones."""
    if isinstance(pool, nn.Identity):
        return x
    facts = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    if facts != (3, 2, 1, 1, False) or scale.zero:
        return scale.store(pool(scale.read(x)))
    for dim in (2, 3):  # torch has no pooling of bytes: the maximum of even, odd and odd before
        even, odd = (x[:, :, k::2] if dim == 2 else x[..., k::2] for k in (0, 1))
        x, count = even.clone(memory_format=_LAYOUT), odd.shape[dim]
        for here, there in (
            (x.narrow(dim, 0, count), odd),
            (x.narrow(dim, 1, x.shape[dim] - 1), odd.narrow(dim, 0, x.shape[dim] - 1)),
        ):
            torch.maximum(here, there, out=here)
    return x
