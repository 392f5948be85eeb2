"""LoRA adapters: their imbalance, what training conserves, the alignment phase, and step sizes for A and B.

An adapter changes frozen weights by `s B A`, with A of shape (r, inputs) and B of shape (outputs, r). As two layers
from left to right this is `s Aᵀ Bᵀ`, so `W_1 = Aᵀ`, `W_2 = Bᵀ`, and `D = A Aᵀ − Bᵀ B` is r×r.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from linflow._support import checks
from linflow._support.arrays import Array, namespace, norm, to_numpy
from linflow._support.number_formats import COMPUTED, FLOAT64, FORMATS, dtype_name
from linflow._support.text_table import text_table
from linflow._support.words import plural, shown
from linflow.model.network import Network
from linflow.torch._chain import remarks
from linflow.torch._tangent import tangent_spectrum
from linflow.torch.chain_audit import balancedness
from linflow.torch.chains import Chain, find_chains

COLUMNS = ("adapter", "shape", "s", "λ(D)", "balanced", "floor A", "floor B", "σ₁(sBA)", "η_B/η_A", "λ(T) tangent")


@dataclass(frozen=True, repr=False)
class Adapter:
    """One LoRA adapter.

    Attributes:
        chain: the chain `s Aᵀ Bᵀ`; `chain.scale` is s.
        imbalance: eigenvalues of `D = A Aᵀ − Bᵀ B`, descending. Gradient flow conserves D; with step sizes η_A
            and η_B it conserves `A Aᵀ/η_A − Bᵀ B/η_B`. Weight decay λ shrinks it as `e^{−2λt}`. Adam does not
            conserve it.
        balancedness: `1 − ‖D‖_F / (‖A Aᵀ‖_F + ‖Bᵀ B‖_F)`.
        floors: `[λ_r(D)]_+` and `[λ_r(−D)]_+`, lower bounds on `σ_r(A)²` and `σ_r(B)²` at all times of the flow.
        sizes: `σ_1(A)` and `σ_1(B)`.
        singular_values: the r singular values of the update `s B A`.
        step_ratio: `η_B/η_A = ‖B‖²/‖A‖²`, the ratio at which the two terms of T, `η_A s² B Bᵀ E` and
            `η_B s² E AᵀA`, have the same greatest eigenvalue; inf if A is 0, nan if both are 0.
        mean_step_ratio: the same for the means of their eigenvalues, `(inputs·‖B‖_F²) / (outputs·‖A‖_F²)`.
        least_on_tangent, greatest: the least eigenvalue of T on its range, and the greatest eigenvalue of T.
    """

    chain: Chain
    imbalance: Array
    balancedness: float
    floors: tuple[float, float]
    sizes: tuple[float, float]
    singular_values: Array
    step_ratio: float
    mean_step_ratio: float
    least_on_tangent: float
    greatest: float

    @property
    def name(self) -> str:
        """Name of the adapted layer."""
        return self.chain.name

    @property
    def rank(self) -> int:
        """The inner width r."""
        return self.chain.widths[1]

    def step_ratio_at(self, sigma: float) -> float:
        """Return the step ratio `b²/a²` for a mode in which the flow has brought the update to `sigma`.

        The offset `a² − b² = d` of the mode is conserved. With d the mean eigenvalue of D and `s a b = σ`, the ratio
        is `(r − d) / (r + d)` with `r = sqrt(d² + 4σ²/s²)`. At a start with B = 0 it is 0: A does not matter. With
        s = 0 no `sigma` is reached, and a ValueError is raised.
        """
        sigma = checks.positive(sigma, "sigma")
        if self.chain.scale == 0:
            raise ValueError(f"the scaling of {self.name} is 0, so its update stays 0 and does not reach {sigma:g}.")
        d = float(namespace(self.imbalance).mean(self.imbalance))
        r = math.hypot(d, 2 * sigma / self.chain.scale)
        return (r - d) / (r + d)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as lists and floats; ratios that are not finite become None."""
        return {
            "name": self.name,
            "widths": list(self.chain.widths),
            "scale": self.chain.scale,
            "imbalance": to_numpy(self.imbalance).tolist(),
            "balancedness": self.balancedness,
            "floors": list(self.floors),
            "sizes": list(self.sizes),
            "singular_values": to_numpy(self.singular_values).tolist(),
            "step_ratio": self.step_ratio if math.isfinite(self.step_ratio) else None,
            "mean_step_ratio": self.mean_step_ratio if math.isfinite(self.mean_step_ratio) else None,
            "least_on_tangent": self.least_on_tangent,
            "greatest_eigenvalue": self.greatest,
            "notes": list(self.chain.notes),
        }

    def row(self) -> tuple[str, ...]:
        """Return the table row of the adapter, in the order of `COLUMNS`."""
        numbers = (*self.floors, float(self.singular_values[0]), self.step_ratio, self.least_on_tangent)
        return (
            self.chain.title,
            "×".join(map(str, self.chain.widths)),
            f"{self.chain.scale:.3g}",
            f"{float(self.imbalance[-1]):.3g} … {float(self.imbalance[0]):.3g}",
            f"{self.balancedness:.3f}",
            *(f"{x:.3g}" for x in numbers),
        )

    def __repr__(self) -> str:
        return f"Adapter({self.name!r}, {'×'.join(map(str, self.chain.widths))}, scale={self.chain.scale:.4g})"


@dataclass(frozen=True, repr=False)
class LoraReport:
    """The adapters of a model, in the order of their names; `print` shows a table."""

    adapters: tuple[Adapter, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.adapters)

    def __getitem__(self, index: int) -> Adapter:
        return self.adapters[index]

    def __iter__(self) -> Iterator[Adapter]:
        return iter(self.adapters)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as lists and floats, ready for JSON."""
        skipped = [{"name": name, "reason": reason} for name, reason in self.skipped]
        return {"adapters": [a.to_dict() for a in self.adapters], "skipped": skipped}

    def __repr__(self) -> str:
        return f"LoraReport({plural(len(self.adapters), 'adapter')}, {len(self.skipped)} skipped)"

    @shown
    def __str__(self) -> str:
        rows = [COLUMNS, *(a.row() for a in self.adapters)]
        lines = text_table(rows, "<") if self.adapters else ["no adapter was found"]
        skipped = (f"skipped {name}: {reason}" for name, reason in self.skipped)
        return "\n".join([*lines, *remarks(a.chain for a in self.adapters), *skipped])


def adapters(model: Any, *, scaling: float | None = None, config: Mapping[str, Any] | None = None) -> LoraReport:
    """Report on every LoRA adapter of a model or a state dict, found by PEFT's names.

    Each adapter costs r×r matrices and a QR factorisation of A and of B; nothing of the size of the layer is formed.

    Args:
        model: an `nn.Module`, or a mapping of names to tensors or arrays.
        scaling: s of every adapter, as in `find_chains`.
        config: the content of `adapter_config.json`, as in `find_chains`.

    Returns:
        A `LoraReport`. Its arrays have the type and device of the weights, in float64.

    Raises:
        TypeError: the model is neither a model nor a state dict, or a scaling or a value of the configuration has the
            wrong type.
        ValueError: a scaling, or a value of the configuration, is not a finite number.

    An adapter that is not a plain `s B A` with both trained, such as DoRA, is in `skipped`, with the reason.

    Source: docs/torch_audit.md.

    Example:
        >>> import numpy as np
        >>> from linflow.torch import adapters
        >>> start = {"q.lora_A.weight": np.eye(2, 9), "q.lora_B.weight": np.zeros((5, 2))}
        >>> found = adapters(start, scaling=2.0)[0]
        >>> found, found.imbalance, found.floors, found.least_on_tangent
        (Adapter('q', 9×2×5, scale=2), array([1., 1.]), (1.0, 0.0), 4.0)
    """
    found = find_chains(model, scaling=scaling, config=config, kinds=("lora",))
    report, skipped = [], list(found.skipped)
    for chain in found.chains:
        if len(set(chain.trained)) > 1:
            still = chain.sources[chain.trained.index(False)]
            why = f"{still} is frozen: the update is linear in the other, and D is not conserved; audit has its T"
            skipped.append((chain.name, why))
            continue
        try:
            report.append(_adapter(chain))
        except ValueError as error:  # weights that are not finite, or too large to square
            skipped.append((chain.name, str(error)))
    return LoraReport(tuple(report), tuple(skipped))


def _adapter(chain: Chain) -> Adapter:
    network = chain.network() if chain.scale else Network(chain.weights)
    xp = network.xp
    W_1, W_2 = network.weights
    D = W_1.T @ W_1 - W_2 @ W_2.T  # r×r
    imbalance = xp.flip(xp.linalg.eigvalsh(D))
    spectrum = tangent_spectrum(network, stored=chain.stored)
    if not chain.scale:
        spectrum = spectrum.scaled(0)
    n, _, m = network.widths
    a, b = (float(xp.linalg.svdvals(W)[0]) for W in (W_1.T @ W_1, W_2 @ W_2.T))
    means = n * norm(W_2) ** 2, m * norm(W_1) ** 2
    return Adapter(
        chain,
        imbalance,
        balancedness(imbalance, W_1, W_2),
        (max(float(imbalance[-1]), 0.0), max(-float(imbalance[0]), 0.0)),
        (math.sqrt(a), math.sqrt(b)),
        spectrum.singular_values,
        _ratio(b, a),
        _ratio(*means),
        spectrum.least_on_tangent,  # type: ignore[arg-type]  # two layers: always computed
        spectrum.greatest,  # type: ignore[arg-type]
    )


def _ratio(x: float, y: float) -> float:
    return x / y if y else (math.inf if x else math.nan)


@dataclass(frozen=True, repr=False)
class Alignment:
    """The first phase of the flow of an adapter, in which it turns towards the singular vectors of the gradient.

    Attributes:
        singular_values: `σ_k` of `−∇f` at the frozen weights, descending: the strengths of the modes.
        growth: the exponents `g_k` at which A and B grow in mode k.
        start: the initial size `s κ‖c‖²` of the growing part of each mode of the update, divided by the size `σ_k/K`
            at which its growth ends. The phase exists if this is well below 1.
        times: `log(1/start) / (2 g_k)`, when the mode is half learned; 0 if start is above 1, inf if it is 0.
    """

    singular_values: Array
    growth: Array
    start: Array
    times: Array

    def __repr__(self) -> str:
        first = f", first after t = {float(self.times[0]):.4g}" if self.times.shape[0] else ""
        return f"Alignment({plural(self.times.shape[0], 'mode')}{first})"


def alignment(A: Array, B: Array, gradient: Array, scaling: float = 1.0, smoothness: float = 1.0) -> Alignment:
    """Predict when the modes of an adapter are learned by gradient flow from a small start.

    Near the start the gradient `∇f` of the loss at the frozen weights changes little. Mode k of `−∇f = U Σ Vᵀ` has
    the coordinates `a = A v_k`, `b = Bᵀ u_k` in `R^r`, which follow `ȧ = s σ_k b`, `ḃ = s σ_k a − δ b`. The damping
    `δ = s² K d`, with d the mean eigenvalue of `D = A Aᵀ − Bᵀ B`, comes from the rest of A; for d < 0 it acts on a.
    So a and b grow at the rate `g = sqrt(s²σ² + δ²/4) − |δ|/2` along `b = κ a`, `κ = g/(sσ)`, starting from
    `c = (a + κ b)/(1 + κ²)`. The mode of the update, `s κ‖c‖² e^{2gt}`, passes `σ_k/K` at the predicted time. g is
    exact if `D = d I` and f is `K/2 ‖Y − W‖²`. The times hold to leading order in `start`, for modes that are learned
    one by one.

    Args:
        A: shape (r, inputs).
        B: shape (outputs, r).
        gradient: `∇f` at the frozen weights of the layer, shape (outputs, inputs).
        scaling: s, not 0. A negative s is the same as the positive one with -A.
        smoothness: smoothness K > 0 of f in the weights of the layer.

    Returns:
        An `Alignment` of the modes up to the rank r, without modes that can be rounding of the gradient's dtype.

    Raises:
        ValueError: the shapes do not fit, or scaling is 0.

    Source: this library, docs/torch_audit.md; for the phase, Xu et al. (AISTATS 2025), `lf.cite("xu2025lora")`.

    Example:
        >>> import numpy as np
        >>> from linflow.torch import alignment
        >>> alignment(np.array([[1e-3, 0.0]]), np.zeros((2, 1)), -np.diag([2.0, 1.0]))
        Alignment(1 mode, first after t = 3.974)
    """
    form = FORMATS.get(dtype_name(getattr(gradient, "dtype", "float64")), FLOAT64)
    A, B, G = (checks.matrix(x, name)[0] for x, name in ((A, "A"), (B, "B"), (gradient, "gradient")))
    r = A.shape[0]
    if B.shape[1] != r or tuple(G.shape) != (B.shape[0], A.shape[1]):
        raise ValueError(
            f"A is {A.shape[0]}×{A.shape[1]}, B is {B.shape[0]}×{B.shape[1]} and the gradient is "
            f"{G.shape[0]}×{G.shape[1]}; r×inputs, outputs×r and outputs×inputs are needed."
        )
    s, K = checks.number(scaling, "scaling"), checks.positive(smoothness, "smoothness")
    if s == 0:
        raise ValueError("scaling is 0, so A and B have no gradient and no mode grows; another number is needed.")
    A, s = (A, s) if s > 0 else (-A, -s)
    xp = namespace(A, B, G)
    U, values, Vh = xp.linalg.svd(-G, full_matrices=False)
    top = float(values[0])
    rounding = max(1e-12 * top, min(form.moved(G), top / 2), COMPUTED * top if form.relative else 0.0)
    keep = min(r, int(xp.sum(xp.astype(values > rounding, xp.int64))))
    values = values[:keep]
    a, b = A @ Vh[:keep, :].T, B.T @ U[:, :keep]
    d = (norm(A) ** 2 - norm(B) ** 2) / r
    growth, start = _growing(a, b, d, values, s, K)
    # log(1) = 0 if the mode is already learned; a mode that the start does not touch is never learned.
    wait = -xp.log(xp.where((start > 0) & (start < 1), start, xp.ones_like(start))) / (2 * growth)
    times = xp.where(start > 0, wait, math.inf + 0 * start)
    return Alignment(values, growth, start, times)


def _growing(a: Array, b: Array, d: float, values: Array, s: float, K: float) -> tuple[Array, Array]:
    """Return the growth and the start of modes with coordinates a and b, of shape (r, modes)."""
    if d < 0:
        a, b, d = b, a, -d
    xp = namespace(values)
    half = s**2 * K * d / 2
    growth = s**2 * values**2 / (xp.sqrt(s**2 * values**2 + half**2) + half)  # without cancellation
    kappa = growth / (s * values)
    c = (a + kappa * b) / (1 + kappa**2)
    return growth, s * kappa * xp.sum(c**2, axis=0) * K / values
