"""Faults of spconv 2.3.8, each with the right answer here; issue numbers are spconv's. Wrong
coordinates and duplicates are in test_bad_input."""

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


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_a_dilated_transposed_layer_has_the_shape_and_values_of_torch(sparse, ndim):
    shape = [7] * ndim
    indices = sparse.random_sites(20, 2, shape, ndim)
    layer = getattr(sp, f"SparseConvTranspose{ndim}d")(2, 3, 3, 2, 1, 2).double()
    features = torch.randn(len(indices), 2).double()
    out = layer(sp.SparseConvTensor(features, indices, shape, 2))
    dense_in = sparse.to_dense(features, indices, 2, shape)
    dense = sparse.dense_conv(dense_in, layer.weight, layer.bias, 2, 1, 2, 1, True)
    assert out.spatial_shape == list(dense.shape[2:]) == [15] * ndim
    assert torch.allclose(out.features, sparse.at_sites(dense, out.indices))


def test_a_submanifold_1x1_weight_has_one_documented_reading():
    """#450, #556: the memory is (in, out), in every dimension and whatever the key."""
    weight = torch.arange(6.0)
    for ndim in (1, 2, 3, 4):
        layer = getattr(sp, f"SubMConv{ndim}d")(2, 3, 1, bias=False)
        layer.load_state_dict({"weight": weight.view(3, *[1] * ndim, 2)})
        x = sp.SparseConvTensor(
            torch.tensor([[1.0, 10.0]]), torch.zeros(1, ndim + 1).int(), [2] * ndim, 1
        )
        assert layer(x).features.tolist() == [[30.0, 41.0, 52.0]]


def test_the_maximum_of_all_negative_features_is_negative():
    """#754: it was 0."""
    x = sp.SparseConvTensor(
        torch.tensor([[-3.0], [-2.0]]), torch.tensor([[0, 0], [0, 1]]).int(), [4], 1
    )
    assert sp.SparseMaxPool1d(2)(x).features.tolist() == [[-2.0]]


def test_the_global_average_counts_the_sites_of_each_sample_alone():
    """#708."""
    indices = torch.tensor([[1, 0], [0, 0], [1, 2], [1, 3]], dtype=torch.int32)
    x = sp.SparseConvTensor(torch.tensor([[1.0], [7.0], [2.0], [6.0]]), indices, [4], 2)
    assert sp.SparseGlobalAvgPool()(x).tolist() == [[7.0], [3.0]]


def test_groups_and_depthwise_are_separate_layers_side_by_side(sparse):
    indices = sparse.random_sites(40, 1, [8, 8], 0)
    features = torch.randn(40, 6)
    for groups in (2, 3, 6):
        layer = sp.SubMConv2d(6, 6, 3, groups=groups, bias=False)
        part = 6 // groups
        for g in range(groups):
            alone = sp.SubMConv2d(part, part, 3, bias=False)
            own = slice(g * part, (g + 1) * part)
            alone.load_state_dict({"weight": layer.weight[own].detach()})
            got = layer(sp.SparseConvTensor(features, indices, [8, 8], 1)).features[:, own]
            x = sp.SparseConvTensor(features[:, own].contiguous(), indices, [8, 8], 1)
            assert torch.allclose(got, alone(x).features, atol=1e-6)


def test_even_submanifold_kernels_average_pools_and_bfloat16_work_on_the_cpu(sparse):
    indices = sparse.random_sites(40, 1, [8, 8, 8], 0)
    x = sp.SparseConvTensor(torch.ones(40, 2, dtype=torch.bfloat16), indices, [8, 8, 8], 1)
    assert sp.SparseAvgPool3d(2)(x).features.eq(1).all()
    layer = sp.SubMConv3d(2, 1, 2, bias=False, dtype=torch.bfloat16)
    torch.nn.init.ones_(layer.weight)
    occupied = sparse.to_dense(torch.ones(40, 1), indices, 1, [8, 8, 8])
    kernel = torch.ones(1, 2, 2, 2, 1)
    around = sparse.dense_conv(torch.nn.functional.pad(occupied, [1, 0] * 3), kernel, None, 1, 0, 1)
    expected = 2 * sparse.at_sites(around, indices)
    assert torch.equal(layer(x).features.float(), expected)


def test_double_backward_works():
    """#182."""
    indices = torch.tensor([[0, 0], [0, 1], [0, 3]], dtype=torch.int32)
    layer = sp.SubMConv1d(2, 2, 3).double()

    def energy(features):
        return layer(sp.SparseConvTensor(features, indices, [5], 1)).features.sin()

    features = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(energy, features)


def test_a_layer_compiles_as_one_graph(sparse):
    """#596, #694."""
    layer = sp.SparseConv2d(2, 3, 3, 2, 1)
    indices, features = sparse.random_sites(20, 1, [9, 9], 0), torch.randn(20, 2)

    def run(features, indices):
        return layer(sp.SparseConvTensor(features, indices, [9, 9], 1)).features

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(features, indices), run(features, indices))


def test_the_race_of_two_threads_in_small_layers_does_not_exist(sparse):
    """With two threads spconv is wrong at random rows in 11 of 200 such cases."""
    before = torch.get_num_threads()
    try:
        for case in range(200):
            torch.manual_seed(case)
            indices = sparse.random_sites(30, 2, [40], case)
            layer = sp.SubMConv1d(8, 4, 3, bias=False).double()
            features = torch.randn(30, 8).double()
            dense_in = sparse.to_dense(features, indices, 2, [40])
            dense = sparse.dense_conv(dense_in, layer.weight, None, 1, 1, 1)
            expected = sparse.at_sites(dense, indices)
            results = []
            for threads in (1, 2, 8):
                torch.set_num_threads(threads)
                results.append(layer(sp.SparseConvTensor(features, indices, [40], 2)).features)
            assert torch.allclose(results[0], expected, atol=1e-12)
            assert all(torch.equal(results[0], other) for other in results[1:])
    finally:
        torch.set_num_threads(before)


def test_layers_of_one_key_and_another_kernel_are_refused_not_mixed(sparse):
    """Cylinder3D#107: a 3x3x3 layer that reuses the rulebook of a 1x3x3 one."""
    indices = sparse.random_sites(20, 1, [6, 6, 6], 0)
    x = sp.SparseConvTensor(torch.randn(20, 2), indices, [6, 6, 6], 1)
    flat = sp.SubMConv3d(2, 2, (1, 3, 3), indice_key="a")(x)
    with pytest.raises(ValueError, match="made with another kernel_size"):
        sp.SubMConv3d(2, 2, 3, indice_key="a")(flat)
