"""Networks, starts, designs, the aligned phase and what a run answers, written out.

Where rounding is allowed for, its unit is coarse, so that every allowance shows.
"""

import math
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import linflow as lf
from linflow import relu
from linflow.dynamics.trajectory import Result, Stats
from linflow.relu import aligned
from linflow.relu import network as networks
from linflow.relu.aligned import Classification, SumCurve, aligned_phase, aligned_since, labels
from linflow.relu.trajectory import Flip, Trajectory, find_root

designs = sys.modules["linflow.relu.design"]  # `relu.design` is the function
E = 2.0**-20
TINY = 2.0**-30


def near(x, rel=1e-12):
    return pytest.approx(x, rel=rel, abs=0)


# --- networks and starts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_the_error_of_an_output(monkeypatch, bias):
    monkeypatch.setattr(networks, "EPS", E)
    rng = np.random.default_rng(0)
    X, U, V, b = (rng.standard_normal(shape) for shape in ((4, 3), (3, 5), (5, 2), 5))
    net = relu.Network(U, V, b if bias else None, 0.25)
    whole, inputs = (np.vstack([U, b]), np.hstack([X, np.ones((4, 1))])) if bias else (U, X)
    d = 4 if bias else 3
    expected = (d + 5 + 16) * E * (np.abs(inputs) @ np.abs(whole) @ np.abs(V))
    np.testing.assert_allclose(net.output_error(X), expected, rtol=1e-13, atol=0)


def test_what_a_network_conserves_and_how_far_it_drifts():
    half = relu.Network([[3.0, 0.0, 0.0], [0.0] * 3], [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert half.conserved()[0].count == 2  # a neuron with one number that is not 0 is alive
    net = relu.Network([[3.0, 0.0, 0.0]], [[2.0], [1.0], [0.0]], [4.0, 0.0, 0.0])
    (found,) = net.conserved(0.25)
    assert found.count == 2 and found.decay == 0.5
    np.testing.assert_array_equal(found.value, [9 + 16 - 4, -1.0, 0.0])
    assert net.conserved()[0].decay == 0.0
    last = relu.Network([[3.0, 2.0, 0.0]], [[2.0], [1.0], [3.0]], [4.0, 0.0, 0.0])
    assert net.drift(last) == near(math.hypot(4.0, 9.0)) and net.drift(net) == 0.0
    with np.errstate(over="ignore"):
        assert net.drift(relu.Network([[1e200, 0.0, 0.0]], net.V, [0.0] * 3)) == math.inf


def test_imbalances_whose_squares_leave_float64_are_differences_still():
    """(2⁶⁰⁰)² is beyond float64, and a difference of two such squares that is not beyond it is exact."""
    big, out = 2.0**600, np.array([math.inf, 1.0])
    for sign in (1, -1):
        for U, V, expected in (
            ([sign * big, 1.0], [0.0, 0.0], out), ([0.0, 0.0], [sign * big, 1.0], -out),
            ([sign * big, 1.0], [big, 0.0], [0.0, 1.0]), ([big, 1.0], [sign * big, 0.0], [0.0, 1.0]),
        ):  # fmt: skip
            found = relu.imbalance(relu.Network([U], np.array(V)[:, None]))
            np.testing.assert_array_equal(found, expected)


def test_which_networks_stand_for_one_with_a_relu():
    net = relu.Network.of(lf.init.gaussian((3, 4, 2), rng=0), bias=np.ones(4), slope=0.5)
    assert net.slope == 0.5 and net.bias is not None and net.facts() == {"slope": 0.5}
    assert net.activate(np.array([-2.0, 0.0, 3.0])).tolist() == [-1.0, 0.0, 3.0]
    with pytest.raises(TypeError, match="a ReLU or a leaky ReLU is needed"):
        relu.Network.of(relu.SmoothNetwork([[1.0]], [[1.0]]))
    assert relu.Network.of([[[1.0]], [[1.0]]]).slope == 0.0
    assert relu.Network([[1.0]], [[1.0]], slope=np.nextafter(1, 0)).slope < 1


@pytest.mark.parametrize("bias", [False, True])
def test_a_start_in_pairs_is_drawn_as_written(bias):
    rng = np.random.default_rng(5)
    U, w = 0.5 * rng.standard_normal((3, 4)), rng.standard_normal((4, 2))
    b = 0.5 * rng.standard_normal(4)
    net = relu.paired((3, 8, 2), 3.0, std=0.5, bias=bias, slope=0.25, rng=5)
    for k in range(8):
        np.testing.assert_array_equal(net.U[:, k], U[:, k // 2])
        v = 3.0 * w[k // 2] / np.linalg.norm(w[k // 2])
        np.testing.assert_allclose(net.V[k], -v if k % 2 else v, rtol=1e-15, atol=0)
    assert net.slope == 0.25 and (net.bias is None) is not bias
    if bias:
        np.testing.assert_array_equal(net.bias, np.repeat(b, 2))
    plain = relu.paired((3, 8, 2), rng=5)
    np.testing.assert_allclose(plain.U, 2 * net.U, rtol=1e-15, atol=0)
    assert plain.slope == 0.0 and plain.bias is None
    assert np.linalg.norm(plain.V, axis=1) == near(np.ones(8))
    assert not relu.paired((3, 8, 2), 0.0, rng=5).V.any()


# --- designs -------------------------------------------------------------------------------------------------------


def designed(monkeypatch, certified, width=4, Y=None, least=1.0, **options):
    """A design where the sizes that are certified are given; the rate of a size is `least + size²`. And the calls."""
    sizes = []

    def certify(X, Y, net):
        size = float(np.linalg.norm(net.V[0]))
        sizes.append(size)
        assert len(sizes) < 100, "the search has no end"
        good = certified(size)
        return SimpleNamespace(
            rate=least + size**2 if good else 0.0, reason="" if good else "it is too small", start=net
        )

    monkeypatch.setattr(designs, "certify", certify)
    X = np.random.default_rng(0).standard_normal((3, 2))
    return designs.design(X, np.ones(3) if Y is None else Y, width, rng=0, **options), sizes


def test_the_least_size_is_found_between_two_of_the_grid(monkeypatch):
    made, sizes = designed(monkeypatch, lambda size: size >= 3.3)
    root = 2**0.5
    assert sizes[:3] == near([1.0, 2.0, 4.0])
    assert made.sizes == near([4 / root, *(4 * root**k for k in range(9))])
    assert made.rates == near([0.0, *(1 + 16 * 2.0**k for k in range(9))])
    assert 3.3 <= made.size <= 3.3 * 1.01 and made.rate == near(1 + made.size**2)
    assert near(made.start.V) == made.certificate.start.V and made.at_zero.rate == 0 and not made.zero_suffices
    assert np.linalg.norm(made.start.V, axis=1) == near(np.full(4, made.size))
    # halving in the logarithm from 4/√2 and 4 until they are within a hundredth: six times
    low, high, tried = 4 / root, 4.0, []
    while high > 1.01 * low:
        tried.append(math.sqrt(low * high))
        low, high = (low, tried[-1]) if tried[-1] >= 3.3 else (tried[-1], high)
    assert sizes[-len(tried) :] == near(tried, 1e-9) and len(tried) == 6


def test_a_size_above_a_gap_is_taken(monkeypatch):
    made, _ = designed(monkeypatch, lambda size: not 10 < size < 12)
    assert 12 <= made.size <= 12 * 1.01
    made, _ = designed(monkeypatch, lambda size: size == 0 or size > 3.3)
    assert 3.3 <= made.size <= 3.3 * 1.01 and made.zero_suffices and min(made.sizes) > 0


def test_where_every_size_is_certified(monkeypatch):
    made, _ = designed(monkeypatch, lambda size: True)
    assert made.size == 0.0 and made.sizes[0] == 0.0 and made.rates[0] == made.rate == 1.0 and made.zero_suffices
    assert made.sizes[-1] == near(16.0) and 2.0**-6.6 < made.sizes[1] <= 2.0**-6 * (1 + 1e-12)
    assert made.sizes[2] > 2.0**-6
    made, _ = designed(monkeypatch, lambda size: size > 0)
    assert made.size == made.sizes[0] > 0 and not made.zero_suffices


def test_a_rate_that_is_asked_for_is_reached(monkeypatch):
    made, _ = designed(monkeypatch, lambda size: True, rate=1 + 3.3**2)
    assert 3.3 * (1 - 1e-12) <= made.size <= 3.3 * 1.01
    made, _ = designed(monkeypatch, lambda size: True, rate=1 + 4.0**2)  # exactly: |v| = size for one output
    assert made.size == 4.0
    made, _ = designed(monkeypatch, lambda size: True, least=1e-9)  # any rate will do
    assert made.size == 0.0 and made.rate == 1e-9


def test_the_grid_ends_where_it_is_said_to(monkeypatch):
    """With neighbours that differ by 2 its lower sizes are exact: from 2⁻⁶ to 16 times the first certified one."""
    monkeypatch.setattr(designs, "RATIO", 2.0)
    made, _ = designed(monkeypatch, lambda size: size >= 2.0**-6)
    assert made.sizes == near([2.0**k for k in range(-6, 5)]) and made.size == 2.0**-6
    monkeypatch.setattr(designs, "RATIO", 3.0)
    made, _ = designed(monkeypatch, lambda size: size != 1)  # 2 is the first: down to 2/32 and below
    assert made.sizes[:5] == near([0.0, 2 / 81, 2 / 27, 2 / 9, 2 / 3])


def test_two_neurons_and_targets_of_0_beside_others_are_enough(monkeypatch):
    made, _ = designed(monkeypatch, lambda size: size >= 1, 2, np.array([0.0, 1.0, 0.0]))
    assert made.start.widths == (2, 2, 1)
    with pytest.raises(ValueError, match="at least 2"):
        designed(monkeypatch, lambda size: size >= 1, 1)


def test_where_nothing_is_certified_the_reason_is_given(monkeypatch):
    monkeypatch.setattr(designs, "LARGEST", 4.0)
    made, sizes = designed(monkeypatch, lambda size: size >= 4)
    assert made.size <= 4.0 * (1 + 1e-12) and sizes[:3] == near([1.0, 2.0, 4.0])
    with pytest.raises(ValueError, match=r"no size up to 4 is certified: it is too small\."):
        designed(monkeypatch, lambda size: size >= 5)


def test_the_network_of_a_design(monkeypatch):
    made, _ = designed(monkeypatch, lambda size: size >= 1, 6, np.ones((3, 2)), std=0.5, bias=True, slope=0.25)
    one = relu.paired((2, 6, 2), 1.0, std=0.5, bias=True, slope=0.25, rng=0)
    assert made.start.widths == (2, 6, 2) and made.start.slope == 0.25
    np.testing.assert_array_equal(made.start.extended, one.extended)
    assert near(made.size * one.V) == made.start.V
    assert (designs.RATIO, designs.BEYOND, designs.BELOW, designs.LARGEST) == (2**0.5, 16.0, 2.0**-6, 2.0**40)
    plain, _ = designed(monkeypatch, lambda size: size >= 1)
    np.testing.assert_array_equal(plain.start.extended, relu.paired((2, 4, 1), 1.0, rng=0).U)


# --- the aligned phase ---------------------------------------------------------------------------------------------


def test_the_loss_of_a_classification_and_its_rounding(monkeypatch):
    monkeypatch.setattr(aligned, "EPS", E)
    rng = np.random.default_rng(0)
    X, net = rng.standard_normal((4, 3)), relu.Network(rng.standard_normal((3, 5)), rng.standard_normal((5, 1)))
    y = np.array([1.0, -1.0, 1.0, 1.0])
    for form, value, slope in (
        ("exponential", lambda z: np.exp(-z), lambda z: -np.exp(-z)),
        ("logistic", lambda z: np.log1p(np.exp(-z)), lambda z: -1 / (1 + np.exp(z))),
    ):
        problem = labels(X, y, net, form)
        Z = net.outputs(X)
        margins = y[:, None] * Z
        assert problem.value(Z) == problem.loss(net) == near(float(np.sum(value(margins))))
        np.testing.assert_allclose(problem.gradient(Z), y[:, None] * slope(margins), rtol=1e-12, atol=0)
        off = 8 * E * problem.value(Z) + float(np.sum(np.abs(problem.gradient(Z)) * net.output_error(X)))
        assert problem.rounding(net) == near(off)
        assert problem.scale(0.75) == 0.75 and problem.minimum == 0.0 and problem.derived is True


def curve(parts):
    tail = SimpleNamespace(constant_on=lambda gap: 0.5 + gap)
    made = [
        SimpleNamespace(
            tail=tail,
            alpha=alpha,
            gap=lambda t, a=first: a / (1 + t),
            time=lambda gap, a=first: max(0.0, a / gap - 1),
        )
        for first, alpha in parts
    ]
    return SumCurve(tuple(made))  # pyright: ignore[reportArgumentType]


def test_a_sum_of_bounds_as_written(monkeypatch):
    monkeypatch.setattr(aligned, "EPS", E)
    both = curve([(2.0, 3.0), (1.0, 0.5)])
    assert both.rate == 0.0 and both.gap(0.5) == near(3.0 / 1.5 * (1 + 4 * E))
    c = [3.0 * 1.25**2, 0.5 * 1.25**2]
    assert both.rate_at(0.75) == near(0.75 / (1 / c[0] + 1 / c[1]) * (1 - 16 * E))
    assert curve([(2.0, 0.0), (1.0, 0.5)]).rate_at(0.75) == 0.0
    for gap in (2.9, 2.0, 1.0, 0.1, 1e-6):
        t = both.time(gap)
        assert both.gap(t) <= gap < both.gap(t * (1 - 2e-12))
    assert both.time(3.0 * (1 + 4 * E)) == 0.0 and both.time(3.0 * (1 + 3 * E)) > 0
    one = curve([(2.0, 1.0)])  # the bisection begins where each part is below its share, less the rounding of the sum
    assert one.time(0.5) == near(2.0 * (1 + 4 * E) / 0.5 - 1, 2e-12)
    assert SumCurve((SimpleNamespace(gap=lambda t: 1.0, time=lambda gap: math.inf),)).time(0.5) == math.inf  # pyright: ignore[reportArgumentType]


def test_a_sum_comes_down_to_a_gap_at_the_end_of_the_bisection():
    """With equal parts the first upper end is the answer but for the rounding, and must not be below it."""
    for parts in ([(2.0, 1.0)], [(2.0, 1.0)] * 2, [(2.0, 1.0)] * 5):
        both = curve(parts)
        for gap in (0.3, 0.01, 1e-7):
            assert both.gap(both.time(gap)) <= gap


def test_products_have_their_rounding_and_zeros_of_their_own(monkeypatch):
    monkeypatch.setattr(aligned, "EPS", E)
    monkeypatch.setattr(aligned, "TINY", TINY)
    A, B = np.array([[3.0, 0.0, -5.0], [0.0, 2.0, 0.0]]), np.array([[0.25, 0.0], [0.125, 0.0], [0.0, 0.5]])
    found, off, apart = aligned._products(A, B)
    a, b = A / 8, B / 1  # 2³ is above 5, and ½ is brought to ½
    np.testing.assert_array_equal(found, a @ b)
    np.testing.assert_allclose(off, (3 + 8) * E * (np.abs(a) @ np.abs(b)) + TINY, rtol=1e-13, atol=0)
    assert apart.tolist() == [[False, False], [False, True]]
    assert not aligned._products(0 * A, B)[0].any() and aligned._products(0 * A, B)[2].all()


def phase(X, y, U, v, slope=0.0, form="exponential"):
    problem = Classification(np.array(X), np.array(y)[:, None], form)
    return aligned_phase(problem, relu.Network(np.array(U), np.array(v)[:, None], slope=slope))


def test_signs_must_be_sure_beyond_the_rounding_of_a_product(monkeypatch):
    monkeypatch.setattr(aligned, "EPS", E)
    U, v = [[1.0, -1.0], [0.0, 0.0]], [1.0, -1.0]
    # ⟨x_1, x_2⟩ = t − 1, with the rounding 10ε(t + 1), both scaled by a quarter
    for t, sure in ((1 + 20 * E * 1.01, True), (1 + 20 * E * 0.99, False)):
        reason, _, _ = phase([[1.0, 1.0], [t, -1.0]], [1.0, 1.0], U, v)
        assert ("not certain" not in reason) is sure
    # z = t − 1 of neuron 0 on sample 1
    for t, sure in ((1 + 20 * E * 1.01, True), (1 + 20 * E * 0.99, False)):
        reason, _, _ = phase([[1.0, 1.0], [t, 1.0]], [1.0, 1.0], [[1.0], [-1.0 + 2e-9]], [1.0])
        assert reason != ""  # x_1 is at 2e-9
        reason, _, _ = phase([[t, 1.0]], [1.0], [[1.0], [-1.0]], [1.0])
        assert (reason == "") is sure


def test_which_neurons_have_chosen_and_which_are_dead():
    X, y = np.array([[1.0, 0.0], [0.5, 0.5], [-1.0, -0.25]]), [1.0, 1.0, -1.0]
    U, v = np.array([[1.0, -1.0], [1.0, -1.0]]), [0.5, -2.0]
    assert phase(X, y, U, v)[0] == ""
    for column, weight, fits in (
        ([-2.0, 1.0], 1.0, False),  # off on samples 0 and 1 but on for 2, with the wrong sign
        ([2.0, -3.0], 1.0, False),  # on for sample 0 only
        ([1.0, 1.0], 0.0, False),  # of no class
        ([1.0, 1.0], -1.0, False),
        ([-0.3, 2.0], 1.0, False),  # on for sample 1, off on 0
    ):
        reason, _, _ = phase(X, y, np.column_stack([U, column]), [*v, weight])
        assert (reason == "") is fits and "1 of 3 neurons are active" in reason
    # A dead neuron is off on all samples; this needs all of one class.
    one = [[1.0, 0.0], [0.5, 0.5]]
    for column, weight in (([-1.0, -1.0], 1.0), ([-1.0, -1.0], -1.0), ([-1.0, -1.0], 0.0)):
        assert phase(one, [1.0, 1.0], np.column_stack([U[:, 0], column]), [0.5, weight])[0] == ""
    # One that may be at 0 on a sample is not dead.
    mixed, _, _ = phase([[1.0, 1.0], [1.0, 0.0]], [1.0, 1.0], [[1.0, -1.0], [1.0, 1.0]], [0.5, 0.5])
    assert "1 of 2 neurons are active" in mixed
    reason, _, _ = phase(one, [1.0, 1.0], -U[:, :1], [0.5])
    assert reason == "no neuron is active on the positive samples"
    assert phase(X, y, U, v, slope=0.1)[0].startswith("the aligned phase is a statement on the ReLU")
    assert phase(-X, [-s for s in y], U, v)[0] == ""


@pytest.mark.parametrize("form", ["exponential", "logistic"])
def test_the_two_halves_of_an_aligned_phase(monkeypatch, form):
    monkeypatch.setattr(aligned, "EPS", E)
    X, y = np.array([[1.0, 0.0], [0.5, 0.5], [-1.0, -0.25]]), np.array([1.0, 1.0, -1.0])
    U, v = np.array([[1.0, -1.0, 0.5], [1.0, -1.0, 2.0]]), np.array([0.5, -2.0, 0.25])
    reason, found, facts = phase(X, y, U, v, form=form)
    assert reason == "" and isinstance(found, SumCurve)
    loss = {"exponential": lf.ExponentialLoss, "logistic": lf.LogisticLoss}[form]
    for part, word, sign, neurons in zip(found.parts, ("positive", "negative"), (1, -1), ([0, 2], [1]), strict=True):
        half = loss(X[y == sign], y[y == sign])
        layers = lf.Network([U[:, neurons], v[neurons, None]])
        alpha = float(np.sum(v[neurons] ** 2)) * (1 - (3 + 8) * E)
        assert part.alpha == near(alpha) and facts[f"α, {word}"] == part.alpha
        assert facts[f"hard margin, {word}"] == half.hard_margin
        assert part.first == half.value(layers.product()) + half.rounding(layers)
    assert list(facts) == ["hard margin, positive", "α, positive", "hard margin, negative", "α, negative"]
    _, alone, _ = phase(X[:2], y[:2], U[:, [0, 2]], v[[0, 2]], form=form)
    assert isinstance(alone, SumCurve) and len(alone.parts) == 1
    # A dead neuron is no part of the second layer of its class.
    _, _, facts = phase(X[:2], y[:2], [[1.0, -1.0], [1.0, -1.0]], [0.5, 0.25], form=form)
    assert facts["α, positive"] == near(0.25 * (1 - (2 + 8) * E))
    # Without a margin, and with a loss beyond float64, nothing is proved. A second layer of a dead neuron is no part.
    none = phase([[1.0, 0.0], [0.0, 1e-30]], [1.0, 1.0], [[1.0], [1.0]], [0.5], form=form)[0]
    assert none == "the positive samples have no margin that float64 can show"
    small, _, _ = phase(X, y, U, 1e-200 * v, form=form)  # the square of which is 0
    assert small.endswith("is beyond float64")


def run_of(times, flips, starts, problem=None, start=None) -> Any:
    """A run whose hypotheses hold from given times on."""
    return SimpleNamespace(
        algorithm="flow",
        problem=problem or Classification(np.ones((1, 1)), np.ones((1, 1)), "logistic"),
        flips=[SimpleNamespace(t=t) for t in flips],
        start=start or relu.Network([[1.0]], [[1.0]]),
        t=np.array(times),
        network_at=lambda t: relu.Network([[1.0 if t >= starts else -1.0]], [[1.0]]),
    )


def test_from_when_on_a_phase_is_aligned():
    times = [0.0, 0.5, 1.0, 1.5, 2.0]
    assert aligned_since(run_of(times, [], 0.0)) == 0.0
    assert aligned_since(run_of(times, [0.5, 1.0], 1.2)) == 1.0
    assert aligned_since(run_of(times, [0.5, 1.0], 1.7)) == math.inf  # not at the next recorded time
    assert aligned_since(run_of(times, [0.5, 2.0], 1.2)) == math.inf  # nothing is recorded after the last flip
    assert aligned_since(run_of(times, [0.25, 0.5, 1.0], 1.2)) == 1.0
    assert aligned_since(run_of(times, [], 0.7)) == math.inf
    assert aligned_since(run_of(times, [], 0.0, problem=SimpleNamespace())) == math.inf
    assert aligned_since(run_of(times, [], 0.0, start=relu.SmoothNetwork([[1.0]], [[1.0]]))) == math.inf
    net = relu.Network([[1.0]], [[1.0]])
    with pytest.raises(TypeError, match="run is a descent; a flow"):
        relu.aligned_since(relu.gradient_descent([[1.0]], [2.0], net, step_size=0.1, steps=2))
    with pytest.raises(TypeError, match="run is None; a flow"):
        relu.aligned_since(None)


# --- what a run answers --------------------------------------------------------------------------------------------


def run(times, gap, algorithm="flow", until=None, **given) -> Any:
    """A run whose loss is `e^{−t}`, if it is a flow."""
    flow = {"weights_at": lambda t: t} if algorithm == "flow" else {}
    problem = SimpleNamespace(loss=lambda t: math.exp(-t), minimum=0.0)
    one, t = relu.Network([[1.0]], [[1.0]]), np.array(times)
    flips = (Flip(0.5, 0, 0, "on", "off"),)
    return Trajectory(
        t, np.array(gap), np.ones(len(t)), t, one, one, flips, Result.TARGET, Stats(3, 0, 9, 0.0, 0.1), problem,
        algorithm=algorithm, until=until, **(flow | given),
    )  # pyright: ignore[reportArgumentType, reportCallIssue]  # fmt: skip


def test_times_at_which_a_flow_has_fallen():
    t = np.array([0.0, 1.0, 2.0, 3.0])
    flow = run(t, np.exp(-t))
    for level in (0.9, 0.3, 0.06):
        assert flow.time_to(level) == near(-math.log(level), 1e-14)
    assert flow.time_to([0.9, 1e-3]) == near([-math.log(0.9), math.inf], 1e-14)
    assert flow.gap_at([0.0, 1.5]) == near([1.0, math.exp(-1.5)]) and flow.network_at(3.0) == 3.0
    for bad in (3.1, -0.1):
        with pytest.raises(ValueError, match=r"lies outside|non-negative|not negative"):
            flow.gap_at(bad)
    assert list(flow.loss) == list(flow.gap) and flow.minimum == 0.0
    # The recorded loss and that of the weights can differ by rounding, on both sides.
    shifted = run(t, np.exp(-t) * np.array([1.0, 1 - 1e-12, 1.0, 1.0]))
    assert shifted.time_to(math.exp(-1.0) * (1 - 1e-12)) == 1.0
    late = run(t, np.exp(-t) * np.array([1.0, 1 + 1e-3, 1.0, 1.0]))
    assert late.time_to(math.exp(-1.0) * (1 + 1e-4)) == 1.0
    # To its own target a run has come, up to a part of 10⁻⁹.
    end = math.log(4) * (1 - 1e-13)
    for missed, there in ((0.9e-9, True), (1.1e-9, False)):
        for until in (0.25, 0.2, 0.3, None):
            target = run([0.0, end], [1.0, 0.25 * (1 + missed)], until=until)
            assert target.time_to(0.25) == (end if there and until in (0.25, 0.2) else math.inf)
    start = run([0.0, 1.0], [1.0, 0.1], until=0.1)
    assert start.time_to(1 - 1e-6) == near(1e-6, 1e-5)


def test_what_a_descent_answers():
    down = run([0.0, 0.5, 1.0, 1.5], [8.0, 4.0, 1.0, 0.5], "descent")
    assert [down.time_to(x) for x in (0.6, 0.5, 0.4, 0.125, 0.01)] == [0.5, 0.5, 1.0, 1.0, math.inf]
    assert [float(x) for x in down.gap_at([0.0, 0.49, 0.5, 1.5])] == [8.0, 8.0, 4.0, 0.5]
    for bad in (1.6, -0.1):
        with pytest.raises(ValueError, match="lies outside"):
            down.gap_at(bad)
    with pytest.raises(ValueError, match="keeps its first and last weights"):
        down.network_at(0.5)
    assert down.citations == {"linflow"} and run([0.0], [1.0]).citations == {"linflow", "hairer1993"}
    assert repr(down) == "Trajectory(target reached; t = 1.5, loss 8 → 0.5, 3 steps, 1 flip)"


def test_how_far_two_flows_are_apart():
    one, other = run([0.0, 1.0, 2.0], [1.0] * 3), run([0.0, 0.5, 1.5], [1.0] * 3)
    other.problem.loss = lambda t: math.exp(-t * (1.25 if t == 1.0 else 1.0))
    assert one.difference(other) == near(0.25)  # at 1, which only the first records
    other.problem.loss = lambda t: math.exp(-t * (1.5 if t == 0.5 else 1.0))
    assert one.difference(other) == near(0.25)
    other.problem.loss = lambda t: math.exp(-t * (0.5 if t > 1.5 else 1.0))
    assert one.difference(other) == 0.0
    other.problem.loss = lambda t: math.exp(-t * (0.5 if t == 1.5 else 1.0))
    assert one.difference(other) == other.difference(one) == near(0.75)  # at the end of the shorter one


def test_roots_are_found_to_rounding():
    assert find_root(lambda t: 2.0 - t * t, 1.0, 2.0) == near(math.sqrt(2), 4e-16)
    assert find_root(lambda t: 2e-200 - t * 1e-100, 1e-101, 1e-99) == near(2e-100, 4e-15)
