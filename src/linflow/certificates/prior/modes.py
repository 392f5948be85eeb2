"""Starts that split into one scalar chain per mode: Saxe et al. 2014, Gidel et al. 2019, Tarmoun et al. 2021."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from linflow._support.arrays import EPS, norm, to_numpy
from linflow.certificates._base import Guarantee
from linflow.certificates.prior._rows import bounds_at_margin, no_margin, not_deep, not_white, row
from linflow.certificates.setting import Setting
from linflow.exact import scalar_balanced, two_layer_scalar
from linflow.exact._alignment import Modes, shared_modes

LARGEST_SLACK = 1e-6


@dataclass(frozen=True)
class ModeCurve:
    """The exact gap `½μ Σ_i (s_i − ω_i(t))²` of independent modes, raised by its rounding.

    Each mode is a scalar chain: two layers with imbalance d_i, or balanced layers of any depth. The slack θ bounds
    the relative error in time. Times the largest product, it also bounds the error in every ω.

    Attributes:
        first: initial gap.
        depth: L.
        scale: output scale c.
        curvature: μ = K.
        d, s, w0: imbalance, target and start of every mode.
        slack: θ.
        rate: `2μ min_i T_i`, with T_i the least eigenvalue of mode i on its path; kept at every time.
    """

    first: float
    depth: int
    scale: float
    curvature: float
    d: np.ndarray
    s: np.ndarray
    w0: np.ndarray
    slack: float
    rate: float

    def gap(self, t: float) -> float:
        """Return the bound at time t."""
        return float(self._gaps(np.array([t]))[0])

    def time(self, gap: float) -> float:
        """Return the time at which the bound comes down to `gap`, too late by at most a relative 10⁻⁷."""
        if gap >= self.first:
            return 0.0
        unit = self.curvature * self.scale ** (2 / self.depth) * self._size ** (2 - 2 / self.depth)
        # With two layers the imbalance can make a mode faster than its size suggests.
        fast = max(unit, self.curvature * self.scale**2 * float(np.max(np.abs(self.d))))
        times = np.geomspace(1e-9 / fast, 1e15 / unit, 193 + math.ceil(8 * math.log10(fast / unit)))
        reached = np.flatnonzero(self._gaps(times) <= gap)
        if reached.size == 0:
            return math.log(self.first / gap) / self.rate if self.rate > 0 else math.inf
        i = int(reached[0])
        low, high = (float(times[i - 1]) if i else 0.0), float(times[i])
        for _ in range(4):
            times = np.linspace(low, high, 65)
            i = max(1, int(np.argmax(self._gaps(times) <= gap)))
            low, high = float(times[i - 1]), float(times[i])
        return high

    def rate_at(self, gap: float) -> float:
        """Return the rate, which is the same for every gap."""
        return self.rate

    @property
    def _size(self) -> float:
        return float(max(np.max(self.s), np.max(np.abs(self.w0))))

    def _gaps(self, t: np.ndarray) -> np.ndarray:
        clock = self.curvature * (1 - self.slack) * t
        total = np.zeros(len(t))
        for d, s, w0 in zip(self.d, self.s, self.w0, strict=True):
            if self.depth == 2:
                w = two_layer_scalar(float(d), float(s), float(w0), clock, scale=self.scale)
            else:
                w = scalar_balanced(self.depth, float(s), float(w0), clock, scale=self.scale)
            total += (np.abs(s - w) + self.slack * self._size) ** 2
        with np.errstate(under="ignore"):
            kept = self.first * np.exp(-self.rate * t)
        return np.minimum(np.minimum(0.5 * self.curvature * (1 + self.slack) * total, kept), self.first)


def mode_results(setting: Setting) -> list[Guarantee]:
    """Return the rows of Saxe et al., Gidel et al. and Tarmoun et al. The modes are computed once for all three."""
    modes: _Aligned | str = not_white(setting)
    if not modes:
        modes = aligned_modes(setting)
    return [_saxe(setting, modes), _gidel(setting, modes), _tarmoun(setting, modes)]


@dataclass(frozen=True)
class _Aligned:
    """The modes of an aligned start, with the size of their rounding."""

    modes: Modes
    off: float
    """The difference between the layers and the modes, relative to each layer."""
    size: float
    """Frobenius norm of the largest layer."""

    @property
    def balanced(self) -> bool:
        sizes = np.abs(self.modes.weights)
        return bool(np.all(np.ptp(sizes, axis=0) <= 16 * self.off * self.size))

    @property
    def imbalance(self) -> float:
        squares = self.modes.weights**2
        return float(np.max(np.ptp(squares, axis=0), initial=0.0))


def _saxe(setting: Setting, modes: _Aligned | str) -> Guarantee:
    """Return the row of Saxe et al. 2014: exact for layers of any depth, balanced and aligned with W*.

    Every mode follows `ω̇ = L c^{2/L} ω^{2−2/L} (s − ω)`.
    """
    source = "Saxe, McClelland & Ganguli 2014, decoupled balanced modes, exact solution"
    return row(setting, "Saxe et al. 2014", source, ["saxe2014"], _balanced_curve(setting, modes))


def _gidel(setting: Setting, modes: _Aligned | str) -> Guarantee:
    """Return the row of Gidel et al. 2019: exact for two layers, balanced and aligned with W*.

    The modes are learned one after the other, at the times in `facts`.
    """
    outcome = not_deep(setting, 2) or _balanced_curve(setting, modes)
    facts = {}
    if isinstance(outcome, ModeCurve):
        for i, (s, w) in enumerate(zip(outcome.s, outcome.w0, strict=True), 1):
            if s > 0:
                clock = 2 * setting.scale * outcome.curvature * s
                facts[f"half of mode {i}"] = max(0.0, math.log(max(s / w - 1, 1.0)) / clock)
    source = "Gidel, Bach & Lacoste-Julien 2019, continuous dynamics, exact solution"
    return row(setting, "Gidel et al. 2019", source, ["gidel2019"], outcome, **facts)


def _tarmoun(setting: Setting, modes: _Aligned | str) -> Guarantee:
    """Return the row of Tarmoun et al. 2021, for two layers.

    It is exact for a start aligned with W*, whatever the imbalance. For `D = λI` it is a rate at the margin.
    """
    source = "Tarmoun, França, Haeffele & Vidal 2021"
    outcome = not_deep(setting, 2) or not_white(setting)
    facts = {}
    if not outcome:
        outcome = modes if isinstance(modes, str) else _curve(setting, modes)
        if isinstance(outcome, str):
            outcome, facts = _multiple_of_identity(setting, outcome)
            source += ", D = λI, at the margin"
        else:
            source += ", decoupled modes, exact solution"
    return row(setting, "Tarmoun et al. 2021", source, ["tarmoun2021"], outcome, **facts)


def _multiple_of_identity(setting: Setting, unaligned: str) -> tuple[float | str, dict[str, float]]:
    """Return the rate for `D = λI` from the two-layer bound; it is `γ sqrt(λ² + 4σ²)` if n = m = h."""
    D = setting.invariants.spectra[0]
    spread = float(D.lower[0] - D.upper[-1])
    if spread > 0:
        return f"{unaligned}; and D is not a multiple of the identity: its eigenvalues spread over {spread:.3g}", {}
    value = max(value for theorem, value in bounds_at_margin(setting) if theorem.citation == "min2021")
    facts = {"λ": float(D.lower[0] + D.upper[0]) / 2, "margin": setting.margin_by_distance}
    if value <= 0:
        return f"D = {facts['λ']:.3g}·I gives no rate by itself, and {no_margin(setting)}", facts
    return setting.gamma * value, facts


def _balanced_curve(setting: Setting, modes: _Aligned | str) -> ModeCurve | str:
    if isinstance(modes, str):
        return modes
    if not modes.balanced:
        return (
            f"the layers are aligned with W* but not balanced: w_i² differ by up to {modes.imbalance:.3g} in a mode; "
            "give all layers the same values (init.spectral)"
        )
    return _curve(setting, modes, balanced=True)


def _curve(setting: Setting, aligned: _Aligned, *, balanced: bool = False) -> ModeCurve | str:
    """Return the exact solution, or the reason why it does not end at the minimum."""
    c, L, w = setting.scale, setting.depth, aligned.modes.weights
    s, w0 = aligned.modes.target, c * np.prod(w, axis=0)
    d = np.zeros(len(s)) if balanced else w[0] ** 2 - w[1] ** 2
    sizes = np.max(np.abs(w), axis=0)
    rounding = 16 * aligned.off * aligned.size
    d = np.where(np.abs(d) <= rounding * sizes, 0.0, d)
    stuck = np.flatnonzero((d == 0) & (s > 0) & ((w0 <= 0) | (sizes <= rounding)))
    if stuck.size:
        i = int(stuck[0])
        return (
            f"mode {i + 1} (σ = {s[i]:.3g}) starts at {w0[i]:.3g}, on the far side of the saddle at 0, and is never "
            "learned; change the sign of one layer in it, or imbalance it"
        )
    least = np.where(s * w0 > 0, np.minimum(s, np.abs(w0)), 0.0)
    floor = c * np.hypot(c * d, 2 * least) if L == 2 else L * c ** (2 / L) * least ** (2 - 2 / L)
    # A mode that crosses 0 passes the saddle at a distance of sqrt|d|. Rounding grows most from the smallest weights.
    closest = np.where(w0 * s < 0, np.sqrt(np.abs(d)), sizes)
    closest = float(np.min(closest[s > 0], initial=aligned.size))
    reach = max(aligned.size, float(np.max(s)) ** (1 / L) / c ** (1 / L))
    f = setting.objective
    slack = rounding / closest * (reach / closest) + 4 * (f.smoothness / f.strong_convexity - 1)
    if not slack <= LARGEST_SLACK:
        return (
            f"the start is aligned only to rounding, which may grow to {slack:.2g} of a mode before it is learned "
            f"(smallest weight {closest:.2g}); enlarge the start"
        )
    rate = 2 * f.strong_convexity * float(np.min(floor)) * (1 - slack)
    return ModeCurve(setting.gap, L, c, f.strong_convexity, d, s, w0, slack, rate)


def aligned_modes(setting: Setting) -> _Aligned | str:
    """Return the modes that the layers share with W*, or the reason why there are none."""
    Y, W = to_numpy(setting.objective.minimizer), to_numpy(setting.product)
    tolerance = 1e-9 * norm(Y) * setting.network.magnitude()
    left, right = Y.T @ W, Y @ W.T
    apart = max(norm(left - left.T), norm(right - right.T))
    how = "start from init.spectral(widths, W*)"
    if apart > tolerance:  # a cheap test first: the condition is necessary, not sufficient
        return (
            "the start is not aligned with the singular vectors of W*: W*ᵀW(0) differs from a symmetric matrix by "
            f"{apart / max(norm(Y) * norm(W), 1e-300):.2g} of its size; {how}"
        )
    if norm(Y) == 0:
        return "W* = 0 has no modes to learn"
    try:
        modes = shared_modes(setting.network, Y)
    except ValueError:
        return f"W(0) shares the singular vectors of W*, but the layers do not share their hidden ones; {how}"
    if np.any((modes.target > 0) & np.all(modes.weights == 0, axis=0)):
        i = int(np.flatnonzero((modes.target > 0) & np.all(modes.weights == 0, axis=0))[0])
        return f"mode {i + 1} (σ = {modes.target[i]:.3g}) starts at 0 in every layer and is never learned; {how}"
    layers = [to_numpy(V) for V in setting.network.weights]
    return _Aligned(modes, _misalignment(layers, modes), max(norm(V) for V in layers))


def _misalignment(layers: list[np.ndarray], modes: Modes) -> float:
    """Return the difference of the layers from `Q_{l−1} diag(w_l) Q_lᵀ` with orthonormal Q, relative to each."""
    w = modes.weights
    frames, off = [modes.U], 4 * EPS
    with np.errstate(divide="ignore", invalid="ignore"):
        for l, W in enumerate(layers[:-1]):
            frame = W.T @ frames[-1] / w[l]
            if len(layers) == 2:  # if one weight is 0, the other gives the hidden vectors
                frame = np.where(np.abs(w[0]) >= np.abs(w[1]), frame, layers[1] @ modes.V / w[1])
            frames.append(frame)
    frames.append(modes.V)
    for W, before, after, values in zip(layers, frames, frames[1:], w, strict=False):
        size = max(norm(W), 1e-300)
        errors = [after.T @ after - np.eye(after.shape[1])]
        errors += [(W @ after - before * values) / size, (W.T @ before - after * values) / size]
        off = max(off, *(norm(E) for E in errors))
    return off if math.isfinite(off) else math.inf
