"""The largest step that is proved: how it is searched for, and the edge 2/λ_max(∇²L) that it is set against."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.dynamics import Result
from linflow.model.optimizer import PLAIN
from linflow.verified import steps
from linflow.verified.steps import _edge, _largest

F = lf.MatrixFactorization(np.diag([2.0, 1.0]))
NET = lf.Network([np.diag([1.0, 0.5]), np.diag([1.5, 1.0])])


def searched(limit, first, precision=1.03):
    """The result of a search for what works up to a limit, and all that was tried."""
    seen = []
    return _largest(lambda eta: seen.append(eta) or eta <= limit, first, precision), seen


def test_a_search_goes_up_by_halves_and_down_by_two_and_then_halves_the_ratio():
    found, seen = searched(3.0, 1.0)
    assert seen[:4] == [1.0, 1.5, 2.25, 3.375] and seen[4] == math.sqrt(2.25 * 3.375)
    assert found <= 3.0 < found * 1.03 and found in seen and len(seen) == 8
    found, seen = searched(0.3, 1.0)
    assert seen[:3] == [1.0, 0.5, 0.25] and seen[3] == math.sqrt(0.5 * 0.25)
    assert found <= 0.3 < found * 1.03
    # It ends where the ratio is the precision or less.
    assert searched(1.0, 1.0, 1.5) == (1.0, [1.0, 1.5])
    assert searched(1.0, 1.0, 1.5 * (1 - 1e-15))[1][:3] == [1.0, 1.5, math.sqrt(1.5)]


def test_a_search_that_finds_nothing_is_0_and_one_without_an_end_ends():
    found, seen = searched(0.0, 8.0)
    assert found == 0.0 and seen == [8.0 / 2**k for k in range(30)]  # to 10⁻⁹ of the first, and no further
    found, seen = searched(math.inf, 1.0)
    assert len(seen) == 60 and found == seen[-1] == pytest.approx(1.5**59)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_edge_is_two_over_the_largest_eigenvalue_of_the_hessian(scale):
    """Against the Hessian by central differences of the loss itself."""
    C = np.array([[1.0, 0.3], [0.3, 2.0]])
    f = lf.Quadratic(C @ C, np.diag([1.0, 0.5, 2.0]), C=np.arange(6.0).reshape(2, 3))
    W = [np.array([[1.0, 0.2], [0.1, 0.8]]), np.array([[0.9, -0.3, 0.1], [0.2, 1.1, 0.4]])]
    start = np.concatenate([w.ravel() for w in W])

    def loss(y):
        return f.value(scale * y[:4].reshape(2, 2) @ y[4:].reshape(2, 3))

    h, unit = 1e-3, np.eye(10)
    H = [
        [
            sum(s * t * loss(start + h * (s * unit[i] + t * unit[j])) for s in (1, -1) for t in (1, -1)) / (4 * h * h)
            for j in range(10)
        ]
        for i in range(10)
    ]
    top = np.abs(np.linalg.eigvalsh(H)).max()
    assert _edge(f, lf.Network(W, scale)) == pytest.approx(2 / top, rel=1e-4)  # h² of the fourth derivatives
    torch = pytest.importorskip("torch")
    f = lf.Quadratic(*(torch.tensor(M) for M in (C @ C, np.diag([1.0, 0.5, 2.0]), np.arange(6.0).reshape(2, 3))))
    assert _edge(f, lf.Network([torch.tensor(w) for w in W], scale)) == pytest.approx(2 / top, rel=1e-4)


def test_the_edge_of_one_layer_is_exact_and_where_nothing_bends_it_is_1():
    # ∇²L = c² of one layer; at W = 0 of forty layers differences vanish below the least float64.
    assert _edge(F, lf.Network([np.diag([3.0, 4.0])], 2.0)) == pytest.approx(0.5, rel=1e-8)
    assert _edge(lf.MatrixFactorization(np.zeros((1, 1))), lf.Network([np.zeros((1, 1))] * 40)) == 1.0
    # Differences are as large as the weights: of layers of size 10⁴, T = x² + y² alone counts.
    large = lf.Network([np.full((1, 1), 1e4), np.full((1, 1), 1e4)])
    assert _edge(lf.MatrixFactorization(np.full((1, 1), 1e8)), large) == pytest.approx(2 / 2e8, rel=1e-6, abs=0)
    # At a start of 0 the differences are of size 10⁻⁶, and not of size 0: −Y alone is left, of two layers.
    assert _edge(F, lf.Network([np.zeros((2, 2))] * 2)) == pytest.approx(2 / 2, rel=1e-6)


@pytest.fixture(scope="module")
def proved():
    seen = []
    return lf.safe_step_size(F, NET, verified=True, until=1e-2, steps=200, progress=seen.append), seen


def test_the_step_is_the_largest_that_is_proved_and_carries_its_proof(proved):
    eta, seen = proved
    enc = eta.enclosure
    assert enc.result == "target proved" and enc.step_size == eta
    assert enc.gaps[1, -1] <= 1e-2 * enc.gaps[0, 0]
    beyond = lf.enclose(F, NET, algorithm="descent", step_size=1.031 * eta, until=1e-2, steps=200)
    assert beyond.result != "target proved"
    # λ_max at the start and at the end, where ∇²L = T restricted to what moves.
    assert eta.edge == (_edge(F, NET), _edge(F, enc.final))
    # A twentieth for each step that is proved.
    assert seen == sorted(seen) and seen[-1] >= 1 / 20 and all(x in [k / 20 for k in range(20)] for x in seen)


def test_a_search_tells_how_far_it_is_but_not_that_it_is_done(monkeypatch):
    proof, seen = SimpleNamespace(result="target proved", final=NET), []
    monkeypatch.setattr(steps, "enclose", lambda *args, **given: proof)
    eta = lf.safe_step_size(F, NET, verified=True, progress=seen.append)
    assert seen == [min(0.99, k / 20) for k in range(1, 61)] and eta.enclosure is proof


def test_a_plain_descent_is_asked_for_the_gap_that_is_proved(monkeypatch):
    asked = []

    def ran(objective, start, **given):
        asked.append(given)
        return SimpleNamespace(result=Result.TARGET if given["step_size"] <= 0.75 else None)

    monkeypatch.setattr(steps, "gradient_descent", ran)
    eta = steps.VerifiedStep(0.5)
    for last, until in ((1.0, 0.25), (0.0, 1e-300), (3.99, 0.99), (8.0, 0.99)):
        eta.enclosure = SimpleNamespace(
            objective=F, start=NET, gaps=np.array([[4.0, 0.0], [5.0, last]]), optimizer=PLAIN
        )
        assert 0.75 / 1.03 <= eta.converging(7) <= 0.75
        assert asked[0] == {"step_size": 0.5, "steps": 7, "until": until, "every": 7}
        asked.clear()


def test_a_plain_descent_converges_up_to_about_the_same_step(proved):
    eta = proved[0]
    plain = eta.converging(200)
    assert plain >= eta / 1.03
    until = float(eta.enclosure.gaps[1, -1] / eta.enclosure.gaps[0, 0])
    for step, reaches in ((plain, True), (1.031 * plain, False)):
        run = lf.gradient_descent(F, NET, step_size=step, steps=200, until=until)
        assert (run.result is lf.dynamics.Result.TARGET) is reaches


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_step_with_momentum_is_the_largest_that_is_proved(proved, nesterov):
    what = {"momentum": 0.5, "nesterov": nesterov}
    eta = lf.safe_step_size(F, NET, verified=True, until=1e-2, steps=200, **what)
    enc = eta.enclosure
    assert enc.result == "target proved" and enc.step_size == eta
    assert (enc.optimizer.momentum, enc.optimizer.nesterov) == (0.5, nesterov)
    rule = {"algorithm": "descent", "until": 1e-2, "steps": 200, **what}
    assert lf.enclose(F, NET, step_size=1.4 * eta, **rule).result != "target proved"
    # The edge of stability moves by 1 + μ, or by (1 + μ)/(1 + 2μ).
    assert (eta > proved[0]) != nesterov
    plain = eta.converging(200)
    assert plain >= eta / 1.03
    run = lf.gradient_descent(
        F, NET, step_size=plain, steps=200, until=float(enc.gaps[1, -1] / enc.gaps[0, 0]), **what
    )
    assert run.result is Result.TARGET


def test_momentum_needs_a_proof_and_a_proof_one_step_for_all_layers():
    with pytest.raises(ValueError, match=r"no step is certified for descent with momentum 0\.5.*verified=True"):
        lf.safe_step_size(F, NET, momentum=0.5)
    with pytest.raises(ValueError, match="one step for all layers, not with layer rates"):
        lf.safe_step_size(F, NET, verified=True, layer_rates=(1.0, 2.0))
    with pytest.raises(ValueError, match="momentum is 1"):
        lf.safe_step_size(F, NET, verified=True, momentum=1.0)
    with pytest.raises(ValueError, match="which is proved for MatrixFactorization"):
        lf.safe_step_size(lf.Completion(np.eye(2)), NET, verified=True, momentum=0.5)


def test_without_a_proof_the_reason_is_told_and_the_step_before_any_run_is_no_search():
    with pytest.raises(ValueError, match=r"no step size up to \S+ is proved to reach 1e-6 .* within 1 steps"):
        lf.safe_step_size(F, NET, verified=True, steps=1)
    eta = lf.safe_step_size(F, NET)
    assert not hasattr(eta, "enclosure") and eta == lf.safe_step_size(F, NET, steps=1)
