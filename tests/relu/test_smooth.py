"""Two-layer networks with a smooth activation: ranges of slopes, movement, floor, certificate and run."""

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import linflow as lf
from linflow import relu
from linflow._support.arrays import EPS
from linflow.relu import activations as activations_module
from linflow.relu import lazy as lazy_module
from linflow.relu import movement as movement_module
from linflow.relu import problem as problem_module
from linflow.relu import smooth as smooth_module
from linflow.relu.activations import ACTIVATIONS, END, ERROR, SILU_TURN, Activation
from linflow.relu.lazy import Lazy
from linflow.relu.problem import Regression, norm_ceiling
from tests.reference import smooth as reference

E = 2.0**-20
NAMES = sorted(ACTIVATIONS)
POINTS = [
    -700.0,
    -40.0,
    -7.3,
    -2.3994,
    -1.5,
    -0.75,
    -1e-9,
    0.0,
    1e-200,
    1e-5,
    0.4,
    math.sqrt(2),
    2.3993,
    5.0,
    30.0,
    800.0,
]


def drawn(seed, activation, N=4, d=6, h=300, m=1, size=2.0, bias=False, std=1.0):
    """Data, targets and pairs of neurons with output 0."""
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((N, d)) / np.sqrt(d), rng.standard_normal((N, m))
    start = relu.paired((d, h, m), size, std=std, bias=bias, rng=rng)
    return X, Y, relu.SmoothNetwork(start.U, start.V, start.bias, activation)


def lazy(X, Y, net) -> Any:  # tests read what may be None
    return Lazy(Regression(np.asarray(X), np.asarray(Y)), net)


# --- activations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_values_and_slopes_are_those_of_fifty_digits_within_their_errors(name):
    activation = ACTIVATIONS[name]
    z = np.concatenate([POINTS, np.random.default_rng(0).uniform(-9, 9, 60)])
    with mpmath.workdps(400):  # e⁷⁰⁰ and 1 are added
        values = [float(reference.VALUES[name](mpmath.mpf(x))) for x in z]
        slopes = [float(reference.SLOPES[name](mpmath.mpf(x))) for x in z]
    assert (np.abs(activation.value(z) - values) <= activation.value_error(z)).all()
    assert (np.abs(activation.slope(z) - slopes) <= ERROR).all()
    np.testing.assert_array_equal(
        activation.value_error(z), 16 * EPS * (np.abs(activation.value(z)) + np.minimum(1, np.abs(z)))
    )
    assert ERROR == 16 * EPS


@pytest.mark.parametrize("name", NAMES)
def test_the_slope_turns_where_it_is_said_to(name):
    activation = ACTIVATIONS[name]
    with mpmath.workdps(40):
        second = [mpmath.diff(reference.SLOPES[name], mpmath.mpf(turn)) for turn in activation.turns]
    assert all(abs(x) < 1e-15 for x in second)
    if name == "silu":
        assert activation.turns == (-SILU_TURN, SILU_TURN)
    z = np.linspace(-30, 30, 60_001)
    changes = np.flatnonzero(np.diff(np.sign(np.diff(activation.slope(z)))) != 0)
    inner = [k for k in changes if abs(z[k + 1]) < 5]  # beyond, differences come near rounding
    assert len(inner) >= len(activation.turns)
    assert all(min(abs(z[k + 1] - turn) for turn in activation.turns) <= 2e-3 for k in inner)


@pytest.mark.parametrize("name", NAMES)
def test_the_range_of_the_slope_holds_it_and_is_attained(name):
    activation, rng = ACTIVATIONS[name], np.random.default_rng(3)
    low = rng.uniform(-6, 6, 300)
    high = low + rng.choice([0.0, 0.1, 1.0, 6.0], 300)
    least, greatest = activation.slopes(low, high)
    for a, b, below, above in zip(low, high, least, greatest, strict=True):
        inside = activation.slope(
            np.unique(np.concatenate([np.linspace(a, b, 2001), np.clip(activation.turns, a, b)]))
        )
        assert below == inside.min() - ERROR
        assert above == inside.max() + ERROR


@pytest.mark.parametrize(
    ("name", "steepest"),
    [("tanh", 1.0), ("sigmoid", 0.25), ("softplus", 1.0), ("gelu", 1.128904145), ("silu", 1.099839320)],
)
def test_the_steepest_slope(name, steepest):
    assert END == 40.0
    for z in (END, -END):  # where the line is cut off
        limit = {"tanh": 0.0, "sigmoid": 0.0}.get(name, float(z > 0))
        assert abs(ACTIVATIONS[name].slope(np.float64(z)) - limit) <= 1e-15
    assert ACTIVATIONS[name].steepest == pytest.approx(steepest, rel=1e-9, abs=0)  # ten digits are given


def test_a_falling_function_is_as_steep_as_a_rising_one():
    tanh = ACTIVATIONS["tanh"]
    falling = Activation("−tanh", lambda z: -tanh.value(z), lambda z: -tanh.slope(z), tanh.turns)
    assert falling.steepest == tanh.steepest


# --- the floor, with its allowances --------------------------------------------------------------------------------


tiny, root, smallest = 1e-3, 2e-3, 4e-3
SMALL = {"N": 3, "d": 4, "h": 12, "size": 0.7}


@pytest.fixture(
    params=[
        ("tanh", 0.3, SMALL),
        ("gelu", 0.05, {**SMALL, "m": 2}),
        ("silu", 0.01, SMALL),
        ("softplus", 0.2, {**SMALL, "m": 2}),
        ("tanh", 0.01, {**SMALL, "std": 0.01}),  # equal slopes: the Frobenius norm is the smaller bound
        ("tanh", 0.3, {"N": 60, "d": 6, "h": 2, "size": 1.0, "std": 0.03}),  # and here ‖X‖² that of the part of U
    ],
    ids=str,
)
def case(request, monkeypatch):
    """A start whose every unit of rounding is 2⁻²⁰, with coarse allowances for underflow, and a path."""
    for name, value in {"TINY": tiny, "ROOT": root, "SMALLEST": smallest}.items():
        monkeypatch.setattr(lazy_module, name, value)
    for module in (lazy_module, movement_module, problem_module, smooth_module):
        monkeypatch.setattr(module, "EPS", E)
    for module in (lazy_module, activations_module):
        monkeypatch.setattr(module, "ERROR", 16 * E)
    name, path, kind = request.param
    X, Y, net = drawn(5, name, **kind)
    return lazy(X, Y, net), path


def near(x):
    return pytest.approx(x, rel=1e-11, abs=0)  # both sides round sums of a few dozen terms


def same(found, literal):
    np.testing.assert_allclose(found, literal, rtol=1e-11, atol=0)


def bounds(activation, low, high):
    """The range of the slope on one interval, from a grid and the turns in it."""
    at = [low, high, *(t for t in activation.turns if low < t < high)]
    values = [float(activation.slope(np.float64(x))) for x in at]
    return min(values) - 16 * E, max(values) + 16 * E


def parts(start):
    """Everything that the start knows, literally."""
    net, X, activation = start.net, start.problem.X, start.net.activation
    (N, d), h, m, V = X.shape, net.width, net.V.shape[1], net.V
    z = X @ net.U
    off = (d + 8) * E * (np.abs(X) @ np.abs(net.U)) + tiny
    Phi, A = activation.value(z), activation.slope(z)
    steepest = max(abs(float(activation.slope(np.float64(x)))) for x in (*activation.turns, 40.0, -40.0)) + 16 * E
    Phi_off = steepest * off + 16 * E * (np.abs(Phi) + np.minimum(1, np.abs(z))) + tiny
    steep = np.zeros((N, h))
    for i, j in np.ndindex(N, h):
        least, greatest = bounds(activation, z[i, j] - off[i, j], z[i, j] + off[i, j])
        steep[i, j] = max(greatest, -least)
    lengths = np.linalg.norm(X, axis=1)
    K = np.abs(X @ X.T) + (d + 16) * E * np.outer(lengths, lengths) + tiny
    square = np.linalg.norm(X, 2) ** 2 + (max(N, d) + 32 * min(N, d) + 16) * E * np.sum(X**2)
    v = np.linalg.norm(V, axis=1) * (1 + (m + 8) * E) + root
    f = np.linalg.norm(np.abs(Phi) + Phi_off, axis=0) * (1 + (N + 8) * E)
    return z, off, Phi, Phi_off, A, steep, steepest, K, square, (v, f)


def test_what_is_known_of_the_start(case):
    start, _ = case
    z, off, Phi, Phi_off, A, steep, steepest, K, square, (v, f) = parts(start)
    net, problem = start.net, start.problem
    (N, d), (h, m) = problem.X.shape, net.V.shape
    assert net.activation.steepest == near(steepest)
    same(start.z_error, off)
    same(start.features[1], Phi_off)
    same(start.slopes[1], steep)
    same(start.kernel, K)
    assert start.input_square == near(square)
    same(start.sizes[0], v)
    same(start.sizes[1], f)
    z_off, value_off = off - tiny, 16 * E * (np.abs(Phi) + np.minimum(1, np.abs(z)))  # those of the network alone
    output = (steepest * z_off + value_off + (h + 8) * E * np.abs(Phi)) @ np.abs(net.V)
    same(net.output_error(problem.X), output)
    R = Phi @ net.V - problem.Y
    residual = (np.linalg.norm(R) + np.linalg.norm(output + E * np.abs(problem.Y))) * (1 + (R.size + 8) * E)
    assert start.residual == near(residual)
    values = np.linalg.eigvalsh(reference.H(problem.X, net.V, Phi, A))
    rounding = (h + d + 32) * E * values.sum() + 32 * N * m * E * values[-1]
    left = values[0] - rounding - smallest
    assert left > 0 or len(values) == 60
    # a difference of eigenvalues
    assert start.first == pytest.approx(math.sqrt(max(0.0, left)) * (1 - 4 * E), rel=1e-9, abs=0)


def test_the_movement_and_the_floor(case):
    start, path = case
    z, off, _, Phi_off, A, steep, steepest, K, square, (v, f) = parts(start)
    activation, h = start.net.activation, start.net.width
    literal = reference.movement(
        K,
        square,
        z,
        off,
        (v, f),
        path,
        (steepest, lambda low, high: bounds(activation, low, high)),
        E,
        (tiny, root),
    )
    found = start.moved(path)
    for ours, its in zip(found, literal, strict=True):
        same(ours, its)
    c, M, kappa, V, eps = literal
    E_phi = c * M * (1 + 8 * E) + Phi_off
    joint = np.linalg.norm(kappa * V) * (1 + (h + 8) * E) + np.linalg.norm(Phi_off)
    second = min(norm_ceiling(E_phi), joint) * (1 + 8 * E)
    B = np.zeros_like(z)
    for i, j in np.ndindex(*z.shape):
        reach = off[i, j] + M[i, j]
        least, greatest = bounds(activation, z[i, j] - reach, z[i, j] + reach)
        turned = max(greatest - A[i, j], A[i, j] - least) + 16 * E
        B[i, j] = (turned * (v[j] + eps[j]) + steep[i, j] * eps[j]) * (1 + 16 * E)
    together = np.linalg.norm((B @ B.T) * K, 2) * (1 + 32 * len(B) * E)
    apart = square * max(np.sum(B**2, axis=1))
    first = math.sqrt(min(together, apart) * (1 + (h + 16) * E))
    ours = start.change(*found)
    assert ours == (near(second), near(first))
    vars(start)["first"] = 2 * math.hypot(second, first)
    floor = (2 * math.hypot(second, first) - math.hypot(second, first) * (1 + 4 * E)) ** 2 * (1 - 4 * E)
    assert start.at(path) == pytest.approx(floor, rel=1e-10, abs=0)  # a difference of two such numbers
    vars(start)["first"] = 0.5 * math.hypot(second, first)
    assert start.at(path) == 0


def test_each_of_two_bounds_can_be_the_smaller():
    """Of κ and of both parts of the change of the Jacobian; else one of them could be left out unseen."""
    rng = np.random.default_rng(0)
    kappa, second, first = set(), set(), set()
    for seed in range(12):
        N, d = (int(x) for x in rng.integers(1, 7, 2)) if seed else (100, 20)
        X, Y, net = drawn(seed, "tanh", N=N, d=d, h=6, size=float(rng.choice([0.1, 1.0])))
        start = lazy(X, Y, relu.SmoothNetwork(float(rng.choice([0.03, 1.0])) * net.U, net.V))
        c, M, k, V, eps = start.moved(float(rng.choice([1e-3, 0.3])))
        rows = np.max(c * (start.kernel @ c), axis=0)
        kappa |= set(rows < c.max(axis=0) ** 2 * start.input_square)
        second.add(bool(norm_ceiling(c * M + start.features[1]) < np.linalg.norm(k * V)))
        low, high = start.net.activation.slopes(start.z - start.z_error - M, start.z + start.z_error + M)
        slopes, steep = start.slopes
        B = np.maximum(high - slopes, slopes - low) * (start.sizes[0] + eps) + steep * eps
        first.add(bool(np.linalg.norm((B @ B.T) * start.kernel, 2) < start.input_square * max(np.sum(B**2, axis=1))))
    assert kappa == second == first == {True, False}


# --- what the statements say ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("m", [1, 2])
def test_the_bounds_hold_along_any_residual(name, m):
    """Lemma S and the floor ask nothing of R but its norm: it turns at random here, and against one neuron."""
    rng = np.random.default_rng(7)
    X, Y, net = drawn(11, name, N=3, d=4, h=8, m=m, size=1.0)
    start, activation = lazy(X, Y, net), net.activation
    U, V, part, telling, lost = net.U, net.V, 1e-4, 0, start.first
    R = turned = -np.outer(X @ U[:, 0], V[0])
    for step in range(1, 1501):
        if step % 300 == 1:
            R = rng.standard_normal((3, m)) if step < 900 else turned
            R = R / np.linalg.norm(R)
        U, V = advanced(X, U, V, R, activation, part)
        if step % 250:
            continue
        path = step * part
        c, M, kappa, growth, eps = start.moved(path * (1 + 1e-6))
        Z = X @ U
        assert (np.abs(Z - X @ net.U) <= M * (1 + 1e-6)).all()
        assert (np.linalg.norm(V - net.V, axis=1) <= eps * (1 + 1e-6)).all()
        assert (np.abs(activation.slope(Z)) <= c).all()
        second, first = start.change(c, M, kappa, growth, eps)
        assert np.linalg.norm(activation.value(Z) - activation.value(X @ net.U), 2) <= second
        moved = jacobian(X, V, activation.slope(Z)) - jacobian(X, net.V, activation.slope(X @ net.U))
        assert np.linalg.norm(moved, 2) <= first
        telling += np.linalg.norm(moved, 2) > 0.1 * first
        least = np.linalg.eigvalsh(reference.H(X, V, activation.value(Z), activation.slope(Z)))[0]
        assert start.at(path) <= least * (1 + 1e-9)
        lost = min(lost, math.sqrt(start.at(path)))
    assert telling >= 2
    assert lost < start.first


def advanced(X, U, V, R, activation, part):
    """A step of the midpoint rule, with an error of about 1e-11 here, in the time of the path."""
    half = U, V
    for length in (part / 2, part):
        Z = X @ half[0]
        dU, dV = -X.T @ (activation.slope(Z) * (R @ half[1].T)), -activation.value(Z).T @ R
        half = U + length * dU, V + length * dV
    return half


def jacobian(X, V, A):
    """The derivative of the outputs by U: rows `(i, a)`, columns `(j, k)`, entries `a_ij v_ja x_ik`."""
    return np.einsum("ij,ja,ik->iajk", A, V, X).reshape(len(X) * V.shape[1], -1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "kind", [{}, {"m": 2, "size": 10.0}, {"bias": True}, {"N": 6, "h": 500, "size": 30.0}], ids=str
)
def test_no_flow_is_above_its_guarantee(name, kind):
    size = 8.0 if name == "sigmoid" else 4.0
    X, Y, net = drawn(1, name, **{"size": size, **kind})
    cert = relu.certify(X, Y, net)
    assert cert.rate > 0
    assert cert.check(relu.gradient_flow(X, Y, net, until=1e-4)).holds


@pytest.mark.parametrize("name", NAMES)
def test_the_flow_is_that_of_another_solver(name):
    X, Y, net = drawn(2, name, N=3, d=2, h=6, m=2, size=0.8, bias=True)
    run = relu.gradient_flow(X, Y, net, t_max=1.5)
    Xe, (d, h, m), activation = np.hstack([X, np.ones((3, 1))]), (3, 6, 2), net.activation

    def velocity(_, y):
        U, V = y[: d * h].reshape(d, h), y[d * h :].reshape(h, m)
        R = activation.value(Xe @ U) @ V - Y
        return -np.concatenate([
            (Xe.T @ (activation.slope(Xe @ U) * (R @ V.T))).ravel(),
            (activation.value(Xe @ U).T @ R).ravel(),
        ])  # fmt: skip

    first = np.concatenate([net.extended.ravel(), net.V.ravel()])
    y = solve_ivp(velocity, (0, 1.5), first, method="LSODA", rtol=1e-11, atol=1e-13).y[:, -1]
    last = run.network_at(1.5)
    found = np.concatenate([last.extended.ravel(), last.V.ravel()])
    np.testing.assert_allclose(found, y, rtol=0, atol=1e-7)  # the tolerance of the run is 1e-8 a step
    assert run.flips == ()
    assert math.isnan(run.stats.imbalance_drift)


def test_a_start_is_certified_that_a_plain_bound_would_not(capsys):
    X, Y, net = drawn(0, "tanh", N=8, d=16, h=1000, size=1.0)
    cert = relu.certify(X, Y, net)
    assert cert.rate > 100
    print(cert)
    assert "Theorem S" in capsys.readouterr().out
    assert cert.to_dict()["activation"] == "tanh"
    assert cert.may_flip.all()


# --- what is refused -----------------------------------------------------------------------------------------------


def test_what_is_not_certified_is_said():
    X, Y, net = drawn(0, "tanh", h=8)
    with pytest.raises(ValueError, match="flow of the squared loss only, not for a descent"):
        relu.certify(X, Y, net, algorithm="descent")
    with pytest.raises(ValueError, match="not for the loss 'logistic'"):
        relu.certify(X, np.sign(Y), net, loss="logistic")
    for verb in (relu.safe_step_size, lambda *a: relu.gradient_descent(*a, step_size=0.1)):
        with pytest.raises(TypeError, match="a ReLU or a leaky ReLU is needed"):
            verb(X, Y, net)
    with pytest.raises(ValueError, match=r"activation is 'swish'.*silu"):
        relu.SmoothNetwork(net.U, net.V, activation="swish")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"X": 0.0}, "all inputs are 0"),
        ({"Y": 1e40}, "above 1e"),
        ({"X": 1e40}, "above 1e"),
        ({"U": 1e40}, "above 1e"),
        ({"V": 1e40}, "above 1e"),
        ({"X": 1e-170}, "cannot be told from 0"),
    ],
    ids=str,
)
def test_numbers_at_the_ends_of_float64_are_refused(change, reason):
    X, Y, net = drawn(0, "tanh", h=8)
    scale = {"X": 1.0, "Y": 1.0, "U": 1.0, "V": 1.0, **change}
    net = relu.SmoothNetwork(scale["U"] * net.U, scale["V"] * net.V)
    cert = relu.certify(scale["X"] * X, scale["Y"] * Y, net)
    assert cert.rate == 0
    assert reason in cert.reason


def test_a_start_without_residual_is_told_and_a_small_one_is_certified():
    X, Y, net = drawn(0, "gelu", h=8)
    single = relu.SmoothNetwork(net.U[:, :1], np.zeros((1, 1)), activation="gelu")
    cert = relu.certify(X, np.zeros(4), single)
    assert cert.rate == 0 and cert.reason == "the residual is 0"
    assert relu.certify(X, 1e-6 * Y, net).rate > 0


def test_one_number_too_many_is_seen_and_zeros_among_the_inputs_are_not():
    X, Y, net = drawn(0, "tanh", h=60, size=8.0)
    some = X.copy()
    some[0, :2] = 0.0
    assert relu.certify(some, Y, net).rate > 0
    some[1, 1] = -1e40
    assert "above 1e" in relu.certify(some, Y, net).reason


def test_the_limits_of_numbers_and_of_the_movement(monkeypatch):
    """Products of a few numbers below 10³⁰ keep their squares in float64; so do allowances beside the smallest."""
    small = lazy_module.TINY, lazy_module.ROOT, lazy_module.SMALLEST
    assert small == (1e-290, 1e-150, 1e-260) and (lazy_module.LARGEST, lazy_module.ROUNDS) == (1e30, 3)
    X, Y, net = drawn(0, "tanh", h=8)
    largest = max(float(np.abs(part).max()) for part in (X, Y, net.U, net.V))
    monkeypatch.setattr(lazy_module, "LARGEST", largest * (1 + 1e-9))
    assert lazy(X, Y, net).unfit == ""
    monkeypatch.setattr(lazy_module, "LARGEST", largest)
    assert "a number is above" in lazy(X, Y, net).unfit
    monkeypatch.setattr(lazy_module, "ROUNDS", 1)
    farthest = float(np.sqrt(lazy(X, Y, net).moved(0.3)[2].max())) * 0.3
    monkeypatch.setattr(lazy_module, "FARTHEST", farthest * (1 + 1e-9))
    assert lazy(X, Y, net).moved(0.3) is not None
    monkeypatch.setattr(lazy_module, "FARTHEST", farthest)
    assert lazy(X, Y, net).moved(0.3) is None


def test_a_path_beyond_all_has_no_floor():
    start = lazy(*drawn(0, "tanh", h=8))
    far = 300 / math.sqrt(start.net.activation.steepest**2 * min(start.input_square, max(start.kernel.sum(axis=1))))
    assert start.moved(far * 1.001) is None and start.moved(far * 0.999) is not None
    assert start.at(far * 1.001) == 0.0


def test_nothing_is_conserved():
    assert lf.conserved(relu.SmoothNetwork([[1.0]], [[2.0]])) == ()
