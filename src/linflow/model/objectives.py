"""Objectives `f: R^{n×m} → R` on the product, with their constants derived, never typed in by hand."""

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


class LeftBehindError(RuntimeError):
    """A function of a user that was not carried along when its objective was pickled."""


def _left_behind(W: Array) -> Any:
    raise LeftBehindError(
        "the value and gradient of this objective could not be pickled, and stayed where it was made; define them "
        "with def at the top level of a module, not as a lambda or within a function, or make the objective anew."
    )


class Objective:
    """A function of the product given by its value and gradient, with declared constants.

    The constants are those of the theory:

    - strong convexity `μ`: `f(V) ≥ f(W) + ⟨∇f(W), V − W⟩ + μ/2 ‖V − W‖²`;
    - smoothness `K`: `‖∇f(V) − ∇f(W)‖ ≤ K ‖V − W‖`;
    - gradient dominance (Polyak–Łojasiewicz) `γ`: `‖∇f(W)‖² ≥ γ (f(W) − f*)`, without a ½; `γ = 2μ` is always
      admissible and is the default.

    A run that contradicts a declared constant says so in `run.notes`, and so does one whose gradient does not fit the
    value at its start (a sign, a factor, a part left out), by differences of the value.

    Args:
        value: `W ↦ f(W)`, a number.
        gradient: `W ↦ ∇f(W)`, an array of the shape of `W`.
        shape: `(n, m)`.
        strong_convexity: `μ > 0` if known.
        smoothness: `K > 0` if known.
        pl_constant: `γ > 0` if known; `2μ` otherwise.
        minimum: `f*`; computed from `minimizer`, or numerically, when left out.
        minimizer: `W*`, needed for a margin; computed numerically when left out.
        like: an array of the kind that `value` and `gradient` take; NumPy by default.

    Raises:
        ValueError: non-positive or inconsistent constants (`μ ≤ K`, `γ ≤ 2K` hold for every function), or a
            minimum that is neither given nor computable.

    Example:
        >>> import numpy as np, linflow as lf
        >>> Y = np.eye(2)
        >>> f = lf.Objective(lambda W: float(((W - Y) ** 2).sum()), lambda W: 2 * (W - Y), shape=(2, 2),
        ...                  strong_convexity=2.0, smoothness=2.0)
        >>> f.pl_constant, bool(abs(f.minimum) < 1e-12)
        (4.0, True)

        Only some entries of a matrix are known:

        >>> Y, known = np.array([[1.0, 2.0], [0.0, 4.0]]), np.array([[1, 1], [0, 1]])
        >>> f = lf.Objective(lambda W: 0.5 * float((known * (W - Y) ** 2).sum()), lambda W: known * (W - Y),
        ...                  shape=Y.shape, smoothness=1.0, minimum=0.0)
        >>> run = lf.gradient_flow(f, lf.init.ntk((2, 10, 2), rng=0), until=1e-6)
        >>> run.result.value, bool((np.abs(run.final.product() - Y)[known == 1] < 1e-2).all())
        ('target reached', True)
    """

    name = "user-defined objective"
    citations: frozenset[str] = frozenset()
    """Keys of the references that its theory rests on."""
    derived = False
    """Whether the constants follow from the data, rather than from a declaration that a run may contradict."""
    quadratic = False
    """Whether f is quadratic and `hessian_product` exact."""
    row_space: Any = None
    """Orthonormal basis, shape `(n, r)`, of the part of each column of W that f sees; None where it sees all."""

    def __init__(
        self,
        value: Callable[[Array], Any],
        gradient: Callable[[Array], Array],
        *,
        shape: tuple[int, int],
        strong_convexity: float | None = None,
        smoothness: float | None = None,
        pl_constant: float | None = None,
        minimum: float | None = None,
        minimizer: Any = None,
        like: Array | None = None,
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

    def gap(self, W: Array) -> float:
        """Return `f(W) − f*`, without cancellation where the objective's form allows."""
        return self.value(W) - self.minimum

    def rounding(self, network: Network) -> float:
        """Return the size below which the gap is rounding: `8ε max(|f|, |f*|) + 4ε‖∇f‖ c Π‖W_l‖_F`."""
        W = network.product()
        moved = 4 * EPS * norm(self.gradient(W)) * network.magnitude()
        return 8 * EPS * max(abs(self.value(W)), abs(self.minimum)) + moved

    @property
    def factors(self) -> tuple[Array | None, Array | None] | None:
        """`F` and `H` of `f = f* + ½‖F (W − W*) H‖²`, None for the identity; None if f is not known in this form."""
        return None

    @property
    def minimizer_size(self) -> float:
        """The size of the numbers that W* is rounded at: `‖W*‖_F` of one that is given, inf without one."""
        return math.inf if self.minimizer is None else norm(self.minimizer)

    def gradient_rounding(self, network: Network) -> float:
        """Return the size of the rounding in `∇f(W)`: here `4ε‖∇f‖`, as the inner cancellation is unknown."""
        return 4 * EPS * norm(self.gradient(network.product()))

    def gradient(self, W: Array) -> Array:
        """Return `∇f(W)`, shape `(n, m)`."""
        return unmasked(self._gradient(W), "the gradient")

    def hessian_product(self, W: Array, V: Array) -> Array:
        """Return `∇²f(W)[V]`; by a central difference of the gradient unless the objective knows better."""
        size = norm(V)
        if size == 0.0:
            return V
        step = EPS ** (1 / 3) * max(norm(W), 1.0) / size
        return (self.gradient(W + step * V) - self.gradient(W - step * V)) / (2 * step)

    def effective(self, network: Network) -> tuple[Objective, Network]:
        """Return objective and network restricted to what the objective sees; themselves if it sees all.

        With a rank-deficient design the loss depends on part of the product only and the rest of the outer
        layers never moves. The theory applies to the restricted pair, which follows the same flow.
        """
        return self, network

    def check_network(self, network: Network) -> None:
        """Raise ValueError or TypeError unless `network` has the shape and array kind this objective takes."""
        if network.shape != self.shape:
            raise ValueError(
                f"the network's product is {network.shape[0]}×{network.shape[1]} but the {self.name} needs "
                f"{self.shape[0]}×{self.shape[1]}; the widths must begin with {self.shape[0]} and end with "
                f"{self.shape[1]}."
            )
        if self.minimizer is not None:
            namespace(self.minimizer, *network.weights)

    def _find_minimizer(self, like: Array) -> Array:
        """Minimise numerically; under gradient dominance `f − f* ≤ ‖∇f‖²/γ` shows how well it worked."""
        if self.pl_constant == 0:
            raise ValueError(
                "the minimum f* is unknown and cannot be computed for a function that is not declared convex: "
                "give minimum=, minimizer=, strong_convexity= or pl_constant=."
            )
        from scipy.optimize import minimize  # noqa: PLC0415 - scipy.optimize is slow to import

        def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
            W = from_numpy(x.reshape(self.shape), like)
            return self.value(W), to_numpy(self.gradient(W)).ravel()

        x = np.zeros(self.shape[0] * self.shape[1])
        first, g = value_and_gradient(x)
        value = first
        for _ in range(20):  # restarts drop the quasi-Newton memory, which polishes the last digits
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
        """Return what is pickled: without functions that cannot be, so that what holds the objective still can."""
        state = self.__dict__.copy()
        for name in {"_value", "_gradient"} & state.keys():
            try:
                pickle.dumps(state[name])
            except Exception:  # of many kinds: a lambda, a lock, an open file
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
        return (
            f"{type(self).__name__}({self.shape[0]}×{self.shape[1]}, μ={self.strong_convexity:.4g}, "
            f"K={self.smoothness:.4g}, γ={self.pl_constant:.4g})"
        )
