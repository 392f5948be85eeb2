"""Limits of wide, lazy and vanishing starts: Du & Hu, Jacot, Chizat, Stöger, Li (greedy), Li (sparse); and descent.

Most of them are statements about a limit, with constants that no paper names. Such a row never applies. Its reason
and `facts` give what it predicts here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from linflow._support.arrays import norm, sigma, singular_values, to_numpy
from linflow.certificates._base import Guarantee
from linflow.certificates.prior._rows import no_squared_loss, not_deep, not_white, on_descent, row
from linflow.certificates.prior.modes import aligned_modes
from linflow.certificates.setting import Setting

SMALL = 0.1
"""A start counts as small if the size of its layers, relative to those of the solution, is below this."""


def duhu2019(setting: Setting) -> Guarantee:
    """Return the row of Du & Hu 2019, for a width of order `L r κ³ m` and a Gaussian draw.

    Descent then converges, with high probability over the draw.
    """
    reason, facts = no_squared_loss(setting), {}
    if not reason:
        kappa = setting.objective.smoothness / setting.objective.strong_convexity
        asked = setting.depth * setting.n * kappa**3 * setting.m
        facts = {"κ": kappa, "width asked": asked, "width": setting.narrowest}
        reason = (
            f"it is for a Gaussian draw, not for given weights: it needs a width of order L r κ³ m = {asked:.3g}, "
            f"with a constant that the paper leaves open; the smallest width here is {setting.narrowest}"
        )
    return row(setting, "Du & Hu 2019", "Du & Hu 2019, width of order L r κ³ m", ["duhu2019"], reason, **facts)


def jacot2018(setting: Setting) -> Guarantee:
    """Return the row of Jacot et al. 2018: at infinite width T does not change, and the rate is `γ λ_min(T(0))`."""
    facts, then = {"width": float(setting.narrowest)}, ""
    if setting.gamma > 0 and (setting.depth == 2 or setting.n * setting.m <= 64):
        rate = setting.gamma * max(0.0, float(setting.tangent.least_eigenvalue()))
        facts["rate if T stayed"] = rate
        then = f"; if T did not change, the rate would be {rate:.3g}"
    reason = f"it is for infinite width, but the smallest width here is {setting.narrowest}{then}"
    return row(
        setting, "Jacot et al. 2018", "Jacot, Gabriel & Hongler 2018, infinite width", ["jacot2018"], reason, **facts
    )


def chizat2019(setting: Setting, guarantees: Sequence[Guarantee] = ()) -> Guarantee:
    """Return the row of Chizat et al. 2019: the guarantee of the certificate for the lazy regime.

    Weights that need not move far keep their T.
    """
    lazy = next((g for g in guarantees if "chizat2019" in g.citation), None)
    source = "Chizat, Oyallon & Bach 2019, with the constants of docs/theory.md"
    facts = {}
    if lazy is None:
        outcome = (
            "it is for the flow, but this certificate is for descent"
            if setting.algorithm == "descent"
            else "the objective has no gradient dominance"
        )
    elif lazy.curve is None:
        outcome = lazy.reason
    else:
        outcome = lazy.curve
        size = math.hypot(*(norm(W) for W in setting.network.weights))
        facts = {**lazy.facts, "relative motion": lazy.facts["radius"] / size} if "radius" in lazy.facts else {}
    return row(setting, "Chizat et al. 2019", source, ["chizat2019"], outcome, **facts)


def stoger2021(setting: Setting) -> Guarantee:
    """Return the row of Stöger & Soltanolkotabi 2021, for two layers from a small random start.

    After an alignment phase, the modes are learned one after the other, at `log(1/α)/σ_i`.
    """
    facts, reason = {}, not_deep(setting, 2) or no_squared_loss(setting)
    if not reason:
        facts, reason = _vanishing(setting, "a small random symmetric start")
    source = "Stöger & Soltanolkotabi 2021, small random start"
    return row(setting, "Stöger & Soltanolkotabi 2021", source, ["stoger2021"], reason, **facts)


def li2021greedy(setting: Setting) -> Guarantee:
    """Return the row of Li, Luo & Lyu 2021, for a vanishing start: greedy low-rank learning.

    The modes are learned one after the other; `_vanishing` gives the times.
    """
    facts, reason = _vanishing(setting, "a vanishing start")
    source = "Li, Luo & Lyu 2021, greedy low-rank learning"
    return row(setting, "Li, Luo & Lyu 2021", source, ["li2021glrl"], reason, **facts)


def li2021sparse(setting: Setting) -> Guarantee:
    """Return the row of Li, Nguyen, Hegde & Wong 2021, for diagonal layers and a vanishing start α.

    It takes on the order of `α^{−(L−2)}` iterations, with early stopping.
    """
    facts, reason = {}, no_squared_loss(setting)
    if not reason:
        layers = [to_numpy(W) for W in setting.network.weights]
        diagonal = len(set(setting.network.widths)) == 1 and all(
            np.array_equal(W, np.diag(np.diag(W))) for W in layers
        )
        if not diagonal:
            reason = "it is for diagonal networks, and a layer has entries off the diagonal"
        else:
            facts, reason = _vanishing(setting, "a vanishing diagonal start")
    source = "Li, Nguyen, Hegde & Wong 2021, diagonal networks"
    return row(setting, "Li, Nguyen, Hegde & Wong 2021", source, ["li2021sparse"], reason, **facts)


def xu(setting: Setting, guarantees: Sequence[Guarantee], year: int) -> Guarantee:
    """Return the row of Xu et al. 2023 or 2025: the guarantee for two layers of a certificate for descent."""
    key = f"xu{year}"
    loss = "squared loss" if year == 2023 else "general loss"
    source = f"Xu, Min, Tarmoun, Mallada & Vidal {year}, two layers, {loss}"
    name, facts = f"Xu et al. {year}", {}
    best = on_descent(setting, guarantees, key)
    if best is None:
        outcome = not_deep(setting, 2) or (no_squared_loss(setting) if year == 2023 else "")
        outcome = outcome or 'it is for gradient descent; use certify(…, algorithm="descent")'
    else:
        outcome, facts = best.curve or best.reason, best.facts
    return row(setting, name, source, [key], outcome, **facts)


def _vanishing(setting: Setting, what: str) -> tuple[dict[str, float], str]:
    """Return the times that a limit of small starts predicts, and the reason why they are not a bound.

    Let the layers have size α, with the output scale c divided among them. For L = 2, mode i of `−∇f(0)`, of size
    σ_i, grows like `α e^{σ_i t}`, whatever the start, and is learned at `log(1/α)/σ_i`. For L ≥ 3 every part of the
    start matters. Layers aligned with W* (and K = μ) are chains `w_l² = y + w_l(0)²` with `ẏ = 2cσ_i Π|w_l|`, which
    leave 0 at `∫_0^∞ dy/Π_l sqrt(y + w_l(0)²)/(2cσ_i)`. If they are balanced, this is `α_i^{2−L}/((L−2)cσ_i)` with
    the weights α_i of the mode. Other starts satisfy `d‖W_l‖/dt ≤ cσ_1 Π_{k≠l} ‖W_k‖` while they are small, so none
    leaves 0 before `α^{2−L}/((L−2)σ_1)`.
    """
    L, f = setting.depth, setting.objective
    share = setting.scale ** (1 / L)
    alpha = share * max(float(singular_values(W)[0]) for W in setting.network.weights)
    slopes = to_numpy(singular_values(f.gradient(0.0 * setting.product)))
    solution = 1.0 if f.minimizer is None else float(sigma(f.minimizer, 1)) ** (1 / L)
    if solution == 0:
        return {"α": alpha}, "W* = 0, so there is nothing to learn"
    ratio = alpha / solution
    facts = {"α": alpha, "α relative": ratio}
    if ratio == 0:
        return facts, "the layers are 0, and the flow never leaves 0"
    if ratio >= SMALL:
        size = f"the layers here are {ratio:.2g} times the size of the solution's"
        return facts, f"it is for {what}, and {size}; scale the start down (below {SMALL:g})"
    slopes = slopes[slopes > 1e-12 * slopes[0]]

    head = f"it is for {what} in the limit and gives no bound for this start; "
    if L == 2:
        times, law = math.log(1 / ratio) / (share**2 * slopes), "t ≈ log(1/α)/σ"
    else:
        times, law = _escapes(setting), "t ≈ ∫ dy/Π sqrt(y + w_l²)/(2cσ)"
    if times is None:
        earliest = math.exp(min((2 - L) * math.log(alpha), 600.0)) / ((L - 2) * share**2 * float(slopes[0]))
        law = "1/(ασ)" if L == 3 else f"1/({L - 2} α^{L - 2} σ)"
        return facts | {"no mode before": earliest}, head + (
            f"layers of this size learn no mode before t ≈ {law} = {earliest:.3g}; when they learn one depends on "
            "how they are aligned, with each other and with W* (init.spectral makes layers that are)"
        )
    facts |= {"first mode": float(np.min(times)), "last mode": float(np.max(times))}
    return facts, head + (
        f"it predicts {law} = {facts['first mode']:.3g} for the first mode, {facts['last mode']:.3g} for the last"
    )


def _escapes(setting: Setting) -> np.ndarray | None:
    """Return the time when each mode of small layers aligned with W* leaves 0; None for other starts.

    The time is `∫_0^∞ dy/Π_l sqrt(y + w_l²)/(2cσ)`, computed in `z = log y` by the trapezoidal rule. The integrand
    falls exponentially.
    """
    found = "white" if not_white(setting) else aligned_modes(setting)
    if isinstance(found, str):
        return None
    keep = found.modes.target > 1e-12 * np.max(found.modes.target)
    squares, slopes = found.modes.weights[:, keep] ** 2, setting.objective.smoothness * found.modes.target[keep]
    if np.any(np.prod(np.sign(found.modes.weights[:, keep]), axis=0) <= 0):  # these pass the saddle or stay at it
        return None
    logs = np.log(squares)
    step, times = 0.02, []
    for each in logs.T:
        z = np.arange(each.min() - 40.0, each.max() + 80.0, step)
        heights = z - 0.5 * np.sum(np.logaddexp(z[:, None], each), axis=1)
        times.append(0.5 * step * np.sum(np.exp(heights)))
    return np.array(times) / (setting.scale * slopes)
