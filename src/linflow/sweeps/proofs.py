"""The columns of proofs in the rows of a sweep."""

from __future__ import annotations

import math
from typing import Any

from linflow.experiments.setup import Setup
from linflow.verified import DescentEnclosure


def proof_columns(setup: Setup) -> dict[str, Any]:
    """Return the columns of a proof: when the target is proved to be reached, and the rate that holds afterwards.

    For a descent, times are sums of steps. If there is no proof, the column `proof` has the reason.
    """
    proof, reason = setup.prove()
    if proof is None:
        return {"proof": reason}
    until, row = setup.experiment.flow.until, {"proof": proof.reason or proof.result}
    if isinstance(proof, DescentEnclosure):
        fewest, most = proof.steps_bounds(until)
        latest = float(proof.t[int(most)]) if math.isfinite(most) else most
        return row | {"proved_earliest": float(proof.t[min(fewest, proof.steps)]), "proved_latest": latest}
    earliest, latest = proof.time_bounds(until)
    rate = proof.certificate.rate if proof.certificate else 0.0
    return row | {"proved_earliest": earliest, "proved_latest": latest, "proved_rate": rate}


def rigorous_columns(setup: Setup) -> dict[str, Any]:
    """Return the columns of the certificate with its rounding proved: its best guarantee, the rate and the time."""
    certificate = setup.certify(rigorous=True)
    best = certificate.best
    return {
        "rigorous_certificate": "" if best is None else best.name,
        "rigorous_rate": certificate.rate,
        "rigorous_time": certificate.time_to(setup.experiment.flow.until),
    }
