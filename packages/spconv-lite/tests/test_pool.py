"""Pools against a loop over windows and against torch's dense pools."""

import pytest
import torch
import torch.nn.functional as F

import spconv_lite as sp

pytestmark = pytest.mark.native


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_max_pool_equals_torch_with_empty_cells_below_everything(sparse, ndim, dtype):
    shape = [60, 12, 8][ndim - 1 : ndim] * ndim
    indices = sparse.random_sites(50, 2, shape, ndim)
    features = (torch.randn(50, 3, dtype=torch.float64) - 9).to(dtype).requires_grad_()
    out = getattr(sp, f"SparseMaxPool{ndim}d")(3, 2, 1)(
        sp.SparseConvTensor(features, indices, shape, 2)
    )
    assert (out.features < 0).all()
    dense = torch.full((2, *shape, 3), -100.0, dtype=torch.float64)
    dense = dense.index_put(tuple(indices.long().unbind(1)), features.double()).movedim(-1, 1)
    pooled = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[ndim - 1](dense, 3, 2, 1)
    expected = sparse.at_sites(pooled, out.indices)
    assert torch.equal(out.features.double(), expected)
    if dtype == torch.float64:  # no ties: they share the gradient here, torch gives it to the first
        grad = torch.randn_like(out.features)
        (got,) = torch.autograd.grad(out.features, features, grad)
        (exact,) = torch.autograd.grad(expected, features, grad)
        assert torch.allclose(got, exact)


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_average_pool_is_the_mean_of_the_active_sites(sparse, ndim):
    shape = [5] * ndim if ndim > 1 else [50]
    indices = sparse.random_sites(40, 2, shape, ndim)
    features = torch.randn(40, 3, dtype=torch.float64)
    x = sp.SparseConvTensor(features, indices, shape, 2)
    out = getattr(sp, f"SparseAvgPool{ndim}d")(2)(x)
    window = torch.cat([indices[:, :1], indices[:, 1:] // 2], 1)
    assert len(out.indices)
    for site, value in zip(out.indices, out.features, strict=True):
        inside = (window == site).all(1)
        assert torch.allclose(value, features[inside].mean(0))


def test_an_inverse_layer_undoes_a_pool(sparse):
    indices = sparse.random_sites(40, 1, [9, 9], 1)
    x = sp.SparseConvTensor(torch.randn(40, 2), indices, [9, 9], 1)
    pooled = sp.SparseMaxPool2d(3, 2, 1, indice_key="pool")(x)
    back = sp.SparseInverseConv2d(2, 5, 3, indice_key="pool")(pooled)
    assert torch.equal(back.indices, indices)
    with pytest.raises(ValueError, match="indice_key 'pool' is taken; give this pool its own"):
        sp.SparseMaxPool2d(3, 2, 1, indice_key="pool")(pooled)


def test_global_pools_give_one_row_a_sample_and_zeros_for_an_empty_one():
    indices = torch.tensor([[0, 1], [2, 0], [0, 3]], dtype=torch.int32)
    features = torch.tensor([[-1.0, 5.0], [-7.0, 2.0], [-3.0, 1.0]])
    x = sp.SparseConvTensor(features, indices, [4], 3)
    assert sp.SparseGlobalMaxPool()(x).tolist() == [[-1.0, 5.0], [0.0, 0.0], [-7.0, 2.0]]
    assert sp.SparseGlobalAvgPool()(x).tolist() == [[-2.0, 3.0], [0.0, 0.0], [-7.0, 2.0]]
