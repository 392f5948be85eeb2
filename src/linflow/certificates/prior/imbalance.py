"""Rates from the imbalance and the margin: Arora et al. 2018 and 2019, Yun et al. 2021, Min et al. 2021 and 2023."""

from __future__ import annotations

import math
from collections.abc import Sequence

from linflow._support.arrays import norm, to_numpy
from linflow.certificates._base import Guarantee
from linflow.certificates.curves import Curve
from linflow.certificates.prior._rows import (
    bounds_at_margin,
    no_dominance,
    no_margin,
    no_squared_loss,
    not_deep,
    not_white,
    on_descent,
    row,
)
from linflow.certificates.setting import Setting


def arora2018(setting: Setting) -> Guarantee:
    """Return the row of Arora et al. 2018: a rate for balanced layers.

    They follow the end-to-end flow `Ẇ = −c^{2/L} Σ_j [WWᵀ]^{(L−j)/L} ∇f [WᵀW]^{(j−1)/L}`. Its preconditioner is at
    least `L σ_min^{2−2/L}` for n = m and `σ_min^{2−2/L}` for n ≠ m, which gives a rate at the margin. The paper
    states the flow; the rate follows from it.
    """
    outcome: float | str = _not_balanced(setting) or no_dominance(setting)
    if not outcome:
        rate = setting.gamma * (setting.depth if setting.n == setting.m else 1) * _balanced_floor(setting)
        outcome = rate if rate > 0 else no_margin(setting)
    source = "Arora, Cohen & Hazan 2018, Theorem 1 (end-to-end flow), at the margin"
    return row(setting, "Arora et al. 2018", source, ["arora2018"], outcome, margin=setting.margin_by_distance)


def arora2019(setting: Setting, guarantees: Sequence[Guarantee] = ()) -> Guarantee:
    """Return the row of Arora et al. 2019, for approximately balanced layers with a deficiency margin.

    The margin is `c = σ_min(Φ) − ‖W(0) − Φ‖_F > 0`. For balanced layers, `σ_min(W) ≥ c` along the flow and
    `λ_min(T) ≥ c^{2−2/L}` for every n and m, so the rate is `2c^{2−2/L}`. If
    `‖D_l‖_F ≤ c²/(256 L³ ‖Φ‖_F^{2−2/L})`, the theorem on descent with step η → 0 gives half of that rate. An output
    scale s is the same as layers `s^{1/L}` times as large, in the time `s^{2/L} t`.
    """
    L, c = setting.depth, setting.margin_by_distance
    speed = setting.scale ** (2 / L)
    outcome: float | Curve | str = not_white(setting) or setting.too_narrow
    facts = {}
    if not outcome and c == 0:
        outcome = no_margin(setting)
    elif not outcome:
        size = norm(setting.objective.minimizer)
        allowed = (c / size) ** 2 * size ** (2 / L) / (256 * L**3)
        delta = speed * max(_frobenius(D) for D in setting.invariants.spectra)
        facts = {"deficiency margin": c, "δ": delta, "δ allowed": allowed}
        if setting.imbalance == 0:
            outcome = setting.gamma * _balanced_floor(setting) or no_margin(setting)
        elif delta <= allowed:
            outcome = 0.5 * setting.gamma * speed * c ** (2 - 2 / L)
        else:
            outcome = (
                f"the layers are not balanced enough: max ‖D_l‖_F = {delta:.3g}, where the theorem allows "
                f"{allowed:.3g}; balance them (init.balanced)"
            )
    source = "Arora, Cohen, Golowich & Hu 2019, Theorem 1"
    if (descent := on_descent(setting, guarantees, "arora2019convergence")) is not None:
        outcome, facts = descent.curve or descent.reason, descent.facts
    else:
        source += ", for steps η → 0"
    return row(setting, "Arora et al. 2019", source, ["arora2019convergence"], outcome, **facts)


def yun2021(setting: Setting) -> Guarantee:
    """Return the row of Yun et al. 2021: a rate for ordered imbalance.

    If `D_l ⪰ 0` for l < L − 1 and `λ_n(D_{L−1}) ≥ λ > 0`, the rate is `γ λ^{L−1}`. The mirror image also works.
    The paper assumes one output and `D_{L−1} ⪰ λI`; neither is needed. It is the bound for unimodal imbalance with
    every partial sum replaced by λ.
    """
    Ds, L = setting.invariants.spectra, setting.depth
    outcome: float | str = no_squared_loss(setting)
    facts = {}
    if not outcome:
        right = all(float(D.upper[-1]) >= 0 for D in Ds[:-1]), float(Ds[-1].at_least(setting.n))
        left = all(float(D.lower[0]) <= 0 for D in Ds[1:]), float(Ds[0].negated().at_least(setting.m))
        value = max((x for holds, x in (right, left) if holds), default=0.0)
        # For L ≥ 3 the signs hold only up to rounding, and the cost of that is subtracted.
        floor = value ** (L - 1) - (setting.invariants.chain_allowance() if L > 2 else 0.0)
        facts = {"λ": value}
        if floor > 0:
            outcome = setting.gamma * setting.scale**2 * floor
        elif not (right[0] or left[0]):
            outcome = (
                "the imbalance is not ordered: it needs D_l ⪰ 0 for all l < L − 1, or D_l ⪯ 0 for all l > 1; make "
                "the layers smaller towards one end (init.imbalanced)"
            )
        else:
            outcome = (
                f"λ_{setting.n}(D_{L - 1}) and λ_{setting.m}(−D_1) are not positive where they would have to be; "
                "imbalance the outermost layer (init.imbalanced)"
            )
    source = "Yun, Krishnan & Mobahi 2021, fully connected networks"
    return row(setting, "Yun et al. 2021", source, ["yun2021"], outcome, **facts)


def min2021(setting: Setting) -> Guarantee:
    """Return the row of Min et al. 2021: a rate from the imbalance alone, for two layers and the squared loss.

    The rate is `2λ_r(Σ_x) ([λ_r(D)]_+ + [λ_m(−D)]_+)`, with r the rank of X. If X does not have full rank, the limit
    is the solution of least norm provided that the frozen part U_2 of W_1 satisfies `U_1 U_2ᵀ = 0` and
    `W_2ᵀ U_2ᵀ = 0`. `facts` gives the size of the two.
    """
    outcome: float | str = not_deep(setting, 2) or no_squared_loss(setting)
    facts = {}
    if not outcome:
        D = setting.invariants.spectra[0]
        left, right = float(D.at_least(setting.n)), float(D.negated().at_least(setting.m))
        facts = {"λ_r(D)": left, "λ_m(−D)": right, **_off_least_norm(setting)}
        rate = setting.gamma * setting.scale**2 * (left + right)
        outcome = rate or (
            f"neither λ_{setting.n}(D) nor λ_{setting.m}(−D) is positive, and the rate is their sum; widen the "
            "hidden layer, or imbalance the start"
        )
    source = "Min, Tarmoun, Vidal & Mallada 2021, imbalance alone"
    return row(setting, "Min et al. 2021", source, ["min2021"], outcome, **facts)


def min2023(setting: Setting) -> Guarantee:
    """Return the row of Min et al. 2023: the best of the paper's bounds at its margin.

    The margin is `[σ_min(W*) − sqrt(K/μ) ‖W(0) − W*‖_F]_+`. Forms that fail as printed (docs/theory.md, section 14)
    are replaced by those that hold.
    """
    outcome: float | str = no_dominance(setting)
    source, margin = "Min, Vidal & Mallada 2023", setting.margin_by_distance
    if not outcome:
        best, value = max(bounds_at_margin(setting), key=lambda found: found[1], default=(None, 0.0))
        if best is None:
            outcome = f"none of its theorems covers the imbalance of these {setting.depth} layers"
        elif value > 0:
            outcome = setting.gamma * value
            source += f", {best.name}, at its margin"
        elif margin > 0:
            outcome = f"its bounds are 0 at this imbalance and margin {margin:.3g}; imbalance the start more"
        else:
            outcome = f"its bounds are 0: the imbalance alone gives none, and {no_margin(setting)}"
    return row(setting, "Min et al. 2023", source, ["min2023"], outcome, margin=margin)


def _not_balanced(setting: Setting) -> str:
    if setting.too_narrow:
        return setting.too_narrow
    if setting.imbalance > 0:
        return (
            f"the layers are not balanced: an eigenvalue of a D_l is {setting.imbalance:.3g} in size; balance them "
            "(init.balanced)"
        )
    return ""


def _balanced_floor(setting: Setting) -> float:
    """Return `c² σ^{2−2/L}` at the margin, without the output scale in σ, lowered for rounding."""
    sigma = setting.margin_by_distance / setting.scale
    return setting.scale**2 * max(0.0, sigma ** (2 - 2 / setting.depth) - setting.invariants.chain_allowance())


def _frobenius(D) -> float:
    """Return an upper bound on `‖D‖_F`."""
    return math.hypot(*(max(-a, b) for a, b in zip(to_numpy(D.lower), to_numpy(D.upper), strict=True)))


def _off_least_norm(setting: Setting) -> dict[str, float]:
    """Return `‖[U_1; W_2ᵀ] U_2ᵀ‖_F` if X is rank-deficient; 0 means that the limit is the least-norm solution."""
    V, network = setting.whole_objective.row_space, setting.whole_network
    if V is None:
        return {}
    W1, W2 = network.weights
    frozen = W1 - V @ (V.T @ W1)
    seen, other = (V.T @ W1) @ frozen.T, W2.T @ frozen.T
    return {"off least norm": math.hypot(norm(seen), norm(other))}
