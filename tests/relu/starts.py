"""Random data and starts for the tests of ReLU networks."""

import numpy as np

from linflow import relu
from linflow.relu.problem import Regression, Start


def drawn(seed, N=4, d=6, h=10, m=1, s=0.0, size=1.0, bias=False, paired=True):
    """Data, targets and a start: pairs with output 0, or independent neurons."""
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((N, d)) / np.sqrt(d), rng.standard_normal((N, m))
    net = relu.paired((d, h, m), size, bias=bias, slope=s, rng=rng)
    if not paired:
        V = rng.standard_normal((h, m))
        V *= size / np.linalg.norm(V, axis=1, keepdims=True)
        net = relu.Network(rng.standard_normal((d, h)), V, net.bias, s)
    return X, Y, net


def started(X, Y, net):
    return Start.of(Regression(np.asarray(X), np.asarray(Y)), net)
