"""What `print(cert)` shows: one sentence, then what applies in tables, then the rest by its reasons."""

import dataclasses

import numpy as np
import pytest

import linflow as lf
from linflow import relu
from linflow.certificates.curves import LimitCurve

F = lf.MatrixFactorization(np.diag([2.0, 1.0]))
WIDE = lf.init.gaussian((2, 60, 2), rng=0)
FAR = [np.eye(2), 0.1 * np.eye(2), np.eye(2)]


def paragraphs(cert) -> list[list[str]]:
    return [text.splitlines() for text in str(cert).split("\n\n")]


def test_what_applies_is_said_first_and_the_rest_is_grouped_by_its_reason():
    cert = lf.certify(F, WIDE)
    head, ours, published, comparison, others, rest = paragraphs(cert)
    assert head[0] == (
        f"Guaranteed before a run: 1e-6 of the initial loss gap by t = {cert.time_to(1e-6):.4g} "
        f"({cert.best.name}, rate {cert.best.rate:.4g})."
    )
    applying = [g for g in cert.guarantees if g.applies]
    assert ours[0].split() == ["guarantee", "rate", "time", "to", "1e-6", "source"]
    assert [line.split("  ")[0] for line in ours[1:]] == [g.name for g in applying]
    assert [line.split("  ")[0] for line in published[1:]] == [g.name for g in cert.prior if g.applies]
    assert comparison[1].startswith("one layer instead  ")
    assert others[0] == "guarantees that do not apply, and why:"
    assert rest[0] == "published results that do not apply, and why:"
    reasons = [g.reason for g in cert.guarantees if not g.applies]
    assert len(others) == 1 + len(set(reasons)) < 1 + len(reasons)
    for g in cert.guarantees:
        lines = [line for line in others if line.endswith(f": {g.reason}") and g.name in line]
        assert len(lines) == (not g.applies)


def test_descent_counts_steps():
    cert = lf.certify(F, WIDE, algorithm="descent")
    first, table = paragraphs(cert)[0][0], paragraphs(cert)[1]
    steps = cert.steps_to(1e-6)
    assert f"initial loss gap after {steps} steps ({cert.best.name}, rate" in first
    assert "steps to 1e-6" in table[0] and f" {steps} " in table[1]


def test_a_guarantee_that_does_not_reach_the_target_promises_no_time():
    cert = lf.certify(F, WIDE)
    row = dataclasses.replace(cert.best, curve=LimitCurve(cert.gap, 0.5 * cert.gap, 3.0))
    later = dataclasses.replace(cert, guarantees=(row,))
    assert later.headline == (
        f"Guaranteed before a run: {row.name}; the gap falls to {0.5 * cert.gap:.4g}, at rate 3."
    )


@pytest.mark.parametrize(
    ("cert", "way"),
    [
        (lf.certify(F, FAR), "lf.enclose(objective, network) can prove how long the flow takes."),
        (
            lf.certify(F, FAR, algorithm="descent", step_size=0.125),
            'lf.enclose(objective, network, algorithm="descent", step_size=0.125) can prove how many steps it takes.',
        ),
        (
            lf.certify(F, FAR, algorithm="descent", schedule=lf.schedules.backtracking()),
            'lf.enclose(objective, network, algorithm="descent", schedule=…) can prove how many steps it takes.',
        ),
        (lf.certify(F, WIDE, friction=1.0), ""),
        (lf.certify(lf.MatrixFactorization(1e200 * np.eye(2)), FAR), ""),  # its gap is not a number of float64
        (lf.certify(F, [np.eye(2), np.diag([2.0, 1.0])]), ""),  # it is there
        (
            lf.certify(F, [np.zeros((2, 2)), np.eye(2)]),
            "lf.enclose(objective, network) can prove how long the flow takes.",
        ),
        (
            lf.certify(F, [np.zeros((2, 3)), np.zeros((3, 2))]),
            "Two layers are 0, so the gradient is 0, and the run never leaves its start.",
        ),
        (
            lf.certify(F, [np.full((2, 2), 1e-200)] * 3),
            "lf.enclose(objective, network) can prove how long the flow takes.",
        ),
    ],
)
def test_where_nothing_is_guaranteed_it_says_what_can_be_proved(cert, way):
    nothing = dataclasses.replace(cert, guarantees=tuple(dataclasses.replace(g, curve=None) for g in cert.guarantees))
    assert str(nothing).splitlines()[0] == f"Nothing is guaranteed before a run. {way}".rstrip()
    assert "guarantee  " not in str(nothing)


def test_a_relu_network_says_so_too():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((5, 3)), rng.standard_normal((5, 1))
    net = relu.Network(rng.standard_normal((3, 8)), rng.standard_normal((8, 1)))
    nothing = "Nothing is guaranteed before a run."
    flow, descent = relu.certify(X, Y, net), relu.certify(X, Y, net, algorithm="descent", step_size=0.01)
    assert flow.best is descent.best is None
    assert flow.headline == f"{nothing} relu.enclose(X, Y, network) can prove how long the flow takes."
    way = 'relu.enclose(X, Y, network, algorithm="descent", step_size=0.01) can prove how many steps it takes.'
    assert descent.headline == f"{nothing} {way}"
    smooth = relu.SmoothNetwork(net.U, net.V, activation="gelu")
    assert relu.certify(X, Y, smooth).headline == nothing
    assert relu.certify(X, np.sign(Y), net, loss="logistic").headline == nothing


def test_bounds_that_do_not_apply_are_grouped_by_their_reason():
    table = lf.bounds.table(WIDE)
    applying, others = repr(table).split("\n\n")
    assert applying.splitlines()[0].split() == ["bound", "λ_min(T)", "≥", "source"]
    assert len(applying.splitlines()) == 1 + sum(b.applies for b in table)
    for b in table:
        lines = [line for line in others.splitlines() if line.endswith(f": {b.reason}") and b.name in line]
        assert len(lines) == (not b.applies)
