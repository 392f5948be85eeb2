"""Published results on a start, side by side: each gives a bound, or the reason why it does not apply."""

from __future__ import annotations

from collections.abc import Sequence

from linflow.certificates._base import Guarantee
from linflow.certificates.prior import descents, imbalance, regimes
from linflow.certificates.prior._rows import row
from linflow.certificates.prior.modes import mode_results
from linflow.certificates.setting import Setting


def prior_results(
    setting: Setting, guarantees: Sequence[Guarantee] = (), step_size: float | None = None
) -> list[Guarantee]:
    """Return one row for each published result, with its hypotheses checked on these weights; the earliest first.

    A row that applies is an upper bound on the loss gap along the exact flow (for a certificate on descent, along
    that descent). It has the result's own form or, if the printed form fails, the form that holds. Statements about a
    limit, or with unnamed constants, never apply. Their `reason` says what they predict here, and `facts` holds the
    numbers.

    Args:
        setting: objective, start and algorithm.
        guarantees: the guarantees of the certificate; the rows on the lazy regime and on descent come from them.
        step_size: the constant step of a certificate on descent; None for the flow and for schedules.

    Source: `docs/published.md`.

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow.certificates.prior import prior_results
        >>> from linflow.certificates.setting import Setting
        >>> net = lf.init.imbalanced((2, 2, 2), 3.0, 0.9 * np.eye(2), rng=0)
        >>> rows = prior_results(Setting(lf.MatrixFactorization(np.eye(2)), net))
        >>> [(row.name, round(row.rate, 2)) for row in rows if row.applies]
        [('Min et al. 2021', 6.0), ('Tarmoun et al. 2021', 7.0), ('Yun et al. 2021', 6.0), ('Min et al. 2023', 6.91)]
    """
    reason = setting.beyond_float64
    if setting.depth == 1:
        reason = "they are for two layers or more; one layer is the objective itself"
    if reason:
        return [row(setting, "published results", "", [], reason)]
    saxe, gidel, tarmoun = mode_results(setting)
    return [
        saxe,
        imbalance.arora2018(setting),
        regimes.jacot2018(setting),
        imbalance.arora2019(setting, guarantees),
        regimes.chizat2019(setting, guarantees),
        regimes.duhu2019(setting),
        gidel,
        regimes.li2021greedy(setting),
        regimes.li2021sparse(setting),
        imbalance.min2021(setting),
        descents.nguegnang2021(setting),
        regimes.stoger2021(setting),
        tarmoun,
        imbalance.yun2021(setting),
        imbalance.min2023(setting),
        descents.ward2023(setting),
        regimes.xu(setting, guarantees, 2023),
        descents.xu2024(setting),
        descents.beneventano2025(setting, step_size),
        descents.mu2025(setting),
        regimes.xu(setting, guarantees, 2025),
    ]
