"""In-place initialisers for the layers of a model, by the conventions of `torch.nn.init`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import torch
from linflow import init
from linflow._support import checks
from linflow._support.arrays import to_numpy
from linflow._support.deprecation import renamed_arguments
from linflow.advice.design import Design, design
from linflow.certificates import Certificate, certify
from linflow.model.objectives import Objective
from linflow.torch._module import Layers

_RETRIES = 10
"""Number of designs tried; those after the first ask for a little more, to make up for rounding."""


def balanced_(
    model: Any,
    product: Any = None,
    *,
    std: float = 1.0,
    scale: float = 1.0,
    convention: str = "product",
    generator: torch.Generator | None = None,
) -> Any:
    """Fill the layers with balanced weights, `D_l = 0`, that have a given (or N(0, std²)) product.

    Args:
        model: an `nn.Sequential` of `nn.Linear`, or a list of layers or matrices; see `linflow.torch.network`.
        product: the product, shape `(inputs, outputs)`, output scale included; one more row if the first layer has a
            bias. A bias of the last layer is left as it is.
        std: standard deviation of the entries of the drawn product.
        scale: output scale of the model.
        convention: how the matrices of a list are stored, "product" or "torch".
        generator: source of random numbers; PyTorch's default generator if omitted.

    Returns:
        The model. It is balanced up to the rounding of its dtype.

    Raises:
        ValueError, TypeError: as in `linflow.init.balanced`, or the model is not a chain of linear layers.

    Source: Arora, Cohen & Hazan 2018.

    Example:
        >>> import torch, linflow as lf, linflow.torch as lt
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5, bias=False), torch.nn.Linear(5, 2, bias=False))
        >>> D = lf.imbalance_matrices(lt.network(lt.balanced_(model, generator=torch.Generator().manual_seed(0))))[0]
        >>> bool(abs(D).max() < 1e-6)
        True
    """
    return imbalanced_(model, 0.0, product, std=std, scale=scale, convention=convention, generator=generator)


def imbalanced_(
    model: Any,
    imbalance: float | Sequence[float],
    product: Any = None,
    *,
    std: float = 1.0,
    scale: float = 1.0,
    convention: str = "product",
    generator: torch.Generator | None = None,
) -> Any:
    """Fill the layers with weights of homogeneous imbalance and a given (or N(0, std²)) product.

    Args:
        model: an `nn.Sequential` of `nn.Linear`, or a list of layers or matrices; see `linflow.torch.network`.
        imbalance: `d`, one number for all `D_l` or one for each of the `L − 1`, of any sign.
        product: the product, shape `(inputs, outputs)`, output scale included; one more row if the first layer has a
            bias. A bias of the last layer is left as it is.
        std: standard deviation of the entries of the drawn product.
        scale: output scale of the model.
        convention: how the matrices of a list are stored, "product" or "torch".
        generator: source of random numbers; PyTorch's default generator if omitted.

    Returns:
        The model. Its imbalance is exact up to the rounding of its dtype.

    Raises:
        ValueError, TypeError: as in `linflow.init.imbalanced`, or the model is not a chain of linear layers.

    Source: `linflow.init.imbalanced`.

    Example:
        >>> import torch, linflow as lf, linflow.torch as lt
        >>> W1, W2 = torch.empty(2, 3), torch.empty(3, 2)
        >>> [W1, W2] = lt.imbalanced_([W1, W2], 3.0, torch.eye(2), generator=torch.Generator().manual_seed(0))
        >>> lf.imbalance_spectrum([W1, W2]).eigenvalues.round(decimals=4).abs().tolist()
        [3.0, 3.0, 0.0]
    """
    layers = Layers.of(model, scale=scale, convention=convention, outside=True)
    if product is not None:
        product = to_numpy(checks.matrix(product, "product")[0]) / layers.scale
    # With the output scale, a drawn product has the standard deviation `std`.
    net = init.imbalanced(layers.widths, imbalance, product, std=std / layers.scale, rng=_seed(generator))
    layers.write(net.weights)
    return model


@renamed_arguments(fraction="until")
def designed_(
    model: Any,
    objective: Objective,
    *,
    rate: float | None = None,
    algorithm: str = "flow",
    steps: int | None = None,
    until: float = 1e-6,
    product: Any = None,
    scale: float = 1.0,
    convention: str = "product",
    generator: torch.Generator | None = None,
) -> Any:
    """Fill the layers with a start designed for a certified rate of the flow, or for few steps of descent.

    See `linflow.design`. The request is certified for the weights as the model stores them. If the rounding of its
    dtype loses something, the start is designed for a little more.

    Args:
        model: an `nn.Sequential` of `nn.Linear`, or a list of layers or matrices; see `linflow.torch.network`.
        objective: the function to minimise.
        rate: exponential rate of the flow to certify.
        algorithm: "flow" or "descent".
        steps: number of steps of descent to certify.
        until: fraction of the initial loss gap at which the count of steps ends.
        product: the initial product, output scale included; 0 if omitted.
        scale: output scale of the model.
        convention: how the matrices of a list are stored, "product" or "torch".
        generator: source of random numbers; PyTorch's default generator if omitted.

    Returns:
        The model; `certify(objective, linflow.torch.network(model))` is its certificate.

    Raises:
        ValueError: the request is impossible, in general or in this dtype; the message gives the reason.

    Source: this library, docs/design.md.

    Example:
        >>> import torch, linflow as lf, linflow.torch as lt
        >>> f = lf.MatrixFactorization(torch.ones(3, 2))
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.Linear(4, 2, bias=False))
        >>> model = lt.designed_(model, f, rate=5.0, generator=torch.Generator().manual_seed(0))
        >>> 5.0 <= lf.certify(f, lt.network(model)).rate < 5.001
        True
    """
    layers = Layers.of(model, scale=scale, convention=convention)
    layers.check_objective(objective)
    seed = _seed(generator)
    eps = max(torch.finfo(p.dtype).eps for p in layers.tensors)
    kept = [p.detach().clone() for p in layers.tensors]
    made: Certificate | None = None
    for k in range(_RETRIES):
        try:
            found = design(
                objective,
                layers.widths,
                rate=rate if rate is None or k == 0 else rate * (1 + eps * 4**k),
                algorithm=algorithm,
                steps=steps if steps is None or k == 0 else steps - k,
                until=until,
                product=product,
                scale=layers.scale,
                rng=seed,
            )
        except ValueError:
            if k == 0:
                raise
            break
        layers.write(found.start.weights)
        made = _certified(found, layers)
        if rate is not None and made.rate >= rate:
            return model
        if rate is None and made.steps_to(until) <= (math.inf if steps is None else steps):
            return model
        if steps is None and rate is None:
            break
    with torch.no_grad():
        for p, old in zip(layers.tensors, kept, strict=True):
            p.copy_(old)
    assert made is not None  # otherwise the first design has raised
    what = f"the rate {made.rate:.6g}" if rate is not None else f"{made.steps_to(until):g} steps"
    raise ValueError(
        f"rounded to {layers.parameters[0].dtype} the start certifies {what} only; use a wider dtype, or ask for "
        "less."
    )


def _certified(found: Design, layers: Layers) -> Certificate:
    """Return the certificate of the design, for the weights as the layers store them."""
    was = found.certificate
    if was.algorithm == "flow":
        return certify(was.objective, layers.network_for(was.objective))
    return certify(was.objective, layers.network_for(was.objective), algorithm="descent", step_size=was.step_size)


def identity_(
    model: Any,
    size: float = 1.0,
    std: float = 0.0,
    *,
    scale: float = 1.0,
    convention: str = "product",
    generator: torch.Generator | None = None,
) -> Any:
    """Fill every layer with `size` times the identity plus entries N(0, std²): the start of residual layers.

    A residual layer `x + xA_l` is the layer `I + A_l`, so a chain of plain layers that starts here is trained as a
    chain of residual ones. A bias of the first layer is set to 0.

    Args:
        model: an `nn.Sequential` of `nn.Linear`, or a list of layers or matrices; see `linflow.torch.network`.
        size: the factor of the identity.
        std: standard deviation of what is added to the entries of the weights.
        scale: output scale of the model.
        convention: how the matrices of a list are stored, "product" or "torch".
        generator: source of random numbers; PyTorch's default generator if omitted.

    Returns:
        The model.

    Raises:
        ValueError, TypeError: as in `linflow.init.identity`, or the model is not a chain of linear layers.

    Source: `linflow.init.identity`.

    Example:
        >>> import torch, linflow.torch as lt
        >>> model = torch.nn.Sequential(*(torch.nn.Linear(2, 2, bias=False) for _ in range(3)))
        >>> lt.identity_(model)[1].weight.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    layers = Layers.of(model, scale=scale, convention=convention, outside=True)
    inputs = layers.widths[0] - (layers.bias is not None)
    net = init.identity((inputs, *layers.widths[1:]), size, std, rng=_seed(generator))
    first, *rest = net.weights
    if layers.bias is not None:
        first = np.concatenate([first, np.zeros_like(first[:1])])
    layers.write([first, *rest])
    return model


SCHEMES: dict[str, Callable[..., Any]] = {
    "balanced": balanced_,
    "imbalanced": imbalanced_,
    "designed": designed_,
    "identity": identity_,
}


def init_(model: Any, scheme: str = "balanced", *args: Any, **options: Any) -> Any:
    """Fill the layers by a named scheme: "balanced", "imbalanced", "designed" or "identity".

    Args:
        model: an `nn.Sequential` of `nn.Linear`, or a list of layers or matrices; see `linflow.torch.network`.
        scheme: selects `balanced_`, `imbalanced_`, `designed_` or `identity_`.
        *args: arguments of the scheme.
        **options: keyword arguments of the scheme.

    Returns:
        The model.

    Raises:
        ValueError: the scheme is unknown. Errors of the scheme itself are raised, too.

    Example:
        >>> import torch, linflow.torch as lt
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5, bias=False), torch.nn.Linear(5, 2, bias=False))
        >>> lt.init_(model, "imbalanced", 2.0, generator=torch.Generator().manual_seed(0)) is model
        True
    """
    return SCHEMES[checks.choice(scheme, "scheme", tuple(SCHEMES))](model, *args, **options)


def _seed(generator: torch.Generator | None) -> int:
    """Draw the seed of NumPy's generator; a CPU generator gives the same weights on every device."""
    where = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, dtype=torch.int64, device=where))
