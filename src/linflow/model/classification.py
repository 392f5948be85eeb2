"""Exponential and logistic loss on separable data: objectives whose minimum 0 lies at infinity.

No product attains the minimum, and no gradient dominance `‖∇f‖² ≥ γ (f − f*)` holds. Instead, the hard margin of the
data bounds `‖∇f‖` from below. Under this bound the loss of the flow falls like `1/t`.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, Array, detach, from_numpy, is_array, namespace, norm, to_numpy, unmasked
from linflow._support.threads import one_thread
from linflow._support.words import plural
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.tails import UP, LogisticTail, Tail

_MAX = float(np.finfo(np.float64).max)
_LARGEST_LOG = math.log(_MAX)
_FAR = 1e300
"""Margins are clipped to this size. Every exponential is 0 or infinite long before it."""


class ExponentialTail(Objective):
    """`f(W) = Σ_ij φ(z_ij)`, `z_ij = y_ij ⟨w_j, x_i⟩`, with φ convex, positive and falling like `e^{−z}`.

    This is the base class of `ExponentialLoss` and `LogisticLoss`. Here `w_j` is column j of W and `x_i` is row i of
    X. The loss is the sum (not the mean) over the N samples and m outputs. The data must be linearly separable. Then
    `f* = 0` is approached only as W grows: `μ = 0`, there is no minimiser, and `pl_constant` is 0.

    Attributes:
        hard_margin: certified lower bound on `γ = (Σ_j γ_j^{−2})^{−1/2}`, with the hard margin of output j
            `γ_j = max_{‖u‖=1} min_i y_ij ⟨u, x_i⟩`. For one output, γ is its hard margin.
        margin_gap: upper bound on `γ − hard_margin`, from the dual problem.
        margins: the certified lower bounds on `γ_1, …, γ_m`.
        direction: the unit vectors that attain `margins`, as columns, shape `(n, m)`.
    """

    derived = True
    convex = True
    citations = frozenset({"soudry2018"})
    _largest_curvature = math.inf
    _tail_form = Tail

    def __init__(self, X: Any, y: Any):
        X, note = checks.matrix(X, "X")
        Y = _labels(y, X)
        if Y.shape[0] != X.shape[0]:
            raise ValueError(
                f"X has {plural(X.shape[0], 'row')} and y has {Y.shape[0]}; both need one row per sample."
            )
        xp, size = namespace(X, Y), norm(X)
        if math.isinf(size * size):
            raise ValueError(f"X has norm {size:.3g}, whose square leaves float64; rescale the data.")
        self.shape = (int(X.shape[1]), int(Y.shape[1]))
        self.minimizer, self.minimum, self.notes = None, 0.0, (note,) if note else ()
        self.strong_convexity = self.pl_constant = 0.0
        self._X, self._Y, self.samples = X, Y, int(X.shape[0])
        self._lengths = size * xp.sqrt(xp.sum((X / (size or 1.0)) ** 2, axis=1))[:, None]  # ‖x_i‖
        self._longest = float(to_numpy(self._lengths).max()) * (1 + (X.shape[1] + 8) * EPS)
        with one_thread():  # for many small operations, a second thread costs time
            _, s, Vt = xp.linalg.svd(X, full_matrices=False)
            found = [hard_margin(labels[:, None] * to_numpy(X)) for labels in to_numpy(Y).T]
        top = float(s[0])
        self.smoothness = self._largest_curvature * top * top
        self._cut = max(X.shape) * EPS * top  # singular values up to here count as 0
        rank = int(np.sum(to_numpy(s) > self._cut))
        self.row_space = Vt[:rank, :].T if rank < self.shape[0] else None
        self._measure(found)

    def _measure(self, found: list[tuple[float, float, np.ndarray]]) -> None:
        """Set the attributes that follow from the outputs' hard margins. Raise ValueError if one is not positive."""
        for j, (lower, upper, _) in enumerate(found):
            if lower <= 0:
                raise ValueError(
                    f"the data are not linearly separable (column {j} of y): a convex combination of the vectors "
                    f"y_i x_i vanishes to within {upper:.2g}, against {self._longest:.2g} for the longest, so to "
                    f"rounding no u has all y_i ⟨u, x_i⟩ > 0, and the minimum of the {self.name} is not 0. Add "
                    "features (a column of ones for an intercept) or leave out samples; or compute the minimum "
                    "elsewhere and pass it, with value and gradient, to Objective(..., minimum=)."
                )
        # Cauchy–Schwarz over the outputs, scaled so that γ_j² stays within float64.
        lower, upper = np.array([a for a, _, _ in found]), np.array([b for _, b, _ in found])
        self.hard_margin = float(lower.min() / np.linalg.norm(lower.min() / lower)) / UP
        self.margin_gap = float(upper.min() / np.linalg.norm(upper.min() / upper)) * UP - self.hard_margin
        if self.hard_margin**2 == 0:
            raise ValueError(f"the hard margin {self.hard_margin:.3g} leaves float64 when squared; rescale the data.")
        self.margins = from_numpy(lower, self._X)
        self.direction = from_numpy(np.stack([u for _, _, u in found], axis=1), self._X)

    def _derivative(self, Z: Array, order: int) -> tuple[Array, float]:
        """Return A, within float64, and s such that `|φ^{(order)}(Z)| = e^s A` entry by entry."""
        raise NotImplementedError

    def _sum(self, A: Array, s: float) -> float:
        """Return `e^s Σ A`, which is infinite only if it exceeds float64."""
        total = float(detach(namespace(A).sum(A)))
        return math.inf if s > _LARGEST_LOG else math.exp(s) * total

    def _scaled(self, G: Array, s: float) -> Array:
        """Return `e^s G`, clipped to the range of float64."""
        if s == 0:
            return G
        factor = math.exp(min(s, _LARGEST_LOG))
        limit = _MAX / factor / UP
        return factor * namespace(G).clip(G, -limit, limit)

    def _z(self, W: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            return namespace(W).clip(self._Y * (self._X @ unmasked(W, "W")), -_FAR, _FAR)

    def value(self, W: Array) -> float:
        """Return `f(W)`, or inf if it exceeds float64."""
        return self._sum(*self._derivative(self._z(W), 0))

    def gradient(self, W: Array) -> Array:
        """Return `∇f(W)`, shape `(n, m)`. If f exceeds float64, the result is finite but meaningless."""
        A, s = self._derivative(self._z(W), 1)
        return self._scaled(-(self._X.T @ (self._Y * A)), s)

    def batch_gradient(self, W: Array, rows: Array) -> Array:
        """Return `N/|B| Σ_{i∈B} ∇f_i(W)`, the gradient on the samples `rows` scaled to all of them."""
        part = copy.copy(self)
        part._X, part._Y = self._X[rows], self._Y[rows]
        return (self._X.shape[0] / len(rows)) * part.gradient(W)

    def hessian_product(self, W: Array, V: Array) -> Array:
        """Return `∇²f(W)[V]`."""
        A, s = self._derivative(self._z(W), 2)
        return self._scaled(self._X.T @ (A * (self._X @ V)), s)

    def rounding(self, network: Network) -> float:
        """Return the size below which the gap is rounding: `8εf + 4ε c Π‖W_l‖_F Σ_ij |φ'(z_ij)| ‖x_i‖`.

        The rounding of each `z_ij` is relative to `‖x_i‖ c Π‖W_l‖_F`. Both terms shrink with f, so a loss that tends
        to 0 keeps its relative accuracy at every size.
        """
        Z = self._z(network.product())
        A, s = self._derivative(Z, 1)
        return 8 * EPS * self._sum(*self._derivative(Z, 0)) + 4 * EPS * network.magnitude() * self._sum(
            A * self._lengths, s
        )

    def gradient_rounding(self, network: Network) -> float:
        """Return the size of the rounding in `∇f(W)`: `4ε Σ_ij (|φ'| ‖x_i‖ + |φ''| ‖x_i‖² c Π‖W_l‖_F)`."""
        Z = self._z(network.product())
        A, s = self._derivative(Z, 1)
        B, r = self._derivative(Z, 2)
        moved = network.magnitude() * self._sum(B * self._lengths**2, r)
        return 4 * EPS * (self._sum(A * self._lengths, s) + moved)

    def effective(self, network: Network) -> tuple[ExponentialTail, Network]:
        """Return objective and network in the coordinates of the row space of X, `W_1 ↦ Vᵀ W_1`.

        If the row space is the whole space, both are returned unchanged. A direction of largest margin lies in the
        row space, so the hard margin is the same. The numerical rank ignores singular values up to
        `max(N, n)·ε·σ_max`; the hard margin is lowered by this size.
        """
        if self.row_space is None or self._cut >= self.hard_margin:
            return self, network
        restricted = copy.copy(self)
        restricted.hard_margin -= self._cut
        restricted.margin_gap += self._cut
        restricted.margins = self.margins - self._cut
        restricted._X, restricted.row_space = self._X @ self.row_space, None
        restricted.direction = self.row_space.T @ self.direction
        restricted.shape = tuple(restricted.direction.shape)
        return restricted, network.restricted([self.row_space.T @ network.weights[0], *network.weights[1:]])

    def check_network(self, network: Network) -> None:
        """Raise ValueError or TypeError unless `network` has the shape and array kind that this objective needs."""
        super().check_network(network)
        namespace(self._X, *network.weights)

    @property
    def tail_smoothness(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """`κ = max_i ‖x_i‖²`, with `‖∇²f(W)‖ ≤ κ f(W)`."""
        return self._longest * self._longest

    def smoothness_on(self, gap0: float) -> float:
        """Return an upper bound on `‖∇²f(W)‖` for every W with `f(W) ≤ gap0`: `min(K, gap0 max_i ‖x_i‖²)`.

        `⟨V, ∇²f[V]⟩ = Σ_ij φ''(z_ij) ⟨v_j, x_i⟩²`, and `φ'' ≤ φ`.
        """
        return min(self.smoothness, self.tail_smoothness * gap0) if gap0 > 0 else 0.0

    def steepest_on(self, gap0: float) -> float:
        """Return an upper bound on `‖∇f(W)‖` for every W with `f(W) ≤ gap0`: `gap0 max_i ‖x_i‖` or better.

        `|φ'| ≤ φ`; for a finite K also `sqrt(2K gap0)`.
        """
        if gap0 <= 0:
            return 0.0
        return min(self._longest * gap0, math.sqrt(2 * self.smoothness) * math.sqrt(gap0) * UP)

    @property
    def tail(self) -> Tail:
        """The inequality `‖∇f(W)‖_F ≥ γ ψ(f(W))` with the hard margin γ."""
        return self._tail_form(self.hard_margin)

    def tail_constant(self, gap0: float) -> float:
        """Return γ with `‖∇f(W)‖_F ≥ γ (f(W) − f*)` for every W with `f(W) − f* ≤ gap0`.

        The exponential loss has its hard margin on every level. The logistic loss has `γ (1 − e^{−gap0})/gap0`, which
        tends to the hard margin γ as the level falls.

        Args:
            gap0: level of the loss gap, not negative.

        Source: docs/tails.md.
        """
        return self.tail.constant_on(gap0)

    def tail_time(self, gap0: float, gap: float, alpha: float) -> float:
        """Return a time within which the flow reduces the loss gap from `gap0` to `gap`, if `λ_min(T) ≥ alpha`.

        Args:
            gap0: loss gap at time 0, not negative.
            gap: loss gap to reach, positive.
            alpha: lower bound on `λ_min(T)` along the flow, not negative.

        Returns:
            The time, rounded up: 0 if `gap ≥ gap0`, inf if `alpha` is 0 or the time exceeds float64.

        Source: docs/tails.md.
        """
        return self.tail.time(gap0, gap, alpha)

    def tail_gap(self, gap0: float, t: float, alpha: float) -> float:
        """Return an upper bound on the loss gap of the flow at time `t`, if `λ_min(T) ≥ alpha` up to then.

        This is the inverse of `tail_time`, rounded up. It is at most `gap0`.

        Args:
            gap0: loss gap at time 0, not negative.
            t: time, not negative.
            alpha: lower bound on `λ_min(T)` along the flow, not negative.

        Source: docs/tails.md.
        """
        return self.tail.gap(gap0, t, alpha)

    def __repr__(self) -> str:
        n, m = self.shape
        samples = plural(self._X.shape[0], "sample")
        return f"{type(self).__name__}({n}×{m}, {samples}, hard margin={self.hard_margin:.4g})"


class ExponentialLoss(ExponentialTail):
    """Exponential loss `f(W) = Σ_ij exp(−y_ij ⟨w_j, x_i⟩)`, a sum over samples and outputs, on separable data.

    `f* = 0`, `μ = 0` and `K = ∞`. For all W, `‖∇f(W)‖_F ≥ γ f(W)`. The hard margin γ is the largest such number.
    If `λ_min(T) ≥ α` along the flow, then `ℓ(t) ≤ ℓ(0)/(1 + αγ²ℓ(0)t)`.

    Args:
        X: inputs, shape `(N, n)`, any array kind.
        y: labels ±1, shape `(N,)` or `(N, m)`.

    Raises:
        ValueError: labels other than ±1, rows that differ in number, entries that are not finite, or data that
            are not linearly separable (to rounding).

    Source: docs/tails.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.ExponentialLoss([[3.0, 0.0], [0.0, -4.0]], [1, -1])
        >>> f, f.value(np.zeros((2, 1))), round(f.tail_gap(2.0, t=10.0, alpha=1.0), 12)
        (ExponentialLoss(2×1, 2 samples, hard margin=2.4), 2.0, 0.017211703959)
    """

    name = "exponential loss"

    def _derivative(self, Z: Array, order: int) -> tuple[Array, float]:
        xp = namespace(Z)
        top = -float(detach(xp.min(Z)))
        s = top if top > 600 else 0.0  # up to 600, e^{−z} and its sums stay within float64 unscaled
        return xp.exp(-Z - s), s


class LogisticLoss(ExponentialTail):
    """Logistic loss `f(W) = Σ_ij log(1 + exp(−y_ij ⟨w_j, x_i⟩))`, a sum over samples and outputs, on separable data.

    `f* = 0`, `μ = 0` and `K = σ_max²(X)/4`. For all W, `‖∇f(W)‖_F ≥ γ (1 − e^{−f(W)})`, with γ the hard margin. If
    `λ_min(T) ≥ α` along the flow, then `F(ℓ(t)) ≤ F(ℓ(0)) − αγ²t` with `F(f) = log(e^f − 1) − 1/(e^f − 1)`.

    Args:
        X: inputs, shape `(N, n)`, any array kind.
        y: labels ±1, shape `(N,)` or `(N, m)`.

    Raises:
        ValueError: labels other than ±1, rows that differ in number, entries that are not finite, or data that
            are not linearly separable (to rounding).

    Source: docs/tails.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.LogisticLoss([[3.0, 0.0], [0.0, -4.0]], [1, -1])
        >>> f, f.smoothness, round(f.tail_gap(2.0, t=10.0, alpha=1.0), 12)
        (LogisticLoss(2×1, 2 samples, hard margin=2.4), 4.0, 0.019065766233)
    """

    name = "logistic loss"
    _largest_curvature = 0.25
    _tail_form = LogisticTail

    def _derivative(self, Z: Array, order: int) -> tuple[Array, float]:
        xp = namespace(Z)
        e = xp.exp(-xp.abs(Z))
        if order == 0:
            return xp.log1p(e) + xp.where(Z < 0, -Z, 0.0 * Z), 0.0
        if order == 1:
            return xp.where(Z < 0, xp.ones_like(e), e) / (1 + e), 0.0
        return e / (1 + e) ** 2, 0.0


def _labels(y: Any, X: Array) -> Array:
    """Check that the labels are ±1, and return them as a matrix with one column per output."""
    y = unmasked(y, "y")
    if not is_array(y):
        try:
            y = np.asarray(y, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError("y is not an array of numbers; labels +1 and −1 are needed.") from error
        y = from_numpy(y, X)
    if y.ndim == 1:
        y = y[:, None]
    Y, _ = checks.matrix(y, "y")  # ±1 is exact in every type, so its promotion needs no note
    values = to_numpy(Y)
    if not (np.abs(values) == 1).all():
        found = np.unique(values)
        shown = ", ".join(f"{v:g}" for v in found[:4]) + (", …" if len(found) > 4 else "")
        hint = " For labels 0 and 1 pass 2*y − 1." if set(found) == {0.0, 1.0} else ""
        raise ValueError(f"y holds the values {shown}; only +1 and −1 are labels.{hint}")
    return Y


def hard_margin(Z: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Return bounds on `max_{‖u‖=1} min_i ⟨u, z_i⟩` and a unit u that attains the lower one; `lower ≤ 0` if none.

    Least-distance programming turns `min ‖u‖ s.t. Zu ≥ 1` into the non-negative least-squares problem
    `min_{v≥0} ‖Zᵀv‖² + (1ᵀv − 1)²` with `u ∝ Zᵀv`. A finite active-set method solves it. Any u gives a lower bound,
    and any `v ≥ 0` gives the upper bound `‖Zᵀv‖/1ᵀv`, so both bounds hold even if the solver is inexact.

    Source: Lawson & Hanson 1974, chapter 23.
    """
    from scipy.optimize import nnls  # noqa: PLC0415 - scipy.optimize is slow to import

    n = Z.shape[1]
    lengths = np.linalg.norm(Z / (np.abs(Z).max() or 1.0), axis=1) * np.abs(Z).max()
    largest = float(lengths.max())
    if largest == 0:
        return 0.0, 0.0, np.zeros(n)
    A = np.vstack([(Z / largest).T, np.ones(len(Z))])
    try:
        v, _ = nnls(A, np.eye(n + 1)[n])
    except RuntimeError as error:
        raise ValueError(
            f"the hard margin could not be computed ({error}); leave out repeated or nearly repeated samples."
        ) from error
    support = np.flatnonzero(v > 0)
    weights, directions = [v[support]], [A[:n, support] @ v[support]]
    if len(support):  # recompute the point from the support alone, by orthogonal factors, to more digits
        u = np.linalg.lstsq(A[:n, support].T, np.ones(len(support)), rcond=None)[0]
        directions.append(u)
        weights.append(np.maximum(np.linalg.lstsq(A[:n, support], u, rcond=None)[0], 0.0))
    lower, best = -math.inf, np.zeros(n)
    for u in directions:
        length = np.linalg.norm(u)
        if length > 0:
            least = float(np.min(Z @ (u / length) - (n + 8) * EPS * lengths))
            lower, best = (least, u / length) if least > lower else (lower, best)
    upper = largest
    for lam in weights:
        total = lam.sum()
        if total > 0:
            allowance = (n + len(support) + 8) * EPS * largest
            upper = min(upper, float(np.linalg.norm(Z[support].T @ (lam / total))) + allowance)
    return lower * (1 - 4 * EPS), upper, best
