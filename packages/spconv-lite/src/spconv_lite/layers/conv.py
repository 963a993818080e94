"""Sparse convolution layers in 1 to 4 dimensions, with spconv's names, signatures and weights.

The weight is (out_channels, *kernel_size, in_channels / groups): spconv's KRSC. One exception, as
in spconv 2.2 and later, so that checkpoints give the same numbers: where a layer is a plain matrix
product (kernel 1 and stride 1, or any submanifold layer of kernel 1), the weight's memory is read
as (in_channels, out_channels).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..kernels import ops
from .modules import SparseModule
from .tensor import IndiceData, SparseConvTensor

_Size = int | Sequence[int]


def _expand(name: str, value: _Size, ndim: int) -> list[int]:
    values = [value] * ndim if isinstance(value, int) else [int(v) for v in value]
    if len(values) != ndim:
        raise ValueError(
            f"SparseConvolution: {name} must be an integer or {ndim} integers, got {value!r}"
        )
    return values


class SparseConvolution(SparseModule):
    """What all layers share. Use SubMConv3d, SparseConv3d and so on.

    Args, beyond those of torch's Conv3d:
        subm: the output sites are the input sites; stride and padding have no effect.
        transposed: a transposed convolution; its output sites are all that some input reaches.
        inverse: undoes the convolution or pool of the same `indice_key`: the output has its input
            sites, in their order.
        indice_key: submanifold layers of one key share a rulebook; an inverse layer finds its own.
        algo, fp32_accum, large_kernel_fast_algo, record_voxel_count: taken for spconv's signature,
            and without effect: sums are always in float32 or wider.
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size = 3,
        stride: _Size = 1,
        padding: _Size = 0,
        dilation: _Size = 1,
        groups: int = 1,
        bias: bool = True,
        subm: bool = False,
        output_padding: _Size = 0,
        transposed: bool = False,
        inverse: bool = False,
        indice_key: str | None = None,
        algo: object = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(name=name)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                "SparseConvolution: groups must divide in_channels and out_channels, got "
                f"{groups}, "
                f"{in_channels} and {out_channels}"
            )
        if inverse and indice_key is None:
            raise ValueError(
                "SparseInverseConv: indice_key must name the convolution to undo, got None"
            )
        self.ndim, self.in_channels, self.out_channels = ndim, in_channels, out_channels
        self.kernel_size = _expand("kernel_size", kernel_size, ndim)
        self.stride = _expand("stride", stride, ndim)
        self.padding = _expand("padding", padding, ndim)
        self.dilation = _expand("dilation", dilation, ndim)
        self.output_padding = _expand("output_padding", output_padding, ndim)
        self.groups, self.subm, self.transposed, self.inverse = groups, subm, transposed, inverse
        self.indice_key = indice_key
        plain = subm or (math.prod(self.stride) == 1 and not any(self.padding) and not inverse)
        self.conv1x1 = math.prod(self.kernel_size) == 1 and plain and groups == 1
        shape = (out_channels, *self.kernel_size, in_channels // groups)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = (
            nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming uniform with a = sqrt(5), as torch and spconv do."""
        bound = 1 / math.sqrt(self.in_channels // self.groups * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}", f"kernel_size={self.kernel_size}"]
        for name, usual in (("stride", 1), ("padding", 0), ("dilation", 1), ("output_padding", 0)):
            if any(value != usual for value in getattr(self, name)):
                parts.append(f"{name}={getattr(self, name)}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.indice_key is not None:
            parts.append(f"indice_key={self.indice_key!r}")
        return ", ".join(parts)

    def forward(self, input: SparseConvTensor) -> SparseConvTensor:
        """A SparseConvTensor with out_channels; raises ValueError for wrong channels or a rulebook
        key that does not fit."""
        if len(input.spatial_shape) != self.ndim:
            raise ValueError(
                f"{type(self).__name__}: input must have {self.ndim} spatial axes, got "
                f"{input.spatial_shape}"
            )
        if input.features.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__}: input must have {self.in_channels} channels, got "
                f"{tuple(input.features.shape)}"
            )
        input.demand_rows(type(self).__name__)
        features, weight, bias = self._cast(input.features)
        if self.conv1x1:
            product = features @ weight.view(self.in_channels, self.out_channels)
            return input.replace_feature(product if bias is None else product + bias)
        indice_dict = dict(input.indice_dict)
        data = self._indice_data(input, indice_dict)
        if self.inverse:
            book, indices, shape, symmetric = (
                data.turned(),
                data.in_indices,
                data.in_spatial_shape,
                False,
            )
        else:
            book, indices, shape, symmetric = (
                data.rulebook,
                data.out_indices,
                data.out_spatial_shape,
                data.symmetric,
            )
        out = input.shadow_copy()
        out.features = ops.conv(
            features, weight, bias, *book, indices.shape[0], self.groups, symmetric
        )
        out.indices, out.spatial_shape, out.indice_dict = indices, shape, indice_dict
        return out

    def _cast(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled(features.device.type) and features.dtype != torch.float64:
            dtype = torch.get_autocast_dtype(features.device.type)
            features, weight = features.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        return features, weight, bias

    def _indice_data(self, input: SparseConvTensor, indice_dict: dict) -> IndiceData:
        data = input.find_indice_pair(self.indice_key)
        if self.inverse:
            self._check_inverse(input, data)
            return data
        if data is not None:
            if not self.subm:
                raise ValueError(
                    f"{type(self).__name__}: indice_key {self.indice_key!r} is taken; only "
                    "submanifold "
                    "layers share a key, give this layer its own"
                )
            self._check_subm(input, data)
            return data
        data = build_indice_data(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.output_padding,
            self.subm,
            self.transposed,
        )
        if self.indice_key is not None:
            indice_dict[self.indice_key] = data
        return data

    def _check_subm(self, input: SparseConvTensor, data: IndiceData) -> None:
        for what, stored, mine in (
            ("a submanifold layer", data.is_subm, True),
            ("kernel_size", data.ksize, self.kernel_size),
            ("dilation", data.dilation, self.dilation),
            ("spatial_shape", data.in_spatial_shape, input.spatial_shape),
            ("the number of sites", data.in_indices.shape[0], input.indices.shape[0]),
        ):
            if stored != mine:
                raise ValueError(
                    f"{type(self).__name__}: indice_key {self.indice_key!r} was made with another "
                    f"{what}: "
                    f"{stored}, here {mine}; give this layer its own indice_key"
                )

    def _check_inverse(self, input: SparseConvTensor, data: IndiceData | None) -> None:
        if data is None or data.is_subm:
            raise ValueError(
                f"{type(self).__name__}: indice_key {self.indice_key!r} must name an earlier "
                "convolution or "
                f"pool that is not submanifold; known keys: {sorted(input.indice_dict)}"
            )
        for what, stored, mine in (
            ("kernel_size", data.ksize, self.kernel_size),
            ("spatial_shape", data.out_spatial_shape, input.spatial_shape),
            ("number of sites", data.out_indices.shape[0], input.indices.shape[0]),
        ):
            if stored != mine:
                raise ValueError(
                    f"{type(self).__name__}: to undo {self.indice_key!r} the input must have its "
                    "output's "
                    f"{what}: {stored}, got {mine}"
                )


def build_indice_data(
    input: SparseConvTensor,
    ksize: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    output_padding: list[int],
    subm: bool,
    transposed: bool,
) -> IndiceData:
    """Builds the rulebook of one layer on the sites of `input`; the only step that synchronises."""
    shape, indices = input.spatial_shape, input.indices
    if subm:
        out_indices, out_shape = indices, shape
        book = ops.subm_rulebook(indices, input.batch_size, shape, ksize, dilation)
    else:
        out_indices, *book = ops.rulebook(
            indices,
            input.batch_size,
            shape,
            ksize,
            stride,
            padding,
            dilation,
            output_padding,
            transposed,
        )
        sizes = shape, ksize, stride, padding, dilation
        if transposed:
            out_shape = ops.get_deconv_output_size(*sizes, output_padding)
        else:
            out_shape = ops.get_conv_output_size(*sizes)
    return IndiceData(
        ops.Rulebook(*book),
        indices,
        out_indices,
        list(shape),
        list(out_shape),
        ksize,
        stride,
        padding,
        dilation,
        subm,
        transposed,
    )


class SparseConvNd(SparseConvolution):
    """A convolution: its output sites are all that some input site reaches."""

    _axes: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size,
        stride: _Size = 1,
        padding: _Size = 0,
        dilation: _Size = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        algo: object = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            self._axes,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            indice_key=indice_key,
            name=name,
            device=device,
            dtype=dtype,
        )


class SparseConv1d(SparseConvNd):
    """Convolution over 1 axes; see SparseConvolution."""

    _axes = 1


class SparseConv2d(SparseConvNd):
    """Convolution over 2 axes; see SparseConvolution."""

    _axes = 2


class SparseConv3d(SparseConvNd):
    """Convolution over 3 axes; see SparseConvolution."""

    _axes = 3


class SparseConv4d(SparseConvNd):
    """Convolution over 4 axes; see SparseConvolution."""

    _axes = 4


class SubMConvNd(SparseConvolution):
    """A submanifold convolution: its output sites are its input sites."""

    _axes: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size,
        stride: _Size = 1,
        padding: _Size = 0,
        dilation: _Size = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        algo: object = None,
        fp32_accum: bool | None = None,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            self._axes,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            subm=True,
            indice_key=indice_key,
            name=name,
            device=device,
            dtype=dtype,
        )


class SubMConv1d(SubMConvNd):
    """Submanifold convolution over 1 axes; see SparseConvolution."""

    _axes = 1


class SubMConv2d(SubMConvNd):
    """Submanifold convolution over 2 axes; see SparseConvolution."""

    _axes = 2


class SubMConv3d(SubMConvNd):
    """Submanifold convolution over 3 axes; see SparseConvolution."""

    _axes = 3


class SubMConv4d(SubMConvNd):
    """Submanifold convolution over 4 axes; see SparseConvolution."""

    _axes = 4


class SparseConvTransposeNd(SparseConvolution):
    """A transposed convolution, generative: every site that some input reaches becomes active."""

    _axes: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size,
        stride: _Size = 1,
        padding: _Size = 0,
        dilation: _Size = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        algo: object = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        output_padding: _Size = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            self._axes,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            output_padding=output_padding,
            transposed=True,
            indice_key=indice_key,
            name=name,
            device=device,
            dtype=dtype,
        )


class SparseConvTranspose1d(SparseConvTransposeNd):
    """Transposed convolution over 1 axes; see SparseConvolution."""

    _axes = 1


class SparseConvTranspose2d(SparseConvTransposeNd):
    """Transposed convolution over 2 axes; see SparseConvolution."""

    _axes = 2


class SparseConvTranspose3d(SparseConvTransposeNd):
    """Transposed convolution over 3 axes; see SparseConvolution."""

    _axes = 3


class SparseConvTranspose4d(SparseConvTransposeNd):
    """Transposed convolution over 4 axes; see SparseConvolution."""

    _axes = 4


class SparseInverseConvNd(SparseConvolution):
    """Undoes the convolution or pool of the same indice_key: its output sites are that layer's
    input sites, in their order."""

    _axes: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size,
        indice_key: str | None = None,
        bias: bool = True,
        algo: object = None,
        fp32_accum: bool | None = None,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            self._axes,
            in_channels,
            out_channels,
            kernel_size,
            groups=groups,
            bias=bias,
            inverse=True,
            indice_key=indice_key,
            name=name,
            device=device,
            dtype=dtype,
        )


class SparseInverseConv1d(SparseInverseConvNd):
    """Inverse convolution over 1 axes; see SparseConvolution."""

    _axes = 1


class SparseInverseConv2d(SparseInverseConvNd):
    """Inverse convolution over 2 axes; see SparseConvolution."""

    _axes = 2


class SparseInverseConv3d(SparseInverseConvNd):
    """Inverse convolution over 3 axes; see SparseConvolution."""

    _axes = 3


class SparseInverseConv4d(SparseInverseConvNd):
    """Inverse convolution over 4 axes; see SparseConvolution."""

    _axes = 4
