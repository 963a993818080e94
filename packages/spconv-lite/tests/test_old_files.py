"""Layers that version 0.1 saved open for ever."""

import tarfile
from pathlib import Path

import torch

import spconv_lite as sp

FILES = Path(__file__).parent / "data" / "version_0_1.tar.xz"


def test_layers_of_version_0_1_are_loaded_with_every_name_and_shape(tmp_path):
    with tarfile.open(FILES) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # 3.11.4
        archive.extractall(tmp_path)
    net = sp.SparseSequential(
        sp.SubMConv3d(1, 2, 3, indice_key="a"), torch.nn.BatchNorm1d(2),
        sp.SparseConv3d(2, 3, 2, 2, indice_key="b"),
        sp.SparseInverseConv3d(3, 2, 2, indice_key="b"),
    )  # fmt: skip
    state = torch.load(tmp_path / "layers.pth", weights_only=True)
    net.load_state_dict(state, strict=True)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert len(set(net[0].weight.flatten().tolist())) == 5
