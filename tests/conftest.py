"""Seeds, array kinds and random networks shared by the tests."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Shared machines stall now and then; a deadline would make the suite flaky, not faster.
settings.register_profile("linflow", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("linflow")
# Parallelism is over tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")


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
