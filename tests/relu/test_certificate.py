"""Certificates: against runs, against the plain theorem, in every unit, and in words."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow import relu
from linflow.relu import certificate
from linflow.relu.floor import Floor
from linflow.relu.movement import Mover
from linflow.relu.path import Path, march
from tests.reference import relu as reference
from tests.relu.starts import drawn, started
from tests.relu_soundness import kernel


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", [{}, {"m": 2}, {"s": 0.2, "bias": True}])
def test_a_certificate_holds_along_the_flow(seed, kind):
    X, Y, net = drawn([1, seed], h=120, size=4.0, paired=seed % 2 == 0, **kind)
    Y = net.outputs(X) + 0.5 * Y
    cert = relu.certify(X, Y, net)
    assert cert.rate > 0 and cert.reason == ""
    run = relu.gradient_flow(X, Y, net, until=1e-4)
    check = cert.check(run)
    assert check.holds and check.worst_slack >= 1 and check.worst_gap <= 1 + 1e-9
    assert run.path[-1] <= cert.guarantees[0].facts["path τ*"]
    assert not any(~cert.may_flip[f.sample, f.neuron] for f in run.flips)
    for until in (0.5, 1e-2):
        assert run.time_to(until) <= cert.time_to(until)
        assert cert.gap_at(run.time_to(until)) >= until * run.gap[0] * (1 - 1e-9)


def test_rates_are_at_least_those_of_the_plain_theorem():
    """Theorem R counts neurons that are frozen on every sample, and nothing of the second layer."""
    both = 0
    for seed in range(12):
        X, Y, net = drawn([2, seed], N=5, d=8, h=150, size=[2.0, 5.0][seed % 2], bias=seed % 3 == 0)
        plain = reference.plain_theorem(net.inputs(X), net.extended, net.V, Y)
        rate = relu.certify(X, Y, net).rate
        assert rate >= plain
        both += plain > 0
    assert both >= 4


def test_path_is_the_first_at_which_the_residual_is_used_up():
    """On a given floor `λ(τ) = 3 − τ`, `∫_0^τ λ = 2` at `τ = 3 − √5`: the grid comes close from above."""
    path = march(lambda tau: max(0.0, 3 - tau), 2.0, 2 / 3, finer=40)
    assert path.closes and 3 - 5**0.5 < path.paths[-1] < 1.02 * (3 - 5**0.5)
    assert path.floors[-1] == pytest.approx(3 - path.paths[-1], rel=1e-15, abs=0)
    short = march(lambda tau: max(0.0, 1 - tau), 2.0, 2.0)
    assert not short.closes and not short.might_close and 0.2 < short.covered < 0.25


def test_curve_has_the_levels_and_times_of_the_theorem():
    path = Path(np.array([0.0, 1.0, 3.0]), np.array([2.0, 1.0]), np.array([3.0, 1.0, -1.0]), 3.0)
    curve = path.curve(4.0, 0.5)
    # levels ½ρ², rates 2λ
    assert curve.levels.tolist() == [18.0, 2.0] and curve.rates == pytest.approx([2.0, 1.0], rel=1e-12)
    assert (curve.rates < [2.0, 1.0]).all()
    assert curve.time(18 / 81) == pytest.approx(np.log(9.0) / 2 + np.log(9.0) / 1, rel=1e-12)


@pytest.mark.parametrize("kind", [{}, {"m": 2}, {"s": 0.3}])
def test_units_do_not_matter(kind):
    """Powers of two in data and weights change rates by the power they must, to the last bit."""
    X, Y, net = drawn(3, h=120, size=4.0, **kind)
    one = relu.certify(X, Y, net)
    for p, a in ((60, 0), (0, 45), (-70, 20), (30, -60)):
        P, A = 2.0**p, 2.0**a
        scaled = relu.certify(P * X, P * A * A * Y, relu.Network(A * net.U, A * net.V, slope=net.slope))
        assert scaled.rate == one.rate * (P * A) ** 2 and scaled.time_to(1e-3) == one.time_to(1e-3) / (P * A) ** 2
        assert scaled.guarantees[0].facts["path τ*"] == one.guarantees[0].facts["path τ*"] / P


def test_zero_neurons_change_nothing_but_rounding():
    X, Y, net = drawn(4, h=100, size=4.0)
    more = relu.Network(np.hstack([net.U, np.zeros((6, 5))]), np.vstack([net.V, np.zeros((5, 1))]))
    # the allowances grow with the width, by parts of 1e-10
    assert relu.certify(X, Y, more).rate == pytest.approx(relu.certify(X, Y, net).rate, rel=1e-8, abs=0)


def test_a_bias_is_a_row_of_ones():
    X, Y, net = drawn(5, h=100, size=4.0, bias=True)
    other = relu.Network(net.extended, net.V)
    assert relu.certify(X, Y, net).rate == relu.certify(net.inputs(X), Y, other).rate > 0


@pytest.mark.parametrize("which", ["repeated", "zero row", "no weights", "narrow", "far", "huge", "huge weights"])
def test_where_nothing_can_be_certified_a_reason_is_given(which):
    X, Y, net = drawn(6, h=100, size=4.0)
    text = {"repeated": "cannot be told from 0", "zero row": "row 2", "no weights": "nothing moves"}.get(which, "")
    if which == "repeated":
        X[1] = X[0]
    elif which == "zero row":
        X[1] = 0
    elif which == "no weights":
        net = relu.Network(0 * net.U, 0 * net.V)
    elif which == "narrow":
        net, text = relu.Network(net.U[:, :2], net.V[:2]), "cannot be told from 0"
    elif which == "far":
        Y, text = 1e3 * Y, "% of the residual is proved to vanish; enlarge the second layer"
    elif which == "huge weights":
        net, text = relu.Network(1e200 * net.U, 1e200 * net.V), "past float64"
    else:
        Y, text = 1e200 * Y, "rescale"
    cert = relu.certify(X, Y, net)
    assert cert.rate == 0 and cert.best is None and text in cert.reason and cert.time_to(0.1) == np.inf
    assert cert.may_flip.all() and text in str(cert)


def test_a_perfect_start_has_no_path():
    X, _, net = drawn(7, h=100, size=4.0)
    cert = relu.certify(X, np.zeros((4, 1)), net)
    # the residual is rounding; if something is certified, it is of that size
    assert cert.gap < 1e-25 and cert.gap_at(1.0) < 1e-25


def test_a_certificate_as_data_and_in_words():
    X, Y, net = drawn(8, h=120, size=4.0)
    cert = relu.certify(X, Y, net)
    data = json.loads(json.dumps(cert.to_dict()))
    assert (
        data["rate"] == cert.rate and data["widths"] == [6, 120, 1] and data["time_to"]["0.01"] == cert.time_to(0.01)
    )
    assert "Theorem R⁺" in str(cert) and f"{cert.rate:.4g}" in repr(cert) and "<table" in cert._repr_html_()
    assert "du2018" in cert.citations and "@" in lf.cite(cert)
    assert cert.may_flip.shape == (4, 120)
    other = relu.gradient_flow(X, 2 * Y, net, t_max=1e-4)
    with pytest.raises(ValueError, match="the run starts at a loss gap"):
        cert.check(other)
    with pytest.raises(ValueError, match="'squared'"):
        relu.certify(X, Y, net, loss="hinge")
    with pytest.raises(ValueError, match="4×1 is needed"):
        relu.certify(X, Y[:3], net)
    with pytest.raises(TypeError, match="run is None"):
        cert.check(None)


def test_a_run_that_is_too_slow_is_seen():
    X, Y, net = drawn(9, h=120, size=4.0)
    run = relu.gradient_flow(X, Y, net, t_max=1e-3)
    cert = relu.certify(X, Y, net)
    slowed = lf.relu.Trajectory(**{**vars(run), "t": 3 * run.t, "rate": run.rate / 3})
    assert cert.check(run).holds and not cert.check(slowed).holds


# --- what is said of steps and paths, with stand-ins for those who compute them ------------------------------------


def test_a_step_is_given_and_taken_in_the_units_of_the_data(monkeypatch):
    asked = []

    def steps(gain, step_size):
        return SimpleNamespace(gain=gain, step_size=step_size, covered=0.25)

    for gain in (0.5, 0.0):
        best, certified = steps(gain, 6.0), steps(gain, None)
        stand_in = SimpleNamespace(best=lambda best=best: best, certify=lambda h, c=certified: asked.append(h) or c)
        monkeypatch.setattr(certificate, "Descent", lambda start, d=stand_in: d)
        start = SimpleNamespace(unfit="", rate_power=4)
        for given, eta, found in ((None, 6.0 / 16, best), (0.5, 0.5, certified)):
            if gain:
                assert certificate.stepped(start, given) == (eta, found, "")
            else:
                way = "nor is any of the shorter ones tried" if given is None else "shorten the step"
                said = f"with the step {eta:.3g}, only 25% of the residual is proved to vanish; {way}"
                step, none, reason = certificate.stepped(start, given)
                assert (step, none) == (eta, None) and reason.startswith(said)
    assert asked == [8.0, 8.0]
    for given in (None, 0.5):
        assert certificate.stepped(SimpleNamespace(unfit="why"), given) == (given, None, "why")


def test_a_descent_from_where_nothing_moves_has_a_reason_and_no_curve():
    X, Y, net = drawn(6)
    for eta in (None, 0.5):
        cert = relu.certify(X, Y, relu.Network(0 * net.U, 0 * net.V), algorithm="descent", step_size=eta)
        assert "nothing moves" in cert.reason and cert.guarantees[0].curve is None
    X, Y, net = drawn(7, N=3, h=60, size=4.0)
    found = relu.certify(X, Y, net, algorithm="descent")
    assert found.reason == "" and found.guarantees[0].curve.gap_after(1) < found.gap


@pytest.mark.parametrize(
    ("closes", "might_close", "fineness"),
    [
        ((True,), (False,), [1]),
        ((False,), (False,), [1]),
        ((False, True), (True, True), [1, 4]),
        ((False, False), (True, True), [1, 4]),
    ],
)
def test_a_path_that_might_close_is_looked_for_once_more_and_finer(closes, might_close, fineness, monkeypatch):
    paths = [SimpleNamespace(closes=a, might_close=b, covered=0.5) for a, b in zip(closes, might_close, strict=True)]
    marched, resets = [], []

    def march(at, residual, longest, finer):
        marched.append((residual, longest, finer))
        return paths[len(marched) - 1]

    monkeypatch.setattr(certificate, "march", march)
    found, reason = certificate.closing(lambda tau: 2.0, 3.0, 0.5, lambda: resets.append(0))
    assert marched == [(3.0, 6.0, finer) for finer in fineness] and len(resets) == len(marched)
    assert (found, reason) == (paths[-1], "") if closes[-1] else found is None and "50% of the residual" in reason
    assert certificate.closing(lambda tau: 2.0, 3.0, 0.0)[0] is None and len(marched) == len(fineness)


def test_what_a_flow_is_certified_from(monkeypatch):
    """The floor at the path 0, a floor of 0 past the farthest path, and facts in the units of the data."""
    X, Y, net = drawn(13, h=100, size=4.0)
    start, asked = started(8 * X, 8 * Y, net), []
    first, far = Mover(start).at(0.0), 1e9
    assert Mover(start).at(far) is None and start.input_power != 0
    path = Path(np.array([0.0, 0.25, 0.5, 0.75]), np.array([3.0, 2.0, 1.0]), np.array([2.0, 1.0, 0.5, -1.0]), 2.0)

    def closing(at, residual, least, reset, way):
        asked.append((residual, least, way))
        assert at(far) == 0.0 and at(far) == 0.0
        reset()
        assert 0 < at(0.001) <= least
        return path, ""

    monkeypatch.setattr(certificate, "closing", closing)
    found, movement, reason, facts = certificate.follow(start, "another way")
    assert movement is not None
    least, p = Floor(start).at(first), start.input_power
    assert (found, reason) == (path, "") and asked == [(start.residual, least, "another way")]
    assert movement.path == 0.75 and (~movement.frozen).any() and not (~movement.frozen).all()
    flips = {"pairs that may flip": float(np.count_nonzero(~movement.frozen))}
    assert facts == {"λ_min(H(0)), at least": least * 2.0**start.rate_power, "path τ*": 0.75 / 2.0**p, **flips}
    monkeypatch.setattr(certificate, "closing", lambda *given: (None, f"least is {given[2]}"))
    nothing, none, reason, facts = certificate.follow(start)
    assert (nothing, none, reason) == (None, None, f"least is {least}") and list(facts) == ["λ_min(H(0)), at least"]
    monkeypatch.setattr(Mover, "at", lambda mover, path: None)
    assert certificate.follow(start)[2:] == ("least is 0.0", {"λ_min(H(0)), at least": 0.0})


def test_a_curve_and_a_guarantee_in_the_units_of_the_data():
    """`L = (p a²)² L'` and `H = (p a)² H'` for `p = 2³` and `a = 2⁻¹`."""
    start = SimpleNamespace(input_power=3, weight_power=-1, rate_power=4)
    path = Path(np.array([0.0, 1.0, 3.0]), np.array([2.0, 1.0]), np.array([3.0, 1.0, -1.0]), 3.0)
    curve = certificate.path_curve(path, start)
    np.testing.assert_allclose(curve.levels, [4.5 * 4, 0.5 * 4], rtol=1e-13)
    np.testing.assert_allclose(curve.rates, [4.0 * 16, 2.0 * 16], rtol=1e-13)
    made = certificate.guarantee(2.0, "name", "Theorem 7", "", curve, {"a": 1.0}, frozenset({"b", "a"}))
    assert (made.name, made.source, made.citation) == (
        "name",
        f"{certificate.SOURCE}, Theorem 7",
        ("linflow", "du2018", "a", "b"),
    )
    assert (made.gap, made.minimum, made.reason, made.facts) == (2.0, 0.0, "", {"a": 1.0}) and made.curve is curve


def test_a_row_of_a_smooth_network(monkeypatch):
    path = Path(np.array([0.0, 1.0, 3.0]), np.array([2.0, 1.0]), np.array([3.0, 1.0, -1.0]), 3.0)
    stand_in = SimpleNamespace(unfit="", residual=3.0, at=lambda tau: 2.0 - tau)
    monkeypatch.setattr(certificate, "Lazy", lambda problem, net: stand_in)
    monkeypatch.setattr(certificate, "closing", lambda at, residual, least: (path, "") if least == 2.0 else None)
    row = certificate._lazily(None, None, 4.5)
    assert row.facts == {"λ_min(H(0)), at least": 2.0, "path τ*": 3.0} and row.reason == "" and row.gap == 4.5
    np.testing.assert_allclose(row.curve.levels, [4.5, 0.5], rtol=1e-13)
    np.testing.assert_allclose(row.curve.rates, [4.0, 2.0], rtol=1e-13)
    monkeypatch.setattr(certificate, "closing", lambda at, residual, least: (None, "it is short"))
    row = certificate._lazily(None, None, 4.5)
    assert row.facts == {"λ_min(H(0)), at least": 2.0} and (row.curve, row.reason) == (None, "it is short")
    stand_in.unfit = "it is unfit"
    row = certificate._lazily(None, None, 4.5)
    assert row.facts == {} and (row.curve, row.reason) == (None, "it is unfit")


def test_what_is_certified_of_which_loss_network_and_algorithm():
    X, Y, net = drawn(14, N=3, h=20)
    smooth, signs = relu.SmoothNetwork(net.U, net.V), np.sign(Y)
    named = {
        "Theorem R⁺": relu.certify(X, Y, net),
        "Theorem 3": relu.certify(X, Y, net, algorithm="descent", step_size=0.01),
        "Theorem S": relu.certify(X, Y, smooth),
        "Theorem A": relu.certify(X, signs, net, loss="logistic"),
    }
    for theorem, cert in named.items():
        (row,) = cert.guarantees
        assert row.source.endswith(theorem) and row.minimum == 0.0
        assert cert.algorithm == ("descent" if theorem == "Theorem 3" else "flow")
    with pytest.raises(ValueError, match="certified for the flow only; leave algorithm out"):
        relu.certify(X, signs, net, loss="logistic", algorithm="descent")
    with pytest.raises(ValueError, match="not for a descent"):
        relu.certify(X, Y, smooth, algorithm="descent")
    with pytest.raises(ValueError, match="not for the loss 'logistic'"):
        relu.certify(X, signs, smooth, loss="logistic")
    with pytest.raises(ValueError, match="the flow takes no steps"):
        relu.certify(X, Y, net, step_size=0.1)


def test_a_safe_step_is_returned_only_with_a_certificate(monkeypatch):
    X, Y, net = drawn(14, N=3, h=20)
    for answer, safe in (((0.5, "steps", ""), True), ((0.5, None, "too long"), False), ((None, None, "bad"), False)):
        monkeypatch.setattr(certificate, "stepped", lambda start, step_size, answer=answer: answer)
        if safe:
            assert relu.safe_step_size(X, Y, net) == 0.5
        else:
            with pytest.raises(ValueError, match=f"no step is certified: {answer[2]}"):
                relu.safe_step_size(X, Y, net)


COARSE = 1e-6


@pytest.mark.parametrize("module", ["problem", "movement", "shadows", "floor"])
def test_with_a_coarse_rounding_every_bound_moves_to_its_safe_side(module, monkeypatch):
    """Each module's ε alone, 10⁻⁶: bounds on the movement rise and floors fall, by as much as the ε is worth."""
    kind = {"N": 5, "d": 4, "h": 40, "size": 2.0, "paired": False}
    start = started(*drawn(10, **kind))
    fine = Mover(start).at(0.05)
    values = [Floor(start).at(fine, second=second) for second in (True, False)]
    monkeypatch.setattr(f"linflow.relu.{module}.EPS", COARSE)
    start = started(*drawn(10, **kind))
    coarse = Mover(start).at(0.05)
    if module in ("problem", "movement"):
        assert (coarse.kappa > fine.kappa * (1 + COARSE)).all() and (coarse.growth > fine.growth * (1 + COARSE)).all()
        assert (coarse.second > fine.second * (1 + COARSE)).all() and (coarse.moved > fine.moved * (1 + COARSE)).all()
        assert (coarse.frozen <= fine.frozen).all() and (
            coarse.second_floor <= fine.second_floor * (1 - 0.2 * COARSE)
        ).all()
        assert coarse.features_moved > fine.features_moved * (1 + COARSE)
    size = np.linalg.eigvalsh(start.cosines)[-1]
    again = [Floor(start).at(coarse, second=second) for second in (True, False)]
    assert all(0 < new < old * (1 - COARSE) for new, old in zip(again, values, strict=True)) and size > 0


def test_allowances_of_the_start(monkeypatch):
    """Each stated allowance, with ε = 2^-20, literally."""
    e = 2.0**-20
    for module in ("problem", "movement", "shadows", "floor"):
        monkeypatch.setattr(f"linflow.relu.{module}.EPS", e)
    start = started(*drawn(11, N=5, d=4, h=12, m=2, paired=False))
    d, h, N, m = 4, 12, 5, 2
    X, U, V, Y = np.abs(start.X), np.abs(start.U), np.abs(start.V), np.abs(start.Y)
    np.testing.assert_allclose(start.z_error, (d + 8) * e * (X @ U), rtol=1e-12)
    off = (h + 16) * e * (np.abs(start.features) @ V) + start.z_error @ V + e * Y
    R = reference.outputs(start.X, start.U, start.V, 0.0) - start.Y
    exact = (np.linalg.norm(R) + np.linalg.norm(off)) * (1 + (N * m + d) * e)
    assert start.residual == pytest.approx(exact, rel=1e-12, abs=0)
    assert start.cosine_error == (4 * d + 32) * e
    v, f = start.sizes
    np.testing.assert_allclose(v, np.linalg.norm(V, axis=1) * (1 + (m + 8) * e), rtol=1e-12)
    up = np.linalg.norm(np.abs(start.features) + start.z_error, axis=0) * (1 + (N + 8) * e)
    np.testing.assert_allclose(f, up, rtol=1e-12)
    floor = Floor(start)
    n = N * m
    assert floor.shadows.error == 8 * (n + 2) * (n + d + h + 16) * e


def test_the_campaigns_kernel_is_the_literal_one():
    rng = np.random.default_rng(12)
    X, U, V, a = (rng.standard_normal(shape) for shape in ((4, 3), (3, 6), (6, 2), (4, 6)))
    np.testing.assert_allclose(kernel(X, U, V, a, 0.1), reference.H(X, U, V, a, 0.1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_a_certificate_is_compared_with_proofs_of_the_flow_and_of_descent(seed):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((4, 6)), 0.2 * rng.standard_normal((4, 1))
    net = relu.paired((6, 60, 1), 2.0, rng=seed)
    cert = relu.certify(X, Y, net)
    check = cert.check(relu.enclose(X, Y, net, until=1e-3))
    assert cert.rate > 0 and check.holds and 0 < check.worst_gap <= 1
    assert check.time_ratios[1e-2] > 1
    eta = float(relu.safe_step_size(X, Y, net))
    steps = relu.certify(X, Y, net, algorithm="descent", step_size=eta)
    check = steps.check(relu.enclose(X, Y, net, algorithm="descent", step_size=eta, until=0.5))
    assert steps.rate > 0 and check.holds and 0 < check.worst_gap <= 1 and check.worst_slack >= 1
    with pytest.raises(ValueError, match="the enclosure is of descent"):
        cert.check(relu.enclose(X, Y, net, algorithm="descent", step_size=eta, steps=3))
    with pytest.raises(TypeError, match=r"a run .* or a proof of one"):
        cert.check([1.0])
