"""The conjugate mappings: what they compute, and that each backward is the true adjoint."""

import pytest
import torch

from tp_parallel import (
    ParallelContext,
    copy_to_region,
    gather_from_region,
    gather_to_split_region,
    reduce_from_region,
    reduce_scatter_to_region,
    scatter_to_region,
)

MAPPINGS = {
    "copy": copy_to_region,
    "reduce": reduce_from_region,
    "scatter": scatter_to_region,
    "gather": gather_from_region,
    "reduce_scatter": reduce_scatter_to_region,
    "gather_to_split": gather_to_split_region,
}


def adjoint(tp):
    """<f(x), y> = <x, f*(y)> summed over ranks, for f as a linear map of all ranks' inputs."""
    context = ParallelContext(tp=tp, device="cpu")
    out = {}
    for name, mapping in MAPPINGS.items():
        generator = torch.Generator().manual_seed(context.rank)
        x = torch.randn(2, 4 * tp, 8 * tp, dtype=torch.float64, generator=generator)
        replicated_in = name in ("scatter",)
        replicated_out = name in ("reduce", "gather")
        if replicated_in:
            context.tp.broadcast(x, label="test")
        x.requires_grad_()
        y = mapping(x, context.tp)
        seed = torch.randn(y.shape, dtype=torch.float64, generator=generator)
        if replicated_out:
            context.tp.broadcast(seed, label="test")
        y.backward(seed)
        # a replicated output counts once; its gradient, too, is replicated
        left = (y * seed).sum().detach() / (tp if replicated_out else 1)
        right = (x.grad * x).sum().detach() / (tp if replicated_in else 1)
        both = torch.stack([left, right])
        context.tp.all_reduce(both, label="test")
        out[name] = (tuple(y.shape), float(both[0]), float(both[1]))
    return out


@pytest.mark.parametrize("tp", [2, 4])
def test_each_backward_is_the_adjoint_of_its_forward(world, tp):
    for result in world(tp, adjoint, tp=tp):
        for name, (_, left, right) in result.items():
            if name == "copy":
                # the copies are one input: their gradients were summed on every rank
                continue
            assert left == pytest.approx(right, rel=1e-12), name


def values(tp):
    context = ParallelContext(tp=tp, device="cpu")
    axis, r = context.tp, context.rank
    x = torch.arange(4.0 * tp).reshape(1, 2, 2 * tp)
    mine = x + 100 * r
    grad = torch.ones(1, 2, 2 * tp) * (r + 1)
    copied = mine.clone().requires_grad_()
    copy_to_region(copied, axis).backward(grad)
    return {
        "reduce": reduce_from_region(mine, axis),
        "scatter": scatter_to_region(x, axis),
        "gather": gather_from_region(mine, axis, -1),
        "gather_dim0": gather_from_region(mine, axis, 0),
        "reduce_scatter": reduce_scatter_to_region(mine, axis, dim=1),
        "copy_grad": copied.grad,
    }


def test_each_forward_computes_its_definition(world):
    x = torch.arange(8.0).reshape(1, 2, 4)
    results = world(2, values, tp=2)
    whole = [x, x + 100]
    for rank, result in enumerate(results):
        torch.testing.assert_close(result["reduce"], whole[0] + whole[1])
        torch.testing.assert_close(result["scatter"], x.chunk(2, -1)[rank])
        torch.testing.assert_close(result["gather"], torch.cat(whole, -1))
        torch.testing.assert_close(result["gather_dim0"], torch.cat(whole, 0))
        torch.testing.assert_close(result["reduce_scatter"], sum(whole).chunk(2, 1)[rank])
        torch.testing.assert_close(result["copy_grad"], torch.full((1, 2, 4), 3.0))


def second_order(tp):
    """gradcheck and gradgradcheck of a function that uses all mappings and ends replicated."""
    context = ParallelContext(tp=tp, device="cpu", check_shapes=False)
    axis = context.tp
    w = torch.linspace(0.5, 1.5, 2 * tp, dtype=torch.float64).chunk(tp)[axis.rank]

    def function(x):
        y = copy_to_region(x, axis)[..., axis.rank * 2 : axis.rank * 2 + 2] * w
        y = gather_from_region(y**2, axis)
        y = scatter_to_region(y, axis, 1)
        y = gather_to_split_region(y, axis, 1) * (axis.rank + 1)
        y = reduce_scatter_to_region(y, axis, 1)
        return gather_from_region(y, axis, 1)

    x = torch.randn(1, tp, 2 * tp, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    return torch.autograd.gradcheck(function, x) and torch.autograd.gradgradcheck(
        function, x, torch.ones_like(function(x)).requires_grad_()
    )


def test_mappings_pass_gradcheck_and_gradgradcheck(world):
    assert world(2, second_order, tp=2) == [True, True]


def indivisible(tp):
    context = ParallelContext(tp=tp, device="cpu")
    with pytest.raises(ValueError, match=r"length 5 along dimension -1 .* multiple .* size 2"):
        scatter_to_region(torch.zeros(2, 5), context.tp)
    with pytest.raises(ValueError, match=r"length 3 along dimension 1"):
        reduce_scatter_to_region(torch.zeros(2, 3), context.tp)


def test_a_length_that_does_not_divide_is_refused(world):
    world(2, indivisible, tp=2)


def test_on_one_process_every_mapping_is_the_identity():
    axis = ParallelContext(device="cpu").tp
    x = torch.randn(2, 3, 5)
    for mapping in MAPPINGS.values():
        assert mapping(x, axis) is x
