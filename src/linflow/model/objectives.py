"""Objectives `f: R^{n×m} → R` on the product, with their constants."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, Array, from_numpy, namespace, norm, to_numpy, unmasked
from linflow.model.network import Network
from linflow.model.tails import UP, Tail


class LeftBehindError(RuntimeError):
    """Raised when a user's function is called that could not be pickled with its objective."""


def _left_behind(W: Array) -> Any:
    raise LeftBehindError(
        "the value and gradient of this objective could not be pickled, and stayed where it was made; define them "
        "with def at the top level of a module, not as a lambda or within a function, or make the objective anew."
    )


Error = float | Callable[[Array], float] | None
"""An upper bound of a rounding error: a number, a function of W, or None if it is not known."""


def _declared_error(error: Error, name: str) -> Error:
    return error if error is None or callable(error) else checks.positive(error, name, allow_zero=True)


class _Shifted:
    """`W ↦ function(W_0 + W)`, which can be pickled if the function can."""

    def __init__(self, function: Callable[[Array], Any], W0: Array):
        self.function, self.W0 = function, W0

    def __call__(self, W: Array) -> Any:
        return self.function(self.W0 + W)


class Objective:
    """A function of the product, given by its value and gradient, with declared constants.

    The constants are:

    - strong convexity `μ`: `f(V) ≥ f(W) + ⟨∇f(W), V − W⟩ + μ/2 ‖V − W‖²`;
    - smoothness `K`: `‖∇f(V) − ∇f(W)‖ ≤ K ‖V − W‖`;
    - gradient dominance (Polyak–Łojasiewicz) `γ`: `‖∇f(W)‖² ≥ γ (f(W) − f*)`, without a ½. `γ = 2μ` is always
      admissible and is the default;
    - tail constant: `‖∇f(W)‖ ≥ γ (f(W) − f*)`, without a square. It holds for losses whose minimum lies at infinity,
      such as the exponential loss; the gap of the flow then falls like `1/t`;
    - tail smoothness `κ`: `‖∇²f(W)‖ ≤ κ (f(W) − f*)`. A constant step of gradient descent on two layers or more needs
      it, because without a minimum the weights grow for ever.

    A verified run (`enclose`) also needs to know:

    - convexity; strong convexity implies it;
    - for a flow, the Lipschitz constant of the Hessian `H`: `‖∇²f(V) − ∇²f(W)‖ ≤ H ‖V − W‖`, 0 for a quadratic f;
    - how far the computed value and gradient can be from the exact ones, by rounding: numbers, or functions of W.

    A run that contradicts a declared constant reports it in `run.notes`. A run also compares the gradient at its
    start with differences of the value and reports a mismatch, such as a wrong sign or factor or a missing part.

    Args:
        value: `W ↦ f(W)`, a number.
        gradient: `W ↦ ∇f(W)`, an array of the shape of `W`.
        shape: `(n, m)`.
        strong_convexity: `μ > 0` if known.
        smoothness: `K > 0` if known.
        pl_constant: `γ > 0` if known; `2μ` otherwise.
        tail_constant: `γ > 0` of `‖∇f(W)‖ ≥ γ (f(W) − f*)` if known. The minimum must then be given.
        tail_smoothness: `κ > 0` of `‖∇²f(W)‖ ≤ κ (f(W) − f*)` if known.
        minimum: `f*`. If omitted, it is computed from `minimizer`, or numerically.
        minimizer: `W*`, needed for a margin. If omitted, together with `minimum`, it is computed numerically.
        like: an array of the kind that `value` and `gradient` take; NumPy by default.
        convex: whether f is convex.
        hessian_lipschitz: `H ≥ 0` if known.
        value_error: upper bound of `|computed f(W) − f(W)|`, a number or `W ↦` number.
        gradient_error: upper bound of `‖computed ∇f(W) − ∇f(W)‖_F`, a number or `W ↦` number.

    Raises:
        ValueError: constants that are not positive or are inconsistent (`μ ≤ K` and `γ ≤ 2K` hold for every
            function), or a minimum that is neither given nor computable.

    Example:
        >>> import numpy as np, linflow as lf
        >>> Y = np.eye(2)
        >>> f = lf.Objective(lambda W: float(((W - Y) ** 2).sum()), lambda W: 2 * (W - Y), shape=(2, 2),
        ...                  strong_convexity=2.0, smoothness=2.0)
        >>> f.pl_constant, bool(abs(f.minimum) < 1e-12)
        (4.0, True)

        If only some entries of a matrix are known:

        >>> Y, known = np.array([[1.0, 2.0], [0.0, 4.0]]), np.array([[1, 1], [0, 1]])
        >>> f = lf.Objective(lambda W: 0.5 * float((known * (W - Y) ** 2).sum()), lambda W: known * (W - Y),
        ...                  shape=Y.shape, smoothness=1.0, minimum=0.0)
        >>> run = lf.gradient_flow(f, lf.init.ntk((2, 10, 2), rng=0), until=1e-6)
        >>> run.result.value, bool((np.abs(run.final.product() - Y)[known == 1] < 1e-2).all())
        ('target reached', True)

        A loss without a minimum, `Σ e^{−W_ij}`:

        >>> f = lf.Objective(lambda W: float(np.exp(-W).sum()), lambda W: -np.exp(-W), shape=(2, 1), minimum=0.0,
        ...                  tail_constant=0.5**0.5, tail_smoothness=1.0)
        >>> cert = lf.certify(f, [np.array([[0.0], [0.0]])])
        >>> cert.best.name, round(cert.gap_at(10.0), 12)
        ('tail, one layer', 0.181818181818)
    """

    name = "user-defined objective"
    citations: frozenset[str] = frozenset()
    """Keys of the references for its theory."""
    derived = False
    """Whether the constants are derived from the data. Declared constants can be contradicted by a run."""
    quadratic = False
    """Whether f is quadratic and `hessian_product` is exact."""
    _tail_constant: float = 0.0
    tail_smoothness: float = math.inf
    convex = False
    """Whether f is declared convex."""
    hessian_lipschitz: float = math.inf
    """The Lipschitz constant of the Hessian; inf if it is not known."""
    value_error: Error = None
    gradient_error: Error = None
    """Upper bounds of the rounding of value and gradient: numbers, functions of W, or None if not known."""
    samples: int | None = None
    """Number of samples, if f is a sum over samples that `batch_gradient` can take in parts; else None."""
    row_space: Any = None
    """Orthonormal basis, shape `(n, r)`, of the subspace in which f sees the columns of W; None if it sees all."""

    def __init__(
        self,
        value: Callable[[Array], Any],
        gradient: Callable[[Array], Array],
        *,
        shape: tuple[int, int],
        strong_convexity: float | None = None,
        smoothness: float | None = None,
        pl_constant: float | None = None,
        tail_constant: float | None = None,
        tail_smoothness: float | None = None,
        minimum: float | None = None,
        minimizer: Any = None,
        like: Array | None = None,
        convex: bool = False,
        hessian_lipschitz: float | None = None,
        value_error: Error = None,
        gradient_error: Error = None,
    ):
        n, m = checks.widths(shape)
        self.shape = (n, m)
        self._value, self._gradient = value, gradient
        mu = 0.0 if strong_convexity is None else checks.positive(strong_convexity, "strong_convexity")
        K = math.inf if smoothness is None else checks.positive(smoothness, "smoothness")
        gamma = 2 * mu if pl_constant is None else checks.positive(pl_constant, "pl_constant")
        if mu > K:
            raise ValueError(
                f"strong_convexity {mu:g} exceeds smoothness {K:g}; every function has μ ≤ K. Were the two exchanged?"
            )
        if gamma > 2 * K:
            raise ValueError(
                f"pl_constant {gamma:g} exceeds 2·smoothness = {2 * K:g}; with ‖∇f‖² ≥ γ (f − f*) (no ½) "
                "every function has γ ≤ 2K."
            )
        self.strong_convexity, self.smoothness, self.pl_constant = mu, K, max(gamma, 2 * mu)
        self.convex = bool(convex) or mu > 0
        if hessian_lipschitz is not None:
            self.hessian_lipschitz = checks.positive(hessian_lipschitz, "hessian_lipschitz", allow_zero=True)
        self.value_error = _declared_error(value_error, "value_error")
        self.gradient_error = _declared_error(gradient_error, "gradient_error")
        if tail_constant is not None:
            self._tail_constant = checks.positive(tail_constant, "tail_constant")
        if tail_smoothness is not None:
            self.tail_smoothness = checks.positive(tail_smoothness, "tail_smoothness")
        if self._tail_constant**2 > 2 * self.tail_smoothness:
            raise ValueError(
                f"tail_constant {self._tail_constant:g} has a square above 2·tail_smoothness = "
                f"{2 * self.tail_smoothness:g}; every function has ‖∇f‖² ≤ 2κ (f − f*)², so its γ² ≤ 2κ."
            )
        self.notes: tuple[str, ...] = ()
        if minimizer is not None:
            minimizer, note = checks.matrix(minimizer, "minimizer", self.shape)
            self.notes = (note,) if note else ()
        elif minimum is None:
            minimizer = self._find_minimizer(np.zeros(self.shape) if like is None else like)
        self.minimizer: Any = minimizer
        self.minimum = float(value(minimizer)) if minimum is None else float(minimum)
        if not math.isfinite(self.minimum):
            raise ValueError(f"the minimum f* is {self.minimum}; a finite number is needed.")

    def value(self, W: Array) -> float:
        """Return `f(W)`."""
        return float(self._value(W))

    @property
    def tail(self) -> Tail | None:
        """The inequality `‖∇f(W)‖ ≥ γ (f(W) − f*)`, and the decay that follows from it; None if no γ is known."""
        return Tail(self._tail_constant) if self._tail_constant > 0 else None

    def smoothness_on(self, gap0: float) -> float:
        """Return an upper bound on `‖∇²f(W)‖` for every W with `f(W) − f* ≤ gap0`: `min(K, κ gap0)`."""
        return min(self.smoothness, self.tail_smoothness * gap0 * UP) if gap0 > 0 else 0.0

    def steepest_on(self, gap0: float) -> float:
        """Return an upper bound on `‖∇f(W)‖` for every W with `f(W) − f* ≤ gap0`: `sqrt(2 smoothness_on(gap0) gap0)`.

        From W along `−∇f`, the loss falls by `‖∇f‖²/(2K)` within a step `1/K` and does not fall below `f*`.
        """
        return math.sqrt(2 * self.smoothness_on(gap0)) * math.sqrt(max(gap0, 0.0)) * UP

    def pl_constant_on(self, gaps: Any) -> Any:
        """Return γ with `‖∇f(W)‖² ≥ γ (f(W) − f*)` wherever the gap is at most each of `gaps`: here one for all."""
        return np.full_like(np.asarray(gaps, dtype=np.float64), self.pl_constant)

    def growth_on(self, gaps: Any) -> Any:
        """Return μ with `f(W) − f* ≥ ½μ‖W − W*‖²` wherever the gap is at most each of `gaps`: here one for all."""
        return np.full_like(np.asarray(gaps, dtype=np.float64), self.strong_convexity)

    def gap(self, W: Array) -> float:
        """Return `f(W) − f*`, without cancellation if the form of the objective allows it."""
        return self.value(W) - self.minimum

    def rounding(self, network: Network) -> float:
        """Return the size below which the gap is rounding: `8ε max(|f|, |f*|) + 4ε‖∇f‖ c Π‖W_l‖_F`."""
        W = network.product()
        moved = 4 * EPS * norm(self.gradient(W)) * network.magnitude()
        return 8 * EPS * max(abs(self.value(W)), abs(self.minimum)) + moved

    @property
    def factors(self) -> tuple[Array | None, Array | None] | None:
        """The factors `F` and `H` of `f = f* + ½‖F (W − W*) H‖²`, or None if f is not known in this form.

        A factor that is the identity is None.
        """
        return None

    @property
    def minimizer_size(self) -> float:
        """The size to which the rounding of W* is relative: `‖W*‖_F` if W* is given, inf if there is no minimiser."""
        return math.inf if self.minimizer is None else norm(self.minimizer)

    def gradient_rounding(self, network: Network) -> float:
        """Return the size of the rounding in `∇f(W)`: here `4ε‖∇f‖`, because the inner cancellation is unknown."""
        return 4 * EPS * norm(self.gradient(network.product()))

    def gradient(self, W: Array) -> Array:
        """Return `∇f(W)`, shape `(n, m)`."""
        return unmasked(self._gradient(W), "the gradient")

    def batch_gradient(self, W: Array, rows: Array) -> Array:
        """Return `N/|B| Σ_{i∈B} ∇f_i(W)`, shape `(n, m)`, for the samples `rows` of the N in `f = Σ f_i`.

        Its mean over all batches of one size is `∇f(W)`.

        Raises:
            ValueError: the objective is not known as a sum over samples.
        """
        raise ValueError(
            f"the {self.name} is not known as a sum over samples, so it has no mini-batches; leave out batches= and "
            "batch_size=, or use LinearRegression, LogisticLoss or ExponentialLoss."
        )

    def hessian_product(self, W: Array, V: Array) -> Array:
        """Return `∇²f(W)[V]`, by a central difference of the gradient unless a subclass has a better formula."""
        size = norm(V)
        if size == 0.0:
            return V
        step = EPS ** (1 / 3) * max(norm(W), 1.0) / size
        return (self.gradient(W + step * V) - self.gradient(W - step * V)) / (2 * step)

    def effective(self, network: Network) -> tuple[Objective, Network]:
        """Return objective and network, restricted to the part of the product that the objective depends on.

        If it depends on the whole product, both are returned unchanged. With a rank-deficient design matrix, the loss
        depends on only a part of the product, and the rest of the outer layers never moves. The theory applies to the
        restricted pair, which follows the same flow.
        """
        return self, network

    def shifted(self, W0: Any) -> Objective:
        """Return `W ↦ f(W_0 + W)` with the same constants, and with the minimiser `W* − W_0` if W* is known.

        Matrix factorization, regression, sensing and completion keep their class. A `Quadratic` does too, and its
        value is `f(W_0 + W) − f(W_0)`.

        Args:
            W0: shape `(n, m)`.

        Example:
            >>> import numpy as np, linflow as lf
            >>> lf.MatrixFactorization(np.eye(2)).shifted(0.5 * np.eye(2)).Y
            array([[0.5, 0. ],
                   [0. , 0.5]])
        """
        W0, note = checks.matrix(W0, "W0", self.shape)
        new = self._shifted(W0)
        new.notes = (*self.notes, *([note] if note else []))
        return new

    def _shifted(self, W0: Array) -> Objective:
        """Return `shifted(W0)`, without notes. A subclass returns one of its own class where it can."""
        return Objective(
            _Shifted(self.value, W0),
            _Shifted(self.gradient, W0),
            shape=self.shape,
            strong_convexity=self.strong_convexity or None,
            smoothness=self.smoothness if math.isfinite(self.smoothness) else None,
            pl_constant=self.pl_constant or None,
            tail_constant=self._tail_constant or None,
            tail_smoothness=self.tail_smoothness if math.isfinite(self.tail_smoothness) else None,
            minimum=self.minimum,
            minimizer=None if self.minimizer is None else self.minimizer - W0,
            convex=self.convex,
        )

    def check_network(self, network: Network) -> None:
        """Raise ValueError or TypeError unless `network` has the shape and array kind that this objective needs."""
        if network.shape != self.shape:
            raise ValueError(
                f"the network's product is {network.shape[0]}×{network.shape[1]} but the {self.name} needs "
                f"{self.shape[0]}×{self.shape[1]}; the widths must begin with {self.shape[0]} and end with "
                f"{self.shape[1]}."
            )
        if self.minimizer is not None:
            namespace(self.minimizer, *network.weights)

    def _find_minimizer(self, like: Array) -> Array:
        """Minimise numerically. Gradient dominance gives `f − f* ≤ ‖∇f‖²/γ`, which checks the result."""
        if self.pl_constant == 0:
            raise ValueError(
                "the minimum f* is unknown and cannot be computed for a function that is not declared convex: "
                "give minimum=, minimizer=, strong_convexity= or pl_constant=. A loss with a tail_constant, whose "
                "minimum lies at infinity, needs minimum=."
            )
        from scipy.optimize import minimize  # noqa: PLC0415 - scipy.optimize is slow to import

        def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
            W = from_numpy(x.reshape(self.shape), like)
            return self.value(W), to_numpy(self.gradient(W)).ravel()

        x = np.zeros(self.shape[0] * self.shape[1])
        first, g = value_and_gradient(x)
        value = first
        for _ in range(20):  # a restart drops the quasi-Newton memory, which improves the last digits
            found = minimize(value_and_gradient, x, jac=True, method="BFGS", options={"gtol": 0.0, "maxiter": 500})
            if not found.fun < value:
                break
            x = found.x
            value, g = value_and_gradient(x)
        size = float(np.linalg.norm(g))
        if size**2 / self.pl_constant > 1e-12 * (first - value) + 8 * EPS * abs(value):
            raise ValueError(
                f"the minimum f* could not be computed: the gradient norm stayed at {size:.2g}. "
                "Give minimizer= (or minimum=), and check that value and gradient agree."
            )
        return from_numpy(x.reshape(self.shape), like)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without functions that cannot be pickled.

        Objects that hold the objective can then still be pickled.
        """
        state = self.__dict__.copy()
        for name in {"_value", "_gradient", "value_error", "gradient_error"} & state.keys():
            try:
                pickle.dumps(state[name])
            except Exception:  # many types are possible: a lambda, a lock, an open file
                state[name] = _left_behind
        return state

    def __copy__(self) -> Self:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = object.__new__(type(self))
        memo[id(self)] = new
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new

    def __repr__(self) -> str:
        tail = f", tail γ={self._tail_constant:.4g}" if self._tail_constant else ""
        return (
            f"{type(self).__name__}({self.shape[0]}×{self.shape[1]}, μ={self.strong_convexity:.4g}, "
            f"K={self.smoothness:.4g}, γ={self.pl_constant:.4g}{tail})"
        )
