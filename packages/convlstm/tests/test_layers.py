"""What layers do beyond equal numbers: dropout, state, masks, peepholes, norms, errors."""

import pytest
import torch

import convlstm
from convlstm.layers import LAYERS
from convlstm.sequence import extended


def layer(**options):
    options = {"padding": "same", "return_sequences": True, **options}
    return convlstm.ConvLSTM2d(2, 4, 3, **options)


X = (2, 5, 2, 6, 7)


@pytest.mark.parametrize("which", ["dropout", "recurrent_dropout"])
def test_dropout_masks_are_shared_over_time_and_differ_by_gate(which, monkeypatch):
    drawn = []
    original = extended.sequence

    def spy(*args):
        drawn.append(args[7])
        return original(*args)

    monkeypatch.setattr(extended, "sequence", spy)
    m = layer(**{which: 0.5})
    m(torch.randn(X))
    masks = drawn[0].input_masks if which == "dropout" else drawn[0].state_masks
    channels = 2 if which == "dropout" else 4
    assert masks.shape == (4, 2, channels, 6, 7)  # no axis of time: one for all steps
    assert set(masks.unique().tolist()) == {0.0, 2.0}
    for a in range(4):
        for b in range(a):
            assert not torch.equal(masks[a], masks[b])
    m(torch.randn(X))
    second = drawn[1].input_masks if which == "dropout" else drawn[1].state_masks
    assert not torch.equal(masks, second)


def test_dropout_equals_its_definition_gate_by_gate():
    m = layer(dropout=0.3, recurrent_dropout=0.2, return_state=True)
    x = torch.randn(X)
    torch.manual_seed(3)
    got, _ = m(x)
    torch.manual_seed(3)
    masks = [
        (torch.rand(4, 2, c, 6, 7) >= rate).float() / (1 - rate) for c, rate in ((2, 0.3), (4, 0.2))
    ]
    h = c = torch.zeros(2, 4, 6, 7)
    for t in range(5):
        pre = []
        for gate in range(4):
            rows = slice(4 * gate, 4 * gate + 4)
            pre.append(
                torch.conv2d(x[:, t] * masks[0][gate], m.weight_ih[rows], m.bias[rows], padding=1)
                + torch.conv2d(h * masks[1][gate], m.weight_hh[rows], padding=1)
            )
        c = pre[1].sigmoid() * c + pre[0].sigmoid() * pre[2].tanh()
        h = pre[3].sigmoid() * c.tanh()
        assert torch.allclose(got[:, t], h, atol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_rates_of_zero_and_one_drop_nothing(rate):
    m = layer(dropout=rate, recurrent_dropout=rate)
    x = torch.randn(X)
    assert torch.equal(m(x), m.eval()(x))


def test_dropout_is_off_in_eval_mode():
    m = layer(dropout=0.5).eval()
    x = torch.randn(X)
    assert torch.equal(m(x), m(x))


def test_a_stateful_layer_refuses_another_batch_size_until_it_is_told():
    m = layer(stateful=True)
    m(torch.randn(X))
    with pytest.raises(ValueError, match=r"keeps its batch size 2, got a batch of 3"):
        m(torch.randn(3, *X[1:]))
    m.reset_state()
    with pytest.raises(ValueError, match="batch size 2"):
        m(torch.randn(3, *X[1:]))
    m.reset_state(batch=3)
    assert m(torch.randn(3, *X[1:])).shape[0] == 3


def test_a_stateful_layer_trains_step_after_step():
    m = layer(stateful=True)
    for _ in range(2):
        m(torch.randn(X)).sum().backward()
    assert m.state[0].shape == (2, 4, 6, 7)
    assert not m.state[0].requires_grad


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_lengths_equal_a_mask_and_shorter_sequences(data_format, difference):
    m = layer(return_state=True, data_format=data_format)
    x = torch.randn(X)
    if data_format == "channels_last":
        x = x.movedim(2, -1)
    out, (h, c) = m(x, lengths=torch.tensor([3, 5]))
    alone, (h_alone, c_alone) = m(x[:1, :3])
    assert difference(out[:1, :3].detach(), alone.detach()) <= 1e-6
    assert torch.equal(out[0, 3], out[0, 2])
    assert difference(h[:1].detach(), h_alone.detach()) <= 1e-6
    assert difference(c[:1].detach(), c_alone.detach()) <= 1e-6
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    assert torch.equal(out, m(x, mask=mask)[0])


@pytest.mark.parametrize("plan", ["fused", "loop"])
def test_truncated_gradients_stop_at_the_cut(plan):
    x = torch.randn(X, requires_grad=True)
    m = layer(truncate=2, plan=plan)
    m(x)[:, 4].sum().backward()
    reached = x.grad.abs().sum((0, 2, 3, 4)) > 0
    assert reached.tolist() == [False, False, False, False, True]
    whole = layer(truncate=5, plan=plan)
    whole.load_state_dict(m.state_dict())
    assert torch.allclose(m(x), whole(x), atol=1e-6)


def test_peepholes_are_those_of_shi(difference):
    for size in (True, (6, 7)):
        m = layer(peephole=size)
        torch.nn.init.normal_(m.peephole, std=0.5)
        x = torch.randn(X)
        got = m(x)
        h = c = torch.zeros(2, 4, 6, 7)
        p_i, p_f, p_o = m.peephole
        for t in range(5):
            pre = torch.conv2d(x[:, t], m.weight_ih, m.bias, padding=1)
            i, f, g, o = (pre + torch.conv2d(h, m.weight_hh, padding=1)).chunk(4, 1)
            c_next = (f + p_f * c).sigmoid() * c + (i + p_i * c).sigmoid() * g.tanh()
            h = (o + p_o * c_next).sigmoid() * c_next.tanh()
            c = c_next
            assert difference(got[:, t].detach(), h.detach()) <= 1e-6


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_norms_make_gates_independent_of_the_scale_of_weights(norm, difference):
    m = layer(norm=norm, norm_groups=2, bias=False)
    x = torch.randn(X)
    before = m(x).detach()
    with torch.no_grad():
        m.weight_ih *= 7
        m.weight_hh *= 7
    assert difference(m(x).detach(), before) <= 1e-3
    m(x).sum().backward()
    assert m.gate_norm.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_a_cell_steps_as_its_layer(rank, data_format, difference):
    kinds = {1: convlstm.ConvLSTMCell1d, 2: convlstm.ConvLSTMCell2d, 3: convlstm.ConvLSTMCell3d}
    size = (6, 5, 4)[:rank]
    x = torch.randn(2, 3, 2, *size)
    if data_format == "channels_last":
        x = x.movedim(2, -1)
    options = {"padding": "same", "data_format": data_format}
    m = LAYERS[rank](2, 4, 3, return_state=True, **options)
    cell = kinds[rank](2, 4, 3, **options)
    cell.load_state_dict(m.state_dict())
    state = None
    for t in range(3):
        state = cell(x[:, t], state)
    out, (h, c) = m(x)
    assert difference(state[0].detach(), h.detach()) <= 1e-6
    assert difference(state[1].detach(), c.detach()) <= 1e-6
    assert torch.equal(out, h)


def test_weights_of_keras_go_in_and_come_out_bit_for_bit():
    m = layer()
    arrays = m.keras_weights()
    other = layer()
    other.load_keras_weights(arrays)
    for a, b in zip(other.keras_weights(), arrays, strict=True):
        assert (a == b).all()
    with pytest.raises(ValueError, match="must hold 3 arrays"):
        other.load_keras_weights(arrays[:2])
    with pytest.raises(ValueError, match=r"must have shape \(16, 2, 3, 3\)"):
        other.load_keras_weights([arrays[1], arrays[0], arrays[2]])


ERRORS = {
    "channels": (lambda m: m(torch.zeros(2, 5, 3, 6, 7)), ValueError, r"C = 2, got \(2, 5, 3"),
    "rank": (lambda m: m(torch.zeros(2, 5, 6, 7)), ValueError, "x must have shape"),
    "no steps": (lambda m: m(torch.zeros(2, 0, 2, 6, 7)), ValueError, "at least one step"),
    "integers": (lambda m: m(torch.zeros(X, dtype=torch.int64)), TypeError, "floating point"),
    "double": (lambda m: m(torch.zeros(X, dtype=torch.float64)), TypeError, "weights' dtype"),
    "mask": (lambda m: m(torch.zeros(X), mask=torch.ones(2, 4)), ValueError, r"mask .*\(2, 5\)"),
    "lengths": (lambda m: m(torch.zeros(X), lengths=torch.ones(3)), ValueError, "lengths must"),
    "both": (
        lambda m: m(torch.zeros(X), mask=torch.ones(2, 5), lengths=torch.ones(2)),
        ValueError,
        "not both",
    ),
    "state": (
        lambda m: m(torch.zeros(X), initial_state=(torch.zeros(2, 4, 6, 6),) * 2),
        ValueError,
        r"initial h must have shape \(2, 4, 6, 7\)",
    ),
}


@pytest.mark.parametrize(("call", "kind", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_wrong_calls_name_the_demand_and_the_fact(call, kind, text):
    with pytest.raises(kind, match=text):
        call(layer())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"stride": 2, "dilation": 2}, "cannot both exceed 1"),
        ({"padding": "full"}, "padding must be"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size must be"),
        ({"activation": "nope"}, "activation must be one of"),
        ({"data_format": "nchw"}, "data_format must be one of"),
        ({"norm": "batch"}, "norm must be"),
        ({"truncate": 0}, "truncate must be at least 1"),
        ({"plan": "fast"}, "plan must be one of"),
        ({"kernel_initializer": "nope"}, "initializer must be one of"),
    ],
)
def test_wrong_options_are_refused_when_the_layer_is_made(options, text):
    options = {"kernel_size": 3, **options}
    with pytest.raises(ValueError, match=text):
        convlstm.ConvLSTM2d(2, 4, **options)


def test_an_input_smaller_than_a_valid_kernel_is_refused():
    with pytest.raises(ValueError, match="smaller than the kernel"):
        convlstm.ConvLSTM2d(2, 4, 5)(torch.zeros(1, 2, 2, 4, 4))


def test_import_is_light():
    import subprocess
    import sys

    code = (
        "import sys, convlstm; bad = {'h5py', 'PIL', 'sklearn', 'keras', 'matplotlib', 'av', "
        "'tensorboard'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
