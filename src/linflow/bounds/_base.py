"""The inputs of a lower bound on `λ_min(T)`, and the classes for a theorem and its value on a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import (
    EPS,
    SMALLEST_NORMAL,
    Array,
    eigenvalues,
    from_numpy,
    is_array,
    is_numpy,
    maximum,
    namespace,
    norm,
    singular_values,
    to_float64,
    to_numpy,
)
from linflow._support.words import plural
from linflow.geometry.imbalance import imbalance_eigenvalues
from linflow.model.network import Network
from linflow.model.spectrum import positive_part

Follow = Callable[[Callable[[Array], Array], np.ndarray], Array]
"""Maps a function and its derivative-free root to the root with derivatives in all that the function reads."""
LARGEST = float(np.finfo(np.float64).max)
ROOM = 600
"""A formula is evaluated without rescaling if the largest input, to the power 2L, has at most this many bits."""
SPECTRA_LIMIT = 1e300
"""The largest eigenvalue accepted, so that sums of a few stay within float64."""


@dataclass(frozen=True, repr=False)
class Spectrum:
    """Eigenvalues of one imbalance, descending, each given as an interval.

    The interval covers the error from rounding or drift. A bound uses the end that makes it smaller. The formulas for
    two layers also take several imbalances at once, along further axes.
    """

    lower: Array
    upper: Array

    def __repr__(self) -> str:
        return (
            f"Spectrum({plural(self.size, 'eigenvalue')}, {float(self.lower[-1]):.4g} to {float(self.upper[0]):.4g})"
        )

    def negated(self) -> Spectrum:
        """Return the spectrum of `−D`."""
        return self._negated

    @cached_property
    def _negated(self) -> Spectrum:
        flip = namespace(self.lower).flip
        return Spectrum(-flip(self.upper, axis=0), -flip(self.lower, axis=0))

    def at_least(self, k: int) -> Array:
        """Return a lower bound on `[λ_k]_+`; 0 if k exceeds the size."""
        return positive_part(self.lower, k)

    def at_most(self, k: int = 1) -> Array:
        """Return an upper bound on `[λ_k]_+`; 0 if k exceeds the size."""
        return positive_part(self.upper, k)

    @property
    def size(self) -> int:
        """Number of eigenvalues, the width of the layer."""
        return self.lower.shape[0]

    @property
    def zero(self) -> Array:
        """A 0-d zero of the same array kind."""
        return self.lower[0] * 0.0

    def times(self, factor: float) -> Spectrum:
        """Return the spectrum of `factor · D`, `factor > 0`."""
        return Spectrum(self.lower * factor, self.upper * factor)


@dataclass(frozen=True, repr=False)
class Invariants:
    """The imbalance spectra of a network and the range of its product's singular values: the inputs of every bound.

    Attributes:
        widths: `(h_0, …, h_L)`.
        spectra: the spectra of `D_1, …, D_{L-1}`.
        sigma_min: a lower bound on `σ_min(W_1 ⋯ W_L)`, without the output scale; 0-d, or 1-D for several at once.
        sigma_next: a lower bound on the next larger singular value, of the same shape; inf if there is none.
        sigma_max: an upper bound on `‖W_1 ⋯ W_L‖`, of the same shape.
        size: `max_l ‖W_l‖_F²`.
        allowance: bound on the error of an eigenvalue of an imbalance.
        sigma_min_most: an upper bound on σ_min(W), of the shape of `sigma_min`; None if only `sigma_max` is one.
    """

    widths: tuple[int, ...]
    spectra: tuple[Spectrum, ...]
    sigma_min: Array
    sigma_next: Array
    sigma_max: Array
    size: float
    allowance: float
    sigma_min_most: Array | None = None

    @classmethod
    def of(cls, network: Network) -> Invariants:
        """Collect the invariants of a network.

        `W_lᵀW_l` is computed to within a few `ε √h ‖W_l‖_F²`, and its eigenvalues inherit that error (Weyl). The
        allowance is `16 √(max h) (ε max ‖W_l‖_F² + 2⁻¹⁰²²)`, so rounding is never taken for imbalance. The term
        2⁻¹⁰²² is there because smaller squares lose digits. Lower bounds on singular values are reduced by
        `16 ε L Π ‖W_l‖_F`, and the upper bound on the largest is raised by it.
        """
        size = max(network.sizes) ** 2
        allowance = 16 * math.sqrt(max(network.widths)) * (EPS * size + SMALLEST_NORMAL)
        values = [imbalance_eigenvalues(network, l) for l in range(1, network.depth)]
        spectra = tuple(Spectrum(v - allowance, v + allowance) for v in values)
        sigmas = singular_values(network.product()) / network.scale
        slack = 16 * EPS * network.depth * network.magnitude() / network.scale
        low = maximum(sigmas - slack, sigmas * 0.0)
        following = low[-2] if low.shape[0] > 1 else low[-1] * 0.0 + math.inf
        high = sigmas + slack
        return cls(network.widths, spectra, low[-1], following, high[0], size, allowance, high[-1])

    def __repr__(self) -> str:
        return f"Invariants({'×'.join(map(str, self.widths))}, {', '.join(map(repr, self.spectra))})"

    def at(self, sigma_min: Any, sigma_max: Any, sigma_next: Any = None, most: Any = None) -> Invariants:
        """Return the same imbalances with other bounds on singular values, 0-d or 1-D; `σ_min ≤ most`, `σ_next`."""
        zero = self.spectra[0].zero if self.spectra else self.sigma_min * 0.0
        if sigma_next is None:
            sigma_next = sigma_min if min(self.n, self.m) > 1 else math.inf
        low, following, high, most = (
            x if x is None else zero + (from_numpy(x, zero) if is_numpy(x) else x)
            for x in (sigma_min, sigma_next, sigma_max, most)
        )
        return replace(self, sigma_min=low, sigma_next=following, sigma_max=high, sigma_min_most=most)

    @classmethod
    def given(
        cls,
        Ds: Sequence[Spectrum],
        n: int,
        m: int,
        sigma_min: Any = 0.0,
        *,
        following: Any = None,
    ) -> Invariants:
        """Return the invariants of given imbalances and singular values, both taken as exact."""
        zero, widths = Ds[0].zero if Ds else np.zeros(()), (n, *(D.size for D in Ds), m)
        return cls(widths, tuple(Ds), zero, zero, zero, 0.0, 0.0).at(sigma_min, math.inf, following)

    @cached_property
    def exponent(self) -> int:
        """The least e with `D_l ≤ 4^e`, `W ≤ 2^{eL}`; 0 if the powers in a formula stay within float64 unscaled."""
        L = self.depth
        ends = (float(to_numpy(end).max()) for D in self.spectra for end in (D.upper[0], -D.lower[-1]))
        largest = max([self.size, *ends])
        sigmas = np.concatenate([to_numpy(x).ravel() for x in (self.sigma_min, self.sigma_next, self.sigma_max)])
        known = float(np.max(sigmas, initial=0.0, where=np.isfinite(sigmas)))
        digits = max(math.log2(max(largest, 5e-324)), 2 / L * math.log2(max(known, 5e-324)))
        return 0 if max(largest, known) == 0 or abs(digits) * 2 * L < ROOM else math.ceil(digits / 2)

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return what several bounds have in common; the first of them computes it."""
        if name not in self.__dict__:
            self.__dict__[name] = compute()
        return self.__dict__[name]

    def times(self, e: int) -> Invariants:
        """Return the invariants after multiplying every layer by `2^e`."""
        square, power = _power(2 * e), self.depth * e
        return replace(
            self,
            spectra=tuple(D.times(square) for D in self.spectra),
            sigma_min=times_power(self.sigma_min, power),
            sigma_next=times_power(self.sigma_next, power),
            sigma_max=times_power(self.sigma_max, power),
            sigma_min_most=None if self.sigma_min_most is None else times_power(self.sigma_min_most, power),
            size=self.size * square,
            allowance=self.allowance * square,
        )

    @property
    def n(self) -> int:
        """Rows of the product."""
        return self.widths[0]

    @property
    def m(self) -> int:
        """Columns of the product."""
        return self.widths[-1]

    @property
    def depth(self) -> int:
        """Number of layers L."""
        return len(self.widths) - 1

    def chain_allowance(self) -> float:
        """Bound on the error of `p'(x)` of a scalar chain if every `d_l` is off by at most the allowance δ.

        Each `c` is off by at most `Lδ`; `∂p'/∂c_j ≤ L·s^{L−2}`, `|dx/dc_j| ≤ 1`, `p'' ≤ L² s^{L−2}`, `s = max w_l²`.
        Homogeneous and balanced matrices use the same bound; the largest error observed there was 1.3 δ s^{L−2}.
        """
        with np.errstate(over="ignore"):
            power = float(np.power(self.size, self.depth - 2))
        return 2 * self.depth**4 * self.allowance * power


@dataclass(frozen=True, repr=False)
class Theorem:
    """A lower bound on `λ_min(T)`, published or our own.

    Attributes:
        name: short name for tables.
        source: where the theorem is stated, with its number.
        citation: key of the reference.
        tightness: "exact" (equals `λ_min(T)`), "tight" (attained by some weights) or "lower".
        hypothesis: returns the reason why the theorem does not apply, or None if it applies.
        formula: the bound for the network without its output scale, at a size whose powers stay within float64.
        null_set: whether the hypotheses hold only on a null set; elsewhere the bound says nothing.
        differentiable: a version with derivatives, for a formula that is evaluated in NumPy and has none. It takes
            the invariants, the same as constants, and a `Follow`. None if the formula itself has derivatives.
        smooth: whether there are derivatives at all; a bound that comes from a search has none.

    All functions are named at module level, so that bounds can be pickled.
    """

    name: str
    source: str
    citation: str
    tightness: str
    hypothesis: Callable[[Invariants], str | None]
    formula: Callable[[Invariants], Array]
    null_set: bool = False
    differentiable: Callable[[Invariants, Invariants, Follow], Array] | None = None
    smooth: bool = True

    def evaluate(self, invariants: Invariants) -> Array:
        """Return the bound for the network without its output scale; see `at_unit_size`."""
        return at_unit_size(self.formula, invariants)

    def __repr__(self) -> str:
        return f"Theorem({self.name!r}, {self.tightness}; {self.source})"

    @property
    def citations(self) -> frozenset[str]:
        """Keys of the references that it rests on."""
        return frozenset({self.citation})


@dataclass(frozen=True, repr=False)
class Bound:
    """One theorem evaluated on one network; `value` is a lower bound on `λ_min(T)`, 0 if it does not apply."""

    theorem: Theorem
    value: Array
    applies: bool
    reason: str

    @property
    def name(self) -> str:
        """Name of the theorem."""
        return self.theorem.name

    @property
    def source(self) -> str:
        """Where the theorem is stated."""
        return self.theorem.source

    @property
    def citations(self) -> frozenset[str]:
        """Keys of the references that it rests on."""
        return frozenset({self.theorem.citation})

    def __float__(self) -> float:
        return float(self.value)

    @property
    def text(self) -> str:
        """The value, formatted for reading; – if the theorem does not apply."""
        values = to_numpy(self.value)
        if not self.applies:
            return "–"
        return f"{float(values):.4g}" if values.ndim == 0 else f"{values.min():.4g} to {values.max():.4g}"

    def __repr__(self) -> str:
        return f"Bound({self.name!r}, {self.text if self.applies else f'does not apply: {self.reason}'})"


def at_unit_size(formula: Callable[[Invariants], Array], invariants: Invariants) -> Array:
    """Return a bound on `λ_min(T)`, evaluated for layers of size 1 if its powers would leave float64.

    Multiplying the layers by s multiplies T by `s^{2L−2}`, so nothing is rounded if s is a power of two. A bound
    above float64 becomes the largest float. One below the normal numbers, which would be rounded, becomes 0.
    """
    e = invariants.exponent
    if e == 0:
        return formula(invariants)
    value = times_power(formula(invariants.times(-e)), 2 * e * (invariants.depth - 1))
    return within_normal(value)


def within_normal(value: Array) -> Array:
    """Return a lower bound as a normal number: values below that range become 0, values above it the largest."""
    xp = namespace(value)
    zeros = xp.zeros_like(value)
    value = xp.where(value < SMALLEST_NORMAL, zeros, value)
    return xp.where(value > LARGEST, zeros + LARGEST, value)


def times_power(value: Array, e: int) -> Array:
    """Return `2^e · value`, in steps that leave float64 only if the result does, and without a warning."""
    with np.errstate(over="ignore", under="ignore"):
        while e:
            step = max(-1000, min(e, 1000))
            value, e = value * 2.0**step, e - step
    return value


def _power(e: int) -> float:
    """Return `2^e`, clipped to the range of float64."""
    return 2.0 ** max(-1074, min(e, 1023))


def spectrum(D: Any, name: str = "D") -> Spectrum:
    """Return the spectrum of a symmetric matrix, or of its eigenvalues (1-D), taken as exact."""
    if is_array(D) and D.ndim == 1:
        values, _ = to_float64(D, name)
        xp = namespace(values)
        if values.shape[0] == 0 or not bool(xp.all(xp.isfinite(values))):
            raise ValueError(f"{name} holds no or non-finite eigenvalues; a finite 1-D array is needed.")
        values = xp.flip(xp.sort(values))
        return _within(Spectrum(values, values), name)
    D, _ = checks.matrix(D, name)
    if D.shape[0] != D.shape[1] or norm(D - D.T) > 1e-10 * norm(D):
        raise ValueError(
            f"{name} ({D.shape[0]}×{D.shape[1]}) is not symmetric; a symmetric matrix, or a 1-D array of its "
            "eigenvalues, is needed."
        )
    values = eigenvalues((D + D.T) / 2)
    return _within(Spectrum(values, values), name)


def _within(D: Spectrum, name: str) -> Spectrum:
    """Return the spectrum; raise if it is too large for sums of eigenvalues to stay within float64."""
    largest = max(abs(float(D.upper[0])), abs(float(D.lower[-1])))
    if not largest <= SPECTRA_LIMIT:
        raise ValueError(
            f"{name} has an eigenvalue of size {largest:.3g}, too close to the limits of float64; rescale it."
        )
    return D


def spectra(Ds: Sequence[Any]) -> list[Spectrum]:
    """Return the spectrum of each of `D_1, …, D_{L-1}`."""
    if not isinstance(Ds, (list, tuple)) or not Ds:
        raise TypeError(f"Ds is {type(Ds).__name__} {Ds!r}; a list [D_1, …, D_{{L-1}}] is needed.")
    return [spectrum(D, f"D_{l}") for l, D in enumerate(Ds, 1)]


def plain(Ds: Sequence[Spectrum]) -> list[Spectrum]:
    """Return the spectra as NumPy arrays."""
    return [D if is_numpy(D.lower) else Spectrum(to_numpy(D.lower), to_numpy(D.upper)) for D in Ds]


def scalar_spectra(d: Sequence[float]) -> list[Spectrum]:
    """Return the spectra of scalar imbalances, taken as exact."""
    values = np.atleast_1d(checks.numbers(d, "d"))
    if values.ndim != 1 or not np.all(np.isfinite(values)):
        raise ValueError(f"d is {d!r}; a sequence of L − 1 finite imbalances is needed.")
    return [spectrum(value.reshape(1), f"d_{l}") for l, value in enumerate(values, 1)]


def rounded(Ds: Sequence[Spectrum], product: Any) -> list[Spectrum]:
    """Widen spectra given as exact by `16 ε` of their own size and of the size of layers with such a product.

    A sum of imbalances rounds at the size of the largest. Results built from small differences would inherit that.
    """
    sizes = [max(abs(float(D.upper[0])), abs(float(D.lower[-1]))) for D in Ds]
    off = 16 * EPS * (sum(sizes) + float(np.max(product)) ** (2 / (len(Ds) + 1)))
    return [Spectrum(D.lower - off, D.upper + off) for D in Ds]


def has_imbalance(inv: Invariants) -> str | None:
    """Hypothesis of every theorem on the imbalance: the network has at least two layers."""
    return None if inv.depth >= 2 else "one layer has no imbalance"
