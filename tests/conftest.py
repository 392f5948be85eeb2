"""Seeds, array kinds and random networks shared by the tests."""

import gc
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Shared machines stall now and then; a deadline would make the suite flaky, not faster.
settings.register_profile("linflow", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("linflow")
# Parallelism is over tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without kept bytecode each worker, and each process that a test starts, compiles every module anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

COMPILED = """
from threading import Thread
from linflow.bounds import _interval_loops
from linflow.dynamics import _march
from linflow.verified import _loops
for module in (_loops, _march, _interval_loops):
    Thread(target=module.programs).start()
"""
"""Puts all compiled programs on the disk, each in a process of its own."""
compiling = pytest.StashKey[subprocess.Popen]()


def pytest_configure(config):
    """Compile once, while the workers collect the tests, and not where one of them first needs a program."""
    if getattr(config.option, "numprocesses", None) and find_spec("numba"):
        config.stash[compiling] = subprocess.Popen([sys.executable, "-c", COMPILED])


def pytest_unconfigure(config):
    """Wait for nothing: a compiler that is still at work ends by itself, and what it makes is kept."""
    if process := config.stash.get(compiling, None):
        process.kill()
        process.wait()


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Search no garbage while modules are imported, and none later among what they made, which stays to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_finish():
    """Lay out each formula once: matplotlib keeps those of one drawing, and the same labels are in nearly all."""
    mathtext = sys.modules.get("matplotlib.mathtext")
    plain = getattr(mathtext and mathtext.MathTextParser._parse_cached, "__wrapped__", None)
    if mathtext is None or plain is None:
        return
    kept = {}

    def parsed(self, *given):
        key = self._output_type, *given
        if key not in kept:
            kept[key] = plain(self, *given)
        return kept[key]

    mathtext.MathTextParser._parse_cached = parsed


@pytest.fixture
def rng():
    """The one source of randomness of a test."""
    return np.random.default_rng(20230724)


def _kinds():
    import array_api_strict

    yield pytest.param(array_api_strict, id="strict")
    try:
        import torch
    except ImportError:
        yield pytest.param(
            None, id="torch", marks=pytest.mark.skip(reason="PyTorch is not installed (CI installs it)")
        )
    else:
        yield pytest.param(torch, id="torch")


@pytest.fixture(params=list(_kinds()))
def xp(request):
    """An array namespace other than NumPy."""
    return request.param


@pytest.fixture
def undrawn(monkeypatch):
    """Pages without drawings, which take as long as the rest of an analysis, for tests of that rest."""
    monkeypatch.setattr("linflow.pages.analysis.svg", lambda ax, name: "")


@pytest.fixture
def here():
    """Sweeps without processes."""
    from tests.engine_here import computed_here

    with computed_here():
        yield
