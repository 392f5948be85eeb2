"""`diffrax.diffeqsolve`, compiled, with its PID controller; the tolerance is `rtol` and `atol`."""

from __future__ import annotations

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.problems import Problem, from_right
from benchmarks.solvers import Curve

STEPS = 2**17
"""The losses of so many steps are kept room for."""

jax.config.update("jax_enable_x64", True)


def create(method: str) -> Diffrax:
    return Diffrax(getattr(diffrax, method)())


class Diffrax:
    def __init__(self, method: Any):
        self.method = method
        self.per_step = method.tableau.num_stages - int(method.tableau.fsal)
        self.compiled: Any = None

    def prepare(self, problem: Problem, t: np.ndarray) -> None:
        right = from_right(problem.widths)

        def field(_: Any, weights: tuple, args: tuple) -> tuple:
            return slopes(weights, *args, right)

        def log_gap(_: Any, weights: tuple, args: tuple) -> Any:
            return jnp.log(0.5 * jnp.sum(residual(weights, *args, right) ** 2))

        @jax.jit
        def solve(weights: tuple, scale: Any, target: Any, end: Any, tolerance: Any) -> tuple:
            run = diffrax.diffeqsolve(
                diffrax.ODETerm(field),
                self.method,
                t0=0.0,
                t1=end,
                dt0=None,
                y0=weights,
                args=(scale, target),
                saveat=diffrax.SaveAt(steps=True, fn=log_gap),
                stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
                max_steps=STEPS,
                throw=False,
            )
            return run.ts, run.ys, run.stats["num_steps"], run.stats["num_accepted_steps"]

        self.compiled = solve.lower(*self.arguments(problem, t, 1e-6)).compile()

    def run(self, problem: Problem, t: np.ndarray, tolerance: float) -> Curve:
        times, log_gap, steps, kept = self.compiled(*self.arguments(problem, t, tolerance))
        kept = int(kept)
        return np.asarray(times)[:kept], np.asarray(log_gap)[:kept], int(steps) * self.per_step

    @staticmethod
    def arguments(problem: Problem, t: np.ndarray, tolerance: float) -> tuple:
        weights = tuple(jnp.asarray(W) for W in problem.weights)
        return (
            weights,
            jnp.asarray(problem.scale),
            jnp.asarray(problem.target),
            jnp.asarray(t[-1]),
            jnp.asarray(tolerance),
        )


def residual(weights: tuple, scale: Any, target: Any, right: bool) -> Any:
    W, *rest = reversed(weights) if right else weights
    for layer in rest:
        W = layer @ W if right else W @ layer
    return scale * W - target


def slopes(weights: tuple, scale: Any, target: Any, right: bool) -> tuple:
    """`−∂L/∂W_l`, products from the narrower side."""
    layers = list(reversed(weights)) if right else list(weights)
    running = layers[:1]
    for W in layers[1:]:
        running.append(W @ running[-1] if right else running[-1] @ W)
    G = scale * (target - scale * running.pop())
    out = []
    for W in reversed(layers[1:]):
        P = running.pop()
        out.append(G @ P.T if right else P.T @ G)
        G = W.T @ G if right else G @ W.T
    out.append(G)
    return tuple(out) if right else tuple(reversed(out))
