"""What a lower bound on `λ_min(T)` may use, and what a published result is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from linflow import _checks
from linflow._arrays import Array, eigenvalues, is_array, namespace, norm, sigma, to_float64
from linflow.imbalance import imbalance_eigenvalues, positive_part
from linflow.network import Network


@dataclass(frozen=True)
class Invariants:
    """The imbalance spectra of a network and a lower bound on `σ_min(W)`: all that a bound may look at.

    Attributes:
        widths: `(h_0, …, h_L)`.
        spectra: eigenvalues of `D_1, …, D_{L-1}`, each descending.
        sigma_min: a lower bound on `σ_min(W_1 ⋯ W_L)`, without the output scale.
        size: `max_l ‖W_l‖_F²`, against which an eigenvalue is told from rounding.
    """

    widths: tuple[int, ...]
    spectra: tuple[Array, ...]
    sigma_min: Array
    size: float

    @classmethod
    def of(cls, network: Network, sigma_min: Any = None) -> Invariants:
        """Collect the invariants of a network; `sigma_min` of its own product unless another floor is given."""
        if sigma_min is None:
            W = network.product() / network.scale
            sigma_min = sigma(W, min(network.shape))
        spectra = tuple(imbalance_eigenvalues(network, l) for l in range(1, network.depth))
        size = max(norm(W) for W in network.weights) ** 2
        return cls(network.widths, spectra, sigma_min, size)

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

    @property
    def zero(self) -> Array:
        """A 0-d zero of the array kind in use."""
        return (self.spectra[0][0] if self.spectra else self.sigma_min) * 0.0


@dataclass(frozen=True)
class Theorem:
    """A published (or our own) lower bound on `λ_min(T)`.

    Attributes:
        name: short name for tables.
        source: where it is stated, with the number of the theorem.
        citation: key of the BibTeX entry.
        tightness: "exact" (equals `λ_min(T)`), "tight" (attained by some weights) or "lower".
        hypothesis: returns why it does not apply, None when it does.
        evaluate: the bound, for the unscaled network.
    """

    name: str
    source: str
    citation: str
    tightness: str
    hypothesis: Callable[[Invariants], str | None]
    evaluate: Callable[[Invariants], Array]


@dataclass(frozen=True)
class Bound:
    """One theorem evaluated on one network; `value` is a lower bound on `λ_min(T)`, 0 when it does not apply."""

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


def spectrum(D: Any, name: str = "D") -> Array:
    """Return eigenvalues in descending order from a symmetric matrix or from the eigenvalues themselves."""
    if is_array(D) and D.ndim == 1:
        values, _ = to_float64(D, name)
        xp = namespace(values)
        if values.shape[0] == 0 or not bool(xp.all(xp.isfinite(values))):
            raise ValueError(f"{name} holds no or non-finite eigenvalues; a finite 1-D array is needed.")
        return xp.flip(xp.sort(values))
    D, _ = _checks.matrix(D, name)
    if D.shape[0] != D.shape[1]:
        raise ValueError(
            f"{name} is {D.shape[0]}×{D.shape[1]}; a symmetric matrix, or a 1-D array of its eigenvalues, is needed."
        )
    return eigenvalues((D + D.T) / 2)


def spectra(Ds: Sequence[Any]) -> list[Array]:
    """Return the eigenvalues of each of `D_1, …, D_{L-1}`."""
    if not isinstance(Ds, (list, tuple)):
        raise TypeError(f"Ds is a {type(Ds).__name__}; a list [D_1, …, D_{{L-1}}] is needed.")
    return [spectrum(D, f"D_{l}") for l, D in enumerate(Ds, 1)]


def largest_part(values: Array, k: int = 1) -> Array:
    """Return `[λ_k(D)]_+`."""
    return positive_part(values, k)


def negative_part(values: Array, k: int = 1) -> Array:
    """Return `[λ_k(−D)]_+`."""
    return positive_part(-namespace(values).flip(values), k)


def maximum(*values: Array) -> Array:
    """Return the largest of 0-d arrays, differentiably."""
    best = values[0]
    for value in values[1:]:
        best = namespace(best).where(value > best, value, best)
    return best


def has_imbalance(inv: Invariants) -> str | None:
    """Hypothesis of every theorem on the imbalance: there are two layers at least."""
    return None if inv.depth >= 2 else "one layer has no imbalance"
