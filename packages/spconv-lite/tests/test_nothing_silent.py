"""What was wrong without a message: coordinates, keys, narrow sums, tangents, runs that differ."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import spconv_lite as sp
from spconv_lite.kernels import cpu
from spconv_lite.scans import read_points

pytestmark = pytest.mark.native
HALF = (torch.float16, torch.bfloat16)


def line(*cells, batch=0):
    return torch.tensor([[batch, cell] for cell in cells], dtype=torch.int32)


def tensor(features, indices, shape, batch_size=1, **more):
    return sp.SparseConvTensor(features, indices, shape, batch_size, **more)


# ---------------------------------------------------------------------------------- coordinates

OUTSIDE = {
    "beyond an axis": [0, 1, 5],
    "below zero": [0, -1, 0],
    "beyond the batch": [2, 0, 0],
    "batch below zero": [-1, 0, 0],
}
USES = {
    "dense": lambda x: x.dense(),
    "a layer of kernel 1": sp.SubMConv2d(2, 2, 1),
    "a strided layer of kernel 1": sp.SparseConv2d(2, 2, 1),
    "a layer": sp.SubMConv2d(2, 2, 3),
    "coalesce": sp.coalesce,
    "a sum": lambda x: sp.AddTableMisaligned()([x, x]),
    "a join": lambda x: sp.JoinTableMisaligned()([x, x]),
    "a pool": sp.SparseMaxPool2d(2),
    "a global pool": sp.SparseGlobalAvgPool(),
    "a global maximum": sp.SparseGlobalMaxPool(),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("where", OUTSIDE)
def test_a_site_outside_the_grid_is_refused_wherever_it_is_used(use, where):
    x = tensor(torch.randn(2, 2), torch.tensor([[0, 1, 1], OUTSIDE[where]]).int(), [4, 5], 2)
    with pytest.raises(ValueError, match=r"indices row 1 is .* outside batch_size 2"):
        USES[use](x)


@pytest.mark.parametrize("use", [name for name in USES if name != "a layer"])
def test_indices_that_were_assigned_or_changed_in_place_are_checked_again(use):
    x = tensor(torch.randn(2, 2), torch.tensor([[0, 1, 1], [0, 2, 2]]).int(), [4, 5], 2)
    USES[use](x)
    moved = x.shadow_copy()
    moved.indices = x.indices + 3
    with pytest.raises(ValueError, match="outside batch_size 2"):
        USES[use](moved)
    x.indices[:, 1] += 2
    with pytest.raises(ValueError, match="outside batch_size 2"):
        USES[use](x)


def test_a_smaller_grid_or_batch_that_is_assigned_is_seen():
    x = tensor(torch.ones(2, 1), torch.tensor([[0, 1], [1, 3]]).int(), [4], 2)
    x.dense()
    x.spatial_shape = [3]
    with pytest.raises(ValueError, match="outside batch_size 2 and spatial_shape"):
        x.dense()
    x.spatial_shape, x.batch_size = [4], 1
    with pytest.raises(ValueError, match="outside batch_size 1"):
        sp.SubMConv1d(1, 1, 1)(x)


def test_a_site_twice_is_no_dense_tensor():
    with pytest.raises(ValueError, match=r"dense: indices rows 0 and 2 are both \(0, 1\)"):
        tensor(torch.ones(3, 1), line(1, 2, 1), [4]).dense()
    x = tensor(torch.ones(3, 1), line(1, 2, 1), [4])
    with pytest.raises(ValueError, match="has a site twice"):
        sp.AddTableMisaligned()([x, x])


TWICE = {name: use for name, use in USES.items() if name not in ("coalesce", "a sum", "a join")}
TWICE["voxel_to_point"] = lambda x: sp.voxel_to_point(x, torch.ones(1, 2), torch.zeros(1).int())


@pytest.mark.parametrize("use", TWICE)
def test_a_site_twice_is_refused_wherever_it_is_used(use):
    sites = torch.tensor([[0, 1, 1], [0, 2, 2], [0, 1, 1]]).int()
    with pytest.raises(ValueError, match=r"indices rows 0 and 2 are both \(0, 1, 1\)"):
        TWICE[use](tensor(torch.ones(3, 2), sites, [4, 5], 2))


@pytest.mark.parametrize("use", [name for name in USES if name != "dense"])
@pytest.mark.parametrize(("side", "batch_size"), [(2**31 - 1, 3), (2**40, 1)])
def test_a_grid_whose_cells_int64_does_not_number_is_refused(use, side, batch_size):
    x = tensor(torch.ones(2, 2), torch.tensor([[0, 1, 1], [0, 2, 2]]).int(), [side] * 2, batch_size)
    with pytest.raises(ValueError, match=r"2\^63 - 1 cells|longer than 2\^31 - 1"):
        USES[use](x)


def test_sizes_that_are_not_whole_are_refused_and_kept_as_a_list():
    x = tensor(torch.ones(1, 1), line(0), np.array([4.0]), torch.tensor(1))
    assert (x.spatial_shape, x.batch_size) == ([4], 1)
    y = x.shadow_copy()
    y.spatial_shape = (4,)
    assert torch.equal(sp.AddTable()([x, y]).features, 2 * x.features)
    with pytest.raises(ValueError, match=r"spatial_shape must be whole, got 4\.7"):
        tensor(torch.ones(1, 1), line(0), [4.7])
    with pytest.raises(ValueError, match=r"batch_size must be whole, got 1\.5"):
        tensor(torch.ones(1, 1), line(0), [4], 1.5)


def test_one_channel_is_not_added_to_all_of_another_tensor():
    x = tensor(torch.ones(2, 4), line(0, 2), [4])
    one = x.replace_feature(x.features[:, :1])
    layer = sp.SubMConv1d(4, 4, 3)
    for add in (
        lambda: x + one,
        lambda: sp.AddTable()([x, one]),
        lambda: sp.AddTableMisaligned()([x, one]),
        lambda: layer(x, add_input=one),
    ):
        with pytest.raises(ValueError, match=r"must have as many channels, got \[1, 4\]"):
            add()


def test_tables_of_nothing_say_so():
    for kind in (sp.AddTable, sp.JoinTable, sp.AddTableMisaligned, sp.JoinTableMisaligned):
        with pytest.raises(ValueError, match=f"{kind.__name__}: there must be at least one tensor"):
            kind()([])


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "first"])
def test_nothing_is_merged_into_nothing(reduce):
    x = tensor(torch.zeros(0, 3), torch.zeros(0, 2).int(), [4])
    assert sp.coalesce(x, reduce).features.shape == (0, 3)


def test_pairs_of_a_transposed_layer_are_those_of_its_output_padding(sparse):
    x = tensor(torch.randn(20, 4), sparse.random_sites(20, 1, [5] * 3, 0), [5] * 3)
    layer = sp.SparseConvTranspose3d(4, 4, 3, 2, 1, output_padding=1, indice_key="up")
    data = layer(x).indice_dict["up"]
    assert int(data.indice_pair_num.sum()) == len(data.rulebook.pair_out)


@pytest.mark.parametrize("half", HALF)
def test_features_of_another_dtype_than_the_layer_are_refused(half, sparse):
    indices = sparse.random_sites(20, 1, [5] * 3, 0)
    for layer in (sp.SubMConv3d(4, 4, 3), sp.SubMConv3d(4, 4, 1), sp.SubMConv3d(4, 4, 3, groups=4)):
        with pytest.raises(TypeError, match="must be of one floating dtype"):
            layer(tensor(torch.randn(20, 4).to(half), indices, [5] * 3))


# ---------------------------------------------------------------------------------- points


def test_a_point_beside_the_only_site_has_its_features_however_small_the_weight():
    x = tensor(torch.tensor([[7.0]]), torch.tensor([[0, 1, 1, 1]]).int(), [4] * 3)
    for away in (1e-3, 1e-5, 1e-9):
        point = torch.full((1, 3), 0.5 + away, dtype=torch.float64)
        assert sp.voxel_to_point(x, point).item() == pytest.approx(7.0)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_a_point_without_a_site_gives_no_gradient_that_is_not_a_number(dtype):
    features = torch.ones(1, 1, dtype=dtype, requires_grad=True)
    x = tensor(features, torch.tensor([[0, 1, 1, 1]]).int(), [4] * 3)
    y = sp.voxel_to_point(x, torch.tensor([[3.5] * 3, [1.5] * 3]))
    y.sum().backward()
    assert (y.flatten().tolist(), features.grad.item()) == ([0.0, 1.0], 1.0)


@pytest.mark.parametrize(
    ("batch", "error", "match"),
    [
        ([1], ValueError, r"batch must have shape \(2,\), got \(1,\)"),
        ([0, 2], ValueError, r"batch\[1\] is 2, outside batch_size 2"),
        ([-1, 0], ValueError, r"batch\[0\] is -1, outside batch_size 2"),
        ([0.0, 1.0], TypeError, "batch must be int32 or int64"),
    ],
)
def test_samples_of_points_are_checked(batch, error, match):
    x = tensor(torch.ones(2, 1), torch.tensor([[0, 1], [1, 1]]).int(), [4], 2)
    with pytest.raises(error, match=match):
        sp.voxel_to_point(x, torch.ones(2, 1), torch.tensor(batch))


def test_voxels_of_points_are_gathered_or_refused():
    ids = torch.tensor([-1, -1])
    assert sp.gather_features_by_pc_voxel_id(torch.zeros(0, 3), ids, 5).tolist() == [[5.0] * 3] * 2
    with pytest.raises(ValueError, match="values below 2, got"):
        sp.gather_features_by_pc_voxel_id(torch.zeros(2, 3), torch.tensor([0, 2]))


@pytest.mark.parametrize("gather", ["voxel_to_point", "gather_features_by_pc_voxel_id"])
def test_gradients_of_many_points_in_a_voxel_are_the_same_bits_in_every_run(gather, sparse):
    generator = torch.Generator().manual_seed(0)
    indices = sparse.random_sites(2000, 1, [16] * 3, 0)
    features, noise = torch.randn(2000, 16, generator=generator), torch.randn(40000, 16)
    points = torch.rand(40000, 3, generator=generator) * 16
    ids = torch.randint(-1, 2000, (40000,), generator=generator)
    before, seen = torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 2, 2, 2, 8):
            torch.set_num_threads(threads)
            leaf = features.clone().requires_grad_()
            if gather == "voxel_to_point":
                out = sp.voxel_to_point(tensor(leaf, indices, [16] * 3), points)
            else:
                out = sp.gather_features_by_pc_voxel_id(leaf, ids)
            out.backward(noise)
            seen.add(leaf.grad.numpy().tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(seen) == 1


# ---------------------------------------------------------------------------------- indice keys


def keyed():
    torch.manual_seed(0)
    first, second = (sp.SubMConv1d(1, 1, 3, bias=False, indice_key="k") for _ in range(2))
    return first(tensor(torch.randn(6, 1), line(0, 1, 2, 4, 5, 7), [9])), second


def test_a_key_is_refused_on_the_same_sites_in_another_order():
    y, layer = keyed()
    order = torch.tensor([1, 0, 2, 3, 4, 5])
    z = y.replace_feature(y.features[order])
    z.indices = y.indices[order]
    with pytest.raises(ValueError, match="'k' was made for other sites, or for the same in"):
        layer(z)


def test_a_key_is_refused_on_as_many_other_sites():
    y, layer = keyed()
    other = tensor(y.features, line(0, 2, 4, 6, 8, 3), [9], indice_dict=y.indice_dict)
    with pytest.raises(ValueError, match="'k' was made for other sites"):
        layer(other)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_a_key_is_refused_on_sites_that_were_changed_in_place(mode):
    with mode():
        y, layer = keyed()
        y.indices[0, 1] = 8
        with pytest.raises(ValueError, match="'k' was made for other sites"):
            layer(y)


def test_a_key_is_taken_on_a_copy_of_its_sites():
    y, layer = keyed()
    copy = y.shadow_copy()
    copy.indices = y.indices.clone()
    assert torch.equal(layer(copy).features, layer(y).features)


def test_an_inverse_is_refused_on_other_sites():
    x = tensor(torch.randn(4, 1), line(0, 1, 4, 5), [8])
    y = sp.SparseConv1d(1, 1, 2, 2, indice_key="down")(x)
    back = sp.SparseInverseConv1d(1, 1, 2, indice_key="down")
    assert torch.equal(back(y).indices, x.indices)
    y.indices = y.indices.flip(0)
    with pytest.raises(ValueError, match="its output's sites, in their order"):
        back(y)


# ---------------------------------------------------------------------------------- narrow sums


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("reduce", "right"), [("sum", 4096.0), ("mean", 1.0)])
def test_narrow_rows_of_one_site_are_summed_wide(dtype, reduce, right):
    x = tensor(torch.ones(4096, 1, dtype=dtype), torch.zeros(4096, 2).int(), [4])
    merged = sp.coalesce(x, reduce).features
    assert merged.dtype is dtype
    assert merged.item() == right


@pytest.mark.parametrize("dtype", HALF)
def test_narrow_tensors_are_added_wide(dtype):
    one = tensor(torch.ones(1, 1, dtype=dtype), line(0), [4])
    assert sp.AddTableMisaligned()([one] * 1024).features.item() == 1024
    total = sp.functional.sparse_add(*[one] * 1024).features
    assert (total.dtype, total.item()) == (dtype, 1024)


@pytest.mark.parametrize("dtype", HALF)
def test_narrow_pools_are_summed_wide(dtype):
    x = tensor(torch.ones(3000, 1, dtype=dtype), line(*range(3000)), [3000])
    for pool in (sp.SparseAvgPool1d(3000), sp.SparseGlobalAvgPool()):
        y = pool(x)
        assert (y if isinstance(y, torch.Tensor) else y.features).item() == 1.0


@pytest.mark.parametrize("dtype", HALF)
def test_the_cells_of_narrow_points_are_those_of_the_same_numbers_in_float32(dtype):
    make = sp.PointToVoxel((0.05, 0.05, 0.1), (0, -80, -3, 80, 80, 1), 4, 100, 5)
    points = torch.tensor([[50.03, 50.03, 0.5, 0], [50.13, 50.13, 0.5, 0], [69.97, 10.02, 0.5, 0]])
    narrow = points.to(dtype)
    assert torch.equal(make(narrow)[1], make(narrow.float())[1])
    assert make(narrow)[0].dtype is dtype


# ---------------------------------------------------------------------------------- the same bits


def results(make, features, indices, shape, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        layer, x = make(), features.clone().requires_grad_()
        y = layer(tensor(x, indices, shape, 2))
        y = y if isinstance(y, torch.Tensor) else y.features
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        y.backward(noise.to(y.dtype))
        return [y.detach(), x.grad, *(p.grad for p in layer.parameters())]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sp.SparseMaxPool3d(3, 2, 1),
        lambda: sp.SparseAvgPool3d(3, 2, 1),
        lambda: sp.SparseGlobalMaxPool(),
        lambda: sp.SparseGlobalAvgPool(),
        lambda: sp.SubMConv3d(24, 24, 1),
        lambda: sp.SubMConv3d(24, 24, 3),
        lambda: sp.SubMConv3d(24, 24, 3, groups=24),
        lambda: sp.SparseConv3d(24, 24, 3, 2, groups=3),
    ],
    ids=["max", "avg", "global-max", "global-avg", "1x1", "subm", "depthwise", "grouped"],
)
def test_the_bits_are_the_same_in_every_run_and_for_any_number_of_threads(make, sparse):
    shape = [12, 40, 40]
    indices = sparse.random_sites(6000, 2, shape, 0)
    features = torch.randn(6000, 24, generator=torch.Generator().manual_seed(2))
    first = results(make, features, indices, shape, 1)
    for threads in (1, 2, 8, 2):
        again = results(make, features, indices, shape, threads)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


# ---------------------------------------------------------------------------------- torch.func


@pytest.mark.parametrize(
    "layer",
    [
        sp.SubMConv3d(4, 4, 3),
        sp.SubMConv3d(4, 4, 3, groups=4),
        sp.SparseConv3d(4, 4, 3, 2, 1),
        sp.SubMConv3d(4, 4, 1),
        sp.SparseMaxPool3d(2),
        sp.SparseAvgPool3d(2),
    ],
    ids=["subm", "depthwise", "strided", "1x1", "max", "avg"],
)
def test_tangents_and_gradients_of_torch_func_are_right(layer, sparse):
    layer = layer.double()
    indices = sparse.random_sites(60, 1, [6] * 3, 0)
    x, v = torch.randn(2, 60, 4, generator=torch.Generator().manual_seed(0)).double()
    call = lambda x: layer(tensor(x, indices, [6] * 3)).features  # noqa: E731
    loss = lambda x: call(x).square().sum()  # noqa: E731
    with torch.no_grad():
        numeric = (call(x + 1e-6 * v) - call(x - 1e-6 * v)) / 2e-6
    assert torch.allclose(torch.func.jvp(call, (x,), (v,))[1], numeric, atol=1e-6)
    wanted = torch.autograd.functional.vjp(loss, x)[1]
    assert torch.allclose(torch.func.grad(loss)(x), wanted)
    product = torch.autograd.functional.hvp(loss, x, v)[1]
    assert torch.allclose(torch.func.jvp(torch.func.grad(loss), (x,), (v,))[1], product)
    both = torch.func.vmap(call)(torch.stack([x, v]))
    assert torch.allclose(both, torch.stack([call(x), call(v)]))
    with torch.autograd.forward_ad.dual_level():
        dual = call(torch.autograd.forward_ad.make_dual(x, v))
        tangent = torch.autograd.forward_ad.unpack_dual(dual).tangent
    assert torch.allclose(tangent, numeric, atol=1e-6)


def test_a_tangent_of_the_weight_and_bias_is_right(sparse):
    indices = sparse.random_sites(60, 1, [6] * 3, 0)
    layer = sp.SubMConv3d(4, 3, 3)
    x = tensor(torch.randn(60, 4), indices, [6] * 3)
    at = {name: p.detach() for name, p in layer.named_parameters()}
    by = {name: torch.randn_like(p) for name, p in at.items()}
    call = lambda w: torch.func.functional_call(layer, w, (x,)).features  # noqa: E731
    assert torch.allclose(torch.func.jvp(call, (at,), (by,))[1], call(by), atol=1e-5)


def test_a_bare_operator_under_torch_func_says_what_to_call(sparse):
    indices = sparse.random_sites(10, 1, [4] * 3, 0)
    book = sp.ops.subm_rulebook(indices, 1, [4] * 3, [3] * 3, [1] * 3)
    x, w = torch.randn(10, 2), torch.randn(2, 3, 3, 3, 2)
    bare = lambda x: torch.ops.spconv_lite.conv(x, w, None, *book, 10, 1, True)  # noqa: E731
    with pytest.raises(NotImplementedError, match=r"call spconv_lite.ops.conv under torch.func"):
        torch.func.jvp(bare, (x,), (x,))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_flops_are_counted_forward_and_backward(groups, sparse):
    indices = sparse.random_sites(60, 1, [6] * 3, 0)
    layer = sp.SubMConv3d(4, 8, 3, bias=False, groups=groups)
    x = tensor(torch.randn(60, 4, requires_grad=True), indices, [6] * 3)
    pairs = len(sp.ops.subm_rulebook(indices, 1, [6] * 3, [3] * 3, [1] * 3)[0])
    once = 2 * pairs * 4 * 8 // groups
    with FlopCounterMode(display=False) as forward:
        y = layer(x)
    assert forward.get_total_flops() == once
    with FlopCounterMode(display=False) as backward:
        y.features.sum().backward()
    assert backward.get_total_flops() == 2 * once


# ---------------------------------------------------------------------------------- empty samples


def test_an_empty_sample_gives_every_parameter_a_gradient_and_keeps_the_statistics():
    net = sp.SparseSequential(
        sp.SubMConv3d(2, 4, 3),
        nn.BatchNorm1d(4),
        nn.Linear(4, 3),
        nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()),
        sp.SparseBatchNorm(3),
        sp.SubMConv3d(3, 3, 3),
    )
    before = {name: value.clone() for name, value in net.named_buffers()}
    y = net(tensor(torch.zeros(0, 2), torch.zeros(0, 4).int(), [4] * 3))
    assert y.features.shape == (0, 3)
    y.features.sum().backward()
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter)), name
    assert all(torch.equal(before[name], value) for name, value in net.named_buffers())
    assert all(module.training for module in net.modules())


# ---------------------------------------------------------------------------------- files


def test_scans_of_nuscenes_have_five_floats_a_point(tmp_path):
    points = np.arange(40, dtype=np.float32).reshape(8, 5)
    points.tofile(tmp_path / "n015.pcd.bin")
    assert np.array_equal(read_points(tmp_path / "n015.pcd.bin"), points[:, :4])


def test_a_scan_that_could_be_either_is_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.uniform(-50, 50, (8, 5)).astype(np.float32)
    points[:, 3:] = rng.integers(0, 32, (8, 2))
    points.tofile(tmp_path / "a.bin")
    with pytest.raises(ValueError, match="say columns=4 or columns=5"):
        read_points(tmp_path / "a.bin")
    assert np.array_equal(read_points(tmp_path / "a.bin", columns=5), points[:, :4])
    kitti = rng.uniform(-50, 50, (10, 4)).astype(np.float32)
    kitti[:, 3] = rng.uniform(0, 1, 10)
    kitti.tofile(tmp_path / "b.bin")
    assert np.array_equal(read_points(tmp_path / "b.bin"), kitti)
    with pytest.raises(ValueError, match="28 bytes a point"):
        read_points(tmp_path / "b.bin", columns=7)


# ---------------------------------------------------------------------------------- new pieces


def test_a_misaligned_join_has_zeros_where_a_tensor_lacks_a_site():
    a = tensor(torch.tensor([[1.0], [2.0]]), line(3, 1), [5])
    b = tensor(torch.tensor([[10.0, 11.0], [20.0, 21.0]]), line(1, 0), [5])
    joined = sp.JoinTableMisaligned()([a, b])
    assert joined.indices.tolist() == [[0, 0], [0, 1], [0, 3]]
    assert joined.features.tolist() == [[0, 20, 21], [2, 10, 11], [1, 0, 0]]


@pytest.mark.parametrize("make", [sp.SparseConv2d, sp.SparseConvTranspose2d])
def test_a_convolution_onto_given_coordinates_is_that_part_of_the_dense_one(make, sparse):
    indices = sparse.random_sites(20, 2, [7, 8], 0)
    layer = make(3, 4, 3, 2, 1)
    x = tensor(torch.randn(20, 3), indices, [7, 8], 2)
    full = layer(x)
    cells = sparse.random_sites(25, 2, full.spatial_shape, 1)
    part = layer(x, coordinates=cells)
    assert torch.equal(part.indices, cells)
    dense = full.dense()
    reached = torch.zeros(2, *full.spatial_shape, dtype=torch.bool)
    reached[tuple(full.indices.long().unbind(1))] = True
    hit = reached[tuple(cells.long().unbind(1))]
    expected = torch.where(hit[:, None], sparse.at_sites(dense, cells), layer.bias)
    assert torch.allclose(part.features, expected, atol=1e-5)
    with pytest.raises(ValueError, match="rows 0 and 1 are both"):
        layer(x, coordinates=cells[[0, 0]])


def test_a_generative_layer_is_pruned():
    x = tensor(torch.randn(3, 2), line(0, 2, 5), [6])
    y = sp.SparseConvTranspose1d(2, 2, 2, 2)(x)
    keep = y.features[:, 0] > 0
    kept = sp.SparsePruning()(y, keep)
    assert torch.equal(kept.indices, y.indices[keep])
    with pytest.raises(ValueError, match="keep must be bool"):
        sp.SparsePruning()(y, keep.float())


def test_features_between_voxels_are_trilinear(sparse):
    shape = [4, 5, 6]
    all_cells = torch.cartesian_prod(torch.arange(1), *map(torch.arange, shape)).int()
    linear = (all_cells[:, 1:].double() @ torch.tensor([1.0, 10.0, 100.0]).double())[:, None]
    x = tensor(linear, all_cells, shape)
    low, high = torch.full((3,), 0.5), torch.tensor(shape) - 0.5
    points = low + torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * (high - low)
    expected = (points.double() - 0.5) @ torch.tensor([1.0, 10.0, 100.0]).double()
    assert torch.allclose(sp.voxel_to_point(x, points)[:, 0], expected)
    nearest = sp.voxel_to_point(x, points, nearest=True)[:, 0]
    assert torch.allclose(nearest, points.floor().double() @ torch.tensor([1.0, 10, 100]).double())
    lone = tensor(torch.tensor([[3.0]]), torch.tensor([[0, 1, 1, 1]]).int(), shape)
    near, far = torch.tensor([[1.2, 1.9, 1.5]]), torch.tensor([[3.5, 3.5, 3.5]])
    assert sp.voxel_to_point(lone, near).item() == pytest.approx(3.0)
    assert sp.voxel_to_point(lone, far).item() == 0


def test_a_hash_table_holds_what_was_put_in():
    table = sp.HashTable("cpu", torch.int64, torch.int32)
    table.insert(torch.tensor([7, 3, 7]), torch.tensor([1, 2, 3], dtype=torch.int32))
    values, missing = table.query(torch.tensor([3, 7, 9]))
    assert [values.tolist(), missing.tolist()] == [[2, 3, 0], [False, False, True]]
    assert table.insert_exist_keys(
        torch.tensor([3, 8]), torch.tensor([5, 6], dtype=torch.int32)
    ).tolist() == [0, 1]
    assert table.assign_arange_().item() == 2
    keys, values, count = table.items()
    assert [keys.tolist(), values.tolist(), count.item()] == [[3, 7], [0, 1], 2]
    with pytest.raises(ValueError, match="more than max_size 1"):
        sp.HashTable("cpu", torch.int32, torch.int32, 1).insert(torch.tensor([1, 2]).int())


def test_sizes_that_are_no_integers_are_named():
    for name, value in (("stride", 2.0), ("padding", "same"), ("kernel_size", 2.5)):
        settings = {"kernel_size": 3, name: value}
        with pytest.raises(TypeError, match=f"{name} must be an integer or 3 integers"):
            sp.SparseConv3d(2, 2, **settings)
    assert sp.SparseConv3d(2, 2, np.int64(3), stride=np.array([1, 2, 1])).stride == [1, 2, 1]


@pytest.mark.parametrize(
    "seeds", [range(12), pytest.param(range(12, 1012), marks=pytest.mark.slow)], ids=["12", "1000"]
)
def test_random_networks_have_the_same_bits_twice_and_on_other_threads(sparse, monkeypatch, seeds):
    for seed in seeds:
        monkeypatch.setattr(cpu, "SORTED_ROWS", (1, 10**9)[seed % 2])
        generator = torch.Generator().manual_seed(seed)
        kinds = torch.randint(6, (4,), generator=generator).tolist()
        dtype = (torch.float32, torch.bfloat16)[seed // 2 % 2]

        def make(kinds=kinds, dtype=dtype):
            layers = {
                0: lambda i: sp.SubMConv3d(8, 8, 3, indice_key=f"k{i}"),
                1: lambda i: sp.SubMConv3d(8, 8, 1),
                2: lambda i: sp.SparseAvgPool3d(2, 1, subm=True),
                3: lambda i: sp.SubMConv3d(8, 8, 3, groups=8),
                4: lambda i: sp.SparseMaxPool3d(2, 1),
                5: lambda i: sp.SparseSequential(
                    sp.ConcatTable()
                    .add(sp.SubMConv3d(8, 8, 3))
                    .add(sp.SparseConv3d(8, 8, 3, 1, 1)),
                    sp.AddTableMisaligned(),
                ),
            }
            chosen = (layers[kind](i) for i, kind in enumerate(kinds))
            return sp.SparseSequential(*chosen).to(dtype)

        indices = sparse.random_sites(900, 2, [6, 16, 16], seed)
        features = torch.randn(900, 8, generator=generator).to(dtype)
        first, *others = (results(make, features, indices, [6, 16, 16], n) for n in (1, 1, 2, 8))
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
