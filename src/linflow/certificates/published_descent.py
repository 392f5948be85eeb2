"""Published guarantees for gradient descent: two layers from any start, and balanced layers of any depth."""

from __future__ import annotations

import itertools
import math

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, norm
from linflow._support.words import plural
from linflow.bounds import two_layers
from linflow.certificates._base import Guarantee
from linflow.certificates.caps import Caps
from linflow.certificates.curves import StepCurve
from linflow.certificates.setting import NO_SMOOTHNESS, Setting
from linflow.certificates.step_bounds import DescentBounds, LevelStepCurve
from linflow.model.quadratics import LinearRegression, MatrixFactorization
from linflow.model.spectrum import signed_gram_eigenvalues


class _TwoLayerBounds(DescentBounds):
    """The caps and floors of two layers, with β the published constant `K_t`, bounded along the run."""

    def __init__(self, setting: Setting):
        super().__init__(setting, [two_layers.THEOREM], nearby=False)

    def curvature(self, caps: Caps, ceiling: np.ndarray, count: int | None, eta: float) -> np.ndarray:
        """Return `K_t` as printed, with each quantity in it replaced by its bound on the first levels."""
        beta = super().curvature(caps, ceiling, count, eta)
        c, K = self.network.scale, self.K
        slope = c * self.slopes[:count]
        with np.errstate(over="ignore", invalid="ignore"):
            # The bound ‖∇f‖² ≤ 2Kℓ replaces the gap, rounding included.
            cubic = 3 * c * K * slope**2 * (c * self.high[:count]) * eta * eta
            more = cubic + 3 * (beta - slope) * slope * eta
        return beta + np.nan_to_num(more, nan=math.inf, posinf=math.inf)


def two_layer_descent(setting: Setting, step_size: float) -> list[Guarantee]:
    """Return the guarantees for two layers after Xu et al. 2023 (squared loss) and Xu et al. 2025 (`f* = 0`).

    If `ηK_t < 2`, each step gives `ℓ⁺ ≤ (1 − 2μ_tη + μ_tK_tη²) ℓ` with `μ_t = μ λ_min(T_t)` and `K_t` of
    `local_constant` as printed. `λ_min(T_t)` is bounded in advance by `bounds.two_layer`. The caps on norms and drift
    are those proved in docs/descent.md, because the constants of the papers for these were not available. The first
    row keeps one factor; in the second the factor improves as the gap falls.
    """
    objective, network, gap = setting.whole_objective, setting.whole_network, setting.gap
    squared = isinstance(objective, (MatrixFactorization, LinearRegression))
    zero = abs(objective.minimum) <= 64 * EPS * max(gap, objective.value(network.product()))
    why, decreases, levels, facts = _why_not(setting), None, np.zeros(1), {}
    if why == "":
        caps = _TwoLayerBounds(setting)
        held, levels = caps.at(step_size), caps.levels
        if held is None:
            why = f"the step {step_size:.4g} is too large for it: ηK_t < 2, or a cap on the drift, is not certain"
        else:
            facts = {"K_t": float(held.betas[0]), "α": float(held.alphas[0]), "drift cap": held.drift}
            decreases = held.decreases(2 * setting.objective.strong_convexity)
            if decreases[0] <= 0:
                why = "its bound on λ_min(T) is 0 at this imbalance, margin and drift; imbalance the start more"

    def row(name: str, source: str, key: str, reason: str, *, levelled: bool) -> Guarantee:
        curve = None
        if reason == "" and decreases is not None:
            curve = (
                LevelStepCurve.of(levels, decreases, step_size)
                if levelled
                else StepCurve(gap, step_size, float(decreases[0]))
            )
        return setting.guarantee(
            name=name, source=source, citation=(key,), reason=reason, curve=curve, facts=dict(facts)
        )

    first = why or ("" if squared else "the loss is not the squared loss")
    second = why or ("" if zero else f"the minimum f* is {objective.minimum:.4g}, not 0; subtract it from f")
    after = "after Xu et al. {} ({}), constants of docs/descent.md".format
    return [
        row("two layers, squared loss", after(2023, "AISTATS"), "xu2023", first, levelled=False),
        row("two layers, local constants", after(2025, "TMLR"), "xu2025", second, levelled=True),
    ]


def _why_not(setting: Setting) -> str:
    if setting.depth != 2:
        return f"the network has {plural(setting.depth, 'layer')}, not 2"
    if setting.objective.strong_convexity == 0:
        return "no strong convexity μ is known for the objective; declare strong_convexity="
    if setting.objective.minimizer is None:
        return "no minimiser W* is known for the objective; give minimizer="
    if math.isinf(setting.objective.smoothness):
        return NO_SMOOTHNESS
    return setting.beyond_float64


def balanced_descent(setting: Setting, step_size: float) -> Guarantee:
    """Return the guarantee of Arora, Cohen, Golowich & Hu 2018 for approximately balanced layers.

    It is for `½‖W − Φ‖_F²` and hidden widths of at least min(n, m). It needs a deficiency margin
    `c = σ_min(Φ) − ‖W(0) − Φ‖_F > 0`, `‖D_l‖_F ≤ c²/(256 L³ ‖Φ‖_F^{2(L−1)/L})` and
    `η ≤ c^{(4L−2)/L}/(6144 L³ ‖Φ‖_F^{(6L−4)/L})`. Then `ℓ_k ≤ ε` from `k = log(ℓ(0)/ε)/(η c^{2(L−1)/L})` on.

    `f = f* + ½κ‖W − Φ‖_F²` is the same problem with the step κη. An output scale s is the same as layers
    `s^{1/L} W_l` with the step `s^{2/L} η`.

    Source: Arora et al. 2018 (arXiv:1810.02281), Theorem 1, constants from memory, tested by runs (docs/descent.md).
    """
    facts: dict[str, float] = {}
    single = "the network has one layer, not 2 or more" if setting.depth == 1 else ""
    reason = single or setting.beyond_float64 or _balanced_reason(setting, step_size, facts)
    curve = None
    if reason == "":
        L, c = setting.depth, facts["deficiency margin"]
        eta = step_size * setting.objective.smoothness * setting.scale ** (2 / L)
        decrease = -math.expm1(-eta * c ** (2 * (L - 1) / L) * (1 - 1e-9))
        curve = StepCurve(setting.gap, step_size, decrease) if decrease > 0 else None
        reason = "" if curve else "the decrease it promises per step is below the least number of float64"
    return setting.guarantee(
        name="approximately balanced",
        source="Arora et al. 2018a, Theorem 1",
        citation=("arora2019convergence",),
        reason=reason,
        curve=curve,
        facts=facts,
    )


def _balanced_reason(setting: Setting, step_size: float, facts: dict[str, float]) -> str:
    """Return the hypothesis that fails, '' if none does; add the numbers involved to `facts`."""
    f, net, L = setting.objective, setting.network, setting.depth
    if not setting.strongly_convex or f.smoothness > f.strong_convexity * (1 + 1e-9):
        known = f"μ = {f.strong_convexity:.4g}, K = {f.smoothness:.4g}"
        return f"the loss is not ½‖W − Φ‖² up to a factor ({known}); whiten the data"
    if setting.too_narrow:
        return setting.too_narrow
    noise = 16 * EPS * (net.magnitude() + f.minimizer_size)
    least, size, distance = setting.least_of_target, norm(f.minimizer), setting.distance
    c = least - distance - noise
    if c <= 0:
        return f"the deficiency margin is not positive: ‖W(0) − Φ‖_F = {distance:.4g} against σ_min(Φ) = {least:.4g}"
    facts["deficiency margin"] = c
    unbalanced = net.scale ** (2 / L) * max(
        norm(signed_gram_eigenvalues([(1.0, A.T), (-1.0, B)])) for A, B in itertools.pairwise(net.weights)
    )
    allowed = (c / size) ** 2 * size ** (2 / L) / (256 * L**3)
    facts.update({"largest imbalance": unbalanced, "allowed imbalance": allowed})
    if unbalanced > allowed:
        return f"the layers are not balanced enough: ‖D‖_F = {unbalanced:.3g} where at most {allowed:.3g} is allowed"
    largest = (c / size) ** ((4 * L - 2) / L) / (6144 * L**3 * size ** (2 - 2 / L))
    largest /= f.smoothness * net.scale ** (2 / L)
    facts["largest step"] = largest
    if step_size > largest:
        taken, most = checks.differing_texts(step_size, largest)
        return f"the step {taken} exceeds {most}, the largest it allows"
    return ""
