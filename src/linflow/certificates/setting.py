"""An objective and a start, with the quantities that several guarantees use, each computed once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from linflow._support.arrays import Array, norm, sigma
from linflow.bounds import Invariants
from linflow.certificates._base import Guarantee
from linflow.certificates.curves import Curve
from linflow.certificates.envelope import gap_levels
from linflow.certificates.lazy import Neighbourhood
from linflow.certificates.margin import margin, product_range
from linflow.geometry.operator import TangentOperator
from linflow.model.network import Network
from linflow.model.objectives import Objective

LEAST, LARGEST = 1e-280, 1e280
"""Range of a positive gap and of the squares of W*; outside it their products with small numbers leave float64."""

NO_SMOOTHNESS = "no smoothness K is known for the objective; declare smoothness="
NO_MARGIN = "the bound on λ_min(T) is 0 from the imbalance alone, and the margin needs μ and W*"


@dataclass(frozen=True, repr=False)
class Setting:
    """The subject of a guarantee: an objective, a start and the algorithm.

    The theory is about the part of the product that the objective sees (`Objective.effective`), so `objective` and
    `network` are restricted to it. They are the given pair if the objective sees the whole product.

    Attributes:
        whole_objective: what is minimised, as given.
        whole_network: the start, as given.
        algorithm: "flow" or "descent".
    """

    whole_objective: Objective
    whole_network: Network
    algorithm: str = "flow"

    @cached_property
    def _effective(self) -> tuple[Objective, Network]:
        return self.whole_objective.effective(self.whole_network)

    @property
    def objective(self) -> Objective:
        """The objective, restricted to the part of the product that it sees."""
        return self._effective[0]

    @property
    def network(self) -> Network:
        """The start, restricted to the part of the product that the objective sees."""
        return self._effective[1]

    @cached_property
    def gap(self) -> float:
        """The loss gap `L(0) − f*` of the start."""
        return self.whole_objective.gap(self.whole_network.product())

    @property
    def minimum(self) -> float:
        """The minimum `f*`."""
        return self.whole_objective.minimum

    @property
    def gamma(self) -> float:
        """Gradient dominance γ below the level of the start, 0 if unknown."""
        return self.objective.pl_constant

    @cached_property
    def gammas(self) -> np.ndarray:
        """Gradient dominance once the gap is at most each of `levels`; it can grow as the gap falls."""
        return self.objective.pl_constant_on(self.levels)

    @property
    def n(self) -> int:
        """Rows of the product."""
        return self.network.shape[0]

    @property
    def m(self) -> int:
        """Columns of the product."""
        return self.network.shape[1]

    @property
    def depth(self) -> int:
        """Number of layers L."""
        return self.network.depth

    @property
    def scale(self) -> float:
        """Output scale c."""
        return self.network.scale

    @property
    def narrowest(self) -> int:
        """The smallest hidden width."""
        return min(self.network.widths[1:-1])

    @property
    def too_narrow(self) -> str:
        """The reason why T is singular at all weights; "" if the product can be any matrix."""
        return too_narrow(self.network)

    @cached_property
    def product(self) -> Array:
        """The first product W(0)."""
        return self.network.product()

    @property
    def strongly_convex(self) -> bool:
        """Whether μ > 0 and W* are known."""
        return self.objective.strong_convexity > 0 and self.objective.minimizer is not None

    @cached_property
    def growing(self) -> bool:
        """Whether `f − f* ≥ ½μ‖W − W*‖²` is known below the level of the start; otherwise there is no margin."""
        return self.objective.minimizer is not None and float(self.objective.growth_on(self.gap)) > 0

    @cached_property
    def distance(self) -> float:
        """The distance `‖W(0) − W*‖_F`; W* must be known."""
        return norm(self.product - self.objective.minimizer)

    @cached_property
    def least_of_target(self) -> float:
        """The least singular value `σ_min(W*)`; W* must be known."""
        return float(sigma(self.objective.minimizer, min(self.network.shape)))

    @cached_property
    def margin(self) -> float:
        """The margin `[σ_min(W*) − sqrt(2ℓ(0)/μ)]_+`."""
        return margin(self.objective, self.network)

    @cached_property
    def margin_by_distance(self) -> float:
        """The margin of the papers, `[σ_min(W*) − sqrt(K/μ) ‖W(0) − W*‖_F]_+`."""
        return margin(self.objective, self.network, "distance")

    @cached_property
    def invariants(self) -> Invariants:
        """The imbalance spectra with their rounding, and the singular values of the product."""
        return Invariants.of(self.network)

    @cached_property
    def imbalance(self) -> float:
        """The largest absolute value of an eigenvalue of any `D_l`; 0 if it can be rounding."""
        return max((max(float(D.lower[0]), -float(D.upper[-1]), 0.0) for D in self.invariants.spectra), default=0.0)

    @cached_property
    def tangent(self) -> TangentOperator:
        """T at the start."""
        return TangentOperator(self.network)

    @cached_property
    def nearby(self) -> Neighbourhood:
        """Floors of `λ_min(T)` on balls around the start."""
        return Neighbourhood.of(self.network)

    @cached_property
    def levels(self) -> np.ndarray:
        """The gaps at which a guarantee is computed, from the initial gap down."""
        return gap_levels(self.gap) if self.gap > 0 else np.zeros(1)

    @cached_property
    def ranges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bounds on σ_min, the next larger singular value, and `‖W‖`, once the gap is at most each level."""
        return product_range(self.objective, self.network, self.levels)

    @cached_property
    def beyond_float64(self) -> str:
        """The reason why numbers this large or this small cannot be handled in float64; "" if they can."""
        gap, seen, net = self.gap, self.objective, self.network
        if math.isnan(gap):
            return "the loss at the start is not a number; check value and minimum of the objective"
        terms = sum(math.prod(net.sizes[:l] + net.sizes[l + 1 :]) ** 2 for l in range(net.depth))
        curvature = max(seen.pl_constant, seen.smoothness if math.isfinite(seen.smoothness) else 0.0)
        target = norm(seen.minimizer) if seen.minimizer is not None else 0.0
        for name, value in (
            ("the loss gap at the start", abs(gap)),
            ("‖W*‖²", target * target),
            ("the curvature K λ_max(T)", curvature * net.scale * terms * net.scale),
            ("the bound 2K(L − f*) on ‖∇f‖²", 2 * curvature * abs(gap)),
        ):
            if not value <= LARGEST:
                past = "more than float64 can square and multiply; rescale the data or the layers"
                return f"{name} is {value:.3g}, {past}"
        away = self.distance if gap == 0 and seen.minimizer is not None else 0.0
        if 0 < abs(gap) < LEAST or 0 < curvature * abs(gap) < LEAST or (away > 0 and curvature * away * away < LEAST):
            return f"the loss gap at the start is {gap:.3g}, too small for float64 to multiply; rescale the data"
        return ""

    def guarantee(
        self,
        *,
        name: str,
        source: str,
        citation: tuple[str, ...],
        reason: str = "",
        curve: Curve | None = None,
        facts: dict[str, float] | None = None,
    ) -> Guarantee:
        """Return a guarantee on the run from this start, with a curve or the reason why it does not apply."""
        return Guarantee(
            name=name,
            source=source,
            citation=citation,
            reason=reason,
            curve=curve,
            gap=self.gap,
            minimum=self.minimum,
            facts=facts or {},
            ceiling=math.inf if self.algorithm == "descent" else None,
        )

    def __repr__(self) -> str:
        return f"Setting({self.whole_objective!r}, {self.whole_network!r}, {self.algorithm!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out the computed quantities: copies and files hold only the setting itself."""
        return type(self), (self.whole_objective, self.whole_network, self.algorithm)


def too_narrow(network: Network) -> str:
    """Return the reason why T is singular at all weights of these widths; "" if the product can be any matrix.

    Example:
        >>> import linflow as lf
        >>> from linflow.certificates.setting import too_narrow
        >>> too_narrow(lf.init.gaussian((4, 2, 3), rng=0))
        'the hidden width 2 is below min(n, m) = 3; widen it'
    """
    if network.overparametrized:
        return ""
    return f"the hidden width {min(network.widths)} is below min(n, m) = {min(network.shape)}; widen it"
