"""The formulas of verified runs written out, with their allowances, under a roundoff so coarse that all show.

Nothing here says that an allowance is enough: other tests do. Here each is exactly what docs/verified.md says.
"""

import dataclasses
import itertools
import math
import sys

import numpy as np
import pytest

import linflow as lf
from linflow.verified import (
    _pairs,  # noqa: F401 - numba is slow to import: once, at the beginning
    rounding,
)
from linflow.verified import problem as problems
from linflow.verified.arithmetic import FLOAT64, PAIRS
from linflow.verified.hessian import Matrix, between, coefficient, cross, hessian
from linflow.verified.problem import AffineGradient, affine_gradient
from linflow.verified.reduction import narrowed
from linflow.verified.rounding import frobenius, gamma, least_eigenvalue, spectral
from linflow.verified.taylor import LONGEST, Expansion, MatrixSeries, integral

EXACTLY = 1e-12
"""The same sums in another order, of some hundred terms of float64."""

u, up, tiny = 2.0**-12, 1 + 2.0**-7, 2.0**-25


@pytest.fixture
def coarse(monkeypatch):
    """A roundoff of 2⁻¹² everywhere, and as coarse a factor and an underflow."""
    fine = {"U": rounding.U, "UP": rounding.UP, "TINY": rounding.TINY}
    for name, module in list(sys.modules.items()):
        if name.startswith(("linflow.verified", "linflow.relu")):
            for constant, value in {"U": u, "UP": up, "TINY": tiny}.items():
                if getattr(module, constant, None) == fine[constant]:
                    monkeypatch.setattr(module, constant, value)
    # On the classes: an attribute of the instance would outlast the test and hide that of the class from others.
    monkeypatch.setattr(type(FLOAT64), "unit", u)
    monkeypatch.setattr(type(PAIRS), "unit", u / 2)
    monkeypatch.setattr(type(PAIRS), "rest", u)


def near(value):
    return pytest.approx(value, rel=EXACTLY, abs=0)


def g(count):
    return count * u / (1 - count * u) * (1 + 4 * u)


def fro(A):
    return math.sqrt(sum(x * x for x in np.ravel(A))) * (1 + g(np.size(A) + 4)) + tiny


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# --- rounding ------------------------------------------------------------------------------------------------------


def test_the_constants_of_rounding():
    assert rounding.U == np.finfo(np.float64).eps / 2 == math.ulp(0.5)  # half of the distance from 1 to the next
    assert (1 + rounding.U) ** 4000 < 1 + 4.5e-13 < rounding.UP == 1 + 1e-12
    assert math.sqrt(5e-324) < 1e-161 < rounding.TINY == 1e-150
    assert spectral(np.eye(9)) == pytest.approx(9 ** (1 / 64), rel=1e-13, abs=0)  # four squarings


def test_gamma_and_norms(coarse):
    assert gamma(5) == near(5 * u / (1 - 5 * u) * (1 + 4 * u))
    assert gamma(5, 2.0**-6) == near(5 / 64 / (1 - 5 / 64) * (1 + 4 * u))
    A = drawn(4, 2, 3)
    assert list(frobenius(A)) == [near(fro(a)) for a in A]
    assert float(frobenius(drawn(5, 2))) == near(fro(drawn(5, 2)))


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (2, 9)])
def test_a_spectral_norm_is_a_root_of_a_power_with_the_rounding_of_each_squaring(coarse, shape):
    A = np.linalg.qr(drawn(max(shape), min(shape)))[0]
    A = A if A.shape == shape else A.T
    M = (A @ A.T if shape[0] < shape[1] else A.T @ A) / fro(A) ** 2
    powers = [M]
    for _ in range(4):
        powers.append(powers[-1] @ powers[-1].T)
    top = fro(powers.pop())
    for M in powers[::-1]:
        top = math.sqrt(top + g(min(shape)) * fro(M) ** 2) * (1 + 4 * u)
    top += g(max(shape) + 4)
    found = math.sqrt(top) * fro(A) * (1 + 8 * u) + tiny
    assert spectral(A) == near(found) and found < fro(A)


def test_a_norm_is_its_length_where_its_square_may_leave_float64_or_it_is_known():
    # Lengths are raised by 10⁻¹⁵⁰: the third is 1.05·10⁻¹⁴⁹.
    for size, plain in ((1.2e150, True), (0.9e150, False), (0.95e-149, False), (0.85e-149, True)):
        A = np.diag([size / math.sqrt(2)] * 2)
        assert (spectral(A) == float(frobenius(A))) is plain
    assert spectral(np.array([[3.0, 4.0]])) == float(frobenius(np.array([[3.0, 4.0]])))


def shift(A, s):
    """`κ` of a shift s: Rump's bound of what Cholesky grants, and the rounding of the shift."""
    n = len(A)
    trace = sum(abs(A[i, i]) for i in range(n)) * (1 + g(n + 4))
    return (g(n + 1) / (1 - g(n + 1)) * (trace + n * max(-s, 0)) + 4 * u * (trace + abs(s)) + tiny) * up


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("failing", [0, 1, 3])
def test_a_least_eigenvalue_is_proved_by_rump_s_shift(coarse, monkeypatch, failing, sign):
    A = drawn(3, 3, seed=2)
    A = sign * (A @ A.T + 0.1 * np.eye(3))
    guess, calls, cholesky = np.linalg.eigvalsh(A)[0], [], np.linalg.cholesky

    def fails_at_first(B):
        calls.append(B)
        if len(calls) <= failing:
            raise np.linalg.LinAlgError
        return cholesky(B)

    monkeypatch.setattr(np.linalg, "cholesky", fails_at_first)
    s, margin = guess, 0.0
    for _ in range(failing + 1):
        margin = max(2 * margin, 2 * shift(A, s))
        s = guess - margin
    assert least_eigenvalue(A, 0.25) == near(s - (0.25 + 4 * u * abs(s)) * up)
    for i, j in itertools.product(range(3), repeat=2):
        assert calls[-1][i, j] == near(A[i, j] - (s + shift(A, s) if i == j else 0.0))
    assert len(calls) == failing + 1 and least_eigenvalue(A, 0.25, 7.0) == 7.0


def test_a_least_eigenvalue_that_no_trial_proves_is_the_one_known(monkeypatch):
    calls = []

    def fails(B):
        calls.append(B)
        raise np.linalg.LinAlgError

    monkeypatch.setattr(np.linalg, "cholesky", fails)
    assert least_eigenvalue(np.eye(2), floor=-3.0) == -3.0 and len(calls) == 59
    monkeypatch.undo()
    # Only the lower half is read, but what is not finite anywhere proves nothing.
    assert least_eigenvalue(np.array([[1.0, math.nan], [0.0, 1.0]]), floor=-3.0) == -3.0


# --- the objective -------------------------------------------------------------------------------------------------


def disturbed(A=True, B=True):
    V = drawn(2, 3)
    P, Q = drawn(2, 2, seed=1), drawn(3, 3, seed=2)
    return AffineGradient(
        V,
        P @ P.T if A else None,
        Q @ Q.T if B else None,
        norms=(3.0 if A else 1.0, 5.0 if B else 1.0),
        lengths=(4.0 if A else 1.0, 7.0 if B else 1.0),
        errors=(0.25 if A else 0.0, 0.5 if B else 0.0),
        residue=0.125,
        offset=0.0625,
        least=0.5,
    )


@pytest.mark.parametrize(("A", "B"), [(True, True), (True, False), (False, True), (False, False)])
def test_what_an_affine_gradient_is_bounded_by(coarse, A, B):
    f = disturbed(A, B)
    (a, b), (da, db) = f.norms, f.errors
    assert f.smoothness == near(a * b * up)
    off = (da * b + a * db + da * db) * up
    assert f.error == pytest.approx(off, rel=EXACTLY, abs=1e-300)
    left, right = g(2) * 4.0 * A, g(3) * 7.0 * B
    for length, error in ((2.0, 0.0), (0.0, 2.0), (0.3, 0.7)):
        wrong = (a * b * error + (left * b + (a + left) * right + off) * length) * up + tiny
        assert f.error_of(length, error) == near(wrong)
    E = drawn(2, 3, seed=3)
    G = (f.A if A else np.eye(2)) @ E @ (f.B if B else np.eye(3))
    assert f.apply(E) == near(G)
    for error in (0.0, 0.01, 3.0):
        value, product = 0.5 * np.sum(E * G), f.error_of(fro(E), 0.0)
        slope = (fro(G) + product) * up
        slack = 0.5 * (g(6 + 4) * fro(E) * slope + product * fro(E))
        slack += slope * error + 0.5 * a * b * up * error**2 + 0.125 * (fro(E) + error)
        slack = slack * up + 4 * u * abs(value)
        low, high = f.gap(E, error)
        assert low == pytest.approx(max(0.0, value - slack), rel=1e-11, abs=0)  # a difference
        assert high == near((value + slack + 0.0625) * up)


def test_a_value_that_rounding_left_below_0_and_one_that_may_be(coarse):
    f = AffineGradient(np.zeros((1, 1)), -4.0 * np.eye(1), None, (4.0, 1.0), (4.0, 1.0))
    E, product = np.eye(1), f.error_of(fro(np.eye(1)), 0.0)
    slack = 0.5 * (g(5) * fro(E) * (fro(4 * E) + product) * up + product * fro(E)) * up + 4 * u * 2
    assert f.gap(E, 0.0) == (0.0, near((-2 + slack) * up))
    # f* may stand for f(V), and the loss go below it.
    assert dataclasses.replace(f, least=0.0).gap(E, 0.0) == (near(-2 - slack), near((-2 + slack) * up))


def test_gram_matrices_and_halves_are_symmetric_to_the_last_bit(monkeypatch):
    """Whatever the product of matrices leaves: only one half is read."""

    class Skewed(np.ndarray):
        def __matmul__(self, other):
            product = np.asarray(self) @ np.asarray(other)
            return product + 1e-16 * np.arange(product.size).reshape(product.shape)

        __array_priority__ = 1

    real, read = problems._numpy, []
    monkeypatch.setattr(problems, "_numpy", lambda array: real(array).view(Skewed))
    monkeypatch.setattr(problems, "least_eigenvalue", lambda M, error: read.append(M) or 0.5)
    for samples in (4, 2):
        f = affine_gradient(lf.LinearRegression(drawn(samples, 3), np.ones((samples, 1))))
        assert np.array_equal(f.A, f.A.T) and np.array_equal(read[-1], read[-1].T)
    f = affine_gradient(lf.Quadratic(np.array([[1.0, 1e-11], [0.0, 1.0]]), C=np.eye(2)))
    assert np.array_equal(f.A, f.A.T) and np.array_equal(read[-1], read[-1].T)


def test_a_least_eigenvalue_of_0_proves_nothing(monkeypatch):
    monkeypatch.setattr(problems, "least_eigenvalue", lambda M, error: 0.0)
    f = affine_gradient(lf.LinearRegression(np.eye(2), np.ones((2, 1))))
    assert (f.least, f.offset, f.full) == (0.0, 0.0, False) and "numerical" in f.notes[0]
    with pytest.raises(ValueError, match="A cannot be proved positive definite"):
        affine_gradient(lf.Quadratic(np.eye(2), C=np.eye(2)))


@pytest.mark.parametrize("shape", [(4, 3), (3, 3), (2, 3)])
def test_a_regression_is_known_with_the_rounding_of_its_products(coarse, monkeypatch, shape):
    X, Y = drawn(*shape, seed=4), drawn(shape[0], 2, seed=5)
    objective = lf.LinearRegression(X, Y)
    samples, inputs = shape
    asked = []
    real = problems.least_eigenvalue

    def asking(M, error):
        asked.append((M, error))
        return real(M, error)

    monkeypatch.setattr(problems, "least_eigenvalue", asking)
    f = affine_gradient(objective)
    V = objective.minimizer
    error = g(samples + 2) * fro(X) ** 2 * up + tiny
    r = X @ V - Y
    missing = (g(inputs + 1) * fro(X) * fro(V) + g(2) * fro(r)) * up + tiny
    residue = (fro(X.T @ r) + g(samples) * fro(X) * fro(r) + spectral(X) * missing) * up + tiny
    [(M, of_gram)] = asked
    if samples >= inputs:
        assert pytest.approx(X.T @ X, rel=EXACTLY, abs=1e-13) == M and of_gram == near(error)
    else:
        assert pytest.approx(X @ X.T, rel=EXACTLY, abs=1e-13) == M
        assert of_gram == near(g(inputs + 2) * fro(X) ** 2 * up + tiny)
    assert np.array_equal(M, M.T) and np.array_equal(f.A, f.A.T)
    assert f.errors == (near(error), 0.0) and f.B is None and f.full is (samples >= inputs)
    # A residue of rounding alone is as rounded as the solution.
    assert f.residue == pytest.approx(residue, rel=1e-11, abs=0)
    assert f.least == real(M, of_gram) > 0 and f.notes == ()
    assert f.offset == pytest.approx(0.5 * f.residue**2 / f.least * up, rel=EXACTLY, abs=0)
    assert f.norms == (near((spectral(f.A) + error) * up), 1.0)
    assert f.lengths == (near((fro(f.A) + error) * up), 1.0)


def test_columns_without_data_are_left_out_of_the_rank():
    X = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    f = affine_gradient(lf.LinearRegression(X, np.ones((3, 2))))
    assert f.least == pytest.approx(1.0, rel=1e-13) and f.full is False and f.notes == ()
    X = np.array([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]])
    f = affine_gradient(lf.LinearRegression(X, np.ones((2, 1))))
    assert (f.least, f.full, f.offset) == (0.0, False, 0.0) and "1 of 2" in f.notes[0]


@pytest.mark.parametrize("B", [True, False])
def test_a_quadratic_is_known_with_the_rounding_of_its_halves_and_of_its_residue(coarse, B):
    P, Q = drawn(2, 2, seed=6), drawn(3, 3, seed=7)
    given = {"A": P @ P.T + np.eye(2), "B": Q @ Q.T + np.eye(3) if B else None}
    objective = lf.Quadratic(C=drawn(2, 3, seed=8), **given)
    f, V, C = affine_gradient(objective), objective.minimizer, drawn(2, 3, seed=8)
    least, expected = 1.0, []
    for M in given.values():
        if M is None:
            expected.append((1.0, 1.0, 0.0))
            continue
        error = 2 * u * fro(M) + tiny
        least *= least_eigenvalue((M + M.T) / 2, error) * (1 - 4 * u)
        expected.append(((spectral(M) + error) * up, (fro(M) + error) * up, error))
    for found, values in zip((f.norms, f.lengths, f.errors), zip(*expected, strict=True), strict=True):
        assert list(found) == [near(x) if x else 0.0 for x in values]
    assert f.least == near(least) and f.full
    found = f.apply(V) - C
    residue = (fro(found) * (1 + 4 * u) + 2 * u * fro(C) + f.error_of(fro(V), 0.0)) * up
    assert f.residue == pytest.approx(residue, rel=1e-11, abs=0)
    assert f.offset == near(0.5 * f.residue**2 / f.least * up)


# --- narrower layers -----------------------------------------------------------------------------------------------


def test_a_start_is_narrowed_within_the_distance_of_the_lemma(coarse):
    """`‖R' − R‖_F ≤ ‖B − QR‖_F + φ‖R‖_F` (docs/verified.md, section 6), with the rounding of both."""
    W = [drawn(1, 5, seed=1), drawn(5, 1, seed=2), drawn(1, 7, seed=3), drawn(7, 2, seed=4)]
    found, radius = narrowed(W), 0.0
    for l in (0, 2):
        B = np.hstack([W[l].T, W[l + 1]])
        Q, R = np.linalg.qr(B)
        k = B.shape[1]
        phi = fro(Q.T @ Q - np.eye(k)) + g(len(Q) + 2) * fro(Q) ** 2
        missing = fro(B - Q @ R) + g(k + 2) * fro(Q) * fro(R)
        radius = (radius + missing + phi * fro(R)) * up + tiny
        assert np.array_equal(found.bases[l], Q)
        assert np.array_equal(np.hstack([found.weights[l].T, found.weights[l + 1]]), R)
    assert found.radius == near(radius) and found.bases[1] is None
    # As wide as the sum of its neighbours is narrow enough.
    for widths in ((1, 3, 2), (2, 3, 1), (3, 2)):
        W = [drawn(a, b) for a, b in itertools.pairwise(widths)]
        assert narrowed(W).radius == 0.0 and narrowed(W).bases == [None] * (len(W) - 1)


# --- the path ------------------------------------------------------------------------------------------------------


def series(values, errors=None, rest=0.0, norms=None):
    """A series as docs/verified.md, section 3, knows it: lengths, spectral norms and errors of its coefficients."""
    lengths = np.array([fro(x) for x in values]) * (1 + 2 * rest)
    norms = np.array([spectral(values[0]) + 2 * rest * lengths[0], *lengths[1:]])
    return values, lengths, norms, np.zeros(len(values)) if errors is None else np.array(errors)


def cauchy(a, b, k):
    return sum(a[i] * b[k - i] for i in range(k + 1) if i < len(a) and k - i < len(b))


def times(values, A, B, inner, arithmetic, p):
    """The Cauchy product of two series, of which `values` were computed."""
    (_, a, na, ea), (_, b, nb, eb) = A, B
    errors = []
    for k in range(p):
        count = inner * (k + 1) + 1
        own = count * arithmetic.unit / (1 - count * arithmetic.unit) * (1 + 4 * u) * cauchy(a, b, k)
        errors.append((own + cauchy(ea, nb + eb, k) + cauchy(na, eb, k)) * up + tiny)
    return series(values, errors, arithmetic.rest)


def same(factor, found):
    _, lengths, norms, errors = found
    assert list(factor.lengths) == [near(x) for x in lengths]
    assert list(factor.norms) == [near(x) for x in norms]
    assert list(factor.errors) == [pytest.approx(x, rel=EXACTLY, abs=1e-300) for x in errors]
    assert list(factor.exact_norms()) == [near(x) for x in (norms + errors) * up]
    assert list(factor.exact_lengths()) == [near(x) for x in (lengths + errors) * up]


def convolved(known, a, b):
    """The convolution of all coefficients, of which the first ones are known otherwise as well."""
    full = [cauchy(a, b, k) * up for k in range(len(a) + len(b) - 1)]
    return np.array([min(x, known[k]) if k < len(known) else x for k, x in enumerate(full)])


PATHS = [
    ((2, 3, 2), 1.5, FLOAT64),
    ((2, 3, 4, 2), 0.75, FLOAT64),
    ((3, 2), 2.0, FLOAT64),
    ((1, 2, 3, 2, 2), 0.5, FLOAT64),
    ((2, 3, 2), 1.5, PAIRS),
    ((2, 1, 2, 3), 0.75, PAIRS),
]


def path_of(widths, c, arithmetic, p=4, tau=0.125):
    n, m = widths[0], widths[-1]
    f = AffineGradient(drawn(n, m, seed=9))
    if arithmetic is FLOAT64:
        P, Q = drawn(n, n, seed=1), drawn(m, m, seed=2)
        f = AffineGradient(drawn(n, m, seed=9), P @ P.T, Q @ Q.T, (0.75, 1.25), (4.0, 7.0), (0.25, 0.5), 0.125)
    return Expansion(f, [drawn(*s, seed=k) for k, s in enumerate(itertools.pairwise(widths))], c, tau, p, arithmetic)


@pytest.mark.parametrize(("widths", "c", "arithmetic"), PATHS)
def test_the_defect_of_a_path_is_bounded_by_its_rounding_and_by_convolutions(coarse, widths, c, arithmetic):
    p, tau, L = 4, 0.125, len(widths) - 1
    path = path_of(widths, c, arithmetic)
    f, unit, rest = path.problem, arithmetic.unit, arithmetic.rest
    n, m = widths[0], widths[-1]
    W = [series(arithmetic.high(w), None, rest) for w in path.coefficients]
    for factor, found in zip(path.weights, W, strict=True):
        same(factor, found)
    P, S = {1: W[0]}, {L: W[-1]}
    for l in range(2, L + 1):
        P[l] = times(path.prefixes[l].values, P[l - 1], W[l - 1], widths[l - 1], arithmetic, p)
        same(path.prefixes[l], P[l])
    for l in range(L - 1, 1, -1):
        S[l] = times(path.suffixes[l].values, W[l - 1], S[l + 1], widths[l], arithmetic, p)
        same(path.suffixes[l], S[l])
    # E = c P_L − V, G = c A E B.
    (_, of_P, _, e), E = P[L], fro(path.distance) * (1 + 2 * rest)
    lengths, errors = c * of_P[:p] * (1 + 2 * u), c * (e[:p] + 2 * unit * of_P[:p])
    lengths[0], errors[0] = E, errors[0] + unit * E
    assert path.offset == near(E)
    assert path.distance_error == near(errors[0] * up + rest * E + tiny)
    wrong = [c * (f.error_of(x, e) + 2 * unit * f.smoothness * x) for x, e in zip(lengths, errors, strict=True)]
    wrong[0] += c * f.residue
    Q = {0: series(path.slope.values, [x * up + tiny for x in wrong], rest)}
    same(path.slope, Q[0])
    squares = np.zeros(p)
    for l in range(L):
        if l:
            Q[l] = times(path.pulled[l].values, W[l - 1], Q[l - 1], widths[l - 1], arithmetic, p)
            same(path.pulled[l], Q[l])
        after = S.get(l + 2)
        gradient = Q[l] if after is None else times(path.gradients[l].values, Q[l], after, m, arithmetic, p)
        same(path.gradients[l], gradient)
        squares += [(tau * gradient[3][k] + 3 * unit * (k + 1) * W[l][1][k + 1]) ** 2 for k in range(p)]
    assert list(path.rounding) == [near(math.sqrt(x) * up + tiny) for x in squares]

    w = [norms for _, _, norms, _ in W]
    before, after = [np.ones(1), w[0]], {L + 1: np.ones(1), L: w[-1]}
    for l in range(2, L + 1):
        before.append(convolved(path.prefixes[l].exact_norms(), before[-1], w[l - 1]))
    for l in range(L - 1, 1, -1):
        after[l] = convolved(path.suffixes[l].exact_norms(), w[l - 1], after[l + 1])
    slope = c * c * f.smoothness * math.sqrt(min(n, m)) * before[L] * up
    slope[:p] = path.slope.exact_lengths()
    pulled = [slope]
    for l in range(1, L):
        pulled.append(convolved(path.pulled[l].exact_lengths(), w[l - 1], pulled[-1]))
    total = np.zeros((2 * L - 1) * p + 1)
    for l in range(L):
        full = pulled[l] if l + 1 == L else convolved([], pulled[l], after[l + 2])
        total[: len(full)] += full**2
    assert list(path.defects) == [0.0] * p + [near(tau * math.sqrt(x) * up) for x in total[p:]]
    for found, expected in (
        *zip(path.prefix_norms, before, strict=True),
        *((path.suffix_norms[l], after[l]) for l in range(2, L + 2)),
        *zip(path.pulled_norms, pulled, strict=True),
        (path.slope_norms, slope),
    ):
        assert list(found) == [near(x) for x in expected]


@pytest.mark.parametrize(("widths", "c", "arithmetic"), PATHS)
def test_what_a_path_misses_over_a_step_and_at_its_end(coarse, widths, c, arithmetic):
    s, p, unit, path = 0.5, 4, arithmetic.unit, path_of(widths, c, arithmetic)
    W = [series(arithmetic.high(w), None, arithmetic.rest) for w in path.coefficients]
    assert path.norm() == near(math.sqrt(sum(of[0] ** 2 for _, of, _, _ in W)))
    truncation = sum(d * s ** (k + 1) / (k + 1) for k, d in enumerate(path.defects)) * up
    rounding_of = sum(d * s ** (k + 1) / (k + 1) for k, d in enumerate(path.rounding)) * up
    assert path.truncation(s) == near(truncation) and path.added(s) == near((truncation + rounding_of) * up)
    jumps = 0.0
    for _, of, _, _ in W:
        of_layer = 0.0
        for k in range(p + 1):
            count = 2 * k + 1
            of_layer += count * unit / (1 - count * unit) * (1 + 4 * u) * s**k * of[k]
        jumps += of_layer**2
    assert path.at(s)[1] == near(math.sqrt(jumps) * up + tiny)


@pytest.mark.parametrize("tau", [0.125, 2.0**-12])
def test_a_step_is_as_long_as_the_truncated_part_allows(coarse, monkeypatch, tau):
    path = path_of((2, 3, 2), 1.5, FLOAT64, 6, tau)
    allowed = 1e-16 * path.norm() + tiny
    assert bool(path.defects[6] < 1) is (tau < 0.125)

    def longest(allowed):
        s = (allowed * 7 / path.defects[6]) ** (1 / 7)
        while path.truncation(s) > allowed:
            s *= 0.93
        return s

    # A quarter of the rounding is allowed, too, if that is more.
    rounding, s = path.rounding, longest(allowed)
    assert 0.25 * integral(rounding, s) > 2 * allowed
    assert path.longest() == near(longest(0.25 * integral(rounding, s))) and s < LONGEST
    path.rounding = 1e-9 * rounding
    assert path.longest() == near(s) and s > longest(0.25 * integral(path.rounding, s))
    path.rounding = 0 * rounding
    assert path.longest() == near(s)
    # Just allowed is allowed, and what never is ends.
    monkeypatch.setattr(Expansion, "truncation", lambda self, s: allowed)
    assert path.longest() == near((allowed * 7 / path.defects[6]) ** (1 / 7))
    calls = []
    monkeypatch.setattr(Expansion, "truncation", lambda self, s: calls.append(s) or math.inf)
    path.longest()
    assert len(calls) == 200
    # A path that stands still may take the longest step there is: 1000 units of its time.
    monkeypatch.undo()
    still = Expansion(AffineGradient(np.eye(2)), [np.eye(2)], 1.0, 1.0, 3)
    assert still.longest() == LONGEST == 1e3
    still.defects = still.defects[:3]
    assert still.longest() == LONGEST


# --- the Hessian ---------------------------------------------------------------------------------------------------


def test_a_product_of_matrices_carries_its_errors_and_norms(coarse):
    A = Matrix(drawn(2, 3), 0.25, 1.5)
    B = Matrix(drawn(3, 4, seed=1), 0.5)
    assert (A.length, A.norm, B.norm) == (near(fro(A.value)), min(1.5, A.length), B.length)
    error = g(3) * A.length * B.length + 0.25 * (B.norm + 0.5) + A.norm * 0.5
    found = A @ B
    assert found.error == near(error * up + tiny)
    assert found.length == near(fro(A.value @ B.value))
    assert found.norm == near(min((A.norm * B.norm * up + error) * up, found.length))
    tight = Matrix(2 * np.eye(3), 0.0, 2.0) @ Matrix(np.eye(3) / 2, 0.0, 0.5)
    assert (
        tight.norm == near((up + g(3) * fro(2 * np.eye(3)) * fro(np.eye(3) / 2)) * up) and tight.norm < tight.length
    )
    turned = A.T
    assert np.array_equal(turned.value, A.value.T)
    assert (turned.error, turned.length, turned.norm) == (A.error, A.length, A.norm)
    factor = MatrixSeries(drawn(2, 2, 3), np.array([0.25, 0.5]), 2.0**-9)
    start = coefficient(factor)
    assert start.error == near(0.25 + 2 * 2.0**-9 * factor.lengths[0])
    assert start.norm == factor.norms[0] < start.length


@pytest.mark.parametrize(("widths", "c", "arithmetic"), PATHS)
def test_a_hessian_is_known_with_the_rounding_of_its_blocks(coarse, widths, c, arithmetic):
    path = path_of(widths, c, arithmetic)
    f, L, (n, m) = path.problem, len(widths) - 1, (widths[0], widths[-1])
    one = {side: Matrix(np.eye(side), 0.0, 1.0) for side in range(1, 5)}
    W = [coefficient(x) for x in path.weights]
    P = [one[n] if l == 0 else coefficient(path.prefixes[l]) for l in range(L)]
    S = [one[m] if l == L - 1 else coefficient(path.suffixes[l + 2]) for l in range(L)]
    A = None if f.A is None else Matrix(f.A, f.errors[0], f.norms[0])
    B = None if f.B is None else Matrix(f.B, f.errors[1], f.norms[1])
    H, error = hessian(path)
    less, error_of_less = hessian(path, 0.5)
    X, M = cross(path), between(path)
    assert set(X) == set(M) == set(itertools.combinations(range(L), 2))
    squares = np.zeros(2)
    assert np.array_equal(H, H.T)
    for i in range(L):
        for j in range(i, L):
            a = P[i].T @ (P[j] if A is None else A @ P[j])
            b = S[i] @ (S[j].T if B is None else B @ S[j].T)
            parts = c * c * np.array([1.0, 0.5])
            wrong = parts * (a.error * (b.length + b.error) + a.length * b.error + 5 * u * a.length * b.length)
            size = parts * a.length * b.length
            if i < j:
                x = coefficient(path.pulled[i])
                x = x if j == L - 1 else x @ S[j].T
                y = None
                for k in range(i + 1, j):
                    y = W[k] if y is None else y @ W[k]
                assert np.array_equal(X[i, j].value, x.value) and X[i, j].error == near(x.error)
                if y is None:
                    assert M[i, j] is None
                    y = one[widths[i + 1]]
                else:
                    assert np.array_equal(M[i, j].value, y.value) and M[i, j].error == y.error
                wrong += x.error * (y.length + y.error) + x.length * y.error + 4 * u * x.length * y.length
                size += x.length * y.length
            squares += (1 if i == j else 2) * (wrong + 2 * u * size) ** 2
    for of, found, total in zip((H, less), (error, error_of_less), squares, strict=True):
        assert found == near(math.sqrt(total) * up + 2 * u * fro(of) + tiny)
    # By central differences of the gradient, exact for a polynomial of low degree but for rounding: of the value.
    ends = np.cumsum([0, *(w.value.size for w in W)])
    start = np.concatenate([w.value.ravel() for w in W])

    def slope(y):
        V = [y[a:b].reshape(w.value.shape) for a, b, w in zip(ends, ends[1:], W, strict=False)]
        G = c * f.apply(c * np.linalg.multi_dot(V) - f.V if L > 1 else c * V[0] - f.V)
        found = []
        for l in range(L):
            left, right = np.eye(n), np.eye(m)
            for k in range(l):
                left = left @ V[k]
            for k in range(L - 1, l, -1):
                right = V[k] @ right
            found.append((left.T @ G @ right.T).ravel())
        return np.concatenate(found)

    for k, unit_vector in enumerate(np.eye(len(start))):
        h = 1e-4
        rise = (slope(start + h * unit_vector) - slope(start - h * unit_vector)) / (2 * h)
        assert H[:, k] == pytest.approx(rise, rel=1e-5, abs=1e-5 * np.abs(H).max())


def test_pairs_are_for_exact_factorizations_and_the_dominance_is_twice_the_least(coarse):
    whole = AffineGradient(np.eye(2), least=0.25)
    assert whole.fine is not None and whole.dominance(3.0) == near(0.5 * (1 - 4 * u))
    for more in ({"A": np.eye(2)}, {"B": np.eye(2)}, {"residue": 1e-9}):
        assert dataclasses.replace(whole, **more).fine is None
