"""Softmax cross-entropy on separable data: classification into several classes, whose minimum lies at infinity."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, Array, detach, from_numpy, namespace, norm, to_numpy, unmasked
from linflow._support.threads import one_thread
from linflow._support.words import plural
from linflow.model.classification import hard_margin
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.tails import UP, LogisticTail, MeanTail, Tail

LARGEST = 20_000_000
"""The most numbers that the program of the margin may hold: samples × (classes − 1) × inputs × classes."""


class SoftmaxLoss(Objective):
    """Softmax cross-entropy `f(W) = −Σ_i log p_i(y_i)`, `p_i = softmax(Wᵀx_i)`, on separable data.

    `f* = 0` is approached only as W grows: `μ = 0`, there is no minimiser, and `pl_constant` is 0. For all W,
    `‖∇f(W)‖_F ≥ γ (1 − e^{−f(W)})` with the margin

        `γ = max_{‖U‖_F=1} min_{i, k≠y_i} ⟨U, x_i(e_{y_i} − e_k)ᵀ⟩`,

    and `K = σ_max²(X)/2`. The decay is that of `LogisticLoss`. With `mean=True` f is divided by the N samples, as in
    PyTorch, and time runs N times slower. f does not see what the columns of W share, so `effective` has one column
    less than there are classes.

    Attributes:
        hard_margin: certified lower bound on γ.
        margin_gap: upper bound on `γ − hard_margin`, from the dual problem.
        share: the factor of each sample: 1, or 1/N for the mean.
        direction: the U of norm 1 that attains `hard_margin`, shape `(n, m)`.

    Args:
        X: inputs, shape `(N, n)`, any array kind.
        labels: the class of each sample, a whole number from 0 to m − 1, shape `(N,)` or `(N, 1)`.
        classes: m; one more than the largest label by default.
        mean: whether f is the mean over the samples, not the sum.

    Raises:
        ValueError: labels that are not classes, rows that differ in number, entries that are not finite, data that
            are not separable (to rounding), or so many that their margin cannot be certified here.

    Source: docs/losses.md, section 3.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.SoftmaxLoss([[3.0, 0.0], [0.0, 4.0], [-2.0, -2.0]], [0, 1, 2])
        >>> f, round(f.value(np.zeros((2, 3))), 6)
        (SoftmaxLoss(2×3, 3 samples, hard margin=2.327), 3.295837)
        >>> cert = lf.certify(f, lf.init.imbalanced((2, 6, 3), [2.0], rng=0))
        >>> cert.best.name, round(cert.gap_at(100.0), 4)
        ('exponential tail, two layers', 0.0009)
    """

    name = "softmax loss"
    derived = True
    convex = True
    citations = frozenset({"soudry2018"})
    minimum, minimizer = 0.0, None
    strong_convexity = pl_constant = 0.0

    def __init__(self, X: Any, labels: Any, *, classes: int | None = None, mean: bool = False):
        X, note = checks.matrix(X, "X")
        labels = _classes(labels, int(X.shape[0]), classes)
        m = max(int(labels.max()) + 1, 2) if classes is None else int(classes)
        self.shape, self.samples, self.mean = (int(X.shape[1]), m), int(X.shape[0]), bool(mean)
        self.notes = (note,) if note else ()
        given = to_numpy(X)
        size = norm(X)
        if math.isinf(size * size):
            raise ValueError(f"X has norm {size:.3g}, whose square leaves float64; rescale the data.")
        self._X, self._hot, self._readout = X, from_numpy(np.eye(m)[labels], X), None
        self._count = int(X.shape[0])
        self.share = 1.0 / self._count if mean else 1.0
        self._lengths = from_numpy(np.linalg.norm(given, axis=1)[:, None], X)
        self._longest = float(np.linalg.norm(given, axis=1).max()) * (1 + (X.shape[1] + 8) * EPS)
        with one_thread():
            _, s, Vt = namespace(X).linalg.svd(X, full_matrices=False)
            lower, upper, U = hard_margin(_differences(given, labels, m))
        if lower <= 0:
            raise ValueError(
                "the data are not separable: to rounding no U has ⟨U, x_i(e_y − e_k)ᵀ⟩ > 0 for all samples i and all "
                f"k ≠ y_i (at most {upper:.2g}), so the minimum of the softmax loss is not 0. Add features (a column "
                "of ones for an intercept) or leave out samples; or compute the minimum elsewhere and pass it, with "
                "value and gradient, to Objective(..., minimum=)."
            )
        self.hard_margin, self.margin_gap = lower / UP, upper * UP - lower / UP
        self.direction = from_numpy(U.reshape(self.shape), X)
        self._top = float(s[0])
        self.smoothness = 0.5 * self._top * self._top * self.share
        zero = max(X.shape) * EPS * self._top
        self._cut = math.sqrt(2) * zero  # what singular values that count as 0 can change the margin by
        rank = int(np.sum(to_numpy(s) > zero))
        self.row_space = Vt[:rank, :].T if rank < self.shape[0] else None

    @property
    def inputs(self) -> Array:
        """X, shape `(N, n)`."""
        return self._X

    @property
    def labels(self) -> np.ndarray:
        """The class of each sample, shape `(N, 1)`."""
        return np.argmax(to_numpy(self._hot), axis=1)[:, None]

    @property
    def column_space(self) -> Any:
        """Orthonormal basis, shape `(m, m − 1)`, of the space in which f sees the rows of W: those of sum 0."""
        if self._readout is not None:
            return None
        m = self.shape[1]
        basis = np.linalg.qr(np.eye(m)[:, : m - 1] - 1.0 / m)[0]
        return from_numpy(basis, self._X)

    def _ahead(self, W: Array) -> Array:
        """Return how far the score of each class is above that of the right one, shape `(N, m)`."""
        scores = self._X @ unmasked(W, "W")
        scores = scores if self._readout is None else scores @ self._readout
        return scores - self._right(scores)

    def _right(self, A: Array) -> Array:
        """Return the entry of the right class in each row, as a column."""
        return namespace(A).sum(A * self._hot, axis=1)[:, None]

    def odds(self, W: Array) -> tuple[Array, Array, Array]:
        """Return the loss of each sample, the probabilities of its wrong classes, 0 for the right one, and their sum.

        Shapes `(N, 1)`, `(N, m)` and `(N, 1)`.
        """
        D = self._ahead(W)
        xp = namespace(D)
        top = xp.max(D, axis=1)[:, None]  # 0 if the right class leads
        e = xp.exp(D - top)
        wrong = e * (1 - self._hot)
        rest = xp.sum(wrong, axis=1)[:, None]
        # e^{−top} of the right class is 1 if it leads; then log1p keeps the digits of a small loss.
        losses = xp.where(top > 0, top + xp.log(rest + xp.exp(-top)), xp.log1p(rest))
        p = wrong / (rest + xp.exp(-top))
        return losses, p, xp.sum(p, axis=1)[:, None]

    def value(self, W: Array) -> float:
        """Return `f(W)`."""
        losses = self.odds(W)[0]
        return self.share * float(detach(namespace(losses).sum(losses)))

    def gradient(self, W: Array) -> Array:
        """Return `∇f(W) = Xᵀ(P − E)`, with the probabilities P and the right classes E; shape `(n, m)`."""
        _, p, missed = self.odds(W)
        slope = p - missed * self._hot
        return self._pulled(slope)

    def batch_gradient(self, W: Array, rows: Array) -> Array:
        """Return `N/|B| Σ_{i∈B} ∇f_i(W)`, the gradient on the samples `rows` scaled to all of them."""
        part = copy.copy(self)
        part._X, part._hot = self._X[rows], self._hot[rows]
        return (self._count / len(rows)) * part.gradient(W)

    def hessian_product(self, W: Array, V: Array) -> Array:
        """Return `∇²f(W)[V] = Xᵀ(P ∘ (XV − (P ∘ XV)1))`."""
        _, p, missed = self.odds(W)
        full = p + (1 - missed) * self._hot
        moved = self._X @ V
        moved = moved if self._readout is None else moved @ self._readout
        moved = moved - self._right(moved)
        mean = namespace(p).sum(full * moved, axis=1)[:, None]
        return self._pulled(full * (moved - mean))

    def _pulled(self, A: Array) -> Array:
        found = self.share * (self._X.T @ A)
        return found if self._readout is None else found @ self._readout.T

    def rounding(self, network: Network) -> float:
        """Return the size below which the gap is rounding: `8εf + 8ε c Π‖W_l‖_F Σ_i (1 − p_i(y_i)) ‖x_i‖`."""
        losses, _, missed = self.odds(network.product())
        xp = namespace(losses)
        moved = float(detach(xp.sum(missed * self._lengths))) * network.magnitude()
        return self.share * 8 * EPS * (float(detach(xp.sum(losses))) + moved)

    def gradient_rounding(self, network: Network) -> float:
        """Return the size of the rounding in `∇f(W)`: `8ε Σ_i (1 − p_i(y_i)) (‖x_i‖ + ‖x_i‖² c Π‖W_l‖_F)`."""
        _, _, missed = self.odds(network.product())
        moved = missed * (self._lengths + self._lengths**2 * network.magnitude())
        return self.share * 8 * EPS * float(detach(namespace(missed).sum(moved)))

    def effective(self, network: Network) -> tuple[SoftmaxLoss, Network]:
        """Return objective and network in the coordinates that f sees: the row space of X, and rows of sum 0.

        If singular values of X that count as 0 could change the margin by more than its size, its row space is kept
        whole; otherwise the margin is lowered by this size.
        """
        if self._readout is not None:
            return self, network
        C, V = self.column_space, self.row_space if self._cut < self.hard_margin else None
        restricted, weights = copy.copy(self), list(network.weights)
        restricted._readout = C.T
        restricted.direction, restricted.row_space = self.direction @ C, None
        restricted.hard_margin *= 1 - 16 * self.shape[1] * EPS  # C is orthonormal to rounding
        weights[-1] = weights[-1] @ C
        if V is not None:
            restricted._X = self._X @ V
            restricted.direction = V.T @ restricted.direction
            restricted.hard_margin -= self._cut
            restricted.margin_gap += self._cut
            weights[0] = V.T @ weights[0]
        restricted.shape = tuple(int(side) for side in restricted.direction.shape)
        return restricted, network.restricted(weights)

    def check_network(self, network: Network) -> None:
        """Raise ValueError or TypeError unless `network` has the shape and array kind that this objective needs."""
        super().check_network(network)
        namespace(self._X, *network.weights)

    @property
    def tail_smoothness(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """`κ = 2 max_i ‖x_i‖²`, with `‖∇²f(W)‖ ≤ κ f(W)`."""
        return 2 * self._longest * self._longest

    def steepest_on(self, gap0: float) -> float:
        """Return an upper bound on `‖∇f(W)‖` for every W with `f(W) ≤ gap0`: `√2 gap0 max_i ‖x_i‖` or better."""
        if gap0 <= 0:
            return 0.0
        return min(math.sqrt(2) * self._longest * gap0, math.sqrt(2 * self.smoothness) * math.sqrt(gap0)) * UP

    @property
    def tail(self) -> Tail:
        """The inequality `‖∇f(W)‖_F ≥ γ (1 − e^{−f(W)})` with the margin γ; of the mean, `γ (1 − e^{−Nf})/N`."""
        return MeanTail(self.hard_margin, self._count) if self.mean else LogisticTail(self.hard_margin)

    def __repr__(self) -> str:
        n, m = self.shape
        what = "mean over " if self.mean else ""
        samples = plural(self._count, "sample")
        return f"SoftmaxLoss({n}×{m}, {what}{samples}, hard margin={self.hard_margin:.4g})"


def _classes(labels: Any, samples: int, classes: int | None) -> np.ndarray:
    """Return the classes as whole numbers."""
    found = to_numpy(unmasked(labels, "labels"))
    found = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if found.shape != (samples,):
        raise ValueError(
            f"X has {plural(samples, 'row')} and labels the shape {found.shape}; each row needs one class."
        )
    whole = np.isfinite(found) & (found == np.floor(found)) & (found >= 0)
    if not whole.all():
        raise ValueError(f"labels holds {found[~whole][0]:g}; the classes are the whole numbers 0, 1, 2, ….")
    if classes is not None and checks.count(classes, "classes", 2) <= found.max():
        raise ValueError(f"labels holds {found.max():g}, but there are {classes} classes, 0 to {classes - 1}.")
    if found.max() > 1e6:
        raise ValueError(f"labels holds {found.max():g}; number the classes 0, 1, 2, ….")
    return found.astype(int)


def _differences(X: np.ndarray, labels: np.ndarray, m: int) -> np.ndarray:
    """Return the entries of `x_i(e_{y_i} − e_k)ᵀ` for all samples i and classes k ≠ y_i, one matrix a row."""
    count, n = X.shape
    if count * (m - 1) * n * m > LARGEST:
        raise ValueError(
            f"{count} samples of {n} inputs in {m} classes are too many to certify their margin here: "
            f"{count * (m - 1)} × {n * m} numbers, more than {LARGEST:.0e}. Use fewer samples, or Objective(...)."
        )
    found = np.zeros((count, m, n, m))
    found[np.arange(count), :, :, labels] = X[:, None, :]
    for k in range(m):
        found[:, k, :, k] -= X
    return found[np.arange(m)[None, :] != labels[:, None]].reshape(count * (m - 1), n * m)
