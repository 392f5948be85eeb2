"""Results travel: between the processes of a pool, and into copies that stand on their own."""

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

import linflow as lf

Y = np.diag([2.0, 1.0])
F = lf.MatrixFactorization(Y)
NET = lf.init.imbalanced((2, 4, 2), 1.0, 0.1 * np.eye(2), rng=0)
LABELS = lf.LogisticLoss(np.eye(2), [1, -1])


def value(W):
    return 0.5 * float(((W - Y) ** 2).sum())


def gradient(W):
    return W - Y


def of_user(value=value, gradient=gradient):
    return lf.Objective(value, gradient, shape=(2, 2), strong_convexity=1.0, smoothness=1.0, minimizer=Y)


def used_certificate():
    cert = lf.certify(F, NET)
    assert cert.prior and cert.baseline and str(cert)  # what is kept once it was asked for travels too
    return cert


MADE = {
    "matrix factorization": lambda: F,
    "regression": lambda: lf.LinearRegression(np.ones((3, 2)), np.ones((3, 2))),
    "quadratic": lambda: lf.Quadratic(np.eye(2), C=Y),
    "logistic": lambda: LABELS,
    "exponential": lambda: lf.ExponentialLoss(np.eye(2), [1, -1]),
    "user": of_user,
    "network": lambda: NET,
    "flow": lambda: lf.gradient_flow(F, NET),
    "plain flow": lambda: lf.gradient_flow(F, NET, engine="plain"),
    "reduced flow": lambda: lf.gradient_flow(F, lf.init.gaussian((2, 600, 2), rng=0), until=1e-2),
    "flow of a user": lambda: lf.gradient_flow(of_user(), NET),
    "descent": lambda: lf.gradient_descent(F, NET, step_size=0.05, steps=50, record=("singular_values",)),
    "many": lambda: lf.gradient_flow_many(F, [NET, lf.init.gaussian((3, 2), rng=0)]),
    "certificate": used_certificate,
    "certificate of descent": lambda: lf.certify(F, NET, algorithm="descent"),
    "certificate of a schedule": lambda: lf.certify(
        F, NET, algorithm="descent", schedule=lf.schedules.local_smoothness()
    ),
    "certificate of a tail": lambda: lf.certify(LABELS, lf.init.gaussian((2, 4, 1), rng=0)),
    "guarantee": lambda: lf.certify(F, NET).best,
    "check": lambda: lf.certify(F, NET).check(lf.gradient_flow(F, NET)),
    "bounds": lambda: lf.bounds.table(NET),
    "bounds of scalars": lambda: lf.bounds.table(lf.Network([np.eye(1), np.eye(1)])),
    "best bound": lambda: lf.bounds.best(NET),
    "theorems": lambda: lf.bounds.THEOREMS,
    "invariants": lambda: lf.bounds.Invariants.of(NET),
    "optimum": lambda: lf.bounds.optimum(NET),
    "design": lambda: lf.design(F, (2, 4, 2), rate=5.0, rng=0),
    "design of a descent": lambda: lf.design(F, (2, 4, 2), algorithm="descent", steps=10, rng=0),
    "reduction": lambda: lf.reduce_width(lf.init.gaussian((2, 100, 2), rng=0)),
    "operator": lambda: lf.TangentOperator(NET),
    "spectrum": lambda: lf.imbalance_spectrum(NET),
    "schedules": lambda: [lf.schedules.constant(0.1), lf.schedules.backtracking(), lf.schedules.local_smoothness()],
    "enclosure": lambda: lf.enclose(F, NET, t_max=0.1),
    "distance of descent and flow": lambda: lf.flow_descent_gap(F, NET, step_size=0.01, steps=3),
    "failure": lambda: lf.Failure(0, "ValueError", "no"),
    "stats": lambda: lf.gradient_flow(F, NET, until=0.5).stats,
    "check of a design": lambda: lf.design(F, (2, 4, 2), rate=5.0, rng=0).confirm(),
    "error of an interrupted run": lambda: lf.Interrupted(None),
}


def pickled(x):
    return pickle.loads(pickle.dumps(x))


@pytest.mark.parametrize("name", MADE)
def test_everything_public_can_be_pickled_and_copied(name):
    x = MADE[name]()
    for carry in (pickled, copy.deepcopy, copy.copy):
        back = carry(x)
        assert type(back) is type(x) and repr(back) == repr(x)


def test_results_of_torch_models_travel():
    torch, lt = pytest.importorskip("torch"), pytest.importorskip("linflow.torch")
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5, bias=False), torch.nn.Linear(5, 2, bias=False))
    X, Z = (torch.randn(6, k, generator=generator, dtype=torch.float64) for k in (3, 2))
    f, net = lt.regression(X, Z), lt.network(model)
    for x in (lt.audit(model), f, net, lf.certify(f, net), lf.gradient_flow(f, net, until=0.5)):
        for carry in (pickled, copy.deepcopy):
            assert repr(carry(x)) == repr(x)


@pytest.mark.parametrize("carry", [pickled, copy.deepcopy])
@pytest.mark.parametrize("name", ["flow", "plain flow", "reduced flow", "flow of a user", "descent"])
def test_a_run_is_whole_after_its_journey(name, carry):
    run = MADE[name]()
    back = carry(run)
    t = 0.37 * float(run.t[-1])
    assert back.gap_at(t) == run.gap_at(t) and back.time_to(0.1) == run.time_to(0.1)
    np.testing.assert_array_equal(back.gap, run.gap)
    if run.algorithm == "flow":
        np.testing.assert_array_equal(back.network_at(t).product(), run.network_at(t).product())
        assert not back.stats.estimated
        assert back.stats.gap_error == run.stats.gap_error
        assert pickled(run).stats.gap_error == run.stats.gap_error  # once it is known, too


def test_a_certificate_says_the_same_after_its_journey():
    cert = used_certificate()
    back, run = pickled(cert), lf.gradient_flow(F, NET)
    assert back.to_dict() == cert.to_dict() and str(back) == str(cert)
    assert back.check(run).to_dict() == cert.check(run).to_dict()


def run_of(seed):
    local = of_user(lambda W: 0.5 * float(((W - Y) ** 2).sum()), lambda W: W - Y)
    start = lf.init.gaussian((2, 4, 2), rng=seed)
    return lf.gradient_flow(local, start, until=1e-4), lf.certify(local, start)


def test_a_pool_over_seeds():
    """Functions that cannot be pickled stay behind, and the rest of what holds them travels."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(run_of, range(2)))
    for seed, (run, cert) in enumerate(found):
        here, there = run_of(seed)
        np.testing.assert_allclose(run.gap, here.gap, rtol=1e-9)  # another process may use BLAS otherwise
        assert run.time_to(1e-2) == pytest.approx(here.time_to(1e-2), rel=1e-9)
        assert cert.rate == pytest.approx(there.rate, rel=1e-9)
        np.testing.assert_array_equal(run.network_at(0.0).product(), run.start.product())
        assert np.isnan(run.stats.gap_error)  # not estimated, as the value is not here
        with pytest.raises(RuntimeError, match=r"could not be pickled.*def at the top level of a module"):
            cert.objective.value(Y)
    # A copy in the same process keeps them.
    kept = copy.deepcopy(run_of(0)[1]).objective
    assert kept.value(Y + 1.0) == copy.copy(kept).value(Y + 1.0) == 2.0
