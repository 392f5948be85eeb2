"""The scalar flow of two layers, solved without cancellation."""

from __future__ import annotations

import math

import numpy as np


def riccati(b: float, s: float, w0: float, t: np.ndarray) -> np.ndarray:
    """Return the solution of `ẇ = 2 sqrt(b² + w²) (s − w)` at the times t, from `w0`.

    `y = w + sqrt(w² + b²)` satisfies `ẏ = 2sy − y² + b²`, so `y = top/bottom` with the two sums of `two_layer_scalar`
    (here divided by r). For `w_0 ≥ 0` all their terms are non-negative, and `w = ½ (y − b²/y)`.
    """
    if w0 < 0:
        return -riccati(b, -s, -w0, t)
    size = max(b, abs(s), w0)
    if w0 == s or (w0 == 0 and b == 0):
        return np.full(t.shape, w0)
    b, s, w0 = b / size, s / size, w0 / size  # time is then in units of 1/size
    r = math.hypot(b, s)
    cos, sin = (s / r, b / r) if r > 0 else (1.0, 0.0)
    plus = 1 + cos if cos >= 0 else sin * sin / (1 - cos)  # 1 + cos, also for cos near −1
    minus = 1 - cos if cos <= 0 else sin * sin / (1 + cos)
    root = math.hypot(w0, b)
    y0, lift = w0 + root, w0 + w0 * (w0 / (root + b))  # lift = y_0 − b
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        x = 2 * r * size * t
        e = np.exp(-x)
        g = np.where(x > 1e-15, -np.expm1(-x) / r, 2 * size * t)  # (1 − e)/r
        top = y0 * (plus + minus * e) + b * (b * g)
        bottom = minus + plus * e + y0 * g
        # top − b·bottom in two terms. For s ≥ 0 they have the same sign, which keeps all digits of a small w.
        kept, moved = lift * (cos * cos / (1 + sin) + (1 + sin) * e), s * g * (y0 + b)
        w = 0.5 * (kept + moved) * (1 / bottom + b / top)
        if s < 0:
            over = y0 / (r * r * (1 - cos)) + (minus * (e / b) * (y0 / b) if b > 0 else np.inf) + g  # top/b²
            w = np.where(top + b * bottom < kept - moved, 0.5 * (top / bottom - bottom / over), w)
    return np.where(t == 0, w0, w) * size
