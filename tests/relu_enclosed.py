"""Verified runs of tiny ReLU networks against an independent flow of 30 digits: a part of `make relu-soundness`."""

from __future__ import annotations

from collections import Counter

import mpmath
import numpy as np

from linflow import relu
from linflow._support.arrays import EPS
from tests.reference.relu_flow import Judge, UndecidedError

DIGITS, STEPS, TIMES = 30, 9, 6
"""Digits of the judge, steps of a verified run, and times at which both are compared."""


def against_digits(seen: Counter, X: np.ndarray, Y: np.ndarray, net: relu.Network) -> list[str]:
    """Return what a verified run did not keep of the flow to 30 digits: weights, loss, and times of flips."""
    enc = relu.enclose(X, Y, net, until=0.1, max_steps=STEPS)
    seen[f"enclosed: {enc.result}"] += 1
    if not enc.end > 0:
        return []
    try:
        flow = Judge(net.inputs(X), Y, net.extended, net.V, net.slope, enc.end, DIGITS)
    except UndecidedError:
        seen["enclosed: not followed by the judge"] += 1
        return []
    bad, flips = [], enc.flips
    for t in np.linspace(0.0, 1.0, TIMES) * enc.end:
        (low, high), loss = enc.gap_bounds(float(t)), flow.loss(t)
        here, there = enc.network_at(float(t)), flow.weights(t)
        with mpmath.workdps(DIGITS):
            pairs = [
                (mpmath.mpf(float(x)), y)
                for A, B in zip((here.extended, here.V), there, strict=True)
                for x, y in zip(A.ravel(), B.ravel(), strict=True)
            ]
            away, radius = mpmath.sqrt(sum((x - y) ** 2 for x, y in pairs)), enc.radius_at(float(t))
            # The judge itself is off by a few units of 1e-24 of its numbers.
            off = mpmath.mpf(10) ** -20 * (1 + max(abs(y) for _, y in pairs))
            for kept, text in (
                (away <= radius + off, f"{mpmath.nstr(away, 5)} away, radius {radius}"),
                (low - off <= loss <= high + off, f"loss {mpmath.nstr(loss, 20)} not in [{low}, {high}]"),
            ):
                seen["enclosed: comparisons"] += 1
                bad += [] if kept else [f"enclosed: at {t}: {text}"]
    seen["enclosed: flips"] += len(flow.events)
    # A pair that is at 0 up to rounding at the start can flip at once; the path is then on the other side from 0 on.
    noise = (len(net.extended) + 8) * EPS * (np.abs(net.inputs(X)) @ np.abs(net.extended))
    for t, neuron, sample, *_ in flow.events:
        seen["enclosed: comparisons"] += 1
        halfway = flow.X.dot(flow.weights(t / 2)[0])[sample, neuron]
        if max(abs(halfway), abs(net.preactivations(X)[sample, neuron])) <= noise[sample, neuron]:
            seen["enclosed: flips at once"] += 1
            continue
        near = [f for f in flips if (f.neuron, f.sample) == (neuron, sample)]
        if t < enc.end and not any(f.low <= t <= f.high for f in near):
            bad.append(f"enclosed: neuron {neuron} flips sample {sample} at {mpmath.nstr(t, 17)}, outside its bounds")
    return bad
