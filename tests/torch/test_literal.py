"""The law of the imbalances and the spectrum of T in PyTorch, against sums of NumPy, written out anew."""

import math
import warnings
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import linflow as lf  # noqa: E402
import linflow.torch as lt  # noqa: E402
from linflow._support import number_formats  # noqa: E402
from linflow._support.arrays import to_numpy  # noqa: E402
from linflow.bounds import scalar_chain  # noqa: E402
from linflow.certificates.margin import product_range  # noqa: E402
from linflow.torch import _extremes, _numbers, _sgd, _tangent, certified  # noqa: E402
from linflow.torch import _imbalance_law as _law  # noqa: E402

SAME = 1e-12


def near(x, rel=1e-6, abs=0.0):
    """A relative comparison alone: what is small must be right as well."""
    return pytest.approx(x, rel=rel, abs=abs)


class Plain:
    """What the law asks of the layers of a model."""

    bias = None

    def __init__(self, weights):
        self.parameters = self.tensors = [torch.nn.Parameter(torch.tensor(W)) for W in weights]
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
        law.add(*_sgd.rate_of(optimizer, chain), [p.grad for p in chain.parameters])
        optimizer.step()
    by_law, seen, error = law.compare(chain.weights())
    assert seen == near(by_law, rel=1e-10) and error < 1e-12 < seen  # three steps of rounding
    assert _sgd.rate_of(optimizer, chain) == (0.1, 0.3)


def test_the_rounding_of_the_law_is_at_the_size_of_the_weights():
    assert _law.PROBES == 8
    weights = [1e-3 * np.eye(2), 2e-3 * np.eye(2)]
    chain = Plain(weights)
    law = _law.ImbalanceLaw(chain)
    law.add(0.1, 0.0, [torch.zeros((2, 2), dtype=torch.float64)] * 2)
    assert law.rounding(chain) == near(np.finfo(float).eps * (2e-6 + 8e-6), rel=SAME)


def test_a_scale_without_entries_fits_no_weight():
    assert _numbers._spread(torch.zeros((0, 2)), (4, 4), {}) is None


def test_followed_directions_that_depend_on_each_other_are_left_out(monkeypatch):
    rng = np.random.default_rng(0)
    net = lf.Network([torch.tensor(rng.standard_normal(s) / 3) for s in ((11, 12), (12, 13), (13, 11))])
    monkeypatch.setattr(_extremes, "DEPENDENT", 0.999)  # the last direction is never as independent as that
    sizes, plain = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda A: sizes.append(len(A)) or plain(A))
    _extremes.Extremes(iterations=3)._iterate(_extremes._Terms(net), largest=True)
    assert set(sizes[2:]) == {2}  # the first two are the eigenbases of the outer terms


@pytest.mark.parametrize(("seed", "last", "kept"), [(14, 0.407, 2), (17, 0.862, 3)])
def test_only_a_direction_that_depends_on_the_others_is_left_out(monkeypatch, seed, last, kept):
    """The last diagonal entry of R is the part of the last unit vector outside the span of the others."""
    rng = np.random.default_rng(seed)
    terms = _extremes._Terms(lf.Network([torch.tensor(rng.standard_normal((3, 3))) for _ in range(3)]))
    terms.diagonal = torch.tensor(rng.uniform(0.01, 1, (3, 3)))  # a bad preconditioner: its directions repeat
    follow = _extremes.Extremes(iterations=2)
    follow._vectors[False] = torch.tensor(rng.standard_normal((3, 3)))
    monkeypatch.setattr(_extremes, "DEPENDENT", 0.5)
    outside, sizes, qr, eigh = [], [], torch.linalg.qr, torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "qr", lambda A, mode: outside.append(qr(A).R.diagonal().abs()) or qr(A, mode))
    monkeypatch.setattr(torch.linalg, "eigh", lambda A: sizes.append(len(A)) or eigh(A))
    follow._iterate(terms, largest=False)
    assert [len(d) for d in outside] == [2, 3] and float(outside[1].min()) == near(last, rel=1e-3)
    assert sizes == [2, kept]


def test_where_the_law_does_not_hold_it_says_why(rng):
    chain = Plain([np.eye(2), np.eye(2)])
    first, second = chain.parameters
    assert _sgd.why_no_law(torch.optim.SGD(chain.parameters, lr=0.1), chain) is None
    assert "Adam" in _sgd.why_no_law(torch.optim.Adam(chain.parameters), chain)
    assert _sgd.why_not_plain(torch.optim.SGD(chain.parameters, lr=0.1), chain) is None
    heavy = torch.optim.SGD(chain.parameters, lr=0.1, momentum=0.5)
    assert _sgd.why_no_law(heavy, chain) is None and "momentum 0.5" in _sgd.why_not_plain(heavy, chain)
    split = [{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.2}]
    fast = torch.optim.SGD(split, lr=0.1)
    assert _sgd.why_no_law(fast, chain) is None and "different learning rates" in _sgd.why_not_plain(fast, chain)
    assert _sgd.Sgd.of(fast, chain).rates == (1.0, 2.0)
    split = [{"params": [first], "weight_decay": 0.1}, {"params": [second]}]
    assert "different products" in _sgd.why_no_law(torch.optim.SGD(split, lr=0.1), chain)
    split = [
        {"params": [first], "lr": 0.1, "weight_decay": 0.4},
        {"params": [second], "lr": 0.4, "weight_decay": 0.1},
    ]
    assert _sgd.why_no_law(torch.optim.SGD(split), chain) is None
    split = [{"params": [first], "momentum": 0.4}, {"params": [second]}]
    assert "different momentum" in _sgd.why_no_law(torch.optim.SGD(split, lr=0.1), chain)
    split = [{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.0}]
    assert "rate of a layer is 0" in _sgd.why_no_law(torch.optim.SGD(split), chain)
    still = torch.optim.SGD(chain.parameters, lr=0.0)
    assert _sgd.why_no_law(still, chain) is None and _sgd.Sgd.of(still, chain) == _sgd.Sgd()
    assert _sgd.Sgd.of(torch.optim.Adam(chain.parameters), chain) == _sgd.Sgd() == _sgd.Sgd.of(None, chain)
    assert "layer 2 is not trained" in _sgd.why_no_law(torch.optim.SGD([first], lr=0.1), chain)
    split = [{"params": [second], "lr": 0.2}, {"params": [first], "lr": 0.1, "weight_decay": 0.4}]
    assert _sgd.rate_of(torch.optim.SGD(split, lr=1.0), chain) == (0.1, 0.4)
    beside = [{"params": [second], "lr": 0.2}, {"params": [torch.nn.Parameter(torch.ones(1)), first], "lr": 0.3}]
    assert _sgd.rate_of(torch.optim.SGD(beside, lr=1.0), chain) == (0.3, 0.0)
    first.requires_grad_(False)
    assert "layer 1 is frozen" in _sgd.why_no_law(torch.optim.SGD(chain.parameters, lr=0.1), chain)
    # The group of the first layer, or else the first; a rule without decay has none.
    assert _sgd.rate_of(torch.optim.SGD([{"params": [second], "lr": 0.3}], lr=1.0), chain)[0] == 0.3
    assert _sgd.rate_of(torch.optim.Rprop(chain.parameters, lr=0.7), chain) == (0.7, 0.0)
    half = Plain([np.eye(2), np.eye(2)])
    half.parameters = [torch.nn.Parameter(p.detach().float()) for p in half.parameters]
    assert _law.ImbalanceLaw(half).dtype == torch.float32


def test_the_law_in_mixed_precision_and_of_one_layer(rng):
    mixed = Plain([np.eye(2), np.eye(2)])
    mixed.parameters[1] = torch.nn.Parameter(mixed.parameters[1].detach().float())
    law = _law.ImbalanceLaw(Plain([np.eye(2), np.eye(2)]))
    law.add(0.1, 0.0, [torch.zeros((2, 2), dtype=torch.float64)] * 2)
    assert law.rounding(mixed) == near(np.finfo(np.float32).eps * 4, rel=SAME)
    mixed.weights = lambda: [p.detach().double() for p in mixed.parameters]
    assert _law.ImbalanceLaw(mixed).dtype == torch.float64
    # Probes are as precise as the weights.
    W = [torch.tensor(rng.standard_normal(s), dtype=torch.float32) for s in ((2, 20), (20, 2))]
    short = Plain([w.numpy() for w in W])
    law = _law.ImbalanceLaw(short)
    law.add(0.1, 0.5, [0 * w for w in W])
    by_law, seen, _ = law.compare(W)
    assert not law.exact and seen == 0.0 and by_law > 0.0
    one = _law.ImbalanceLaw(Plain([np.ones((2, 3))]))
    assert one.compare([torch.ones((2, 3), dtype=torch.float64)]) == (0.0, 0.0, 0.0)


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
        (((2, 5), (5, 3), (3, 6)), None),
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
    # Of the products without the first, the second and the third factor.
    assert _tangent._moved(sizes, moves) == near([0.2 * 5 + 3 * 0.3, 0.1 * 5 + 2 * 0.3, 0.1 * 3 + 2 * 0.2])
    assert _tangent._outer_extremes(np.array([4.0, 0.0]), np.array([3.0, 1.0]), 2, 2) == (1.0, 1.0, 7.0)
    assert _tangent._outer_extremes(np.array([4.0, 2.0]), np.array([3.0]), 3, 2) == (0.0, 2.0, 7.0)
    assert _tangent._outer_extremes(np.array([4.0, 2.0]), np.array([3.0]), 2, 1) == (5.0, 5.0, 7.0)
    assert _tangent._outer_extremes(np.zeros(1), np.zeros(1), 1, 1) == (0.0, 0.0, 0.0)
    assert _tangent._outer_extremes(np.array([0.5, 0.25]), np.array([0.5]), 2, 2) == (0.25, 0.25, 1.0)


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


def test_followed_eigenvalues_are_rayleigh_quotients_with_their_residuals(monkeypatch, rng):
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
    # Two layers need no iteration, and a narrow layer makes the least eigenvalue 0 exactly.
    monkeypatch.setattr(_extremes, "DENSE", 0)
    monkeypatch.setattr(_extremes.Extremes, "_iterate", None)
    assert follow(lf.Network([torch.ones(3, 4), torch.ones(4, 3)]))[0] == near(0.0, abs=1e-5)
    assert follow(lf.Network([torch.ones(3, 1), torch.ones(1, 3)]))[::2] == (0.0, 0.0)
    monkeypatch.undo()
    assert (_extremes.DENSE, _extremes.TOLERANCE, _extremes.RELATIVE) == (100, 1e-6, {False: 1e-3, True: 1e-2})
    assert (_extremes.DEPENDENT, _extremes.FIRST) == (1e-7, 40)
    assert _law.PROBES == 8


# --- the spectrum of T: limits and allowances ----------------------------------------------------------------------

EPS = np.finfo(float).eps
SHAPES = [
    ((6, 2), (2, 3), (3, 5)), ((6, 2), (2, 3), (3, 3)), ((2, 2), (2, 3), (3, 7)), ((3, 3), (3, 3), (3, 3)),
    ((6, 3), (3, 4), (4, 3)), ((3, 5), (5, 4), (4, 2)),
]  # fmt: skip


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("size", [0.3, 3.0])
def test_an_iterated_spectrum_is_the_dense_one(rng, shapes, size, monkeypatch):
    net = lf.Network([size * rng.standard_normal(s) for s in shapes], 0.7)
    whole = _tangent.tangent_spectrum(net)
    k, p = min(shapes[0]), min(shapes[-1])
    monkeypatch.setattr(_tangent, "ITERATIVE_LIMIT", k * p)  # is still done
    monkeypatch.setattr(_tangent, "DENSE_LIMIT", k * p - 1)
    found = _tangent.tangent_spectrum(net)
    assert found.reason == "" and found.ranks == whole.ranks
    assert (found.least, found.greatest) == (near(whole.least, rel=1e-9), near(whole.greatest, rel=1e-12))
    assert found.least_on_tangent == near(whole.least_on_tangent, rel=1e-9)
    monkeypatch.setattr(_tangent, "ITERATIVE_LIMIT", k * p - 1)
    below, beside = shapes[0][0] > k, shapes[-1][1] > p
    found = _tangent.tangent_spectrum(net)
    assert (found.least, found.least_on_tangent, found.greatest) == (0.0 if below and beside else None, None, None)
    assert "past" in found.reason and found.ranks == whole.ranks
    twice = found.scaled(3.0)
    assert (twice.least, twice.greatest) == (found.least, None)
    thrice = whole.scaled(-3.0)
    assert (thrice.least, thrice.greatest) == (9 * whole.least, 9 * whole.greatest)
    np.testing.assert_allclose(thrice.singular_values, 3 * whole.singular_values, rtol=1e-15)


def test_zeros_of_the_spectrum_are_left_out_of_its_least():
    assert _tangent.ITERATIVE_LIMIT == 200 * 200
    assert _tangent._outer_extremes(np.array([4.0, 0.0]), np.array([3.0, 0.0]), 2, 2) == (0.0, 3.0, 7.0)
    nothing = _tangent.tangent_spectrum(lf.Network([np.zeros((2, 2))] * 3))
    assert (nothing.least, nothing.least_on_tangent, nothing.greatest) == (0.0, 0.0, 0.0)
    for part, count in ((0.9, 1), (1.1, 2)):  # five roundings, of the longer side
        W = np.eye(2, 5) * np.array([[1.0], [part * 5 * EPS]])
        assert np.count_nonzero(_tangent._squares(W, 2, 0.0, number_formats.FLOAT64)) == count


def test_an_eigenvalue_that_was_not_found_is_not_given(rng, monkeypatch):
    net = lf.Network([rng.standard_normal((3, 3)) for _ in range(3)], 0.7)
    whole = _tangent.tangent_spectrum(net)
    core = lf.TangentOperator(net.weights)
    monkeypatch.setattr(_tangent, "DENSE_LIMIT", 1)
    errors = {}
    plain = lf.TangentOperator.eigenvalue

    def eigenvalue(self, end):
        found = plain(self, end)
        return type(found)(found.value, errors.get(end, found.error), found.iterations)

    monkeypatch.setattr(lf.TangentOperator, "eigenvalue", eigenvalue)
    top = float(core.greatest_eigenvalue())
    for end in ("least", "greatest"):
        for part, fine in ((0.99, True), (1.01, False)):
            errors.clear()
            errors[end] = part * 1e-7 * top
            found = _tangent.tangent_spectrum(net)
            assert (found.reason == "") == fine
            assert found.greatest == (near(whole.greatest, rel=1e-9) if fine else None)
    # Nor is one that rounding of the sum may have made.
    for part, fine in ((0.8, False), (1.25, True)):
        x = (part * 4 * EPS) ** 0.25
        errors.clear()
        errors |= {"least": 0.0, "greatest": 0.0}
        found = _tangent.tangent_spectrum(lf.Network([np.diag([1.0, x])] * 3))
        assert (found.least > 0) == fine
    # A least eigenvalue within its error, or within what storing moved it by, may be 0.
    bottom = float(core.least_eigenvalue())
    for part, fine in ((0.99, True), (1.01, False)):
        errors.clear()
        errors["least"] = part * bottom
        monkeypatch.setattr(_tangent, "UNCONVERGED", 1.0)
        found = _tangent.tangent_spectrum(net)
        assert (found.least > 0) == fine and (found.least_on_tangent is None) != fine
        assert found.greatest == near(whole.greatest, rel=1e-9)
        assert ("singular on its core" in found.reason) != fine


@pytest.mark.parametrize("iterated", [False, True])
@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
@pytest.mark.parametrize("size", [0.5, 4.0])
def test_eigenvalues_of_t_that_storing_may_have_made_count_as_zero(name, size, iterated, monkeypatch):
    form = number_formats.FORMATS[name]
    if iterated:
        monkeypatch.setattr(_tangent, "DENSE_LIMIT", 1)
        monkeypatch.setattr(_tangent, "UNCONVERGED", 1.0)

    def layers(x):
        return [size * np.diag([1.0, x]) for _ in range(3)]

    def level(x):
        """What is left of a 0 of T: of rounding, of float32, and of the two factors that storing moved."""
        top, moves = 3 * size**4, [form.moved(W) for W in layers(x)]
        pairs = [size * (moves[i] + moves[j]) for i, j in ((1, 2), (0, 2), (0, 1))]
        computed = number_formats.COMPUTED**2 * (form.relative > 0)
        return max(max(4 * EPS, computed) * top, sum(pair**2 for pair in pairs)) / size**4

    for part, counts in ((0.8, False), (40 if iterated and not form.relative else 1.25, True)):  # its own error
        x = (part * level(0.0) / 3) ** 0.25  # the least eigenvalue is 3x⁴ size⁴
        assert level(x) == near(level(0.0), rel=0.15)
        found = _tangent.tangent_spectrum(lf.Network(layers(x), 0.7), stored=form)
        assert (found.least > 0) == counts, (part, found)
        if counts:
            assert found.least == near(
                0.49 * 3 * x**4 * size**4, rel=0.3
            )  # at 1.25 of a few roundings of the greatest


def test_at_most_half_of_the_greatest_eigenvalue_counts_as_zero():
    # Weights at the foot of float16 may have moved by more than they are.
    half = number_formats.FORMATS["float16"]
    for second, counts in ((0.45, False), (0.55, True)):
        W = 1e-8 * np.diag([1.0, second**0.25])
        found = _tangent.tangent_spectrum(lf.Network([W] * 3), stored=half)
        assert (found.least > 0) == counts
    assert found.ranks == (2, 2)


def test_ranks_of_products_allow_for_what_their_layers_moved_by():
    form = number_formats.FORMATS["float16"]
    for size in (0.5, 4.0):
        for part, rank in ((0.8, 1), (1.25, 2)):
            first, last = size * np.diag([1.0, 1.0]), np.eye(2)
            move = size * form.moved(first) + size * form.moved(first)  # of a product of two, each of norm `size`
            middle = np.diag([size, part * move / size])
            move = size * form.moved(middle) + size * form.moved(first)
            middle = np.diag([size, part * move / size])
            found = _tangent.tangent_spectrum(lf.Network([first, middle, last]), stored=form)
            assert found.ranks[0] == rank


# --- the certified rate --------------------------------------------------------------------------------------------


def leaves(*weights):
    return [torch.tensor(W, dtype=torch.float64, requires_grad=True) for W in weights]


def difference(rate, weights, l, at):
    """A central difference of relative step 1e-5, extrapolated once."""
    found = []
    for step in (2e-5, 1e-5):
        ends = []
        for sign in (1, -1):
            moved = [W.detach().clone() for W in weights]
            moved[l][at] += sign * step
            ends.append(float(rate(moved)))
        found.append((ends[0] - ends[1]) / (2 * step))
    return (4 * found[1] - found[0]) / 3


RATES = {
    "two layers": (([[1.5, 0.3, 0.1], [0.2, 1.2, 0.4]], [[0.3], [0.2], [0.5]]), 0.05),
    "two layers, n = m": (([[1.0, 0.2], [0.1, 0.8]], [[0.9, 0.0], [0.3, 1.1]]), 0.05),
    "scalars": (([[2.0]], [[0.5]], [[0.9]]), 0.2),
    "scalars, closed": (([[0.7]], [[0.5]], [[0.9]], [[1.4]]), 0.2),
    "three layers": (([[1.0, 0.2], [0.1, 0.8]], [[1.9, 0.0], [0.3, 2.1]], [[0.7], [0.4]]), 0.05),
    "one layer": (([[1.0, 0.2], [0.1, 0.8]],), 0.05),
}


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("K", [3.0])
def test_the_certified_rate_is_that_of_the_certificate_with_its_slopes(name, K):
    entries, off = RATES[name]
    weights, scale = leaves(*entries), 0.8
    W = (
        scale * torch.linalg.multi_dot([w.detach() for w in weights])
        if len(weights) > 1
        else scale * weights[0].detach()
    )
    n, m = W.shape
    target = W + off * torch.tensor(np.random.default_rng(2).standard_normal((n, m)))
    f = lf.Quadratic(K * torch.eye(n, dtype=torch.float64), C=K * target)
    cert = lf.certify(f, lf.Network([w.detach() for w in weights], scale))
    names = {theorem.name for theorem in certified.THEOREMS}
    best = max((row.rate for row in cert.guarantees if row.name in names), default=0.0)
    rate = lt.certified_rate(f, lf.Network(weights, scale))
    expected = 2 * K * scale**2 if len(weights) == 1 else best  # γ = 2K: ‖∇f‖² ≥ 2K (f − f*)
    assert float(rate.detach()) == near(expected, rel=1e-8) and expected > 0
    slopes = torch.autograd.grad(rate, weights, allow_unused=True)
    if len(weights) == 1:
        assert torch.equal(slopes[0], torch.zeros_like(slopes[0]))
        return
    for l, slope in enumerate(slopes):
        for at in ((0, 0), (-1, -1)):
            literal = difference(lambda ws: lt.certified_rate(f, lf.Network(ws, scale)), weights, l, at)
            # Errors of the differences: 1e-16 over the step, and its fourth power.
            assert float(slope[at]) == near(literal, rel=1e-5, abs=1e-6 * float(rate.detach()))


@pytest.mark.parametrize("name", [theorem.name for theorem in certified.THEOREMS if theorem.smooth])
def test_bounds_with_derivatives_are_those_without_at_any_size(name, monkeypatch):
    (theorem,) = (t for t in certified.THEOREMS if t.name == name)
    monkeypatch.setattr(certified, "THEOREMS", (theorem,))
    for entries, off in RATES.values():
        weights, L = [np.array(W) for W in entries], len(entries)
        if L == 1:
            continue
        W = lf.Network(weights).product()

        def rate(unit, weights=weights, W=W, L=L, off=off):
            f = lf.MatrixFactorization(torch.tensor(unit**L * W * (1 + off)))
            with torch.no_grad():
                return float(lt.certified_rate(f, [torch.tensor(unit * w) for w in weights]))

        f = lf.MatrixFactorization(torch.tensor(W * (1 + off)))
        rows = [g for g in lf.certify(f, [torch.tensor(w) for w in weights]).guarantees if g.name == name]
        one = rate(1.0)
        assert one == near(rows[0].rate if rows and rows[0].applies else 0.0, rel=1e-8)
        for unit in (2.0**-90, 2.0**60):  # T is of degree 2(L − 1) in the weights
            assert rate(unit) == near(one * unit ** (2 * L - 2), rel=1e-9)


@pytest.mark.parametrize("name", ["two layers", "scalars", "three layers"])
def test_slopes_of_the_rate_at_any_size(name):
    """T is of degree 2(L − 1) in the weights, and its slopes of one less."""
    entries, off = RATES[name]
    L, W = len(entries), lf.Network([np.array(W) for W in entries]).product()

    def slopes(unit):
        f = lf.MatrixFactorization(torch.tensor(unit**L * W * (1 + off)))
        weights = [torch.tensor(unit * np.array(w), requires_grad=True) for w in entries]
        return torch.autograd.grad(lt.certified_rate(f, weights), weights)

    one = slopes(1.0)
    assert any(slope.any() for slope in one)
    for unit in (2.0**-90, 2.0**60):
        for found, slope in zip(slopes(unit), one, strict=True):
            np.testing.assert_allclose(found / unit ** (2 * L - 3), slope, rtol=1e-9, atol=1e-9)


def test_the_range_of_products_is_that_of_the_margin(rng):
    for K, mu in ((1.0, 1.0), (4.0, 0.5)):
        net = lf.Network([torch.tensor(rng.standard_normal((2, 3))), torch.tensor(rng.standard_normal((3, 2)))], 0.7)
        target = net.product() + 0.1 * torch.tensor(rng.standard_normal((2, 2)))
        A = torch.diag(torch.tensor([mu, K], dtype=torch.float64))
        f = lf.Quadratic(A, C=A @ target)
        low, following, high = (float(x) for x in certified._product_range(f, net))
        s = np.linalg.svd(target.numpy(), compute_uv=False)
        reach = math.sqrt(2 * float(f.gap(net.product())) / mu)
        assert (low, following, high) == (
            near(max(s[1] - reach, 0.0)), near(max(s[0] - reach, 0.0)), near(s[0] + reach),
        )  # fmt: skip
        literal = product_range(f, net, np.array([float(f.gap(net.product()))]))
        assert (low, high) == (near(float(literal[0][0]), rel=1e-13), near(float(literal[2][0]), rel=1e-13))
    # A product in which large terms cancel: what rounding leaves open of it is part of the reach.
    A, B = torch.tensor([[1e6, 1e6], [0.0, 1.0]]).double(), torch.tensor([[1.0, 0.5], [-1.0, -0.5]]).double()
    B[1] += 1e-6
    for f in (lf.MatrixFactorization(A @ B), lf.MatrixFactorization(A @ B + 0.1)):
        cancels = lf.Network([A, B])
        found = certified._product_range(f, cancels)
        literal = product_range(f, cancels, np.array([float(f.gap(cancels.product()))]))
        assert [float(x) for x in (found[0], found[2])] == near(
            [float(literal[0][0]), float(literal[2][0])], rel=1e-13
        )
    single = lf.Network([torch.ones((1, 2), dtype=torch.float64), torch.ones((2, 2), dtype=torch.float64)])
    assert (
        certified._product_range(lf.MatrixFactorization(2 * torch.ones((1, 2), dtype=torch.float64)), single)[1]
        == math.inf
    )
    for convexity, least in ((0.0, torch.eye(2)), (1.0, None)):
        unknown = SimpleNamespace(strong_convexity=convexity, minimizer=least)
        low, following, high = certified._product_range(unknown, net)
        assert (float(low), float(following), high) == (0.0, 0.0, math.inf)
    blind = lf.Objective(lambda W: float((W**2).sum()), lambda W: 2 * W, shape=(2, 2), pl_constant=1.0, minimum=0.0)
    low, following, high = certified._product_range(blind, net)
    assert (float(low), float(following), high) == (0.0, 0.0, math.inf)


def test_the_bounds_of_the_rate_are_asked_at_the_layers_without_their_scale(monkeypatch):
    f, asked = lf.MatrixFactorization(torch.diag(torch.tensor([1.0, 0.8], dtype=torch.float64))), []
    one = SimpleNamespace(
        name="named", null_set=False, smooth=True, differentiable=None, hypothesis=lambda inv: None,
        evaluate=lambda inv: asked.append(inv) or inv.sigma_min * 1.0,
    )  # fmt: skip
    monkeypatch.setattr(certified, "THEOREMS", [one])
    weights = leaves([[1.0, 0.0], [0.0, 0.9]], [[4.0, 0.0], [0.0, 3.6]])
    net = lf.Network(weights, 0.25)
    low, following, high = product_range(f, net.detach(), np.array([f.gap(net.detach().product())]))
    rate = lt.certified_rate(f, net)
    assert len(asked) == 2 and rate.item() == near(2 * 0.25**2 * float(low[0]) / 0.25)
    # First in NumPy, to find the best bound; it alone is then followed, if anybody wants a derivative.
    assert [type(inv.spectra[0].upper) for inv in asked] == [np.ndarray, torch.Tensor]
    assert lt.certified_rate(f, net.detach()).item() == near(rate.item())
    assert len(asked) == 3 and type(asked[2].sigma_min) is np.ndarray
    for inv in asked:
        found = [float(to_numpy(x)) for x in (inv.sigma_min, inv.sigma_next, inv.sigma_max)]
        assert found == near([4 * float(x[0]) for x in (low, following, high)])
    # A constant γ of 1 is one like others.
    monkeypatch.undo()
    g = lf.Objective(lambda W: 0.5 * (W * W).sum(), lambda W: W, shape=(2, 2), pl_constant=1.0, minimum=0.0)
    assert lt.certified_rate(g, leaves([[3.0, 0.0], [0.0, 2.0]], [[0.1, 0.0], [0.0, 0.1]])).item() > 0


def test_a_certified_rate_is_for_tensors():
    with pytest.raises(TypeError, match="of type ndarray; tensors are needed"):
        lt.certified_rate(lf.MatrixFactorization(np.eye(2)), [np.eye(2)])


def test_the_ends_of_a_spectrum_are_moved_apart_by_the_allowance():
    A, B = torch.diag(torch.tensor([3.0, 1.0])), torch.diag(torch.tensor([1.0, 2.0]))
    found = certified._spectrum(A, B, 0.25)
    assert found.lower.tolist() == [7.75, -3.25] and found.upper.tolist() == [8.25, -2.75]


def test_a_bound_on_a_null_set_must_be_ahead_of_the_others(monkeypatch):
    weights = leaves([[1.0, 0.0], [0.0, 0.5]], [[1.0, 0.0], [0.0, 0.5]])
    f = lf.MatrixFactorization(torch.diag(torch.tensor([1.1, 0.3], dtype=torch.float64)))

    def theorem(value, null_set):
        return SimpleNamespace(
            name="named",
            hypothesis=lambda given: None,
            evaluate=lambda given: torch.tensor(value, dtype=torch.float64),
            null_set=null_set,
            smooth=True,
            differentiable=None,
        )

    for ahead, chosen in ((0.5e-9, False), (1.5e-9, True)):
        one, other = theorem(1.0, False), theorem(1.0 + ahead, True)
        for order in ((one, other), (other, one)):
            monkeypatch.setattr(certified, "THEOREMS", order)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                rate = lt.certified_rate(f, weights)
            assert float(rate.detach()) == near(2 * (1.0 + chosen * ahead), rel=1e-15) and len(said) == chosen
            assert all(one.filename == __file__ for one in said)  # the line that asked is named
            with warnings.catch_warnings(record=True) as partly:
                warnings.simplefilter("always")
                lt.certified_rate(f, [weights[0], weights[1].detach()])
            assert len(partly) == chosen
            assert all(torch.equal(g, torch.zeros_like(g)) for g in torch.autograd.grad(rate, weights))
            with torch.no_grad():  # nothing is asked of a derivative
                assert float(lt.certified_rate(f, weights)) == float(rate.detach())
            assert float(lt.certified_rate(f, [W.detach() for W in weights])) == float(rate.detach())
    # Of two bounds as good as each other the first is taken; where there is none the rate is 0, with derivatives.
    monkeypatch.setattr(certified, "THEOREMS", ())
    nothing = lt.certified_rate(f, weights)
    assert float(nothing.detach()) == 0.0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in torch.autograd.grad(nothing, weights))


def test_a_root_follows_what_it_is_the_root_of():
    # x² = θ: dx/dθ = 1/(2x).
    theta = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = certified._follow(lambda x: x**2 - theta, np.array(math.sqrt(2)), torch.device("cpu"))
    (slope,) = torch.autograd.grad(x, theta)
    assert float(x.detach()) == math.sqrt(2) and float(slope) == near(1 / (2 * math.sqrt(2)))
    # The scalar chain of these offsets whose root is 0.5.
    c, w = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64), torch.tensor(2.625, dtype=torch.float64) ** 0.5
    value = scalar_chain._exact_followed(c, w, partial(certified._follow, device=torch.device("cpu")))
    assert float(value) == near(1.5 * 3.5 + 0.5 * 3.5 + 0.5 * 1.5)


# --- eight-bit weights ---------------------------------------------------------------------------------------------


def test_a_scale_is_spread_over_rows_and_blocks(rng):
    def literal(scale, shape, block):
        rows, columns = (np.arange(k) // b for k, b in zip(shape, block, strict=True))
        return scale[rows][:, columns]

    shape = (6, 9)
    given = {"quantization_config": {"weight_block_size": [4, 3]}}
    for s, config, expected in (
        ((2, 3), given, (4, 3)),
        ((3, 3), {}, (2, 3)),  # even parts
        ((2, 9), {"quantization_config": None}, (3, 1)),
        ((1, 3), {}, (6, 3)),
    ):
        scale = torch.tensor(rng.standard_normal(s))
        found = _numbers._spread(scale, shape, config)
        np.testing.assert_array_equal(found.numpy(), literal(scale.numpy(), shape, expected))
    large = torch.tensor(rng.standard_normal((2, 3)))
    found = _numbers._spread(large, (200, 300), {})
    np.testing.assert_array_equal(found.numpy(), literal(large.numpy(), (200, 300), (128, 128)))
    assert _numbers._spread(torch.tensor([[3.0]]), shape, {}).shape == () and _numbers.BLOCK == (128, 128)
    for s in ((6,), (6, 1)):
        scale = torch.tensor(rng.standard_normal(s))
        assert _numbers._spread(scale, shape, {}).shape == (6, 1)
        assert torch.equal(_numbers._spread(scale, shape, {}).reshape(-1), scale.reshape(-1))
    for s, config in (
        ((9,), {}),
        ((4, 3), {}),
        ((3, 2), {}),
        ((2, 4), given),
        ((3, 3), given),
        ((2, 3, 1), {}),
        ((5, 9), {}),
    ):
        assert _numbers._spread(torch.ones(s), shape, config) is None
    assert (
        _numbers._spread(torch.ones(2), (4,), {}) is None
        and _numbers._spread(torch.ones((2, 2)), (4, 4, 1), {}) is None
    )


def test_numbers_of_eight_bits_are_multiplied_by_their_scale():
    codes = torch.tensor([[1.0, -2.0], [0.5, 3.0]]).to(torch.float8_e4m3fn)
    tensors = {
        "a.weight": codes, "a.weight_scale_inv": torch.tensor([[-4.0], [0.5]]),
        "b.weight": codes, "c": codes, "cweight_scale": torch.tensor(2.0),
        "d.weight": codes, "d.scale_weight": torch.ones(3),
        "e.weight": torch.ones((2, 2)), "e.weight_scale": torch.tensor(2.0),
    }  # fmt: skip
    formats, others = _numbers.formats_of(tensors, {})
    assert others == {} and formats["a.weight"].name == "float8_e4m3fn" and formats["e.weight"].name == "float32"
    reasons = _numbers.eight_bits(tensors, formats, {})
    assert (
        list(reasons) == ["d.weight"] and "(3,), its own (2, 2)" in reasons["d.weight"] and "d.weight" not in formats
    )
    plain = np.array([[1.0, -2.0], [0.5, 3.0]])
    assert tensors["a.weight"].tolist() == (plain * [[-4.0], [0.5]]).tolist()
    assert tensors["b.weight"].tolist() == tensors["c"].tolist() == plain.tolist()
    assert tensors["e.weight"].tolist() == np.ones((2, 2)).tolist()
    base = number_formats.FORMATS["float8_e4m3fn"]
    assert formats["a.weight"] == base.times(4.0) and formats["b.weight"] == formats["c"] == base


def test_tensors_that_hold_no_weights_are_told():
    sparse = torch.eye(2).to_sparse()
    tensors = {
        "half": torch.ones((2, 2), dtype=torch.float16), "codes": torch.ones((2, 2), dtype=torch.int8),
        "line": torch.ones(2, dtype=torch.int8), "count": torch.ones((2, 2), dtype=torch.int64),
        "mask": torch.ones((2, 2), dtype=torch.bool), "empty": torch.ones((2, 2), device="meta"), "sparse": sparse,
        "read": torch.ones((2, 2)),
    }  # fmt: skip
    formats, others = _numbers.formats_of(tensors, {"read": "bfloat16"})
    assert {name: form.name for name, form in formats.items()} == {"half": "float16", "read": "bfloat16"}
    assert set(others) == {"codes", "mask", "empty", "sparse"}
    assert (
        "codes" in others["codes"]
        and "bool" in others["mask"]
        and "meta" in others["empty"]
        and "sparse" in others["sparse"]
    )


def test_the_rate_has_slopes_at_the_target_itself():
    weights = leaves([[1.5, 0.3, 0.1], [0.2, 1.2, 0.4]], [[0.3], [0.2], [0.5]])
    f = lf.MatrixFactorization((weights[0] @ weights[1]).detach())
    rate = lt.certified_rate(f, weights)
    assert float(rate.detach()) > 0
    assert all(bool(torch.isfinite(g).all()) for g in torch.autograd.grad(rate, weights))


# --- the iteration for extreme eigenvalues -------------------------------------------------------------------------


def chain_of(rng, shapes=((11, 12), (12, 13), (13, 11)), size=1.0):
    return [size * rng.standard_normal(s) / 3 for s in shapes]


@pytest.mark.parametrize("largest", [False, True])
def test_each_iteration_is_the_best_of_its_directions(rng, largest, monkeypatch):
    monkeypatch.setattr(_extremes, "TOLERANCE", 0.0)
    monkeypatch.setattr(_extremes, "RELATIVE", {False: 0.0, True: 0.0})
    weights = chain_of(rng)
    net = lf.Network([torch.tensor(W) for W in weights])
    T = lf.TangentOperator(lf.Network(weights))
    P, S = net.prefixes()[-1].numpy(), net.suffixes()[0].numpy()
    U, V = np.linalg.eigh(P @ P.T)[1], np.linalg.eigh(S.T @ S)[1]
    terms = _extremes._Terms(net)
    diagonal = terms.diagonal.numpy()
    begun = rng.standard_normal((11, 11))
    x, before = begun / np.linalg.norm(begun), None
    for steps in (1, 2, 3):
        value = np.sum(x * T.apply(x))
        residual = T.apply(x) - value * x
        turned = np.abs(terms.U.numpy().T @ U), np.abs(terms.V.numpy().T @ V)
        assert all(np.allclose(t, np.eye(11), atol=1e-6) for t in turned)  # one eigenbasis, but for signs
        w = (
            residual
            if largest
            else terms.U.numpy() @ ((terms.U.T.numpy() @ residual @ terms.V.numpy()) / diagonal) @ terms.V.T.numpy()
        )
        # Rayleigh and Ritz in the span of the vector, the direction and the one before.
        basis = np.linalg.qr(np.stack([v.ravel() for v in (x, w, before) if v is not None], axis=1))[0]
        small = basis.T @ np.stack([T.apply(b.reshape(11, 11)).ravel() for b in basis.T], axis=1)
        values, vectors = np.linalg.eigh((small + small.T) / 2)
        new = (basis @ vectors[:, -1 if largest else 0]).reshape(11, 11)
        before, x = new - np.sum(new * x) * x, new
        follow = _extremes.Extremes(iterations=steps)
        follow._vectors = {end: torch.tensor(begun) for end in (False, True)}
        found = follow(net)[1 if largest else 0]
        assert found == near(values[-1 if largest else 0], rel=1e-9)


def test_directions_that_depend_on_each_other_are_left_out(rng, monkeypatch):
    monkeypatch.setattr(_extremes, "DEPENDENT", 0.2)
    weights = chain_of(rng)
    net, T = lf.Network([torch.tensor(W) for W in weights]), lf.TangentOperator(lf.Network(weights))
    values = np.linalg.eigvalsh(T.dense())
    follow = _extremes.Extremes()
    for _ in range(4):
        least, greatest, _ = follow(net)
        for largest, value in ((False, least), (True, greatest)):
            E = follow._vectors[largest].numpy()
            assert value == near(np.sum(E * T.apply(E)) / np.sum(E * E), rel=1e-9)
    assert values[0] <= least * (1 + 1e-9) and greatest == near(values[-1], rel=1e-2)


def test_small_products_are_dense_and_the_iteration_stops_in_units_of_the_greatest(rng, monkeypatch):
    follow = _extremes.Extremes()
    ten = chain_of(rng, ((10, 12), (12, 11), (11, 10)))
    found = follow(lf.Network([torch.tensor(W) for W in ten]))
    assert follow._vectors == {} and found[0] == near(
        np.linalg.eigvalsh(lf.TangentOperator(ten).dense())[0], rel=1e-8
    )
    calls, plain = [], _extremes._Terms.apply
    monkeypatch.setattr(_extremes._Terms, "apply", lambda self, E: calls.append(1) or plain(self, E))
    for size in (0.05, 20.0):
        weights = chain_of(rng, size=size)
        for l in (0, 2):  # two directions hardly move: the least eigenvalue is far below a millionth of the greatest
            U, s, Vt = np.linalg.svd(weights[l])
            s[-2:] = 1e-6 * s[0]
            weights[l] = U[:, :11] * s @ Vt[:11]
        net, follow = lf.Network([torch.tensor(W) for W in weights]), _extremes.Extremes()
        top = float(_extremes._Terms(net).size)
        for _ in range(30):
            calls.clear()
            _, _, error = follow(net)
            if len(calls) == 2:
                break
        assert len(calls) == 2 and error <= 1e-6 * top  # nothing is left to do
    # Where the diagonal is 0 the preconditioner is that of 1e-12 of the greatest entry.
    nothing = _extremes._Terms(lf.Network([torch.diag(torch.tensor([30.0, 0.0])).double()] * 3))
    assert float(nothing.diagonal.min()) == near(1e-12 * float(nothing.size)) and float(nothing.size) == near(
        3 * 30.0**4
    )
