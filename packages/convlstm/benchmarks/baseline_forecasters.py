"""Two baselines after well-known designs, small enough for a processor: all frames ahead at once
from (B, given, H, W, 1), or frame by frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = conv(width, width), conv(width, width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class SimVPLike(nn.Module):
    """After SimVP (Gao et al. 2022, arXiv 2206.05099): an encoder of each frame, a translator over
    all frames' channels, a decoder of each frame with the first features beside it."""

    def __init__(self, size=(24, 24), given=8, ahead=8, width=16, inner=128, blocks=4) -> None:
        super().__init__()
        assert given == ahead
        self.horizon, self.input_shape = ahead, (None, given, *size, 1)
        self.first, self.down = conv(1, width), conv(width, width, 2)
        self.into = conv(given * width, inner)
        self.translator = nn.Sequential(*[Residual(inner) for _ in range(blocks)])
        self.out = conv(inner, ahead * width)
        self.up, self.joined = conv(width, 4 * width), conv(2 * width, width)
        self.last = conv(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, t, h, w, _ = x.shape
        first = F.silu(self.first(x.reshape(b * t, 1, h, w)))
        z = F.silu(self.down(first)).reshape(b, -1, h // 2, w // 2)
        z = self.out(self.translator(self.into(z))).reshape(b * t, -1, h // 2, w // 2)
        y = F.silu(F.pixel_shuffle(self.up(z), 2))
        y = F.silu(self.joined(torch.cat([y, first], 1)))
        return self.last(y).reshape(x.shape)


class PredRNNLike(nn.Module):
    """After PredRNN (Wang et al. 2017 and 2022, arXiv 2103.09504): layers of spatiotemporal LSTMs
    over patches, whose second memory runs through all layers and on to the next step; frame by
    frame on its own output behind the given ones."""

    def __init__(self, size=(24, 24), given=8, ahead=8, width=32, layers=2, patch=4) -> None:
        super().__init__()
        self.horizon, self.input_shape, self.patch = ahead, (None, given, *size, 1), patch
        self.width = width
        cell = nn.ModuleDict
        self.cells = nn.ModuleList(
            cell(
                {
                    "x": conv(patch * patch if k == 0 else width, 7 * width),
                    "h": conv(width, 4 * width),
                    "m": conv(width, 3 * width),
                    "o": conv(2 * width, width),
                    "last": nn.Conv2d(2 * width, width, 1),
                }
            )
            for k in range(layers)
        )
        self.out = nn.Conv2d(width, patch * patch, 1)

    def _step(self, cell: nn.ModuleDict, x: Tensor, h: Tensor, c: Tensor, m: Tensor):
        ix, fx, gx, im, fm, gm, ox = cell["x"](x).chunk(7, 1)
        ih, fh, gh, oh = cell["h"](h).chunk(4, 1)
        i_m, f_m, g_m = cell["m"](m).chunk(3, 1)
        c = torch.sigmoid(fx + fh + 1) * c + torch.sigmoid(ix + ih) * torch.tanh(gx + gh)
        m = torch.sigmoid(fm + f_m + 1) * m + torch.sigmoid(im + i_m) * torch.tanh(gm + g_m)
        both = torch.cat([c, m], 1)
        h = torch.sigmoid(ox + oh + cell["o"](both)) * torch.tanh(cell["last"](both))
        return h, c, m

    def forward(self, x: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(x[..., 0], 1)
        b, t, h, w = patches.shape
        x = F.pixel_unshuffle(patches.reshape(b * t, 1, h, w), self.patch).unflatten(0, (b, t))
        zero = x.new_zeros(b, self.width, h // self.patch, w // self.patch)
        states = [(zero, zero) for _ in self.cells]
        memory, frame, out = zero, x[:, 0], []
        for step in range(t + self.horizon - 1):
            inner = x[:, step] if step < t else frame
            for k, cell in enumerate(self.cells):
                inner, c, memory = self._step(cell, inner, *states[k], memory)
                states[k] = (inner, c)
            frame = self.out(inner)
            if step >= t - 1:
                out.append(F.pixel_shuffle(frame, self.patch).movedim(1, -1))
        return torch.stack(out, 1)
