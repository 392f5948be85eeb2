"""Recognise PEFT adapters other than plain LoRA: its other methods, and the variants of LoRA."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from linflow.torch._state_dict import State

_OTHERS = {
    "AdaMSS": r"adamss_\w+",
    "BEFT": r"beft_bias",
    "BOFT": r"boft_\w+",
    "C3A": r"c3a_kernel",
    "DEFT": r"deft_[PR]",
    "DeLoRA": r"delora_\w+",
    "FourierFT": r"fourierft_\w+",
    "FRoD": r"frod_\w+",
    "GLoRA": r"glora_[A-E]",
    "GraLoRA": r"gralora_\w+",
    "HiRA": r"hira_\w+",
    "HRA": r"hra_u",
    "IA3": r"ia3_l",
    "Lily": r"lily_(A|B|router)",
    "LN tuning": r"ln_tuning_layers",
    "LoHa": r"hada_(w[12]_[ab]|t[12])",
    "LoKr": r"lokr_(w[12](_[ab])?|t2)",
    "MiSS": r"miss_block",
    "OFT": r"oft_R",
    "OSF": r"osf_svd_params",
    "PEANuT": r"peanut_\w+",
    "Poly": r"poly_(router|lora_[AB])",
    "PSOFT": r"psoft_R",
    "PVeRA": r"pvera_\w+",
    "RandLoRA": r"randlora_\w+",
    "RoAd": r"road_(theta|alpha)",
    "Shadow": r"shadow_(down|up|update_\w+)",
    "SHiRA": r"shira_\w+",
    "SuperTuning": r"supertuning_\w+",
    "TinyLoRA": r"tinylora_\w+",
    "trainable tokens": r"trainable_tokens_\w+",
    "Uni-LoRA": r"unilora_\w+",
    "VB-LoRA": r"vblora_\w+",
    "VeRA": r"vera_(lambda_[bd]|A|B)",
    "WaveFT": r"waveft_\w+",
    "X-LoRA": r"internal_xlora_classifier",
    "LLaMA-Adapter": r"adaption_(prompt|gate)",
    "prompt tuning": r"prompt_embeddings|prefix_task_(cols|rows)",
}
"""Parameter names that identify PEFT's other methods."""
_METHOD = {re.compile(pattern): method for method, pattern in _OTHERS.items()}
_ANY = re.compile(r"(?:^|\.)(?:" + "|".join(_OTHERS.values()) + r")(?:\.|$)")

_VARIANTS = (
    ("dora", "use_dora", "lora_magnitude_vector", "DoRA divides by the norm of the sum with the frozen weights"),
    ("ada", "", "lora_E", "AdaLoRA trains a diagonal between A and B"),
    ("kasa", "kasa_config", "lora_diag", "KaSA trains a diagonal between A and B"),
    ("velora", "velora_config", "lora_velora_embed", "VeLoRA moves A along an approximate gradient"),
    ("monteclora", "monteclora_config", "lora_monteclora_sampler", "MonteCLoRA trains with random changes of A"),
    ("bdlora", "use_bdlora", "", "BD-LoRA stores and trains the diagonal blocks of A or of B alone"),
    ("qalora", "use_qalora", "", "QALoRA sums groups of inputs before A"),
    ("arrow", "arrow_config", "lora_arrow", "Arrow mixes other adapters anew for each token"),
    ("mica", "", "", "MiCA keeps B as it is and trains A alone"),
)
"""Variants of LoRA: prefix of the class name, key in the configuration, tensor beside A and B, and the reason."""
ALORA = "aLoRA: the update acts on the tokens from the invocation on alone"


def other_adapters(state: State) -> Iterable[tuple[str, str]]:
    """Yield the layers that PEFT adapts by a method other than LoRA, each with the reason why it is not a pair."""
    found: dict[tuple[str, str], None] = {}
    for name in state.tensors:
        if _ANY.search(name):
            parts = name.split(".")
            for i, part in enumerate(parts):
                method = next((m for pattern, m in _METHOD.items() if pattern.fullmatch(part)), None)
                if method is not None:
                    found[".".join(parts[:i]) or part, method] = None
                    break
    kinds = {_plain(method) for _, method in found}
    for kind in state.peft_types.values():
        if kind not in {"LORA", "ADALORA"} and _plain(kind) not in kinds and not (kinds and "PROMPT" in kind):
            found[kind.lower(), kind] = None
    for label, method in found:
        yield label, f"PEFT's {method} changes the model in another way than by s B A with A and B trained"


def _plain(name: str) -> str:
    return re.sub(r"\W|_", "", name).upper()


def variant(state: State, module: Any, adapter: str, beside: Iterable[str]) -> str:
    """Return why a pair `lora_A`, `lora_B` is not `s B A` with both trained; "" if it is.

    Args:
        state: the model and its configuration.
        module: the layer, if there is a model.
        adapter: name of the adapter; "" if the tensor names contain none.
        beside: the other words `lora_…` in the tensor names of the layer.
    """
    return next(_reasons(state, module, adapter, list(beside)), "")


def _reasons(state: State, module: Any, adapter: str, beside: list[str]) -> Iterator[str]:
    kinds = state.peft_types
    kind = "XLORA" if "XLORA" in kinds.values() else kinds.get(adapter or "default", kinds.get("", "LORA"))
    if kind not in {"LORA", "ADALORA"}:
        yield f"PEFT's {kind} mixes or changes the pairs: the update is not s B A"
    yield from (why for _, _, word, why in _VARIANTS if word in beside)
    if beside:
        yield f"{beside[0]} is stored beside A and B; plain LoRA does not have it"
    name = type(_of(module, "lora_variant", adapter)).__name__
    if name.endswith("Variant") and not name.startswith("ALora"):
        yield from (why for start, _, _, why in _VARIANTS if name.lower().startswith(start))
        yield f"its {name} may not be a product"
    if module is None:
        yield from (why for _, key, _, why in _VARIANTS if key and state.config.get(key))
        if state.config.get("init_lora_weights") == "mica":
            yield _VARIANTS[-1][-1]


def activated(state: State, module: Any, adapter: str) -> bool:
    """Tell whether an adapter is an aLoRA, which acts only on some tokens."""
    name = type(_of(module, "lora_variant", adapter)).__name__
    return name.startswith("ALora") or (module is None and bool(state.config.get("alora_invocation_tokens")))


def _of(module: Any, attribute: str, adapter: str) -> Any:
    values = getattr(module, attribute, None)
    return values.get(adapter or "default") if isinstance(values, Mapping) else values
