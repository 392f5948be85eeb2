"""Numbers from 1e-300 to 1e300 where the steps and losses are defined: an answer or an error, and no warning."""

import math

import numpy as np
import pytest

import linflow as lf
from linflow.dynamics.step_rules import growth

SIZES = (5e-324, 1e-300, 1e-160, 1e-8, 1.0, 1e8, 1e149, 1e151, 1e200, 1e308)
F, NET = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.init.ntk((2, 4, 2), rng=0)


@pytest.mark.parametrize("first", SIZES)
def test_a_schedule_from_any_first_step(first):
    schedule = lf.schedules.xu2025(F, NET, first=first)
    run = lf.gradient_descent(F, NET, schedule=schedule, steps=20)
    cert = lf.certify(F, NET, algorithm="descent", schedule=schedule)
    assert cert.check(run).holds
    str(cert), cert.to_dict(), cert.time_to(1e-6)


@pytest.mark.parametrize("engine", ["plain", "auto"])
def test_a_flow_at_rest_takes_no_step_of_any_number_of_stages(engine):
    """The first layer vanishes, the second bounds the steps, and the loss stands still: steps grew tenfold each."""
    f = lf.MatrixFactorization(np.diag([4e-11, 3e-10]))
    W = [np.array([[2e-155, 1e-157], [-8e-156, 2e-154]]), np.array([[0.02, -0.16], [0.02, 0.05]])]
    run = lf.gradient_flow(f, W, until=1e-3, max_steps=250, engine=engine)
    assert run.stats.evaluations < 250 * 251


def test_the_growth_of_a_schedule_is_one_function():
    """At 1e150 both branches are ½ log(1 + η²) to rounding: log1p(η²) and 2 log η differ by 1e-300."""
    assert growth(1.0) == 0.5 * math.log(2.0)
    assert growth(0.999e150) == pytest.approx(math.log(0.999e150), rel=4e-16, abs=0)
    assert growth(1e308) == math.log(1e308)


@pytest.mark.parametrize("size", SIZES)
def test_an_objective_with_powers_at_any_size(size, rng):
    """A residual whose power leaves float64 is said, and is no minimum of 0."""
    X, Y = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    if size > 1e100:
        with pytest.raises(ValueError, match="leave float64 when they are raised to the power p = 4; divide Y"):
            lf.LpRegression(X, size * Y, p=4)
    else:
        f = lf.LpRegression(X, size * Y, p=4)
        assert math.isfinite(f.minimum)
        assert lf.certify(f, NET).gap >= 0


def test_gradients_beyond_float64_warn_of_nothing():
    f = lf.LpRegression(np.eye(2), np.eye(2), p=4)
    W = np.full((2, 2), 1e200)
    assert f.value(W) == math.inf
    assert not np.isfinite(f.gradient(W)).any()
    assert not np.isfinite(f.hessian_product(W, np.eye(2))).any()
