"""Starts with output 0: every neuron twice, with opposite second layers."""

from __future__ import annotations

import numpy as np

from linflow._support import checks
from linflow.relu.network import Network


def paired(
    widths: tuple[int, int, int],
    output_size: float = 1.0,
    *,
    std: float = 1.0,
    bias: bool = False,
    slope: float = 0.0,
    rng: int | np.random.Generator | None = None,
) -> Network:
    """Neurons in pairs `(u, v)`, `(u, −v)`: the output is 0 for every input, whatever the size of v.

    The entries of u are independent N(0, std²), and `v = output_size · w` with w uniform on the unit sphere.

    Args:
        widths: `(d, h, m)`, h even.
        output_size: `‖v_j‖`, not negative. 0 is allowed: the second layer starts at 0.
        std: standard deviation of the entries of U and of the bias.
        bias: whether the neurons have a bias.
        slope: slope for negative inputs, in [0, 1).
        rng: seed or generator.

    Raises:
        ValueError: an odd width, or other than three widths.

    Source: docs/relu.md, Theorem 4.

    Example:
        >>> from linflow import relu
        >>> net = relu.paired((3, 8, 1), 2.0, rng=0)
        >>> bool(abs(net.outputs([[1.0, 2.0, 3.0]])).max() < 1e-12), float(abs(net.V).max())
        (True, 2.0)
    """
    sizes = checks.widths(widths)
    if len(sizes) != 3:
        raise ValueError(f"widths is {sizes}; three, (d, h, m), are needed.")
    d, h, m = sizes
    if h % 2:
        raise ValueError(f"the hidden width is {h}; neurons come in pairs, so an even number is needed.")
    size, rng = checks.positive(output_size, "output_size", allow_zero=True), checks.generator(rng)
    std = checks.positive(std, "std")
    U = std * rng.standard_normal((d, h // 2))
    w = rng.standard_normal((h // 2, m))
    V = size * w / np.linalg.norm(w, axis=1, keepdims=True)
    b = std * rng.standard_normal(h // 2) if bias else None
    return Network(
        np.repeat(U, 2, axis=1),
        np.stack([V, -V], axis=1).reshape(h, m),
        None if b is None else np.repeat(b, 2),
        slope,
    )
