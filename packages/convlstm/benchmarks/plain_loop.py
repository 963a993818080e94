"""The peer: ConvLSTM as it is usually written in plain torch: a convolution over cat([x, h])."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class PlainConvLSTM(nn.Module):
    """(B, T, C, H, W) to (B, T, F, H, W); "same" padding, odd kernel, gates i, f, g, o.

    dropout: the rate for input and state, with masks for each gate that all steps share, as Keras
    has it. groups: of the norm inside the cell, a gate and the cell state; 0 is none.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel: int,
        dropout: float = 0.0,
        groups: int = 0,
        activation=torch.tanh,
    ) -> None:
        super().__init__()
        self.hidden, self.dropout, self.activation = hidden_channels, dropout, activation
        channels = in_channels + hidden_channels
        self.conv = nn.Conv2d(channels, 4 * hidden_channels, kernel, padding=kernel // 2)
        self.gate_norm = nn.GroupNorm(4 * groups, 4 * hidden_channels) if groups else None
        self.cell_norm = nn.GroupNorm(groups, hidden_channels) if groups else None

    def load(self, layer) -> None:
        with torch.no_grad():
            self.conv.weight.copy_(torch.cat([layer.weight_ih, layer.weight_hh], 1))
            self.conv.bias.copy_(layer.bias)

    def _masks(self, joint):
        if not (self.dropout and self.training):
            return None
        return (torch.rand(4, *joint.shape) >= self.dropout) / (1 - self.dropout)

    def _convolved(self, joint, masks):
        if masks is None:
            return self.conv(joint)
        weights, biases = self.conv.weight.chunk(4), self.conv.bias.chunk(4)
        parts = zip(masks, weights, biases, strict=True)
        pad = self.conv.padding
        return torch.cat([F.conv2d(joint * m, w, b, padding=pad) for m, w, b in parts], 1)

    def forward(self, x):
        b, _, _, height, width = x.shape
        h = c = x.new_zeros(b, self.hidden, height, width)
        masks = self._masks(torch.cat([x[:, 0], h], 1))
        outputs = []
        for t in range(x.shape[1]):
            pre = self._convolved(torch.cat([x[:, t], h], 1), masks)
            if self.gate_norm is not None:
                pre = self.gate_norm(pre)
            i, f, g, o = pre.chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * self.activation(g)
            shown = c if self.cell_norm is None else self.cell_norm(c)
            h = torch.sigmoid(o) * self.activation(shown)
            outputs.append(h)
        return torch.stack(outputs, 1)


class PlainSeedModel(nn.Module):
    """Four layers of 40 filters 3x3 with BatchNorm, and a Conv3d head: (B, T, 1, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PlainConvLSTM(40 if k else 1, 40, 3) for k in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(40, eps=1e-3, momentum=0.01) for _ in range(4))
        self.head = nn.Conv3d(40, 1, 3, padding=1)

    def load(self, model) -> None:
        """Takes the weights of our model, so that both compute the same."""
        ours = list(model.layers)
        for layer, source in zip(self.layers, ours[0:8:2], strict=True):
            layer.load(source)
        with torch.no_grad():
            for norm, source in zip(self.norms, ours[1:8:2], strict=True):
                norm.load_state_dict(source.state_dict(), strict=False)
            self.head.weight.copy_(ours[8].weight)
            self.head.bias.copy_(ours[8].bias)

    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = layer(x)
            x = norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return torch.sigmoid(self.head(x.transpose(1, 2))).transpose(1, 2)
