"""Results on descent with large steps, on alternating descent, and on low-rank adapters; most give no bound here.

Only the first pages of these papers could be read, so the constants of their theorems are not known here. A row says
so, checks the hypotheses that are known and gives in `facts` what the statement is about. It claims nothing, with one
exception: the rate of two scalar layers has a short proof, in docs/published.md, with constants of its own.
"""

from __future__ import annotations

import math

import numpy as np

from linflow._support.arrays import EPS, norm, singular_values, to_numpy
from linflow.certificates._base import Guarantee
from linflow.certificates.curves import Curve
from linflow.certificates.prior._rows import no_dominance, no_squared_loss, not_deep, not_white, row
from linflow.certificates.setting import Setting
from linflow.certificates.step_bounds import LevelStepCurve

FOR_DESCENT = 'it is for gradient descent; use certify(…, algorithm="descent")'
UNREAD = "its constants could not be read from the source"
RANK = 1e-12
"""Singular values of W* below this part of the largest count as 0: a few hundred rounding errors."""


def nguegnang2021(setting: Setting) -> Guarantee:
    """Return the row of Nguegnang, Rauhut & Terstiege 2021: descent converges to a critical point; no rate."""
    reason = no_squared_loss(setting) or ("" if setting.algorithm == "descent" else FOR_DESCENT)
    if not reason:
        where = (
            "for two layers a global minimum from almost every start"
            if setting.depth == 2
            else "for three layers or more a minimum over the matrices of some rank, from almost every start"
        )
        reason = f"it says where descent with small enough steps ends ({where}), not how fast, and {UNREAD}"
    source = "Nguegnang, Rauhut & Terstiege 2021 (arXiv 2108.02040), descent converges"
    return row(setting, "Nguegnang et al. 2021", source, ["nguegnang2021"], reason)


def ward2023(setting: Setting) -> Guarantee:
    """Return the row of Ward & Kolda 2023: alternating descent on a factorization."""
    reason, facts = _factorization(setting)
    if not reason:
        facts |= _off_range(setting)
        reason = (
            "it is for alternating descent, one factor after the other, from a random start in the range of W*; it "
            f"promises a number of steps of order κ² log(1/ε), κ² = {facts['κ'] ** 2:.3g}, and {UNREAD}"
        )
    source = "Ward & Kolda 2023 (arXiv 2305.06927), alternating descent"
    return row(setting, "Ward & Kolda 2023", source, ["ward2023"], reason, **facts)


def xu2024(setting: Setting) -> Guarantee:
    """Return the row of Xu, Wang, Zhao, Ward & Tao 2024: one large random factor, the other 0, momentum or not."""
    reason, facts = _factorization(setting)
    if not reason:
        other = min(norm(W) for W in setting.network.weights)
        facts["smaller layer"] = other
        start = "" if other == 0 else f"; no layer here is 0 (the smaller has norm {other:.3g})"
        reason = (
            f"it is for a large random layer and a layer of zeros{start}; with high probability over the draw it "
            "promises a number of steps of order "
            f"(d/(d − r + 1))² κ² log(1/ε), {facts['steps of order']:.3g} log(1/ε) here, for descent, and the root "
            f"of that factor with Nesterov's momentum, and {UNREAD}"
        )
    source = "Xu, Wang, Zhao, Ward & Tao 2024 (arXiv 2410.09640), unbalanced start"
    return row(setting, "Xu, Wang et al. 2024", source, ["xu2024"], reason, **facts)


def mu2025(setting: Setting) -> Guarantee:
    """Return the row of Mu & Klabjan 2025: the least gradient norm of descent on the two factors of an adapter."""
    reason = not_deep(setting, 2)
    if not reason and math.isinf(setting.objective.smoothness):
        reason = "it is for a smooth loss, and no smoothness K is known; declare smoothness="
    reason = reason or ("" if setting.algorithm == "descent" else FOR_DESCENT)
    facts = {}
    if not reason:
        facts = {"size of the pair": float(sum(norm(W) ** 2 for W in setting.network.weights))}
        reason = (
            "it bounds the least gradient norm of the first k steps, of order 1/log k (1/k while the factors stay "
            f"bounded), for steps of its own choice, and not the loss; {UNREAD}"
        )
    source = "Mu & Klabjan 2025 (arXiv 2512.18248), descent on low-rank adapters"
    return row(setting, "Mu & Klabjan 2025", source, ["mu2025"], reason, **facts)


def _factorization(setting: Setting) -> tuple[str, dict[str, float]]:
    """Return why results on `½‖W_1W_2 − A‖²` in two factors do not apply, and κ of A with the steps they promise."""
    reason = not_deep(setting, 2) or not_white(setting)
    if reason:
        return reason, {}
    s = to_numpy(singular_values(setting.objective.minimizer))
    s = s[s > RANK * s[0]]
    width, rank = setting.narrowest, len(s)
    if rank == 0:
        return "W* = 0, so there is nothing to learn", {}
    facts = {"κ": float(s[0] / s[-1]), "rank": float(rank)}
    if width < rank:
        return f"it needs a width of at least the rank of W*: the width is {width}, the rank {rank}; widen it", facts
    return "", facts | {"steps of order": (width / (width - rank + 1) * facts["κ"]) ** 2}


def _off_range(setting: Setting) -> dict[str, float]:
    """Return the part of the first layer outside the range of W*, relative to its norm."""
    U, s, _ = np.linalg.svd(to_numpy(setting.objective.minimizer))
    W = to_numpy(setting.network.weights[0])
    rest = U[:, int(np.sum(s > RANK * s[0])) :].T @ W
    return {"off the range": float(norm(rest) / (norm(W) or 1.0))}


def beneventano2025(setting: Setting, step_size: float | None) -> Guarantee:
    """Return the row of Beneventano & Woodworth 2025: descent on `½μ(c a⊤b − w*)²`, up to the edge of stability.

    The paper has an explicit rate for steps up to about 2/sharpness. This is the theorem of docs/published.md, which
    follows its three numbers: the error, the imbalance and the norm.

    Args:
        setting: objective, start and algorithm.
        step_size: the constant step of descent; None if there is none.
    """
    reason = not_deep(setting, 2) or no_squared_loss(setting)
    if not reason and (setting.n, setting.m) != (1, 1):
        reason = f"it is for one input and one output, but the product is {setting.n}×{setting.m}"
    reason = reason or ("" if setting.strongly_convex else no_dominance(setting))
    facts: dict[str, float] = {}
    outcome: Curve | str = reason
    if not reason:
        pair = _Pair.of(setting)
        facts = {"sharpness": pair.sharpness, "imbalance": pair.imbalance, "edge": 2 / pair.sharpness}
        if setting.algorithm != "descent":
            outcome = FOR_DESCENT
        elif step_size is None:
            outcome = "it is for a constant step, but this certificate is for a schedule"
        else:
            outcome = pair.curve(setting, step_size)
    source = "after Beneventano & Woodworth 2025 (arXiv 2501.09137), constants of docs/published.md"
    return row(setting, "Beneventano & Woodworth 2025", source, ["beneventano2025", "linflow"], outcome, **facts)


class _Pair:
    """Descent on `½μ(c a⊤b − w*)²` as that on `½(a⊤b − w*)²` with the step `cμη`, for layers √c times as large.

    Attributes:
        error: `e ≥ |w − w*|` at the start.
        target: `|w*|`.
        imbalance: `Q = ‖a + b‖‖a − b‖`, which the flow keeps.
        unit: `cμ`, the ratio of the steps.
    """

    def __init__(self, error: float, target: float, imbalance: float, unit: float):
        self.error, self.target, self.imbalance, self.unit = error, target, imbalance, unit

    @classmethod
    def of(cls, setting: Setting) -> _Pair:
        f, net = setting.objective, setting.network
        a, b = (math.sqrt(net.scale) * to_numpy(W).ravel() for W in net.weights)
        noise = 16 * EPS * (net.magnitude() + f.minimizer_size)
        product = float(norm(a + b)) * float(norm(a - b))
        return cls(setting.distance + noise, norm(f.minimizer), product, net.scale * f.smoothness)

    @property
    def sharpness(self) -> float:
        """The largest curvature, `cμ sqrt(4w*² + Q²)`, at the minimum where the flow ends."""
        return self.unit * math.hypot(2 * self.target, self.imbalance) or math.inf

    def curve(self, setting: Setting, step_size: float) -> Curve | str:
        """Return the bound on the gap for a step, or why there is none."""
        s, e = self.unit * step_size, self.error
        if s * e >= 1:
            return (
                f"the step {step_size:.4g} is too large for it: η times the error {self.unit * e:.4g} is not below 1"
            )
        kept = self._kept(s)
        levels = setting.levels
        errors = np.minimum(e, e * np.sqrt(levels / levels[0]) * (1 + 4 * EPS)) if levels[0] > 0 else np.array([e])
        factors = np.array([self._factor(s, x, kept) for x in errors])
        decreases = -np.expm1(2 * np.log(np.clip(factors, 1e-300, 1.0))) * (1 - 1e-9)
        if factors[0] >= 1:
            return (
                f"the step {step_size:.4g} is too large for it (the sharpness where the flow ends allows "
                f"{2 / self.sharpness:.4g}), or the imbalance and w* are 0"
            )
        return LevelStepCurve.of(levels, decreases, step_size)

    def _factor(self, s: float, x: float, kept: float) -> float:
        """Return ρ with `|ε⁺| ≤ ρ|ε|` for every error |ε| ≤ x, where the imbalance is from `kept` times Q to Q."""
        Q, t = self.imbalance, self.target
        least = math.hypot(2 * max(t - x, 0.0), kept * Q) * (1 - 8 * EPS)
        most = s * math.hypot(2 * (t + x), Q)
        return max(1 - s * least * (1 - s * x / 2), most * (1 + 8 * EPS) - 1)

    def _kept(self, s: float) -> float:
        """Return a part θ of the imbalance that all steps keep: `1 − (sε)² Σρ^{2k} ≥ θ` for ρ at θ."""
        theta = 1.0
        for _ in range(60):
            rho = self._factor(s, self.error, theta)
            if rho >= 1:
                return 0.0
            left = 1 - (s * self.error) ** 2 / (1 - rho * rho) * (1 + 1e-12)
            if left >= theta:
                return theta
            if left <= 0:
                return 0.0
            theta = min(left, theta) * (1 - 1e-6)
        return 0.0
