"""Named random streams and recomputation that draws the same numbers again.

Inside a tensor-parallel region each rank holds another slice of the activation, so its dropout must
draw other numbers; outside, the ranks hold copies and must draw the same (Shoeybi et al., 2019,
arXiv 1909.08053, appendix B.2). Each stream is seeded from (seed, stream name, coordinates) by a
hash, so that no two streams can meet by addition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint as _torch_checkpoint

SHARED = "shared"  # equal over tp, differs over dp and pp: dropout outside tensor-parallel regions
TENSOR = "tensor"  # differs over tp too: dropout on split activations


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream called `names` under the root `seed`."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


class RngTracker:
    """Random streams by name, on the CPU and, for a CUDA context, on its device.

    `with rng.fork(name):` makes torch's default generator continue the stream `name`; on leaving,
    the default generator is as it was before. The default generator is otherwise never touched.
    """

    def __init__(
        self, seed: int, *, dp: int = 0, pp: int = 0, tp: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self._device = torch.device(device)
        self._root = (seed, dp, pp, tp)
        self._states: dict[str, list[torch.Tensor]] = {}
        self.reseed()

    def reseed(self, *names: object) -> None:
        """Starts the streams anew, from the seed, this process's place and `names`."""
        seed, dp, pp, tp = self._root
        self._states.clear()
        self.add(SHARED, derive_seed(seed, SHARED, dp, pp, *names))
        self.add(TENSOR, derive_seed(seed, TENSOR, dp, pp, tp, *names))

    def add(self, name: str, seed: int) -> None:
        """Adds the stream `name`. Raises ValueError if it exists."""
        if name in self._states:
            raise ValueError(f"RngTracker.add: stream {name!r} exists; choose another name")
        states = [torch.Generator().manual_seed(seed).get_state()]
        if self._device.type == "cuda":
            states.append(torch.Generator(self._device).manual_seed(seed).get_state())
        self._states[name] = states

    @contextmanager
    def fork(self, name: str) -> Iterator[None]:
        """Within the block, torch's default generator draws from the stream `name`."""
        if name not in self._states:
            raise ValueError(
                f"RngTracker.fork: no stream {name!r}, there are {sorted(self._states)}; add() it"
            )
        outer = self._get_default()
        self._set_default(self._states[name])
        try:
            yield
        finally:
            self._states[name] = self._get_default()
            self._set_default(outer)

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        """The state of every stream, for a checkpoint."""
        return {name: [s.clone() for s in states] for name, states in self._states.items()}

    def load_state_dict(self, state: dict[str, list[torch.Tensor]]) -> None:
        """Continues the streams from `state_dict()`. Raises ValueError if a stream is missing."""
        missing = set(self._states) - set(state)
        if missing:
            raise ValueError(f"RngTracker.load_state_dict: streams {sorted(missing)} are missing")
        self._states = {name: [s.clone() for s in states] for name, states in state.items()}

    @contextmanager
    def replay(self, state: dict[str, list[torch.Tensor]]) -> Iterator[None]:
        """Within the block the streams run again from `state`; afterwards they are as before."""
        now = self.state_dict()
        self.load_state_dict(state)
        try:
            yield
        finally:
            self.load_state_dict(now)

    def _get_default(self) -> list[torch.Tensor]:
        states = [torch.get_rng_state()]
        if self._device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._device))
        return states

    def _set_default(self, states: list[torch.Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self._device)


def recompute(function: Callable[..., Any], *args: Any, rng: RngTracker) -> Any:
    """`function(*args)`, keeping only its inputs; the backward pass runs it again.

    Every stream of `rng` and torch's default generator draw the same numbers the second time, so
    gradients are bitwise equal to those without recomputation (Chen et al., 2016, arXiv
    1604.06174).
    """
    if not torch.is_grad_enabled():
        return function(*args)
    state = rng.state_dict()
    return _torch_checkpoint(
        function,
        *args,
        use_reentrant=False,
        preserve_rng_state=True,
        context_fn=lambda: (nullcontext(), rng.replay(state)),
    )
