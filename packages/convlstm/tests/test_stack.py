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
