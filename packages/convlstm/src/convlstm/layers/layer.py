"""ConvLSTM layers over whole sequences, with every option of Keras and a few that it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..sequence import ops
from .cell import KERAS_CLASSES, CellOptions, ConvLSTMBase, keras_arguments, with_options
from .state import State

if TYPE_CHECKING:
    from typing_extensions import Unpack


@with_options(ConvLSTMBase)
class _ConvLSTMLayer(ConvLSTMBase):
    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int | Sequence[int],
        *,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        zero_output_for_mask: bool = False,
        truncate: int | None = None,
        recompute: bool = False,
        plan: str = "auto",
        **cell: Unpack[CellOptions],
    ) -> None:
        super().__init__(in_channels, hidden_channels, kernel_size, **cell)
        name = type(self).__name__
        if truncate is not None and truncate < 1:
            raise ValueError(f"{name}: truncate must be at least 1 step, got {truncate}")
        if plan not in ops.PLANS:
            raise ValueError(f"{name}: plan must be one of {', '.join(ops.PLANS)}; got {plan!r}")
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.go_backwards = go_backwards
        self.stateful = stateful
        self.zero_output_for_mask = zero_output_for_mask
        self.truncate = truncate
        self.recompute = recompute
        self.plan = plan
        self._state: State | None = None
        self._batch: int | None = None

    # Keras

    @classmethod
    def from_keras_config(
        cls, config: Mapping[str, Any], in_channels: int, keras_version: str = "3", **options: Any
    ) -> _ConvLSTMLayer:
        """The layer of a Keras configuration (`get_config()`), for inputs of `in_channels`.

        keras_version: of the Keras that wrote it; 2 means the older slope of "hard_sigmoid".
        options: added to, or in place of, what the configuration says.
        """
        args, kwargs = keras_arguments(config, keras_version)
        for name in (
            "return_sequences",
            "return_state",
            "go_backwards",
            "stateful",
            "zero_output_for_mask",
        ):
            if name in config:
                kwargs[name] = config[name]
        return cls(in_channels, *args, **{**kwargs, **options})

    def keras_config(self, name: str | None = None) -> dict[str, Any]:
        """This layer's configuration as Keras 3 writes it."""
        s = self.spec
        for activation in (s.activation, s.recurrent_activation):
            if activation == "hard_sigmoid_keras2":
                raise ValueError(
                    "keras_config: Keras 3 has no hard_sigmoid with Keras 2's slope; "
                    'build the layer with "hard_sigmoid" or export the weights alone'
                )
        return self._config(name or f"conv_lstm{self.rank}d")

    def _config(self, name: str) -> dict[str, Any]:
        """The configuration in Keras' terms, with activations by our names."""
        s = self.spec
        return {
            "name": name,
            "filters": self.hidden_channels,
            "kernel_size": list(s.kernel_size),
            "strides": list(s.stride),
            "padding": s.padding,
            "data_format": "channels_last" if self.channels_last else "channels_first",
            "dilation_rate": list(s.dilation),
            "activation": s.activation,
            "recurrent_activation": s.recurrent_activation,
            "use_bias": self.bias is not None,
            "unit_forget_bias": self.unit_forget_bias,
            "dropout": self.dropout,
            "recurrent_dropout": self.recurrent_dropout,
            "return_sequences": self.return_sequences,
            "return_state": self.return_state,
            "go_backwards": self.go_backwards,
            "stateful": self.stateful,
            "zero_output_for_mask": self.zero_output_for_mask,
            "unroll": False,
        }

    @property
    def keras_class(self) -> str:
        return KERAS_CLASSES[self.rank]

    # State

    @property
    def state(self) -> State | None:
        """The kept (h, c) of a stateful layer, in the layer's data format; None before a call."""
        if self._state is None:
            return None
        h, c = self._state
        return self._to_format(h), self._to_format(c)

    def reset_state(self, batch: int | None = None) -> None:
        """Forgets the kept state: the next call starts from zeros, with the same batch size.

        batch: the batch size of the next calls, where it is to change.
        """
        self._state = None
        if batch is not None:
            self._batch = batch

    def _stateful_start(self, x: Tensor, initial_state: State | None) -> State | None:
        if self._batch is not None and x.shape[0] != self._batch:
            raise ValueError(
                f"{type(self).__name__}: a stateful layer keeps its batch size {self._batch}, got "
                f"a batch of {x.shape[0]}; call reset_state(batch={x.shape[0]}) first"
            )
        if initial_state is not None or self._state is None:
            return initial_state
        if self._state[0].is_inference() and not torch.is_inference_mode_enabled():
            self._state = (self._state[0].clone(), self._state[1].clone())
        return self.state

    # Sequences

    def forward(
        self,
        x: Tensor,
        initial_state: State | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, State]:
        """Runs the layer over a sequence.

        x: (B, T, C, size...), or (B, T, size..., C) for channels last; T at least 1.
        initial_state: (h, c), each (B, F, state size...) in the layer's data format.
        mask: (B, T), true where a step is valid; elsewhere both states are carried over and the
            output repeats (zeros before the first valid step).
        lengths: (B,) integers, in place of a mask: the valid steps of each sequence.

        Returns the outputs (B, T, F, state size...), or the last of them (B, F, state size...)
        without return_sequences; with return_state (output, (h, c)). c is float32 under half
        precision. Raises ValueError for shapes that do not fit, TypeError for dtypes.
        """
        outputs, state = self.run(x, initial_state, mask, lengths)
        return (outputs, state) if self.return_state else outputs

    def run(
        self,
        x: Tensor,
        initial_state: State | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        keep: bool | None = None,
    ) -> tuple[Tensor, State]:
        """As `forward`, and always with the last (h, c), which are tensors of their own.

        keep: whether a stateful layer starts from its kept state and keeps the new one; False
        leaves it alone, as streams and forecasts need it.
        """
        self._check_input(x, self.rank + 3)
        if x.shape[1] == 0:
            raise ValueError(f"{type(self).__name__}: x must have at least one step, got T = 0")
        mask = self._mask(x, mask, lengths)
        keep = self.stateful if keep is None else keep
        if keep:
            initial_state = self._stateful_start(x, initial_state)
        x, w_ih, w_hh, bias = self._compute_weights(x)
        x = self._to_first(x)
        h, c = self._start(x, initial_state)
        if self.go_backwards:
            x = x.flip(1)
            mask = None if mask is None else mask.flip(1)
        extras = self._extras(x[:, 0], h)
        outputs, h, c = self._run(x, h, c, w_ih, w_hh, bias, mask, extras)
        if keep:
            self._state, self._batch = (_owned(h), _owned(c)), x.shape[0]
        # The last h is a view of all steps: a state must not hold, nor change, the outputs.
        return self._outputs(outputs, mask), (self._to_format(h.clone()), self._to_format(c))

    def _mask(self, x: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor | None:
        name = type(self).__name__
        for label, value in (("mask", mask), ("lengths", lengths)):
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(
                    f"{name}: {label} must be a tensor, got {type(value).__name__}; "
                    f"torch.as_tensor({label})"
                )
        if lengths is not None:
            if mask is not None:
                raise ValueError(f"{name}: give mask or lengths, not both")
            if lengths.shape != x.shape[:1]:
                raise ValueError(
                    f"{name}: lengths must have shape ({x.shape[0]},), got {tuple(lengths.shape)}"
                )
            if lengths.is_floating_point() or lengths.dtype == torch.bool:
                raise TypeError(f"{name}: lengths must be integers, got {lengths.dtype}")
            if not lengths.is_meta and ((lengths < 0) | (lengths > x.shape[1])).any():
                raise ValueError(
                    f"{name}: lengths must lie between 0 and T = {x.shape[1]}, got "
                    f"{lengths.tolist()}"
                )
            steps = torch.arange(x.shape[1], device=x.device)
            return steps[None, :] < lengths.to(x.device)[:, None]
        if mask is None:
            return None
        if mask.shape != x.shape[:2]:
            raise ValueError(
                f"{name}: mask must have shape (B, T) = {tuple(x.shape[:2])}, "
                f"got {tuple(mask.shape)}"
            )
        return mask.to(device=x.device, dtype=torch.bool)

    def _run(
        self, x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, bias, mask, extras
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All steps; with `truncate`, in pieces between which no gradient flows."""
        every = self.return_sequences or mask is not None
        options = {"plan": self.plan, "recompute": self.recompute, "every_step": every}
        weights = (w_ih, w_hh, bias, self.spec)
        if not self.truncate:
            return ops.sequence(x, h, c, *weights, mask=mask, extras=extras, **options)
        outputs = []
        for start in range(0, x.shape[1], self.truncate):
            part = slice(start, start + self.truncate)
            some = None if mask is None else mask[:, part]
            h, c = (h.detach(), c.detach()) if start else (h, c)
            out, h, c = ops.sequence(
                x[:, part], h, c, *weights, mask=some, extras=extras, **options
            )
            outputs.append(out)
        return torch.cat(outputs, 1), h, c

    def _outputs(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """The outputs (B, T, ...) or (B, ...) from the states: a masked step shows zeros, or what
        the last valid step showed."""
        if mask is not None:
            shown = mask if self.zero_output_for_mask else mask.cummax(1).values
            shown = shown.view(*shown.shape, *(1,) * (self.rank + 1))
            states = torch.where(shown, states, torch.zeros_like(states))
        # The last output is a copy, too: a view would hold those of all steps.
        return self._to_format(states if self.return_sequences else states[:, -1].clone())


def _owned(state: Tensor) -> Tensor:
    return state.detach().clone()


class ConvLSTM1d(_ConvLSTMLayer):
    """ConvLSTM over (B, T, C, L); see `ConvLSTM2d`."""

    rank = 1


class ConvLSTM2d(_ConvLSTMLayer):
    """ConvLSTM over (B, T, C, H, W), equal to Keras' ConvLSTM2D; defaults are Keras' own.

    in_channels, hidden_channels: C of the input and F of the states and the output.
    kernel_size: of the input and of the recurrent convolution.
    stride, padding ("valid" or "same"), dilation: of the input convolution. "same" is TensorFlow's
        rule. The recurrent convolution is always "same" with stride 1 and dilation 1.
    data_format: "channels_first" (B, T, C, H, W) or "channels_last" (B, T, H, W, C).
    activation, recurrent_activation: names, see `convlstm.activations`.
    bias, unit_forget_bias: whether there is a bias, and whether the forget gate's starts at 1.
    kernel_initializer, recurrent_initializer, bias_initializer: Keras names or configurations, or
        functions of a shape in Keras' layout (kh, kw, in, 4F).
    dropout, recurrent_dropout: of the input and the state, in training mode: one mask for each
        gate, shared by all steps of a call.
    return_sequences: all outputs instead of the last. return_state: also the last (h, c).
    go_backwards: runs from the last step to the first; outputs stay in that order.
    stateful: starts where the last call ended (detached); see `reset_state`.
    zero_output_for_mask: masked steps give zeros instead of the previous output.
    peephole: True for one weight a channel, or the state's (H, W) for Shi's one a position.
    norm: "layer" or "group" (`norm_groups` groups a gate): normalises the arguments of the gates
        and the cell state before its activation.
    truncate: gradients flow at most through this many steps (truncated backpropagation).
    recompute: keep the states alone for the backward pass and compute the gates again.
    plan: how the sequence is computed: "auto", "fused" (native operator) or "loop" (plain torch).
    """

    rank = 2


class ConvLSTM3d(_ConvLSTMLayer):
    """ConvLSTM over (B, T, C, D, H, W); see `ConvLSTM2d`."""

    rank = 3


LAYERS = {1: ConvLSTM1d, 2: ConvLSTM2d, 3: ConvLSTM3d}
