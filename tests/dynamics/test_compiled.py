"""The compiled loop against the plain one: the same numbers, the same rules, the same ends."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

import linflow as lf
from linflow.dynamics import _compiled, flow
from linflow.dynamics._compiled import CompiledMarch
from linflow.dynamics._stepping import Event, PlainMarch
from linflow.dynamics.field import GradientField
from linflow.model.classification import ExponentialLoss, LogisticLoss
from tests.dynamics import test_flow

RTOL = 1e-8
OBJECTIVES = ("factorization", "regression", "deficient", "quadratic", "semidefinite", "exponential", "logistic")
WIDTHS = (
    (1, 1),
    (3, 2),
    (2, 5, 4),
    (5, 8, 3),
    (3, 12, 5),
    (1, 7, 1),
    (4, 3, 5, 4),
    (3, 4, 5, 2),
    (2, 3, 4, 3, 2),
    (3, 3, 3, 3, 3, 3),
    (2, 4, 2, 3, 2, 3, 3),
)


def objective(kind, n, m, rng):
    def semidefinite(side, rank):
        A = rng.standard_normal((side, rank))
        return A @ A.T / rank

    if kind == "factorization":
        return lf.MatrixFactorization(rng.standard_normal((n, m)))
    if kind == "regression":
        return lf.LinearRegression(rng.standard_normal((2 * n + 1, n)), rng.standard_normal((2 * n + 1, m)))
    if kind == "deficient":
        return lf.LinearRegression(rng.standard_normal((max(1, n - 1), n)), rng.standard_normal((max(1, n - 1), m)))
    if kind == "quadratic":
        return lf.Quadratic(
            semidefinite(n, 2 * n) + np.eye(n), semidefinite(m, 2 * m) + np.eye(m), rng.standard_normal((n, m))
        )
    if kind == "semidefinite":
        A, B = semidefinite(n, max(1, n - 1)), semidefinite(m, max(1, m - 1))
        return lf.Quadratic(A, B, A @ rng.standard_normal((n, m)) @ B)
    X = rng.standard_normal((n + 3, n))
    V = rng.standard_normal((n, m))
    X += 0.5 * np.sign(X @ V[:, :1]) * V[:, :1].T
    Y = np.sign(X @ V[:, :1]) * np.ones((1, m))  # all outputs share the first's separation
    return {"exponential": ExponentialLoss, "logistic": LogisticLoss}[kind](X, Y)


def problems():
    """Every objective at every shape, with starts from weak to strong."""
    for i, (kind, widths) in enumerate((kind, widths) for kind in OBJECTIVES for widths in WIDTHS):
        rng = np.random.default_rng(i)
        size = (0.3, 0.7, 1.0)[i % 3]
        weights = [size * rng.standard_normal(shape) for shape in pairwise(widths)]
        yield kind, widths, objective(kind, widths[0], widths[-1], rng), lf.Network(weights, (1.0, 0.5)[i % 2])


def compiled(f, net, **options):
    return lf.gradient_flow(f, net, engine="compiled", **options)


def both(f, net, **options):
    """Run both loops and compare what they return; the compiled run comes back."""
    one, two = (lf.gradient_flow(f, net, engine=engine, **options) for engine in ("compiled", "plain"))
    assert one.result is two.result
    assert one.notes == two.notes
    common, i, j = np.intersect1d(one.t, two.t, return_indices=True)
    assert {0.0, *(s for s in options.get("times", ()) if s <= min(one.t[-1], two.t[-1]))} <= set(common)
    floor = f.rounding(net)
    # The loops differ by rounding, and where that decides on a step, by the error of some steps.
    np.testing.assert_allclose(one.gap[i], two.gap[j], rtol=10 * RTOL, atol=floor)
    if one.result is not lf.Result.STEP_LIMIT:
        np.testing.assert_allclose(one.gap[-1], two.gap[-1], rtol=10 * RTOL, atol=4 * floor)
    if one.result is lf.Result.TARGET and one.gap[-1] > 1e6 * floor:
        assert abs(one.t[-1] - two.t[-1]) * one.rate[-1] <= 10 * RTOL
        np.testing.assert_allclose(one.rate[-1], two.rate[-1], rtol=1e-5)
        # Where the error estimate is rounding, so is the length of the next step.
        assert abs(one.stats.steps - two.stats.steps) <= 5 + two.stats.steps // 10
    return one


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_both_loops_agree(kind):
    for name, _, f, net in problems():
        if name == kind:
            both(f, net, until=1e-3, t_max=4.0, times=[0.1, 0.5, 2.0], max_steps=300)


def test_values_slopes_and_curvatures_agree():
    """Everything a step rests on, at the start, and where one step leads."""
    for _, widths, f, net in problems():
        field = GradientField(f, net)
        one, two = CompiledMarch(field, RTOL), PlainMarch(field, RTOL)
        for h in (0.0, 5 * two.h):
            p, q = (one.start.point, two.start.point) if h == 0 else (one.reach(h), two.reach(h))
            size = sum(float(np.linalg.norm(W)) for W in net.weights) + 1
            # Sums of a few hundred terms in another order.
            np.testing.assert_allclose(p.y, q.y, rtol=1e-12, atol=1e-13 * size)
            np.testing.assert_allclose(p.gap, q.gap, rtol=1e-11)
            np.testing.assert_allclose(p.slope, q.slope, rtol=1e-10, atol=1e-12 * (q.speed + 1e-300))
            np.testing.assert_allclose(p.speed, q.speed, rtol=1e-11)
        bend = two.start.curvature
        # A difference of two numbers of the size of the squared rate.
        assert one.start.curvature == pytest.approx(bend, rel=1e-9, abs=1e-11 * two.start.point.rate**2), widths
        assert one.h == pytest.approx(two.h, rel=1e-11)


def test_slopes_agree_at_every_shape(rng):
    """Matrices of all sides up to 13, and so of all remainders of the tiles their products are cut into."""
    for _ in range(300):
        widths = tuple(rng.integers(1, 14, rng.integers(2, 6)).tolist())
        f, net = test_flow.problem(widths, rng)
        p, q = (march(GradientField(f, net), RTOL).start.point for march in (CompiledMarch, PlainMarch))
        # Sums of 13 terms at each of a few layers.
        np.testing.assert_allclose(p.slope, q.slope, rtol=1e-11, atol=1e-13 * q.speed)
        assert p.gap == pytest.approx(q.gap, rel=1e-12)


@pytest.mark.parametrize("loss", [ExponentialLoss, LogisticLoss])
@pytest.mark.parametrize("size", [1e-3, 20.0, 400.0, 1e4])
def test_tails_agree_where_exponentials_leave_float64(loss, size):
    f = loss([[1.0, 0.0], [0.0, 1.0]], [1, 1])
    for sign in (1.0, -1.0):
        field = GradientField(f, lf.Network([np.array([[1.0, 0.2]]).T, np.array([[sign * size]])]))
        with np.errstate(over="ignore", invalid="ignore"):
            p, q = CompiledMarch(field, RTOL).start.point, PlainMarch(field, RTOL).start.point
        np.testing.assert_allclose(p.gap, q.gap, rtol=1e-10)  # an exponent of 1e4 is rounded at 1e-12
        np.testing.assert_allclose(p.slope, q.slope, rtol=1e-10)


def test_records_stops_and_progress_agree(rng):
    f, net = test_flow.problem((4, 6, 3), rng)
    record = ("least_eigenvalue", "imbalance_drift", "singular_values")
    run = both(f, net, until=1e-6, record=record, times=[0.25, 1.0])
    plain = lf.gradient_flow(f, net, until=1e-6, record=record, times=[0.25, 1.0], engine="plain")
    for t in (0.25, 1.0):
        i, j = np.flatnonzero(run.t == t)[0], np.flatnonzero(plain.t == t)[0]
        np.testing.assert_allclose(run.singular_values[i], plain.singular_values[j], rtol=1e-7)
        np.testing.assert_allclose(run.least_eigenvalue[i], plain.least_eigenvalue[j], rtol=1e-7)
    assert run.imbalance_drift.shape == run.t.shape and run.imbalance_drift.max() < 1e-7
    done = {engine: [] for engine in ("compiled", "plain")}
    for engine, seen in done.items():
        lf.gradient_flow(f, net, until=1e-6, engine=engine, progress=seen.append)
        assert len(seen) == lf.gradient_flow(f, net, until=1e-6, engine=engine).stats.steps
        assert (np.diff(seen) > 0).all() and seen[-1] == pytest.approx(1.0)


def test_blocks_of_steps_join(rng, monkeypatch):
    """Steps handed over in small blocks are those of one large block."""
    f, net = test_flow.problem((3, 4, 4, 2), rng)
    whole = compiled(f, net, until=1e-9)
    monkeypatch.setattr(flow, "BLOCK", 3)
    parts = compiled(f, net, until=1e-9)
    np.testing.assert_array_equal(whole.t, parts.t)
    np.testing.assert_array_equal(whole.gap, parts.gap)
    np.testing.assert_array_equal(whole.weights[0], parts.weights[0])
    assert (whole.stats.steps, whole.stats.rejected) == (parts.stats.steps, parts.stats.rejected)
    assert whole.stats.evaluations == parts.stats.evaluations
    middle = 0.4 * float(whole.t[-1])
    np.testing.assert_array_equal(whole.network_at(middle).product(), parts.network_at(middle).product())


@pytest.mark.parametrize("kind", ["factorization", "exponential"])
def test_blocks_are_kept_like_single_steps(kind):
    """With `progress`, steps are handed over and kept one by one."""
    seen = []
    for one, _, f, net in problems():
        if one == kind and net.depth == 3:
            whole, single = (compiled(f, net, t_max=4.0, progress=told) for told in (None, seen.append))
            assert len(seen) == whole.stats.steps
            seen.clear()
            for name in ("t", "gap", "rate", "nodes", "weights"):
                for a, b in zip(getattr(whole, name), getattr(single, name), strict=True):
                    np.testing.assert_array_equal(a, b)
            assert whole.checkpoints.times == single.checkpoints.times
            np.testing.assert_array_equal(whole.checkpoints.vectors, single.checkpoints.vectors)


def test_wide_layers_go_through_blas(rng):
    """Products above the size for which a loop is used."""
    for widths in ((9, 120, 7), (6, 120, 9), (7, 40, 40, 8)):
        f, net = test_flow.problem(widths, rng)
        both(f, net, until=1e-6)


class TestEndings:
    f = lf.MatrixFactorization(np.diag([2.0, 1.0]))

    def test_zero_start(self):
        run = both(self.f, lf.Network([np.zeros((2, 3)), np.zeros((3, 2))]))
        assert run.result is lf.Result.STATIONARY and len(run.t) == 1

    def test_saddle_ahead(self):
        net = lf.init.spectral((2, 4, 2), np.diag([2.0, 1.0]), np.array([[0.5, 0.0], [0.5, 0.0]]), rng=0)
        assert both(self.f, net).result is lf.Result.STATIONARY
        weights = [np.array([[1.5]]), np.array([[-1.5]])]
        assert both(lf.MatrixFactorization([[2.0]]), lf.Network(weights)).result is lf.Result.STATIONARY

    @pytest.mark.parametrize("size", [1e-3, 1e-8])
    def test_small_starts(self, size):
        # The time in the plateau multiplies errors made in the first steps: the end alone can be compared.
        runs = [
            lf.gradient_flow(self.f, lf.init.small((2, 4, 2), size, rng=0), engine=engine)
            for engine in ("compiled", "plain")
        ]
        assert {run.result for run in runs} == {lf.Result.TARGET}
        assert runs[0].t[-1] == pytest.approx(runs[1].t[-1], rel=1e-6)

    def test_tiny_and_huge_numbers(self):
        assert both(self.f, lf.init.small((2, 4, 2), 1e-100, rng=0)).result is lf.Result.STATIONARY
        tiny = [np.array([[1e-160]]), np.array([[2e-160]])]
        assert both(lf.MatrixFactorization([[2.0]]), lf.Network(tiny), t_max=10.0).result is lf.Result.TIME_LIMIT
        huge = lf.Network([1e40 * np.eye(2)] * 3)
        assert both(self.f, huge, max_steps=200).result is lf.Result.TARGET

    def test_minimum_limits_and_rounding(self, rng):
        net = lf.init.gaussian((2, 3, 2), rng=rng)
        assert both(self.f, lf.Network([np.diag([2.0, 1.0]), np.eye(2)])).result is lf.Result.ROUNDING
        assert both(self.f, net, t_max=0.1).t[-1] == 0.1
        assert both(self.f, net, max_steps=5).result is lf.Result.STEP_LIMIT
        run = compiled(self.f, net, until=1e-60, max_steps=5000)
        assert run.result in (lf.Result.ROUNDING, lf.Result.STATIONARY) and run.gap[-1] < 1e-27
        assert both(self.f, net, until=1 - 1e-16).result is lf.Result.TARGET


def test_runs_share_nothing(rng):
    """Threads run at once, without the interpreter's lock, and return what they return alone."""
    cases = [test_flow.problem((4, 6 + i, 3), rng) for i in range(6)]
    alone = [compiled(f, net, until=1e-8) for f, net in cases]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda case: compiled(*case, until=1e-8), cases))
    for one, two in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.gap, two.gap)
        np.testing.assert_array_equal(one.weights[0], two.weights[0])
    assert all(
        program.targetoptions["nogil"] for program in flow.CompiledMarch(GradientField(*cases[0]), RTOL).programs
    )


def test_what_each_engine_takes(rng, xp):
    f, net = test_flow.problem((3, 4, 2), rng)
    own = lf.Objective(f.value, f.gradient, shape=(3, 2), minimizer=f.minimizer)
    with pytest.raises(ValueError, match=r"engine 'compiled' cannot run this: .*built-in objectives"):
        lf.gradient_flow(own, net, engine="compiled")
    other = lf.MatrixFactorization(xp.asarray(f.minimizer))
    with pytest.raises(ValueError, match=r"engine 'compiled' cannot run this: .*NumPy"):
        lf.gradient_flow(other, [xp.asarray(W) for W in net.weights], engine="compiled")
    with pytest.raises(ValueError, match=r"engine is 'fast'; one of"):
        lf.gradient_flow(f, net, engine="fast")

    class Doubled(lf.MatrixFactorization):
        def gap(self, W):
            return 2 * super().gap(W)

        def gradient(self, W):
            return 2 * super().gradient(W)

    # A subclass is not taken for its base.
    assert lf.gradient_flow(Doubled(f.minimizer), net, engine="auto").gap[0] == pytest.approx(
        2 * f.gap(net.product()), rel=1e-14
    )


def test_weights_of_any_memory_layout(rng):
    f, net = test_flow.problem((4, 6, 3), rng)
    turned = lf.Network([np.asfortranarray(W) for W in net.weights])
    spaced = lf.Network([np.repeat(W, 2, axis=1)[:, ::2] for W in net.weights])
    runs = [compiled(f, start, until=1e-6) for start in (net, turned, spaced)]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.gap, runs[0].gap)
    before = [W.copy() for W in net.weights]
    compiled(f, net, until=1e-6)
    for W, V in zip(net.weights, before, strict=True):
        np.testing.assert_array_equal(W, V)


def test_where_nothing_compiles_the_plain_loop_runs_and_says_so(rng, monkeypatch):
    from linflow.dynamics import _march

    def fails():
        raise RuntimeError("cannot cache function\nno locator")

    f, net = test_flow.problem((3, 4, 2), rng)
    expected = lf.gradient_flow(f, net, until=1e-4, engine="plain")
    monkeypatch.setattr(_march, "programs", fails)
    _compiled.compiler_trouble.cache_clear()
    try:
        run = lf.gradient_flow(f, net, until=1e-4, engine="auto")
        with pytest.raises(ValueError, match="cannot cache function"):
            lf.gradient_flow(f, net, until=1e-4, engine="compiled")
    finally:
        _compiled.compiler_trouble.cache_clear()
    assert run.notes == ("computed by the plain loop, because compiling failed: RuntimeError: cannot cache function",)
    assert expected.notes == ()
    np.testing.assert_array_equal(run.gap, expected.gap)


def asked_to_compile(script, folder, *, alone=False):
    """The words that a script prints, and how often another process is asked to compile; none answers one alone."""
    first = """
import numpy as np, linflow as lf
from linflow._support import programs as _programs
apart, asked = _programs._compile_in_another_process, []
"""
    answer = "None" if alone else "apart(build)"
    asked = f"_programs._compile_in_another_process = lambda build: asked.append(1) or {answer}\n"
    env = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", first + asked + script + "\nprint(len(asked))"]
    *words, times = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.split()
    return words, int(times)


@pytest.mark.slow  # compiles
def test_the_run_that_compiles_gives_the_numbers_of_those_that_load(tmp_path):
    script = """
Y = np.random.default_rng(5).normal(size=(4, 3))
run = lf.gradient_flow(lf.MatrixFactorization(Y), lf.init.ntk((4, 6, 3), rng=0), until=1e-4, engine="compiled")
assert run.notes == (), run.notes
print(run.gap.tobytes().hex())
"""
    first, second = (asked_to_compile(script, tmp_path) for _ in range(2))
    assert first[0] == second[0]
    assert (first[1], second[1]) == (1, 0)


@pytest.mark.slow  # compiles
def test_what_no_other_process_compiles_is_compiled_here_and_kept(tmp_path):
    """The programs of the operator interval are compiled four times as fast as those of the flow."""
    script = "print(lf.bounds.operator_interval([np.array([0.1, -0.1])] * 2, 2, 0.5, 1.0, 1.0))"
    (bound,), times = asked_to_compile(script, tmp_path, alone=True)
    assert times == 1
    assert list(tmp_path.rglob("*.nbc"))
    assert asked_to_compile(script, tmp_path, alone=True)[1] == 0
    here = lf.bounds.operator_interval([np.array([0.1, -0.1])] * 2, 2, 0.5, 1.0, 1.0)
    assert float(bound) == pytest.approx(float(here), rel=1e-9, abs=0)  # rounding, in branch and bound


def test_names_on_both_sides_of_the_compiler_agree():
    """What is said twice, as the one side must not import numba."""
    from linflow.dynamics import _kernels, _march

    assert {event.name: event.value for event in Event} == {name: getattr(_march, name) for name in Event.__members__}
    kinds = ("QUADRATIC", "EXPONENTIAL", "LOGISTIC")
    assert [getattr(_compiled, kind) for kind in kinds] == [getattr(_kernels, kind) for kind in kinds]


def test_numba_is_imported_only_when_used():
    script = """
import sys
import numpy as np, linflow as lf
assert "numba" not in sys.modules
own = lf.Objective(lambda W: float((W**2).sum()), lambda W: 2 * W, shape=(2, 2), minimum=0.0)
assert lf.gradient_flow(own, [np.eye(2)], until=0.1).notes == ()
assert lf.gradient_flow(lf.MatrixFactorization(np.eye(2)), [2 * np.eye(2)], until=0.1, engine="plain").notes == ()
assert "numba" not in sys.modules
sys.modules["numba"] = None
run = lf.gradient_flow(lf.MatrixFactorization(np.eye(2)), [2 * np.eye(2)], until=0.1)
assert run.result.ok and "numba" in run.notes[0], run.notes
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.fixture(scope="module", autouse=True)
def plain_by_default():
    """The tests of the flow below run the plain loop; in their own module they run the compiled one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lf, "gradient_flow", partial(flow.gradient_flow, engine="plain"), raising=False)
        yield


for _name in dir(test_flow):
    if _name.startswith("test_"):
        globals()[_name] = getattr(test_flow, _name)


class TestEndingsOfThePlainLoop(test_flow.TestEndings):
    # Objectives of the user's run in the plain loop there, too.
    test_gradient_with_a_jump = test_step_underflow = None
