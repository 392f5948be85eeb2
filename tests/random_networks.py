"""Random networks of every shape for property tests."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

import linflow as lf

FAMILIES = ("gaussian", "scaled", "near balanced", "low rank", "integer", "orthogonal", "unimodal", "repeated")


def draw_weights(widths: tuple[int, ...], family: str, seed: int) -> list[np.ndarray]:
    """Return weights of a family; the families aim at the edges of the theorems."""
    rng = np.random.default_rng(seed)
    shapes = list(pairwise(widths))
    weights = [rng.standard_normal(shape) for shape in shapes]
    if family == "scaled":
        return [W * 10.0 ** rng.uniform(-2, 1) for W in weights]
    if family == "near balanced" and min(widths) >= min(widths[0], widths[-1]):
        net = lf.init.balanced(widths, rng=rng)
        return [W + 10.0 ** rng.uniform(-6, -1) * V for W, V in zip(net.weights, weights, strict=True)]
    if family == "low rank":
        return [W * (rng.random(W.shape[1]) < 0.7) for W in weights]
    if family == "integer":
        return [np.round(W) for W in weights]
    if family == "orthogonal":
        return list(lf.init.orthogonal(widths, 10.0 ** rng.uniform(-1, 1), rng=rng).weights)
    if family == "unimodal" and min(widths) >= min(widths[0], widths[-1]):
        peak = rng.integers(1, len(widths))
        d = np.abs(rng.standard_normal(len(widths) - 2)) * np.where(np.arange(1, len(widths) - 1) < peak, 1, -1)
        try:
            return list(lf.init.imbalanced(widths, d, rng=rng).weights)
        except ValueError:  # a hidden layer too narrow for the spare modes
            return weights
    if family == "repeated":
        return [np.round(W) * 0.5 if l % 2 else np.eye(*W.shape) for l, W in enumerate(weights)]
    return weights


@st.composite
def networks(draw, layers=st.integers(2, 5), side=st.integers(1, 5), hidden=st.integers(1, 7)):
    """A strategy for networks of any depth, shape and family, hidden layers narrow ones included."""
    L = draw(layers)
    widths = (draw(side), *(draw(hidden) for _ in range(L - 1)), draw(side))
    family = draw(st.sampled_from(FAMILIES))
    scale = draw(st.sampled_from([1.0, 1.0, 0.3, 5.0]))
    return lf.Network(draw_weights(widths, family, draw(st.integers(0, 2**32 - 1))), scale)
