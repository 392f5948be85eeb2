"""Many flows at once: the same runs, in order, whatever the workers; failures stay data."""

from __future__ import annotations

import numpy as np
import pytest

import linflow as lf
from linflow.dynamics import Interrupted

F = lf.MatrixFactorization(np.diag([2.0, 1.0]))


def nets(count=6):
    return [lf.init.gaussian((2, 6, 2), std=0.5, rng=i) for i in range(count)]


@pytest.mark.parametrize("workers", [1, 2, 5, None])
def test_same_as_one_by_one(workers):
    runs = lf.gradient_flow_many(F, nets(), workers=workers, until=1e-6)
    for run, net in zip(runs, nets(), strict=True):
        alone = lf.gradient_flow(F, net, until=1e-6)
        np.testing.assert_array_equal(run.gap, alone.gap)
        np.testing.assert_array_equal(run.t, alone.t)
        for a, b in zip(run.weights, alone.weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_one_objective_each():
    objectives = [lf.MatrixFactorization(k * np.eye(2)) for k in (1, 2, 3)]
    runs = lf.gradient_flow_many(objectives, nets(3), t_max=1.0)
    for f, net, run in zip(objectives, nets(3), runs, strict=True):
        assert run.gap[0] == pytest.approx(f.gap(net.product()), rel=1e-13)  # sums in another order


def test_failures_are_kept_in_their_place():
    def gradient(W):
        raise FloatingPointError("no gradient here")

    broken = lf.Objective(lambda W: float((W**2).sum()), gradient, shape=(2, 2), minimum=0.0)
    runs = lf.gradient_flow_many([F, broken, F], [nets(1)[0], nets(1)[0], [np.ones((3, 2)), np.ones((2, 2))]])
    assert isinstance(runs[0], lf.Trajectory)
    assert runs[1] == lf.Failure(1, "FloatingPointError", "no gradient here")
    assert runs[2].index == 2 and runs[2].error == "ValueError" and "3×2" in runs[2].reason


def test_progress_and_no_runs_at_all():
    seen = []
    lf.gradient_flow_many(F, nets(4), until=1e-3, progress=seen.append)
    assert seen == [0.25, 0.5, 0.75, 1.0]
    assert lf.gradient_flow_many(F, []) == []


def test_an_interruption_is_passed_on_and_ends_what_has_not_begun():
    def stop(fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lf.gradient_flow_many(F, nets(20), workers=1, until=1e-8, progress=stop)


def test_bad_arguments():
    with pytest.raises(ValueError, match="2 objectives are given for 3 networks"):
        lf.gradient_flow_many([F, F], nets(3))
    with pytest.raises(TypeError, match="untill: gradient_flow has no such option"):
        lf.gradient_flow_many(F, nets(1), untill=1e-3)
    with pytest.raises(ValueError, match="workers"):
        lf.gradient_flow_many(F, nets(1), workers=0)
    with pytest.raises(TypeError, match="stopped does not work for many runs"):
        lf.gradient_flow_many(F, nets(1), stopped=lambda: True)


@pytest.mark.parametrize("engine", ["compiled", "plain"])
def test_a_run_ends_where_it_is_told_to(engine):
    (net,) = nets(1)
    asked = []
    with pytest.raises(Interrupted) as caught:
        lf.gradient_flow(
            F,
            net,
            until=1e-9,
            engine=engine,
            progress=lambda _: None,
            stopped=lambda: bool(asked.append(0)) or len(asked) > 3,
        )
    run = caught.value.run
    assert len(asked) == 4 and len(run.t) == 4 and run.result.name == "INTERRUPTED"  # the start and three steps
