"""BLAS threads: small problems use one, because a thread pool would cost more than it saves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

from threadpoolctl import ThreadpoolController

from linflow._support.arrays import Array, is_numpy

LARGE = 100 * 100
"""Entries in the largest layer from which a second thread pays off."""


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread_when_small(weights: Sequence[Array]) -> AbstractContextManager:
    """Return a context that limits BLAS to one thread if every layer is small (NumPy only)."""
    largest = max(W.shape[0] * W.shape[1] for W in weights)
    if largest >= LARGE or not is_numpy(weights[0]):
        return nullcontext()
    return one_thread()


def one_thread() -> AbstractContextManager:
    """Return a context that limits BLAS to one thread, whatever the size of the problem."""
    return _controller().limit(limits=1, user_api="blas")
