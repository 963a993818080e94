"""The door to the native loss kernels: torch.library operators over the module `_C`.

CPU kernels for float32, bfloat16 and float64 logits. On CUDA the losses run as torch operators
unless set_cuda_kernels chooses others: those were never run on a device. Gradients are those of the
autograd functions that call these operators.
"""

from __future__ import annotations

from types import ModuleType

import torch

from .. import _C  # type: ignore[attr-defined]

_LARGE = 4 << 20  # bytes from which fresh memory is asked for in large pages

_lib = torch.library.Library("tp_parallel", "DEF")
_lib.define(
    "loss_statistics(Tensor logits, Tensor target, int start, int valid, int ignore_index, "
    "bool with_sum) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_lib.define(
    "loss_gradient(Tensor logits, Tensor target, Tensor lse, Tensor grad, int start, int valid, "
    "int ignore_index, float smoothing, float z_loss, int classes) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_lib.define(
    "loss_gradient_(Tensor(a!) logits, Tensor target, Tensor lse, Tensor grad, int start, int "
    "valid, "
    "int ignore_index, float smoothing, float z_loss, int classes) -> ()",
    tags=(torch.Tag.pt2_compliant_tag,),
)


_CUDA_DTYPES = {
    "torch": (),
    "native": (torch.float32, torch.bfloat16),
    "triton": (torch.float32, torch.bfloat16, torch.float16),
    "liger": (torch.float32, torch.bfloat16, torch.float16),
}
_cuda_kernels = "torch"


def set_cuda_kernels(kernels: str) -> str:
    """Chooses what computes the losses of logits on CUDA; returns the choice before.

    Args:
        kernels: "torch", torch operators, the default. "native", the compiled kernels of this
            package, and "triton", Triton's, which come with a CUDA build of torch: both compiled
            and simulated, never run. "liger": the output layer and loss in one by Liger's kernel
            where its numbers are the same (`loss.liger`), everything else as by "triton". Logits of
            a dtype that they do not take (float64, and float16 for "native") run as torch
            operators.

    Raises ValueError for another name, RuntimeError for kernels that this build does not have.
    """
    global _cuda_kernels
    if kernels not in _CUDA_DTYPES:
        raise ValueError(
            f'set_cuda_kernels: takes "torch", "native", "triton" or "liger", got {kernels!r}'
        )
    if kernels == "native" and not _C.cuda_architectures:
        raise RuntimeError(
            "set_cuda_kernels: this build of tp-parallel has no CUDA kernels; build it with GPU=ON"
        )
    if kernels in ("triton", "liger"):
        _triton()
    if kernels == "liger":
        from . import liger

        liger.function()
    before, _cuda_kernels = _cuda_kernels, kernels
    return before


def _triton() -> ModuleType:
    try:
        from . import triton_kernels
    except ModuleNotFoundError as missing:
        if missing.name != "triton":
            raise
        raise RuntimeError(
            "set_cuda_kernels: Triton is not installed; it comes with a CUDA build of torch"
        ) from None
    return triton_kernels


def uses_triton(tensor: torch.Tensor) -> bool:
    """Whether the loss of tensors like this one runs by Triton's kernels."""
    chosen = _cuda_kernels in ("triton", "liger")
    return tensor.is_cuda and chosen and tensor.dtype in _CUDA_DTYPES["triton"]


def uses_liger(tensor: torch.Tensor) -> bool:
    """Whether the output layer and loss of tensors like this one may run by Liger's kernel."""
    return tensor.is_cuda and _cuda_kernels == "liger"


def combine(
    every: torch.Tensor,
    target: torch.Tensor,
    ignore_index: int,
    smoothing: float,
    classes: int,
    z_loss: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and log-sum-exp of each token by Triton's kernel, where `uses_triton`."""
    return _triton().combine(every, target, ignore_index, smoothing, classes, z_loss)


def _wide(logits: torch.Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _statistics(logits, target, start, valid, ignore_index, with_sum):
    logits, target = logits.contiguous(), target.contiguous()
    if uses_triton(logits):
        return _triton().statistics(logits, target, start, valid, ignore_index, with_sum)
    out = logits.new_empty((len(logits), 4), dtype=_wide(logits))
    threads = torch.get_num_threads()
    _C.loss_statistics(logits, target, start, valid, ignore_index, with_sum, out, threads)
    return out


def _into(out, logits, target, lse, grad, start, valid, ignore_index, smoothing, z_loss, classes):
    if uses_triton(logits):
        terms = start, valid, ignore_index, smoothing, z_loss, classes
        _triton().gradient(logits, target.contiguous(), lse.contiguous(), grad, *terms, out)
        return
    _C.loss_gradient(
        logits, target.contiguous(), lse.contiguous(), grad.contiguous(), start, valid,
        ignore_index, smoothing, z_loss, classes, out, torch.get_num_threads(),
    )  # fmt: skip


def _gradient(logits, *arguments):
    logits = logits.contiguous()
    out = torch.empty_like(logits)
    if out.numel() * out.element_size() >= _LARGE:
        _C.prefer_large_pages(out)
    _into(out, logits, *arguments)
    return out


def _gradient_inplace(logits, *arguments):
    if not logits.is_contiguous():
        raise ValueError(
            f"loss_gradient_: logits must be contiguous to be overwritten, got strides "
            f"{logits.stride()}; pass inplace=False"
        )
    _into(logits, logits, *arguments)


for _device in ("CPU", "CUDA"):
    _lib.impl("loss_statistics", _statistics, _device)
    _lib.impl("loss_gradient", _gradient, _device)
    _lib.impl("loss_gradient_", _gradient_inplace, _device)
torch.library.register_fake(
    "tp_parallel::loss_statistics",
    lambda logits, *_: logits.new_empty((logits.shape[0], 4), dtype=_wide(logits)),
    lib=_lib,
)
torch.library.register_fake(
    "tp_parallel::loss_gradient",
    lambda logits, *_: torch.empty_like(logits, memory_format=torch.contiguous_format),
    lib=_lib,
)
torch.library.register_fake("tp_parallel::loss_gradient_", lambda *_: None, lib=_lib)

loss_statistics = torch.ops.tp_parallel.loss_statistics.default
loss_gradient = torch.ops.tp_parallel.loss_gradient.default
loss_gradient_ = torch.ops.tp_parallel.loss_gradient_.default
DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def has_kernel(logits: torch.Tensor) -> bool:
    """Whether the native kernels take these logits; other dtypes and devices run as torch
    operators.
    """
    if logits.device.type == "cuda":
        return logits.dtype in _CUDA_DTYPES[_cuda_kernels]
    return logits.device.type == "cpu" and logits.dtype in DTYPES


def isa() -> str:
    """The instruction set the kernels run with: baseline, avx2 or avx512."""
    return _C.isa()
