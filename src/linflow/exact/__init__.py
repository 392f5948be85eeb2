"""Closed-form solutions of the gradient flow, and the flows of the product alone.

The scalar and matrix formulas are for the squared loss `½‖Y − W‖_F²`. Times are non-negative: a number gives one
product, a sequence gives an array with time as its first axis.
"""

from typing import TYPE_CHECKING

from linflow._support.names import missing
from linflow.exact.limit import one_sample_limit
from linflow.exact.modes import learning_times, spectral
from linflow.exact.reduced import balanced_end_to_end, non_overparametrized
from linflow.exact.scalar import scalar_balanced, scalar_balanced_time, two_layer_scalar
from linflow.exact.symmetric import symmetric, symmetric_bounds, symmetric_end_to_end
from linflow.exact.two_layers import lambda_balanced

__all__ = [
    "balanced_end_to_end",
    "lambda_balanced",
    "learning_times",
    "non_overparametrized",
    "one_sample_limit",
    "scalar_balanced",
    "scalar_balanced_time",
    "spectral",
    "symmetric",
    "symmetric_bounds",
    "symmetric_end_to_end",
    "two_layer_scalar",
]

if not TYPE_CHECKING:  # type checkers know the names
    __getattr__ = missing(__name__, __all__)
