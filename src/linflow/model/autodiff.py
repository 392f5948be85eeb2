"""Objectives of losses that are written in PyTorch or JAX, with the gradient by their own differentiation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np

from linflow._support.arrays import Array, from_numpy, norm, to_numpy
from linflow._support.words import kind_of
from linflow.model.objectives import Objective

CLOSE = 1e-4
"""Relative difference of a slope of the value and of the gradient that is still rounding or curvature."""


def autodiff(loss: Callable[[Array], Any], *, like: Array, **declared: Any) -> Objective:
    """Return the objective of a loss written in PyTorch or JAX, with the gradient by their differentiation.

    A JAX loss is compiled if it can be, so it must be pure: what it reads besides W stays as it was at first.

    The gradient is compared with differences of the loss at a point near `like` here, and by every run at its start.
    Certificates rest on the constants that are declared, as for every `Objective`.

    Args:
        loss: `W ↦ f(W)`, one number, made by PyTorch or JAX alone.
        like: a float64 tensor or array of the shape of W, and of the kind that the loss takes.
        **declared: the constants and the minimum, as for `Objective`.

    Raises:
        TypeError: `like` is of another kind or dtype.
        ValueError: the loss is not one number, cannot be differentiated, or its gradient is not that of its value;
            or as for `Objective`.

    Source: docs/losses.md, section 4.

    Example:
        >>> import torch, linflow as lf
        >>> Y = torch.eye(2, dtype=torch.float64)
        >>> f = lf.autodiff(lambda W: ((W - Y) ** 2).sum(), like=Y, strong_convexity=2.0, smoothness=2.0)
        >>> f.gradient(2 * Y).tolist(), round(lf.certify(f, [2 * Y, Y]).rate, 2) > 0
        ([[2.0, 0.0], [0.0, 2.0]], True)
    """
    if not (array_api_compat.is_torch_array(like) or array_api_compat.is_jax_array(like)):
        raise TypeError(
            f"like is {kind_of(like)}; a tensor of PyTorch or an array of JAX is needed, of the kind that "
            "the loss takes. For NumPy give value and gradient to Objective(...)."
        )
    if not str(like.dtype).endswith("float64") or like.ndim != 2:
        hint = " Call jax.config.update('jax_enable_x64', True) first." if array_api_compat.is_jax_array(like) else ""
        raise TypeError(f"like is {like.dtype} of shape {tuple(like.shape)}; a float64 matrix is needed.{hint}")
    value, gradient = _of_torch(loss) if array_api_compat.is_torch_array(like) else _of_jax(loss, like)
    _check(value, gradient, like)
    n, m = (int(side) for side in like.shape)
    return Objective(value, gradient, shape=(n, m), like=like, **declared)


def _of_torch(loss: Callable[[Array], Any]) -> tuple[Callable, Callable]:
    import torch  # noqa: PLC0415 - only where a tensor was given

    def value(W: Any) -> float:
        with torch.no_grad():
            return float(loss(W))

    def gradient(W: Any) -> Any:
        leaf = W.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            return torch.autograd.grad(loss(leaf), leaf)[0]

    return value, gradient


def _of_jax(loss: Callable[[Array], Any], like: Array) -> tuple[Callable, Callable]:
    import jax  # noqa: PLC0415  # pyright: ignore[reportMissingImports] - only where an array was given

    def compiled(function: Callable[[Array], Any], W: Array) -> Callable[[Array], Any]:
        """Return the function in compiled code, or as it is where that cannot be."""
        fast = jax.jit(function)
        try:
            fast(W)
        except Exception:  # its course depends on values, or it is wrong, and then fails again where it is checked
            return function
        return fast

    value, gradient = compiled(loss, like), compiled(jax.grad(loss), like)
    return lambda W: float(value(W)), gradient


def _check(value: Callable, gradient: Callable, like: Array) -> None:
    """Raise ValueError unless the gradient is that of the value, at one point and along one direction."""
    rng = np.random.default_rng(0)
    point, way = (rng.standard_normal(tuple(like.shape)) for _ in range(2))
    way /= np.linalg.norm(way)
    start = to_numpy(like) + 0.1 * (1 + float(np.abs(to_numpy(like)).max())) * point
    try:
        G = gradient(from_numpy(start, like))
        here = [value(from_numpy(start + step * way, like)) for step in (0.0, 1e-5, -1e-5)]
    except (RuntimeError, TypeError, ValueError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"the loss cannot be differentiated at a matrix like the one given: {line}") from error
    if not (np.isfinite(here).all() and np.isfinite(to_numpy(G)).all()):
        raise ValueError("the loss or its gradient is not finite at a matrix like the one given.")
    seen, told = (here[1] - here[2]) / 2e-5, float(np.sum(to_numpy(G) * way))
    # The value is rounded by 1e-16 of itself, or more if terms cancel; the difference divides this by 1e-5.
    room = CLOSE * norm(G) + 1e-9 * max(abs(each) for each in here)
    if not abs(seen - told) <= room:
        raise ValueError(
            f"the gradient is not that of the loss: along one direction the loss changes at the rate {seen:.6g}, and "
            f"the gradient says {told:.6g}. Is a part detached, or computed outside of PyTorch or JAX?"
        )
