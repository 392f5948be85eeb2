"""Classification once every neuron has chosen a class: two linear models (docs/relu.md, Theorem A)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from linflow._support.arrays import EPS
from linflow._support.words import kind_of
from linflow.certificates.curves import Curve
from linflow.certificates.tail import TailCurve
from linflow.model.classification import ExponentialLoss, ExponentialTail, LogisticLoss
from linflow.model.network import Network as LinearNetwork
from linflow.relu.layers import TwoLayers
from linflow.relu.network import Network, examples
from linflow.relu.problem import TINY
from linflow.relu.trajectory import Trajectory

FORMS: dict[str, Callable[[Any, Any], ExponentialTail]] = {"exponential": ExponentialLoss, "logistic": LogisticLoss}
"""The losses by name."""


@dataclass(frozen=True, repr=False)
class Classification:
    """`L = Σ_ij φ(y_ij z_ij)` of the outputs `Z = σ(XU)V`, as a function of the network.

    Attributes:
        X: inputs without the column of ones, shape `(N, d)`.
        Y: labels ±1, shape `(N, m)`.
        form: "exponential" or "logistic".
        minimum: 0, approached and never attained.
        derived: True: nothing about this loss is declared.
        notes: how the data were converted.
    """

    X: np.ndarray
    Y: np.ndarray
    form: str
    minimum: float = 0.0
    derived: bool = True
    notes: tuple[str, ...] = ()

    @cached_property
    def of_outputs(self) -> ExponentialTail:
        """The loss as a function of the outputs."""
        return FORMS[self.form](np.eye(len(self.Y)), self.Y)

    def value(self, Z: np.ndarray) -> float:
        """Return the loss of outputs."""
        return self.of_outputs.value(Z)

    def gradient(self, Z: np.ndarray) -> np.ndarray:
        """Return the derivative of the loss by the outputs."""
        return self.of_outputs.gradient(Z)

    def loss(self, net: TwoLayers) -> float:
        """Return the loss of a network."""
        return self.value(net.outputs(self.X))

    def scale(self, gap: float) -> float:
        """Return the size of the loss that its rounding is relative to: the loss itself."""
        return gap

    def rounding(self, net: TwoLayers) -> float:
        """Return a bound on the error of the computed loss: every output has the slope `|φ'|` of its own error."""
        Z = net.outputs(self.X)
        return 8 * EPS * self.value(Z) + float(np.sum(np.abs(self.gradient(Z)) * net.output_error(self.X)))


@dataclass(frozen=True)
class SumCurve:
    """The sum of bounds on parts of the loss that fall each on its own, with `−ℓ̇_k ≥ c_k ℓ_k²` for each part."""

    parts: tuple[TailCurve, ...]
    rate: float = 0.0

    def gap(self, t: float) -> float:
        """Return the bound at time t."""
        return sum(part.gap(t) for part in self.parts) * (1 + 4 * EPS)

    def time(self, gap: float) -> float:
        """Return when the bound comes down to `gap`: the upper end of a bisection, to 10⁻¹² of itself."""
        low, high = 0.0, max(part.time(gap / len(self.parts) / (1 + 16 * EPS)) for part in self.parts)
        if self.gap(0.0) <= gap:
            return 0.0
        while math.isfinite(high) and high - low > 1e-12 * high:
            middle = 0.5 * (low + high)
            low, high = (low, middle) if self.gap(middle) <= gap else (middle, high)
        return high

    def rate_at(self, gap: float) -> float:
        """Return a floor of `−ℓ̇/ℓ` where the parts add up to `gap`: `gap/Σ(1/c_k)`, at the worst split."""
        each = [part.alpha * part.tail.constant_on(gap) ** 2 for part in self.parts]
        return gap / sum(1 / c for c in each) * (1 - 16 * EPS) if min(each) > 0 else 0.0


def labels(X: Any, Y: Any, net: TwoLayers, form: str) -> Classification:
    """Check the data and return the problem.

    Raises:
        ValueError: labels other than ±1, or more than one output.
    """
    if net.widths[2] != 1:
        raise ValueError(f"the network has {net.widths[2]} outputs; the loss {form!r} is for one.")
    rows, signs, notes = examples(X, Y, net)
    others = signs[~np.isin(signs, (-1.0, 1.0))]
    if others.size:
        raise ValueError(
            f"Y holds labels other than −1 and 1, such as {others[0]:g}; the losses for classification need these "
            "two. From 0 and 1, 2 * Y - 1 makes them."
        )
    return Classification(rows, signs, form, notes=notes)


def aligned_phase(problem: Classification, net: Network) -> tuple[str, Curve | None, dict[str, float]]:
    """Return the reason why Theorem A does not apply, or the bound that it gives; and numbers behind it."""
    X, y, v = net.inputs(problem.X), problem.Y[:, 0], net.V[:, 0]
    reason = _not_aligned(X, y, net)
    if reason:
        return reason, None, {}
    parts, facts = [], {}
    for sign, word in ((1.0, "positive"), (-1.0, "negative")):
        rows, neurons = y == sign, (v * sign > 0) & (X @ net.extended > 0)[y == sign].any(axis=0)
        if not rows.any():
            continue
        try:
            half = FORMS[problem.form](X[rows], y[rows])
        except ValueError:
            return f"the {word} samples have no margin that float64 can show", None, {}
        alpha = float(np.sum(v[neurons] ** 2)) * (1 - (len(v) + 8) * EPS)
        layers = LinearNetwork([net.extended[:, neurons], v[neurons, None]])
        gap = half.value(layers.product()) + half.rounding(layers)
        if not (math.isfinite(gap) and 0 < alpha < math.inf):
            return f"the loss of the {word} samples, or the second layer, is beyond float64", None, {}
        parts.append(TailCurve(half.tail, gap, alpha))
        facts |= {f"hard margin, {word}": half.hard_margin, f"α, {word}": alpha}
    return "", SumCurve(tuple(parts)), facts


def aligned_since(run: Trajectory) -> float:
    """Return the time from which Theorem A proves the rest of a flow: 0, its last flip, or inf if it does not hold.

    Once it holds nothing flips. At a flip itself a pre-activation is 0 and its sign is not certain in float64, so the
    hypotheses are checked at the next recorded time. `certify` of `run.network_at(t)` just after this time has the
    guarantee. It is of order 1/t, with the hard margin of each class.

    Args:
        run: a flow of `relu.gradient_flow` with the logistic or exponential loss. For others the answer is inf.

    Raises:
        TypeError: it is no such run.

    Source: this library, docs/relu.md, Theorem A.

    Example:
        >>> from linflow import relu
        >>> X, y = [[1.0, 0.2], [0.4, 1.0], [-0.5, -1.0]], [1, 1, -1]
        >>> net = relu.Network([[1.0, -1.0, 0.5], [0.5, -1.0, -0.25]], [[0.3], [-0.3], [0.2]])
        >>> run = relu.gradient_flow(X, y, net, loss="exponential", t_max=10.0)
        >>> t = relu.aligned_since(run)  # after the only flip
        >>> round(t, 4), len(run.flips)
        (0.8996, 1)
        >>> relu.certify(X, y, run.network_at(t * (1 + 1e-9)), loss="exponential").best.name
        'aligned phase'
    """
    if not hasattr(run, "flips") or run.algorithm != "flow":
        what = "a descent" if hasattr(run, "flips") else kind_of(run)
        raise TypeError(f"run is {what}; a flow of relu.gradient_flow is needed.")
    problem, last = run.problem, run.flips[-1].t if run.flips else 0.0
    if not isinstance(problem, Classification) or not isinstance(run.start, Network):
        return math.inf
    after = run.t[run.t > last]

    def holds(t: float) -> bool:
        return not aligned_phase(problem, Network.of(run.network_at(t)))[0]

    if holds(0.0):
        return 0.0
    return last if after.size and holds(float(after[0])) else math.inf


def _not_aligned(X: np.ndarray, y: np.ndarray, net: Network) -> str:
    """Return which hypothesis fails; "" if all hold, rounding included."""
    if net.slope != 0:
        return f"the aligned phase is a statement on the ReLU, and the slope is {net.slope:g}"
    K, off, apart = _products(X, X.T)
    K = K * np.outer(y, y)
    unsure = (off > K) & ~apart
    if unsure.any():
        i, k = (int(n[0]) for n in np.nonzero(unsure))
        return f"samples {i + 1} and {k + 1} have y_i y_k ⟨x_i, x_k⟩ = {K[i, k]:.3g}, which is not certain to be ≥ 0"
    z, error, apart = _products(X, net.extended)
    own = np.outer(y, np.sign(net.V[:, 0])) > 0
    on, off_side = z > error, (z < -error) | apart
    chosen = np.where(own, on, off_side).all(axis=0) & (net.V[:, 0] != 0)
    dead = (z < -error).all(axis=0)
    mixed = np.flatnonzero(~(chosen | dead))
    if mixed.size:
        return f"{mixed.size} of {net.width} neurons are active on samples of both classes, or only on part of one"
    for sign, word in ((1, "positive"), (-1, "negative")):
        if (y == sign).any() and not (chosen & ~dead & (net.V[:, 0] * sign > 0)).any():
            return f"no neuron is active on the {word} samples"
    return ""


def _products(A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `AB` up to a power of two, its error, and where it is 0 because every term is.

    The largest entries are brought near 1, which changes no sign. Then what underflow takes from a sum is below TINY.
    """
    A, B = (np.ldexp(M, -math.frexp(float(np.abs(M).max()))[1]) if M.any() else M for M in (A, B))
    apart = (A != 0).astype(float) @ (B != 0).astype(float) == 0
    return A @ B, (A.shape[1] + 8) * EPS * (np.abs(A) @ np.abs(B)) + TINY, apart
