"""What a run does besides following the gradient: rates of the layers, weight decay, momentum, mini-batches.

This is the one place that knows these options. A run keeps its `Optimizer`, and so does a certificate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array
from linflow._support.words import plural
from linflow.model.network import Network


@dataclass(frozen=True)
class Batches:
    """The samples of each step of a descent.

    Attributes:
        size: samples of a batch, drawn without repetition in each epoch; None if the batches were given.
        seed: seed of the draws.
        given: the indices of each batch, used in order and again from the first.
        count: number of batches that were given.
    """

    size: int | None = None
    seed: int | None = None
    given: tuple[tuple[int, ...], ...] = ()
    count: int = 0

    @classmethod
    def of(cls, batches: Sequence[Any] | None, batch_size: int | None, seed: int | None) -> Batches | None:
        """Return the batches of these options of `gradient_descent`; None for all samples at each step.

        Raises:
            ValueError, TypeError: both or a seed alone are given, or the batches are not lists of indices.
        """
        if batches is not None and batch_size is not None:
            raise ValueError("both batches and batch_size are given; leave one out.")
        if batches is None and batch_size is None:
            if seed is not None:
                raise ValueError(f"seed is {seed!r}, but no batches are drawn; give batch_size=, or leave it out.")
            return None
        if batch_size is not None:
            size = checks.count(batch_size, "batch_size")
            return cls(size, checks.count(0 if seed is None else seed, "seed", least=0))
        if seed is not None:
            raise ValueError(f"seed is {seed!r}, but the batches are given; leave it out.")
        assert batches is not None
        given = tuple(_indices(rows, k) for k, rows in enumerate(batches))
        if not given:
            raise ValueError("batches is empty; at least one batch, a list of sample indices, is needed.")
        return cls(given=given, count=len(given))

    def draws(self, samples: int) -> Iterator[np.ndarray]:
        """Yield the sample indices of step 0, 1, …, for ever.

        Raises:
            ValueError: an index or the batch size is beyond the samples.
        """
        if self.size is None:
            largest = max(max(rows) for rows in self.given) if self.given else -1
            if not self.given or largest >= samples:
                what = f"batches holds the index {largest}" if self.given else "the batches were not kept in the file"
                raise ValueError(f"{what}, and there are {plural(samples, 'sample')}; indices count from 0.")
            while True:
                yield from (np.array(rows) for rows in self.given)
        if self.size > samples:
            raise ValueError(f"batch_size is {self.size}, but there are only {plural(samples, 'sample')}.")
        rng = np.random.default_rng(self.seed)
        while True:
            order = rng.permutation(samples)
            yield from (order[i : i + self.size] for i in range(0, samples, self.size))

    def __str__(self) -> str:
        if self.size is None:
            return plural(self.count, "given mini-batch")
        return f"mini-batches of {self.size} (seed {self.seed})"


@dataclass(frozen=True)
class Optimizer:
    """What a run does besides following the gradient. The default is the plain flow or descent.

    For a descent it is the update of `torch.optim.SGD`: `g_l = ∂L/∂W_l + λW_l`, `b_l ← μb_l + g_l` (at the first
    step `b_l = g_l`), `W_l ← W_l − ηρ_l b_l`, or in Nesterov's form `W_l ← W_l − ηρ_l (g_l + μb_l)`. For a flow it is
    `Ẇ_l = −ρ_l (∂L/∂W_l + λW_l)`, or with a friction a `Ẅ_l + aẆ_l = −ρ_l (∂L/∂W_l + λW_l)` from rest.

    Attributes:
        layer_rates: `ρ_1, …, ρ_L`; empty if all are 1.
        weight_decay: `λ ≥ 0`.
        momentum: `μ` in [0, 1) of a descent.
        nesterov: whether the descent takes Nesterov's form of it.
        friction: `a > 0` of a heavy-ball flow; None for the flow of first order.
        batches: the mini-batches of a descent; None if every step uses all samples.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f, net = lf.MatrixFactorization(np.eye(2)), lf.init.gaussian((2, 4, 2), rng=0)
        >>> run = lf.gradient_descent(f, net, step_size=0.1, steps=20, momentum=0.9, layer_rates=(1, 4))
        >>> print(run.optimizer)
        layer rates (1, 4), momentum 0.9
    """

    layer_rates: tuple[float, ...] = ()
    weight_decay: float = 0.0
    momentum: float = 0.0
    nesterov: bool = False
    friction: float | None = None
    batches: Batches | None = None

    @classmethod
    def of(
        cls,
        depth: int,
        *,
        layer_rates: Sequence[float] | None = None,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        nesterov: bool = False,
        friction: float | None = None,
        batches: Batches | None = None,
    ) -> Optimizer:
        """Check the options of a run on a network of this depth.

        Raises:
            ValueError, TypeError: a number out of its range, or not one rate for each layer.
        """
        rates: tuple[float, ...] = ()
        if layer_rates is not None:
            given = checks.numbers(layer_rates, "layer_rates")
            if given.shape != (depth,):
                raise ValueError(
                    f"layer_rates is {layer_rates!r}; one positive number for each of the "
                    f"{plural(depth, 'layer')} is needed, W_1 first."
                )
            rates = tuple(checks.positive(float(x), f"layer_rates[{i}]") for i, x in enumerate(given))
        decay = checks.positive(weight_decay, "weight_decay", allow_zero=True)
        mu = checks.positive(momentum, "momentum", allow_zero=True)
        if mu >= 1:
            raise ValueError(f"momentum is {momentum!r}; a number in [0, 1) is needed, such as 0.9.")
        if nesterov and mu == 0:
            raise ValueError("nesterov is True, but the momentum is 0; give momentum=0.9, or leave nesterov out.")
        a = None if friction is None else checks.positive(friction, "friction")
        return cls(() if all(x == 1 for x in rates) else rates, decay, mu, bool(nesterov), a, batches)

    @property
    def plain(self) -> bool:
        """Whether it is the plain flow or descent."""
        return self == PLAIN

    @property
    def only_rates(self) -> bool:
        """Whether it differs from the plain flow or descent in the layer rates alone, which are plain in `V_l`."""
        return self == Optimizer(self.layer_rates)

    def coordinates(self, network: Network) -> Network:
        """Return the layers `V_l = W_l/√ρ_l` with the output scale `c Π√ρ_l`.

        They have the same product. A run of the `W_l` with rates is a run of the `V_l` without: `√ρ_l ∂L/∂W_l` is the
        gradient in `V_l`. A weight decay λ of the `W_l` is one of `ρ_lλ` of the `V_l`.

        Source: docs/optimisers.md.
        """
        if not self.layer_rates:
            return network
        roots = [math.sqrt(rate) for rate in self.layer_rates]
        weights = [W / root for W, root in zip(network.weights, roots, strict=True)]
        other = Network(weights, network.scale * math.prod(roots))
        other.notes = network.notes
        return other

    def weights_of(self, network: Network, scale: float) -> Network:
        """Return the layers `W_l = √ρ_l V_l` of a network in these coordinates, with the output scale c."""
        if not self.layer_rates:
            return network
        return Network([V * math.sqrt(r) for V, r in zip(network.weights, self.layer_rates, strict=True)], scale)

    def decays(self, depth: int) -> tuple[float, ...]:
        """Return the weight decay `ρ_lλ` of each `V_l`."""
        return tuple(self.weight_decay * rate for rate in self.layer_rates or (1.0,) * depth)

    def options(self) -> dict[str, Any]:
        """Return the options that are not the default, as arguments of a run. Mini-batches are left out."""
        given = {
            "layer_rates": self.layer_rates or None,
            "weight_decay": self.weight_decay,
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "friction": self.friction,
        }
        return {name: value for name, value in given.items() if value}

    def to_dict(self) -> dict[str, Any]:
        """Return the options that are not the default, as plain data. Of given batches only their number is kept."""
        told = {name: list(x) if isinstance(x, tuple) else x for name, x in self.options().items()}
        if self.batches is not None:
            drawn = self.batches.size is not None
            told |= {"batch_size": self.batches.size, "seed": self.batches.seed} if drawn else {}
            told |= {} if drawn else {"batches": self.batches.count}
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any], depth: int) -> Optimizer:
        """Return the optimizer that `to_dict` described.

        Raises:
            ValueError, TypeError: an unknown key, or a value out of its range.
        """
        options = dict(told)
        size, seed, count = (options.pop(name, None) for name in ("batch_size", "seed", "batches"))
        batches = Batches.of(None, size, seed)
        if count is not None:
            batches = Batches(count=checks.count(count, "batches"))
        return cls.of(depth, batches=batches, **options)

    def __str__(self) -> str:
        """Return the options in words; "" for the plain flow or descent."""
        parts = []
        if self.layer_rates:
            parts.append(f"layer rates ({', '.join(f'{x:g}' for x in self.layer_rates)})")
        if self.friction is not None:
            parts.append(f"friction {self.friction:g} (heavy ball)")
        if self.momentum:
            parts.append(f"{'Nesterov ' if self.nesterov else ''}momentum {self.momentum:g}")
        if self.weight_decay:
            parts.append(f"weight decay {self.weight_decay:g}")
        return ", ".join([*parts, *([] if self.batches is None else [str(self.batches)])])


PLAIN = Optimizer()
"""The plain flow or descent."""


def difference(one: Optimizer, other: Optimizer, what: str, made: str) -> str:
    """Return a sentence if two optimizers differ, such as a certificate's and a run's; "" if they are the same.

    Args:
        one: the optimizer of `what`.
        other: the optimizer of `made`.
        what: "the certificate", say.
        made: "the run", say.
    """
    if one == other:
        return ""
    first, second = (str(x) or "the plain gradient" for x in (one, other))
    return f"{what} is for {first} and {made} has {second}: a statement on one says nothing about the other"


def _indices(rows: Any, k: int) -> tuple[int, ...]:
    found = np.asarray(rows)
    if found.ndim != 1 or found.size == 0 or found.dtype.kind not in "iu" or int(found.min()) < 0:
        raise ValueError(f"batches[{k}] is {rows!r}; a list of sample indices, from 0 on, is needed.")
    return tuple(int(i) for i in found)


def layer_vector(values: Sequence[float], weights: Sequence[Array], xp: Any) -> Array:
    """Return a flat vector with one value for each weight, that of its layer."""
    return xp.concat([xp.reshape(0.0 * W, (-1,)) + value for value, W in zip(values, weights, strict=True)])
