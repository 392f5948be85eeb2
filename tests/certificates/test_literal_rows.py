"""The form of published results, and the words where they do not apply: the numbers in them are those meant."""

import math
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest

import linflow as lf
from linflow.certificates.curves import ExponentialCurve, StepCurve
from linflow.certificates.prior import _rows, imbalance, regimes
from linflow.certificates.setting import Setting

NET = lf.Network([np.eye(2), np.eye(2)])
F = lf.MatrixFactorization(1.5 * np.eye(2))


def on(f=F, net=NET, algorithm="flow"):
    return Setting(f, net, algorithm)


def test_a_row_is_a_rate_a_curve_or_a_reason():
    for outcome in (2, 2.5):
        found = _rows.row(on(), "name", "source", ["key"], outcome, λ=-0.0, other=3)
        assert (found.name, found.source, found.citation, found.reason) == ("name", "source", ("key",), "")
        assert (found.rate, found.gap, found.minimum) == (outcome, F.gap(np.eye(2)), F.minimum)
        assert found.gap_at(0.5) == pytest.approx(found.gap * math.exp(-0.5 * outcome), rel=1e-12)
        assert found.facts == {"λ": 0.0, "other": 3.0} and math.copysign(1.0, found.facts["λ"]) == 1.0
    curve = ExponentialCurve(1.0, 3.0)
    assert _rows.row(on(), "name", "source", [], curve).curve is curve
    assert _rows.row(on(), "name", "source", [], "why").reason == "why"
    # On a descent what is on the flow says nothing, but its rate is told.
    for outcome in (3.0, curve):
        found = _rows.row(on(algorithm="descent"), "name", "source", [], outcome)
        assert not found.applies
        assert found.reason == "it is for the flow (rate 3 there), but this certificate is for descent"
    steps = StepCurve(1.0, 0.1, 0.5)
    assert _rows.row(on(algorithm="descent"), "name", "source", [], steps).curve is steps
    assert _rows.row(on(algorithm="descent"), "name", "source", [], "why").reason == "why"


def test_the_fastest_guarantee_on_a_descent_that_cites_a_result():
    rows = [
        SimpleNamespace(citation=citation, time_to=lambda until, time=time: time if until == 1e-6 else 0.0)
        for citation, time in ((("a", "b"), 3.0), (("b",), 2.0), (("c",), 1.0))
    ]
    descent = on(algorithm="descent")
    assert _rows.on_descent(descent, rows, "b") is rows[1] and _rows.on_descent(descent, rows, "a") is rows[0]
    assert _rows.on_descent(descent, rows, "a", "c") is rows[2] and _rows.on_descent(descent, rows, "d") is None
    assert _rows.on_descent(on(), rows, "b") is None


def test_data_are_white_to_a_few_hundred_roundings():
    def of(spread):
        return on(lf.Quadratic(2 * np.diag([1.0, 1.0 + spread]), C=np.eye(2)))

    assert _rows.not_white(of(0.9e-12)) == "" == _rows.not_white(on()) == _rows.no_squared_loss(on())
    assert "K/μ = 1; whiten" in _rows.not_white(of(1.1e-12))
    assert "here K/μ = 3; whiten" in _rows.not_white(of(2.0))
    other = lf.Objective(lambda W: 1.0, lambda W: W, shape=(2, 2), minimum=0.0)
    assert _rows.not_white(on(other)) == "it is for the squared loss, not for a user-defined objective"
    assert "no gradient dominance is known" in _rows.no_dominance(on(other)) and _rows.no_dominance(on()) == ""


def test_the_bounds_of_the_papers_are_taken_at_their_margin():
    net = lf.Network([0.3 * np.eye(2), 0.3 * np.eye(2)], 0.5)
    setting = on(lf.MatrixFactorization(0.05 * np.eye(2)), net)
    margin = 0.05 - 0.005 * math.sqrt(2)
    assert setting.margin_by_distance == pytest.approx(margin, rel=1e-9)
    inv = setting.invariants.at(setting.margin_by_distance / 0.5, math.inf)
    literal = {b.name: float(b.value) for b in lf.bounds.evaluate(inv, 0.5) if b.applies}
    found = _rows.bounds_at_margin(setting)
    assert found and all(value == pytest.approx(literal[t.name], rel=1e-12, abs=0) for t, value in found)
    # Of two balanced layers: 2σ at the product without its scale, times the square of that.
    assert max(value for _, value in found) == pytest.approx(2 * margin * 0.5, rel=1e-9)
    assert {t.citation for t, _ in found} <= {"min2021", "min2023"}


def test_depths_are_told():
    assert _rows.not_deep(on(), 2) == "" == _rows.not_deep(on(), 1, 2)
    assert _rows.not_deep(on(), 3) == "it is for 3 layers, but the network has 2"
    assert _rows.not_deep(on(), 1, 3) == "it is for 1 or 3 layers, but the network has 2"


def test_why_there_is_no_margin():
    assert _rows.no_margin(on()).startswith("the margin 0.793 is at the level of rounding")  # 1.5 − 0.5·√2
    narrow = lf.Network([np.ones((2, 1)), np.ones((1, 2))])
    assert "the hidden width 1 is below" in _rows.no_margin(on(net=narrow))
    dominated = lf.Objective(lambda W: 1.0, lambda W: W, shape=(2, 2), minimum=0.0, pl_constant=1.0)
    assert _rows.no_margin(on(dominated)).startswith("the margin needs μ > 0 and W*")
    for last, words in ((0.9e-14, "as W* does not have full rank"), (1.2e-14, "is not below σ_min(W*)")):
        flat = lf.MatrixFactorization(4 * np.diag([1.0, last]))
        assert words in _rows.no_margin(on(flat))
    # sqrt(K/μ) times the distance to W* = diag(2, 3).
    f = lf.Quadratic(np.diag([2.0, 32.0]), C=np.diag([4.0, 96.0]))
    expected = f"sqrt(K/μ) ‖W(0) − W*‖_F = {4 * math.sqrt(1 + 4):.3g} is not below σ_min(W*) = 2;"
    assert expected in _rows.no_margin(on(f))


def test_every_published_result_has_its_row():
    names = [row.name for row in lf.certify(F, NET).prior]
    assert len(names) == len(set(names)) == 21
    for year in (2023, 2025):
        source = next(row.source for row in lf.certify(F, NET).prior if row.name == f"Xu et al. {year}")
        assert str(year) in source
    (one,) = lf.certify(F, lf.Network([np.eye(2)])).prior
    assert not one.applies and "two layers or more" in one.reason


# --- from the imbalance and the margin -----------------------------------------------------------------------------


def scalars(*weights, scale=1.0):
    return lf.Network([np.array([[w]]) for w in weights], scale)


def yun(net, f=None):
    return imbalance.yun2021(on(f or lf.MatrixFactorization(np.ones(net.shape)), net))


@pytest.mark.parametrize(
    ("weights", "value"),
    [
        ((2.5, 2.5, 1.0), 5.25),  # D_1 = 0 to rounding is not negative
        ((2.6, 2.5, 1.0), 5.25),
        ((1.0, 2.5, 2.5), 5.25),
        ((1.0, 2.5, 2.6), 5.25),
        ((1.2, 1.1, 1.0), 0.21),
        ((1.0, 2.6, 2.5), None),  # down and up
        ((3.0, 2.5, 2.0, 1.0), 3.0),
        ((3.0, 2.0, 2.5, 1.0), None),
        ((1.0, 2.5, 3.0, 2.0), None),
        ((2.0, 3.0, 2.5, 1.0), None),
    ],
)
def test_an_imbalance_is_ordered_towards_one_end(weights, value):
    net = scalars(*weights)
    found = yun(net)
    if value is None:
        assert "the imbalance is not ordered" in found.reason
    else:
        power = value ** (len(weights) - 1)
        assert found.facts["λ"] == pytest.approx(value, rel=1e-12) and found.rate == pytest.approx(
            2 * power, rel=1e-9
        )


def test_every_eigenvalue_counts_for_the_order():
    # D_1 = diag(3, 1, −1) is not ⪰ 0, though its first two eigenvalues are positive.
    layers = [np.diag(np.sqrt(np.array(x))) for x in ([6.0, 4.0, 2.0], [3.0, 3.0, 3.0], [1.0, 1.0, 1.0])]
    assert "not ordered" in yun(lf.Network(layers)).reason
    assert "not ordered" in yun(lf.Network([W.T for W in layers[::-1]])).reason
    # Ordered one way, and yet not positive at its end.
    layers = [np.diag([3.0, 3.0]), np.diag([2.0, 1.0]), np.diag([1.0, 1.5])]
    for weights in (layers, [W.T for W in layers[::-1]]):
        assert (
            "λ_2(D_2) and λ_2(−D_1) are not positive where they would have to be" in yun(lf.Network(weights)).reason
        )
    assert "are not positive where" in yun(lf.Network([np.eye(2), np.eye(2)])).reason


def test_two_layers_and_squared_loss_are_asked_for():
    three = lf.Network([np.eye(2)] * 3)
    assert imbalance.min2021(on(net=three)).reason == "it is for 2 layers, but the network has 3"
    other = lf.Objective(lambda W: 1.0, lambda W: W, shape=(2, 2), minimum=0.0)
    assert "squared loss" in imbalance.min2021(on(other)).reason and "squared loss" in yun(NET, other).reason
    uneven = lf.Quadratic(np.diag([1.0, 2.0]), C=np.diag([1.5, 3.0]))
    assert "whiten the inputs" in imbalance.arora2019(on(uneven)).reason
    far = on(lf.MatrixFactorization(-np.eye(2)))
    assert "the margin is 0" in imbalance.arora2018(far).reason


def test_half_the_rate_is_granted_to_a_little_imbalance_of_three_layers():
    f, c = lf.MatrixFactorization(np.full((1, 1), 1.3)), 1.2
    net = lf.Network([np.array([[x]]) for x in (1 + 1e-6, 1.0, 1.0)], c)
    setting = on(f, net)
    margin = setting.margin_by_distance
    assert margin == pytest.approx(1.3 - abs(1.3 - c * (1 + 1e-6)), rel=1e-12) and setting.imbalance > 0
    found = imbalance.arora2019(setting)
    assert found.rate == pytest.approx(0.5 * 2 * c ** (2 / 3) * margin ** (4 / 3), rel=1e-12)


def test_on_descent_the_row_of_the_certificate_is_taken():
    setting = on(algorithm="descent")
    steps = StepCurve(1.0, 0.1, 0.5)
    for curve, reason in ((steps, ""), (None, "the step is too large")):
        known = SimpleNamespace(
            citation=("arora2019convergence",),
            curve=curve,
            reason=reason,
            facts={"a": 1.0},
            time_to=lambda until: 1.0,
        )
        found = imbalance.arora2019(setting, [known])
        assert (found.curve, found.reason, found.facts) == (curve, reason, {"a": 1.0})
        assert found.source == "Arora, Cohen, Golowich & Hu 2019, Theorem 1"
    assert imbalance.arora2019(on()).source.endswith("for steps η → 0")


def test_the_best_bound_of_the_papers_or_why_there_is_none():
    (one,) = [g for g in lf.certify(F, NET).prior if g.name == "Min et al. 2023"]
    assert one.rate == pytest.approx(2 * 2 * one.facts["margin"], rel=1e-9) and ", at its margin" in one.source
    # A little imbalance that no bound of the papers likes, near the target and far from it.
    layers = [np.diag([1.0, 1.1]), np.diag([1.05, 0.95]), np.diag([0.9, 1.0])]
    product = np.linalg.multi_dot(layers)
    near = imbalance.min2023(on(lf.MatrixFactorization(1.05 * product), lf.Network(layers)))
    assert 0 < near.facts["margin"] < 1
    assert near.reason.startswith(f"its bounds are 0 at this imbalance and margin {near.facts['margin']:.3g};")
    far = imbalance.min2023(on(lf.MatrixFactorization(-product), lf.Network(layers)))
    assert far.facts["margin"] == 0 and "the imbalance alone gives none, and the margin is 0" in far.reason


# --- limits --------------------------------------------------------------------------------------------------------


def test_the_width_that_is_asked_for():
    f = lf.LinearRegression(np.diag([2.0, 4.0, 3.0]), np.ones((3, 2)))
    net = lf.Network([np.ones((3, 7)), np.ones((7, 5)), np.ones((5, 2))])
    found = regimes.duhu2019(on(f, net))
    assert found.facts == {"κ": pytest.approx(4.0), "width asked": pytest.approx(3 * 3 * 64 * 2), "width": 5.0}


@pytest.mark.parametrize(
    ("n", "m", "depth", "told"), [(8, 8, 3, True), (5, 13, 3, False), (9, 8, 2, True), (9, 8, 3, False)]
)
def test_the_rate_if_t_stayed_is_told_where_t_is_small_or_has_two_terms(n, m, depth, told):
    net = lf.init.gaussian((n, *[9] * (depth - 1), m), rng=0)
    f = lf.Quadratic(0.25 * np.eye(n), C=np.ones((n, m)))  # γ = ½
    found = regimes.jacot2018(on(f, net))
    assert found.facts["width"] == 9.0 and ("rate if T stayed" in found.facts) is told
    if told:
        T = lf.TangentOperator(net).least_eigenvalue()
        assert found.facts["rate if T stayed"] == pytest.approx(0.5 * max(T, 0.0), rel=1e-9)
        assert f"the rate would be {found.facts['rate if T stayed']:.3g}" in found.reason
    nothing = lf.Objective(lambda W: 1.0, lambda W: W, shape=(n, m), minimum=0.0)
    assert set(regimes.jacot2018(on(nothing, net)).facts) == {"width"}


def test_the_lazy_row_is_that_of_the_certificate():
    curve = ExponentialCurve(1.0, 3.0)
    rows = [SimpleNamespace(citation=("other",)), SimpleNamespace(citation=("linflow", "chizat2019"), curve=curve)]
    rows[1].facts = {"radius": 0.5}
    found = regimes.chizat2019(on(), rows)
    assert found.curve is curve and found.facts == {"radius": 0.5, "relative motion": 0.25}  # ‖(I, I)‖ = 2
    rows[1].facts = {}
    assert regimes.chizat2019(on(), rows).facts == {}
    rows[1].curve, rows[1].reason = None, "too far"
    assert regimes.chizat2019(on(), rows).reason == "too far"
    assert regimes.chizat2019(on(), []).reason == "the objective has no gradient dominance"
    assert regimes.chizat2019(on(algorithm="descent"), []).reason.startswith("it is for the flow")


def test_descents_of_two_layers_are_those_of_the_certificate():
    three = on(net=lf.Network([np.eye(2)] * 3))
    other = on(lf.Objective(lambda W: 1.0, lambda W: W, shape=(2, 2), minimum=0.0))
    for year, loss in ((2023, "squared loss"), (2025, "general loss")):
        assert regimes.xu(three, [], year).reason == "it is for 2 layers, but the network has 3"
        assert regimes.xu(on(), [], year).reason.startswith("it is for gradient descent; use certify")
        found = regimes.xu(other, [], year)
        assert found.source.endswith(f"{year}, two layers, {loss}")
        assert ("not for a user-defined objective" in found.reason) is (year == 2023)
        for curve, reason in ((StepCurve(1.0, 0.1, 0.5), ""), (None, "too large")):
            known = SimpleNamespace(
                citation=(f"xu{year}",), curve=curve, reason=reason, facts={"a": 1.0}, time_to=lambda until: 1.0
            )
            found = regimes.xu(on(algorithm="descent"), [known], year)
            assert (found.curve, found.reason, found.facts) == (curve, reason, {"a": 1.0})


def small(size, L=2, Y=None, c=1.0):
    """Layers of size `size`, the last a tenth of that, not aligned with their target."""
    rng = np.random.default_rng(0)
    layers = [np.linalg.qr(rng.standard_normal((2, 2)))[0] * [1.0, 0.3] for _ in range(L)]
    net = lf.Network([size * W for W in layers[:-1]] + [0.1 * size * layers[-1]], c)
    return on(lf.MatrixFactorization(np.diag([2.0, 0.5]) if Y is None else Y), net)


@pytest.mark.parametrize("c", [1.0, 0.7])
def test_a_small_start_of_two_layers_waits_for_its_logarithm(c):
    setting = small(1e-3, c=c)
    row = regimes.stoger2021(setting)
    alpha = math.sqrt(c) * 1e-3
    assert row.facts["α"] == pytest.approx(alpha, rel=1e-12)
    assert row.facts["α relative"] == pytest.approx(alpha / math.sqrt(2), rel=1e-12)
    wait = math.log(math.sqrt(2) / alpha)
    assert row.facts["first mode"] == pytest.approx(wait / (2.0 * c), rel=1e-12)
    assert row.facts["last mode"] == pytest.approx(wait / (0.5 * c), rel=1e-12)
    assert "t ≈ log(1/α)/σ" in row.reason
    assert regimes.li2021greedy(setting).facts == row.facts
    # Modes of 10⁻¹² of the first are rounding.
    for last, kept in ((1.5e-12, True), (0.9e-12, False)):
        facts = regimes.li2021greedy(small(1e-3, Y=np.diag([100.0, 100 * last]))).facts
        assert facts["last mode"] == pytest.approx(math.log(1e4) / (100 * last if kept else 100), rel=1e-9)
    # Without a solution that is known, its size is taken as 1.
    unknown = lf.Objective(lambda W: 1.0, lambda W: W - np.diag([2.0, 0.5]), shape=(2, 2), minimum=0.0)
    assert regimes.li2021greedy(on(unknown, setting.network)).facts["α relative"] == pytest.approx(alpha, rel=1e-12)


def test_a_start_is_small_below_a_tenth_of_the_solution():
    for part, is_small in ((0.099, True), (0.101, False)):
        row = regimes.li2021greedy(small(part, Y=np.eye(2)))
        assert ("first mode" in row.facts) is is_small
        assert ("scale the start down (below 0.1)" in row.reason) is not is_small
    nothing = regimes.li2021greedy(small(0.0))
    assert "the layers are 0" in nothing.reason and nothing.facts["α relative"] == 0.0
    assert regimes.li2021greedy(small(1e-3, Y=np.zeros((2, 2)))).reason == "W* = 0, so there is nothing to learn"
    assert regimes.stoger2021(small(1e-3, L=3)).reason == "it is for 2 layers, but the network has 3"
    other = lf.Objective(lambda W: 1.0, lambda W: W, shape=(2, 2), minimum=0.0)
    for result in (regimes.stoger2021, regimes.li2021sparse):
        assert "squared loss" in result(on(other)).reason


@pytest.mark.parametrize("L", [3, 4])
@pytest.mark.parametrize("c", [1.0, 0.7])
def test_deep_layers_that_are_not_aligned_learn_nothing_before_their_time(L, c):
    """`α^{2−L}/((L−2)σ_1)`, the scale shared out among the layers."""
    row = regimes.li2021greedy(small(1e-3, L, c=c))
    share = c ** (1 / L)
    literal = (share * 1e-3) ** (2 - L) / ((L - 2) * share**2 * 2.0)
    assert row.facts["no mode before"] == pytest.approx(literal, rel=1e-11)
    law = "1/(ασ)" if L == 3 else "1/(2 α^2 σ)"
    assert f"no mode before t ≈ {law} = {literal:.3g}" in row.reason


def test_times_past_float64_are_cut_off():
    # Products of four such layers are 0 in float64; a scale keeps the time itself finite.
    facts = regimes.li2021greedy(small(1e-140, 4)).facts
    assert facts["no mode before"] == pytest.approx(math.exp(600.0) / (2 * 2.0), rel=1e-11)


def diagonal(*weights, Y, c=1.0, K=1.0):
    f = lf.Quadratic(K * np.eye(2), C=K * np.diag(Y))
    return on(f, lf.Network([np.diag(w) for w in weights], c))


@pytest.mark.parametrize(
    ("weights", "Y", "c", "K"),
    [
        ([(1e-2, 2e-2), (3e-2, 1e-2), (1e-2, 1e-3)], (2.0, 1.0), 1.0, 1.0),
        ([(1e-2, 2e-2), (3e-2, 1e-2), (1e-2, 1e-3)], (2.0, 1.0), 0.7, 1.5),
        ([(1e-3, 1e-3), (1e-22, 1e-3), (1e-22, 1e-3)], (1.0, 1.0), 1.0, 1.0),
        ([(1e-2, 1e-2)] * 4, (1.0, 0.5), 1.0, 1.0),
    ],
)
def test_aligned_layers_leave_0_when_their_integral_says(weights, Y, c, K):
    """`∫_0^∞ dy/Π_l sqrt(y + w_l²)/(2cKσ)`, by another quadrature."""
    facts = regimes.li2021greedy(diagonal(*weights, Y=Y, c=c, K=K)).facts
    times = []
    for i, sigma in enumerate(Y):
        squares = [w[i] ** 2 for w in weights]
        cuts = [mpmath.mpf(10) ** k for k in range(-48, 13, 4)]
        of = lambda y, squares=squares: 1 / mpmath.sqrt(mpmath.fprod(y + s for s in squares))  # noqa: E731
        times.append(float(mpmath.quad(of, [0, *cuts, mpmath.inf])) / (2 * c * K * sigma))
    assert facts["first mode"] == pytest.approx(min(times), rel=1e-6)  # what the quadrature of the tails leaves
    assert facts["last mode"] == pytest.approx(max(times), rel=1e-6)


def test_modes_that_pass_the_saddle_or_stay_have_no_time():
    for weights in (
        [(1e-2, 1e-2), (1e-2, -1e-2), (1e-2, 1e-2)],
        [(1e-2, 1e-2), (1e-2, 0.0), (1e-2, 1e-2)],
    ):
        assert "no mode before" in regimes.li2021greedy(diagonal(*weights, Y=(2.0, 1.0))).facts
    # A mode that W* has to 10⁻¹² is a mode.
    for last, kept in ((1.5e-12, True), (0.9e-12, False)):
        facts = regimes.li2021greedy(diagonal(*[(1e-2, 1e-2)] * 3, Y=(100.0, 100 * last))).facts
        assert facts["last mode"] / facts["first mode"] == pytest.approx(1 / last if kept else 1.0, rel=1e-9)
    # A mode that W* does not have is not waited for.
    facts = regimes.li2021greedy(diagonal(*[(1e-2, 1e-2)] * 3, Y=(2.0, 0.0))).facts
    assert facts["first mode"] == facts["last mode"]


def test_diagonal_networks_are_square_and_diagonal():
    row = regimes.li2021sparse(diagonal(*[(1e-2, 1e-2)] * 3, Y=(2.0, 1.0)))
    assert "first mode" in row.facts and "a vanishing diagonal start" in row.reason
    crossed = [np.array([[1e-2, 1e-9], [0.0, 1e-2]]), 1e-2 * np.eye(2)]
    assert "entries off the diagonal" in regimes.li2021sparse(on(net=lf.Network(crossed))).reason
    wide = [1e-2 * np.eye(2, 3), 1e-2 * np.eye(3, 2)]
    assert "entries off the diagonal" in regimes.li2021sparse(on(net=lf.Network(wide))).reason
