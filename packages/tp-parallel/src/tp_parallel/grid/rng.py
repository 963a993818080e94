"""Named random streams and recomputation that draws the same numbers again.

Inside a tensor-parallel region each rank holds another slice of the activation, so its dropout must
draw other numbers; outside, the ranks hold copies and must draw the same (Shoeybi et al., 2019,
arXiv 1909.08053, appendix B.2). Each stream is seeded from (seed, stream name, coordinates) by a
hash, so that no two streams can meet by addition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint as _torch_checkpoint
from torch.utils.checkpoint import create_selective_checkpoint_contexts

SHARED = "shared"  # equal over tp, differs over dp and pp: dropout outside tensor-parallel regions
TENSOR = "tensor"  # differs over tp too: dropout on split activations


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream called `names` under the root `seed`."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


class RngTracker:
    """Random streams by name, on the CPU and, for a CUDA context, on its device.

    `with rng.fork(name):` makes torch's default generator continue the stream `name`; on leaving,
    the default generator is as it was before. Forks nest: an inner fork of the same stream goes on
    where the outer one is, and the outer one goes on after it. The default generator is otherwise
    never touched.
    """

    def __init__(
        self, seed: int, *, dp: int = 0, pp: int = 0, tp: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self._device = torch.device(device)
        self._root = (seed, dp, pp, tp)
        self._states: dict[str, list[torch.Tensor]] = {}
        self._seeds: dict[str, int] = {}
        self._active: list[str] = []  # forks under way, the innermost last
        self.reseed()

    def reseed(self, *names: object) -> None:
        """Starts the streams anew, from the seed, this process's place and `names`."""
        seed, dp, pp, tp = self._root
        self._states.clear()
        self._seeds.clear()
        self.add(SHARED, derive_seed(seed, SHARED, dp, pp, *names))
        self.add(TENSOR, derive_seed(seed, TENSOR, dp, pp, tp, *names))

    def add(self, name: str, seed: int) -> None:
        """Adds the stream `name`. Raises ValueError if it exists, or if a stream has this seed and
        so draws the same numbers.
        """
        if name in self._states:
            raise ValueError(f"RngTracker.add: stream {name!r} exists; choose another name")
        for other, taken in self._seeds.items():
            if taken == seed:
                raise ValueError(
                    f"RngTracker.add: seed {seed} is that of stream {other!r}, so {name!r} would "
                    "draw the same numbers; choose another, e.g. by derive_seed"
                )
        states = [torch.Generator().manual_seed(seed).get_state()]
        if self._device.type == "cuda":
            states.append(torch.Generator(self._device).manual_seed(seed).get_state())
        self._states[name], self._seeds[name] = states, seed

    @contextmanager
    def fork(self, name: str) -> Iterator[None]:
        """Within the block, torch's default generator draws from the stream `name`."""
        if name not in self._states:
            raise ValueError(
                f"RngTracker.fork: no stream {name!r}, there are {sorted(self._states)}; add() it"
            )
        outer = self._get_default()
        self._keep()
        self._active.append(name)
        self._set_default(self._states[name])
        try:
            yield
        finally:
            self._keep()
            self._active.pop()
            self._set_default(self._states[self._active[-1]] if self._active else outer)

    def _keep(self) -> None:
        """Notes how far the innermost fork has come."""
        if self._active:
            self._states[self._active[-1]] = self._get_default()

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        """The state of every stream, for a checkpoint."""
        self._keep()
        return {name: [s.clone() for s in states] for name, states in self._states.items()}

    def load_state_dict(self, state: dict[str, list[torch.Tensor]]) -> None:
        """Continues the streams from `state_dict()`. Raises ValueError if a stream is missing."""
        missing = set(self._states) - set(state)
        if missing:
            raise ValueError(f"RngTracker.load_state_dict: streams {sorted(missing)} are missing")
        self._states = {name: [s.clone() for s in states] for name, states in state.items()}
        if self._active:
            self._set_default(self._states[self._active[-1]])

    def replay(self) -> AbstractContextManager[None]:
        """A block in which the streams, and the forks under way, run again from where they are
        now; after it they are as before it.
        """
        return _Replay(self, self.state_dict(), list(self._active))

    @contextmanager
    def _replayed(self, state: dict[str, list[torch.Tensor]], active: list[str]) -> Iterator[None]:
        now, forks, default = self.state_dict(), self._active, self._get_default()
        self._active = []
        self.load_state_dict(state)
        self._active = active
        try:
            yield
        finally:
            self._active = []
            self.load_state_dict(now)
            self._active = forks
            self._set_default(default)

    def _get_default(self) -> list[torch.Tensor]:
        states = [torch.get_rng_state()]
        if self._device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._device))
        return states

    def _set_default(self, states: list[torch.Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self._device)


class _Replay(AbstractContextManager):
    """May be entered again, as a second backward pass over the same graph does."""

    def __init__(self, rng: RngTracker, state: dict[str, list[torch.Tensor]], active: list[str]):
        self._again = lambda: rng._replayed(state, list(active))
        self._open: list[AbstractContextManager] = []

    def __enter__(self) -> None:
        self._open.append(self._again())
        self._open[-1].__enter__()

    def __exit__(self, *error: Any) -> None:
        self._open.pop().__exit__(*error)


Keep = Callable[..., Any] | list[Any]  # a policy of torch's selective checkpoints, or operators


def recompute(
    function: Callable[..., Any], *args: Any, rng: RngTracker | None, keep: Keep | None = None
) -> Any:
    """`function(*args)`, keeping only its inputs; the backward pass runs it again.

    Every stream of `rng` and torch's default generator draw the same numbers the second time, so
    gradients are bitwise equal to those without recomputation (Chen et al., 2016, arXiv
    1604.06174). `rng` None: `function` draws from no stream, and torch.compile may look into it.
    `keep`: what is stored and not run again, as
    `torch.utils.checkpoint.create_selective_checkpoint_contexts` takes it; nothing whose result is
    changed in place afterwards (a sum over ranks), and nothing that draws numbers.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    if rng is None:
        more = {} if keep is None else {"context_fn": partial(_selective, keep)}
        return _torch_checkpoint(function, *args, use_reentrant=False, **more)
    return _recompute_with_streams(function, args, rng, keep)


@torch.compiler.disable
def _recompute_with_streams(
    function: Callable[..., Any], args: tuple[Any, ...], rng: RngTracker, keep: Keep | None
) -> Any:
    again = rng.replay()

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        if keep is None:
            return nullcontext(), again
        first, second = _selective(keep)
        return first, _Both(again, second)

    return _torch_checkpoint(function, *args, use_reentrant=False, context_fn=contexts)


def _selective(keep: Keep) -> tuple[AbstractContextManager, AbstractContextManager]:
    return create_selective_checkpoint_contexts(keep)


class _Both(AbstractContextManager):
    """Two contexts, the second inside the first; may be entered again if they may."""

    def __init__(self, outer: AbstractContextManager, inner: AbstractContextManager) -> None:
        self._outer, self._inner = outer, inner

    def __enter__(self) -> None:
        self._outer.__enter__()
        self._inner.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._inner.__exit__(*error)
        self._outer.__exit__(*error)
