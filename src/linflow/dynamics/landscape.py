"""What kind of point some weights are: gradient and Hessian of the loss, and a verdict."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from linflow._support.arrays import EPS, from_numpy, norm, to_numpy
from linflow.dynamics.field import GradientField, prepared
from linflow.model.network import Network, multiply
from linflow.model.objectives import Objective

DENSE = 1000
"""Up to this number of weights the Hessian is formed; above it, its two ends are found by Lanczos iteration."""
DIFFERENCE = 1e-7
"""Relative error of a Hessian that is a difference of gradients."""
CLOSE = 1e-6
"""Relative size below which a singular value counts as 0, and a mode as learned or not."""


class Verdict(Enum):
    """The kind of a point of the loss, in words."""

    NOT_STATIONARY = "not stationary"
    GLOBAL_MINIMUM = "global minimum"
    MINIMUM = "minimum up to symmetry"
    STRICT_SADDLE = "strict saddle"
    FLAT_SADDLE = "flat saddle"
    SADDLE = "saddle"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """The loss around some weights, to second order.

    Attributes:
        verdict: a `Verdict`: "not stationary", "global minimum", "minimum up to symmetry", "strict saddle" (the
            Hessian has a negative eigenvalue), "flat saddle" (it has none), "saddle" (which of the two is not known),
            or "undecided".
        reason: why, in words.
        gap: `L − f*`.
        gradient: `‖∇L‖`.
        least: least eigenvalue of `∇²L`; None if it was not computed.
        greatest: greatest eigenvalue of `∇²L`; None if it was not computed.
        error: size of the rounding of the eigenvalues; a smaller eigenvalue counts as 0.
        flat: number of eigenvalues that count as 0; None if the Hessian was not formed.
        symmetric: number of independent directions in which `W_l ↦ W_l S`, `W_{l+1} ↦ S⁻¹ W_{l+1}` moves the weights;
            None if it was not needed.
        rank: rank of the product; singular values below 1e-6 of the product of the layers' norms count as 0.
        modes: for a quadratic objective of full rank whose target has distinct singular values: which of them the
            product has learned, counted from 1; None if it is no such critical point.
    """

    verdict: Verdict
    reason: str
    gap: float
    gradient: float
    least: float | None
    greatest: float | None
    error: float
    flat: int | None
    symmetric: int | None
    rank: int
    modes: tuple[int, ...] | None

    @property
    def citations(self) -> frozenset[str]:
        """Keys of the references behind the verdict."""
        return frozenset({"laurent2018"} | ({"achour2024"} if self.modes is not None else set()))

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes as plain data."""
        return {**vars(self), "verdict": self.verdict.value, "modes": self.modes and list(self.modes)}

    def __str__(self) -> str:
        known = self.least is not None
        ends = f"{self.least:.4g} to {self.greatest:.4g} (± {self.error:.1g})" if known else "not computed"
        lines = [
            f"{self.verdict.value}: {self.reason}",
            f"loss gap {self.gap:.4g}, gradient {self.gradient:.4g}, rank {self.rank}",
            f"eigenvalues of the Hessian: {ends}",
        ]
        if self.flat is not None:
            known = "" if self.symmetric is None else f", of which symmetry explains {self.symmetric}"
            lines.append(f"eigenvalues that are 0: {self.flat}{known}")
        if self.modes is not None:
            lines.append(f"modes learned: {', '.join(map(str, self.modes)) or 'none'}")
        return "\n".join(lines)


def landscape(objective: Objective, network: Network | Sequence[Any]) -> Landscape:
    """Return gradient, extreme Hessian eigenvalues and the kind of a point of the loss `L = f(c W_1 ⋯ W_L)`.

    - A stationary point with a negative eigenvalue of `∇²L` is a *strict saddle*.
    - For convex f and hidden widths of at least min(n, m), every local minimum is global [Laurent and von Brecht
      2018], so a stationary point above f* is a saddle: strict, or *flat* if no eigenvalue is negative (the origin
      of three layers or more).
    - Where all eigenvalues are positive but for the directions of symmetry, it is a *minimum up to symmetry*.
    - For `½‖F(W − W*)H‖²` with square F and H of full rank and distinct singular values of `F W* H`, a critical point
      has learned some of these (`modes`), and they decide [Achour, Malgouyres and Gerchinovitz 2024]: the r largest
      that the widths allow make the global minimum; other choices are strict saddles, except the r' < r largest
      where each pair of layers has a product of the layers before, between or after it of rank r': these are flat.

    The verdict is that of float64 numbers with an allowance for their rounding, not a proof. Up to 1000 weights the
    Hessian is formed; above, its two ends are found by Lanczos iteration, and a flat direction may be missed.

    Args:
        objective: the objective.
        network: a `Network` or its weights.

    Raises:
        ValueError, TypeError: objective and network do not fit together.

    Source: docs/landscape.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.MatrixFactorization(np.diag([3.0, 1.0]))
        >>> found = lf.landscape(f, [np.zeros((2, 2)), np.zeros((2, 2))])
        >>> found.verdict.value, round(found.least, 12), found.modes
        ('strict saddle', -3.0, ())
        >>> lf.landscape(f, 3 * [np.zeros((2, 2))]).verdict.value
        'flat saddle'
    """
    net = prepared(objective, network)
    field = GradientField(objective, net)
    with np.errstate(over="ignore", invalid="ignore"):
        point = field.at(field.flatten(net.weights))
        return judge(field, stationary=field.is_stationary(point), speed=point.speed)


def judge(field: GradientField, *, stationary: bool, speed: float = 0.0, most: float = math.inf) -> Landscape:
    """Return the landscape at the network of a field; without a Hessian if there are more weights than `most`."""
    f, net = field.objective, field.network
    W = net.product()
    gap, count = f.gap(W), sum(math.prod(shape) for shape in field.shapes)
    modes, kind = _critical_type(f, net)
    least = greatest = flat = symmetric = None
    error = 0.0
    if count <= most:
        product = _hessian(field)
        ends, formed = _ends(product, count)
        least, greatest = float(ends[0]), float(ends[-1])
        error = _error(f, net, count, max(-least, greatest))
        flat = int(np.sum(np.abs(ends) <= error)) if formed else None
    convex = f.derived or f.strong_convexity > 0
    above = gap > f.rounding(net)
    verdict, reason = Verdict.UNDECIDED, "the Hessian has no negative eigenvalue, and nothing else is known"
    if not stationary:
        verdict, reason = Verdict.NOT_STATIONARY, "the gradient is more than rounding"
    elif not above:
        verdict, reason = Verdict.GLOBAL_MINIMUM, "the loss is f* to rounding"
    elif kind is Verdict.GLOBAL_MINIMUM:
        verdict, reason = kind, f"the loss is {gap:.3g} above f*, and no product of rank {len(modes or ())} has less"
    elif least is not None and least < -error:
        verdict = Verdict.STRICT_SADDLE
        reason = f"the loss is {gap:.3g} above f*, and its Hessian has a direction of negative curvature"
    elif convex and net.overparametrized and norm(f.gradient(W)) > f.gradient_rounding(net):
        verdict = kind or (Verdict.SADDLE if flat is None else Verdict.FLAT_SADDLE)
        reason = f"the loss is {gap:.3g} above f*, and for a convex f in full width no minimum is"
    elif kind is not None:
        verdict, reason = kind, f"the loss is {gap:.3g} above f*, and the learned modes decide the kind"
    elif least is None:
        reason = "the Hessian was not computed"
    elif flat is not None:
        symmetric = _orbit(net)
        if flat == symmetric:
            verdict, reason = Verdict.MINIMUM, "the loss grows in every direction that is not a symmetry"
        else:
            reason = f"{flat} eigenvalues are 0 to rounding, and symmetry explains {symmetric} of them"
    return Landscape(
        verdict=verdict, reason=reason, gap=gap, gradient=speed, least=least, greatest=greatest, error=error,
        flat=flat, symmetric=symmetric, rank=_rank(net.weights, 0), modes=modes,
    )  # fmt: skip


def _hessian(field: GradientField) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map `v ↦ ∇²L v`."""
    weights, like = field.network.weights, field.network.weights[0]

    def product(v: np.ndarray) -> np.ndarray:
        rates = field.unflatten(from_numpy(np.ascontiguousarray(v.ravel()), like))
        return -to_numpy(field.flatten(field._slope_derivative(weights, rates)))

    return product


def _ends(product: Callable[[np.ndarray], np.ndarray], count: int) -> tuple[np.ndarray, bool]:
    """Return all eigenvalues in increasing order and True, or the two ends and False."""
    if count <= DENSE:
        H = np.array([product(row) for row in np.eye(count)])
        return np.linalg.eigvalsh((H + H.T) / 2), True
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh  # noqa: PLC0415 - slow

    start = np.random.default_rng(0).standard_normal(count)
    if not np.any(product(start)):
        return np.zeros(2), False
    operator = LinearOperator((count, count), matvec=product, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    ends = []
    for which in ("SA", "LA"):
        try:
            found = eigsh(operator, k=1, which=which, v0=start, tol=1e-8, return_eigenvectors=False)  # pyright: ignore[reportArgumentType]
        except ArpackNoConvergence as short:
            found = short.eigenvalues
        except ArpackError:
            found = np.empty(0)
        ends.append(float(found[0]) if len(found) else 0.0)
    return np.array(ends), False


def _error(f: Objective, net: Network, count: int, size: float) -> float:
    """Return the size of the rounding in eigenvalues of `∇²L`, of which the largest has this size.

    The second term of `∇²L` holds `∇f(W)` between layers, with the rounding of that gradient.
    """
    G = net.scale * (8 * EPS * norm(f.gradient(net.product())) + f.gradient_rounding(net))
    norms = [norm(W) for W in net.weights]
    pairs = itertools.permutations(range(len(norms)), 2)
    between = sum(math.prod(x for k, x in enumerate(norms) if k not in pair) for pair in pairs)
    exact = (8 * count + 64) * EPS if f.derived else DIFFERENCE
    return exact * size + G * between


def _orbit(net: Network) -> int:
    """Return the number of independent directions of symmetry: the rank of `(A_l)_l ↦ (W_l A_l − A_{l−1} W_l)_l`."""
    weights = [to_numpy(W) for W in net.weights]
    columns = []
    for l in range(len(weights) - 1):
        for A in np.eye(weights[l].shape[1] ** 2).reshape(-1, *2 * [weights[l].shape[1]]):
            moved = [np.zeros_like(W) for W in weights]
            moved[l], moved[l + 1] = weights[l] @ A, -A @ weights[l + 1]
            columns.append(np.concatenate([M.ravel() for M in moved]))
    if not columns:
        return 0
    s = np.linalg.svd(np.array(columns), compute_uv=False)
    return int(np.sum(s > CLOSE * s[0]))


def _rank(weights: Sequence[Any], identity: int) -> int:
    """Return the rank of a product of layers, relative to the product of their norms; that of no layers is given."""
    if not weights:
        return identity
    size = math.prod(float(np.linalg.norm(to_numpy(W), 2)) for W in weights)
    return int(np.sum(np.linalg.svd(to_numpy(multiply(list(weights))), compute_uv=False) > CLOSE * size))


def _critical_type(f: Objective, net: Network) -> tuple[tuple[int, ...] | None, Verdict | None]:
    """Return the modes that a critical point has learned and its kind by them; None if the theorem does not apply."""
    if f.factors is None or f.minimizer is None:
        return None, None
    seen, target = to_numpy(net.product()), to_numpy(f.minimizer)
    for factor, left in zip(f.factors, (True, False), strict=True):
        if factor is not None:
            F = to_numpy(factor)
            s = np.linalg.svd(F, compute_uv=False)
            if F.shape[0] != F.shape[1] or not s[-1] > CLOSE * s[0]:
                return None, None
            seen, target = (F @ seen, F @ target) if left else (seen @ F, target @ F)
    U, s, Vt = np.linalg.svd(target, full_matrices=False)
    if not np.all(-np.diff(np.append(s, 0.0)) > CLOSE * s[0]):
        return None, None
    size = np.einsum("ij,ik,kj->j", U, seen, Vt.T) / s
    on = np.abs(size - 1) < CLOSE
    if not np.all(on | (np.abs(size) < CLOSE)) or np.linalg.norm(seen - (U[:, on] * s[on]) @ Vt[on]) > CLOSE * s[0]:
        return None, None
    modes, allowed = tuple(int(i) + 1 for i in np.flatnonzero(on)), min(net.widths)
    largest = modes == tuple(range(1, len(modes) + 1))
    if largest and len(modes) == allowed:
        return modes, Verdict.GLOBAL_MINIMUM
    flat = largest and _tightened(net, len(modes))
    return modes, Verdict.FLAT_SADDLE if flat else Verdict.STRICT_SADDLE


def _tightened(net: Network, rank: int) -> bool:
    """Return whether each pair of layers has a product before, between or after it of no more than this rank."""
    W, widths = net.weights, net.widths
    return all(
        min(_rank(W[:i], widths[0]), _rank(W[i + 1 : j], widths[j]), _rank(W[j + 1 :], widths[-1])) <= rank
        for i, j in itertools.combinations(range(len(W)), 2)
    )
