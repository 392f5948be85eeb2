"""Figures about small starts, depth and width: every claim holds at two seeds, and a wrong formula is caught."""

import numpy as np
import pytest

from linflow import plots
from linflow.experiments.figures import balanced_descent, exploding, greedy, small_start, sparse, width_map

MODULES = (small_start, greedy, exploding, width_map, balanced_descent, sparse)


def silent(fraction, note=""):
    assert 0 <= fraction <= 1


ONE_DRAW = {"sparse": {"seeds": "1"}, "greedy": {"draws": "1"}}


def run(module, seed):
    """Run a figure, with one draw where the shares of several would take long."""
    return module.experiment.run(
        seed, silent, module.experiment.settings.read(ONE_DRAW.get(module.experiment.id, {}))
    )


def failed(module, seed=0):
    return [claim.text for claim in run(module, seed).claims if not claim.passed]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.experiment.id)
def test_every_claim_holds(module, seed, monkeypatch):
    outcome = run(module, seed)
    assert [(claim.text, claim.observed) for claim in outcome.claims if not claim.passed] == []
    assert len(outcome.claims) >= 4 and not outcome.left_out
    for name in ("gradient_flow", "gradient_descent", "greedy_low_rank"):  # drawing never simulates
        monkeypatch.setattr(module, name, None, raising=False)
    with plots.style():
        fig = outcome.draw()
        fig.canvas.draw()
    assert 6.5 <= fig.get_figwidth() <= 7.4


def test_times_that_are_wrong_are_caught(monkeypatch):
    real = small_start.learning_times
    monkeypatch.setattr(small_start, "learning_times", lambda *args: 1.05 * np.asarray(real(*args)))
    texts = failed(small_start)
    for part in ("at log(σ/α² − 1)/(2σ)", "slope times σ", "steps·η over time"):
        assert any(part in text for text in texts), part


def test_modes_that_are_wrong_are_caught(monkeypatch):
    real = small_start.spectral
    monkeypatch.setattr(small_start, "spectral", lambda net, Y, t: 1.001 * real(net, Y, t))
    assert any("closed form" in text for text in failed(small_start))


def test_phases_and_bounds_that_are_wrong_are_caught(monkeypatch):
    low, high = greedy.symmetric_bounds, greedy.greedy_low_rank
    monkeypatch.setattr(greedy, "symmetric_bounds", lambda *args: [1.05 * x for x in low(*args)])
    monkeypatch.setattr(greedy, "greedy_low_rank", lambda f, rank, **_: high(f, rank, size=0.3, rest=0.3))
    texts = failed(greedy)
    for part in ("stay between bounds", "best completion of rank one"):
        assert any(part in text for text in texts), part


def test_eigenvalues_that_are_wrong_are_caught(monkeypatch):
    class Wrong(exploding.TangentOperator):
        def greatest_eigenvalue(self):
            return 1.2 * float(super().greatest_eigenvalue())

        def least_eigenvalue(self):
            return 0.7 * float(super().least_eigenvalue())

    monkeypatch.setattr(exploding, "TangentOperator", Wrong)
    texts = failed(exploding)
    for part in ("at least λ^{L−1}", "at least ε^{L−1}(L−1)!", "stable up to 2/λ_max(T)"):
        assert any(part in text for text in texts), part


def test_the_steps_of_infinite_width_are_those_of_one_linear_map():
    s = width_map.WidthMapSettings(kappa=2.0, until=1e-3)
    steps = width_map.WidthMapData(s, np.zeros((1, 1, 1))).wide
    residual = (1 - 1 / 6) ** steps  # each step of m/(3Lσ_max²) with T = (L/m) I, in the slowest direction
    assert residual**2 == pytest.approx(1e-3, rel=1e-12)
    assert width_map.WidthMapData(s, np.zeros((1, 1, 1))).asked()[0] == 2 * 4 * 8 * 2


def test_the_printed_step_and_a_start_without_margin(monkeypatch):
    # L = 2, ‖Φ‖ = 1, c = ½: c³/(6144·8); and with ‖Φ‖ = 2 the divisor grows by 2⁴.
    assert balanced_descent.printed_step(0.5, 1.0, 2) == pytest.approx(0.125 / 49152, rel=1e-15, abs=0)
    assert balanced_descent.printed_step(0.5, 2.0, 2) == pytest.approx(0.125 / 49152 / 16, rel=1e-15, abs=0)
    with pytest.raises(ValueError, match=r"start=0\.1 is too far from the target"):
        balanced_descent.compute(balanced_descent.BalancedDescentSettings(start=0.1), 0, silent)
    real = balanced_descent.printed_step
    monkeypatch.setattr(balanced_descent, "printed_step", lambda *args: 1.1 * real(*args))
    assert any("at the largest step that it allows" in text for text in failed(balanced_descent))
