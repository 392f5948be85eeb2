"""Convergence of gradient flow and gradient descent on multi-layer linear models `f(W_1 W_2 ⋯ W_L)`.

Certify the rate of a start before a run, compute the run, and compare the two:

Example:
    >>> import numpy as np, linflow as lf
    >>> f = lf.MatrixFactorization(np.eye(3))
    >>> net = lf.init.gaussian((3, 50, 3), std=0.3, rng=0)
    >>> cert = lf.certify(f, net)
    >>> run = lf.gradient_flow(f, net, until=1e-8)
    >>> cert.check(run).holds
    True
"""

import lazy_loader as _lazy

from linflow._support.names import missing as _missing
from linflow._support.version import __version__ as __version__

# The public names are listed only in __init__.pyi, which type checkers read. Each is imported on first use.
_attribute, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    """Return a public name. For an unknown name, the error suggests the nearest one."""
    if name in __all__:
        return _attribute(name)
    return _missing(__name__, __all__, {"torch": "It is imported by itself: import linflow.torch as lt."})(name)
