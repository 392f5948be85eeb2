"""The parts of an objective that a verified run needs: its gradient with proved errors, and two-sided gap bounds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from linflow._support.arrays import is_numpy, to_numpy
from linflow.model.objectives import Objective
from linflow.model.quadratics import LinearRegression, MatrixFactorization, Quadratic
from linflow.verified.fine import FineGradient, fine_regression, pair
from linflow.verified.rounding import TINY, UP, U, frobenius, gamma, known, least_eigenvalue, spectral


@dataclass(frozen=True)
class AffineGradient:
    """`∇f(W) = A (W − V) B + R` with A, B symmetric positive semidefinite, and proved bounds of all errors.

    Attributes:
        V: the computed minimiser, shape `(n, m)`.
        A: matrix of shape `(n, n)`, or None for the identity.
        B: matrix of shape `(m, m)`, or None for the identity.
        norms: upper bounds of `‖A‖₂` and `‖B‖₂` for the exact matrices.
        lengths: upper bounds of `‖A‖_F` and `‖B‖_F`.
        errors: upper bounds of the spectral norms of `A − A_exact` and `B − B_exact`.
        residue: upper bound of `‖R‖_F`, the true gradient at V.
        offset: upper bound of `f(V) − f*`.
        least: lower bound of the least nonzero eigenvalue of `B ⊗ A`; 0 if none was proved.
        full: whether `least` bounds all eigenvalues, so that f is strongly convex.
        notes: what a reader must know about the problem.
        data: X and Y if f is `½‖XW − Y‖_F²`.
        shift: 0; V is where gaps are measured from.
    """

    V: np.ndarray
    A: np.ndarray | None = None
    B: np.ndarray | None = None
    norms: tuple[float, float] = (1.0, 1.0)
    lengths: tuple[float, float] = (1.0, 1.0)
    errors: tuple[float, float] = (0.0, 0.0)
    residue: float = 0.0
    offset: float = 0.0
    least: float = 1.0
    full: bool = True
    notes: tuple[str, ...] = ()
    data: tuple[np.ndarray, np.ndarray] | None = None
    shift: ClassVar[float] = 0.0

    @cached_property
    def fine(self) -> FineGradient | None:
        """The gradient in pairs, where it can be computed to twice the digits: of factorizations and regressions."""
        if self.data is not None:
            return fine_regression(*self.data, self.V)
        known = self.A is None and self.B is None and self.residue == 0
        return FineGradient(pair(self.V)) if known else None

    @property
    def smoothness(self) -> float:
        """Upper bound of the smoothness K."""
        return self.norms[0] * self.norms[1] * UP

    @property
    def error(self) -> float:
        """Upper bound of `‖A X B − A_exact X B_exact‖_F / ‖X‖_F`."""
        (a, b), (da, db) = self.norms, self.errors
        return (da * b + a * db + da * db) * UP

    def dominance(self, gap: float) -> float:
        """Return a proved γ with `‖∇f‖² ≥ γ (f − f*)`, wherever the gap is: twice `least`; 0 if none was proved."""
        return 2 * self.least * (1 - 4 * U)

    def apply(self, E: np.ndarray) -> np.ndarray:
        """Return the computed `A E B`."""
        E = E if self.A is None else self.A @ E
        return E if self.B is None else E @ self.B

    def error_of(self, length: np.ndarray | float, error: np.ndarray | float) -> np.ndarray | float:
        """Return a bound of `‖fl(A Ê B) − A_exact E B_exact‖_F` for `‖Ê‖_F ≤ length` and `‖Ê − E‖_F ≤ error`."""
        a, b = self.norms
        left = 0.0 if self.A is None else gamma(self.A.shape[0]) * self.lengths[0]
        right = 0.0 if self.B is None else gamma(self.B.shape[0]) * self.lengths[1]
        rounding = left * b + (a + left) * right
        return (a * b * error + (rounding + self.error) * length) * UP + TINY

    def gap(self, E: np.ndarray, error: float) -> tuple[float, float]:
        """Return lower and upper bounds of `f(W) − f*` for all W with `‖(W − V) − E‖_F ≤ error`.

        If no `least` was proved, f* stands for `f(V)`, and the loss can fall below it.
        """
        G = self.apply(E)
        value = 0.5 * float(np.sum(E * G))
        return self.gap_from(value, float(frobenius(E)), float(frobenius(G)), E.size, error)

    def gap_from(self, value: float, length: float, slope: float, size: int, error: float) -> tuple[float, float]:
        """Return the bounds of `gap` from the computed `½⟨E, AEB⟩` and bounds of the computed `‖E‖_F`, `‖AEB‖_F`."""
        slope = (slope + float(self.error_of(length, 0.0))) * UP
        slack = 0.5 * (gamma(size + 4) * length * slope + float(self.error_of(length, 0.0)) * length)
        slack += slope * error + 0.5 * self.smoothness * error * error + self.residue * (length + error)
        slack = slack * UP + 4 * U * abs(value)
        low = value - slack
        return known(max(0.0, low) if self.least > 0 else low, (value + slack + self.offset) * UP)


def affine_gradient(objective: Objective) -> AffineGradient:
    """Return the affine gradient of a quadratic objective.

    Raises:
        ValueError: the objective is not one of the quadratics of this library, or it cannot be proved convex.
    """
    if isinstance(objective, MatrixFactorization):
        return AffineGradient(_numpy(objective.Y))
    if isinstance(objective, LinearRegression):
        X, Y, V = _numpy(objective.X), _numpy(objective.Y), _numpy(objective.minimizer)
        return regression_gradient(X, Y, V, objective.rank)
    if isinstance(objective, Quadratic):
        return _general(objective)
    raise ValueError(
        "a verified run needs MatrixFactorization, LinearRegression, Quadratic, Sensing, Completion, Huber, "
        "ExponentialLoss, LogisticLoss, SoftmaxLoss or a convex Objective that declares its constants and "
        f"errors, not {type(objective).__name__}; gradient_flow and certify take every objective."
    )


def regression_gradient(X: np.ndarray, Y: np.ndarray, V: np.ndarray, rank: int) -> AffineGradient:
    """Return the gradient of a regression: `A = XᵀX`, `R = Xᵀ(XV − Y)`, for a computed minimiser V."""
    samples, inputs = X.shape
    A = X.T @ X
    A = (A + A.T) / 2
    size = float(frobenius(X))
    error = gamma(samples + 2) * size * size * UP + TINY
    r = X @ V - Y
    # The error of r. It enters the product with Xᵀ.
    missing = (gamma(inputs + 1) * size * float(frobenius(V)) + gamma(2) * float(frobenius(r))) * UP + TINY
    residue = float(frobenius(X.T @ r)) + gamma(samples) * size * float(frobenius(r)) + spectral(X) * missing
    residue = residue * UP + TINY
    used = np.any(X != 0, axis=0)
    notes = ()
    full = bool(used.all()) and samples >= inputs
    if samples >= int(used.sum()):
        least = least_eigenvalue(A[np.ix_(used, used)], error)
    else:
        Gram = X @ X.T
        least = least_eigenvalue((Gram + Gram.T) / 2, gamma(inputs + 2) * size * size * UP + TINY)
    if least <= 0:
        least, full = 0.0, False
        notes = (
            f"the rank of X ({rank} of {min(X.shape)}) is numerical: the gap is measured from the loss of "
            "the least-norm solution of this rank.",
        )
    offset = 0.5 * residue * residue / least * UP if least > 0 else 0.0
    top = (spectral(A) + error) * UP
    length = (float(frobenius(A)) + error) * UP
    norms, lengths, errors = (top, 1.0), (length, 1.0), (error, 0.0)
    return AffineGradient(V, A, None, norms, lengths, errors, residue, offset, least, full, notes, (X, Y))


def _general(objective: Quadratic) -> AffineGradient:
    """Return the gradient of a `Quadratic` with its own A, B and C: `R = A V B − C`."""
    C, V = _numpy(objective.C), _numpy(objective.minimizer)
    factors, norms, lengths, errors, least = [], [], [], [], 1.0
    for given, name in ((objective.A, "A"), (objective.B, "B")):
        if given is None:
            factors.append(None)
            norms.append(1.0)
            lengths.append(1.0)
            errors.append(0.0)
            continue
        M = _numpy(given)
        M = (M + M.T) / 2
        length = float(frobenius(M))
        error = 2 * U * length + TINY
        low = least_eigenvalue(M, error)
        if low <= 0:
            raise ValueError(
                f"{name} cannot be proved positive definite in float64 (its least eigenvalue is at least {low:.3g}); "
                "a verified run needs that. Add a ridge, or drop the directions that the loss does not see."
            )
        least *= low * (1 - 4 * U)
        factors.append(M)
        norms.append((spectral(M) + error) * UP)
        lengths.append((length + error) * UP)
        errors.append(error)
    A, B = factors
    problem = AffineGradient(V, A, B, tuple(norms), tuple(lengths), tuple(errors), least=least)
    found = problem.apply(V) - C
    residue = float(frobenius(found)) * (1 + 4 * U) + 2 * U * float(frobenius(C))
    residue = (residue + float(problem.error_of(float(frobenius(V)), 0.0))) * UP
    offset = 0.5 * residue * residue / least * UP
    return AffineGradient(V, A, B, tuple(norms), tuple(lengths), tuple(errors), residue, offset, least)


def _numpy(array: object) -> np.ndarray:
    """Return an array as an exact C-ordered float64 array."""
    return np.ascontiguousarray(array if is_numpy(array) else to_numpy(array), dtype=np.float64)
