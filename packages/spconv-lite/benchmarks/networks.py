"""Networks that several benchmarks time, of either library's layers."""

from __future__ import annotations

from types import ModuleType

from torch import nn


def second_encoder(library: ModuleType, channels: int = 4) -> nn.Module:
    """SECOND's middle encoder: 4 stages, BatchNorm and ReLU after each of 12 layers."""

    def block(make, c_in, c_out, key, kernel=3, **settings):
        conv = make(c_in, c_out, kernel, bias=False, indice_key=key, **settings)
        return conv, nn.BatchNorm1d(c_out), nn.ReLU()

    subm, conv = library.SubMConv3d, library.SparseConv3d
    return library.SparseSequential(
        *block(subm, channels, 16, "1"),
        *block(subm, 16, 16, "1"),
        *block(conv, 16, 32, "down1", stride=2, padding=1),
        *block(subm, 32, 32, "2"),
        *block(subm, 32, 32, "2"),
        *block(conv, 32, 64, "down2", stride=2, padding=1),
        *block(subm, 64, 64, "3"),
        *block(subm, 64, 64, "3"),
        *block(conv, 64, 64, "down3", stride=2, padding=[0, 1, 1]),
        *block(subm, 64, 64, "4"),
        *block(subm, 64, 64, "4"),
        *block(conv, 64, 128, "down4", kernel=(3, 1, 1), stride=(2, 1, 1)),
    )
