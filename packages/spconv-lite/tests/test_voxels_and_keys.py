"""Points to voxels, keys and their order by the compiled functions: as plain torch has them."""

import pytest
import torch

import spconv_lite as sp
from spconv_lite.geometry import site_key, sort_keys
from spconv_lite.layers.tables import union_of_sites

pytestmark = pytest.mark.native


@pytest.fixture
def plain():
    """Runs a call with plain torch in the place of the kernels."""

    def run(call):
        before = sp.set_kernels("cpu", "torch")
        try:
            return call()
        finally:
            sp.set_kernels("cpu", before)

    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("axes", [1, 2, 3, 4])
@pytest.mark.parametrize("mean", [False, True])
def test_voxels_are_those_of_plain_torch(plain, dtype, axes, mean):
    torch.manual_seed(axes)
    points = (torch.rand(4000, axes + 2) * 11 - 0.5).to(dtype)
    points[5, 0], points[6, 0], points[7, 0] = float("nan"), float("inf"), -float("inf")
    points[8, :axes] = 10  # the far corner is outside
    make = sp.PointToVoxel([0.5] * axes, [0] * axes + [10] * axes, axes + 2, 300, 4)
    got = make.generate_voxel_with_id(points, empty_mean=mean)
    right = plain(lambda: make.generate_voxel_with_id(points, empty_mean=mean))
    for ours, theirs in zip(got, right, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, rtol=1e-6 if dtype != torch.bfloat16 else 1e-2)
    assert torch.equal(got[1], right[1])
    assert torch.equal(got[3], right[3])


@pytest.mark.parametrize("rows", [0, 1])
def test_no_points_and_one_point_outside_are_no_voxels(rows):
    make = sp.PointToVoxel([1, 1, 1], [0, 0, 0, 4, 4, 4], 4, 10, 3)
    voxels, indices, number, ids = make.generate_voxel_with_id(torch.full((rows, 4), 9.0))
    assert voxels.shape == (0, 3, 4)
    assert indices.shape == (0, 3)
    assert len(number) == 0
    assert ids.tolist() == [-1] * rows


def test_points_that_require_a_gradient_get_it():
    points = (torch.rand(50, 4) * 4).requires_grad_()
    make = sp.PointToVoxel([1, 1, 1], [0, 0, 0, 4, 4, 4], 4, 100, 50)
    make(points)[0].sum().backward()
    assert torch.equal(points.grad, torch.ones(50, 4))


@pytest.mark.parametrize("limit", [1, 2000, 1 << 22, (1 << 62) + 5])
@pytest.mark.parametrize("rows", [0, 1, 5000])
def test_sorted_keys_keep_equal_ones_in_their_order(limit, rows):
    torch.manual_seed(0)
    key = torch.randint(0, limit, (rows,))
    for one, right in zip(sort_keys(key, limit), key.sort(stable=True), strict=True):
        assert torch.equal(one, right)


def test_the_first_row_outside_the_grid_is_named():
    indices = torch.tensor([[0, 1, 1], [0, 1, 4], [1, 0, 0]], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"row 1 is \(0, 1, 4\)"):
        site_key("here", indices, 1, [2, 4])
    assert site_key("here", indices[:1], 1, [2, 4]).tolist() == [5]


def test_a_union_gives_every_tensor_its_rows(sparse):
    shape = [7, 8, 9]
    made = [
        sp.SparseConvTensor(torch.rand(n, 2), sparse.random_sites(n, 2, shape, n), shape, 2)
        for n in (40, 90, 1)
    ]
    total, rows = union_of_sites("union", made)
    keys = site_key("test", total.indices, 2, shape)
    assert torch.equal(keys, keys.unique())
    assert len(keys) == len(torch.cat([x.indices for x in made]).unique(dim=0))
    for x, mine in zip(made, rows, strict=True):
        assert torch.equal(total.indices[mine], x.indices)
