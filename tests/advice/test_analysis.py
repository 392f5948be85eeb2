"""What is said of a start and its run: each finding on inputs made for it, and on inputs that must not have it."""

import copy
import dataclasses
import itertools
import math
import pickle
import re
import types
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow._support import checks
from linflow.advice.diagnosis import LARGEST, _hold, _published, _width, findings
from linflow.advice.finding import times
from linflow.advice.step_findings import on_steps
from linflow.experiments import analysis
from linflow.experiments.schema import experiment
from linflow.pages import analysis as analysis_page
from linflow.pages.typesetting import typeset

EYE = lf.MatrixFactorization(2 * np.eye(2))


def of(objective, network, *, run=None, until=1e-6, redraw=None, **how):
    found = findings(lf.certify(objective, network, **how), run, until, redraw)
    for finding in found:
        assert not re.search(r"\b(nan|inf)\b", finding.text)
        assert "\n" not in finding.text
        assert all(math.isfinite(x) for x in finding.numbers.values()), finding
    return {finding.kind: finding for finding in found}


def homogeneous(d=3.0, product=None):
    return lf.init.imbalanced((2, 4, 2), d, 1.9 * np.eye(2) if product is None else product, rng=0)


def test_the_rate_and_the_run():
    net = homogeneous()
    cert, run = lf.certify(EYE, net), lf.gradient_flow(EYE, net, until=1e-8)
    found = of(EYE, net, run=run)["rate"]
    assert found.numbers["certified_time"] == cert.time_to(1e-6)
    assert found.numbers["observed_time"] == run.time_to(1e-6)
    assert f"{cert.time_to(1e-6):.4g}" in found.text
    assert f"{run.time_to(1e-6):.4g}" in found.text
    short = of(EYE, net, run=lf.gradient_flow(EYE, net, until=0.5))["rate"]
    assert short.numbers["left"] == pytest.approx(0.5)  # where the run was told to stop
    assert "the run ended before" in short.text
    assert "run" not in of(EYE, net)["rate"].text
    # One that was told to stop at the target has reached it, though it may have landed a little above.
    runs = [
        (start, lf.gradient_flow(EYE, start, until=1e-6)) for start in (homogeneous(0.5 * d) for d in range(1, 21))
    ]
    above = [(start, run) for start, run in runs if run.gap[-1] > 1e-6 * run.gap[0]]
    assert above  # by rounding, about half of them
    for start, run in [*above[:4], *runs[:8]]:
        assert "the run did so at t =" in of(EYE, start, run=run)["rate"].text
    nothing = of(EYE, homogeneous(0.0, -9 * np.eye(2)))["rate"]
    assert nothing.text.startswith("Nothing is certified")


def test_where_the_rate_comes_from():
    net = homogeneous()
    numbers = of(EYE, net)["hold"].numbers
    # γ = 2, and T of two layers has a closed form; rounding of eigenvalues of size 10.
    first, last = (
        np.linalg.eigvalsh(A)[0] for A in (net.weights[0] @ net.weights[0].T, net.weights[1].T @ net.weights[1])
    )
    assert numbers["at_start"] == pytest.approx(2 * (first + last), rel=1e-12)
    assert numbers["certified"] <= numbers["at_start"]
    assert numbers["imbalance_alone"] == pytest.approx(2 * 3.0, rel=1e-9)  # the gap is d = 3, to the allowance
    assert numbers["margin"] == lf.margin(EYE, net)
    far = of(EYE, homogeneous(product=-9 * np.eye(2)))["hold"]
    assert far.numbers["margin"] == 0
    assert "too far" in far.text
    # Spread that is rounding is none.
    assert of(EYE, homogeneous(0.0))["hold"].numbers["spread"] == 0
    assert "hold" not in of(lf.LogisticLoss(np.eye(2), np.array([[1.0], [-1.0]])), lf.init.gaussian((2, 4, 1), rng=0))


def test_spread_is_blamed_where_it_costs_the_rate_and_nowhere_else():
    spread = lf.init.with_imbalance(np.diag([40.0, 0.0, -40.0]), 1.9 * np.eye(2))
    found = of(EYE, spread)["spread"]
    s, safe = lf.imbalance_spectrum(spread), lf.margin(EYE, spread)
    assert found.numbers["without_spread"] == pytest.approx(2 * math.hypot(s.spectral_gap, 2 * safe))  # γ = 2, n = m
    assert found.numbers["with_spread"] == 2 * float(lf.bounds.best(spread, sigma_min=safe).value)
    assert found.numbers["without_spread"] >= 2 * found.numbers["with_spread"]
    # The same gap and product without the spread: what the text says would be had, is.
    plain = lf.init.with_imbalance(np.diag([s.spectral_gap, s.spectral_gap, 0.0]), 1.9 * np.eye(2))
    assert 2 * float(lf.bounds.best(plain, sigma_min=safe).value) >= found.numbers["without_spread"] * (1 - 1e-6)
    assert "spread" not in of(EYE, homogeneous())
    # Without a margin the bound is the gap, whatever the spread; a balanced start has none but rounding.
    assert "spread" not in of(EYE, lf.init.with_imbalance(np.diag([40.0, 0.0, -40.0]), -9 * np.eye(2)))
    assert "spread" not in of(EYE, homogeneous(0.0))


def test_narrow_layers():
    found = of(EYE, lf.init.gaussian((2, 1, 2), rng=0))
    assert found["narrow"].numbers == {"width": 1.0, "needed": 2.0}
    limit = found["rate"].numbers["limit"]
    assert (
        f"guaranteed to fall to {limit:.4g}, 94% of its initial value, at rate 0.7758 (low rank)"
        in found["rate"].text
    )
    assert "hold" not in found
    assert "narrow" not in of(EYE, homogeneous())
    # With a single direction of data one unit is enough.
    f = lf.LinearRegression(np.array([[1.0, 1.0], [2.0, 2.0]]), np.ones((2, 2)))
    assert "narrow" not in of(f, lf.init.gaussian((2, 1, 2), rng=0))


def test_width_is_tried_and_not_guessed():
    Y = 0.1 * np.random.default_rng(0).standard_normal((6, 4))
    f = lf.MatrixFactorization(Y)
    draw = {k: lf.init.ntk((6, 8 * k, 4), rng=0) for k in (1, 2, 4, 8)}
    rate = {k: lf.certify(f, net).rate for k, net in draw.items()}
    found = of(f, draw[1], redraw=draw.get)["width"]
    first = next(k for k in (2, 4, 8) if rate[k] >= 2 * rate[1])
    assert (found.numbers["factor"], found.numbers["rate"]) == (first, rate[first])
    assert str(8 * first) in found.text
    assert "width" not in of(f, draw[1])  # weights that were given cannot be drawn wider
    same = of(EYE, homogeneous(), redraw=lambda k: homogeneous())["width"]
    assert same.numbers == {"tried": 8.0}
    # Wider than can be certified in a while is not tried.
    one, side = lf.MatrixFactorization(np.ones((1, 1))), math.isqrt(int(LARGEST)) // 2 + 1
    deep = lf.Network([np.ones((1, side)), np.ones((side, side)), np.ones((side, 1))])
    asked = []
    cert = types.SimpleNamespace(algorithm="flow", schedule=None, start=deep, objective=one)
    list(_width(cert, cert, 1e-6, asked.append))
    assert asked == []
    # Of a loss that falls more slowly than exponentially, times are compared.
    x, y = np.array([[1.0, 0.2], [-1.0, 0.3]]), np.array([[1.0], [-1.0]])
    slow = lf.LogisticLoss(x, y)
    starts = {k: lf.init.imbalanced((2, 4, 1), -1.0 * k, np.zeros((2, 1)), rng=0) for k in (1, 2, 4, 8)}
    found = of(slow, starts[1], until=0.5, redraw=starts.get)["width"]
    assert "of the gap by t" in found.text


def test_rescaling():
    small = lf.init.imbalanced((2, 4, 2), 0.01, np.zeros((2, 2)), rng=0)
    found = of(EYE, small)["rescale"]
    assert found.numbers["factor"] == 4.0
    bigger = lf.Network([4.0 * W for W in small.weights])
    assert found.numbers["rate"] == lf.certify(EYE, bigger).rate
    assert "rescale" not in of(lf.MatrixFactorization(np.eye(1)), [np.eye(1)])  # one layer: T is the identity


def test_a_change_of_the_start_says_what_it_does_to_steps():
    rng = np.random.default_rng(0)
    f = lf.LinearRegression(rng.standard_normal((100, 8)) / 10, rng.standard_normal((100, 3)) / 10)
    draw = {k: lf.init.ntk((8, 64 * k, 64 * k, 3), rng=0) for k in (1, 2, 4, 8)}
    found = of(f, draw[1], redraw=draw.get)

    def steps(net):
        return lf.certify(f, net, algorithm="descent").steps_to(1e-6)

    now = steps(draw[1])
    # Every layer times 4: 260 times the rate of the flow, and nothing for descent.
    four = lf.Network([4 * W for W in draw[1].weights], draw[1].scale)
    numbers = found["rescale"].numbers
    assert (numbers["factor"], numbers["steps"], numbers["steps_now"]) == (4.0, steps(four), now)
    assert (
        f"gains almost nothing: {steps(four):,} steps would be certified, instead of {now:,} now"
        in found["rescale"].text
    )
    assert found["width"].numbers["steps"] == steps(draw[8])
    assert f"gains a factor of {times(now / steps(draw[8]))}: {steps(draw[8]):,} steps" in found["width"].text
    assert "gains a factor of" in found["design"].text
    # More steps are told too, none at all, and steps where there were none.
    few, many, none = (types.SimpleNamespace(steps_to=lambda until, k=k: k) for k in (20, 50, math.inf))
    assert (
        on_steps(many, few, 1e-6)[0]
        == " Gradient descent loses a factor of 2.5: 50 steps would be certified, instead of 20 now."
    )
    assert on_steps(few, few, 1e-6)[0] == " Gradient descent gains nothing: 20 steps would be certified, as now."
    assert on_steps(none, few, 1e-6)[0].endswith("no number of steps would be certified, instead of 20 now.")
    assert on_steps(few, none, 1e-6)[0].endswith("20 steps would be certified, instead of none now.")
    assert on_steps(none, none, 1e-6) == ("", {})


def test_findings_of_a_descent_are_about_steps():
    rng = np.random.default_rng(0)
    f = lf.LinearRegression(rng.standard_normal((100, 8)) / 10, rng.standard_normal((100, 3)) / 10)
    draw = {k: lf.init.ntk((8, 64 * k, 3), rng=0) for k in (1, 2, 4, 8)}
    eta = 1e-2
    cert = lf.certify(f, draw[1], algorithm="descent", step_size=eta)
    run = lf.gradient_descent(f, draw[1], step_size=eta, steps=5000, until=1e-6)
    found = of(f, draw[1], run=run, redraw=draw.get, algorithm="descent", step_size=eta)
    rate, sure = found["rate"], cert.steps_to(1e-6)
    assert f"in {sure:,} steps of 0.01 (descent, any depth); the run took {run.stats.steps:,} steps" in rate.text
    assert (rate.numbers["certified_steps"], rate.numbers["observed_steps"]) == (sure, run.stats.steps)
    assert rate.numbers["step_size"] == eta
    short = lf.gradient_descent(f, draw[1], step_size=eta, steps=5)
    assert (
        "the run ended before that, after 5 steps, with"
        in of(f, draw[1], run=short, algorithm="descent", step_size=eta)["rate"].text
    )
    # Starts are compared at their best steps, and that is said besides.
    best = {k: lf.certify(f, net, algorithm="descent") for k, net in draw.items()}
    wide = next(k for k in (2, 4, 8) if best[k].steps_to(1e-6) * 2 <= best[1].steps_to(1e-6))
    assert found["width"].numbers["factor"] == wide
    assert f"{best[wide].steps_to(1e-6):,} steps of {best[wide].step_size:.3g}, not" in found["width"].text
    assert f"which is guaranteed to reach the target in {best[1].steps_to(1e-6):,} steps" in found["step"].text
    made = lf.design(f, draw[1].widths, algorithm="descent", until=1e-6, scale=draw[1].scale, rng=0)
    assert found["design"].numbers["least_steps"] == made.least_steps  # which the design comes near
    assert found["design"].numbers["steps_now"] == best[1].steps_to(1e-6)
    # A step that is the best to 1 % is no news, however many digits tell them apart.
    assert "step" not in of(f, draw[1], algorithm="descent", step_size=1.001 * best[1].step_size)
    two = lf.init.ntk((8, 64, 3), rng=0)
    rule = lf.schedules.xu2025(f, two)
    by = of(f, two, algorithm="descent", schedule=rule)["rate"]
    assert f"steps by {rule!r}" in by.text


def test_numbers_that_are_told_apart_are_apart():
    for a, b in ((2.0801, 2.0849), (1.246e-7, 1.2457e-7), (1.0, 1.0 + 1e-15), (3.0, 3.0)):
        texts = checks.differing_texts(a, b)
        assert (texts[0] == texts[1]) == (a == b)
    # A gap that a change leaves as it is to three digits stays.
    small = lf.init.imbalanced((2, 4, 2), 0.01, np.zeros((2, 2)), rng=0)
    text = of(EYE, small)["rescale"].text
    assert not re.search(r"would be ([\d.e+-]+), not \1\b", text) and "the initial loss gap would stay 4" in text
    # The same in the row of a published result that asks for a smaller step.
    tiny = lf.init.balanced((2, 2, 2), 2 * np.eye(2) * 0.9, rng=0)
    row = next(g for g in lf.certify(EYE, tiny, algorithm="descent").guarantees if g.name == "approximately balanced")
    largest = row.facts["largest step"]
    above = lf.certify(EYE, tiny, algorithm="descent", step_size=largest * (1 + 1e-5))
    reason = next(g for g in above.guarantees if g.name == row.name).reason
    taken, most = re.findall(r"the step (\S+) exceeds (\S+),", reason)[0]
    assert float(taken) > float(most)


def test_no_advice_takes_for_ever():
    far = lf.init.imbalanced((2, 4, 2), 1e-16, np.zeros((2, 2)), rng=0)  # times 4: a rate of 10⁻¹⁵, and t = 10¹⁶
    assert "rescale" not in of(EYE, far)


def test_an_imbalance_without_a_gap_has_no_sign():
    net = lf.Network([np.diag([1.0, 0.1]), np.diag([0.1, 1.0])])  # λ_2(D) < 0 < λ_1(D): neither side has a gap
    spectrum = lf.imbalance_spectrum(net)
    assert "-0" not in repr(spectrum)
    assert math.copysign(1.0, spectrum.spectral_gap) == 1.0
    assert "-0" not in repr(lf.bounds.table(net))
    for finding in of(EYE, net).values():
        assert not re.search(r"-0\b(?!\.)", finding.text), finding.text


def test_data():
    rng = np.random.default_rng(1)
    bad = lf.LinearRegression(rng.standard_normal((40, 3)) * [1.0, 1.0, 0.05], rng.standard_normal((40, 2)))
    net = lf.init.gaussian((3, 9, 2), rng=0)
    found = of(bad, net)
    assert found["data"].numbers["condition"] == pytest.approx(bad.smoothness / bad.strong_convexity)
    assert "rank" not in found
    assert "data" not in of(EYE, homogeneous())
    flat = lf.LinearRegression(np.outer(rng.standard_normal(9), np.ones(3)), rng.standard_normal((9, 2)))
    assert of(flat, net)["rank"].numbers == {"seen": 2.0, "entries": 6.0}


def test_plateaus():
    f = lf.MatrixFactorization(np.diag([2.0, 1.0]))
    small = lf.init.small((2, 4, 4, 2), 1e-2, rng=0)
    run = lf.gradient_flow(f, small, until=1e-6)
    found = of(f, small, run=run)["plateau"]
    assert "saddle at zero" in found.text
    # The share, from the run itself: time at less than a tenth of the mean rate, before the last fast moment.
    t, gap = np.linspace(0, run.t[-1], 4001), None
    gap = np.array([run.gap_at(x) for x in t])
    rate, mean = -np.diff(np.log(gap)) / np.diff(t), math.log(run.gap[0] / run.gap[-1]) / run.t[-1]
    slow = rate < 0.1 * mean
    share = float(np.sum(slow[: np.flatnonzero(~slow)[-1]])) / len(slow)
    assert found.numbers["share"] == pytest.approx(share, abs=0.02)  # rates between steps are interpolated
    net = homogeneous()
    assert "plateau" not in of(EYE, net, run=lf.gradient_flow(EYE, net, until=1e-6))


def test_the_step_of_descent():
    net = homogeneous()
    found = of(EYE, net)["step"]
    eta = lf.safe_step_size(EYE, net)
    made = lf.certify(EYE, net, algorithm="descent", step_size=eta)
    assert found.numbers["step_size"] == eta
    assert found.numbers["steps"] == made.steps_to(1e-6)
    assert found.numbers["curvature_cap"] >= found.numbers["curvature_at_start"]
    assert f"{eta:.3g}" in found.text
    taken = of(EYE, net, algorithm="descent", step_size=eta / 2)["step"]
    assert "shorter" in taken.text
    assert "step" not in of(EYE, net, algorithm="descent", step_size=eta)
    x, y = np.array([[1.0, 0.2], [-1.0, 0.3]]), np.array([[1.0], [-1.0]])
    f, tailed = lf.ExponentialLoss(x, y), lf.init.gaussian((2, 4, 1), rng=0)
    found = of(f, tailed)["step"]
    # K on the level of the start is ℓ(0) max ‖x‖², and λ_max(T) = ‖W_1‖² + ‖W_2‖².
    level = f.value(tailed.product()) * 1.09
    greatest = sum(float(np.linalg.norm(W, 2)) ** 2 for W in tailed.weights)
    assert found.numbers["curvature_at_start"] == pytest.approx(level * greatest, rel=1e-9, abs=0)
    assert found.numbers["curvature_cap"] > found.numbers["curvature_at_start"]
    none = of(f, lf.Network([np.zeros((2, 4)), np.zeros((4, 1))]))["step"]
    assert none.text.startswith("For gradient descent, no step size is certified")


def test_designs_and_published_results():
    net = lf.init.with_imbalance(np.diag([40.0, 0.0, -40.0]), 1.9 * np.eye(2))
    found = of(EYE, net)
    assert found["design"].numbers["squares"] == pytest.approx(sum((W**2).sum() for W in net.weights))
    cert = lf.certify(EYE, net)
    made = lf.design(EYE, (2, 3, 2), rate=cert.rate, rng=1)
    least = sum((W**2).sum() for W in made.start.weights)
    assert found["design"].numbers["least_squares"] == pytest.approx(least, rel=1e-6)  # whatever the bases
    assert "design" not in of(EYE, made.start)
    assert found["published"].numbers["apply"] == sum(g.applies for g in cert.prior)


@pytest.mark.parametrize(
    "widths", [(1, 1, 1), (1, 3, 1), (7, 2, 1), (1, 2, 7), (3, 4, 5, 2), (2, 2, 2, 2, 2), (3, 3)]
)
@pytest.mark.parametrize("size", [0.0, 1e-8, 1.0, 30.0])
def test_any_start_has_findings(widths, size):
    rng = np.random.default_rng(len(widths))
    layers = [size * rng.standard_normal(shape) for shape in itertools.pairwise(widths)]
    f = lf.MatrixFactorization(np.ones((widths[0], widths[-1])))
    run = lf.gradient_flow(f, layers, until=0.5, t_max=1.0, max_steps=200)
    assert "rate" in of(f, layers, run=run)
    assert "rate" in of(f, layers, algorithm="descent", step_size=1e-3)


def test_a_start_at_the_minimum():
    assert "rate" in of(EYE, [2 * np.eye(2), np.eye(2)])


def test_numbers_in_a_text_are_those_of_its_input():
    """Another target, another text: nothing is a fixed phrase with numbers of somewhere else."""
    one, two = (of(lf.MatrixFactorization(y * np.eye(2)), homogeneous(1.0 + y)) for y in (2.0, 2.1))
    for kind in ("rate", "hold", "step"):
        assert one[kind].text != two[kind].text
    assert dataclasses.asdict(one["rate"])["numbers"] == of(EYE, homogeneous(3.0))["rate"].numbers


# ---------------------------------------------------------------- the page


@pytest.fixture
def analysed(tmp_path):
    """Analyses an experiment whose data are files in a folder."""
    rng = np.random.default_rng(0)
    X = 30 * rng.standard_normal((40, 3))
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "L.npy", rng.standard_normal((40, 2)))
    np.save(tmp_path / "sides.npy", np.sign(X[:, :1]))
    np.save(tmp_path / "Y.npy", 0.1 * rng.standard_normal((4, 3)))
    lf.files.save_weights(lf.Network([np.ones((4, 2)), np.eye(2, 3)]), tmp_path / "w.npz")

    def analyse(**options):
        found = {key: tmp_path / x if str(x).endswith((".npy", ".npz")) else x for key, x in options.items()}
        return analysis.analyse(experiment(None, {key.replace("__", "."): x for key, x in found.items()}))

    return analyse


TARGET = {"data__target": "Y.npy", "flow__until": 1e-2}


@pytest.mark.parametrize(
    ("options", "heading"),
    [
        (
            {**TARGET, "start__hidden": (12, 9), "start__seed": 7},
            "Three layers, 4×12×9×3, fitted to Y.npy: gradient flow from an NTK start, seed 7",
        ),
        (
            {**TARGET, "start__hidden": (8,), "start__init": "gaussian", "start__size": 0.3},
            "Two layers, 4×8×3, fitted to Y.npy: gradient flow from a gaussian start of std 0.3, seed 0",
        ),
        (
            {**TARGET, "start__weights": "w.npz", "algorithm": "descent", "descent__step_size": 1e-3},
            "Two layers, 4×2×3, fitted to Y.npy: gradient descent from the weights in w.npz",
        ),
        (
            {"data__x": "X.npy", "data__y": "L.npy", "start__hidden": (5,), "start__init": "fan_in",
             "flow__until": 0.5},
            "Two layers, 3×5×2, fitted to L.npy, given X.npy: gradient flow from a fan-in start, seed 0",
        ),
        (
            {"data__x": "X.npy", "data__y": "sides.npy", "data__objective": "logistic", "start__hidden": (5,),
             "start__init": "orthogonal", "flow__t_max": 1e-3},
            "Two layers, 3×5×1, fitted to sides.npy, given X.npy, by logistic loss: gradient flow from an orthogonal "
            "start, seed 0",
        ),
    ],
)  # fmt: skip
def test_the_page_begins_with_what_was_fitted(analysed, options, heading):
    page = analysis_page.page(analysed(**options), drawings=False)
    assert f"<h1>{heading}</h1>" in page
    assert f"<title>{heading}</title>" in page
    assert "Network(" not in page


def test_the_page_sets_its_quantities(analysed):
    found = analysed(data__x="X.npy", data__y="L.npy", start__hidden=(12,))
    prose = re.sub(
        r"<style>.*?</style>|<pre>.*?</pre>|<svg.*?</svg>|<code>.*?</code>",
        "",
        analysis_page.page(found),
        flags=re.DOTALL,
    )
    assert "λ<sub>min</sub>" in prose
    for raw in (r"λ_m", r"σ_m", r"\d[eE][-+]?\d", r"\b[WD]_[\dl]", r"‖_F", r"sqrt\("):
        assert not re.search(raw, prose), raw
    assert {finding.kind for finding in found.findings} >= {"rate", "step"}
    for finding in found.findings:
        assert typeset(finding.text) in prose


def test_the_page_names_its_drawings(analysed):
    whole = analysed(**TARGET, start__hidden=(12,))
    assert repr(pickle.loads(pickle.dumps(whole))) == repr(copy.deepcopy(whole)) == repr(whole)
    assert repr(whole).startswith("Analysis(the run kept the certificate; ") and len(repr(whole)) < 300
    page = analysis_page.page(whole)
    assert page.count("<svg") == page.count('role="img" aria-label="') == 3
    assert page.count('<th scope="') == page.count("<th ")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_page_of_what_was_stopped_says_so(analysed, tmp_path):
    begun = dataclasses.replace(analysed(**TARGET, start__hidden=(12,)), check=None, findings=())
    found = analysis.stopped(begun)
    page = analysis_page.write(found, tmp_path / "out", drawings=False).read_text(encoding="utf-8")
    assert not begun.run.stats.estimated  # which takes as long as the run
    assert math.isnan(lf.load(tmp_path / "out" / "run.nc").stats.gap_error)
    assert "not estimated" in page
    assert "<svg" not in page
    assert "without drawings" in page
    assert "✗ stopped before the run was checked" in page
    halted = dataclasses.replace(begun, run=dataclasses.replace(begun.run, result=lf.Result.INTERRUPTED))
    assert halted.verdict == "stopped during the run"


def test_an_error_that_is_not_estimated_is_nan_and_one_that_is_known_stays():
    run = lf.gradient_flow(EYE, homogeneous(), until=1e-2)
    unknown = analysis.unchecked(run)
    assert math.isnan(unknown.stats.gap_error)
    assert unknown.notes == run.notes
    known = run.stats.gap_error
    assert analysis.unchecked(run).stats.gap_error == known > 0
    descent = lf.gradient_descent(EYE, homogeneous(), step_size=1e-2, steps=3)
    assert analysis.unchecked(descent).stats.gap_error == 0


def test_an_error_that_is_not_estimated_excuses_nothing():
    """NaN compares false with all: a run that broke its certificate must not pass for it."""
    net = homogeneous()
    cert = lf.certify(EYE, net)
    run = lf.gradient_flow(EYE, net, until=1e-4)
    slow = dataclasses.replace(run, t=3 * run.t, rate=run.rate / 3)
    for stats in (run.stats, analysis.unchecked(run).stats):
        assert cert.check(dataclasses.replace(run, stats=stats)).holds
        assert not cert.check(dataclasses.replace(slow, stats=stats)).holds


@pytest.mark.parametrize(("ratio", "text"), [(230.4, "230"), (1.94, "1.9"), (21.6, "22"), (123_456, "120,000")])
def test_ratios_have_no_powers_of_ten(ratio, text):
    assert times(ratio) == text


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("λ_min(T) and σ_max, W_1", "λ<sub>min</sub>(T) and σ<sub>max</sub>, W<sub>1</sub>"),
        ("1e-06 of 2.5e+09; 1.15e+04 and 2.66e+03.", "10<sup>−6</sup> of 2.5 × 10<sup>9</sup>; 11 500 and 2660."),
        (
            "run_1.npy, data_2, 1e5.csv, safe_step_size, D_l",
            "run_1.npy, data_2, 1e5.csv, safe_step_size, D<sub>l</sub>",
        ),
        ("a < b & sqrt(2)", "a &lt; b &amp; √(2)"),
    ],
)
def test_typesetting(text, html):
    assert " ".join(str(typeset(text)).split()) == html


def test_almost_all_of_a_rate_is_not_all_of_it():
    # Two scalars of imbalance 99.99, whose T is 100.01: 99.98 % of that is certain, with no margin.
    f, net = lf.MatrixFactorization([[5.0]]), [[[10.0]], [[0.1]]]
    (hold,) = (found for found in _hold(lf.certify(f, net)) if found.kind == "hold")
    assert "; over 99% of it is guaranteed for the whole run." in hold.text


@pytest.mark.parametrize(
    ("applying", "said"),
    [
        (0, "None of 16 published results applies to"),
        (1, "Of 16 published results, 1 applies to"),
        (2, "Of 16 published results, 2 apply to"),
    ],
)
def test_results_that_apply_are_counted_in_words(applying, said):
    prior = [SimpleNamespace(name=f"row {i}", applies=i < applying) for i in range(16)]
    (found,) = _published(SimpleNamespace(prior=prior))
    assert found.text.startswith(f"{said} this start")
