"""Matrices that are known by some linear measurements, or by some entries: sensing and completion."""

from __future__ import annotations

from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, Array, detach, from_numpy, is_array, namespace, norm, to_numpy, unmasked
from linflow._support.words import plural
from linflow.model.coefficients import CoefficientRegression
from linflow.model.network import Network
from linflow.model.objectives import Objective


class Sensing(CoefficientRegression):
    """Matrix sensing `f(W) = ½‖A(W) − b‖²`, `A(W)_k = ⟨A_k, W⟩`, with p measurements.

    `K = σ_max²(A)` and `γ = 2σ_r²(A)`, with r the rank of the `p × nm` matrix whose rows are the entries of the
    `A_k`. No restricted isometry is needed. `μ = σ_min²(A)` if `r = nm`, else 0. `W*` is the solution of least
    Frobenius norm. What is certified is the training loss, not the distance to a matrix that the measurements may not
    determine.

    Args:
        operators: the matrices `A_k`, shape `(p, n, m)` or a list of p matrices; or their entries row by row, shape
            `(p, nm)`; or a linear operator of this shape with a method `matmat`, as SciPy's, which is applied once to
            every unit matrix.
        b: the measurements, shape `(p,)` or `(p, 1)`.
        shape: `(n, m)`, needed unless `operators` shows it.

    Raises:
        ValueError: shapes that do not fit, all `A_k` are zero, or entries are not finite.

    Source: docs/losses.md, section 1.

    Example:
        >>> import numpy as np, linflow as lf
        >>> rng = np.random.default_rng(0)
        >>> f = lf.Sensing(rng.standard_normal((5, 3, 2)), rng.standard_normal(5))
        >>> net = lf.init.imbalanced((3, 8, 2), [1.0], rng=0)
        >>> cert, run = lf.certify(f, net), lf.gradient_flow(f, net, until=1e-6)
        >>> round(cert.rate / f.pl_constant, 6), cert.check(run).holds, f.minimum < 1e-20
        (1.0, True, True)
    """

    name = "matrix sensing objective"
    hessian_lipschitz = 0.0

    def __init__(self, operators: Any, b: Any, *, shape: tuple[int, int] | None = None):
        rows, sides = _rows(operators, shape)
        count = rows.shape[0]
        if len(b) != count:
            raise ValueError(f"there are {plural(count, 'operator')} and {len(b)} measurements in b; each needs one.")
        if not bool(namespace(rows).any(rows != 0)):
            raise ValueError("all operators are zero; the objective would not depend on the product at all.")
        super().__init__(rows, b, 1.0)
        self.shape = sides
        self.minimizer = self._best.reshape(sides)
        self.strong_convexity = self.pl_constant / 2 if self.rank == sides[0] * sides[1] else 0.0

    def coefficients(self, W: Network | Array) -> Array:
        """Return the entries of W row by row, shape `(nm,)`."""
        product = W.product() if isinstance(W, Network) else unmasked(W, "W")
        return product.reshape(-1)

    def _spread(self, g: Array) -> Array:
        return g.reshape(self.shape)

    def _shifted(self, W0: Array) -> Sensing:
        return Sensing(self.X, self.y - self.X @ W0.reshape(-1, 1), shape=self.shape)


class Completion(Objective):
    """Matrix completion `f(W) = ½ Σ_{known} (W_ij − Y_ij)²`.

    `f* = 0`, `K = 1` and `γ = 2`, whichever entries are known: `∇f` is the residual on the known entries, so
    `‖∇f‖² = 2f`. `μ = 0` unless all entries are known, so there is no margin: guarantees come from the imbalance and
    the lazy regime alone. They are about the training loss, on the known entries. Nothing is said about the others.
    Rows and columns without any known entry are left out of the theory (`effective`): they never move.

    Attributes:
        known: 1 where an entry is known, else 0; shape `(n, m)`.

    Args:
        Y: the matrix, shape `(n, m)`. NaN is a missing entry, and so are the masked entries of a NumPy masked array.
        mask: True where an entry is known, shape `(n, m)`; by default all that are not missing.

    Raises:
        ValueError: no entry is known, an entry is infinite, or one that `mask` calls known is missing.

    Source: docs/losses.md, section 1.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.Completion([[1.0, 2.0], [np.nan, 4.0]])
        >>> f, f.value(np.zeros((2, 2)))
        (Completion(2×2, 3 of 4 entries known), 10.5)
        >>> net = lf.init.imbalanced((2, 6, 2), [2.0], rng=0)
        >>> round(lf.certify(f, net).rate, 6), lf.enclose(f, net, until=1e-3).result
        (4.0, 'target proved')
    """

    name = "matrix completion objective"
    derived = True
    convex = True
    minimum = 0.0
    smoothness, pl_constant, hessian_lipschitz = 1.0, 2.0, 0.0

    def __init__(self, Y: Any, mask: Any = None):
        Y, known = _known(Y, mask)
        Y, note = checks.matrix(Y, "Y")
        self.shape, self.notes = (int(Y.shape[0]), int(Y.shape[1])), (note,) if note else ()
        xp = namespace(Y)
        self.known, self.minimizer = xp.astype(known, xp.float64), Y
        count = int(xp.sum(xp.astype(known, xp.int64)))
        if count == 0:
            raise ValueError("no entry is known; the objective would not depend on the product at all.")
        self.strong_convexity = 1.0 if count == self.shape[0] * self.shape[1] else 0.0
        self._count = count

    def value(self, W: Array) -> float:
        """Return `f(W)`."""
        return self.gap(W)

    def gap(self, W: Array) -> float:
        """Return `f(W) − f*`, which is f(W)."""
        R = self.gradient(W)
        with np.errstate(over="ignore"):  # the gap is then inf
            return 0.5 * float(detach(namespace(R).sum(R * R)))

    def gradient(self, W: Array) -> Array:
        """Return `∇f(W)`, the residual on the known entries."""
        return self.known * (unmasked(W, "W") - self.minimizer)

    def hessian_product(self, W: Array, V: Array) -> Array:
        """Return `∇²f[V]`, the known entries of V."""
        return self.known * unmasked(V, "V")

    def _shifted(self, W0: Array) -> Completion:
        return Completion(self.minimizer - W0, self.known)

    def _sides(self, axis: int) -> Any:
        """Return the unit vectors of the rows (axis 1) or columns with a known entry; None if that is all of them."""
        some = np.asarray(to_numpy(self.known).any(axis=axis))
        return None if some.all() else from_numpy(np.eye(len(some))[:, some], self.known)

    @property
    def row_space(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The unit vectors of the rows with a known entry, shape `(n, r)`; None if every row has one."""
        return self._sides(1)

    @property
    def column_space(self) -> Any:
        """The unit vectors of the columns with a known entry, shape `(m, q)`; None if every column has one."""
        return self._sides(0)

    def effective(self, network: Network) -> tuple[Completion, Network]:
        """Return objective and network without the rows and columns that have no known entry.

        Those rows of `W_1` and columns of `W_L` never move.
        """
        V, U = self.row_space, self.column_space
        if V is None and U is None:
            return self, network
        Y, known, weights = self.minimizer, self.known, list(network.weights)
        if V is not None:
            Y, known, weights[0] = V.T @ Y, V.T @ known, V.T @ weights[0]
        if U is not None:
            Y, known, weights[-1] = Y @ U, known @ U, weights[-1] @ U
        seen = Completion(Y, known)
        seen.notes = self.notes
        return seen, network.restricted(weights)

    def rounding(self, network: Network) -> float:
        """Return the size below which the gap is rounding: `½(4ε (c Π‖W_l‖_F + ‖Y‖_F))²` of the known entries."""
        size = self.gradient_rounding(network)
        return 0.5 * size * size

    def gradient_rounding(self, network: Network) -> float:
        """Return the size of the rounding in `∇f(W)`: `4ε (c Π‖W_l‖_F + ‖Y‖_F)`, Y with 0 for missing entries."""
        return 4 * EPS * (network.magnitude() + norm(self.minimizer))

    def __repr__(self) -> str:
        n, m = self.shape
        return f"Completion({n}×{m}, {self._count} of {n * m} entries known)"


def _rows(operators: Any, shape: tuple[int, int] | None) -> tuple[Array, tuple[int, int]]:
    """Return the matrix whose rows are the entries of the operators, and the shape of the product."""
    if callable(getattr(operators, "matmat", None)):
        if shape is None:
            raise ValueError("operators is a linear operator, which has no shape of W; give shape=(n, m).")
        n, m = checks.widths(shape)
        if tuple(operators.shape)[1:] != (n * m,):
            raise ValueError(f"operators has the shape {tuple(operators.shape)}; (p, {n * m}) is needed for {n}×{m}.")
        rows = np.asarray(operators.matmat(np.eye(n * m)))
        return checks.matrix(rows, "operators")[0], (n, m)
    found: Any = operators
    if isinstance(operators, (list, tuple)) and operators and is_array(operators[0]):
        found = namespace(*operators).stack(list(operators))
    elif not is_array(operators):
        try:
            found = np.asarray(operators, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError("operators are not p matrices of one shape; an array (p, n, m) is needed.") from error
    if found.ndim == 2 and shape is not None:
        n, m = checks.widths(shape)
        return checks.matrix(found, "operators", (None, n * m))[0], (n, m)
    if found.ndim != 3:
        raise ValueError(
            f"operators have the shape {tuple(found.shape)}; (p, n, m) is needed, or (p, nm) and shape=(n, m)."
        )
    count, n, m = (int(side) for side in found.shape)
    if shape is not None and tuple(shape) != (n, m):
        raise ValueError(f"operators are {n}×{m} and shape is {tuple(shape)}; leave shape out.")
    return checks.matrix(found.reshape(count, n * m), "operators")[0], (n, m)


def _known(Y: Any, mask: Any) -> tuple[Array, Array]:
    """Return Y with 0 for the missing entries, and where it is known."""
    if isinstance(Y, np.ma.MaskedArray):
        Y = np.where(np.ma.getmaskarray(Y), np.nan, np.asarray(Y.data, dtype=np.float64))
    elif not is_array(Y):
        Y = np.asarray(Y, dtype=np.float64)
    xp = namespace(Y)
    floats = not xp.isdtype(Y.dtype, "integral")
    known = ~xp.isnan(Y) if floats else xp.ones_like(Y) > 0
    if mask is not None:
        given = to_numpy(mask)
        if given.shape != tuple(Y.shape) or not np.isin(given, (0.0, 1.0)).all():
            raise ValueError(
                f"mask is not an array of True and False of shape {tuple(Y.shape)}, one for each entry of Y."
            )
        wanted = (
            xp.asarray(given > 0, device=getattr(Y, "device", None)) if not isinstance(Y, np.ndarray) else given > 0
        )
        if bool(xp.any(wanted & ~known)):
            raise ValueError("mask calls an entry known that is missing in Y; set it to False there.")
        known = wanted
    return xp.where(known, Y, xp.zeros_like(Y)), known
