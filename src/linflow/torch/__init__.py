"""PyTorch: the audit of models and LoRA adapters, and tools for training deep linear models.

Audit (docs/torch_audit.md): `audit` and `audit_file` find the chains of linear maps in a model (with `find_chains`)
and report what their weights guarantee, with the `Neurons` of ReLU models. `adapters`, `alignment` and
`compare_initialisations` are for LoRA. The audit of a state dict of NumPy arrays does not import PyTorch.

Training (docs/torch_training.md): `network` reads the layers of a model. `regression` is `nn.MSELoss` as an
objective. `Monitor` and Lightning's `MonitorCallback` log the quantities of the theory, and `NeuronMonitor` those of
the neurons of a ReLU model. `LocalSmoothnessLR` takes the step 1/K_t of `local_smoothness`. `init_`, with
`balanced_`, `imbalanced_`, `designed_` and `identity_`, initialises weights in place, and `rebalance_` keeps their
product. `certified_rate` is differentiable. `enclose` proves where training goes. `relu_network` reads a two-layer
ReLU model for `lf.relu`. The training tools need `linflow[torch]`; TensorBoard and Lightning come with
`linflow[monitor]`.
"""

import lazy_loader as _lazy

from linflow._support.names import missing as _missing

# Each name is imported on first use.
_attribute, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "auditing": ["Audit", "audit", "audit_file"],
        "chain_audit": ["ChainAudit"],
        "chains": ["Chain", "Found", "find_chains"],
        "lora": ["Adapter", "Alignment", "LoraReport", "adapters", "alignment"],
        "lora_starts": ["LoraComparison", "compare_initialisations"],
        "_module": ["network"],
        "_relu": ["relu_network"],
        "certified": ["certified_rate"],
        "enclosing": ["enclose"],
        "initialize": ["balanced_", "designed_", "identity_", "imbalanced_", "init_"],
        "lightning": ["MonitorCallback"],
        "monitor": ["Monitor"],
        "neuron_monitor": ["NeuronMonitor"],
        "neurons": ["Neurons"],
        "rebalancing": ["rebalance_"],
        "smoothness": ["LocalSmoothness", "LocalSmoothnessLR", "local_smoothness", "regression"],
    },
)


def __getattr__(name: str) -> object:
    """Return a public name; for an unknown name, suggest the nearest one."""
    if name in __all__:
        return _attribute(name)
    return _missing(__name__, __all__)(name)
