"""Published results side by side: each row against its formula, its reasons, and real flows."""

import json
import math
import sys

import numpy as np
import pytest

import linflow as lf
from linflow.certificates.prior import prior_results
from linflow.certificates.setting import Setting

TARGET = np.diag([3.0, 2.0, 1.0])
NAMES = [
    "Saxe et al. 2014",
    "Arora et al. 2018",
    "Jacot et al. 2018",
    "Arora et al. 2019",
    "Chizat et al. 2019",
    "Du & Hu 2019",
    "Gidel et al. 2019",
    "Li, Luo & Lyu 2021",
    "Li, Nguyen, Hegde & Wong 2021",
    "Min et al. 2021",
    "Nguegnang et al. 2021",
    "Stöger & Soltanolkotabi 2021",
    "Tarmoun et al. 2021",
    "Yun et al. 2021",
    "Min et al. 2023",
    "Ward & Kolda 2023",
    "Xu et al. 2023",
    "Xu, Wang et al. 2024",
    "Beneventano & Woodworth 2025",
    "Mu & Klabjan 2025",
    "Xu et al. 2025",
]
# On an exact solution the integration error shows, which a plateau may enlarge 100-fold over the 1e-12 of a step.
EXACT = 1e-8


def rows(f, net, guarantees=()):
    found = prior_results(Setting(f, lf.Network.of(net)), guarantees)
    return {row.name: row for row in found}


def excess(f, row, run, every=1):
    """By how much a run exceeds the bound of a row, relatively, rounding of the gap apart."""
    t, gap = run.t[::-every], run.gap[::-every]  # the last time included
    bound = np.array([row.gap_at(float(s)) for s in t])
    return float(np.max((gap - f.rounding(run.final)) / np.maximum(bound, 1e-300))) - 1


def holds(f, net, row, until=5e-7, tolerance=EXACT):
    """Whether a row is kept by an accurate run, at every step and in its times; the run."""
    assert row.applies, row.reason
    run = lf.gradient_flow(f, net, until=until, t_max=1e3, rtol=1e-12, max_steps=5000)
    assert excess(f, row, run) <= tolerance
    for fraction in (1e-2, 1e-4, 1e-6):
        if math.isfinite(run.time_to(fraction)):
            assert row.time_to(fraction) >= run.time_to(fraction) * (1 - tolerance)
    return run


def whitened(n, kappa=2.25, rng=0):
    """A design with XᵀX = κI."""
    return math.sqrt(kappa) * np.linalg.qr(np.random.default_rng(rng).standard_normal((n + 2, n)))[0]


# --- The list ------------------------------------------------------------------------------------------------------


def test_one_row_a_result_the_earliest_first():
    found = prior_results(Setting(lf.MatrixFactorization(TARGET), lf.init.gaussian((3, 5, 3), rng=0)))
    assert [row.name for row in found] == NAMES
    years = [int(row.name[-4:]) for row in found]
    assert years == sorted(years)
    assert len(set(NAMES)) == len(NAMES)


def test_every_row_has_either_a_curve_or_a_reason_and_is_plain_data():
    for widths in ((3, 5, 3), (3, 4, 6, 3), (3, 3)):
        for net in (lf.init.gaussian(widths, rng=0), lf.init.small(widths, 1e-3, rng=0)):
            for row in prior_results(Setting(lf.MatrixFactorization(TARGET), net)):
                assert row.applies == (row.reason == "")
                assert all(type(value) is float and math.isfinite(value) for value in row.facts.values())
                json.dumps(row.to_dict()["facts"], allow_nan=False)


def test_one_layer_is_left_to_the_objective():
    (row,) = prior_results(Setting(lf.MatrixFactorization(TARGET), lf.Network([np.eye(3)])))
    assert not row.applies
    assert "one layer is the objective itself" in row.reason


def test_a_start_at_the_minimum():
    f, net = lf.MatrixFactorization(TARGET), lf.init.balanced((3, 4, 3), TARGET, rng=0)
    for row in rows(f, net).values():
        assert row.gap_at(1.0) <= row.gap


def calls_of(function):
    """Return how many functions one calls, of Python and of C: its work, whatever the machine."""
    count = 0

    def watch(_, event, __):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def test_the_certificate_lists_them_and_is_quick():
    f, net = lf.MatrixFactorization(TARGET), lf.init.gaussian((3, 5, 5, 3), rng=0)
    cert = lf.certify(f, net)
    assert [row.name for row in cert.prior] == NAMES
    assert all(row.gap == cert.gap and row.minimum == f.minimum for row in cert.prior)
    prior_results(Setting(f, net), cert.guarantees)  # imports
    # Some 1500 calls of functions, in 1 to 3 ms; the rest is for other versions of what is called. No loop runs.
    assert calls_of(lambda: prior_results(Setting(f, net), cert.guarantees)) < 10_000


# --- Exact solutions: Saxe, Gidel, Tarmoun -------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [1.0, 2.25])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_saxe_two_layers_is_the_logistic_curve(scale, kappa):
    a = 0.05
    X = whitened(3, kappa)
    f = lf.LinearRegression(X, X @ TARGET)
    net = lf.Network(lf.init.spectral((3, 5, 3), TARGET, a, rng=0).weights, scale)
    row = rows(f, net)["Saxe et al. 2014"]
    s, w0 = np.diag(TARGET), scale * a * a
    for t in (0.0, 0.5, 1.0, 2.0, 4.0):
        w = s / (1 + (s / w0 - 1) * np.exp(-2 * scale * kappa * s * t))
        # Both are closed forms; the row is raised by its allowance for s − w, of 1e-12 or so.
        raised = kappa * 5e-12 * np.linalg.norm(s - w)
        assert row.gap_at(t) == pytest.approx(0.5 * kappa * np.sum((s - w) ** 2), rel=1e-9, abs=raised)
    # λ_min(T) = 2 c σ_min(W) is least at the start, in every mode.
    assert row.rate == pytest.approx(2 * kappa * 2 * scale * w0, rel=1e-9)
    holds(f, net, row)
    assert rows(f, net)["Gidel et al. 2019"].gap_at(1.0) == row.gap_at(1.0)
    assert rows(f, net)["Tarmoun et al. 2021"].gap_at(1.0) == pytest.approx(row.gap_at(1.0), rel=1e-9)


@pytest.mark.parametrize("widths", [(3, 4, 5, 3), (3, 3, 3, 3, 3), (1, 2, 1, 1)])
def test_saxe_deep(widths):
    Y = TARGET[: widths[0], : widths[-1]]
    f, net = lf.MatrixFactorization(Y), lf.init.spectral(widths, Y, 0.4, rng=1)
    row = rows(f, net)["Saxe et al. 2014"]
    run = holds(f, net, row)
    # The curve is the solution, not only a bound.
    middle = len(run.t) // 2
    assert row.gap_at(float(run.t[middle])) == pytest.approx(run.gap[middle], rel=1e-7)


def test_saxe_rate_is_that_of_the_slowest_mode_on_its_way():
    Y = np.diag([2.0, 0.5])
    net = lf.init.spectral((2, 2, 2), Y, np.array([[1.0, 1.2], [1.0, 1.2]]), rng=0)
    row = rows(lf.MatrixFactorization(Y), net)["Saxe et al. 2014"]
    # Mode 1 rises from 1 (T = 2), mode 2 falls from 1.44 to 0.5 (T = 1): 2·min(2, 1).
    assert row.rate == pytest.approx(2.0, rel=1e-9)
    holds(lf.MatrixFactorization(Y), net, row)


def test_gidel_gives_the_times_of_the_modes():
    f, net = lf.MatrixFactorization(TARGET), lf.init.spectral((3, 4, 3), TARGET, 1e-2, rng=0)
    row = rows(f, net)["Gidel et al. 2019"]
    found = [row.facts[f"half of mode {i}"] for i in (1, 2, 3)]
    assert found == pytest.approx(lf.exact.learning_times(net, TARGET), rel=1e-9)
    holds(f, net, row)
    deep = rows(f, lf.init.spectral((3, 4, 4, 3), TARGET, 0.3, rng=0))["Gidel et al. 2019"]
    assert deep.reason == "it is for 2 layers, but the network has 3"


@pytest.mark.parametrize("values", [[[2.0, 1.0, 0.5], [0.3, 1.5, 0.0]], [[0.0, 0.2, 1.0], [1.0, -0.9, -0.2]]])
@pytest.mark.parametrize("widths", [(3, 5, 3), (4, 3, 3)])
def test_tarmoun_takes_any_imbalance_of_aligned_modes(values, widths):
    Y = np.eye(*(widths[0], widths[-1])) @ TARGET
    f, net = lf.MatrixFactorization(Y), lf.init.spectral(widths, Y, values, rng=2)
    found = rows(f, net)
    holds(f, net, found["Tarmoun et al. 2021"])
    assert "not balanced: w_i² differ" in found["Saxe et al. 2014"].reason


def test_tarmoun_multiple_of_the_identity():
    rng = np.random.default_rng(3)
    Y = TARGET + 0.1 * rng.standard_normal((3, 3))
    W0 = Y + 0.1 * rng.standard_normal((3, 3))
    f, net = lf.MatrixFactorization(Y), lf.init.imbalanced((3, 3, 3), 1.5, W0, rng=4)
    row = rows(f, net)["Tarmoun et al. 2021"]
    margin = np.linalg.svd(Y)[1][-1] - np.linalg.norm(W0 - Y)
    assert row.facts["λ"] == pytest.approx(1.5)
    assert row.rate == pytest.approx(2 * math.sqrt(1.5**2 + 4 * margin**2), rel=1e-9)
    holds(f, net, row)
    far = rows(f, lf.init.imbalanced((3, 3, 3), 0.0, -W0, rng=4))["Tarmoun et al. 2021"]
    assert "gives no rate by itself, and the margin is 0" in far.reason
    general = rows(f, lf.init.gaussian((3, 4, 3), rng=0))["Tarmoun et al. 2021"]
    assert "not aligned" in general.reason
    assert "its eigenvalues spread over" in general.reason


def test_why_modes_do_not_apply():
    f = lf.MatrixFactorization(TARGET)
    saxe = "Saxe et al. 2014"
    assert "not aligned with the singular vectors of W*" in rows(f, lf.init.gaussian((3, 4, 3), rng=0))[saxe].reason
    net = lf.init.spectral((3, 4, 3), TARGET, [[0.1] * 3, [-0.1] * 3], rng=0)
    assert "mode 1 (σ = 3) starts at -0.01, on the far side of the saddle" in rows(f, net)[saxe].reason
    net = lf.init.spectral((3, 4, 3), TARGET, [[0.1, 0.0, 0.1]] * 2, rng=0)
    assert "mode 2 (σ = 2) starts at 0 in every layer" in rows(f, net)[saxe].reason
    net = lf.init.spectral((3, 4, 3), TARGET, 1e-8, rng=0)
    assert "aligned only to rounding" in rows(f, net)[saxe].reason
    # The product is aligned and the hidden vectors are not.
    A, turn = lf.init.spectral((3, 3, 3), TARGET, 1.0, rng=0).weights[0], np.diag([1.0, 2.0, 1.0]) @ np.ones((3, 3))
    turn = turn + 3 * np.eye(3)
    net = lf.Network([A @ turn, np.linalg.inv(turn) @ np.linalg.inv(A) @ TARGET])
    assert "do not share their hidden ones" in rows(f, net)[saxe].reason
    X = np.diag([1.0, 2.0, 1.0])
    g = lf.LinearRegression(X, X @ TARGET)
    assert "whitened data, K = μ, and here K/μ = 4" in rows(g, lf.init.spectral((3, 4, 3), TARGET, 0.1))[saxe].reason
    assert rows(lf.MatrixFactorization(0 * TARGET), lf.init.gaussian((3, 4, 3)))[saxe].reason.startswith("W* = 0")


def test_near_alignment_never_passes_for_a_solution():
    rng = np.random.default_rng(5)
    f, applied = lf.MatrixFactorization(TARGET), 0
    for exponent in (-16, -13, -11, -8, -3):
        net = lf.init.spectral((3, 4, 3), TARGET, 0.02, rng=1)
        weights = [W + 10.0**exponent * rng.standard_normal(W.shape) for W in net.weights]
        for name in NAMES[0], "Gidel et al. 2019", "Tarmoun et al. 2021":
            row = rows(f, weights)[name]
            assert not row.applies or exponent <= -11
            if row.applies:
                applied += 1
                holds(f, weights, row, until=1e-4)
    assert applied > 0


# --- Imbalance and margin: Arora, Yun, Min -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("widths", "factor"), [((3, 4, 3), 2), ((3, 5, 4, 3), 3), ((3, 4, 2), 1), ((2, 3, 3, 3), 1), ((1, 1, 1, 1, 1), 4)]
)
def test_arora_rates_on_balanced_layers(widths, factor):
    rng = np.random.default_rng(1)
    n, m, L = widths[0], widths[-1], len(widths) - 1
    Y = np.eye(n, m) * np.arange(2, 2 + m)
    W0 = Y + 0.1 * rng.standard_normal((n, m))
    scale = 1.7
    f, net = lf.MatrixFactorization(Y), lf.Network(lf.init.balanced(widths, W0 / scale, rng=2).weights, scale)
    margin = np.linalg.svd(Y)[1][-1] - np.linalg.norm(W0 - Y)
    # λ_min(T) = a² σ^{2−2/L} for layers a = scale^{1/L} times as large; L of its terms count if n = m.
    rate = 2 * scale ** (2 / L) * margin ** (2 - 2 / L)
    found = rows(f, net)
    assert found["Arora et al. 2018"].rate == pytest.approx(factor * rate, rel=1e-9)
    assert found["Arora et al. 2019"].rate == pytest.approx(rate, rel=1e-9)
    holds(f, net, found["Arora et al. 2018"])
    holds(f, net, found["Arora et al. 2019"])


def test_the_printed_factor_of_balanced_layers_fails_for_n_unlike_m():
    # D = 0, n = 2, m = 1: T has the eigenvalues 1 and 2, and a residual in the first decays no faster.
    f, net = lf.MatrixFactorization(np.array([[1.0], [0.1]])), lf.Network([np.array([[1.0], [0.0]]), np.eye(1)])
    row = rows(f, net)["Arora et al. 2018"]
    run = holds(f, net, row)
    assert float(run.rate[0]) < 2 * row.rate


def test_arora_2019_grants_a_little_imbalance():
    rng = np.random.default_rng(4)
    f, base = lf.MatrixFactorization(TARGET), lf.init.balanced((3, 4, 3, 3), 0.95 * TARGET, rng=0)
    outcomes = set()
    for size in (1e-7, 1e-6, 3e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        net = lf.Network([W + size * rng.standard_normal(W.shape) for W in base.weights])
        row = rows(f, net)["Arora et al. 2019"]
        delta = max(np.linalg.norm(D) for D in lf.imbalance_matrices(net))
        assert row.facts["δ"] == pytest.approx(delta, rel=1e-6, abs=0)
        c = 1.0 - np.linalg.norm(net.product() - TARGET)
        allowed = c**2 / (256 * 27 * np.linalg.norm(TARGET) ** (4 / 3))
        assert row.facts["δ allowed"] == pytest.approx(allowed, rel=1e-9, abs=0)
        assert row.applies == (row.facts["δ"] <= row.facts["δ allowed"])
        outcomes.add(row.applies)
        if row.applies:
            # Half of the balanced rate: that of the theorem on descent.
            assert row.rate == pytest.approx(row.facts["deficiency margin"] ** (4 / 3), rel=1e-9)
            holds(f, net, row)
        else:
            assert "not balanced enough" in row.reason
    assert outcomes == {True, False}


def test_why_arora_does_not_apply():
    f = lf.MatrixFactorization(TARGET)
    found = rows(f, lf.init.balanced((3, 4, 3), -TARGET, rng=0))
    for year in (2018, 2019):
        assert "the margin is 0" in found[f"Arora et al. {year}"].reason
        assert "is not below σ_min(W*) = 1; start nearer" in found[f"Arora et al. {year}"].reason
    assert "not balanced: an eigenvalue" in rows(f, lf.init.gaussian((3, 4, 3), rng=0))["Arora et al. 2018"].reason
    narrow = rows(f, lf.init.gaussian((3, 2, 3), rng=0))
    assert "the hidden width 2 is below min(n, m) = 3; widen it" in narrow["Arora et al. 2018"].reason
    assert narrow["Arora et al. 2019"].reason == narrow["Arora et al. 2018"].reason
    singular = rows(lf.MatrixFactorization(np.diag([1.0, 0.0])), lf.init.balanced((2, 2, 2), np.eye(2), rng=0))
    assert singular["Arora et al. 2019"].reason == "the margin is 0, as W* does not have full rank"


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("widths", [(2, 2, 2), (2, 3, 3, 2), (3, 4, 4, 3, 3), (4, 4, 4, 2), (1, 1, 1, 1)])
def test_yun_is_a_power_of_the_last_imbalance(widths, right):
    n, m, L = widths[0], widths[-1], len(widths) - 1
    shape = widths if right else widths[::-1]
    d = 1.5 if right else -1.5
    f = lf.MatrixFactorization(np.eye(shape[0], shape[-1]))
    net = lf.init.imbalanced(shape, d, 0.3 * np.eye(shape[0], shape[-1]), rng=0)
    row = rows(f, net)["Yun et al. 2021"]
    D = lf.imbalance_matrices(net)
    value = np.linalg.eigvalsh(D[-1])[::-1][n - 1] if right else np.linalg.eigvalsh(-D[0])[::-1][n - 1]
    assert value == pytest.approx(1.5)
    # What rounding of the signs may cost is taken off: 2 L⁴ · 16 ε √h ‖W_l‖² ‖W_l‖^{2L−4}.
    assert row.rate == pytest.approx(2 * value ** (L - 1), rel=1e-8)
    assert m <= n
    holds(f, net, row)


def test_why_yun_does_not_apply():
    f, yun = lf.MatrixFactorization(np.eye(2)), "Yun et al. 2021"
    mixed = lf.init.imbalanced((2, 3, 3, 3, 2), [-1.0, 1.0, -1.0], 0.3 * np.eye(2), rng=0)
    assert "the imbalance is not ordered: it needs D_l ⪰ 0 for all l < L − 1" in rows(f, mixed)[yun].reason
    balanced = lf.init.balanced((2, 3, 2), np.eye(2), rng=0)
    assert "λ_2(D_1) and λ_2(−D_1) are not positive" in rows(f, balanced)[yun].reason


def test_min_2021_is_the_imbalance_alone():
    rng = np.random.default_rng(0)
    for n, m, h in ((3, 2, 9), (2, 4, 8), (1, 1, 3)):
        X, Y = rng.standard_normal((n + 2, n)), rng.standard_normal((n + 2, m))
        f, net = lf.LinearRegression(X, Y), lf.Network(lf.init.gaussian((n, h, m), rng=1).weights, 0.5)
        D = lf.imbalance_matrices(net)[0]
        up, down = np.linalg.eigvalsh(D)[::-1], np.linalg.eigvalsh(-D)[::-1]
        least = np.linalg.svd(X)[1][-1] ** 2
        row = rows(f, net)["Min et al. 2021"]
        assert row.rate == pytest.approx(2 * least * 0.25 * (max(up[n - 1], 0) + max(down[m - 1], 0)), rel=1e-9)
        holds(f, net, row)


def test_min_2021_with_fewer_samples_than_inputs():
    rng = np.random.default_rng(2)
    X, Y = rng.standard_normal((2, 4)), rng.standard_normal((2, 1))
    f = lf.LinearRegression(X, Y)
    net = lf.init.gaussian((4, 9, 1), rng=0)
    row = rows(f, net)["Min et al. 2021"]
    _, s, Vt = np.linalg.svd(X)
    U1, U2, V = Vt[:2] @ net.weights[0], Vt[2:] @ net.weights[0], net.weights[1].T
    D = U1.T @ U1 - V.T @ V
    up, down = np.linalg.eigvalsh(D)[::-1], np.linalg.eigvalsh(-D)[::-1]
    assert row.rate == pytest.approx(2 * s[1] ** 2 * (max(up[1], 0) + max(down[0], 0)), rel=1e-9)
    off = math.hypot(np.linalg.norm(U1 @ U2.T), np.linalg.norm(V @ U2.T))
    assert row.facts["off least norm"] == pytest.approx(off)
    holds(f, net, row)
    # Without the frozen part the limit is the solution of least norm.
    kept = lf.Network([Vt[:2].T @ U1, net.weights[1]])
    assert rows(f, kept)["Min et al. 2021"].facts["off least norm"] < 1e-12
    end = lf.gradient_flow(f, kept, until=1e-12).final.product()
    assert np.linalg.norm(end - np.linalg.pinv(X) @ Y) < 1e-4  # sqrt of the gap reached


def test_why_min_2021_does_not_apply():
    f = lf.MatrixFactorization(TARGET)
    narrow = rows(f, lf.init.balanced((3, 4, 3), TARGET, rng=0))["Min et al. 2021"]
    assert narrow.reason.startswith("neither λ_3(D) nor λ_3(−D) is positive")
    deep = rows(f, lf.init.gaussian((3, 4, 4, 3), rng=0))["Min et al. 2021"]
    assert deep.reason == "it is for 2 layers, but the network has 3"


def test_min_2023_is_the_best_of_its_bounds_at_its_margin():
    f = lf.MatrixFactorization(TARGET)
    for net in (
        lf.init.imbalanced((3, 3, 3, 3), [1.0, -0.5], 0.9 * TARGET, rng=0),
        lf.init.gaussian((3, 30, 3), 0.3, rng=0),
        lf.init.gaussian((3, 20, 20, 3), 0.3, rng=0),
    ):
        margin = lf.margin(f, net, form="distance")
        table = lf.bounds.table(net, margin)
        values = [float(b.value) for b in table if b.applies and b.theorem.citation in ("min2021", "min2023")]
        row = rows(f, net)["Min et al. 2023"]
        assert row.rate == pytest.approx(2 * max(values), rel=1e-12)
        holds(f, net, row)
    far = rows(f, lf.init.balanced((3, 4, 3), -TARGET, rng=0))["Min et al. 2023"]
    assert "its bounds are 0: the imbalance alone gives none, and the margin is 0" in far.reason
    mixed = lf.init.gaussian((3, 4, 4, 4, 3), rng=0)
    assert "none of its theorems covers" in rows(f, mixed)["Min et al. 2023"].reason


# --- Limits, never a bound -----------------------------------------------------------------------------------------


def test_statements_on_limits_predict_and_never_apply():
    limits = ("Du & Hu 2019", "Jacot et al. 2018", "Li, Luo & Lyu 2021", "Stöger & Soltanolkotabi 2021")
    f = lf.MatrixFactorization(TARGET)
    for net in (
        lf.init.small((3, 5, 3), 1e-4, rng=0),
        lf.init.ntk((3, 2000, 3), rng=0),
        lf.init.gaussian((3, 5, 3), rng=0),
    ):
        found = rows(f, net, lf.certify(f, net).guarantees)
        assert not any(found[name].applies for name in limits)


def test_small_starts_predict_when_a_mode_is_learned():
    f = lf.MatrixFactorization(TARGET)
    for widths, size in (((3, 5, 3), 1e-4), ((3, 3, 3, 3), 0.05)):
        net = lf.init.spectral(widths, TARGET, size, rng=0)
        facts = rows(f, net)["Li, Luo & Lyu 2021"].facts
        half = lf.exact.learning_times(net, TARGET)
        # The law is that of a vanishing start; here it is right to a third.
        assert facts["first mode"] == pytest.approx(half[0], rel=0.35)
        assert facts["last mode"] == pytest.approx(half[-1], rel=0.35)
    for L in (3, 4, 5):  # aligned, each layer and mode with a weight of its own: the error falls with the start
        sizes = np.exp(0.7 * np.random.default_rng(L).standard_normal((L, 3)))
        for small in (1e-2, 1e-3):
            net = lf.Network(lf.init.spectral((3,) * (L + 1), TARGET, small * sizes, rng=0).weights, 0.5)
            facts = rows(f, net)["Li, Luo & Lyu 2021"].facts
            half = lf.exact.learning_times(net, TARGET)
            # A mode at half its size still has a time of the order of 1 to go, of one of the order of α^{2−L}.
            assert facts["first mode"] == pytest.approx(half.min(), rel=2 * facts["α relative"])
            assert facts["last mode"] == pytest.approx(half.max(), rel=2 * facts["α relative"])
    two = rows(f, lf.init.small((3, 5, 3), 1e-4, rng=0))
    assert two["Stöger & Soltanolkotabi 2021"].facts == two["Li, Luo & Lyu 2021"].facts
    assert "it predicts t ≈ log(1/α)/σ = " in two["Stöger & Soltanolkotabi 2021"].reason
    deep = rows(f, lf.init.small((3, 5, 5, 3), 1e-2, rng=0))
    assert "learn no mode before t ≈ 1/(ασ) = " in deep["Li, Luo & Lyu 2021"].reason
    assert deep["Stöger & Soltanolkotabi 2021"].reason == "it is for 2 layers, but the network has 3"


@pytest.mark.parametrize("widths", [(3, 5, 3), (3, 5, 5, 3), (2, 4, 4, 4, 2)])
def test_small_starts_against_runs(widths):
    """Not aligned: the first mode comes when it is said for two layers, and never before what is said for more."""
    target = TARGET[: widths[0], : widths[0]]
    f = lf.MatrixFactorization(target)
    for seed in range(3):
        ratios = []
        for small in (1e-2, 1e-3):
            net = lf.init.gaussian(widths, small, rng=seed)
            facts = rows(f, net)["Li, Luo & Lyu 2021"].facts
            run = lf.gradient_flow(f, net, until=0.3, record=("singular_values",))
            learned = float(run.t[np.argmax(run.singular_values[:, 0] > target[0, 0] / 2)])
            if len(widths) == 3:
                ratios.append(facts["first mode"] / learned)
            else:
                assert "first mode" not in facts and "last mode" not in facts
                # by the residual, which the mode itself makes less on its way: no less than all but α of it
                assert 0.98 < learned / facts["no mode before"] < 15  # 1.5 to 3 times for three layers
        if ratios:  # log(1/α) rules slowly: a constant of 1 or so beside it
            assert all(abs(r - 1) < 0.35 for r in ratios) and abs(ratios[1] - 1) < abs(ratios[0] - 1) + 0.01


def test_why_small_starts_are_not_small():
    f = lf.MatrixFactorization(TARGET)
    assert (
        "scale the start down (below 0.1)" in rows(f, lf.init.gaussian((3, 5, 3), rng=0))["Li, Luo & Lyu 2021"].reason
    )
    zero = rows(f, [np.zeros((3, 3))] * 2)["Li, Luo & Lyu 2021"]
    assert zero.reason == "the layers are 0, and the flow never leaves 0"
    flat = rows(lf.MatrixFactorization(0 * TARGET), lf.init.small((3, 3, 3), rng=0))["Li, Luo & Lyu 2021"]
    assert flat.reason == "W* = 0, so there is nothing to learn"


def test_diagonal_networks():
    f, name = lf.MatrixFactorization(TARGET), "Li, Nguyen, Hegde & Wong 2021"
    row = rows(f, [0.05 * np.eye(3)] * 3)[name]
    assert "a vanishing diagonal start in the limit and gives no bound for this start" in row.reason
    assert row.facts["first mode"] == pytest.approx(1 / (0.05 * 3.0), rel=1e-9)
    assert "entries off the diagonal" in rows(f, lf.init.small((3, 3, 3), rng=0))[name].reason


def test_du_hu_asks_for_width():
    X = np.diag([1.0, 2.0])
    row = rows(lf.LinearRegression(X, np.ones((2, 3))), lf.init.gaussian((2, 7, 9, 3), rng=0))["Du & Hu 2019"]
    assert row.facts == {"κ": pytest.approx(4.0), "width asked": pytest.approx(3 * 2 * 64 * 3), "width": 7.0}
    assert "order L r κ³ m = 1.15e+03, with a constant that the paper leaves open; " in row.reason
    assert row.reason.endswith("; the smallest width here is 7")


def test_the_lazy_regime_is_that_of_the_certificate():
    f, net = lf.MatrixFactorization(0.1 * np.eye(2)), lf.init.ntk((2, 4000, 2), rng=0)
    cert = lf.certify(f, net)
    lazy = next(g for g in cert.guarantees if g.name == "lazy regime")
    row = rows(f, net, cert.guarantees)["Chizat et al. 2019"]
    assert row.applies and row.curve is lazy.curve
    assert 0 < row.facts["relative motion"] < 0.1
    holds(f, net, row, until=1e-4)
    jacot = rows(f, net, cert.guarantees)["Jacot et al. 2018"]
    assert "infinite width, but the smallest width here is 4000" in jacot.reason
    assert jacot.facts["rate if T stayed"] == pytest.approx(2 * float(lf.TangentOperator(net).least_eigenvalue()))
    assert row.rate <= jacot.facts["rate if T stayed"]
    small = lf.init.small((2, 3, 2), 0.1, rng=0)
    reason = rows(f, small, lf.certify(f, small).guarantees)["Chizat et al. 2019"].reason
    assert reason == next(g for g in lf.certify(f, small).guarantees if g.name == "lazy regime").reason
    descent = {row.name: row for row in lf.certify(f, small, algorithm="descent").prior}
    assert descent["Chizat et al. 2019"].reason == "it is for the flow, but this certificate is for descent"


# --- Descent, and other losses -------------------------------------------------------------------------------------


def test_descent_takes_the_rows_of_its_certificate():
    f, net = lf.MatrixFactorization(TARGET), lf.init.balanced((3, 4, 3), 0.98 * TARGET, rng=0)
    cert = lf.certify(f, net, algorithm="descent")
    found = {row.name: row for row in cert.prior}
    run = lf.gradient_descent(f, net, step_size=cert.step_size, steps=60)
    for key in ("xu2023", "xu2025"):
        own = next(g for g in cert.guarantees if key in g.citation)
        row = found[f"Xu et al. {key[2:]}"]
        assert row.applies and row.curve is own.curve
        assert row.steps_to(1e-3) == own.steps_to(1e-3)
        assert excess(f, row, run) <= 1e-9  # rounding of the steps
    flows = [row for row in found.values() if row.reason.startswith("it is for the flow (rate ")]
    assert {"Saxe et al. 2014", "Arora et al. 2018", "Min et al. 2023"} <= {row.name for row in flows}
    assert "the largest it allows" in found["Arora et al. 2019"].reason
    tiny = lf.certify(f, net, algorithm="descent", step_size=1e-8)
    assert next(row for row in tiny.prior if row.name == "Arora et al. 2019").applies


def test_results_on_descent_do_not_apply_to_the_flow():
    found = rows(lf.MatrixFactorization(TARGET), lf.init.gaussian((3, 5, 3), rng=0))
    for year in (2023, 2025):
        assert found[f"Xu et al. {year}"].reason == 'it is for gradient descent; use certify(…, algorithm="descent")'


def test_a_loss_that_is_not_squared():
    def value(W):
        return float(np.sum(np.log(np.cosh(W - TARGET)) + 0.5 * (W - TARGET) ** 2))

    def gradient(W):
        return np.tanh(W - TARGET) + (W - TARGET)

    f = lf.Objective(
        value, gradient, shape=(3, 3), strong_convexity=1.0, smoothness=2.0, minimizer=TARGET, minimum=0.0
    )
    net = lf.init.balanced((3, 4, 3), 0.98 * TARGET, rng=0)
    found = rows(f, net)
    for name in ("Arora et al. 2018", "Min et al. 2023"):
        holds(f, net, found[name])
    squared = ("Saxe", "Arora et al. 2019", "Gidel", "Tarmoun", "Yun", "Min et al. 2021", "Du & Hu", "Stöger")
    for name in squared:
        row = next(row for row in found.values() if row.name.startswith(name))
        assert row.reason == "it is for the squared loss, not for a user-defined objective"
    unknown = lf.Objective(value, gradient, shape=(3, 3), minimizer=TARGET, minimum=0.0)
    assert "declare strong_convexity=" in rows(unknown, net)["Arora et al. 2018"].reason
    assert "declare strong_convexity=" in rows(unknown, net)["Min et al. 2023"].reason


def test_separable_data():
    from linflow.model.classification import LogisticLoss

    f = LogisticLoss(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1.0, -1.0]))
    net = lf.init.small((2, 3, 1), 1e-3, rng=0)
    cert = lf.certify(f, net)
    assert not any(row.applies for row in cert.prior)
    assert "first mode" in next(row for row in cert.prior if row.name == "Li, Luo & Lyu 2021").facts


def test_other_array_kinds(xp):
    f = lf.MatrixFactorization(xp.asarray(TARGET))
    for net in (
        lf.init.spectral((3, 4, 3), TARGET, 0.5, rng=0),
        lf.init.imbalanced((3, 4, 4, 3), 1.0, 0.9 * TARGET, rng=0),
    ):
        other = lf.Network([xp.asarray(W) for W in net.weights])
        expected = rows(lf.MatrixFactorization(TARGET), net)
        for name, row in rows(f, other).items():
            assert row.applies == expected[name].applies
            assert row.rate == pytest.approx(expected[name].rate, rel=1e-9)  # LAPACK differs in the last digits


# --- No row is ever wrong ------------------------------------------------------------------------------------------

FAMILIES = ("aligned", "aligned balanced", "balanced", "near balanced", "homogeneous", "ordered", "gaussian", "small")


def draw(family, seed):
    """A random problem: shapes from 1×1 up, depths 2 to 4, three losses, some with an output scale."""
    rng = np.random.default_rng(seed)
    L, n, m = int(rng.choice([2, 2, 3, 4])), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    k = min(n, m)
    widths = (n, *(int(k + rng.integers(0, 4)) for _ in range(L - 1)), m)
    Y = rng.standard_normal((n, m)) * 10 ** rng.uniform(-0.3, 0.4)
    near = Y + 0.7 * rng.random() * np.linalg.svd(Y)[1][-1] * rng.standard_normal((n, m)) / math.sqrt(n * m)
    try:
        if family == "aligned":
            net = lf.init.spectral(widths, Y, rng.uniform(-1, 1, (L, k)), rng=rng)
        elif family == "aligned balanced":
            net = lf.init.spectral(widths, Y, np.ones((L, 1)) * rng.uniform(0.3, 1.2, k), rng=rng)
        elif family == "homogeneous":
            net = lf.init.imbalanced(widths, float(rng.normal()), near, rng=rng)
        elif family == "ordered":
            net = lf.init.imbalanced(widths, rng.choice([-1, 1]) * rng.uniform(0, 2, L - 1), near, rng=rng)
        elif family == "gaussian":
            net = lf.init.gaussian((n, *(int(h + rng.integers(0, 6)) for h in widths[1:-1]), m), rng=rng)
        elif family == "small":
            net = lf.init.small(widths, 0.05, rng=rng)
        else:
            net = lf.init.balanced(widths, near, rng=rng)
    except ValueError:  # a hidden layer too narrow for the spare modes
        net = lf.init.fan_in(widths, rng=rng)
    weights = net.weights
    if family == "near balanced":
        weights = [W + 10 ** rng.uniform(-7, -3) * rng.standard_normal(W.shape) for W in weights]
    net = lf.Network(weights, float(rng.choice([1.0, 1.0, 0.6, 2.0])))
    X = whitened(n, rng=rng) if rng.random() < 0.5 else rng.standard_normal((n + 1, n))
    f = lf.MatrixFactorization(Y) if rng.random() < 0.6 else lf.LinearRegression(X, X @ Y)
    return f, net


def kept(family, seeds, rtol, until, every=1):
    """Check every applying row of random problems against a run; count the rows by name."""
    applied = dict.fromkeys(NAMES, 0)
    for seed in seeds:
        f, net = draw(family, seed)
        found = [row for row in prior_results(Setting(f, net)) if row.applies]
        if not found:
            continue
        run = lf.gradient_flow(f, net, until=until, t_max=50.0, rtol=rtol, max_steps=100)
        for row in found:
            applied[row.name] += 1
            # 1e-6: at rtol 1e-10 a plateau enlarges the integration error to 2e-7 in the worst case seen.
            assert excess(f, row, run, every) <= 1e-6, (family, seed, row)
    return applied


@pytest.mark.parametrize("family", FAMILIES)
def test_no_row_is_violated_by_a_flow(family):
    applied = kept(family, range(38), 1e-10, 3e-2, every=4)
    expected = {
        "aligned": {"Tarmoun et al. 2021"},
        "aligned balanced": {"Saxe et al. 2014", "Gidel et al. 2019", "Tarmoun et al. 2021"},
        "balanced": {"Arora et al. 2018", "Arora et al. 2019"},
        "near balanced": {"Arora et al. 2019", "Min et al. 2023"},
        "homogeneous": {"Tarmoun et al. 2021", "Yun et al. 2021", "Min et al. 2023"},
        "ordered": {"Yun et al. 2021", "Min et al. 2023"},
        "gaussian": {"Min et al. 2021", "Min et al. 2023"},
        "small": set(),
    }[family]
    assert all(applied[name] >= 3 for name in expected), applied


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_no_row_is_violated_by_a_long_flow(family):
    kept(family, range(1000, 1200), 1e-11, 1e-8)
