"""Kernels of MinkowskiEngine and torchsparse: which cell of the kernel each of their rows is."""

import itertools

import pytest
import torch

import spconv_lite as sp


def rows_in_order(size, first_axis_fastest):
    """The cells (x, y, z) of a kernel in the order of its rows."""
    if first_axis_fastest:
        return [cell[::-1] for cell in itertools.product(*map(range, size[::-1]))]
    return list(itertools.product(*map(range, size)))


@pytest.mark.parametrize("reverse_axes", [False, True])
@pytest.mark.parametrize(
    ("convert", "size", "first_axis_fastest"),
    [
        (sp.from_minkowski, [3, 5, 1], True),
        (sp.from_minkowski, [2, 3, 2], True),
        (sp.from_torchsparse, [3, 5, 1], True),
        (sp.from_torchsparse, [2, 3, 2], False),
    ],
)
def test_each_row_of_a_kernel_comes_to_its_cell(convert, size, first_axis_fastest, reverse_axes):
    kernel = torch.randn(size[0] * size[1] * size[2], 2, 4)
    ours = size[::-1] if reverse_axes else size
    net = torch.nn.Sequential(sp.SparseConv3d(2, 4, ours), torch.nn.Linear(4, 4))
    state = net.state_dict()
    del state["0.weight"]
    state |= {"0.kernel": kernel, "0.bias": torch.arange(4.0)[None]}
    net.load_state_dict(convert(net, state, reverse_axes))
    for row, cell in enumerate(rows_in_order(size, first_axis_fastest)):
        at = cell[::-1] if reverse_axes else cell
        assert torch.equal(net[0].weight[(slice(None), *at)], kernel[row].T)
    assert net[0].bias.tolist() == [0, 1, 2, 3]


def test_a_kernel_of_one_cell_is_a_matrix():
    layer = sp.SubMConv3d(3, 2, 1, bias=False)
    kernel = torch.randn(3, 2)
    layer.load_state_dict(sp.from_minkowski(layer, {"kernel": kernel}))
    x = sp.SparseConvTensor(torch.randn(1, 3), torch.zeros(1, 4).int(), [1, 1, 1], 1)
    assert torch.allclose(layer(x).features, x.features @ kernel, atol=1e-6)


def test_a_kernel_of_another_layer_is_refused():
    layer = sp.SubMConv3d(3, 2, 3)
    with pytest.raises(ValueError, match=r"kernel must have shape \(27, 3, 2\)"):
        sp.from_torchsparse(layer, {"kernel": torch.zeros(8, 3, 2)})
