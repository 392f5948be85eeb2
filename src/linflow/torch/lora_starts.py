"""Comparison of PEFT's initialisations of LoRA."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from linflow._support.arrays import to_numpy
from linflow._support.checks import choice, count, matrix, positive
from linflow._support.text_table import text_table
from linflow._support.words import shown
from linflow.torch.lora import COLUMNS, Adapter, Alignment, adapters, alignment

METHODS = ("default", "gaussian", "orthogonal", "olora", "pissa", "eva")
"""Values of `init_lora_weights` of PEFT ("default" for True); "eva" needs inputs."""
PASSES = 200
"""Passes over the inputs after which EVA is given up. A few are usual; PEFT itself has no limit."""
_FAILURES = (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError)
"""Errors that PEFT raises if a layer has no such start."""


@dataclass(frozen=True)
class LoraComparison:
    """One adapter for each initialisation, with its alignment phase if a gradient was given; `print` shows a table.

    Attributes:
        methods: the methods that have an adapter.
        adapters: one adapter for each method.
        alignments: one alignment phase for each method; None without a gradient.
        skipped: the methods without an adapter, with the reason.
    """

    methods: tuple[str, ...]
    adapters: tuple[Adapter, ...]
    alignments: tuple[Alignment | None, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, method: str) -> Adapter:
        if method in dict(self.skipped):
            raise ValueError(f"there is no adapter for {method!r}: {dict(self.skipped)[method]}.")
        return self.adapters[self.methods.index(choice(method, "method", self.methods))]

    def to_dict(self) -> dict[str, Any]:
        """Return the adapter of each method as lists and floats, with the times of its modes (None for inf).

        A skipped method has only the entry `skipped`, with the reason.
        """
        content: dict[str, Any] = {method: {"skipped": reason} for method, reason in self.skipped}
        for method, adapter, phase in zip(self.methods, self.adapters, self.alignments, strict=True):
            content[method] = adapter.to_dict()
            if phase is not None:
                times = [float(t) for t in phase.times]
                content[method]["alignment_times"] = [t if math.isfinite(t) else None for t in times]
        return content

    @shown
    def __str__(self) -> str:
        with_phase = self.alignments[0] is not None
        rows: list[tuple[str, ...]] = [("start", *COLUMNS[2:], *(("start of mode 1", "time") if with_phase else ()))]
        for method, adapter, phase in zip(self.methods, self.adapters, self.alignments, strict=True):
            last = () if phase is None else (f"{float(phase.start[0]):.2g}", f"{float(phase.times[0]):.3g}")
            rows.append((method, *adapter.row()[2:], *last))
        skipped = (f"skipped {method}: {reason}" for method, reason in self.skipped)
        return "\n".join([*text_table(rows, "<"), *skipped])


def compare_initialisations(
    weight: Any,
    rank: int = 16,
    alpha: float = 16.0,
    *,
    methods: Sequence[str] | None = None,
    gradient: Any = None,
    inputs: Any = None,
    smoothness: float = 1.0,
    seed: int = 0,
) -> LoraComparison:
    """Let PEFT initialise an adapter of one layer by each of its methods, and compare the results in one table.

    Args:
        weight: weight of the layer, (outputs, inputs), a tensor or any array. Methods that decompose it need the
            trained weight. PEFT initialises in float32 or a shorter format: float64 is rounded.
        rank: the rank r.
        alpha: `lora_alpha`, above 0; the scaling is alpha/r.
        methods: some of `METHODS`; if None, all that the given arguments allow.
        gradient: gradient of the loss at the weight, of the same shape, for the alignment phase.
        inputs: inputs of the layer, (examples, inputs), possibly with more dimensions before the last. Only "eva"
            needs them, and at least as many examples as the rank.
        smoothness: the smoothness K, as in `alignment`.
        seed: seed of the random starts.

    Returns:
        A `LoraComparison`. Its `skipped` lists the methods that cannot start this layer, with the reason.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: a method is unknown, "eva" has no inputs, shapes do not fit, numbers are not finite, or no method
            can start this layer.
        TypeError: numbers are not real.
    """
    if methods is None:
        methods = METHODS if inputs is not None else METHODS[:-1]
    for method in methods:
        choice(method, "method", METHODS)
    if "eva" in methods and inputs is None:
        raise ValueError('"eva" decomposes the inputs of the layer: give inputs=, or leave it out of methods.')
    rank, alpha, K = count(rank, "rank"), positive(alpha, "alpha"), positive(smoothness, "smoothness")
    weight = _tensor(weight, "weight", (None, None))
    if weight.dtype.itemsize not in {2, 4}:
        weight = weight.float()
    m, n = weight.shape
    gradient = None if gradient is None else _tensor(gradient, "gradient", (m, n)).to(weight.device)
    if inputs is not None:
        inputs = inputs.reshape((-1, inputs.shape[-1])) if getattr(inputs, "ndim", 2) > 2 else inputs
        inputs = _tensor(inputs, "inputs", (None, n)).to(weight)
    found: dict[str, tuple[Adapter, Alignment | None]] = {}
    skipped = []
    for method in methods:
        try:
            adapter = _adapter(weight, rank, alpha, method, inputs, seed)
            A, B = (W.T for W in adapter.chain.weights)
            phase = None if gradient is None else alignment(A, B, gradient, adapter.chain.scale, K)
            found[method] = adapter, phase
        except _FAILURES as error:
            skipped.append((method, " ".join(str(error).split()) or type(error).__name__))
    if not found:
        reasons = "; ".join(f"{method}: {reason}" for method, reason in skipped)
        raise ValueError(f"no method can start an adapter of rank {rank} of a layer of {m}×{n} ({reasons}).")
    starts, phases = zip(*found.values(), strict=True)
    return LoraComparison(tuple(found), starts, phases, tuple(skipped))


def _tensor(x: Any, name: str, shape: tuple[int | None, int | None]) -> Any:
    """Return a matrix of finite real numbers as a tensor; a tensor keeps its dtype."""
    import torch  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    checked = matrix(x, name, shape)[0]
    return x.detach() if isinstance(x, torch.Tensor) else torch.as_tensor(to_numpy(checked))


def _adapter(weight: Any, rank: int, alpha: float, method: str, inputs: Any, seed: int) -> Adapter:
    """Return the adapter that PEFT initialises.

    Raises:
        ValueError: PEFT initialises none.
    """
    import torch  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    if method == "eva" and inputs.shape[0] < rank:
        raise ValueError(f"inputs has {inputs.shape[0]} rows, and EVA needs at least as many as the rank, {rank}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        report = adapters(_initialised(weight, rank, alpha, method, inputs))
    if not len(report):
        raise ValueError(report.skipped[0][1])
    return report[0]


def _initialised(weight: Any, rank: int, alpha: float, method: str, inputs: Any) -> Any:
    """Return a model of one layer, "layer", with an adapter that PEFT initialised."""
    from torch import nn  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    try:
        import peft  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("PEFT initialises the adapters, and is not installed: pip install peft") from error
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.detach().clone())
    model: Any = nn.Sequential()
    model.add_module("layer", layer)
    settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": ["layer"]}
    settings["init_lora_weights"] = True if method == "default" else method
    if method == "eva":
        settings["eva_config"] = peft.EvaConfig(rho=1.0)
    model = peft.get_peft_model(model, peft.LoraConfig(**settings), low_cpu_mem_usage=method == "eva")
    if method == "eva":
        passes = itertools.count()

        def forward(net: Any, x: Any) -> Any:
            if next(passes) > PASSES:
                raise RuntimeError(
                    f"EVA did not converge in {PASSES} passes: the inputs may have fewer than {rank} directions"
                )
            return net(x)

        peft.initialize_lora_eva_weights(
            model,
            [inputs] * 2,
            forward_fn=forward,
            prepare_model_inputs_fn=None,
            prepare_layer_inputs_fn=None,
            show_progress_bar=False,
        )
    return model
