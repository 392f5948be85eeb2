"""Published results on a start, side by side: a bound where one holds, and in words why not where none does."""

from __future__ import annotations

from collections.abc import Sequence

from linflow.certificates._base import Guarantee, beyond_float64
from linflow.certificates.prior import imbalance, regimes
from linflow.certificates.prior._start import Start
from linflow.certificates.prior.modes import mode_results
from linflow.model.network import Network
from linflow.model.objectives import Objective


def prior_results(objective: Objective, network: Network, guarantees: Sequence[Guarantee]) -> list[Guarantee]:
    """Return one row for each published result, its hypotheses checked on these weights; the earliest first.

    A row that applies is an upper bound on the loss gap along the exact flow (for a certificate on descent: along
    that descent), in the result's own form; where the printed form fails, in the form that holds. Statements on a
    limit, or with unnamed constants, never apply: their reason says what they predict here, and `facts` in numbers.

    Args:
        objective: what is minimised.
        network: the start.
        guarantees: those of the certificate; the rows on the lazy regime and on descent are taken from them.

    Source: `docs/published.md`.

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow.certificates.prior import prior_results
        >>> net = lf.init.imbalanced((2, 2, 2), 3.0, 0.9 * np.eye(2), rng=0)
        >>> rows = prior_results(lf.MatrixFactorization(np.eye(2)), net, ())
        >>> [(row.name, round(row.rate, 2)) for row in rows if row.applies]
        [('Min et al. 2021', 6.0), ('Tarmoun et al. 2021', 7.0), ('Yun et al. 2021', 6.0), ('Min et al. 2023', 6.91)]
    """
    start = Start(objective, network, guarantees)
    if start.depth == 1:
        reason = "they are on two layers and more; one layer is the problem of the objective itself"
        return [start.row("published results", "", [], reason)]
    if reason := beyond_float64(objective, network):
        return [start.row("published results", "", [], reason)]
    saxe, gidel, tarmoun = mode_results(start)
    return [
        saxe,
        imbalance.arora2018(start),
        regimes.jacot2018(start),
        imbalance.arora2019(start),
        regimes.chizat2019(start),
        regimes.duhu2019(start),
        gidel,
        regimes.li2021greedy(start),
        regimes.li2021sparse(start),
        imbalance.min2021(start),
        regimes.stoger2021(start),
        tarmoun,
        imbalance.yun2021(start),
        imbalance.min2023(start),
        regimes.xu(start, 2023),
        regimes.xu(start, 2025),
    ]
