"""Both directions and stacked layers."""

import numpy as np
import pytest
import torch

import convlstm

X = (2, 4, 2, 6, 7)


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave"])
@pytest.mark.parametrize("sequences", [True, False])
def test_both_directions_give_the_numbers_of_keras(keras, difference, merge, sequences):
    inner = keras.layers.ConvLSTM2D(3, 3, padding="same", return_sequences=sequences)
    theirs = keras.layers.Bidirectional(inner, merge_mode=merge)
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 7, 2)).astype("float32")
    theirs.build(x.shape)
    ours = convlstm.Bidirectional(
        2, 2, 3, 3, merge=merge, return_sequences=sequences, padding="same",
        data_format="channels_last",
    )  # fmt: skip
    ours.forward_layer.load_keras_weights(theirs.forward_layer.get_weights())
    ours.backward_layer.load_keras_weights(theirs.backward_layer.get_weights())
    assert difference(ours(torch.tensor(x)).detach(), theirs(x).detach()) <= 1e-6


def test_the_backward_direction_starts_at_the_last_valid_step(difference):
    m = convlstm.Bidirectional(2, 2, 3, 3, padding="same", return_sequences=True)
    x = torch.randn(X)
    out = m(x, lengths=torch.tensor([2, 4]))
    assert difference(out[:1, :2].detach(), m(x[:1, :2]).detach()) <= 1e-6


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_stack_is_its_layers_one_after_the_other(bidirectional, difference):
    m = convlstm.ConvLSTM(2, 2, [3, 4], [3, (1, 5)], 2, bidirectional=bidirectional)
    x = torch.randn(X)
    out, states = m(x)
    want = x
    for layer in m.layers:
        want, _ = layer(want)
    assert torch.equal(out, want)
    assert len(states) == 2
    assert out.shape[2] == m.out_channels == (8 if bidirectional else 4)
    first, start = m(x[:, :2])
    if not bidirectional:
        second, _ = m(x[:, 2:], start)
        assert difference(torch.cat([first, second], 1).detach(), out.detach()) <= 1e-6


def test_a_stack_keeps_one_layout_and_learns():
    m = convlstm.ConvLSTM(2, 2, 8, 3, 3, dropout=0.1, plan="fused")
    out, _ = m(torch.randn(X))
    # time first and channels last in memory, whatever the view says: the next layer copies nothing
    assert m.layers[0](torch.randn(X))[0].transpose(0, 1).movedim(2, -1).is_contiguous()
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in m.parameters())


def test_detach_cuts_states_of_any_nesting():
    m = convlstm.ConvLSTM(2, 2, 3, 3, 2)
    x = torch.randn(X, requires_grad=True)
    _, states = m(x)
    cut = convlstm.detach(states)
    assert not any(t.requires_grad for pair in cut for t in pair)
    out, _ = m(torch.randn(X), cut)
    out.sum().backward()
    assert x.grad is None


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: convlstm.ConvLSTM(2, 2, [3], 3, 2), "hidden_channels must be"),
        (lambda: convlstm.ConvLSTM(2, 2, 3, [3], 2), "kernel_size must be"),
        (lambda: convlstm.ConvLSTM(2, 2, 3, 3, 0), "num_layers must be"),
        (lambda: convlstm.ConvLSTM(2, 2, 3, 3, return_state=False), "not an option"),
        (lambda: convlstm.Bidirectional(2, 2, 3, 3, merge="max"), "merge must be"),
        (lambda: convlstm.Bidirectional(2, 2, 3, 3, go_backwards=True), "runs both ways"),
    ],
)
def test_wrong_options_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


class NdrplzCell(torch.nn.Module):
    """As ndrplz/ConvLSTM_pytorch computes it: one convolution of [x, h], gates i, f, o, g."""

    def __init__(self, channels, filters, kernel):
        super().__init__()
        pad = tuple(k // 2 for k in kernel)
        self.conv = torch.nn.Conv2d(channels + filters, 4 * filters, kernel, padding=pad)

    def forward(self, x):
        h = c = x.new_zeros(x.shape[0], self.conv.out_channels // 4, *x.shape[3:])
        out = []
        for t in range(x.shape[1]):
            i, f, o, g = self.conv(torch.cat([x[:, t], h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            out.append(h)
        return torch.stack(out, 1)


def test_weights_of_ndrplz_load_with_their_numbers():
    theirs = torch.nn.Module()
    theirs.cell_list = torch.nn.ModuleList([NdrplzCell(2, 3, (3, 5)), NdrplzCell(3, 4, (3, 3))])
    ours = convlstm.ConvLSTM.from_ndrplz(theirs.state_dict()).eval()
    x = torch.rand(2, 4, 2, 9, 8)
    with torch.no_grad():
        want = theirs.cell_list[1](theirs.cell_list[0](x))
        assert (ours(x)[0] - want).abs().max() <= 1e-6
    with pytest.raises(ValueError, match="must be named cell_list"):
        convlstm.ConvLSTM.from_ndrplz({"conv.weight": torch.zeros(4, 2, 3, 3)})


def test_both_directions_forget_their_states():
    m = convlstm.Bidirectional(2, 1, 2, 3, padding="same", stateful=True)
    x = torch.rand(2, 3, 1, 6, 6)
    first = m(x)
    assert not torch.equal(first, m(x))
    m.reset_state()
    assert torch.equal(first, m(x))
    m.reset_state(batch=1)
    assert m(x[:1]).shape[0] == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: convlstm.ConvLSTM2d(1, 2, 3, padding=1), 'must be "valid" or "same", got 1'),
        (lambda: convlstm.ConvLSTM2d(True, 2, 3), "in_channels must be a positive integer"),
        (lambda: convlstm.ConvLSTM2d(1, 2.0, 3), "hidden_channels must be a positive integer"),
        (lambda: convlstm.ConvLSTM2d(1, 2, 2.5), "kernel_size must be a positive integer or 2"),
        (lambda: convlstm.ConvLSTM(3, 64, (3, 3), 2), "the order is"),
        (lambda: convlstm.ConvLSTM((3, 3), 64, 3, 2), "rank must be 1, 2 or 3"),
        (lambda: convlstm.Bidirectional(4, 1, 2, 3), "rank must be 1, 2 or 3"),
    ],
)  # fmt: skip
def test_arguments_that_mean_something_else_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_integers_of_numpy_are_integers():
    import numpy as np

    layer = convlstm.ConvLSTM2d(np.int64(1), np.int32(4), np.int64(3), stride=np.int8(2))
    assert layer(torch.rand(1, 2, 1, 9, 9)).shape == (1, 4, 4, 4)


def test_a_returned_state_is_a_tensor_of_its_own():
    m = convlstm.ConvLSTM2d(
        1, 4, 3, padding="same", return_sequences=True, return_state=True, stateful=True
    ).eval()
    with torch.no_grad():
        out, (h, c) = m(torch.rand(1, 20, 1, 8, 8))
    before, kept = out.clone(), [s.clone() for s in m.state]
    h.zero_()
    c.zero_()
    assert torch.equal(out, before)
    assert all(torch.equal(a, b) for a, b in zip(kept, m.state, strict=True))
    assert m.state[0].untyped_storage().nbytes() == 4 * h.numel()
    assert h.untyped_storage().nbytes() == 4 * h.numel()


def test_lengths_outside_the_sequence_are_refused():
    m = convlstm.ConvLSTM2d(1, 2, 3, padding="same")
    x = torch.rand(2, 3, 1, 5, 5)
    for lengths in ([-1, 2], [9, 2]):
        with pytest.raises(ValueError, match="between 0 and T = 3"):
            m(x, lengths=torch.tensor(lengths))
    with pytest.raises(TypeError, match="lengths must be integers"):
        m(x, lengths=torch.tensor([1.5, 2]))


def test_a_state_kept_under_inference_mode_serves_training():
    m = convlstm.ConvLSTM2d(1, 2, 3, stateful=True)
    with torch.inference_mode():
        m(torch.rand(1, 2, 1, 8, 8))
    m(torch.rand(1, 2, 1, 8, 8)).sum().backward()
    assert m.weight_ih.grad is not None


def test_shapes_are_known_on_the_meta_device():
    with torch.device("meta"):
        m = convlstm.ConvLSTM2d(1, 4, 3)
    assert m(torch.zeros(1, 2, 1, 8, 8, device="meta")).shape == (1, 4, 6, 6)


@pytest.mark.parametrize(
    "option", [{}, {"norm": "layer"}, {"peephole": True}, {"truncate": 2}], ids=str
)
@pytest.mark.parametrize("masked", [False, True])
def test_the_last_output_is_a_tensor_of_its_own(option, masked):
    layer = convlstm.ConvLSTM2d(2, 3, 3, padding="same", **option).eval()
    with torch.no_grad():
        out = layer(torch.rand(X), lengths=torch.tensor([4, 2]) if masked else None)
    assert out.untyped_storage().nbytes() == out.numel() * 4


def test_a_call_that_fails_leaves_a_stateful_layer_as_it_was():
    layer = convlstm.ConvLSTM2d(2, 3, 3, padding="same", stateful=True)
    with pytest.raises(TypeError, match="dtype"):
        layer(torch.rand(5, *X[1:]).double())
    assert layer(torch.rand(X)).shape[0] == X[0]
    with pytest.raises(ValueError, match="forgotten by reset_state"):
        layer(torch.rand(2, 4, 2, 9, 9))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda layer, x: layer(x.numpy()), "x must be a tensor, got ndarray"),
        (lambda layer, x: layer(x, lengths=[4, 4]), "lengths must be a tensor, got list"),
        (lambda layer, x: layer(x, mask=np.ones((2, 4), bool)), "mask must be a tensor"),
        (lambda layer, x: convlstm.forecast(layer, x.numpy(), 1), "x must be a tensor"),
    ],
)
def test_what_is_no_tensor_is_named(call, named):
    with pytest.raises(TypeError, match=named):
        call(convlstm.ConvLSTM2d(2, 3, 3), torch.rand(X))


def test_a_part_of_a_step_is_not_forecast():
    with pytest.raises(ValueError, match=r"a whole number of at least 1, got 2\.5"):
        convlstm.forecast(convlstm.next_frame("small", size=(8, 8)), torch.rand(1, 2, 8, 8, 1), 2.5)
