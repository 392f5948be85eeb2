"""What takes a time or a fraction takes a sequence of them: floats of a number, an array of a sequence."""

import numpy as np
import pytest

import linflow as lf

F = lf.MatrixFactorization([[2.0]])
START = lf.Network([np.array([[1.0]]), np.array([[0.5]])])
UNTIL, TIMES = [0.5, 1e-2, 0.99], [0.0, 0.3, 0.1]
FLOW, STEPS = lf.certify(F, START), lf.certify(F, START, algorithm="descent")
NONE = next(g for g in FLOW.guarantees if not g.applies)
FUNCTIONS = {
    "certificate, time": (FLOW.time_to, UNTIL),
    "certificate, steps": (STEPS.steps_to, UNTIL),
    "certificate, gap": (FLOW.gap_at, TIMES),
    "certificate, loss": (FLOW.loss_at, TIMES),
    "guarantee, time": (FLOW.best.time_to, UNTIL),
    "guarantee, steps": (STEPS.best.steps_to, UNTIL),
    "guarantee, gap": (FLOW.best.gap_at, TIMES),
    "guarantee, loss": (STEPS.best.loss_at, TIMES),
    "none, time": (NONE.time_to, UNTIL),
    "none, gap": (NONE.gap_at, TIMES),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_many_at_once_are_one_at_a_time(name):
    function, given = FUNCTIONS[name]
    each = [function(x) for x in given]
    assert all(type(x) is float or isinstance(x, int) for x in each)
    for many in (given, tuple(given), np.array(given)):
        found = function(many)
        assert found.dtype == np.float64 and np.array_equal(found, each)
    assert np.array_equal(function([given, given]), [each, each])
    assert function([]).shape == (0,)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_of_a_sequence_is_checked(name):
    function, given = FUNCTIONS[name]
    with pytest.raises(ValueError, match=r"is -1\.0"):
        function([*given, -1.0])


def test_a_run_takes_a_table_of_fractions():
    run = lf.gradient_flow(F, START, until=1e-3)
    each = [run.time_to(x) for x in UNTIL]
    assert np.array_equal(run.time_to([UNTIL, UNTIL]), [each, each]) and type(each[0]) is float


def test_proofs_take_sequences():
    flow = lf.enclose(F, START, until=1e-3)
    steps = lf.enclose(F, START, algorithm="descent", step_size=0.1, steps=5)
    for bounds in (flow.time_bounds, steps.steps_bounds):
        low, high = bounds(UNTIL)
        assert [tuple(pair) for pair in zip(low, high, strict=True)] == [bounds(x) for x in UNTIL]
