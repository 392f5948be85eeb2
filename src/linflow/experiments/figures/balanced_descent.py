"""Descent on balanced layers: certified and taken numbers of steps, over depth."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow import init
from linflow.certificates import Certificate, certify, safe_step_size
from linflow.dynamics import gradient_descent, gradient_flow
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, figure

LINES = {
    "printed": ("theorem, at its step", "black", "o--"),
    "ours": ("this library, at that step", "vermillion", "o--"),
    "flow": ("taken at that step", "vermillion", "o-"),
    "safe": ("this library, at its own step", "blue", "o--"),
    "taken": ("taken at its own step", "blue", "o-"),
}


@dataclass(frozen=True)
class BalancedDescentSettings(Settings):
    """Depths, the target, and how near the start is."""

    depth: tuple[int, ...] = setting((2, 3, 4, 5, 6), "the depths", least=2)
    values: tuple[float, ...] = setting((1.0, 0.9, 0.8), "the singular values of the target")
    start: float = setting(0.7, "the product at the start, as a part of the target")
    until: float = setting(1e-3, "the fraction of the initial loss to reach")


@dataclass(frozen=True)
class BalancedDescentData:
    """Numbers of steps by depth under the keys of `LINES`; "step" is the theorem's step and "own" the safe one."""

    settings: BalancedDescentSettings
    found: dict[str, np.ndarray]
    applies: list[tuple[bool, bool]]  # at the step of the theorem, and just above it

    @property
    def margin(self) -> float:
        """The deficiency margin `c = σ_min(Φ) − ‖W(0) − Φ‖_F`."""
        s = self.settings
        return min(s.values) - abs(1 - s.start) * math.hypot(*s.values)


def printed_step(margin: float, size: float, L: int) -> float:
    """Return the largest step of the theorem, `c^{(4L−2)/L}/(6144 L³ ‖Φ‖_F^{(6L−4)/L})`."""
    return margin ** ((4 * L - 2) / L) / (6144 * L**3 * size ** ((6 * L - 4) / L))


def compute(s: BalancedDescentSettings, seed: int, progress: Progress) -> BalancedDescentData:
    """Certify descent at both steps, run the flow, and descend at the safe step."""
    n, size = len(s.values), math.hypot(*s.values)
    f = MatrixFactorization(np.diag(s.values))
    margin = BalancedDescentData(s, {}, []).margin
    if margin <= 0:
        raise ValueError(f"the deficiency margin is {margin:.3g}; start={s.start:g} is too far from the target (1).")
    rows: dict[str, list[float]] = {name: [] for name in (*LINES, "step", "own")}
    applies = []
    for i, L in enumerate(s.depth):
        progress(i / len(s.depth), f"depth {L}")
        net = init.balanced((n,) * (L + 1), s.start * f.Y, rng=seed)
        eta = printed_step(margin, size, L) * (1 - 1e-9)
        cert = certify(f, net, algorithm="descent", step_size=eta)
        above = certify(f, net, algorithm="descent", step_size=1.01 * eta)
        printed = _row(cert)
        applies.append((printed.applies, _row(above).applies))
        own = safe_step_size(f, net)
        at_own = certify(f, net, algorithm="descent", step_size=own)
        run = gradient_descent(f, net, step_size=own, steps=100_000, until=s.until, every=1)
        values = {
            "printed": printed.time_to(s.until) / eta if printed.applies else math.inf,
            "ours": cert.time_to(s.until) / eta,
            "flow": float(gradient_flow(f, net, until=s.until).t[-1]) / eta,
            "safe": at_own.time_to(s.until) / own,
            "taken": float(len(run.t) - 1),
            "step": eta,
            "own": own,
        }
        for name, value in values.items():
            rows[name].append(float(value))
    return BalancedDescentData(s, {name: np.array(row) for name, row in rows.items()}, applies)


def _row(cert: Certificate) -> Any:
    return next(one for one in cert.guarantees if one.name == "approximately balanced")


def claims(data: BalancedDescentData) -> Iterable[Claim | LeftOut]:
    """Compare the theorem with its formula, with the flow, and with descent at a larger step."""
    s, found, c = data.settings, data.found, data.margin
    yield Claim(
        "The theorem applies at the largest step that it allows, and not just above it",
        f"{sum(a and not b for a, b in data.applies)} of {len(data.applies)} depths",
        all(a and not b for a, b in data.applies),
    )
    literal = [
        math.log(1 / s.until) / (eta * c ** (2 * (L - 1) / L)) for L, eta in zip(s.depth, found["step"], strict=True)
    ]
    # Rounded up to whole steps, and by the ηc of a step in the exponent: far below 10⁻⁵ of them.
    yield Claim.same("It certifies log(1/ε)/(η c^{2(L−1)/L}) steps", found["printed"], literal, 1e-5)
    yield Claim.all_below(
        "No flow is later than certified by this library at that step", found["flow"], found["ours"]
    )
    yield Claim.all_below("This library certifies fewer steps at that step", found["ours"], found["printed"])
    yield Claim.all_below("At its own step, descent takes no more than it certifies", found["taken"], found["safe"])
    paper = [
        Claim.within(
            "The theorem's number is five to a hundred times what its step takes: ratio",
            found["printed"] / found["flow"],
            5.0,
            100.0,
        ),
        Claim.within("Its step costs a factor of a million or more: ratio", found["flow"] / found["taken"], 1e6),
    ]
    yield from about_these(s.changes(), paper)


def draw(data: BalancedDescentData) -> Any:
    """Draw the numbers of steps and the two steps over depth."""
    s = data.settings
    fig, axes = figure(7.0, 3.0, ncols=2)
    for name, (text, colour, form) in LINES.items():
        axes[0].semilogy(s.depth, data.found[name], form, color=COLOURS[colour], markersize=3, label=text)
    axes[1].semilogy(s.depth, data.found["step"], "o-", color=COLOURS["black"], markersize=3, label="theorem")
    axes[1].semilogy(s.depth, data.found["own"], "o-", color=COLOURS["blue"], markersize=3, label="this library")
    axes[0].set(title=f"Steps to {number(s.until)} of the initial loss", ylabel="steps")
    axes[1].set(title="Step size", ylabel=r"$\eta$")
    axes[1].legend(loc="center right")
    for ax in axes:
        ax.set(xlabel="depth $L$", xticks=s.depth)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def tables(data: BalancedDescentData) -> list[Table]:
    """Steps and their numbers, a row for each depth."""
    found = data.found
    names = ["step", *list(LINES)[:3], "own", *list(LINES)[3:]]
    columns = [
        "L",
        "theorem's η",
        "certified by it",
        "by this library",
        "taken (flow)",
        "own η",
        "certified",
        "taken",
    ]
    return [
        Table(
            f"Steps to {number(data.settings.until)} of the initial loss",
            columns,
            [(L, *(float(found[name][i]) for name in names)) for i, L in enumerate(data.settings.depth)],
        )
    ]


def numbers(data: BalancedDescentData) -> dict[str, Any]:
    """Steps and their numbers."""
    return {"depth": data.settings.depth, "margin": data.margin, **data.found}


def setup(data: BalancedDescentData) -> dict[str, str]:
    """What was computed, in words."""
    s = data.settings
    return {
        "Objective": f"½‖W − Φ‖², Φ = diag({', '.join(number(x) for x in s.values)})",
        "Start": f"balanced layers, W = {number(s.start)} Φ; deficiency margin {number(data.margin)}",
        "Taken": "at the theorem's step: the time of the flow over the step, which is too small to run",
        "Own step": "the step that this library advises for the start",
    }


experiment = PaperFigure(
    "balanced_descent",
    "Steps certified and taken, over depth",
    "Descent on balanced layers. The theorem certifies a step that falls with depth like L⁻³ and a number of steps "
    "for it. This library certifies that step, too, with fewer steps, and it certifies a step that is millions of "
    "times larger. Descent then takes a few dozen steps.",
    "Arora, Cohen, Golowich & Hu 2018 (arXiv:1810.02281), Theorem 1",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=BalancedDescentSettings,
    paper="Arora, Cohen, Golowich & Hu 2018",
)
