"""Functions shared by the experiments that are sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from linflow import bounds
from linflow.experiments.figures._outcome import Claim, Progress, number
from linflow.experiments.figures._runs import held_claim
from linflow.geometry.imbalance import imbalance_matrices
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.sweeps.driver import sweep
from linflow.sweeps.status import Status

Row = Mapping[str, Any]
DELTA = "three layers, Δ*"
"""The name of the guarantee whose rate is γΔ*."""


def seeds_of(count: int, seed: int) -> list[int]:
    """Return the seeds of `count` draws; another seed of the figure gives other draws."""
    return list(range(count * seed, count * (seed + 1)))


def rows_of(grid: Mapping[str, Any], progress: Progress, first: float = 0.0, last: float = 1.0) -> list[Row]:
    """Run a grid on all cores and return its rows; progress goes from `first` to `last`."""

    def watch(status: Status) -> None:
        progress(first + (last - first) * status.done / status.total, f"{status.done} of {status.total} cells")

    progress(first, "a sweep")
    return sweep(grid, progress=watch).to_pylist()


def delta_star(row: Row) -> float:
    """Return Δ* of a cell, a bound on `λ_min(T)`: the rate of its guarantee over γ, or 0 if it does not apply."""
    return float(dict(zip(row["guarantees"], row["guaranteed_rates"], strict=True))[DELTA]) / row["pl_constant"]


def delta_claim(shown: Sequence[float], starts: Sequence[Network]) -> Claim:
    """Claim that the drawn Δ* is `bounds.three_layer` of the imbalances of each start, times its scale²."""
    named = []
    for net in starts:
        D1, D2 = imbalance_matrices(net)
        named.append(net.scale**2 * float(bounds.three_layer(D1, D2, *net.shape)))
    # A certificate subtracts what rounding of the eigenvalues of D can add: 10⁻⁷ or less at these sizes.
    text = f"Drawn as Δ* is `bounds.three_layer` of the imbalance matrices ({number(len(starts))} draws)"
    return Claim.same(text, shown, named, 1e-6)


def by_hand(objective: Objective, network: Network, steps: Sequence[float]) -> np.ndarray:
    """Return the loss gaps of a descent with these steps, over the initial gap, using only the definition."""
    gaps = [objective.gap(network.product())]
    for eta in steps:
        slopes = network.gradient(objective.gradient(network.product()))
        network = network.with_weights([W - eta * g for W, g in zip(network.weights, slopes, strict=True)])
        gaps.append(objective.gap(network.product()))
    return np.array(gaps) / gaps[0]


def complete_claim(rows: Sequence[Row], what: str) -> Claim:
    """Claim that every cell ran to its end."""
    good = sum(row["status"] == "ok" for row in rows)
    reasons = {row["reason"] for row in rows if row["status"] != "ok"}
    return Claim(
        f"Every {what} reaches its target",
        f"{number(good)} of {number(len(rows))}" + "".join(f"; {reason}" for reason in sorted(reasons)),
        good == len(rows),
        good,
    )


def rows_claim(rows: Sequence[Row], text: str) -> Claim:
    """Claim that every run kept its certificate at every recorded time."""
    return held_claim(text, [(row["holds"], row["worst_slack"]) for row in rows])
