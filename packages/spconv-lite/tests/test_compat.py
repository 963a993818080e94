"""`import spconv_lite.compat`: clients of spconv run without a change. Here by the shape of what
OpenPCDet, Pointcept, mmdet3d and TRELLIS do, not by their code."""

import functools
import importlib
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import spconv_lite as sp

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # of an installed spconv, see below
    from spconv_lite import compat


@pytest.fixture
def spconv():
    compat.install(shadow=True)
    yield importlib.import_module("spconv.pytorch")
    compat.uninstall()


def sites(count, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(int(np.prod(shape)), generator=generator)[:count]
    return torch.stack(torch.unravel_index(cells, (1, *shape)), 1).int()


def test_every_module_of_the_tree_imports_and_its_classes_are_ours(spconv):
    for name in compat.finder.TREE:
        importlib.import_module(name)
    from spconv.core import ConvAlgo
    from spconv.pytorch.conv import SparseConvolution
    from spconv.pytorch.core import SparseConvTensor

    assert SparseConvTensor is sp.SparseConvTensor is spconv.SparseConvTensor
    assert issubclass(spconv.SubMConv3d, SparseConvolution)
    assert ConvAlgo.Native is sp.ConvAlgo.Native


def test_what_its_modules_import_from_each_other_is_there(spconv):
    shared = "SparseConvTensor SparseModule IndiceData ImplicitGemmIndiceData expand_nd ConvAlgo"
    for part in ("conv", "pool", "functional", "modules", "tables"):
        module = importlib.import_module(f"spconv.pytorch.{part}")
        assert all(hasattr(module, name) for name in shared.split()), part
    pool = importlib.import_module("spconv.pytorch.pool")
    assert issubclass(pool.SparseGlobalMaxPool, pool.SparseGlobalMaxOrAvgPool)
    branches = spconv.ConcatTable().add(spconv.AddTable())
    assert branches.input_spatial_size([4, 4]) == [4, 4]
    assert not importlib.import_module("spconv.pytorch.constants").is_amp_enabled()


def test_an_installed_spconv_stays_with_a_warning_and_comes_back_after_a_shadow():
    pytest.importorskip("spconv")
    before = importlib.util.find_spec("spconv").origin
    with pytest.warns(UserWarning, match="spconv is installed .* and stays"):
        assert not compat.install()
    assert importlib.import_module("spconv").__file__ == before
    assert compat.install(shadow=True)
    assert importlib.import_module("spconv.pytorch").SparseConvTensor is sp.SparseConvTensor
    compat.uninstall()
    assert importlib.import_module("spconv").__file__ == before


def test_one_line_is_enough_where_spconv_is_not_installed():
    code = (
        "import sys; from importlib.machinery import PathFinder\n"
        "class Hide(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        hidden = name.partition('.')[0] in ('spconv', 'cumm')\n"
        "        return None if hidden else PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path = [Hide if f is PathFinder else f for f in sys.meta_path]\n"
        "import warnings; warnings.simplefilter('error')\n"
        "import spconv_lite.compat\n"
        "import spconv\n"
        "if float(spconv.__version__[2:]) >= 2.2:\n"
        "    spconv.constants.SPCONV_USE_DIRECT_TABLE = False\n"
        "import spconv.pytorch as spconv\n"
        "from spconv.pytorch.utils import PointToVoxel\n"
        "from spconv.utils import Point2VoxelCPU3d, VoxelGeneratorV2\n"
        "from spconv.pytorch import functional as F; F.sparse_add\n"
        "import cumm.tensorview as tv\n"
        "assert spconv.SubMConv3d.__module__.startswith('spconv_lite')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_itself_reads_like_spconv():
    """`import spconv_lite as spconv` in place of `import spconv.pytorch as spconv`."""
    paths = (
        "ConvAlgo Identity functional.sparse_add assign_name_for_sparse_modules HashTable "
        "modules.is_spconv_module modules.is_sparse_conv modules.SparseSyncBatchNorm "
        "modules.PrintTensorMeta core.expand_nd core.scatter_nd core.ImplicitGemmIndiceData "
        "conv.SparseConvolutionBase ops.ConvAlgo ops.indice_conv utils.PointToVoxel hash.HashTable "
        "constants.SPCONV_USE_DIRECT_TABLE Point2VoxelCPU3d tables.AddTableMisaligned"
    )
    for path in paths.split():
        functools.reduce(getattr, path.split("."), sp)


def test_functions_over_pairs_give_what_the_layers_give(spconv):
    from spconv.pytorch import functional, ops

    shape = [6, 7, 8]
    indices, features = sites(80, shape), torch.randn(80, 3, dtype=torch.float64)
    leaf = features.clone().requires_grad_()
    x = spconv.SparseConvTensor(leaf, indices, shape, 1)
    sizes = [3] * 3, [2] * 3, [1] * 3, [1] * 3, [0] * 3
    out, *pairs = ops.get_indice_pairs(indices, 1, shape, None, *sizes)
    layer = spconv.SparseConv3d(3, 4, 3, 2, 1, bias=False, indice_key="d").double()
    down = layer(x)
    grad = torch.randn_like(down.features)
    right = torch.autograd.grad(down.features, [leaf, layer.weight], grad)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            got = ops.indice_conv_backward(features, layer.weight, grad, *pairs)
        assert not any(found.requires_grad for found in got)  # as spconv's
        assert all(torch.allclose(a, b) for a, b in zip(got, right, strict=True))
    up = spconv.SparseInverseConv3d(4, 3, 3, indice_key="d", bias=False).double()
    back = functional.indice_inverse_conv(down.features, up.weight, *pairs, 80)
    assert torch.allclose(back, up(down).features)
    for convolve in (functional.indice_conv, functional.indice_subm_conv):
        args = features, layer.weight, *pairs, len(out), ops.ConvAlgo.Native
        assert torch.equal(convolve(*args), down.features)
        bias = torch.ones(4, dtype=torch.float64)
        got = convolve(*args, None, bias, 0.2, 0.0, sp.Activation.LeakyReLU)
        assert torch.allclose(got, torch.nn.functional.leaky_relu(down.features + 1, 0.2))
    before = sp.set_max_pool("spconv")
    try:
        pooled = spconv.SparseMaxPool3d(3, 2, 1)(x).features
    finally:
        sp.set_max_pool(before)
    assert torch.equal(functional.indice_maxpool(features, *pairs, len(out)), pooled)
    right = torch.autograd.grad(pooled, leaf, grad[:, :3])[0]
    wanted = grad[:, :3].clone().requires_grad_()
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode():
            got = ops.indice_maxpool_backward(features, pooled, wanted, *pairs)
        assert torch.equal(got, right)
        assert not got.requires_grad
    with pytest.raises(ValueError, match="indice_maxpool: the pairs name rows"):
        functional.indice_maxpool(features[:40], *pairs, len(out))
    with pytest.raises(ValueError, match=r"indice_pair_num must have shape \(27,\), got \(9,\)"):
        functional.indice_maxpool(features, pairs[0], pairs[1][:9], len(out))


def test_what_is_not_there_is_refused_by_name_with_the_cure(spconv):
    from spconv_lite.compat import refused

    for name in refused.NAMES:
        module = importlib.import_module(name)
        for missing in refused.refusals(name):
            stand_in = getattr(module, missing)
            if not isinstance(stand_in, refused.Refused):
                continue
            with pytest.raises(
                NotImplementedError, match=f"{name}.{missing} is not .*: .* use|core"
            ):
                stand_in(1, key=2)
            with pytest.raises(AttributeError, match=f"{name}.{missing} is not"):
                stand_in.apply  # noqa: B018
    for name in refused.MODULES:
        with pytest.raises(ModuleNotFoundError, match=f"{name} is not in spconv_lite: ."):
            importlib.import_module(name)
    with pytest.raises(ModuleNotFoundError, match=r"networks in int8 .* bfloat16"):
        from spconv.pytorch.quantization.core import quantize_per_tensor  # noqa: F401
    with pytest.raises(AttributeError, match=r"spconv.pytorch.no_such_name is not in spconv_lite"):
        spconv.no_such_name  # noqa: B018
    assert not hasattr(spconv, "no_such_name")


def test_every_name_of_an_installed_spconv_leads_somewhere_or_is_refused():
    """Functions and classes of its public modules; its int8 cannot be imported here."""
    peer = pytest.importorskip("spconv.pytorch")
    public = {}
    parts = "conv core functional hash modules ops pool spatial tables utils"
    for part in parts.split():
        module = importlib.import_module(f"spconv.pytorch.{part}")
        public[f"spconv.pytorch.{part}"] = [
            name
            for name, value in vars(module).items()
            if callable(value) and not name.startswith("_") and _is_spconv_own(value)
        ]
    assert sum(map(len, public.values())) > 100
    assert peer.__file__
    compat.install(shadow=True)
    try:
        for name, known in public.items():
            module = importlib.import_module(name)
            missing = {known for known in known if not hasattr(module, known)}
            assert missing <= INSIDE, (name, missing)
    finally:
        compat.uninstall()


INSIDE = {"identity_decorator", "spconv_save_debug_data", "main"}  # nothing a client would call


def _is_spconv_own(value):
    return (getattr(value, "__module__", None) or "spconv").startswith("spconv")


def test_rows_are_replaced_before_their_indices(spconv):
    """VoxelNeXt merges three scales, then keeps the bird's eye view's unique cells."""
    x = spconv.SparseConvTensor(torch.randn(60, 4), sites(60, [4, 8, 8]), [4, 8, 8], 1)
    deep = spconv.SparseConv3d(4, 4, 3, 2, 1, indice_key="down")(x)
    deep.indices[:, 1:] *= 2
    merged = x.replace_feature(torch.cat([x.features, deep.features]))
    merged.indices = torch.cat([x.indices, deep.indices])
    cells, inverse = torch.unique(merged.indices[:, [0, 2, 3]], dim=0, return_inverse=True)
    summed = merged.features.new_zeros((len(cells), 4)).index_add_(0, inverse, merged.features)
    flat = merged.replace_feature(summed)
    flat.indices, flat.spatial_shape = cells.int(), merged.spatial_shape[1:]
    out = spconv.SubMConv2d(4, 6, 3, indice_key="flat")(flat)
    assert out.features.shape == (len(cells), 6)
    assert out.dense().shape == (1, 6, 8, 8)


def test_an_unfinished_replacement_is_refused_by_the_next_layer(spconv):
    x = spconv.SparseConvTensor(torch.randn(20, 4), sites(20, [5, 5, 5]), [5] * 3, 1)
    half = x.replace_feature(x.features[:7])
    with pytest.raises(ValueError, match="SubMConv3d: features and indices must have as many rows"):
        spconv.SubMConv3d(4, 4, 3)(half)


def test_private_features_are_the_features(spconv):
    x = spconv.SparseConvTensor(torch.ones(2, 1), sites(2, [4, 4]), [4, 4], 1)
    x._features = torch.full((2, 1), 100.0)
    assert x.features.tolist() == [[100.0], [100.0]]
    y = spconv.SparseConvTensor.__new__(spconv.SparseConvTensor)
    y.__dict__.update(x.__dict__)
    layer = spconv.SubMConv2d(1, 1, 1, bias=False)
    assert torch.equal(layer(y).features, x.features * layer.weight.flatten())
    for name in ("benchmark_record", "thrust_allocator", "force_algo", "int8_scale"):
        assert hasattr(x, name)
    with x._timer.namespace("a"), x._timer.record("b"):
        pass


def test_a_block_passes_sparse_and_dense_through_one_sequence(spconv):
    """PTv3 asks which modules are sparse before it hands them the point's sparse tensor."""
    modules = importlib.import_module("spconv.pytorch.modules")
    layer = spconv.SubMConv3d(4, 4, 3, indice_key="stem")
    kinds = [layer, nn.Linear(4, 4), spconv.SparseBatchNorm(4), spconv.SparseReLU()]
    assert [modules.is_spconv_module(m) for m in kinds] == [True, False, True, True]
    assert modules.is_sparse_conv(layer)
    for module in (spconv.SparseBatchNorm(3), spconv.SparseReLU(), spconv.SparseIdentity()):
        assert module(torch.ones(2, 3)).shape == (2, 3)


def test_add_input_and_a_fused_activation(spconv):
    from cumm import tensorview as tv

    x = spconv.SparseConvTensor(torch.randn(20, 4), sites(20, [5, 5, 5]), [5] * 3, 1)
    plain = spconv.SparseConvolution(3, 4, 4, 3, subm=True, indice_key="k")
    fused = spconv.SparseConvolution(
        3, 4, 4, 3, subm=True, act_type=tv.gemm.Activation.LeakyReLU, act_alpha=0.1
    )
    fused.load_state_dict(plain.state_dict())
    expected = nn.functional.leaky_relu(plain(x).features + x.features, 0.1)
    assert torch.allclose(fused(x, add_input=x).features, expected)
    assert torch.allclose(plain(x, add_input=None).features, plain(x).features)
    other = spconv.SparseConvTensor(x.features, x.indices.flip(0).contiguous(), [5] * 3, 1)
    with pytest.raises(ValueError, match="add_input must have the sites of the output"):
        plain(x, add_input=other)


def test_voxel_counts_are_kept_and_loaded(spconv):
    layer = spconv.SparseConv3d(2, 4, 3, 2, record_voxel_count=True)
    pool = spconv.SparseMaxPool3d(2, record_voxel_count=True)
    assert list(layer.state_dict()) == ["weight", "bias", "max_num_voxels_during_training"]
    for count in (40, 10):
        x = spconv.SparseConvTensor(torch.randn(count, 2), sites(count, [8] * 3), [8] * 3, 1)
        rows, pooled = layer(x).features.shape[0], pool(x).features.shape[0]
        if count == 40:
            most, most_pooled = rows, pooled
    assert layer.get_max_num_voxels().item() == most
    assert pool.get_max_num_voxels().item() == most_pooled
    old = {k: v for k, v in layer.state_dict().items() if k != "max_num_voxels_during_training"}
    layer.load_state_dict(old)
    assert layer.get_max_num_voxels().item() == 0


def test_a_sum_that_holds_all_sites_keeps_its_rulebooks(spconv):
    """docs/USAGE of spconv: sparse_add of three branches, then the inverse of the widest."""
    functional = importlib.import_module("spconv.pytorch.functional")
    x = spconv.SparseConvTensor(torch.ones(60, 4), sites(60, [10] * 3), [10] * 3, 1)
    a = spconv.SparseConv3d(4, 4, (1, 1, 3), 1, (0, 0, 1), bias=False)
    b = spconv.SparseConv3d(4, 4, (1, 3, 1), 1, (0, 1, 0), bias=False)
    c = spconv.SparseConv3d(4, 4, 3, 1, 1, indice_key="all", bias=False)
    back = spconv.SparseInverseConv3d(4, 4, 3, indice_key="all", bias=False)
    total = functional.sparse_add(a(x), b(x), c(x))
    assert torch.equal(back(total).indices, x.indices)
    dense = a(x).dense() + b(x).dense() + c(x).dense()
    assert torch.allclose(total.dense(), dense, atol=1e-6)


def test_voxel_generators_of_both_generations_agree(spconv):
    utils = importlib.import_module("spconv.utils")
    tv = importlib.import_module("cumm.tensorview")
    points = np.random.default_rng(0).uniform(0, 4, (500, 4)).astype(np.float32)
    size, grid = [0.5, 0.5, 1.0], [0.0, 0.0, 0.0, 4.0, 4.0, 4.0]
    new = utils.Point2VoxelCPU3d(
        vsize_xyz=size,
        coors_range_xyz=grid,
        num_point_features=4,
        max_num_points_per_voxel=5,
        max_num_voxels=300,
    ).point_to_voxel(tv.from_numpy(points))
    old = utils.VoxelGeneratorV2(
        voxel_size=size, point_cloud_range=grid, max_num_points=5, max_voxels=300
    ).generate(points)
    for mine, name in zip(new, ("voxels", "coordinates", "num_points_per_voxel"), strict=True):
        assert np.array_equal(mine.numpy(), old[name])


def test_pairs_of_spconv_are_convolved(spconv):
    ops = importlib.import_module("spconv.pytorch.ops")
    indices = sites(50, [6, 6, 6])
    features, weight = torch.randn(50, 4), torch.randn(8, 3, 3, 3, 4)
    sizes = [3] * 3, [2] * 3, [1] * 3, [1] * 3, [0] * 3
    out, pairs, number = ops.get_indice_pairs(indices, 1, [6] * 3, ops.ConvAlgo.Native, *sizes)
    got = ops.indice_conv(features, weight, pairs, number, out.shape[0])
    layer = spconv.SparseConv3d(4, 8, 3, 2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    x = layer(spconv.SparseConvTensor(features, indices, [6] * 3, 1))
    assert torch.equal(x.indices, out)
    assert torch.allclose(x.features, got, atol=1e-5)


def test_pools_of_spconv_start_at_zero_and_give_ties_the_whole_gradient():
    indices = torch.tensor([[0, 0], [0, 1], [0, 2], [0, 3]], dtype=torch.int32)
    features = torch.tensor([[-1.0], [-2.0], [3.0], [3.0]], requires_grad=True)
    x = sp.SparseConvTensor(features, indices, [4], 1)
    pool = sp.SparseMaxPool1d(2)
    before = sp.set_max_pool("spconv")
    try:
        y = pool(x).features
        (grad,) = torch.autograd.grad(y.sum(), features)
    finally:
        sp.set_max_pool(before)
    assert y.flatten().tolist() == [0.0, 3.0]
    assert grad.flatten().tolist() == [0.0, 0.0, 1.0, 1.0]
    y = pool(x).features
    (grad,) = torch.autograd.grad(y.sum(), features)
    assert y.flatten().tolist() == [-1.0, 3.0]
    assert grad.flatten().tolist() == [1.0, 0.0, 0.5, 0.5]
    with pytest.raises(ValueError, match="set_max_pool: takes one of"):
        sp.set_max_pool("torch")
