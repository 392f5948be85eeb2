"""Ctrl-C, sent for real: a run ends soon and what was done is kept."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import linflow as lf
from tests.waiting import PATIENCE, ended

CODE = """
import json, signal, threading
import numpy as np
import linflow as lf
from linflow.dynamics.trajectory import Recorder

f = lf.MatrixFactorization(np.diag([2.0, 1.5, 1.0, 0.0, 0.0, 0.0]))  # directions without a target: a long tail
net = lf.init.gaussian((6, 10, 10, 6), 0.05, rng=1)
lf.gradient_flow(f, net, t_max=1e-6)  # what is compiled is loaded

heard = threading.Event()
records, told, when = {}, iter(()), 0  # of each thread; what is said once; records when Ctrl-C came
after = threads = 0

def press(number, frame):
    global when
    when = sum(records.values())
    heard.set()
    raise KeyboardInterrupt

def watching(keep):
    def watched(self, t, *words):
        me = threading.get_ident()
        if sum(count >= after for count in list(records.values())) == threads:  # so many are kept already
            for word in told:
                print(word, flush=True)
        records[me] = records.get(me, 0) + np.size(t)
        if records[me] >= after + 1500:
            heard.wait()  # no machine is so fast that it ends before it is interrupted
        keep(self, t, *words)
    return watched

Recorder.add, Recorder.extend = watching(Recorder.add), watching(Recorder.extend)
# As on a terminal: a suite started in the background hands its children an ignored Ctrl-C.
signal.signal(signal.SIGINT, press)
for call, report, after, threads in CASES:
    heard.clear()
    records.clear()
    told, when = iter(["under way"]), 0
    try:
        run = eval(call)
    except lf.Interrupted as stop:
        run = stop.run
    print(json.dumps(eval(report)), flush=True)
"""
ONE = """{"result": run.result, "steps": run.stats.steps, "t": run.t.tolist()[-3:], "gap": run.gap.tolist()[-3:],
    "rate": len(run.rate), "count": len(run.t), "weights": float(f.gap(run.final.product())),
    "middle": run.gap_at(0.5 * float(run.t[-1])), "later": sum(records.values()) - when}"""
RUNS = {
    "compiled": ('lf.gradient_flow(f, net, t_max=1e9, rtol=1e-13, engine="compiled", max_steps=10**9)', ONE),
    "plain": ('lf.gradient_flow(f, net, t_max=1e9, rtol=1e-13, engine="plain", max_steps=10**9)', ONE),
    "descent": ("lf.gradient_descent(f, net, step_size=1e-6, steps=10**9, every=100)", ONE),
    "many": (
        "lf.gradient_flow_many(f, [net] * 9, workers=2, t_max=1e9, rtol=1e-13, max_steps=10**9)",
        '{"results": [None if one is None else one.result for one in run]}',
    ),
}


CASES = [*((name, after) for name in ("compiled", "plain", "descent") for after in (3, 150)), ("many", 20)]


@pytest.fixture(scope="module")
def interrupted():
    """What every run says that is interrupted after so many records: one after the other, in one process."""
    cases = [(*RUNS[name], after, 2 if name == "many" else 1) for name, after in CASES]
    env, found = {**os.environ, "OMP_NUM_THREADS": "1"}, {}
    command = [sys.executable, "-c", f"CASES = {cases!r}\n{CODE}"]
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)) as child:
        assert child.stdout is not None
        for case in CASES:
            assert child.stdout.readline().strip() == "under way", case
            child.send_signal(signal.SIGINT)
            found[case] = json.loads(child.stdout.readline())
        rest, _ = child.communicate(timeout=PATIENCE)
    assert (child.returncode, rest) == (0, "")
    return found


@pytest.mark.parametrize("case", CASES[:-1])
def test_a_run_is_kept(case, interrupted):
    got = interrupted[case]
    assert got["result"] == lf.Result.INTERRUPTED
    assert got["steps"] > 0
    assert got["count"] == got["rate"] > 1
    assert got["t"] == sorted(got["t"])
    # The weights are those of the last record.
    assert got["weights"] == pytest.approx(got["gap"][-1], rel=1e-9)
    assert got["gap"][-1] <= got["middle"]
    # It ends at once: with the record of the last step, where that was not written down, and no further one.
    assert got["later"] <= 1


def test_many_runs_are_kept(interrupted):
    results = interrupted["many", 20]["results"]
    assert len(results) == 9
    assert results[:2] == [lf.Result.INTERRUPTED] * 2
    assert set(results[2:]) <= {lf.Result.INTERRUPTED, None}
    assert results[-1] is None


def test_many_runs_of_which_some_are_not_handed_out_yet(monkeypatch):
    """The first runs already, and would for ever, when Ctrl-C comes."""
    from concurrent.futures import ThreadPoolExecutor

    submit, calls = ThreadPoolExecutor.submit, []

    def pressed(*words):
        calls.append(words)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return submit(*words)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", pressed)
    f, net = lf.MatrixFactorization(np.eye(2)), lf.init.gaussian((2, 4, 2), 0.3, rng=0)
    with pytest.raises(lf.Interrupted) as stop:
        lf.gradient_flow_many(f, [net] * 3, workers=1, t_max=1e9, rtol=1e-13, max_steps=10**9)
    assert len(stop.value.run) == 3
    assert stop.value.run[1:] == [None, None]


def test_runs_in_threads_that_the_pool_does_not_know_are_waited_for(monkeypatch):
    """Ctrl-C between the start of a thread and its being noted: the pool does not join it."""
    import threading
    from concurrent.futures import ThreadPoolExecutor

    submit, shutdown, calls = ThreadPoolExecutor.submit, ThreadPoolExecutor.shutdown, []
    under_way, released = threading.Semaphore(0), threading.Event()

    class Slow(lf.MatrixFactorization):
        def gradient(self, W):
            under_way.release()
            released.wait(PATIENCE)  # until the pool has been shut down without waiting
            return super().gradient(W)

    def pressed(*words):
        calls.append(words)
        if len(calls) == 3:
            for _ in range(2):
                assert under_way.acquire(timeout=PATIENCE)
            raise KeyboardInterrupt
        return submit(*words)

    def unjoined(self, wait=True, *, cancel_futures=False):
        shutdown(self, wait=False, cancel_futures=cancel_futures)
        released.set()

    monkeypatch.setattr(ThreadPoolExecutor, "submit", pressed)
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", unjoined)
    net = lf.init.gaussian((2, 4, 2), 0.3, rng=0)
    with pytest.raises(lf.Interrupted) as stop:
        lf.gradient_flow_many(
            Slow(np.eye(2)), [net] * 3, workers=2, t_max=1e9, rtol=1e-13, max_steps=10**9, engine="plain"
        )
    assert [None if run is None else run.result for run in stop.value.run] == [*[lf.Result.INTERRUPTED] * 2, None]


@pytest.mark.parametrize("at", [1, 7, 8])
def test_an_interruption_anywhere_leaves_a_whole_run(at, monkeypatch):
    """KeyboardInterrupt between any two statements that keep a step."""
    f, net = lf.MatrixFactorization(np.eye(2)), lf.init.gaussian((2, 4, 2), 0.3, rng=0)
    for owner, name in [
        ("linflow.dynamics.trajectory.Checkpoints", "add"),
        ("linflow.dynamics.trajectory.Recorder", "add"),
        ("linflow.dynamics.declared.DeclaredConstants", "observe"),
    ]:
        for late in (False, True):
            with monkeypatch.context() as patch:
                calls = _interrupting(patch, f"{owner}.{name}", at, late)
                with pytest.raises(lf.Interrupted) as stop:
                    lf.gradient_flow(f, net, until=1e-8, engine="plain")
                assert calls[0] == at + 1
            run = stop.value.run
            assert len(run.t) == len(run.gap) == len(run.rate) in (at, at + 1)
            assert float(f.gap(run.final.product())) == pytest.approx(run.gap[-1], rel=1e-12)
            whole = lf.gradient_flow(f, net, until=1e-8, engine="plain")
            assert np.array_equal(run.t, whole.t[: len(run.t)])
            assert run.gap_at(float(run.t[-1])) == pytest.approx(run.gap[-1])
            assert 0 <= run.stats.gap_error < 1e-3


@pytest.mark.parametrize("at", [0, 2])
def test_an_interruption_while_a_block_is_kept_leaves_a_whole_run(at, monkeypatch, tmp_path):
    f, net = lf.MatrixFactorization(np.eye(2)), lf.init.gaussian((2, 4, 2), 0.3, rng=0)
    monkeypatch.setattr("linflow.dynamics.flow.BLOCK", 4)
    whole = lf.gradient_flow(f, net, until=1e-8)
    assert whole.stats.steps > 12
    for name in ("Checkpoints", "Recorder"):
        for late in (False, True):
            with monkeypatch.context() as patch:
                calls = _interrupting(patch, f"linflow.dynamics.trajectory.{name}.extend", at, late)
                with pytest.raises(lf.Interrupted) as stop:
                    lf.gradient_flow(f, net, until=1e-8)
                assert calls[0] == at + 1
            run = stop.value.run
            assert len(run.t) == len(run.gap) == len(run.rate) == 4 * at + 1  # the start, and whole blocks
            assert np.array_equal(run.t, whole.t[: len(run.t)])
            assert float(f.gap(run.final.product())) == pytest.approx(run.gap[-1], rel=1e-12)
            assert run.checkpoints.times == run.t.tolist() and len(run.checkpoints.vectors) == len(run.t)
            run.save(tmp_path / "run.nc", weights="all")
            assert lf.load(tmp_path / "run.nc").checkpoints.times == run.t.tolist()


def _interrupting(patch, target, at, late):
    from importlib import import_module

    path, cls, name = target.rsplit(".", 2)
    owner = getattr(import_module(path), cls)
    original, calls = getattr(owner, name), [0]

    def method(self, *args):
        calls[0] += 1
        if calls[0] == at + 1 and not late:
            raise KeyboardInterrupt
        result = original(self, *args)
        if calls[0] == at + 1:
            raise KeyboardInterrupt
        return result

    patch.setattr(owner, name, method)
    return calls


def test_an_error_that_was_not_estimated_is_no_number_in_a_file_too(tmp_path):
    from linflow.experiments.analysis import unchecked

    f, net = lf.MatrixFactorization(np.eye(2)), lf.init.gaussian((2, 9, 2), rng=0)
    run = unchecked(lf.gradient_flow(f, net))
    assert math.isnan(run.stats.gap_error)
    run.save(tmp_path / "run.nc")
    back = lf.load(tmp_path / "run.nc")
    assert math.isnan(back.stats.gap_error)
    assert np.array_equal(back.gap, run.gap)
    assert lf.certify(f, net).check(back).holds
    # Nor does it hide what was broken: the certificate of the same flow, ten times as fast as it is.
    slow = dataclasses.replace(back, gap=np.full_like(back.gap, back.gap[0]))
    assert not lf.certify(f, net).check(slow).holds


def test_ctrl_c_that_python_threw_away_is_heard_at_the_next_step():
    """An exception that comes up in a callback of a C library is printed and dropped."""
    code = """
import ctypes, os, signal
import linflow as lf
from linflow.cli._ctrl_c import raise_if_asked, remember_ctrl_c
import numpy as np

signal.signal(signal.SIGINT, signal.default_int_handler)
remember_ctrl_c()

@ctypes.CFUNCTYPE(None)
def callback():
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass  # KeyboardInterrupt comes up here, and goes nowhere

callback()
print("dropped", flush=True)
try:
    lf.gradient_flow(lf.MatrixFactorization(np.eye(2)), [np.eye(2), 0.1 * np.eye(2)], progress=raise_if_asked)
except KeyboardInterrupt:
    print("heard", flush=True)
raise_if_asked()  # once is enough
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout.split() == ["dropped", "heard"], done
    assert done.returncode == 0


@pytest.mark.parametrize("algorithm", ["flow", "descent"])
def test_a_run_ends_where_it_is_told_to_stop(algorithm):
    f, net = lf.MatrixFactorization(np.diag([1.0, 0.5])), lf.init.gaussian((2, 9, 2), rng=0)
    asked = iter([False, True])
    run, options = {
        "flow": (lf.gradient_flow, {"engine": "plain", "t_max": 1e9, "max_steps": 10**9}),
        "descent": (lf.gradient_descent, {"step_size": 1e-6, "steps": 10**9}),
    }[algorithm]
    with pytest.raises(lf.Interrupted) as stop:
        run(f, net, stopped=lambda: next(asked), **options)
    run = stop.value.run
    assert run.result is lf.Result.INTERRUPTED and run.stats.steps > 0
    assert run.gap[-1] < run.gap[0] and len(run.t) == len(run.gap)
    with pytest.raises(TypeError, match="stopped"):
        lf.gradient_flow_many(f, [net], stopped=lambda: True)
