"""PyTorch: the audit of a model's chains of linear maps and of its LoRA adapters.

Needs `linflow[torch]`; what is computed for state dicts of NumPy arrays does not import PyTorch.
"""

import lazy_loader as _lazy

# Each name is imported on first use.
__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "auditing": ["Audit", "ChainAudit", "audit", "audit_file"],
        "chains": ["Chain", "Found", "find_chains"],
        "lora": ["Adapter", "Alignment", "LoraReport", "adapters", "alignment"],
        "lora_starts": ["LoraComparison", "compare_initialisations"],
        "_module": ["network"],
        "certified": ["certified_rate"],
        "initialize": ["balanced_", "designed_", "imbalanced_", "init_"],
        "lightning": ["MonitorCallback"],
        "monitor": ["Monitor"],
        "smoothness": ["LocalSmoothness", "LocalSmoothnessLR", "local_smoothness", "regression"],
    },
)
