"""Sequences like those of a rain radar: cells that drift, grow and decay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MovingCells:
    """Rain cells over a wind field, (B, T, H, W, 1) in [0, 1] as dBZ scaled from [-10, 60].

    Each sequence has a wind (`speed`: lowest and highest, in pixels a frame) with some shear and
    rotation, and cells that are born before and during it: two-dimensional Gaussians of 2 to 5
    pixels, drawn out along the wind, whose intensity rises to its peak (25 to 57 dBZ) and falls
    again over `life` frames. So what was seen tells where cells go and which of them are to grow or
    to die; cells that are yet to be born cannot be foreseen. What is below 0.15 is no echo: 0.
    """

    steps: int = 16
    size: tuple[int, int] = (32, 32)
    cells: tuple[int, int] = (8, 14)
    speed: tuple[float, float] = (0.4, 1.6)
    life: tuple[float, float] = (10.0, 24.0)

    def batch(self, seed: int, number: int, size: int, held_out: bool = False) -> np.ndarray:
        rng = np.random.default_rng([seed, number, int(held_out), 7])
        return np.stack([self._sequence(rng) for _ in range(size)])[..., None]

    def _sequence(self, rng: np.random.Generator) -> np.ndarray:
        """(T, H, W)."""
        h, w = self.size
        count = int(rng.integers(self.cells[0], self.cells[1] + 1))
        angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(*self.speed)
        wind = speed * np.array([np.sin(angle), np.cos(angle)])
        shear = rng.normal(0, 0.012, (2, 2))
        middle = np.array([h, w]) / 2
        life = rng.uniform(*self.life, count)
        birth = rng.uniform(-life, self.steps)
        peak = rng.uniform(0.5, 0.95, count)
        across = rng.uniform(2.0, 3.5, count)
        along = across * rng.uniform(1.0, 1.6, count)
        # Where a cell is in the middle of the sequence, somewhat beyond the frame.
        place = rng.uniform(-0.25, 1.25, (count, 2)) * (h, w)
        frames = np.zeros((self.steps, h, w), np.float32)
        ys, xs = np.arange(h)[:, None, None], np.arange(w)[None, :, None]
        for t in range(self.steps):
            age = (t - birth) / life
            strength = peak * np.where((age > 0) & (age < 1), np.sin(np.pi * age.clip(0, 1)), 0)
            at = place + (t - self.steps / 2) * (wind + (place - middle) @ shear.T)
            dy, dx = ys - at[:, 0], xs - at[:, 1]
            u = dy * np.sin(angle) + dx * np.cos(angle)
            v = dx * np.sin(angle) - dy * np.cos(angle)
            echo = strength * np.exp(-0.5 * ((u / along) ** 2 + (v / across) ** 2))
            frame = 1 - np.prod(1 - echo, -1)
            frames[t] = np.where(frame < 0.15, 0, frame)
        return frames
