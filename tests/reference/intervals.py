"""Operator intervals as docs/operator_intervals.md states them: slow, and at many digits where digits matter."""

from collections.abc import Sequence

import mpmath


def chain(d: Sequence[float], sigma: float) -> list:
    """`t_1, …, t_L > 0` with `t_l − t_{l+1} = d_l` and `Π t_l = σ²`, by halving at 50 digits."""
    with mpmath.workdps(50):
        sums = [mpmath.mpf(0)]
        for step in d:
            sums.append(sums[-1] - mpmath.mpf(step))
        c = [x - min(sums) for x in sums]
        target = mpmath.mpf(sigma) ** 2
        low, high = mpmath.mpf(0), target ** (mpmath.mpf(1) / len(c))
        for _ in range(250):
            middle = (low + high) / 2
            low, high = (middle, high) if mpmath.fprod(middle + x for x in c) < target else (low, middle)
        return [high + x for x in c]
