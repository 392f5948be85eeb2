"""The law of the imbalances and the spectrum of T in PyTorch, against sums of NumPy, written out anew."""

import math
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import linflow as lf  # noqa: E402
from linflow._support import number_formats  # noqa: E402
from linflow.torch import _extremes, _tangent  # noqa: E402
from linflow.torch import _imbalance_law as _law  # noqa: E402

SAME = 1e-12


def near(x, rel=1e-6, abs=0.0):
    """A relative comparison alone: what is small must be right as well."""
    return pytest.approx(x, rel=rel, abs=abs)


class Plain:
    """What the law asks of the layers of a model."""

    def __init__(self, weights):
        self.parameters = [torch.nn.Parameter(torch.tensor(W)) for W in weights]
        self.widths = (weights[0].shape[0], *(W.shape[1] for W in weights))
        self.device = torch.device("cpu")

    def weights(self):
        return [p.detach().clone() for p in self.parameters]


def imbalances(weights):
    return [A.T @ A - B @ B.T for A, B in pairwise(weights)]


@pytest.mark.parametrize("h", [3, 8, 9, 20])
def test_the_law_of_a_step_is_a_square_of_what_is_kept_and_of_the_step(rng, h):
    weights = [rng.standard_normal((2, h)), rng.standard_normal((h, 4)), rng.standard_normal((4, 3))]
    chain = Plain(weights)
    law = _law.ImbalanceLaw(chain)
    assert law.exact == (h <= 8) and law.steps == 0 and law.dtype == torch.float64
    generator = torch.Generator().manual_seed(20230724)
    probes = [
        np.eye(k) if k <= 8 else torch.randn(8, k, generator=generator, dtype=torch.float64).numpy() / math.sqrt(8)
        for k in (h, 4)
    ]
    literal = [Z @ D for Z, D in zip(probes, imbalances(weights), strict=True)]
    first = [D.copy() for D in literal]
    largest = 0.0
    for eta, decay in ((0.1, 0.0), (0.2, 0.5), (0.05, 2.0)):
        gradients = [rng.standard_normal(W.shape) for W in weights]
        law.add(eta, decay, [torch.tensor(G) for G in gradients])
        kept = (1 - eta * decay) ** 2
        literal = [kept * D + eta**2 * Z @ C for D, Z, C in zip(literal, probes, imbalances(gradients), strict=True)]
    moved = [W + 0.1 * rng.standard_normal(W.shape) for W in weights]
    now = [Z @ D for Z, D in zip(probes, imbalances(moved), strict=True)]
    found = law.compare([torch.tensor(W) for W in moved])
    for value, (a, b) in zip(found, ((literal, first), (now, first), (now, literal)), strict=True):
        largest = max(np.linalg.norm(x - y) for x, y in zip(a, b, strict=True))
        assert value == near(largest, rel=SAME)
    sums = [max(a + b for a, b in pairwise([np.sum(W * W) for W in ws])) for ws in (weights, moved)]
    assert law.rounding(chain) == near(3 * np.finfo(float).eps * max(sums), rel=SAME)
    law.restart([torch.tensor(W) for W in moved])
    assert (
        law.steps == 0 and law.rounding(chain) == 0.0 and law.compare([torch.tensor(W) for W in moved]) == (0, 0, 0)
    )
    law.add(0.1, 0.0, [torch.zeros(W.shape, dtype=torch.float64) for W in weights])
    assert law.rounding(chain) == near(np.finfo(float).eps * sums[1], rel=SAME)


def test_the_law_is_that_of_sgd_with_weight_decay(rng):
    weights = [rng.standard_normal((2, 3)), rng.standard_normal((3, 2))]
    chain = Plain(weights)
    optimizer = torch.optim.SGD(chain.parameters, lr=0.1, weight_decay=0.3)
    law = _law.ImbalanceLaw(chain)
    for _ in range(3):
        optimizer.zero_grad()
        loss = torch.sum((chain.parameters[0] @ chain.parameters[1] - 1) ** 2) / 2
        loss.backward()
        law.add(*_law.rate_of(optimizer, chain), [p.grad for p in chain.parameters])
        optimizer.step()
    by_law, seen, error = law.compare(chain.weights())
    assert seen == near(by_law, rel=1e-10) and error < 1e-12 < seen  # three steps of rounding
    assert _law.rate_of(optimizer, chain) == (0.1, 0.3)


def test_the_rounding_of_the_law_is_at_the_size_of_the_weights():
    assert _law.PROBES == 8
    weights = [1e-3 * np.eye(2), 2e-3 * np.eye(2)]
    chain = Plain(weights)
    law = _law.ImbalanceLaw(chain)
    law.add(0.1, 0.0, [torch.zeros((2, 2), dtype=torch.float64)] * 2)
    assert law.rounding(chain) == near(np.finfo(float).eps * (2e-6 + 8e-6), rel=SAME)


def test_where_the_law_does_not_hold_it_says_why(rng):
    chain = Plain([np.eye(2), np.eye(2)])
    first, second = chain.parameters
    assert _law.why_no_law(torch.optim.SGD(chain.parameters, lr=0.1), chain) is None
    assert "Adam" in _law.why_no_law(torch.optim.Adam(chain.parameters), chain)
    assert "momentum 0.5" in _law.why_no_law(torch.optim.SGD(chain.parameters, lr=0.1, momentum=0.5), chain)
    split = [{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.2}]
    assert "different" in _law.why_no_law(torch.optim.SGD(split, lr=0.1), chain)
    split = [{"params": [first], "weight_decay": 0.1}, {"params": [second]}]
    assert "different" in _law.why_no_law(torch.optim.SGD(split, lr=0.1), chain)
    assert "layer 2 is not trained" in _law.why_no_law(torch.optim.SGD([first], lr=0.1), chain)
    split = [{"params": [second], "lr": 0.2}, {"params": [first], "lr": 0.1, "weight_decay": 0.4}]
    assert _law.rate_of(torch.optim.SGD(split, lr=1.0), chain) == (0.1, 0.4)
    first.requires_grad_(False)
    assert "layer 1 is frozen" in _law.why_no_law(torch.optim.SGD(chain.parameters, lr=0.1), chain)
    half = Plain([np.eye(2), np.eye(2)])
    half.parameters = [torch.nn.Parameter(p.detach().float()) for p in half.parameters]
    assert _law.ImbalanceLaw(half).dtype == torch.float32


# --- the spectrum of T ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shapes", [((12, 3), (3, 4), (4, 12)), ((11, 2), (2, 3), (3, 13)), ((11, 12), (12, 10), (10, 11))]
)
def test_extreme_eigenvalues_are_followed(rng, shapes):
    weights = [rng.standard_normal(s) / 3 for s in shapes]
    follow = _extremes.Extremes()
    for k in range(4):
        moved = [W + 0.001 * k * rng.standard_normal(W.shape) for W in weights]
        net = lf.Network([torch.tensor(W) for W in moved], 0.7)
        T = np.linalg.eigvalsh(lf.TangentOperator(lf.Network(moved, 0.7)).dense())
        least, greatest, error = follow(net)
        assert greatest == near(T[-1], rel=1e-3) and greatest <= T[-1] * (1 + 1e-12)
        if min(s[1] for s in shapes[:-1]) < min(shapes[0][0], shapes[-1][1]):
            assert (least, error) == (0.0, 0.0)
        else:
            assert np.min(np.abs(T - least)) <= error + 1e-12 * T[-1] and least >= T[0] * (1 - 1e-12)


def test_terms_in_eigenbases_are_those_of_t(rng):
    weights = [rng.standard_normal(s) for s in ((3, 4), (4, 5), (5, 6), (6, 2))]
    terms = _extremes._Terms(lf.Network([torch.tensor(W) for W in weights], 0.7))
    E = rng.standard_normal((3, 2))
    T = lf.TangentOperator(lf.Network(weights, 0.7))
    found = terms.turn_back(terms.apply(terms.turn(torch.tensor(E)))).numpy() * terms.scale
    np.testing.assert_allclose(found, T.apply(E), rtol=SAME)
    basis = [terms.apply(torch.eye(6, dtype=torch.float64)[i].reshape(3, 2)).reshape(-1)[i] for i in range(6)]
    np.testing.assert_allclose(terms.diagonal.reshape(-1), basis, rtol=SAME)
    assert terms.size == near(max(float(b) for b in basis), rel=SAME)
    for largest in (True, False):
        x = terms.start(largest=largest).reshape(-1)
        place = int(np.argmax(basis) if largest else np.argmin(basis))
        assert x[place] == 1.0 and x[(place + 1) % 6] == near(0.1 / math.sqrt(6))


@pytest.mark.parametrize(
    ("shapes", "trained"),
    [
        (((6, 2), (2, 5)), None),
        (((2, 3), (3, 4)), None),
        (((6, 3), (3, 2)), [True, False]),
        (((6, 3), (3, 2)), [False, True]),
        (((6, 2), (2, 3), (3, 5)), None),
        (((6, 2), (2, 3), (3, 3)), None),
        (((2, 2), (2, 3), (3, 7)), None),
        (((3, 3), (3, 3), (3, 3)), [True, False, True]),
        (((6, 2), (2, 3), (3, 5)), [False, True, True]),
        (((6, 2), (2, 3), (3, 5)), [True, True, False]),
    ],
)
def test_the_spectrum_of_t_from_inner_matrices_is_that_of_the_whole(rng, shapes, trained):
    net = lf.Network([rng.standard_normal(s) for s in shapes], 0.7)
    whole = np.linalg.eigvalsh(lf.TangentOperator(net, trained).dense())
    found = _tangent.tangent_spectrum(net, trained=trained)
    tiny = 1e-9 * whole[-1]  # zeros of the dense matrix are at 1e-15 of its size
    assert found.least == near(max(whole[0], 0.0) if whole[0] > tiny else 0.0, rel=1e-9)
    assert found.least_on_tangent == near(whole[whole > tiny][0], rel=1e-9)
    assert found.greatest == near(whole[-1], rel=1e-12)
    s = np.linalg.svd(net.product(), compute_uv=False)
    k = len(found.singular_values)
    np.testing.assert_allclose(found.singular_values, s[:k], atol=1e-12 * s[0])
    assert np.all(s[k:] < 1e-12 * s[0])
    P, S = (net.prefixes()[-1], net.suffixes()[0])
    assert found.ranks == (np.linalg.matrix_rank(P), np.linalg.matrix_rank(S))
    twice = found.scaled(-2.0)
    assert (twice.least, twice.greatest) == (4 * found.least, 4 * found.greatest)
    np.testing.assert_allclose(twice.singular_values, 2 * np.asarray(found.singular_values))


def test_what_a_product_moves_by_is_first_order():
    sizes, moves = [2.0, 3.0, 5.0], [0.1, 0.2, 0.3]
    assert _tangent._moved(sizes, moves) == near(0.1 * 15 + 2 * 0.2 * 5 + 6 * 0.3)
    assert _tangent._outer_extremes(np.array([4.0, 0.0]), np.array([3.0, 1.0]), 2, 2) == (1.0, 1.0, 7.0)
    assert _tangent._outer_extremes(np.array([4.0, 2.0]), np.array([3.0]), 3, 2) == (0.0, 2.0, 7.0)
    assert _tangent._outer_extremes(np.array([4.0, 2.0]), np.array([3.0]), 2, 1) == (5.0, 5.0, 7.0)
    assert _tangent._outer_extremes(np.zeros(1), np.zeros(1), 1, 1) == (0.0, 0.0, 0.0)


def test_what_storing_may_have_left_of_a_zero_counts_as_one():
    eps, computed = np.finfo(float).eps, number_formats.COMPUTED
    half, single, plain = (number_formats.FORMATS[name] for name in ("float16", "float32", "float64"))
    W = np.arange(12.0).reshape(3, 4)
    rows, columns = (math.sqrt(max(np.sum(W * W, axis=a))) for a in (1, 0))
    assert half.moved(W) == near((2.0**-10 * (rows + columns) + 2.0**-24 * (math.sqrt(3) + 2)) / 2, rel=SAME)
    assert half.times(3.0).moved(W) == near(
        (2.0**-10 * (rows + columns) + 3 * 2.0**-24 * (math.sqrt(3) + 2)) / 2, rel=SAME
    )
    assert (plain.relative, plain.moved(W), computed) == (0.0, 0.0, 2.0**-20)

    def kept(small, moved, stored, size=2.0):
        return float(_tangent._squares(np.diag([size, small * size]), 3, moved, stored)[1]) > 0

    for part, fine in ((1.1, True), (0.9, False)):
        assert kept(part * 2 * eps, 0.0, plain) == fine
        assert kept(part * computed, 0.0, single) == fine
        assert kept(part * 0.1, 0.2, single) == fine  # what the layers moved by, in units of the matrix
        assert kept(part * 0.5, 9.0, single) == fine  # at most half of the greatest
    assert _tangent._squares(np.diag([2.0, 1.0]), 4, 0.0, plain).tolist() == [4.0, 1.0, 0.0, 0.0]


def test_followed_eigenvalues_are_rayleigh_quotients_with_their_residuals(rng):
    weights = [rng.standard_normal(s) / 3 for s in ((11, 12), (12, 13), (13, 11))]
    plain = lf.Network(weights, 0.7)
    T = lf.TangentOperator(plain)
    follow = _extremes.Extremes(iterations=3)
    net = lf.Network([torch.tensor(W) for W in weights], 0.7)
    before = math.inf
    for _ in range(12):
        least, greatest, error = follow(net)
        for largest, value in ((False, least), (True, greatest)):
            E = follow._vectors[largest].numpy()
            moved = T.apply(E)
            assert np.linalg.norm(E) == near(1.0, rel=1e-9) and value == near(np.sum(E * moved), rel=1e-9)
            if not largest:
                assert error == near(np.linalg.norm(moved - value * E), rel=1e-5)
        assert least <= before * (1 + 1e-9)
        before = least
    values = np.linalg.eigvalsh(T.dense())
    assert least == near(values[0], rel=1e-2) and greatest == near(values[-1], rel=1e-4)
    size = float(_extremes._Terms(net).size)
    assert error <= 0.49 * max(1e-6 * size, 1e-3 * least / 0.49) * (1 + 1e-9)
    assert (_extremes.DENSE, _extremes.TOLERANCE, _extremes.RELATIVE) == (100, 1e-6, {False: 1e-3, True: 1e-2})
    assert _law.PROBES == 8
