"""`make proofs`: a few of its instances, and that it sees a proof that is wrong."""

import dataclasses

import flint
import numpy as np
import pytest

import linflow as lf
from tests.proof_instances import solution
from tests.proofs import Ledger, judge_descent, judge_flow, one
from tests.verified_judge import TrueFlow, exact


@pytest.mark.parametrize(
    "index", [pytest.param(i, marks=pytest.mark.slow) if i in (7, 8) else i for i in range(16)]
)  # the two take as long as all others
def test_no_bound_of_a_random_instance_is_wrong(index):
    ledger = one(1, index)
    assert ledger.violations == []
    assert ledger.seen["comparisons"] >= 3


@pytest.mark.parametrize(
    ("index", "what"),
    [
        (12, "weighted regression, flows"),
        (18, "factorization, momentum descents"),
        (20, "rank-deficient regression, momentum descents"),
        (21, "logistic, flows"),
        (27, "exponential, flows"),
        (30, "softmax, flows"),
        (34, "sensing, flows"),
        (37, "completion, descents"),
        (41, "huber, descents"),
        (201, "huber, flows"),
    ],
)
def test_no_bound_of_another_loss_or_with_momentum_is_wrong(index, what):
    ledger = one(11, index)
    assert ledger.violations == [] and ledger.seen["comparisons"] >= 8
    assert ledger.seen[what] == ledger.seen["enclosures"] == 1


@pytest.mark.parametrize("index", [18, 30, 34, 201])
def test_a_wrong_judge_of_another_loss_or_with_momentum_is_seen(index, monkeypatch):
    # As if the proof were about weights that are off by a part in a thousand.
    start = TrueFlow.__init__

    def elsewhere(self, weights, scale, *rest, **what):
        start(self, [W * (1 + 1e-3) for W in weights], scale, *rest, **what)

    monkeypatch.setattr(TrueFlow, "__init__", elsewhere)
    assert one(11, index).violations


Y = np.array([[2.0, 0.3], [-0.4, 1.0]])
WEIGHTS = [np.array([[1.0, 0.2], [0.1, 0.7]]), np.array([[0.8, -0.3], [0.2, 0.9]])]
F = lf.MatrixFactorization(Y)


def found(enc) -> list[str]:
    ledger, true = Ledger("a wrong proof"), TrueFlow(WEIGHTS, 1.0, exact(Y))
    if isinstance(enc, lf.DescentEnclosure):
        judge_descent(enc, true, ledger)
    else:
        judge_flow(enc, true, ledger, np.random.default_rng(0))
    return [text.split(": ")[1].split(" ")[0] for text in ledger.violations]


def moved(enc, **changes):
    steps = (dataclasses.replace(s, **{k: change(getattr(s, k)) for k, change in changes.items()}) for s in enc.steps)
    return dataclasses.replace(enc, steps=tuple(steps))


def test_a_gap_that_has_fallen_to_the_rounding_of_the_judge_is_no_violation():
    # The judge finds a gap of −1.8e-72 long after the end of a flow that began at 0.2.
    assert one(100, 556).violations == []


def test_a_wrong_flow_is_counted_as_a_violation():
    enc = lf.enclose(F, WEIGHTS, until=1e-2)
    assert enc.result == "target proved" and found(enc) == []
    # The path is off by some 1e-16, so a radius below that is wrong.
    assert "distance" in found(moved(enc, radius=lambda r: 1e-20))
    late = found(moved(enc, t=lambda t: t + 2.0**-20))
    assert {"distance", "gap", "time"} <= set(late)
    assert "gap" in found(moved(enc, gap=lambda g: (g[0], g[1] * (1 - 1e-6))))
    assert "first" in found(dataclasses.replace(enc, first=(enc.first[1] * 1.1, enc.first[1] * 1.2)))
    assert "singular" in found(dataclasses.replace(enc, start=lf.Network(WEIGHTS, 1 + 1e-9)))


def test_a_wrong_descent_is_counted_as_a_violation():
    enc = lf.enclose(F, WEIGHTS, algorithm="descent", step_size=0.1, until=1e-2)
    assert enc.result == "target proved" and found(enc) == []
    assert "distance" in found(dataclasses.replace(enc, radius=enc.radius * 0 + 1e-20))
    assert {"gap", "distance", "steps"} <= set(found(dataclasses.replace(enc, step_size=0.11)))
    assert "gap" in found(dataclasses.replace(enc, gaps=enc.gaps * np.array([[1.0], [1 - 1e-6]])))


def test_the_judge_solves_equations_of_any_rank_exactly():
    A = flint.fmpq_mat([[1, 2, 3], [2, 4, 6], [3, 6, 10]])
    C = A * flint.fmpq_mat([[1, 0], [2, -1], [5, 7]])
    assert A * solution(A, C) == C
    with pytest.raises(AssertionError, match="contradict"):
        solution(A, flint.fmpq_mat([[1], [0], [0]]))


def test_a_path_of_more_digits_is_judged_by_what_it_returns():
    # Its radius of 1e-30 is that of the path before its weights are rounded to float64.
    ledger = one(5, 40)
    assert ledger.seen["comparisons, distance"] > 0 and ledger.violations == []


def test_a_descent_that_explodes_bounds_its_gap_by_infinity():
    # After its third step the exponents of the softmax leave float64, and the gap is only known to be positive.
    with np.errstate(all="ignore"):
        assert one(111, 1943).violations == []
