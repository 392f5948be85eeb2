"""How PEFT's initialisations of LoRA compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from linflow._checks import choice
from linflow.torch.lora import COLUMNS, Adapter, Alignment, adapters, alignment, table

METHODS = ("default", "gaussian", "orthogonal", "olora", "pissa", "eva")
"""Values of `init_lora_weights` of PEFT ("default" for True); "eva" needs inputs."""


@dataclass(frozen=True)
class LoraComparison:
    """One adapter for each initialisation, its alignment phase where a gradient was given; `print` shows a table."""

    methods: tuple[str, ...]
    adapters: tuple[Adapter, ...]
    alignments: tuple[Alignment | None, ...]

    def __getitem__(self, method: str) -> Adapter:
        return self.adapters[self.methods.index(choice(method, "method", self.methods))]

    def to_dict(self) -> dict[str, Any]:
        """Return the adapters by method in lists and floats, with the times of their modes (None for inf)."""
        content = {}
        for method, adapter, phase in zip(self.methods, self.adapters, self.alignments, strict=True):
            content[method] = adapter.to_dict()
            if phase is not None:
                times = [float(t) for t in phase.times]
                content[method]["alignment_times"] = [t if math.isfinite(t) else None for t in times]
        return content

    def __str__(self) -> str:
        with_phase = self.alignments[0] is not None
        rows: list[tuple[str, ...]] = [("start", *COLUMNS[2:], *(("start of mode 1", "time") if with_phase else ()))]
        for method, adapter, phase in zip(self.methods, self.adapters, self.alignments, strict=True):
            last = () if phase is None else (f"{float(phase.start[0]):.2g}", f"{float(phase.times[0]):.3g}")
            rows.append((method, *adapter.row()[2:], *last))
        return table(rows)


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
    """Let PEFT initialise an adapter of one layer in each of its ways, and report on them in one table.

    Args:
        weight: tensor (outputs, inputs) of the layer; those ways that decompose it need the trained one.
        rank: r.
        alpha: `lora_alpha`; the scaling is alpha/r.
        methods: out of `METHODS`; all that need no more than was given, when None.
        gradient: of the loss at the weight, of its shape, for the alignment phase.
        inputs: tensor (examples, inputs) of what the layer is given; only "eva" needs it.
        smoothness: K, as in `alignment`.
        seed: of the random starts.

    Returns:
        A `LoraComparison`.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: a method that is not known, or "eva" without inputs.
    """
    import torch  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    if methods is None:
        methods = METHODS if inputs is not None else METHODS[:-1]
    for method in methods:
        choice(method, "method", METHODS)
    if "eva" in methods and inputs is None:
        raise ValueError('"eva" decomposes the inputs of the layer: give inputs=, or leave it out of methods.')
    found, phases = [], []
    for method in methods:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _initialised(weight, rank, alpha, method, inputs)
        adapter = adapters(model)[0]
        found.append(adapter)
        A, B = (W.T for W in adapter.chain.weights)
        phases.append(None if gradient is None else alignment(A, B, gradient, adapter.chain.scale, smoothness))
    return LoraComparison(tuple(methods), tuple(found), tuple(phases))


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
        peft.initialize_lora_eva_weights(
            model,
            [inputs] * 2,
            forward_fn=lambda net, x: net(x),
            prepare_model_inputs_fn=None,
            prepare_layer_inputs_fn=None,
            show_progress_bar=False,
        )
    return model
