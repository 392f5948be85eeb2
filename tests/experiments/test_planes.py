"""The phase plane, depth and the map of initialisations: every claim holds, and a wrong bound is caught."""

from dataclasses import replace

import numpy as np
import pytest

import linflow as lf
from linflow import bounds, plots
from linflow.experiments.figures import convergence, depth, init_map, phase_plane, spectrum
from linflow.experiments.figures._runs import axis_claims

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


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
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
        (init_map, "two_layer", 1.3, ["whose first rate is below γ"]),
    ],
    ids=lambda value: getattr(value, "__name__", "").rpartition(".")[2] or None,
)
def test_a_bound_that_is_too_large_is_caught(module, name, factor, caught, monkeypatch):
    monkeypatch.setattr(bounds, name, raised(getattr(bounds, name), factor))
    texts = failed(module)
    assert [part for part in caught if not any(part in text for text in texts)] == []


def test_the_axes_of_the_phase_plane():
    outcome = phase_plane.experiment.run(0, silent)
    plane, loss = outcome.draw().axes
    f = lf.MatrixFactorization([[phase_plane.TARGET]])
    for line in plane.lines:  # the level set of 3, drawn broken on either side
        u, v = line.get_data()
        d = np.array([lf.imbalance_matrices([[[a]], [[b]]])[0][0, 0] for a, b in zip(u, v, strict=True)])
        if line.get_linestyle() == "--":
            level = 3.0 if np.max(d) > 1 else 0.0
            assert d == pytest.approx(level, abs=1e-12)  # rounding of squares of 10
    broken = [line for line in loss.lines if line.get_linestyle() == "--" and len(line.get_xdata()) == 2]
    settings = phase_plane.PhasePlaneSettings()
    for line, d in zip(broken, settings.d, strict=True):
        (_, t), (_, y) = line.get_data()
        u, v = phase_plane.weights(d, settings.product)
        # The allowances for rounding that a certificate makes.
        assert -np.log(y) / t == pytest.approx(lf.certify(f, [[[u]], [[v]]]).rate, rel=1e-9)


def test_the_axes_of_depth():
    outcome = depth.experiment.run(0, silent)
    curves = outcome.draw().axes[2].lines
    named = {text.get_text(): line for text, line in zip(outcome.draw().axes[2].texts, curves, strict=True)}
    for text, above in ((r"$\alpha^\ast$, steps of $\varepsilon$", lambda L: np.arange(1.0, L)),
                        (r"$\alpha^\ast$, others at $\lambda$", lambda L: np.ones(L - 1))):  # fmt: skip
        for L, y in zip(*named[text].get_data(), strict=True):
            offsets = depth.DepthSettings().step * np.append(0.0, above(int(L)))
            net = lf.init.imbalanced((1,) * (int(L) + 1), (-np.diff(offsets)).tolist(), np.eye(1))
            # Rounding of the weights, which a product of eight of them multiplies.
            assert y == pytest.approx(float(lf.TangentOperator(net).least_eigenvalue()), rel=1e-10)
    assert named[r"$\lambda^{L-1}$"].get_ydata() == pytest.approx([1.25 ** (L - 1) for L in range(2, 9)])


def test_the_map_of_initialisations_says_which_rate_it_shows():
    """`certify` may promise more than the two-layer bound: the bar names the bound, the table has both."""
    outcome = init_map.experiment.run(0, silent)
    regions, *_, bar = outcome.draw().axes
    assert {"imbalance", "margin", "either", "neither"} <= {text.get_text() for text in regions.texts}
    assert bar.get_ylabel() == r"rate of the two-layer bound over $\gamma$"
    (table,) = outcome.tables
    for row in table.rows:
        values = dict(zip(table.columns, row, strict=True))
        net = lf.init.spectral((2, 4, 2), np.eye(2), row[:2], rng=5)
        rate = lf.certify(lf.MatrixFactorization(np.eye(2)), net).rate
        assert values["certified"] == pytest.approx(rate, rel=1e-6)  # another Q
        assert values["both"] <= values["certified"] * (1 + 1e-9)


@pytest.mark.parametrize("module", [spectrum, convergence])
def test_a_drawing_of_other_numbers_is_caught(module, monkeypatch):
    if module is spectrum:
        real = spectrum.imbalance_spectrum

        def twice(net):
            found = real(net)
            return replace(found, spectral_gap=2 * found.spectral_gap)

        monkeypatch.setattr(spectrum, "imbalance_spectrum", twice)
        assert sum("drawn are those of `imbalance_matrices`" in text for text in failed(module)) == 2
    else:
        real = convergence.gradient_flow
        monkeypatch.setattr(
            convergence, "gradient_flow", lambda *args, **kw: replace(run := real(*args, **kw), rate=2 * run.rate)
        )
        assert any(text.startswith("The rate drawn is") for text in failed(module))


def test_losses_and_rates_are_compared_with_the_weights():
    f, other = lf.MatrixFactorization(np.eye(2)), lf.MatrixFactorization(1.01 * np.eye(2))
    run = lf.gradient_flow(f, lf.init.gaussian((2, 6, 2), rng=0), until=1e-4)
    assert all(claim.passed for claim in axis_claims(f, [run]))
    assert not any(claim.passed for claim in axis_claims(other, [run]))
    assert len(axis_claims(f, [run], rate=False)) == 1


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


def test_several_draws_of_each_width_give_medians_and_other_settings_leave_claims_out():
    kind = convergence.ConvergenceSettings
    settings = kind.read({"h": "40,12", "seeds": "3", "t_max": "0.3", "eta": "0.01", "n": "4", "m": "3"})
    outcome = convergence.experiment.run(0, silent, settings)
    assert [claim.text for claim in outcome.claims if not claim.passed] == []
    assert [one.reason for one in outcome.left_out] == [
        "stated for other settings: n = 4, not 20, m = 3, not 5, t_max = 0.3, not 3"
    ]
    (table,) = outcome.tables
    rng = np.random.default_rng(0)
    Y = rng.standard_normal((4, 3))
    f = lf.MatrixFactorization(0.1 * Y / np.linalg.norm(Y))
    for h, row in zip((40, 12), table.rows, strict=True):
        rates = [lf.certify(f, lf.init.ntk((4, h, 3), rng=rng)).rate for _ in range(3)]
        assert row[:2] == (h, pytest.approx(np.median(rates), rel=1e-12, abs=0))  # the same sums
    fig = outcome.draw()
    assert [text.get_text() for text in fig.axes[0].get_legend().get_texts()] == ["$h = 40$", "$h = 12$", "certified"]


def test_a_step_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="eta=5 is larger than t_max=3; one step or more is needed"):
        convergence.ConvergenceSettings.read({"eta": "5"})
