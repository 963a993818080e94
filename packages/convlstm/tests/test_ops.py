"""The fused operator against the definition, and its place in torch: opcheck, compile, autograd."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import convlstm
from convlstm import native_steps, ops, plain_loop, reference
from convlstm import problem as problem_module
from convlstm.convolutions import WINDOWS, WINOGRAD_KERNEL, Tile, weight_gradient
from convlstm.reference import CellExtras
from convlstm.spec import CellSpec

pytestmark = pytest.mark.native

SPECS = {
    "same 3x3": CellSpec.make(2, 5, 3, padding="same"),
    "valid": CellSpec.make(2, 4, 3),
    "even kernel": CellSpec.make(2, 4, (2, 4), padding="same"),
    "stride": CellSpec.make(2, 4, 3, stride=2, padding="same"),
    "dilation": CellSpec.make(2, 4, 3, dilation=(1, 2)),
    "relu, hard sigmoid": CellSpec.make(2, 4, 3, padding="same", activation="relu",
                                        recurrent_activation="hard_sigmoid"),
    "keras 2 slope": CellSpec.make(2, 4, 1, recurrent_activation="hard_sigmoid_keras2"),
    "sigmoid, linear": CellSpec.make(2, 4, 3, activation="linear"),
    "one dimension": CellSpec.make(1, 6, 3, padding="same"),
    "three dimensions": CellSpec.make(3, 3, 3, padding="same"),
    "one channel": CellSpec.make(2, 1, 3, padding="same"),
    "many channels 5x5": CellSpec.make(2, 9, 5, padding="same"),
    "pointwise": CellSpec.make(2, 9, 1, padding="same"),
    "many channels": CellSpec.make(2, 37, 3, padding="same"),
    "many channels, valid": CellSpec.make(2, 19, 3),
    "many channels, stride": CellSpec.make(2, 9, 3, stride=2, padding="same"),
}  # fmt: skip


def problem(
    spec,
    dtype=torch.float32,
    steps=4,
    batch=2,
    channels=3,
    peephole=False,
    grad=True,
    size=(7, 6, 5),
):
    """Random tensors of a sequence: x, h, c, weight_ih, weight_hh, bias, peephole."""
    size = size[: spec.rank]
    state = (batch, spec.hidden_channels, *spec.state_size(size))
    gates = 4 * spec.hidden_channels
    shapes = [
        (batch, steps, channels, *size), state, state, (gates, channels, *spec.kernel_size),
        (gates, spec.hidden_channels, *spec.kernel_size), (gates,),
    ]  # fmt: skip
    if peephole:
        shapes.append((3, spec.hidden_channels, *(1,) * spec.rank))
    tensors = [0.5 * torch.randn(s, dtype=dtype) for s in shapes]
    for weight in tensors[3:5]:  # as many inputs, as small: states must not saturate
        weight *= 2.4 / weight[0].numel() ** 0.5
    return [t.requires_grad_(grad) for t in tensors]


def run(tensors, spec, plan, mask=None, recompute=False):
    x, h, c, w_ih, w_hh, bias, *rest = tensors
    extras = CellExtras(*rest)
    return ops.sequence(
        x, h, c, w_ih, w_hh, bias, spec, mask=mask, extras=extras, plan=plan, recompute=recompute
    )


def gradients(tensors, outputs, seeds):
    for t in tensors:
        t.grad = None
    sum((o * s).sum() for o, s in zip(outputs, seeds, strict=True)).backward()
    return [t.grad for t in tensors]


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("peephole", [False, True], ids=["", "peephole"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_fused_equals_the_definition_forward_and_backward(
    spec, peephole, masked, recompute, difference
):
    tensors = problem(spec, peephole=peephole)
    mask = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0]], dtype=torch.bool) if masked else None
    got = run(tensors, spec, "fused", mask, recompute)
    want = run(tensors, spec, "loop", mask)
    for a, b in zip(got, want, strict=True):
        assert difference(a.detach(), b.detach()) <= 1e-6
    seeds = [torch.randn(o.shape) for o in want]
    got_grads = [g.clone() for g in gradients(tensors, got, seeds)]
    for a, b in zip(got_grads, gradients(tensors, want, seeds), strict=True):
        assert difference(a, b) <= 3e-6


def always(tile):
    """In place of tile_of."""
    return lambda *_, most=7: tile if tile.taps <= most else Tile(4, 3)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (3, 1), (20, 22)])
@pytest.mark.parametrize("filters", [1, 8, 12, 40])
@pytest.mark.parametrize(
    ("tile", "kernel"),
    [
        *itertools.product([WINDOWS, Tile(2, 3), Tile(4, 3)], [1, 2, 3, (2, 4), 5, (7, 3), 9]),
        *itertools.product([Tile(4, 5)], [4, 5, (5, 4)]),  # others these are never chosen for
        *itertools.product([Tile(2, 7)], [6, 7, (7, 5)]),
    ],
    ids=str,
)
def test_native_steps_of_any_size_equal_the_definition(
    tile, kernel, filters, size, monkeypatch, difference
):
    spec = CellSpec.make(2, filters, kernel, padding="same")
    tile = tile if max(spec.kernel_size) <= WINOGRAD_KERNEL else WINDOWS
    monkeypatch.setattr(native_steps, "tile_of", always(tile))
    tensors = problem(spec, steps=2, channels=5, size=size)
    want = run(tensors, spec, "loop")
    got = run(tensors, spec, "fused")
    terms = math.prod(spec.kernel_size) * (5 + filters)
    # Terms are added one after another; tiles of 4x4 outputs round more (csrc/cpu/tiles.h).
    bound = 1.6e-5 if sum(tile) > 5 else 3e-6 if terms >= 300 else 1e-6
    for a, b in zip(got, want, strict=True):
        assert difference(a.detach(), b.detach()) <= bound
    seeds = [torch.randn(o.shape) for o in want]
    got_grads = [g.clone() for g in gradients(tensors, got, seeds)]
    for a, b in zip(got_grads, gradients(tensors, want, seeds), strict=True):
        assert difference(a, b) <= 3 * bound


@pytest.mark.parametrize(
    ("kernel", "tile", "further"),
    [(3, Tile(4, 3), 2), (5, Tile(4, 5), 2), (7, Tile(4, 3), 4), (7, Tile(2, 7), 1)],
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_pixel_that_is_not_finite_spoils_its_tile_and_no_other_sequence(
    kernel, tile, further, bad, monkeypatch
):
    monkeypatch.setattr(native_steps, "tile_of", always(tile))
    spec = CellSpec.make(2, 2, kernel, padding="same", activation="linear")
    x, *rest = problem(spec, steps=1, channels=1, size=(16, 16), grad=False)
    for place in range(6, 10):
        x[0, 0, 0] = 0
        x[0, 0, 0, place, place] = bad
        got, want = (
            ~run([x, *rest], spec, plan)[0][:, 0].isfinite().all(1) for plan in ("fused", "loop")
        )
        reach = torch.nn.functional.max_pool2d(want.float(), 2 * further + 1, 1, further).bool()
        assert (got | ~want).all()
        assert (reach | ~got).all()
        assert not got[1].any()


def test_many_steps_go_through_many_pieces(monkeypatch, difference):
    spec = SPECS["same 3x3"]
    tensors = problem(spec, steps=7)
    want = run(tensors, spec, "loop")
    seeds = [torch.randn(o.shape) for o in want]
    wanted = [g.clone() for g in gradients(tensors, want, seeds)]
    for steps_per_piece in (1, 2, 3):
        monkeypatch.setattr(problem_module, "BLOCK_BYTES", steps_per_piece * 2 * 7 * 6 * 5 * 4 * 4)
        for recompute in (False, True):
            got = run(tensors, spec, "fused", None, recompute)
            for a, b in zip(gradients(tensors, got, seeds), wanted, strict=True):
                assert difference(a, b) <= 3e-6


@pytest.mark.parametrize("name", ["same 3x3", "stride", "one dimension"])
def test_gradcheck_in_double_precision(name):
    spec = SPECS[name]
    tensors = problem(spec, torch.float64, steps=2, batch=1, channels=1, peephole=True)
    assert gradcheck(lambda *t: run(t, spec, "fused"), tensors, fast_mode=True)


def test_second_derivatives_in_double_precision():
    spec = CellSpec.make(2, 2, 3, padding="same")
    tensors = problem(spec, torch.float64, steps=2, batch=1, channels=1)
    assert gradgradcheck(lambda *t: run(t, spec, "fused"), tensors, fast_mode=True)


def test_second_derivatives_of_a_layer_that_feeds_itself():
    layer = convlstm.ConvLSTM2d(2, 3, 3, padding="same", return_state=True, plan="fused")
    first, second = torch.randn(2, 1, 2, 2, 5, 5)
    _, state = layer(first)
    loss = layer(second, state)[0].square().sum()
    weights = list(layer.parameters())
    want = torch.autograd.grad(loss, weights, retain_graph=True)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            got = torch.autograd.grad(loss, weights, create_graph=True)
        for a, b in zip(got, want, strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def test_other_ways_to_differentiate_take_the_loop_or_say_why(difference):
    spec = SPECS["same 3x3"]
    x, *rest = problem(spec, grad=False)

    def energy(x, plan="auto"):
        return run([x, *rest], spec, plan)[0].square().sum()

    tangent = torch.randn_like(x)
    want = torch.autograd.functional.jvp(lambda x: energy(x, "loop"), x, tangent)[1]
    assert want.abs() > 0
    assert difference(torch.func.jvp(energy, (x,), (tangent,))[1], want) <= 3e-6
    assert difference((torch.func.grad(energy)(x) * tangent).sum(), want) <= 3e-6
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        assert difference(forward_ad.unpack_dual(energy(dual)).tangent, want) <= 3e-6
        with pytest.raises(ValueError, match="forward-mode differentiation needs plain torch"):
            energy(dual, "fused")
    with pytest.raises(ValueError, match="a transform of torch"):
        torch.func.grad(energy)(x, "fused")


def operator_arguments(spec, keep, masked=False, grad=True):
    x, h, c, w_ih, w_hh, bias, peephole = problem(spec, peephole=True, grad=False)
    valid = torch.tensor([[1, 0], [1, 1], [0, 1], [1, 1]], dtype=torch.bool) if masked else None
    tensors = [
        x.transpose(0, 1).movedim(2, -1).contiguous(), h.movedim(1, -1).contiguous(),
        c.movedim(1, -1).contiguous(), w_ih, w_hh, bias, peephole.flatten(1),
    ]  # fmt: skip
    tensors = [t.requires_grad_(grad) for t in tensors]
    same = spec.padding == "same"
    return (*tensors, valid, list(spec.stride), list(spec.dilation), same, 1, 2, keep, False)


@pytest.mark.parametrize(("keep", "masked"), [(1, False), (2, True)])
def test_opcheck_accepts_the_operator(keep, masked):
    torch.library.opcheck(
        torch.ops.convlstm.sequence.default,
        operator_arguments(SPECS["same 3x3"], keep, masked),
    )


def test_opcheck_accepts_the_operator_without_gradients():
    args = operator_arguments(SPECS["valid"], 0, grad=False)
    torch.library.opcheck(torch.ops.convlstm.sequence.default, args)


def test_compile_of_a_whole_layer_gives_the_eager_numbers(difference):
    layer = convlstm.ConvLSTM2d(2, 4, 3, padding="same", return_sequences=True)
    x = torch.randn(2, 3, 2, 6, 6)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert difference(compiled(x).detach(), layer(x).detach()) <= 1e-6
    compiled(x).square().sum().backward()
    got = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    layer(x).square().sum().backward()
    for a, p in zip(got, layer.parameters(), strict=True):
        assert difference(a, p.grad) <= 1e-6


def test_export_gives_the_eager_numbers(difference):
    layer = convlstm.ConvLSTM2d(2, 4, 3, padding="same", return_sequences=True).eval()
    x = torch.randn(2, 3, 2, 6, 6)
    program = torch.export.export(layer, (x,))
    assert difference(program.module()(x).detach(), layer(x).detach()) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_cell_state_in_float32(dtype, difference):
    layer = convlstm.ConvLSTM2d(2, 4, 3, padding="same", return_sequences=True, return_state=True)
    x = torch.randn(2, 20, 2, 6, 6)
    want, (_, want_c) = layer(x)
    got, (h, c) = layer.to(dtype)(x.to(dtype))
    assert (got.dtype, h.dtype, c.dtype) == (dtype, dtype, torch.float32)
    bound = 0.03 if dtype == torch.bfloat16 else 0.004
    assert difference(got.float().detach(), want.detach()) <= bound
    assert difference(c.detach(), want_c.detach()) <= bound


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_operator_itself_learns_in_half_precision(dtype, keep, difference):
    wide = torch.randn(4, 2, 6, 5, 3), torch.zeros(2, 6, 5, 4), torch.zeros(2, 6, 5, 4)
    wide = [*wide, torch.randn(16, 3, 3, 3) / 5, torch.randn(16, 4, 3, 3) / 5]
    low = [t if k == 2 else t.to(dtype) for k, t in enumerate(wide)]
    found = []
    for tensors in (low, [t.float() for t in low]):
        leaves = [t.clone().requires_grad_() for t in tensors]
        options = [1, 1], [1, 1], True, 1, 2, keep, False
        hs, c, *_ = torch.ops.convlstm.sequence(*leaves, None, None, None, *options)
        total = hs.float().square().sum() + c.sum()
        found.append([hs.detach(), *torch.autograd.grad(total, leaves)])
    for got, want, tensor in zip(*found, [low[0], *low], strict=True):
        assert got.dtype == tensor.dtype
        assert difference(got.float(), want) <= 0.02


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_learns_with_peepholes(dtype, recompute, difference):
    spec = SPECS["same 3x3"]
    tensors = problem(spec, peephole=True, grad=False)
    low = [t if k == 2 else t.to(dtype) for k, t in enumerate(tensors)]
    wide = [t.float().requires_grad_() for t in low]
    low = [t.requires_grad_() for t in low]
    grads = torch.autograd.grad(run(low, spec, "fused", None, recompute)[2].sum(), low)
    wanted = torch.autograd.grad(run(wide, spec, "loop")[2].sum(), wide)
    for tensor, got, want in zip(low, grads, wanted, strict=True):
        assert got.dtype == tensor.dtype
        assert difference(got.float(), want) <= 0.01


@pytest.mark.parametrize("kernel", [3, 5, 4, (4, 5), (5, 3), 7])
@pytest.mark.parametrize(("channels", "filters"), [(3, 5), (16, 17), (21, 40)])
def test_winograd_of_large_kernels_rounds_as_it_says(kernel, channels, filters):
    """csrc/cpu/tiles.h: up to ten times the error of torch's convolutions, 1e-6 here; three steps
    with their gradients, beside the definition in double."""
    spec = CellSpec.make(2, filters, kernel, padding="same")
    single = problem(spec, steps=3, channels=channels, size=(20, 17))
    double = [t.detach().double().requires_grad_() for t in single]
    got, want = run(single, spec, "fused"), run(double, spec, "loop")
    seeds = [torch.randn(o.shape) for o in got]
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() <= 1.6e-5
    wanted = gradients(double, want, [s.double() for s in seeds])
    for a, b in zip(gradients(single, got, seeds), wanted, strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(1, b.abs().max())


BFLOAT16 = ["same 3x3", "many channels", "many channels 5x5", "pointwise", "one channel",
            "even kernel", "relu, hard sigmoid", "sigmoid, linear", "keras 2 slope"]  # fmt: skip


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("name", BFLOAT16)
def test_bfloat16_inference_rounds_inputs_and_states_alone(name, masked, difference):
    spec = replace(SPECS[name], padding="same")
    tensors = problem(spec, steps=6, channels=3, peephole=True, grad=False)
    rounded = [t.bfloat16().float() for t in tensors]
    low = [t if k in (2, 6) else t.bfloat16() for k, t in enumerate(tensors)]
    mask = torch.tensor([[1, 0, 1, 1, 1, 0], [0, 1, 1, 0, 1, 1]]).bool() if masked else None
    with torch.no_grad():
        states, h, c = run(low, spec, "fused", mask)
        rounded[2], rounded[6] = tensors[2], tensors[6]
        wanted, _, want_c = run(rounded, spec, "loop", mask)
    assert (states.dtype, h.dtype, c.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    # bfloat16 rounds by up to 2**-9 of a value; a step sums many of those errors
    assert difference(states.float(), wanted) <= 0.02
    assert (states.float() - wanted).norm() <= 0.006 * wanted.norm()
    assert (c - want_c).norm() <= 0.006 * want_c.norm()


def test_bfloat16_steps_pass_not_a_number_and_saturate():
    spec = CellSpec.make(2, 8, 3, padding="same")
    x, h, cell, *rest = problem(spec, steps=2, channels=3, grad=False)
    x[0, 0, 0, 4, 4] = float("nan")
    x[1] = 1e30
    with torch.no_grad():
        states, _, c = run([x.bfloat16(), h.bfloat16(), cell, *rest], spec, "fused")
    assert states[0, 0, :, 4, 4].isnan().all()
    assert not states[0, 0, :, 0, 0].isnan().any()
    assert states[1].abs().max() <= 1
    assert not c[1].isnan().any()


def test_the_native_steps_refuse_what_does_not_fit():
    from convlstm import _C

    x, h, c = torch.zeros(2, 1, 4, 4, 3), torch.zeros(1, 4, 4, 5), torch.zeros(1, 4, 4, 5)
    w_ih, w_hh = torch.zeros(20, 3, 3, 3), torch.zeros(20, 5, 3, 3)

    def steps(out=None, weight=w_hh, before=(1, 1), state=h, codes=(1, 2)):
        out = torch.zeros(2, 1, 4, 4, 5) if out is None else out
        plan = _C.Plan(before=before, activations=codes, tile=(2, 3), threads=1)
        _C.run_steps(
            plan, x=x, pre=None, h_before=state, c=c, weight_ih=w_ih, weight_hh=weight, bias=None,
            peephole=None, valid=None, h=out, c_last=c.clone(), gates=None, every_step=True,
        )  # fmt: skip

    steps()
    with pytest.raises(ValueError, match="h must be contiguous float32 of shape"):
        steps(out=torch.zeros(3, 1, 4, 4, 5))
    with pytest.raises(ValueError, match="weight_hh must be contiguous"):
        steps(weight=w_hh.transpose(0, 1).contiguous())
    with pytest.raises(ValueError, match="before must lie in the kernel"):
        steps(before=(3, 0))
    with pytest.raises(TypeError, match="h_before must be float32"):
        steps(state=h.half())
    with pytest.raises(ValueError, match="no kernel for this activation"):
        steps(codes=(9, 2))


def test_autocast_runs_forward_and_backward():
    layer = convlstm.ConvLSTM2d(2, 4, 3, padding="same", return_sequences=True)
    x = torch.randn(2, 3, 2, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert layer.weight_hh.grad.dtype == torch.float32
    assert layer.weight_hh.grad.abs().max() > 0


@pytest.mark.parametrize(("kernel", "filters"), [(5, 40), (7, 40)])
def test_large_tiles_give_the_same_bits_for_any_number_of_threads(kernel, filters):
    spec = CellSpec.make(2, filters, kernel, padding="same")
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.manual_seed(0)
            tensors = problem(spec, steps=3, channels=21, size=(20, 17))
            torch.set_num_threads(n)
            states = run(tensors, spec, "fused")
            results.append([*states, *gradients(tensors, states, [o.detach() for o in states])])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_results_do_not_depend_on_the_number_of_threads():
    spec = CellSpec.make(2, 8, 3, padding="same")
    x = torch.randn(20, 40, 40, 8)
    d = torch.randn(20, 40, 40, 32)
    weight = torch.zeros(32, 8, 3, 3)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(weight_gradient(x, d, weight, spec.recurrent_pads(), (1, 1), (1, 1)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_inputs_of_any_strides_give_the_same(difference):
    spec = SPECS["same 3x3"]
    tensors = problem(spec, grad=False)
    want = run(tensors, spec, "fused")
    strided = [torch.stack([t, t], -1)[..., 0] for t in tensors]
    assert not strided[0].is_contiguous()
    for a, b in zip(run(strided, spec, "fused"), want, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("plan", ["auto", "fused"])
@pytest.mark.parametrize("name", ["same 3x3", "valid", "stride", "one dimension"])
def test_an_empty_batch_gives_empty_outputs_and_no_gradient(name, plan):
    spec = SPECS[name]
    tensors = problem(spec, batch=0)
    for mask in (None, torch.ones(0, 4, dtype=torch.bool)):
        states, h, c = run(tensors, spec, plan, mask)
        size = spec.state_size(tensors[0].shape[3:])
        assert states.shape == (0, 4, spec.hidden_channels, *size)
        for grad in gradients(tensors, (states, h, c), (states, h, c)):
            assert not grad.any()


def test_not_a_number_reaches_the_output():
    layer = convlstm.ConvLSTM2d(1, 8, 3, padding="same")
    x = torch.zeros(1, 2, 1, 8, 8)
    x[0, 0, 0, 4, 4] = float("nan")
    y = layer(x)
    assert y[0, :, 4, 4].isnan().all()
    assert not y[0, :, 0, 0].isnan().any()


def test_infinite_arguments_saturate_the_gates():
    spec = CellSpec.make(2, 8, 1)
    for value in (1e30, -1e30, float("inf"), float("-inf")):
        pre = torch.full((1, 32, 1, 1), value)
        c = torch.ones(1, 8, 1, 1)
        want_h, want_c = reference.gates(pre, c, spec)
        from convlstm import _C

        h, c_next = torch.empty(1, 8), torch.empty(1, 8)
        _C.gates_forward(
            pre.flatten(1), None, None, None, None, None, c.flatten(1), None, c_next, h, 1, 2, 1
        )
        assert torch.allclose(h, want_h.flatten(1), atol=1e-6)
        assert torch.allclose(c_next, want_c.flatten(1), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"activation": "gelu"}, "no native kernel"),
        ({"dropout": 0.5}, "dropout"),
        ({"norm": "layer"}, "norm"),
        ({"peephole": (4, 4)}, "by position"),
    ],
)
def test_a_fused_plan_that_cannot_be_says_why(options, reason):
    layer = convlstm.ConvLSTM2d(1, 4, 3, padding="same", plan="fused", **options)
    with pytest.raises(ValueError, match=reason):
        layer(torch.zeros(1, 2, 1, 4, 4))


def test_the_private_kernels_refuse_what_does_not_fit():
    from convlstm import _C

    a, c = torch.zeros(2, 16), torch.zeros(2, 4)

    def forward(pre=a, before=c, h=None):
        out = torch.zeros(2, 4) if h is None else h
        _C.gates_forward(pre, None, None, None, None, None, before, None, c.clone(), out, 1, 2, 1)

    forward()
    with pytest.raises(ValueError, match="pre must be contiguous with 32 elements"):
        forward(pre=torch.zeros(2, 15))
    with pytest.raises(TypeError, match="c_before must be float32"):
        forward(before=c.double())
    with pytest.raises(ValueError, match="non-contiguous"):
        forward(h=torch.zeros(4, 2).T)
    with pytest.raises(TypeError, match="float32 or float64"):
        forward(pre=a.int())
    with pytest.raises(TypeError):
        forward(pre=None)
    with pytest.raises(ValueError, match="no kernel for this activation"):
        _C.gates_forward(a, None, None, None, None, None, c, None, c.clone(), c.clone(), 9, 2, 1)


@pytest.mark.parametrize(("size", "filters"), [((0, 4), 5), ((4, 0), 5), ((4, 4), 0)])
def test_the_private_backward_kernels_take_empty_tensors(size, filters):
    from convlstm import _C

    state, weight = torch.ones(1, *size, filters), torch.ones(4 * filters, filters, 3, 3)
    gates, cells = torch.ones(2, 1, *size, 4 * filters), torch.ones(3, 1, *size, filters)
    d_pre, d_weight = torch.ones_like(gates), torch.zeros_like(weight)
    plan = _C.Plan(before=(1, 1), activations=(1, 2), tile=(2, 3), threads=1)
    _C.run_steps_backward(
        plan, gates=gates, cells=cells, d_hs=None, d_h=state, d_c=state.clone(), weight_ih=None,
        weight_hh=weight, peephole=None, valid=None, d_pre=d_pre, d_x=None,
    )  # fmt: skip
    x = torch.ones(2, *size, filters)
    _C.weight_gradient(x, None, None, d_pre.flatten(0, 1), d_weight, None, None, 1, 1, (4, 3), 1)
    assert not d_weight.any()


@pytest.mark.parametrize("kernel", [3, (2, 4)])
def test_the_plain_loop_takes_what_is_heavy_and_gives_the_same(kernel, monkeypatch, difference):
    spec = CellSpec.make(2, 5, kernel, padding="same")
    tensors = problem(spec)
    want = run(tensors, spec, "fused")
    seeds = [torch.randn(o.shape) for o in want]
    wanted = [g.clone() for g in gradients(tensors, want, seeds)]
    calls = []
    real = plain_loop.sequence
    monkeypatch.setattr(plain_loop, "sequence", lambda *a: calls.append(1) or real(*a))
    run(tensors, spec, "auto")
    assert not calls
    monkeypatch.setattr(plain_loop, "HEAVY", 0)
    got = run(tensors, spec, "auto")
    assert len(calls) == 1
    for a, b in zip(got, want, strict=True):
        assert difference(a.detach(), b.detach()) <= 1e-6
    for a, b in zip(gradients(tensors, got, seeds), wanted, strict=True):
        assert difference(a, b) <= 3e-6
