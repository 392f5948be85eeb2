"""The certified rate as a tensor, so that a start can be improved by gradient ascent on it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

import torch
from linflow._support.arrays import detach, eigenvalues, singular_values, to_numpy
from linflow.bounds import THEOREMS, Invariants, Theorem
from linflow.bounds._base import Spectrum, plain, times_power
from linflow.certificates.margin import product_range
from linflow.model.network import Network
from linflow.model.objectives import Objective
from torch import Tensor

_AHEAD = 1e-9


def certified_rate(objective: Objective, network: Network | Sequence[Any]) -> Tensor:
    """Return the rate `γ α(D, margin)` certified by the best bound, differentiable in the weights.

    The value is the largest `rate` among the rows of `certify` that bound `λ_min(T)`: the rate that the start
    certifies from its imbalance and the margin `[σ_min(W*) − sqrt(2ℓ/μ)]_+`. `certify(…).rate` is larger only if the
    lazy regime, or the envelope with it, gives more.

    Derivatives exist, and agree with difference quotients, if the relevant eigenvalues of the imbalances are simple
    and a single bound is the best. They are exact for layers of any size; the allowance for rounding is treated as a
    constant. There are no second derivatives.

    *Points without a derivative.* At a repeated eigenvalue the rate has a kink. The derivative returned there is
    finite, but it depends on an arbitrary basis of eigenvectors and nothing is guaranteed about it: perturb the
    weights, or check that each step raises the rate. Exact results for balanced and homogeneous layers hold on a null
    set. If such a result exceeds all other bounds, it is the value, the derivative is 0, and a warning says so. If no
    bound certifies a rate, value and derivative are 0.

    Args:
        objective: the function to minimise, γ > 0, on tensors; its data are constants.
        network: a `Network` or its weights. Derivatives reach the weights if these are float64 tensors.

    Returns:
        A 0-d float64 tensor on the device of the weights; 0 if no bound certifies a rate.

    Raises:
        TypeError: the weights are not tensors.
        ValueError: objective and network do not fit.

    Source: this library; each bound names its own source.

    Example:
        >>> import torch, linflow as lf, linflow.torch
        >>> weights = [W.requires_grad_() for W in lf.init.gaussian((2, 4, 1), rng=0, like=torch.ones(1)).weights]
        >>> rate = linflow.torch.certified_rate(lf.MatrixFactorization(torch.ones(2, 1)), weights)
        >>> rate.backward()
        >>> [tuple(W.grad.shape) for W in weights]
        [(2, 4), (4, 1)]
    """
    net = Network.of(network)
    if not all(isinstance(W, Tensor) for W in net.weights):
        kind = type(net.weights[0]).__name__
        raise TypeError(f"the weights are of type {kind}; tensors are needed. certify takes arrays of any kind.")
    objective.check_network(net)
    seen, net = objective.effective(net)
    zero = torch.stack([W[0, 0] for W in net.weights]).sum() * 0.0
    if seen.pl_constant == 0:
        return zero
    if net.depth == 1:
        return zero + seen.pl_constant * net.scale**2
    low, following, high = _product_range(seen, net)
    fixed, c = Invariants.of(net.detach()), net.scale
    fixed = fixed.at(*(detach(x) / c if isinstance(x, Tensor) else x for x in (low, high, following)))
    # Only the best bound gets a graph: a non-finite derivative of another one would spoil the result. A bound without
    # derivative must exceed the others by more than rounding, and the result of a search is left out.
    best, theorem, known = 0.0, None, _as_numpy(fixed)
    for candidate in sorted((t for t in THEOREMS if t.smooth), key=lambda t: t.null_set):
        ahead = 1 + _AHEAD if candidate.null_set else 1.0
        if candidate.hypothesis(known) is None and (value := float(candidate.evaluate(known))) > ahead * best:
            best, theorem = value, candidate
    if theorem is None:
        return zero
    if not (torch.is_grad_enabled() and any(W.requires_grad for W in net.weights)):
        return zero + seen.pl_constant * c**2 * best
    if theorem.null_set:
        warnings.warn(
            f'the best bound, "{theorem.name}", holds for these layers but not beside them, so the rate has no '
            "derivative here and 0 is given for it; perturb the weights (of the size of 1e-3 of theirs, say).",
            UserWarning,
            stacklevel=2,
        )
    spectra = [_spectrum(A, B, fixed.allowance) for A, B in pairwise(net.weights)]
    invariants = replace(fixed, spectra=tuple(spectra)).at(low / c, high / c, following / c)
    return zero + seen.pl_constant * c**2 * _evaluate(theorem, invariants, fixed)


def _as_numpy(fixed: Invariants) -> Invariants:
    """Return the same numbers as NumPy arrays, in which every bound is found several times as fast."""
    names = ("sigma_min", "sigma_next", "sigma_max", "sigma_min_most")
    arrays = {name: None if (x := getattr(fixed, name)) is None else to_numpy(x) for name in names}
    return replace(fixed, spectra=tuple(plain(fixed.spectra)), **arrays)


def _spectrum(A: Tensor, B: Tensor, allowance: float) -> Spectrum:
    """Return the spectrum of an imbalance from the whole matrix; a QR has no derivative at dependent columns."""
    values = eigenvalues(A.T @ A - B @ B.T)
    return Spectrum(values - allowance, values + allowance)


def _product_range(objective: Objective, network: Network) -> tuple[Tensor, Tensor | float, Tensor | float]:
    """Return `product_range` at the gap of the network, as tensors that follow the weights."""
    zero = network.weights[0][0, 0] * 0.0
    single = min(network.shape) == 1
    if objective.strong_convexity == 0 or objective.minimizer is None:
        return zero, math.inf if single else zero, math.inf
    gap, mu = _gap(objective, network), objective.strong_convexity
    sigmas = singular_values(detach(objective.minimizer))
    # The part of the reach that allows for rounding does not depend on the gap.
    spare = float(product_range(objective, network.detach(), to_numpy(gap.detach()).reshape(1))[2][0])
    spare = max(spare - float(sigmas[0]) - math.sqrt(2 * max(float(gap.detach()), 0.0) / mu), 0.0)
    positive = gap > 0
    reach = torch.where(positive, torch.sqrt(2 * torch.where(positive, gap, zero + 1.0) / mu), zero) + spare
    following = math.inf if single else torch.clamp(sigmas[-2] - reach, min=0.0)
    return torch.clamp(sigmas[-1] - reach, min=0.0), following, sigmas[0] + reach


def _gap(objective: Objective, network: Network) -> Tensor:
    """Return the loss gap; its derivative comes from the objective's gradient."""
    W = network.product()
    fixed = W.detach()
    return objective.gap(fixed) + torch.sum(detach(objective.gradient(fixed)) * (W - fixed))


def _evaluate(theorem: Theorem, invariants: Invariants, fixed: Invariants) -> Tensor:
    """Return the bound, with its derivatives."""
    if e := fixed.exponent:  # powers would leave the range of float64
        unit = _evaluate(theorem, invariants.times(-e), fixed.times(-e))
        return times_power(unit, 2 * e * (invariants.depth - 1))
    if theorem.null_set:
        return theorem.evaluate(fixed)
    if theorem.differentiable is None:
        return theorem.evaluate(invariants)
    return theorem.differentiable(invariants, fixed, partial(_follow, device=invariants.sigma_min.device))


def _follow(excess: Callable[[Tensor], Tensor], root: np.ndarray, device: torch.device) -> Tensor:
    """Return the root x of `F(x, θ) = 0`, found without derivatives, with `dx = −(∂F/∂θ dθ)/(∂F/∂x)`."""
    x = torch.tensor(float(root), dtype=torch.float64, device=device)
    with torch.enable_grad():
        free = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(excess(free), free)
    value = excess(x)
    return x - (value - value.detach()) / slope
