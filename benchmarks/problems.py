"""The problems: `½‖c W_1 ⋯ W_L − Y‖_F²` from fixed starts, in NumPy alone, so that no solver has a hand in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Problem:
    """One start: weights, output scale `c`, target `Y`, and the part of the initial loss to reach."""

    weights: tuple[np.ndarray, ...]
    scale: float
    target: np.ndarray
    until: float

    @property
    def widths(self) -> tuple[int, ...]:
        return (*(W.shape[0] for W in self.weights), self.weights[-1].shape[1])

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(W.size for W in self.weights)

    def flat(self) -> np.ndarray:
        """The weights as one vector."""
        return np.concatenate([W.ravel() for W in self.weights])

    def log_gap(self, weights: Sequence[np.ndarray]) -> float:
        """Logarithm of the loss."""
        W = weights[-1]
        for layer in reversed(weights[:-1]):
            W = layer @ W
        return math.log(0.5 * float(np.sum((self.scale * W - self.target) ** 2)))


def flops(widths: Sequence[int]) -> float:
    """Multiplications and additions of one gradient, its products taken from the narrower side.

    From the right, with m columns: `S_l = W_{l+1} ⋯ W_L`, then `A_l = (W_1 ⋯ W_{l-1})ᵀ G`, then `A_l S_lᵀ`, each
    `2 h_{l-1} h_l m` for l = 1 … L − 1; from the left likewise.
    """
    return 6.0 * min(_columns(widths), _columns(widths[::-1]))


def from_right(widths: Sequence[int]) -> bool:
    """Whether products are cheaper when they begin at the right end."""
    return _columns(widths) <= _columns(widths[::-1])


def _columns(widths: Sequence[int]) -> int:
    return widths[-1] * sum(a * b for a, b in pairwise(widths[:-1]))


@dataclass(frozen=True)
class Task:
    """What is timed: one problem, or many of a kind; `build(seed)` gives them.

    Attributes:
        checked: how many of the problems have a reference to measure the error by.
        reference_rtol: tolerance of the reference.
        plain: whether the reference comes from linflow's plain engine; where that would take minutes, from the
            compiled one.
        cross_check: whether a second solver confirms the reference.
        quick: whether `--quick` includes it.
    """

    title: str
    build: Callable[[int], Problem]
    seeds: int = 1
    checked: int = 1
    reference_rtol: float = 1e-13
    plain: bool = True
    cross_check: bool = True
    quick: bool = False

    def problems(self) -> list[Problem]:
        return [self.build(seed) for seed in range(self.seeds)]

    def checked_seeds(self) -> list[int]:
        """The seeds with a reference, spread evenly."""
        return [int(s) for s in np.linspace(0, self.seeds - 1, self.checked)]


def gaussian(widths: Sequence[int], until: float, seed: int) -> Problem:
    """N(0, 1) weights, output scale `Π h_l^{-1/2}` over the hidden widths, a random target of norm 0.1."""
    rng = np.random.default_rng(seed)
    weights = tuple(rng.standard_normal(shape) for shape in pairwise(widths))
    Y = rng.standard_normal((widths[0], widths[-1]))
    return Problem(weights, 1 / math.sqrt(math.prod(widths[1:-1])), 0.1 * Y / np.linalg.norm(Y), until)


def orthonormal(rng: np.random.Generator, n: int) -> np.ndarray:
    """A Haar-random orthogonal matrix."""
    Q, R = np.linalg.qr(rng.standard_normal((n, n)))
    return Q * np.sign(np.diag(R))


def deep_orthogonal(seed: int) -> Problem:
    """Six 10×10 layers 0.5·Q, singular values of the target from 0.5 to 1.5.

    The layers are balanced, so the sign of `det W` never changes: the target has that of the start.
    """
    rng = np.random.default_rng(seed)
    weights = tuple(0.5 * orthonormal(rng, 10) for _ in range(6))
    Y = orthonormal(rng, 10) @ np.diag(np.linspace(0.5, 1.5, 10)) @ orthonormal(rng, 10)
    if np.prod([np.linalg.slogdet(A)[0] for A in (*weights, Y)]) < 0:
        Y[0] *= -1
    return Problem(weights, 1.0, Y, 1e-10)


def small_start(until: float, seed: int) -> Problem:
    """20×20, h = 40, weights N(0, 10⁻⁶), target of rank 3 with singular values 3, 2, 1."""
    rng = np.random.default_rng(seed)
    weights = (1e-3 * rng.standard_normal((20, 40)), 1e-3 * rng.standard_normal((40, 20)))
    U, V = orthonormal(rng, 20), orthonormal(rng, 20)
    return Problem(weights, 1.0, (U[:, :3] * [3.0, 2.0, 1.0]) @ V[:, :3].T, until)


TASKS = {
    "T1": Task("2 layers, 20×5, h = 30, to 1e-10", lambda seed: gaussian((20, 30, 5), 1e-10, seed), quick=True),
    "T2": Task("2 layers, 20×5, h = 1000, to 1e-10", lambda seed: gaussian((20, 1000, 5), 1e-10, seed)),
    "T3": Task(
        "3 layers, 10×10, h = 100, to 1e-10", lambda seed: gaussian((10, 100, 100, 10), 1e-10, seed), quick=True
    ),
    "T4": Task("6 orthogonal layers, 10×10, to 1e-10", deep_orthogonal),
    "T5": Task("small start, 20×20, h = 40, rank 3, to 1e-8", lambda seed: small_start(1e-8, seed), quick=True),
    "T5s": Task("the same, to 1e-10 (a stiff tail)", lambda seed: small_start(1e-10, seed), plain=False),
    "T6": Task(
        "T1 from 500 seeds, in all", lambda seed: gaussian((20, 30, 5), 1e-10, seed), 500, 10, cross_check=False
    ),
    # A tighter reference would cost minutes; 1e-10 is four orders below the errors compared.
    "T7": Task(
        "2 layers, 200×200, h = 2000, to 1e-6",
        lambda seed: gaussian((200, 2000, 200), 1e-6, seed),
        reference_rtol=1e-10,
        cross_check=False,
    ),
}
