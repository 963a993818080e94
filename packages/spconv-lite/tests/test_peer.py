"""spconv 2.3.8 on the CPU, where it is right, with one thread: the same numbers and checkpoints.

With two OpenMP threads its forward is sometimes wrong, so it is compared at one only.
"""

import subprocess
import sys

import pytest
import torch
from torch import nn

import spconv_lite as sp

spconv = pytest.importorskip("spconv.pytorch")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(library):
    return library.SparseSequential(
        library.SubMConv3d(4, 16, 3, bias=False, indice_key="a"),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        library.SubMConv3d(16, 8, 1, bias=False),
        library.SparseConv3d(8, 12, 3, 2, 1, bias=False, indice_key="down"),
        library.SparseConv3d(12, 12, 1, bias=False),
        library.SparseConv3d(12, 12, (3, 1, 1), (2, 1, 1), bias=False),
        library.SparseConvTranspose3d(12, 8, 2, 2, bias=False),
        library.SparseMaxPool3d(2, 2),
    )


def by_site(x):
    key = x.indices[:, 0].long()
    for axis, length in enumerate(x.spatial_shape):
        key = key * length + x.indices[:, 1 + axis]
    order = key.argsort()
    return x.indices[order], x.features[order]


def test_a_state_dict_of_spconv_gives_the_same_numbers(sparse):
    torch.manual_seed(0)
    theirs, ours = make(spconv).eval(), make(sp).eval()
    ours.load_state_dict(theirs.state_dict())
    shape = [12, 20, 22]
    indices = sparse.random_sites(600, 2, shape, 3)
    features = torch.rand(600, 4)
    with torch.no_grad():
        expected = theirs(spconv.SparseConvTensor(features, indices, shape, 2))
        got = ours(sp.SparseConvTensor(features, indices, shape, 2))
    # its pool starts from 0, ours from the features: alike where the maximum is positive
    sites, values = by_site(expected)
    our_sites, our_values = by_site(got)
    assert got.spatial_shape == expected.spatial_shape
    assert torch.equal(sites, our_sites)
    assert torch.allclose(our_values.clamp(min=0), values, atol=1e-5)
    assert (values > 0).any()


@pytest.mark.parametrize("subm", [True, False])
def test_get_indice_pairs_gives_the_same_pairs(sparse, subm):
    from spconv.core import ConvAlgo
    from spconv.pytorch import ops as peer_ops

    indices = sparse.random_sites(500, 2, [9, 10, 11], 7)
    geometry = [3, 3, 3], [2, 2, 2], [1, 1, 1], [1, 1, 1], [0, 0, 0]
    out, pairs, number = peer_ops.get_indice_pairs(
        indices, 2, [9, 10, 11], ConvAlgo.Native, *geometry, subm
    )
    ours = sp.ops.get_indice_pairs(indices, 2, [9, 10, 11], *geometry, subm, False)
    assert pairs.shape == ours[1].shape
    for k in range(13 if subm else 27):  # it fills half of a submanifold rulebook
        n = int(number[k])
        assert n == int(ours[2][k])
        joined = [
            torch.cat([indices[book[0, k, :n].long()], sites[book[1, k, :n].long()]], 1).tolist()
            for sites, book in ((out, pairs), (ours[0], ours[1]))
        ]
        assert sorted(joined[0]) == sorted(joined[1])


def test_point_to_voxel_gives_the_same_bits():
    from spconv.pytorch.utils import PointToVoxel

    points = torch.rand(5000, 4) * torch.tensor([11.0, 11.0, 4.5, 1.0]) - 0.5
    settings = (0.5, 0.5, 0.5), (0, 0, 0, 10, 10, 4), 4, 700, 3
    expected = PointToVoxel(*map(list, settings[:2]), *settings[2:]).generate_voxel_with_id(points)
    got = sp.PointToVoxel(*settings).generate_voxel_with_id(points)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("size", "corners"),
    [
        ([0.4] * 3, [0, 0, 0, 1, 1, 1]),
        ([2.0] * 3, [0, 0, 0, 5, 7, 9]),
        ([0.1] * 3, [0, 0, 0, 0.25, 0.35, 0.45]),
        ([0.05, 0.05, 0.1], [0, -40, -3, 70.4, 40, 1]),
        ([0.3] * 3, [-1, -1, -1, 1, 1, 1]),
        ([0.32, 0.32, 6], [-74.88, -74.88, -2, 74.88, 74.88, 4]),
    ],
)
def test_a_range_has_as_many_cells(size, corners):
    from spconv.pytorch.utils import PointToVoxel

    settings = size, corners, 3, 10, 5
    assert sp.PointToVoxel(*settings).grid_size == list(PointToVoxel(*settings).grid_size)


PICKLER = """
import sys, torch, spconv.pytorch as spconv
from cumm.tensorview.gemm import Activation
torch.manual_seed(0)
layers = [
    spconv.SubMConv3d(4, 8, 3, indice_key="a"), torch.nn.BatchNorm1d(8), torch.nn.ReLU(),
    spconv.SparseConv3d(8, 8, 3, 2, 1, indice_key="d", record_voxel_count=True),
    spconv.SubMConv3d(8, 8, 1), spconv.SparseInverseConv3d(8, 4, 3, indice_key="d"),
    spconv.SparseMaxPool3d(2, 2), spconv.SparseConvTranspose3d(4, 4, 2, 2), spconv.ToDense(),
]
layers[0].act_type = Activation.ReLU
net = spconv.SparseSequential(*layers)
sites = torch.tensor([[0, 1, 1, 1], [0, 2, 3, 1], [0, 4, 4, 4]], dtype=torch.int32)
torch.save((net, spconv.SparseConvTensor(torch.ones(3, 4), sites, [5] * 3, 1)), sys.argv[1])
"""
READER = """
import sys, torch, warnings
warnings.simplefilter("ignore")
from spconv_lite import compat
compat.install(shadow=True)
import spconv_lite as sp
net, x = torch.load(sys.argv[1], weights_only=False)
assert isinstance(net[0], sp.SubMConv3d) and isinstance(x, sp.SparseConvTensor)
assert net[0].act_type is sp.Activation.ReLU and net[3].act_type is sp.Activation.None_
assert net.eval()(x).shape == (1, 4, 4, 4, 4)
net.load_state_dict(net.state_dict())
"""


def test_whole_networks_and_tensors_that_it_pickled_are_read(tmp_path):
    path = tmp_path / "whole.pth"
    for code in (PICKLER, READER):
        subprocess.run([sys.executable, "-c", code, path], check=True)


def test_spconv_1_weights_load():
    torch.manual_seed(0)
    ours = sp.SparseSequential(sp.SparseConv3d(3, 5, (3, 2, 1)), sp.SubMConv3d(5, 4, 1))
    old = {name: value.clone() for name, value in ours.state_dict().items()}
    old["0.weight"] = old["0.weight"].permute(1, 2, 3, 4, 0).contiguous()  # (k..., in, out)
    old["1.weight"] = old["1.weight"].view(1, 1, 1, 5, 4)  # read as (in, out) by both
    converted = sp.from_spconv_1(ours, old)
    for name, value in ours.state_dict().items():
        assert torch.equal(converted[name], value)
    with pytest.raises(ValueError, match=r"0.weight must have shape \(3, 2, 1, 3, 5\)"):
        sp.from_spconv_1(ours, ours.state_dict())
