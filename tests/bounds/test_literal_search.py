"""The parts of the search over weights written out: constraints in their units, derivatives, steps of a model."""

import itertools
import math

import numpy as np
import pytest

import linflow as lf
from linflow._support.arrays import EPS
from linflow.bounds import _weight_search
from linflow.bounds._weight_search import WeightSearch, _orthogonal, _trust_region_step, positive_least

SHAPES = [((2, 3), (3, 2)), ((2, 3), (3, 4), (4, 2)), ((1, 2), (2, 2), (2, 1), (1, 3))]


def near(x, rel=1e-11, abs=0.0):
    return pytest.approx(x, rel=rel, abs=abs)


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [(1 + k) * rng.standard_normal(s) for k, s in enumerate(shapes)]


def product(weights):
    P = np.eye(len(weights[0]))
    for W in weights:
        P = P @ W
    return P


def units(given):
    sizes = [np.linalg.norm(W) for W in given]
    return sizes, [max(a, b) ** 2 for a, b in itertools.pairwise(sizes)], math.prod(sizes)


def constrained(weights, given, with_product=True):
    """`D_l` and W in their units: what keeps the norm of the symmetric matrices and of W."""
    _, pairs, whole = units(given)
    parts = []
    for (A, B), unit in zip(itertools.pairwise(weights), pairs, strict=True):
        D = (A.T @ A - B @ B.T) / unit
        parts += [D[i, j] * (1.0 if i == j else math.sqrt(2)) for i in range(len(D)) for j in range(i, len(D))]
    return np.array([*parts, *((product(weights) / whole).ravel() if with_product else ())])


def differences(function, x, h=1e-6):
    """The derivative by central differences, one column a direction."""
    return np.array([(function(x + h * e) - function(x - h * e)) / (2 * h) for e in np.eye(len(x))]).T


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("with_product", [True, False])
def test_constraints_are_in_their_own_sizes_and_so_are_their_derivatives(shapes, with_product):
    given, other = drawn(shapes), drawn(shapes, 1)
    search = WeightSearch(given, product=with_product)
    sizes, pairs, whole = units(given)
    assert (search.units, search.imbalance_units) == ([near(s) for s in sizes], [near(p) for p in pairs])
    assert search.product_unit == near(whole)
    x = search.vector(other)
    assert x == near(np.concatenate([W.ravel() / s for W, s in zip(other, sizes, strict=True)]))
    assert all(a == near(b) for a, b in zip(search.layers(x), other, strict=True))
    stacked = search.layers(np.stack([x, 2 * x]))
    assert all(a[1] == near(2 * b) for a, b in zip(stacked, other, strict=True))
    off = constrained(other, given, with_product) - constrained(given, given, with_product)
    assert search.constraints(x) == near(off, abs=1e-14) and search.violation(other) == near(np.abs(off).max())
    assert search.jacobian(x) == pytest.approx(differences(search.constraints, x), abs=1e-8)


def test_a_layer_of_nothing_has_a_hundredth_of_the_largest_as_its_unit():
    W = [np.eye(2), np.zeros((2, 2)), 3 * np.eye(2)]
    assert WeightSearch(W, product=True).units == [
        near(math.sqrt(2)),
        near(0.03 * math.sqrt(2)),
        near(3 * math.sqrt(2)),
    ]
    W[1] = 1e-120 * np.eye(2)
    assert WeightSearch(W, product=True).units[1] == near(1e-100 * 3 * math.sqrt(2))


@pytest.mark.parametrize("shapes", SHAPES)
def test_the_gradient_is_that_of_the_lagrangian(shapes):
    """`⟨E, T(E)⟩ − v‖E‖² − ⟨λ, constraints⟩`, in the weights' units and in E."""
    given = drawn(shapes)
    search = WeightSearch(given, product=True)
    rng = np.random.default_rng(2)
    x, n, m = search.vector(drawn(shapes, 1)), shapes[0][0], shapes[-1][1]
    E, multipliers, value = rng.standard_normal((n, m)), rng.standard_normal(len(search.target)), 0.7
    T = lf.TangentOperator(given).dense()
    assert search.size == near(np.linalg.eigvalsh(T)[-1])

    def lagrangian(y):
        F = y[len(x) :].reshape(n, m)
        pulled = lf.TangentOperator(search.layers(y[: len(x)])).apply(F)
        energy = np.sum(F * pulled) / search.size - value * np.sum(F * F)
        return energy - multipliers @ search._constrained(search.layers(y[: len(x)]))

    whole = np.concatenate([x, E.ravel()])
    expected = differences(lambda y: np.array([lagrangian(y)]), whole)[0]
    assert search.gradient(x, E, multipliers, value) == pytest.approx(expected, rel=1e-6, abs=1e-7)
    found, vector = search.least(x)
    values, vectors = np.linalg.eigh(lf.TangentOperator(search.layers(x)).dense())
    assert found == near(max(values[0], 0.0) / search.size, abs=1e-15) and abs(
        np.sum(vector.ravel() * vectors[:, 0])
    ) == near(1.0)


def test_the_model_is_the_lagrangian_along_the_constraints():
    shapes = ((2, 3), (3, 2))
    given = drawn(shapes)
    search = WeightSearch(given, product=True)
    x = search.vector(given)
    value, E = search.least(x)
    g, H, basis, inverse = search._model(x, E, value)
    J = search.jacobian(x)
    assert np.abs(J @ basis).max() < 1e-12 and J @ inverse @ J == near(J, rel=1e-8, abs=1e-10)
    free = search.gradient(x, E, np.zeros(len(J)), value)
    multipliers = inverse.T @ free[: x.size]
    Z = basis[:, : x.size - np.linalg.matrix_rank(J)].T
    assert near(np.eye(len(Z)), abs=1e-12) == Z @ Z.T and near(H.T) == H
    normal = np.linalg.svd(E.reshape(1, -1))[2][1:]
    rows = np.block([[Z, np.zeros((len(Z), E.size))], [np.zeros((len(normal), x.size)), normal]])
    assert g == near(rows @ free, abs=1e-13) and np.abs(normal @ E.ravel()).max() < 1e-14

    def slope(y):
        return search.gradient(y[: x.size], y[x.size :].reshape(E.shape), multipliers, value)

    full = differences(slope, np.concatenate([x, E.ravel()]))
    assert pytest.approx(rows @ full @ rows.T, abs=1e-6) == H
    assert basis[:, len(Z) :] == near(np.zeros((x.size, len(normal))), abs=1e-300)


def test_constraints_count_as_dependent_by_their_relative_singular_values(monkeypatch):
    search = WeightSearch(drawn(((2, 3), (3, 2))), product=True)
    x = search.vector(search.given)
    value, E = search.least(x)
    J = 7 * search.jacobian(x)
    s = np.linalg.svd(J)[1]
    monkeypatch.setattr(search, "jacobian", lambda x: J, raising=False)
    monkeypatch.setattr(_weight_search, "_RANK", 1.01 * s[2] / s[0])
    _, _, basis, inverse = search._model(x, E, value)
    assert np.linalg.matrix_rank(inverse) == 2
    assert basis.shape[1] == x.size - 2 + E.size - 1


def test_what_the_least_eigenvalue_owes_to_the_violation_is_a_multiplier_times_it():
    given = drawn(((2, 3), (3, 2)))
    search = WeightSearch(given, product=True)
    for off in (0.0, 1e-6):
        moved = [W + off for W in given]
        x = search.vector(moved)
        value, E = search.least(x)
        J = search.jacobian(x)
        free = search.gradient(x, E, np.zeros(len(J)), value)[: x.size]
        multipliers = np.linalg.lstsq(J.T, free, rcond=1e-12)[0]
        expected = np.abs(multipliers) @ (np.abs(search.constraints(x)) + 4 * EPS) * search.size
        assert search.sensitivity(moved) == near(expected, rel=1e-9)


def test_far_and_near_weights_come_to_the_constraints():
    given = drawn(((2, 3), (3, 2)))
    search = WeightSearch(given, product=True)
    assert search.violation(search.polished([W + 1e-3 for W in given])) < 1e-14
    x = search.project(search.vector(drawn(((2, 3), (3, 2)), 3)))
    assert x is not None and np.linalg.norm(search.constraints(x)) < 1e-12
    near_by = search.vector([W + 1e-4 for W in given])
    inverse = np.linalg.pinv(search.jacobian(near_by))
    for known in (None, inverse):
        assert np.linalg.norm(search.constraints(search.correct(near_by, known))) < 1e-13
    # A wrong inverse is dropped, and no steps at all bring nothing there.
    assert np.linalg.norm(search.constraints(search.correct(near_by, 0 * inverse))) < 1e-13
    assert search.correct(near_by, steps=0) is None


def test_starts_are_the_given_weights_then_turned_and_random_ones_in_turn():
    given = drawn(((2, 3), (3, 4)))
    search = WeightSearch(given, product=True)
    first, turned, random, again = (
        search.layers(x) for x in itertools.islice(search.starts(np.random.default_rng(0)), 4)
    )
    assert all(np.allclose(a, b) for a, b in zip(first, given, strict=True))
    for layers in (turned, again):
        assert layers[0].T @ layers[0] == near(given[0].T @ given[0], abs=1e-12)
        assert layers[1] @ layers[1].T == near(given[1] @ given[1].T, abs=1e-12)
        assert not np.allclose(layers[0], given[0])
    assert [np.linalg.norm(W) for W in random] == [near(np.linalg.norm(W)) for W in given]
    assert not np.allclose(random[0].T @ random[0], given[0].T @ given[0])
    Q = [_orthogonal(3, np.random.default_rng(k)) for k in range(40)]
    assert all(np.allclose(A.T @ A, np.eye(3)) for A in Q) and {round(np.linalg.det(A)) for A in Q} == {-1, 1}
    # Q is that of the QR factorization whose R has a positive diagonal: uniform if the factored entries are normal.
    drawn_from = [np.random.default_rng(k).standard_normal((3, 3)) for k in range(40)]
    assert all((np.diag(A.T @ G) > 0).all() for A, G in zip(Q, drawn_from, strict=True))


def test_a_least_eigenvalue_of_rounding_is_0():
    assert positive_least(np.array([17 * EPS, 1.0])) == 17 * EPS and positive_least(np.array([15 * EPS, 1.0])) == 0.0
    assert positive_least(np.array([16 * EPS, 1.0])) == 0.0
    assert positive_least(np.array([-1.0, 1.0])) == 0.0 and positive_least(np.array([34 * EPS, 1.0, 2.0])) == 34 * EPS


def model(g, H, p):
    return g @ p + 0.5 * p @ H @ p


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("radius", [1e-2, 1.0, 50.0])
@pytest.mark.parametrize("shift", [-2.0, 0.0, 4.0])
def test_a_step_is_the_least_of_its_model_within_the_radius(seed, radius, shift):
    rng = np.random.default_rng(seed)
    A, g = rng.standard_normal((3, 3)), rng.standard_normal(3)
    H = A + A.T + shift * np.eye(3)
    p, promised = _trust_region_step(g, H, radius)
    assert np.linalg.norm(p) <= radius * (1 + 1e-9) and promised == near(-model(g, H, p), rel=1e-9)
    # The condition of Moré and Sorensen: (H + μI)p = −g with H + μI ⪰ 0, μ = 0 inside.
    mu = -(g + H @ p) @ p / (p @ p)
    least = np.linalg.eigvalsh(H)[0]
    assert np.linalg.norm(g + (H + mu * np.eye(3)) @ p) < 1e-7 * (1 + abs(mu)) * (np.linalg.norm(g) + 1)
    assert mu >= max(0.0, -least) - 1e-7 and (mu < 1e-7 or np.linalg.norm(p) == near(radius, rel=1e-7))


def test_the_hard_case_goes_along_negative_curvature():
    for sign in (1.0, -1.0, 0.0):
        p, promised = _trust_region_step(np.array([sign * 1e-30, 1.0]), np.diag([-2.0, 1.0]), 3.0)
        assert p[1] == near(-1 / 3, rel=1e-9) and abs(p[0]) == near(math.sqrt(9 - 1 / 9), rel=1e-9)
        assert promised == near(abs(p[0]) ** 2 + 1 / 3 - 1 / 18, rel=1e-9)
        if sign:
            assert np.sign(p[0]) == -sign


def test_a_descent_widens_shortens_and_ends_as_its_model_says(monkeypatch):
    """Steps that gain more than ¾ of what was promised widen the radius, those below ¼ shorten it."""
    search = WeightSearch(drawn(((2, 2), (2, 2))), product=True)
    tried = []

    def driven(gains, promised=1.0, value=5.0):
        tried.clear()
        state = {"value": value, "k": 0}
        monkeypatch.setattr(search, "project", lambda x: x, raising=False)
        monkeypatch.setattr(
            search, "_model", lambda x, E, v: (np.ones(1), None, np.ones((1, 1)), None), raising=False
        )
        monkeypatch.setattr(search, "layers", lambda x: "layers", raising=False)

        def step(g, H, radius):
            tried.append(radius)
            return np.array([min(radius, 1.0)]), promised if len(tried) <= len(gains) else 0.0

        def least(x):
            if tried:
                state["value"] = driven.value - gains[min(len(tried), len(gains)) - 1]
                gained = gains[min(len(tried), len(gains)) - 1]
                driven.value -= gained if gained > 0.1 * promised else 0.0
            return state["value"], None

        driven.value = value
        monkeypatch.setattr(_weight_search, "_trust_region_step", step)
        monkeypatch.setattr(search, "correct", lambda x, inverse: x, raising=False)
        monkeypatch.setattr(search, "least", least, raising=False)
        return search.descend(np.zeros(1), 9)

    run = driven([0.76, 0.74, 0.26, 0.24, 0.11])
    assert tried == [0.3, 0.6, 0.6, 0.6, near(0.15), near(0.0375)] and run.converged
    assert run.value == near(5.0 - 0.76 - 0.74 - 0.26 - 0.24 - 0.11)
    driven([0.52, 0.48, 0.2, 0.0], promised=2.0)
    assert tried == [0.3, 0.3, near(0.075), near(0.01875), near(0.01875 / 4)]
    run = driven([0.09, 0.09, 0.5])  # too little is no step
    assert tried == [0.3, near(0.075), near(0.01875), near(0.01875)] and run.value == near(4.5)
    run = driven([0.0] * 99)
    assert not run.converged and len(tried) == math.ceil(math.log(0.3 / 1e-10) / math.log(4))
    driven([0.76, *[0.0] * 99])
    assert len(tried) == 1 + math.ceil(math.log(0.6 / 1e-10) / math.log(4))
    assert driven([0.5] * 99).value == near(0.5) and len(tried) == 9 and not driven([0.5] * 99).converged
    # What is promised is rounding: converged.
    for promised, ends in ((0.9 * (5e-12 + 4 * EPS), True), (1.1 * (5e-12 + 4 * EPS), False)):
        run = driven([promised] * 99, promised=promised)
        assert (len(tried) == 1) is ends
    for promised, ends in ((0.9 * 4 * EPS, True), (1.1 * 4 * EPS, False)):
        driven([promised] * 99, promised=promised, value=0.0)
        assert (len(tried) == 1) is ends
    monkeypatch.setattr(search, "project", lambda x: None, raising=False)
    assert search.descend(np.zeros(1), 9) is None
