"""Rounding in float32, ours and spconv's, each beside our float64 run of the same network: SECOND's
middle encoder, a training step, one thread. By layer, of the whole, and of the whole with float64's
signs in every ReLU.

A value near zero whose sign another rounding turns is let through by one run and stopped by the
other: a step in the gradient that no kernel can avoid. What is left with the same signs is the
kernels' own rounding.
"""

from __future__ import annotations

import copy
from types import ModuleType

import peer
import torch
from measure import Bench
from networks import second_encoder
from torch import Tensor, nn

import spconv_lite as sp

SITES = 20_000


def error(found: Tensor, exact: Tensor) -> float:
    """The largest difference over max(1, the largest exact value)."""
    return float((found.double() - exact).abs().max() / exact.abs().max().clamp(min=1))


def by_site(indices: Tensor, shape: list[int]) -> Tensor:
    """The order of rows by their sites."""
    key = indices[:, 0].long()
    for axis, length in enumerate(shape):
        key = key * length + indices[:, 1 + axis]
    return key.argsort()


class Kink(nn.Module):
    """A ReLU that remembers where it let through, by site; or takes that of another run."""

    def __init__(self, run: Run, taken: Kink | None) -> None:
        super().__init__()
        self.run, self.taken = run, taken

    def forward(self, features: Tensor) -> Tensor:
        order = self.run.order()
        self.values = features.detach()[order].double()
        if self.taken is None:
            return features.relu()
        open_ = torch.empty_like(features)
        open_[order] = (self.taken.values > 0).to(features.dtype)
        return features * open_


class Run:
    """A training step of one library; what it made is kept in the order of the sites."""

    def __init__(
        self, library: ModuleType, dtype: torch.dtype, signs_of: Run | None = None
    ) -> None:
        torch.manual_seed(0)
        self.library, self.dtype, self.kinks = library, dtype, []
        self.net = second_encoder(library).to(dtype)
        self.layers, self.hooks = [], []  # layer, its input
        for i, module in enumerate(self.net):
            if isinstance(module, nn.ReLU):
                taken = signs_of.kinks[len(self.kinks)] if signs_of else None
                self.kinks.append(Kink(self, taken))
                setattr(self.net, str(i), self.kinks[-1])
            elif not isinstance(module, nn.BatchNorm1d):
                self.hooks.append(module.register_forward_hook(self.keep))

    def keep(self, module: nn.Module, inputs: tuple, output: object) -> None:
        self.sites, self.shape = output.indices, output.spatial_shape
        self.layers.append((module, inputs[0]))

    def order(self) -> Tensor:
        """The rows of the last layer's output by their sites."""
        return by_site(self.sites, self.shape)

    def step(self, indices: Tensor) -> None:
        generator = torch.Generator().manual_seed(1)
        features = torch.randn(len(indices), 4, generator=generator).to(self.dtype)
        out = self.net(self.library.SparseConvTensor(features, indices, peer.SHAPE, 1)).features
        self.output = out.detach()[self.order()]
        by = torch.randn(out.shape, generator=generator).to(self.dtype)
        (out[self.order()] * by).sum().backward()
        self.gradients = [p.grad for p in self.net.parameters()]
        for hook in self.hooks:
            hook.remove()


def whole(bench: Bench, title: str, runs: dict[str, Run], exact: Run) -> None:
    for name, run in runs.items():
        bench.fact(f"{title}: output, {name}", f"{error(run.output, exact.output):.1e}")
        worst = max(map(error, run.gradients, exact.gradients))
        bench.fact(f"{title}: gradient of the worst parameter, {name}", f"{worst:.1e}")


def kinks(bench: Bench, runs: dict[str, Run], exact: Run) -> None:
    for name, run in runs.items():
        pairs = list(zip(run.kinks, exact.kinks, strict=True))
        turned = [(a.values > 0) != (b.values > 0) for a, b in pairs]
        sizes = [b.values[t].abs() for (_, b), t in zip(pairs, turned, strict=True)]
        largest = max((float(s.max()) for s in sizes if len(s)), default=0.0)
        count, all_ = sum(int(t.sum()) for t in turned), sum(t.numel() for t in turned)
        bench.fact(
            f"ReLUs that turn, {name}", f"{count} of {all_}, at most {largest:.1e} from zero"
        )


def alone(bench: Bench, exact: Run, theirs: Run) -> None:
    """Each layer on the float64 run's input, rounded to float32: norms of the errors."""
    ratios = []
    for (ours, x), (other, _) in zip(exact.layers, theirs.layers, strict=True):
        given = x.features.detach().float()
        outputs = []
        for library, layer, dtype in (
            (sp, ours, torch.float64),
            (sp, ours, torch.float32),
            (peer.spconv, other, torch.float32),
        ):
            layer = copy.deepcopy(layer).to(dtype)
            layer.indice_key = None
            out = layer(library.SparseConvTensor(given.to(dtype), x.indices, x.spatial_shape, 1))
            order = by_site(out.indices, out.spatial_shape)
            outputs.append(out.features.detach()[order].double())
        right, *found = outputs
        ratios.append(float((found[0] - right).norm() / (found[1] - right).norm()))
    ratios.sort()
    text = f"{ratios[0]:.2f} to {ratios[-1]:.2f}, median {ratios[len(ratios) // 2]:.2f}"
    bench.fact("one layer alone: our error over spconv's", text)


def main() -> None:
    torch.set_num_threads(1)
    bench = Bench("accuracy", peer.NAME, versions=peer.versions())
    indices = peer.lidar(SITES)
    bench.fact("sites, threads", f"{SITES}, 1")
    exact = Run(sp, torch.float64)
    runs = {"ours": Run(sp, torch.float32), "spconv": Run(peer.spconv, torch.float32)}
    for run in runs.values():
        run.net.load_state_dict(exact.net.state_dict())
    for run in (exact, *runs.values()):
        run.net.load_state_dict(runs["ours"].net.state_dict())  # the same float32 numbers
    for run in (exact, *runs.values()):
        run.step(indices)
    whole(bench, "as it is", runs, exact)
    kinks(bench, runs, exact)
    alone(bench, exact, runs["spconv"])
    held = {
        "ours": Run(sp, torch.float32, exact),
        "spconv": Run(peer.spconv, torch.float32, exact),
    }
    for name, run in held.items():
        run.net.load_state_dict(runs[name].net.state_dict(), strict=False)
        run.step(indices)
    whole(bench, "with float64's signs", held, exact)
    bench.finish()


if __name__ == "__main__":
    main()
