"""How far T moves from where it was, and where it is at infinite width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import detach, to_numpy
from linflow.model.network import Network


def tangent_change(network: Network | Sequence[Any], start: Network | Sequence[Any]) -> float:
    """Return `‖T − T_0‖_F/‖T_0‖_F`, the relative change of the operator T between two networks of equal depth.

    It is small in the lazy regime, where the model stays nearly linear in its weights. T is a sum of Kronecker
    products, and so is the difference: `A⊗B − A_0⊗B_0 = (A − A_0)⊗B + A_0⊗(B − B_0)`. With
    `⟨A⊗B, C⊗D⟩ = ⟨A, C⟩⟨B, D⟩` the norms need no matrix of size nm, and small changes do not cancel.

    Args:
        network: the network now.
        start: the network at the start, with products of the same shape; the hidden widths may differ.

    Returns:
        The relative change; 0 if both T are 0, inf if only that of the start is.

    Raises:
        ValueError: the depths or the shapes of the products differ.

    Source: Chizat, Oyallon & Bach 2019 (relative change of the differential), here of `T = J Jᵀ`.

    Example:
        >>> import numpy as np, linflow as lf
        >>> start = [np.eye(2), np.eye(2)]
        >>> round(lf.tangent_change([1.1 * np.eye(2), 1.1 * np.eye(2)], start), 12)
        0.21
    """
    now, first = Network.of(network), Network.of(start)
    if (now.depth, now.shape) != (first.depth, first.shape):
        raise ValueError(
            f"the networks have {now.depth} and {first.depth} layers and products of shape {now.shape} and "
            f"{first.shape}; two states of one model are needed."
        )
    moved, kept = _terms(now), _terms(first)
    change = [(A - A_0, B) for (A, B), (A_0, _) in zip(moved, kept, strict=True)]
    change += [(A_0, B - B_0) for (_, B), (A_0, B_0) in zip(moved, kept, strict=True)]
    size, difference = _norm(kept), _norm(change)
    return difference / size if size > 0 else math.inf if difference > 0 else 0.0


def _terms(network: Network) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return `(c²P_{l−1}P_{l−1}ᵀ, S_{l+1}ᵀS_{l+1})` of every layer, divided by a common power of the scale."""
    n, m = network.shape
    found = []
    for P, S in zip(network.prefixes(), network.suffixes(), strict=True):
        left = np.eye(n) if P is None else to_numpy(detach(P @ P.T))
        right = np.eye(m) if S is None else to_numpy(detach(S.T @ S))
        found.append((network.scale**2 * left, right))
    return found


def _norm(terms: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the Frobenius norm of a sum of Kronecker products."""
    lefts, rights = (np.array([pair[i].ravel() for pair in terms]) for i in (0, 1))
    return math.sqrt(max(float(np.sum((lefts @ lefts.T) * (rights @ rights.T))), 0.0))


@dataclass(frozen=True)
class LimitKernel:
    """The operator T of a random start, on average and at infinite width.

    Attributes:
        eigenvalue: τ, so that `E T = τI` at every width.
        deviation: an upper bound on `sqrt(E‖T − τI‖_F²)/(τ sqrt(nm))`, the relative distance of T to its mean.
        terms: the part of τ that each layer contributes.
    """

    eigenvalue: float
    deviation: float
    terms: tuple[float, ...]


def limit_kernel(
    widths: Sequence[int], std: float | Sequence[float] = 1.0, *, scale: float | None = None
) -> LimitKernel:
    """Return the mean of T over independent `N(0, s_l²)` layers, which is its limit as the widths grow.

    `E T = τI` at every width, with

        `τ = c² Σ_l Π_{k<l} s_k²h_k Π_{k>l} s_k²h_{k−1}`.

    For N(0, 1) entries and `c = 1/sqrt(h_1⋯h_{L−1})` (`init.ntk`), τ is the number of layers L: the neural tangent
    kernel of a linear network of depth L on inputs X is `L XXᵀ ⊗ I`. The distance to it falls like `h^{−1/2}`:

        `sqrt(E‖T − τI‖_F²) ≤ Σ_l τ_l sqrt(a_{l−1} b_{l+1} − nm)`,

    where `a_l = E tr(M_l²)` and `b_l` belong to the normalised Gram matrices `M_l = P_lP_lᵀ/Π_{k≤l} s_k²h_k` of the
    prefixes and of the suffixes. They follow from `a ← a + (a + a')/h`, `a' ← a' + 2a/h` with `a' = E(tr M)²`,
    one hidden width after the other.

    Args:
        widths: `(h_0, …, h_L)`.
        std: `s`, one number or one for each layer.
        scale: the output scale c; `1/sqrt(h_1⋯h_{L−1})` if not given.

    Source: Jacot, Gabriel & Hongler 2018; Arora et al. 2019 (exact computation); mean and deviation at finite width:
        this library, docs/theory.md, section 10.

    Example:
        >>> import linflow as lf
        >>> lf.limit_kernel((20, 1000, 1000, 5)).eigenvalue
        3.0
        >>> round(lf.limit_kernel((2, 100, 1)).deviation, 6)
        0.157313
    """
    widths = checks.widths(widths)
    L = len(widths) - 1
    stds = [std] * L if isinstance(std, (int, float)) else list(std)
    if len(stds) != L:
        raise ValueError(f"std has {len(stds)} numbers, but there are {L} layers; give one, or one for each layer.")
    squares = [checks.positive(s, "std") ** 2 for s in stds]
    c = 1 / math.sqrt(math.prod(widths[1:-1])) if scale is None else checks.positive(scale, "scale")
    terms = tuple(
        c**2
        * math.prod(squares[k] * widths[k + 1] for k in range(l))
        * math.prod(squares[k] * widths[k] for k in range(l + 1, L))
        for l in range(L)
    )
    n, m, hidden = widths[0], widths[-1], widths[1:-1]
    lefts, rights = _second_moments(n, hidden), _second_moments(m, hidden[::-1])[::-1]
    away = sum(tau * math.sqrt(max(a * b - n * m, 0.0)) for tau, a, b in zip(terms, lefts, rights, strict=True))
    total = math.fsum(terms)
    return LimitKernel(total, away / (total * math.sqrt(n * m)), terms)


def _second_moments(side: int, hidden: Sequence[int]) -> list[float]:
    """Return `E tr(M_l²)` of the normalised Gram matrices after 0, 1, … hidden layers.

    `M_l` is a Wishart matrix with h degrees of freedom around `M_{l−1}`, divided by h:
    `E tr(M_l²) = E[tr(M²) + (tr(M²) + (tr M)²)/h]` and `E(tr M_l)² = E[(tr M)² + 2 tr(M²)/h]`, with `M = M_{l−1}`.
    """
    a, b = float(side), float(side * side)
    found = [a]
    for h in hidden:
        a, b = a + (a + b) / h, b + 2 * a / h
        found.append(a)
    return found
