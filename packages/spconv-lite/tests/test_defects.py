"""Faults of spconv 2.3.8, each with the right answer here. Others live beside what they concern:
grids beyond 2^31, wrong coordinates and duplicates in test_bad_input, dilated transposed layers,
groups and even kernels in test_conv, all-negative maxima in test_pool."""

import pytest
import torch

import spconv_lite as sp

pytestmark = pytest.mark.native


def ones_layer(make, *arguments, **settings):
    layer = make(1, 1, *arguments, bias=False, **settings)
    torch.nn.init.ones_(layer.weight)
    return layer


def test_a_large_batch_index_on_a_large_grid_does_not_wrap():
    shape = [41, 1440, 1440]
    indices = torch.tensor([[50, 40, 1439, 1439], [0, 0, 0, 0]], dtype=torch.int32)
    x = sp.SparseConvTensor(torch.tensor([[1.0], [1000.0]]), indices, shape, 51)
    assert ones_layer(sp.SubMConv3d, 3)(x).features.flatten().tolist() == [1.0, 1000.0]


def test_backward_and_eval_with_bias_work_on_the_cpu(sparse):
    indices = sparse.random_sites(30, 1, [9, 9], 0)
    layer = sp.SubMConv2d(2, 3, 3).eval()
    features = torch.randn(30, 2, requires_grad=True)
    out = layer(sp.SparseConvTensor(features, indices, [9, 9], 1)).features
    out.sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((3,), 30.0))
    assert features.grad.abs().sum() > 0


@pytest.mark.parametrize("make", [sp.SubMConv2d, sp.SparseConv2d, sp.SparseConvTranspose2d])
def test_empty_input_gives_empty_output_and_zero_gradients(make):
    layer = make(2, 3, 3, padding=1)
    empty = torch.empty(0, 3, dtype=torch.int32)
    out = layer(sp.SparseConvTensor(torch.empty(0, 2), empty, [8, 8], 2))
    assert out.features.shape == (0, 3)
    assert out.dense().shape == (2, 3, *out.spatial_shape)
    out.features.sum().backward()
    assert torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))


def test_points_that_all_vanish_leave_an_empty_tensor_of_the_right_shape():
    indices = torch.tensor([[0, 1]], dtype=torch.int32)
    out = sp.SparseConv1d(1, 1, 1, 2)(sp.SparseConvTensor(torch.ones(1, 1), indices, [4], 1))
    assert [out.indices.shape[0], out.spatial_shape] == [0, [2]]


def test_int64_coordinates_are_taken(sparse):
    indices = sparse.random_sites(30, 1, [9, 9], 0)
    features = torch.randn(30, 2)
    layer = sp.SubMConv2d(2, 3, 3)
    short = layer(sp.SparseConvTensor(features, indices, [9, 9], 1)).features
    assert torch.equal(
        layer(sp.SparseConvTensor(features, indices.long(), [9, 9], 1)).features, short
    )


def test_misaligned_tensors_add_and_duplicates_merge_on_purpose():
    left = torch.tensor([[0, 3], [0, 1]], dtype=torch.int32)
    right = torch.tensor([[0, 1], [0, 0]], dtype=torch.int32)
    make = sp.SparseConvTensor
    a, b = (
        make(torch.tensor([[1.0], [2.0]]), left, [5], 1),
        make(torch.tensor([[10.0], [20.0]]), right, [5], 1),
    )
    total = sp.AddTableMisaligned()([a, b])
    assert total.indices.tolist() == [[0, 0], [0, 1], [0, 3]]
    assert total.features.flatten().tolist() == [20.0, 12.0, 1.0]
    with pytest.raises(ValueError, match="use AddTableMisaligned"):
        sp.AddTable()([a, b])
    twice = make(torch.tensor([[1.0], [5.0], [10.0]]), torch.cat([left, left[:1]]), [5], 1)
    for reduce, value in {"sum": 11.0, "mean": 5.5, "max": 10.0, "first": 1.0}.items():
        assert sp.coalesce(twice, reduce).features.flatten().tolist() == [5.0, value]


def test_average_of_a_voxel_fills_its_unused_places():
    points = torch.tensor([[0.1, 1.0], [0.3, 3.0], [1.5, 7.0]])
    make = sp.PointToVoxel([1.0], [0.0, 4.0], 2, 10, 3)
    voxels, indices, number = make(points, empty_mean=True)
    assert voxels[:, :, 1].tolist() == [[1.0, 3.0, 2.0], [7.0, 7.0, 7.0]]
    assert [indices.tolist(), number.tolist()] == [[[0], [1]], [2, 1]]
    numpy = make(points.numpy(), empty_mean=True)
    assert torch.equal(torch.from_numpy(numpy[0]), voxels)


def test_points_that_are_not_finite_belong_to_no_voxel():
    points = torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0], [-0.1, 1.0], [0.2, 1.0]])
    ids = sp.PointToVoxel([1.0], [0.0, 4.0], 2, 10, 3).generate_voxel_with_id(points)[3]
    assert ids.tolist() == [-1, -1, -1, 0]


def test_dense_and_back_are_inverse_and_differentiable(sparse):
    indices = sparse.random_sites(20, 2, [5, 6], 0)
    features = torch.rand(20, 3, requires_grad=True)
    dense = sp.SparseConvTensor(features, indices, [5, 6], 2).dense()
    assert torch.equal(dense, sparse.to_dense(features, indices, 2, [5, 6]))
    back = sp.SparseConvTensor.from_dense(dense.movedim(1, -1))
    assert torch.equal(back.dense(), dense)
    (grad,) = torch.autograd.grad(back.features.sum(), features)
    assert torch.equal(grad, torch.ones_like(features))
    one = back.select_batch(1)
    assert torch.equal(one.dense()[0], dense[1])
