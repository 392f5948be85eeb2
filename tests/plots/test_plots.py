"""The figures: what they draw is what was computed, guarantees lie on their side, and nothing overlaps."""

import itertools
import re
from functools import cache

import matplotlib
import numpy as np
import pytest

import linflow as lf
from linflow import plots
from linflow.plots.norm_plane import norm_bounds

RECORD = ("least_eigenvalue", "singular_values")
Y = np.diag([2.0, 1.5, 1.0])
F = lf.MatrixFactorization(Y)
SCALAR = lf.MatrixFactorization(np.array([[2.0]]))
SQUARE = lf.MatrixFactorization(np.eye(2))


@cache
def start(depth=3, seed=0):
    widths = (3, *(6,) * (depth - 1), 3)
    return lf.init.imbalanced(widths, [1.0, -1.0][: depth - 1], 0.3 * np.eye(3), rng=seed)


@cache
def flow(depth=3, seed=0):
    return lf.gradient_flow(F, start(depth, seed), until=1e-6, record=RECORD)


@cache
def cert(depth=3, seed=0):
    return lf.certify(F, start(depth, seed))


@cache
def descent(**options):
    return lf.gradient_descent(F, start(2), step_size=0.02, steps=200, **options)


@cache
def descent_cert():
    return lf.certify(F, start(2), algorithm="descent", step_size=0.02)


def scalars(u, v, scale=1.0):
    return lf.Network([np.array([[u]]), np.array([[v]])], scale)


@cache
def scalar_flow(u, v, scale=1.0):
    return lf.gradient_flow(SCALAR, scalars(u, v, scale), until=1e-8)


def few():
    return [flow(2), flow(3), flow(2, 1)]


EVERY = {
    "convergence": lambda **o: plots.convergence(flow(), cert(), **o),
    "convergence of three": lambda **o: plots.convergence(few(), [cert(2), None, cert(2, 1)], labels="abc", **o),
    "convergence of many": lambda **o: plots.convergence([flow(2, i % 4) for i in range(8)], **o),
    "convergence of a descent": lambda **o: plots.convergence(descent(), descent_cert(), **o),
    "rate": lambda **o: plots.rate(flow(), cert(), **o),
    "rate of three": lambda **o: plots.rate(few(), labels="abc", **o),
    "rate of a descent": lambda **o: plots.rate(descent(), descent_cert(), **o),
    "imbalance": lambda **o: plots.imbalance_spectrum(lf.init.gaussian((5, 90, 3), rng=0), **o),
    "imbalance without spread": lambda **o: plots.imbalance_spectrum(start(2), **o),
    "imbalances": lambda **o: plots.imbalance_spectrum(lf.init.gaussian((4, 9, 9, 3), rng=0), **o),
    "eigenvalues": lambda **o: plots.eigenvalues(flow(), **o),
    "eigenvalues of a descent": lambda **o: plots.eigenvalues(descent(record=RECORD), **o),
    "singular values": lambda **o: plots.singular_values(flow(), F, **o),
    "phase plane": lambda **o: plots.phase_plane(SCALAR, [scalar_flow(0.4, 0.2), scalar_flow(2.0, -1.0)], **o),
    "map": lambda **o: plots.init_map(SQUARE, points=15, **o),
    "map of rates": lambda **o: plots.init_map(SQUARE, points=15, show="rate", **o),
    "bounds": lambda **o: plots.bound_against_truth([0.5, 0.0, 3.0], [1.0, 1.0, 2.0], ["a", "b", "b"], **o),
}


def named(ax, start):
    return [line for line in ax.lines if str(line.get_label()).startswith(start)]


def data(line):
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


# ---------------------------------------------------------------- what holds for every figure


@pytest.mark.parametrize("name", EVERY)
def test_every_figure(name, monkeypatch):
    """Settings are left as they were, in a reader's odd ones as well; text is large enough, and none over another."""
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 33.0)
    monkeypatch.setitem(matplotlib.rcParams, "axes.grid", True)
    before = dict(matplotlib.rcParams)
    ax = EVERY[name]()
    assert dict(matplotlib.rcParams) == before
    assert ax.figure.get_figwidth() == 3.4
    assert ax.get_xlabel() and ax.get_ylabel()
    ax.figure.draw_without_rendering()
    texts = [ax.xaxis.label, ax.yaxis.label, *ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels()]
    if ax.get_legend() is not None:
        texts += ax.get_legend().get_texts()
    shown = [text for text in texts if text.get_visible() and text.get_text()]
    assert min(text.get_fontsize() for text in shown) >= 7
    assert not any(line.get_visible() for line in ax.get_xgridlines())
    if name != "map of rates":  # labels of contours lie along them
        # Trimmed by a tenth of their height: the boxes of text reach above and below its letters.
        boxes = [text.get_window_extent().padded(-1) for text in (*ax.texts, ax.xaxis.label, ax.yaxis.label)]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    whole = ax.figure.bbox.padded(1)
    assert all(whole.contains(*corner) for text in ax.texts for corner in text.get_window_extent().corners())


@pytest.mark.parametrize("name", EVERY)
def test_given_axes_are_returned_with_colours_for_their_paper(name):
    _, ax = plots.figure(4.0, theme="dark")
    assert EVERY[name](ax=ax) is ax
    ink = plots.THEMES["light"].ink
    assert ink not in {line.get_color() for line in ax.lines} | {text.get_color() for text in ax.texts}


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize("depth", [2, 3])
def test_convergence_draws_the_gap_below_its_guarantee(depth):
    run, its = flow(depth), cert(depth)
    ax = plots.convergence(run, its)
    (observed,), (promised,) = named(ax, "_run"), named(ax, "_guaranteed")
    t, y = data(observed)
    assert np.array_equal(y, run.gap_at(t) / run.gap[0])
    assert (t[0], t[-1]) == (0, run.t[-1]) and np.diff(t).max() < 0.01 * t[-1]
    assert observed.get_linestyle() == "-" and promised.is_dashed()
    assert np.array_equal(data(promised)[1], [its.gap_at(s) / run.gap[0] for s in t])
    assert (data(promised)[1] >= y * (1 - 1e-9)).all()  # the integrator's error in the gap at this tolerance
    assert {text.get_text() for text in ax.texts} == {"observed", "guaranteed"}
    assert len(ax.collections) == 1  # the tint between the two


def test_lines_on_given_axes_carry_labels_for_a_legend():
    _, ax = plots.figure(4.0)
    plots.convergence(flow(2), cert(2), ax, color="red", label="two")
    plots.convergence(flow(3), cert(3), ax, label="three")
    assert [text.get_text() for text in ax.legend().get_texts()] == ["two", "three"]
    assert named(ax, "_guaranteed")[0].get_color() == "red"
    assert not ax.texts and not ax.collections
    assert ax.get_xlim()[1] == max(flow(2).t[-1], flow(3).t[-1])


def test_curves_are_named_on_given_axes_when_asked():
    _, (left, right) = plots.figure("text", ncols=2)
    assert {t.get_text() for t in plots.convergence(flow(), cert(), left, named=True).texts} == {
        "observed",
        "guaranteed",
    }
    assert len(plots.singular_values(flow(), F, right, named=True).texts) == 3
    assert not plots.eigenvalues(flow(), named=False).texts


def test_runs_differ_in_colour_and_marker():
    ax = plots.convergence(few(), [cert(2), None, cert(2, 1)], labels=["a", "b", "c"])
    runs = [line for line in ax.lines if line.get_label() in "abc"]
    assert len({line.get_color() for line in runs}) == len({line.get_marker() for line in runs}) == 3
    for promised, run in zip(named(ax, "_guaranteed"), (runs[0], runs[2]), strict=True):
        assert (promised.get_color(), promised.get_marker()) == (run.get_color(), run.get_marker())
        assert promised.get_markerfacecolor() == plots.THEMES["light"].paper
    written = [t.get_text() for t in ax.texts] + [t.get_text() for t in ax.get_legend().get_texts()]
    assert {"a", "b", "c", "observed", "guaranteed"} <= set(written)


def test_one_certificate_serves_all_runs_of_a_start():
    other = lf.gradient_flow(F, start(), until=1e-3)
    ax = plots.convergence([flow(), other], cert())
    (promised,) = named(ax, "_guaranteed")
    assert promised.get_color() == plots.THEMES["light"].ink


def test_many_runs_show_their_median():
    runs = [flow(2, seed) for seed in range(7)]
    ax = plots.convergence(runs)
    t, y = data(*named(ax, "_median"))
    gaps = [run.gap_at(t[50]) / run.gap[0] for run in runs]
    assert y[50] == pytest.approx(np.median(gaps), rel=1e-3)  # between 600 instants of each run, linearly
    assert t[-1] == min(run.t[-1] for run in runs)
    assert len(named(ax, "_run")) == 7


def test_rate_is_the_slope_of_the_gap():
    run, its = flow(), cert()
    ax = plots.rate(run, its)
    t, y = data(*named(ax, "_run"))
    # Between its records a rate is known as well as the interpolation: compared where both are given.
    assert np.interp(run.t, t, y) == pytest.approx(run.rate, rel=1e-3)
    promised = data(*named(ax, "_guaranteed"))[1]
    assert (promised <= y * (1 + 1e-6)).all()  # the difference quotient over 10⁻⁷ of the run
    at, least = data(*named(ax, "_operator"))
    assert (least <= np.interp(at, t, y) * (1 + 1e-3)).all() and least == pytest.approx(2 * run.least_eigenvalue)


def test_axes_may_become_logarithmic():
    for ax in (plots.convergence(flow(), cert()), plots.rate(flow(), cert())):
        assert ax.get_xlim() == (0, flow().t[-1])
        ax.set(xscale="log", yscale="log")
        ax.figure.draw_without_rendering()
        assert 0 < ax.get_xlim()[0] < 1e-3 * flow().t[-1] and ax.get_ylim()[0] > 0


def test_no_bound_of_the_operator_without_gradient_dominance():
    f = lf.ExponentialLoss(np.eye(2), np.array([[1.0], [-1.0]]))
    net = lf.init.gaussian((2, 10, 1), rng=0)
    run = lf.gradient_flow(f, net, t_max=10.0, record=RECORD)
    ax = plots.rate(run, lf.certify(f, net))
    assert named(ax, "_guaranteed") and not named(ax, "_operator")


def test_rate_of_a_descent_is_the_mean_over_its_steps():
    run = descent()
    ax = plots.rate(run, descent_cert())
    _, y = data(*named(ax, "_run"))
    assert y == pytest.approx(-np.diff(np.log(run.gap)) / 0.02, rel=1e-9)  # rounding of the times
    assert (data(*named(ax, "_guaranteed"))[1] <= y * (1 + 1e-9)).all()


def falling(decades):
    """A flow whose rate falls by so many powers of ten, most of it at once: two modes, one of data far larger."""
    f = lf.LinearRegression(np.diag([10.0 ** (decades / 2), 1.0]), np.eye(2))
    net = lf.init.imbalanced((2, 6, 2), 1.0, np.zeros((2, 2)), rng=0)
    return lf.gradient_flow(f, net, until=1e-6), lf.certify(f, net)


def test_rates_that_fall_by_orders_of_magnitude_are_read_on_logarithmic_axes():
    run, its = falling(4)
    rate = np.asarray(run.rate)
    assert rate.max() > 1e3 * rate.min()
    ax = plots.rate(run, its)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    # The fast beginning is drawn, and every rate lies inside.
    t, y = data(*named(ax, "_run"))
    assert ax.get_xlim()[0] <= t[t > 0][0] * (1 + 1e-12)  # limits are rounded logarithms
    assert t[t > 0][0] <= run.t[1]
    low, high = ax.get_ylim()
    assert low < min(y.min(), data(*named(ax, "_guaranteed"))[1].min()) and y.max() < high
    ax.figure.draw_without_rendering()
    assert sum(low <= tick <= high for tick in ax.get_yticks()) >= 3
    # Nothing is chosen on the axes of others.
    _, other = plots.figure(4.0)
    assert plots.rate(run, its, other).get_yscale() == "linear"


def test_rates_that_differ_little_begin_at_zero():
    ax = plots.rate(flow(), cert())
    y = np.concatenate([data(line)[1] for line in ax.lines])
    assert y.max() < 30 * y.min()
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_ylim()[0]) == ("linear", "linear", 0)
    # In the thousands with a power of ten above the axis, not with all digits at every tick.
    f = lf.LinearRegression(200 * np.eye(2), np.ones((2, 2)))
    net = lf.init.imbalanced((2, 6, 2), 1.0, np.zeros((2, 2)), rng=0)
    ax = plots.rate(lf.gradient_flow(f, net, until=1e-3), lf.certify(f, net))
    ax.figure.draw_without_rendering()
    assert ax.get_yscale() == "linear" and ax.get_ylim()[1] > 1e4
    assert "10^" in ax.yaxis.get_offset_text().get_text()
    assert max(len(label.get_text()) for label in ax.get_yticklabels()) < 20  # with the markup of the font


def test_an_oscillating_descent_shows_its_rises():
    """A rate below zero is on the axis, however large the others are."""
    net = start(2)
    run = lf.gradient_descent(F, net, step_size=0.6 / F.smoothness, steps=60)
    assert (np.diff(run.gap) > 0).any()
    ax = plots.rate(run)
    assert ax.get_yscale() == "linear" and ax.get_ylim()[0] < 0


def test_a_schedule_is_guaranteed_by_its_steps():
    rule = lf.schedules.local_smoothness()
    net = lf.init.gaussian((3, 40, 3), std=0.5, rng=0)
    its = lf.certify(F, net, algorithm="descent", schedule=rule)
    run = lf.gradient_descent(F, net, schedule=rule, steps=60)
    assert its.best is not None
    ax = plots.convergence(run, its)
    promised = data(*named(ax, "_guaranteed"))[1]
    curve = its.best.curve
    assert promised == pytest.approx([curve.gap_after(k) / its.gap for k in range(len(run.t))])
    assert (promised >= run.gap / run.gap[0]).all()


def test_long_descents_are_thinned_and_keep_their_extremes():
    run = lf.gradient_descent(SCALAR, scalars(1.0, 1.0), step_size=0.51, steps=6000)  # oscillates about the optimum
    t, y = data(*named(plots.convergence(run), "_run"))
    assert len(t) < 2500 < len(run.t)
    late = run.t > 100 * 0.51
    # Through a logarithm and back.
    assert y[t > 100 * 0.51].max() == pytest.approx((run.gap / run.gap[0])[late].max(), rel=1e-12)
    assert y[t > 100 * 0.51].min() == pytest.approx((run.gap / run.gap[0])[late].min(), rel=1e-12)


def test_a_diverged_descent_is_drawn_as_far_as_it_is_finite():
    run = lf.gradient_descent(SCALAR, scalars(3.0, 3.0), step_size=2.0, steps=100)
    assert run.result is lf.Result.DIVERGED
    t, y = data(*named(plots.convergence(run), "_run"))
    assert np.isfinite(y).all() and len(t) >= 2


def test_a_run_from_the_minimum():
    run = lf.gradient_descent(F, [Y, np.eye(3)], step_size=0.1, steps=5, record=RECORD)
    with pytest.raises(ValueError, match="began at the minimum"):
        plots.convergence(run)
    assert len(named(plots.singular_values(run, F), "_mode")) == 3
    assert len(named(plots.eigenvalues(run), "_least")) == 1


# ---------------------------------------------------------------- spectra


@pytest.mark.parametrize("widths", [(5, 90, 3), (3, 4, 3), (1, 1, 1), (4, 2, 3)])
def test_imbalance_measures_the_gap_and_the_spreads(widths):
    net = lf.init.gaussian(widths, rng=1)
    spectrum = lf.imbalance_spectrum(net)
    ax = plots.imbalance_spectrum(net)
    top, bottom = (line.get_ydata() for line in ax.lines if line.get_label() == "_D")
    n, m = net.shape
    assert np.array_equal(top, spectrum.eigenvalues[:n])
    assert np.array_equal(bottom, spectrum.eigenvalues[len(top) :][-m:])
    lengths = [line.get_ydata()[0] - line.get_ydata()[1] for line in named(ax, "_measure")]
    # Rounding of differences of numbers of this size.
    wanted = [spectrum.positive_spread, spectrum.spectral_gap, spectrum.negative_spread]
    assert lengths == pytest.approx(wanted, abs=1e-12)
    for text, value in zip(ax.texts, wanted, strict=True):
        assert f"={value:.2f}$" in text.get_text()
    (band,) = [c for c in ax.collections if c.get_alpha() == 0.25]
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() - heights.min() == pytest.approx(spectrum.spectral_gap, abs=1e-12)
    same = plots.imbalance_spectrum(spectrum, n, m)
    assert [text.get_text() for text in same.texts] == [text.get_text() for text in ax.texts]


def test_small_measures_are_not_written_as_zero():
    net = lf.init.small((20, 8, 5), rng=0)
    spectrum = lf.imbalance_spectrum(net)
    assert 1e-6 < spectrum.positive_spread < 1e-2
    plus, _, minus = (text.get_text() for text in plots.imbalance_spectrum(net).texts)
    mantissa, exponent = f"{spectrum.positive_spread:.1e}".split("e")
    assert plus.endswith(rf"={mantissa}\cdot 10^{{{int(exponent)}}}$")
    assert not minus.endswith("=0.00$")
    assert plots.imbalance_spectrum(start(2)).texts[0].get_text().endswith("=0.00$")  # rounding


def test_measures_keep_off_the_axis():
    """No name of a spread that is 0 crosses the lower axis."""
    ax = plots.imbalance_spectrum(lf.init.ntk((20, 4, 5), rng=0))
    ax.figure.draw_without_rendering()
    for text in ax.texts:
        assert text.get_window_extent().y0 >= ax.get_window_extent().y0


def test_imbalances_of_deeper_networks():
    net = lf.init.gaussian((4, 9, 9, 3), rng=0)
    ax = plots.imbalance_spectrum(net)
    assert [text.get_text() for text in ax.texts] == ["$D_{1}$", "$D_{2}$"]
    ax = plots.imbalance_spectrum(net, layer=2)
    assert np.array_equal(ax.lines[0].get_ydata(), lf.imbalance_spectrum(net, 2).eigenvalues[:4])
    assert ax.get_ylabel() == "eigenvalue of $D_{2}$"


@pytest.mark.parametrize("depth", [2, 3])
def test_eigenvalues_lie_between_bound_and_greatest(depth):
    run = flow(depth)
    ax = plots.eigenvalues(run)
    (t, least), (_, most), (_, bound) = (data(*named(ax, name)) for name in ("_least", "_greatest", "_bound"))
    assert len(named(ax, "_inner")) == 9 - 2
    assert named(ax, "_bound")[0].is_dashed()
    assert (bound <= least * (1 + 1e-9)).all() and (least <= most).all()  # rounding of eigenvalues
    T = lf.TangentOperator(run.network_at(t[7]))
    assert (least[7], most[7]) == pytest.approx((float(T.least_eigenvalue()), float(T.greatest_eigenvalue())))
    # The record, against weights integrated anew between steps of tolerance 10⁻⁸.
    assert np.interp(run.t, t, least) == pytest.approx(run.least_eigenvalue, rel=2e-2)


def test_eigenvalues_are_those_the_objective_sees():
    X = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])  # the third row of the product is never seen
    f = lf.LinearRegression(X, np.eye(2))
    run = lf.gradient_flow(f, lf.init.gaussian((3, 8, 2), rng=0), until=1e-4, record=("least_eigenvalue",))
    least = data(*named(plots.eigenvalues(run), "_least"))[1]
    assert (least[0], least[-1]) == pytest.approx((run.least_eigenvalue[0], run.least_eigenvalue[-1]), rel=1e-6)


def test_large_operators_show_their_ends():
    f = lf.MatrixFactorization(np.eye(9))
    ax = plots.eigenvalues(lf.gradient_flow(f, lf.init.gaussian((9, 20, 9), rng=0), until=1e-2))
    assert not named(ax, "_inner") and named(ax, "_least") and named(ax, "_greatest")


def test_singular_values_reach_their_targets():
    run = flow()
    ax = plots.singular_values(run, F)
    modes, targets = named(ax, "_mode"), named(ax, "_target")
    for k, (mode, target) in enumerate(zip(modes, targets, strict=True)):
        t, y = data(mode)
        assert target.is_dashed() and not mode.is_dashed()
        assert target.get_ydata()[0] == pytest.approx(sorted(np.diag(Y))[::-1][k])
        assert y[-1] == pytest.approx(target.get_ydata()[0], rel=1e-2)  # at 10⁻⁶ of the initial gap
        assert y[np.searchsorted(t, run.t)] == pytest.approx(run.singular_values[:, k])
        assert len(t) > 200
    assert {text.get_text() for text in ax.texts} == {r"$\sigma_1$", r"$\sigma_2$", r"$\sigma_3$"}


# ---------------------------------------------------------------- planes


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_phase_plane_keeps_the_imbalance_and_meets_the_optima(scale):
    ax = plots.phase_plane(SCALAR, scalar_flow(2.0, -1.0, scale))
    u, v = data(*named(ax, "_run"))
    assert u**2 - v**2 == pytest.approx(3.0, rel=1e-6)  # conserved up to the tolerance of the integration
    assert scale * u[-1] * v[-1] == pytest.approx(2.0, rel=1e-3)  # at 10⁻⁸ of the initial gap
    for line in named(ax, "_optima"):
        assert scale * np.prod(data(line), axis=0) == pytest.approx(2.0)
    for line in named(ax, "_level"):
        x, y = data(line)
        assert x**2 - y**2 == pytest.approx(3.0)
    texts = [text.get_text() for text in ax.texts]
    assert "$d=3$" in texts and (r"$uv=w^\ast$" if scale == 1 else r"$c\,uv=w^\ast$") in texts


@pytest.mark.parametrize("target", [0.0, -1.5])
def test_phase_plane_of_other_targets(target):
    f = lf.MatrixFactorization(np.array([[target]]))
    ax = plots.phase_plane(f, imbalances=[1.0, -2.0], reach=3.0)
    assert ax.get_xlim() == (-3.0, 3.0) and len(named(ax, "_level")) == 4
    assert named(ax, "_optima")


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (1, 1), (2, 3)])
def test_the_map_never_promises_more_than_runs_keep(shape):
    rng = np.random.default_rng(5)
    W = rng.standard_normal(shape)
    U, _, Vt = np.linalg.svd(W, full_matrices=False)
    f = lf.MatrixFactorization(U @ np.diag(np.linspace(1.0, 1.3, min(shape))) @ Vt)
    axis = np.linspace(0, 2.2, 12)
    alphas = norm_bounds(f, axis, axis[:, None])
    for i, j in rng.integers(1, 12, (12, 2)):
        a, b = axis[j], axis[i]
        net = lf.init.spectral((shape[0], 6, shape[1]), f.minimizer, [a, b], rng=rng)
        run = lf.gradient_flow(f, net, until=1e-6, record=("least_eigenvalue",))
        for name, alpha in alphas.items():
            assert alpha[i, j] <= run.least_eigenvalue.min() * (1 + 1e-6) + 1e-9, name  # the integration's error
        held = lf.margin(f, net)
        actual = lf.bounds.two_layer(
            lf.imbalance_matrices(net)[0], *shape,
            held if shape[0] <= shape[1] else 0.0, held if shape[1] <= shape[0] else 0.0,
        )  # fmt: skip
        # Equal but for rounding: that of imbalances of weights near 0, under a square root.
        assert alphas["both"][i, j] == pytest.approx(float(actual), rel=1e-6, abs=1e-6)
    assert (alphas["both"] >= alphas["imbalance"] - 1e-12).all()
    assert ("margin" in alphas) == (shape[0] == shape[1])


def test_map_draws_runs_by_their_norms():
    net = lf.init.spectral((2, 4, 2), np.eye(2), [1.4, 0.3], rng=0)
    ax = plots.init_map(SQUARE, lf.gradient_flow(SQUARE, net, until=1e-8), points=15)
    a, b = data(*named(ax, "_run"))
    assert (a[0], b[0]) == pytest.approx((1.4, 0.3))
    assert a**2 - b**2 == pytest.approx(1.4**2 - 0.3**2, rel=1e-6)
    assert a[-1] * b[-1] == pytest.approx(1.0, rel=1e-3)  # at 10⁻⁸ of the initial gap
    texts = {text.get_text() for text in plots.init_map(SQUARE, points=41).texts}
    assert {"imbalance", "margin", "either", "neither", "balanced"} <= texts


# ---------------------------------------------------------------- bounds


def offsets(ax, name):
    return [np.asarray(c.get_offsets()) for c in ax.collections if c.get_label() == name]


def test_violations_are_marked_and_others_are_not():
    truths = np.array([1.0, 2.0, 3.0, 4.0])
    ax = plots.bound_against_truth(truths * [1.0, 1 + 1e-12, 1.01, 0.5], truths)
    (marked,) = offsets(ax, "_violations")
    assert marked.tolist() == [[3.0, 3.0 * 1.01]]
    assert [text.get_text() for text in ax.texts] == ["1 violation"]
    clean = plots.bound_against_truth(truths, truths)
    assert not clean.texts and not offsets(clean, "_violations")
    assert len(offsets(clean, "_bounds")[0]) == 4


def test_bounds_of_zero_lie_on_the_lower_edge():
    ax = plots.bound_against_truth([0.0, 0.5, 1e-30], [1.0, 1.0, 2.0])
    (below,) = offsets(ax, "_below")
    assert np.array_equal(below, [[1.0, ax.get_ylim()[0]], [2.0, ax.get_ylim()[0]]])
    alone = plots.bound_against_truth([0.0], [1.0])
    alone.figure.draw_without_rendering()
    assert len(offsets(alone, "_below")[0]) == 1


def test_groups_differ_in_marker_and_colour():
    ax = plots.bound_against_truth({"ours": [0.9, 1.0], "theirs": [0.1, 0.2]}, [1.0, 2.0])
    ours, theirs = (next(c for c in ax.collections if c.get_label() == name) for name in ("ours", "theirs"))
    assert not np.array_equal(ours.get_facecolor(), theirs.get_facecolor())
    assert not np.array_equal(ours.get_paths()[0].vertices, theirs.get_paths()[0].vertices)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ours", "theirs"]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: plots.convergence(start()), TypeError, "run is a Network; a Trajectory"),
        (lambda: plots.convergence([flow(), 3]), TypeError, "run 1 is an int"),
        (lambda: plots.convergence([]), ValueError, "no runs"),
        (lambda: plots.rate(flow(), 0.5), TypeError, "cert is a float; a Certificate"),
        (lambda: plots.rate(flow(), [0.5]), TypeError, "cert 0 is a float"),
        (lambda: plots.rate([flow(), flow(2)], [cert()]), ValueError, "1 certificates for 2 runs"),
        (
            lambda: plots.rate(flow(2), lf.certify(SQUARE, [np.eye(2)] * 2)),
            ValueError,
            "certify the start of the run",
        ),
        (lambda: plots.rate(flow(2), descent_cert()), ValueError, "is a flow, but its certificate is for a descent"),
        (
            lambda: plots.rate(lf.gradient_descent(F, start(2), step_size=0.01, steps=2), descent_cert()),
            ValueError,
            "took the step 0.01, but its certificate is for the constant step 0.02",
        ),
        (lambda: plots.convergence(flow(), labels=["a", "b"]), ValueError, "2 labels for 1 run;"),
        (
            lambda: plots.convergence(lf.gradient_flow_many(F, [start(), [np.eye(2)] * 2], until=0.5)),
            TypeError,
            "run 1 failed (ValueError",
        ),
        (
            lambda: plots.singular_values(lf.gradient_flow(F, start(2), until=0.5)),
            ValueError,
            "run has no record of singular values; pass record=('singular_values',) to gradient_flow",
        ),
        (lambda: plots.singular_values(descent(), F), ValueError, "to gradient_descent"),
        (
            lambda: plots.eigenvalues(descent()),
            ValueError,
            "run has no record of the least eigenvalue; pass record=('least_eigenvalue',) to gradient_descent",
        ),
        (lambda: plots.imbalance_spectrum([np.eye(2)]), ValueError, "a single layer has no imbalance"),
        (lambda: plots.imbalance_spectrum(start(), layer=3), ValueError, "layer is 3"),
        (lambda: plots.imbalance_spectrum(start(), 3, 3), ValueError, "n and m follow from the network"),
        (lambda: plots.imbalance_spectrum(lf.imbalance_spectrum(start())), ValueError, "n and m, the sides"),
        (lambda: plots.imbalance_spectrum(lf.imbalance_spectrum(start()), 3, 3, layer=1), ValueError, "leave it out"),
        (lambda: plots.phase_plane(Y), TypeError, "objective is a ndarray; an Objective"),
        (lambda: plots.phase_plane(F), ValueError, "has a 3×3 product; 1×1 is needed"),
        (lambda: plots.phase_plane(SCALAR, flow()), ValueError, "two layers of 1×1"),
        (
            lambda: plots.phase_plane(SCALAR, lf.gradient_descent(SCALAR, scalars(1.0, 1.0), step_size=0.1, steps=3)),
            ValueError,
            "is a descent, which keeps no weights",
        ),
        (
            lambda: plots.phase_plane(SCALAR, [scalar_flow(2.0, -1.0), scalar_flow(2.0, -1.0, 0.5)]),
            ValueError,
            "output scales [0.5, 1.0]",
        ),
        (lambda: plots.init_map(F, flow(3)), ValueError, "has 3 layers; the plane is for two"),
        (lambda: plots.init_map(SQUARE, show="all"), ValueError, "'regions', 'rate'"),
        (
            lambda: plots.init_map(lf.ExponentialLoss(np.eye(2), np.array([[1.0], [-1.0]]))),
            ValueError,
            "no strong convexity or no known minimiser",
        ),
        (lambda: plots.bound_against_truth([1.0], [1.0, 2.0]), ValueError, "1 bound is given for 2 truths"),
        (
            lambda: plots.bound_against_truth({"a": [1.0]}, [1.0, 2.0]),
            ValueError,
            "1 bound is given as 'a' for 2 truths",
        ),
        (lambda: plots.bound_against_truth([1.0], [0.0]), ValueError, "not positive"),
        (lambda: plots.bound_against_truth([np.nan], [1.0]), ValueError, "bounds holds NaN"),
        (lambda: plots.bound_against_truth([], []), ValueError, "no bounds to draw"),
        (lambda: plots.bound_against_truth([1.0], [1.0], ["a", "b"]), ValueError, "2 labels for 1 bound;"),
        (lambda: plots.bound_against_truth({"a": [1.0]}, [1.0], ["a"]), ValueError, "names already"),
    ],
)
def test_errors_say_what_is_needed(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call()


def test_rates_decades_apart_are_on_a_logarithmic_axis():
    X = np.random.default_rng(0).standard_normal((40, 3)) * [30.0, 1.0, 0.5]
    f, net = lf.LinearRegression(X, np.ones((40, 2))), lf.init.ntk((3, 20, 2), rng=0)
    wide = plots.rate(lf.gradient_flow(f, net), lf.certify(f, net))
    assert wide.get_yscale() == "log"
    names = {text.get_text(): text.xy[1] for text in wide.texts}
    assert names["observed"] == wide.lines[0].get_ydata()[-1]
    assert plots.rate(flow(), cert()).get_yscale() == "linear"


def test_a_run_from_a_file_is_drawn_from_its_records(tmp_path):
    """It keeps no weights between its ends, so that nothing can be computed of those in between."""
    f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.init.gaussian((2, 5, 2), rng=0)
    run = lf.gradient_flow(f, net, until=1e-2, record=("least_eigenvalue", "singular_values"))
    run.save(tmp_path / "run.nc")
    back = lf.load(tmp_path / "run.nc")
    assert run.objective is f and back.objective is None
    for objective in (None, f):
        _, least = data(*named(plots.eigenvalues(back, objective), "_least"))
        np.testing.assert_array_equal(least, run.least_eigenvalue)
        _, modes = data(*named(plots.singular_values(back, objective), "_mode 1"))
        np.testing.assert_array_equal(modes, run.singular_values[:, 0])
    lf.gradient_flow(f, net, until=1e-2).save(tmp_path / "bare.nc")
    with pytest.raises(ValueError, match=r"no record of the least eigenvalue; .* to gradient_flow"):
        plots.eigenvalues(lf.load(tmp_path / "bare.nc"))
    with pytest.raises(ValueError, match="run 0 was read from a file, which keeps no weights along the way"):
        plots.init_map(f, [back])
