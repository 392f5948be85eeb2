"""Envelope: a guaranteed rate from all bounds together, which grows while the gap falls."""

from __future__ import annotations

import math

import numpy as np

from linflow.certificates.curves import LevelCurve
from linflow.certificates.lazy import Neighbourhood

EVEN, JOINT, RATIO, LAST = 60, 0.05, 0.84, 1e-7
"""Levels in sqrt(ℓ/ℓ(0)): EVEN of them, evenly spaced, from 1 down to JOINT, then by RATIO down to LAST."""


def gap_levels(first: float) -> np.ndarray:
    """Return the gaps `y_0 = first > y_1 > …` at which a guarantee is computed.

    The path length grows as sqrt(ℓ) falls, so the levels are even in sqrt(ℓ) at first. Far down they are geometric.
    """
    tail = JOINT * RATIO ** np.arange(math.ceil(math.log(LAST / JOINT) / math.log(RATIO)) + 1)
    return first * np.concatenate([np.linspace(1.0, JOINT, EVEN)[:-1], tail]) ** 2


def envelope(
    levels: np.ndarray, gamma: float | np.ndarray, floors: np.ndarray, nearby: Neighbourhood | None
) -> LevelCurve | None:
    """Return the guarantee that follows from floors of `λ_min(T)` at each level of the gap and near the start.

    While the gap is in `[y_{k+1}, y_k]`, `λ_min(T) ≥ floors[k]` (the gap is at most `y_k`), and
    `λ_min(T) ≥ κ(R_{k+1})` with `R_{k+1}` a bound on the path travelled until the gap is `y_{k+1}`. The larger of the
    two, `a_k`, gives the rate `γ a_k` and the path `R_{k+1} = R_k + 2 (sqrt(y_k) − sqrt(y_{k+1}))/sqrt(γ a_k)`.

    Args:
        levels: decreasing gaps; the first is the initial gap.
        gamma: gradient dominance, one number or one for gaps of at most each level, which then never falls.
        floors: lower bounds on `λ_min(T)` for all weights of the run with a gap of at most each level.
        nearby: floors on balls around the start; None to leave them out.

    Returns:
        The curve, or None if it cannot leave even the first level. Nothing is known past a level with rate 0.
    """
    gammas = np.broadcast_to(gamma, levels.shape)
    falls = np.sqrt(levels / gammas) - np.sqrt(np.append(levels[1:], 0.0) / gammas)
    rates, travelled = [], 0.0
    for fall, floor, one in zip(falls, floors, gammas, strict=True):
        held, reach = nearby.floor_and_reach(travelled, fall) if nearby and travelled < math.inf else (0.0, math.inf)
        if floor >= held:
            held, reach = float(floor), travelled + 2 * fall / math.sqrt(floor) if floor > 0 else math.inf
        rates.append(one * held)
        travelled = reach
    if rates[0] == 0.0:
        return None
    return LevelCurve(levels, np.array(rates))
