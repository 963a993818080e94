"""Sparse convolution layers in 1 to 4 dimensions, with spconv's names, signatures and weights.

The weight is (out_channels, *kernel_size, in_channels / groups): spconv's KRSC. One exception, as
in spconv 2.2 and later, so that checkpoints give the same numbers: where a layer is a plain matrix
product (kernel 1 and stride 1, or any submanifold layer of kernel 1), the weight's memory is read
as (in_channels, out_channels).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..geometry import identity_book
from ..kernels import ConvAlgo, ops
from ..kernels.cpu import explain, widens
from ..kernels.table import cpu_kernels_run
from .inference import Followers, followers_of
from .modules import SparseModule
from .rulebooks import build_indice_data, onto_coordinates
from .tensor import IndiceData, Size, SparseConvTensor, demand_channels, expand_nd, same_sites

VOXEL_COUNT = "max_num_voxels_during_training"  # spconv's name of the buffer


class Activation(enum.Enum):
    """What a layer may apply to its sums, bias and `add_input` included; cumm's names."""

    None_ = 0
    ReLU = 1
    Sigmoid = 2
    LeakyReLU = 3

    @classmethod
    def of(cls, act_type: object) -> Activation:
        """Of an `Activation`, of cumm's enumeration, of a name or of None."""
        name = getattr(act_type, "name", act_type) or "None_"
        if name not in cls.__members__:
            raise ValueError(
                f"SparseConvolution: act_type must be one of {list(cls.__members__)}, got "
                f"{act_type!r}"
            )
        return cls[str(name)]

    def apply(self, features: Tensor, alpha: float) -> Tensor:
        """Of sums (N, C); alpha is LeakyReLU's slope."""
        if self is Activation.ReLU:
            return torch.relu(features)
        if self is Activation.Sigmoid:
            return torch.sigmoid(features)
        if self is Activation.LeakyReLU:
            return nn.functional.leaky_relu(features, alpha)
        return features


class SparseConvolution(SparseModule):
    """What all layers share. Use SubMConv3d, SparseConv3d and so on.

    Args, beyond those of torch's Conv3d:
        subm: the output sites are the input sites; stride and padding have no effect.
        transposed: a transposed convolution; its output sites are all that some input reaches.
        inverse: undoes the convolution or pool of the same `indice_key`: the output has its input
            sites, in their order.
        indice_key: submanifold layers of one key share a rulebook; an inverse layer finds its own.
            A key is refused on other sites than it was made for.
        record_voxel_count: keeps the largest number of output sites in a buffer of spconv's name.
        act_type, act_alpha: an `Activation` for the sums; act_alpha is LeakyReLU's slope.
        algo, fp32_accum, large_kernel_fast_algo, act_beta: taken for spconv's signature, and
            without effect: sums are always in float32 or wider.

    Raises: TypeError for a size that is no integer, ValueError for one that does not fit.
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        subm: bool = False,
        output_padding: Size = 0,
        transposed: bool = False,
        inverse: bool = False,
        indice_key: str | None = None,
        algo: ConvAlgo | None = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        act_type: object = Activation.None_,
        act_alpha: float = 0,
        act_beta: float = 0,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(name=name)
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                "SparseConvolution: groups must divide in_channels and out_channels, got "
                f"{groups}, {in_channels} and {out_channels}"
            )
        if inverse and indice_key is None:
            raise ValueError(
                "SparseInverseConv: indice_key must name the convolution to undo, got None"
            )
        self.ndim, self.in_channels, self.out_channels = ndim, in_channels, out_channels
        self.kernel_size = expand_nd(ndim, kernel_size, "kernel_size")
        self.stride = expand_nd(ndim, stride, "stride")
        self.padding = expand_nd(ndim, padding, "padding")
        self.dilation = expand_nd(ndim, dilation, "dilation")
        self.output_padding = expand_nd(ndim, output_padding, "output_padding")
        self.groups, self.subm, self.transposed, self.inverse = groups, subm, transposed, inverse
        self.indice_key, self.algo, self.fp32_accum = indice_key, algo, fp32_accum
        self.act_type, self.act_alpha, self.act_beta = Activation.of(act_type), act_alpha, act_beta
        plain = subm or (math.prod(self.stride) == 1 and not any(self.padding) and not inverse)
        self.conv1x1 = math.prod(self.kernel_size) == 1 and plain and groups == 1
        self.weight_shape = [out_channels, *self.kernel_size, in_channels // groups]
        self.weight = nn.Parameter(torch.empty(self.weight_shape, device=device, dtype=dtype))
        self.bias = (
            nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.record_voxel_count = record_voxel_count and not subm and not inverse
        if self.record_voxel_count:
            self.register_buffer(VOXEL_COUNT, torch.zeros(1, dtype=torch.int32, device=device))
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
        if self.act_type is not Activation.None_:
            parts.append(f"act_type={self.act_type.name}")
        return ", ".join(parts)

    def is_inverseable(self) -> bool:
        """Whether an inverse layer can undo this one (spconv's spelling)."""
        return self.indice_key is not None and not self.subm

    def get_max_num_voxels(self) -> Tensor | None:
        """The buffer (1,) int32 of `record_voxel_count`, or None."""
        return getattr(self, VOXEL_COUNT) if self.record_voxel_count else None

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if self.record_voxel_count:  # spconv loads checkpoints from before the flag, too
            state_dict.setdefault(prefix + VOXEL_COUNT, torch.zeros(1, dtype=torch.int32))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also of a layer that spconv pickled whole."""
        super().__setstate__(state)
        self.act_type = Activation.of(self.act_type)

    def _load_weight_different_layout(self, *_: Any) -> None:
        """A hook that layers pickled by spconv have; its weights have the layout of ours."""

    # ------------------------------------------------------------------------------ forward

    def forward(
        self,
        input: SparseConvTensor,
        add_input: SparseConvTensor | None = None,
        coordinates: Tensor | None = None,
    ) -> SparseConvTensor:
        """A SparseConvTensor with out_channels.

        Args:
            add_input: added to the sums before the activation; it has the output's sites.
            coordinates: the output sites, int32 (M, 1 + ndim), in place of all that are reached;
                for a convolution or transposed convolution without indice_key.

        Raises: ValueError for wrong channels, sites outside the grid or twice, a rulebook key that
        does not fit.
        """
        name = type(self).__name__
        self._demand_input(name, input)
        if self.conv1x1 and coordinates is None:
            input.check_sites(name)
            out = input.replace_feature(self._product(input.features))
        else:
            out = self._convolve(input, coordinates)
        if self.record_voxel_count:
            getattr(self, VOXEL_COUNT).clamp_(min=out.features.shape[0])
        if add_input is not None:
            if not same_sites(add_input, out):
                raise ValueError(
                    f"{name}: add_input must have the sites of the output, in their order"
                )
            demand_channels(f"{name}: add_input and output", (add_input, out))
            out._features = out._features + add_input.features
        out._features = self.act_type.apply(out._features, self.act_alpha)
        return out

    def with_followers(
        self, input: SparseConvTensor, modules: Sequence[nn.Module]
    ) -> tuple[SparseConvTensor, int] | None:
        """In inference: the output after the BatchNorm and ReLU that lead `modules`, and how many
        of them it is after; None where they are to be called one by one."""
        plain = self.groups == 1 and self.act_type is Activation.None_ and not self.conv1x1
        if not plain or type(self).forward is not SparseConvolution.forward:
            return None
        followers = followers_of(self, input.features, modules)
        if followers is None:
            return None
        self._demand_input(type(self).__name__, input)
        out = self._convolve(input, None, followers)
        if self.record_voxel_count:
            getattr(self, VOXEL_COUNT).clamp_(min=out.features.shape[0])
        return out, followers.count

    def _demand_input(self, name: str, input: SparseConvTensor) -> None:
        if not isinstance(input, SparseConvTensor):
            raise TypeError(f"{name}: input must be a SparseConvTensor, got {type(input).__name__}")
        if len(input.spatial_shape) != self.ndim:
            raise ValueError(
                f"{name}: input must have {self.ndim} spatial axes, got {input.spatial_shape}"
            )
        if input.features.shape[1] != self.in_channels:
            raise ValueError(
                f"{name}: input must have {self.in_channels} channels, got "
                f"{tuple(input.features.shape)}"
            )
        input._demand_form(name)

    def _product(self, features: Tensor) -> Tensor:
        """A layer of kernel 1 as a matrix product. By the CPU's kernels where they run: the same
        bits for any number of threads, which a gradient of torch's product does not have."""
        features, weight, bias, dtype = self._cast(features)
        matrix = weight.reshape(self.in_channels, self.out_channels)
        if not cpu_kernels_run(features.device.type):
            product = features @ matrix
            return product if bias is None else product + bias
        book = identity_book(features.shape[0], features.device)
        weight = matrix.t().reshape(self.out_channels, 1, self.in_channels)
        return ops.conv(features, weight, bias, *book, features.shape[0], 1, True).to(dtype)

    def _convolve(
        self,
        input: SparseConvTensor,
        coordinates: Tensor | None,
        followers: Followers | None = None,
    ) -> SparseConvTensor:
        indice_dict = dict(input.indice_dict)
        data = self._indice_data(input, indice_dict, coordinates)
        if self.inverse:
            book, indices, shape = data.turned(), data.in_indices, data.in_spatial_shape
        else:
            book, indices, shape = data.rulebook, data.out_indices, data.out_spatial_shape
        symmetric = data.symmetric and not self.inverse
        features, weight, bias, dtype = self._cast(input.features)
        rows = indices.shape[0]
        if followers is None:
            sums = ops.conv(features, weight, bias, *book, rows, self.groups, symmetric)
        else:
            ends = *followers.norm, *book, rows, self.groups, followers.rectified
            sums = ops.conv_norm(features, weight, bias, *ends)
        out = input.with_sites(sums.to(dtype), indices, shape, known=True)
        out.indice_dict = indice_dict
        return out

    def _cast(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor | None, torch.dtype]:
        """What is computed with, and the dtype of the result: autocast's, where it is on. float32
        features that the kernels would only widen again stay what they are; in inference the
        kernels then round the result, for which a weight of autocast's dtype asks."""
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        dtype, device = features.dtype, features.device.type
        if not torch.is_autocast_enabled(device) or dtype == torch.float64:
            if dtype is not weight.dtype:  # float32 beside bfloat16 is what autocast alone asks for
                explain("conv", "features", features, "weight", weight, self.groups)
            return features, weight, bias, dtype
        dtype = torch.get_autocast_dtype(device)
        stays = features.dtype == weight.dtype == torch.float32 and cpu_kernels_run(device)
        if stays and widens(dtype, self.weight_shape, self.groups):
            if dtype == torch.bfloat16 and not torch.is_grad_enabled():
                weight = weight.to(dtype)
        else:
            features, weight = features.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        return features, weight, bias, dtype

    # ------------------------------------------------------------------------------ rulebooks

    def _indice_data(
        self,
        input: SparseConvTensor,
        indice_dict: dict[str, IndiceData],
        coordinates: Tensor | None,
    ) -> IndiceData:
        name = type(self).__name__
        data = input.find_indice_pair(self.indice_key)
        if coordinates is not None and (self.subm or self.inverse or self.indice_key is not None):
            raise ValueError(
                f"{name}: coordinates are for a convolution or transposed convolution without "
                "indice_key"
            )
        if self.inverse:
            return self._demand_inverse(name, input, data)
        if data is not None:
            if not self.subm:
                raise ValueError(
                    f"{name}: indice_key {self.indice_key!r} is taken; only submanifold layers "
                    "share a key, give this layer its own"
                )
            self._demand_subm(name, input, data)
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
        if coordinates is not None:
            return onto_coordinates(name, data, coordinates)
        if self.indice_key is not None:
            data.remember_sites()
            indice_dict[self.indice_key] = data
        return data

    def _demand_subm(self, name: str, input: SparseConvTensor, data: IndiceData) -> None:
        if not data.is_subm:
            raise ValueError(
                f"{name}: indice_key {self.indice_key!r} belongs to a layer that is not "
                "submanifold; give this layer its own indice_key"
            )
        self._demand_equal(
            f"{name}: indice_key {self.indice_key!r} was made with another {{}}: {{}}, here {{}}; "
            "give this layer its own indice_key",
            ("kernel_size", data.ksize, self.kernel_size),
            ("dilation", data.dilation, self.dilation),
            ("spatial_shape", data.in_spatial_shape, input.spatial_shape),
            ("batch_size", data.batch_size, input.batch_size),
            ("number of sites", data.in_indices.shape[0], input.indices.shape[0]),
        )
        data.demand_in(
            input.indices,
            f"{name}: indice_key {self.indice_key!r} was made for other sites, or for the same in "
            "another order; give this layer its own indice_key",
        )

    def _demand_inverse(
        self, name: str, input: SparseConvTensor, data: IndiceData | None
    ) -> IndiceData:
        if data is None or data.is_subm:
            raise ValueError(
                f"{name}: indice_key {self.indice_key!r} must name an earlier convolution or pool "
                f"that is not submanifold; known keys: {sorted(input.indice_dict)}"
            )
        self._demand_equal(
            f"{name}: to undo {self.indice_key!r} the input must have its output's {{}}: {{}}, got "
            "{}",
            ("kernel_size", data.ksize, self.kernel_size),
            ("spatial_shape", data.out_spatial_shape, input.spatial_shape),
            ("batch_size", data.batch_size, input.batch_size),
            ("number of sites", data.out_indices.shape[0], input.indices.shape[0]),
        )
        data.demand_out(
            input.indices,
            f"{name}: to undo {self.indice_key!r} the input must have its output's sites, in their "
            "order",
        )
        return data

    @staticmethod
    def _demand_equal(message: str, *facts: tuple[str, object, object]) -> None:
        for what, stored, mine in facts:
            if stored != mine:
                raise ValueError(message.format(what, stored, mine))


SparseConvolutionBase = SparseConvolution  # spconv's name of the part that is no nn.Module


# ---------------------------------------------------------------------------------- the layers


class _Strided(SparseConvolution):
    """What convolutions, submanifold and transposed ones are made from: spconv's order of
    arguments. `output_padding` is for transposed ones."""

    _axes: ClassVar[int]
    _subm: ClassVar[bool] = False
    _transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        algo: ConvAlgo | None = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        output_padding: Size = 0,
        act_type: object = Activation.None_,
        act_alpha: float = 0,
        act_beta: float = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if output_padding != 0 and not self._transposed:
            raise ValueError(
                f"{type(self).__name__}: output_padding is for transposed convolutions, got "
                f"{output_padding!r}"
            )
        settings = dict(locals())
        for local in ("self", "__class__"):
            settings.pop(local)
        super().__init__(self._axes, subm=self._subm, transposed=self._transposed, **settings)


class SparseConvNd(_Strided):
    """A convolution: its output sites are all that some input site reaches."""


class SubMConvNd(_Strided):
    """A submanifold convolution: its output sites are its input sites."""

    _subm = True


class SparseConvTransposeNd(_Strided):
    """A transposed convolution, generative: every site that some input reaches becomes active."""

    _transposed = True


class SparseInverseConvNd(SparseConvolution):
    """Undoes the convolution or pool of the same indice_key: its output sites are that layer's
    input sites, in their order."""

    _axes: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        indice_key: str | None = None,
        bias: bool = True,
        algo: ConvAlgo | None = None,
        fp32_accum: bool | None = None,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        groups: int = 1,
        act_type: object = Activation.None_,
        act_alpha: float = 0,
        act_beta: float = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        settings = dict(locals())
        for local in ("self", "__class__"):
            settings.pop(local)
        super().__init__(self._axes, inverse=True, **settings)


class SparseConv1d(SparseConvNd):
    """Convolution over 1 axis; see SparseConvolution."""

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


class SubMConv1d(SubMConvNd):
    """Submanifold convolution over 1 axis; see SparseConvolution."""

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


class SparseConvTranspose1d(SparseConvTransposeNd):
    """Transposed convolution over 1 axis; see SparseConvolution."""

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


class SparseInverseConv1d(SparseInverseConvNd):
    """Inverse convolution over 1 axis; see SparseConvolution."""

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
