"""The phase plane, depth and the map of initialisations: every claim holds, and a wrong bound is caught."""

import numpy as np
import pytest

from linflow import bounds, plots
from linflow.experiments import depth, init_map, phase_plane

MODULES = (phase_plane, depth, init_map)


def silent(fraction, note=""):
    assert 0 <= fraction <= 1


def failed(module, seed=0):
    return [claim.text for claim in module.experiment.run(seed, silent).claims if not claim.passed]


def raised(function, factor):
    return lambda *args, **kwargs: factor * function(*args, **kwargs)


def finite(data):
    if isinstance(data, dict):
        return all(finite(value) for value in data.values())
    if isinstance(data, (list, tuple)):
        return all(finite(value) for value in data)
    return bool(np.isfinite(data).all())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.experiment.id)
def test_every_claim_holds(module, seed, monkeypatch):
    outcome = module.experiment.run(seed, silent)
    assert [claim.text for claim in outcome.claims if not claim.passed] == []
    assert len(outcome.claims) >= 7
    assert finite(outcome.data)
    monkeypatch.setattr(module, "gradient_flow", None)  # drawing never simulates
    with plots.style():
        fig = outcome.draw()
        fig.canvas.draw()
    assert 6.5 <= fig.get_figwidth() <= 7.2


@pytest.mark.parametrize(
    ("module", "name", "factor", "caught"),
    [
        (phase_plane, "scalar_exact", 1.001, ["No instantaneous rate is below"]),
        (depth, "scalar_exact", 1.001, ["is ever slower than", "is λ_min(T) of actual weights"]),
        (depth, "scalar", 1.5, ["never exceeds the exact"]),
        (init_map, "two_layer", 1.01, ["No guaranteed rate exceeds", "the bounds on the actual weights"]),
        (init_map, "balanced", 1.1, ["from the margin alone"]),
        (init_map, "two_layer", 1.3, ["begins slower than γ"]),
    ],
    ids=lambda value: getattr(value, "__name__", "").rpartition(".")[2] or None,
)
def test_a_bound_that_is_too_large_is_caught(module, name, factor, caught, monkeypatch):
    monkeypatch.setattr(bounds, name, raised(getattr(bounds, name), factor))
    texts = failed(module)
    assert [part for part in caught if not any(part in text for text in texts)] == []


def test_a_bound_that_is_too_small_is_caught(monkeypatch):
    monkeypatch.setattr(bounds, "scalar", raised(bounds.scalar, 0.5))
    texts = failed(depth)
    assert any("the closed bound is exact" in text for text in texts)
    assert any("exceeds λ^{L−1}" in text for text in texts)
    assert any("(L−1)!" in text for text in texts)


@pytest.mark.parametrize("d", [0.0, 1e-12, 3.0, -6.0])
def test_weights_of_an_imbalance_and_product(d):
    u, v = phase_plane.weights(d, 0.1)
    assert u * v == pytest.approx(0.1, rel=1e-15)
    assert (u - v) * (u + v) == pytest.approx(d, abs=1e-14)


@pytest.mark.parametrize("d", [0.0, 3.0, -6.0])
def test_the_closed_form_solves_the_flow(d):
    t, step = np.array([0.0, 0.1, 0.7]), 1e-6
    before, now, after = (phase_plane.exact_gap(t + h, d, 0.1) for h in (-step, 0.0, step))
    assert now[0] == pytest.approx((phase_plane.TARGET - 0.1) ** 2 / 2)
    product = phase_plane.TARGET - np.sqrt(2 * now)
    rate = (before - after) / (2 * step * now)
    assert rate == pytest.approx(2 * np.hypot(d, 2 * product), rel=1e-7)  # difference quotient: 1e-16/1e-6
