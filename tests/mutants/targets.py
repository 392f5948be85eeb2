"""Which tests belong to which module: those that state its formulas first, then those that use it."""

from __future__ import annotations

BOUNDS = ["test_literal_bounds"]
CERTIFICATES = ["test_literal_certificates"]

TARGETS = {
    **{
        f"bounds.{name}": BOUNDS
        for name in (
            "_base", "scalar_chain", "layer_norms", "two_layers", "three_layers", "any_imbalance",
            "special_imbalance", "product_aware",
        )
    },
    "bounds.optimum": ["test_optimum"],
    "bounds._weight_search": ["test_optimum"],
    **{
        f"certificates.{name}": CERTIFICATES
        for name in (
            "_base", "curves", "envelope", "lazy", "tail", "margin", "exponential", "descent", "step_bounds",
            "published_descent",
        )
    },
    "certificates.scheduled_descent": [*CERTIFICATES, "test_descent_schedule"],
    "certificates.checking": CERTIFICATES,
    **{
        f"certificates.prior.{name}": ["test_literal_prior", "test_prior"]
        for name in ("_start", "modes", "regimes", "imbalance")
    },
    **{
        f"exact.{name}": ["test_literal_exact", "test_exact"]
        for name in ("reduced", "scalar", "modes", "two_layers", "_chain_flow", "_riccati", "_alignment")
    },
    "operator": ["test_literal_model", "test_operator"],
    "imbalance": ["test_literal_model", "test_operator", "test_bounds"],
    "network": ["test_literal_model", "test_network"],
    "_chain": ["test_literal_bounds"],
    **{
        f"dynamics.{name}": ["test_literal_dynamics", "test_flow", "test_accuracy"]
        for name in ("_hermite", "_stepping", "_march", "_stabilized", "field", "trajectory")
    },
    "dynamics.descent": ["test_literal_dynamics", "test_flow", "test_descent"],
    **{
        f"torch.{name}": ["test_literal_torch", test]
        for name, test in (
            ("_law", "test_torch_audit_training"), ("_extremes", "test_torch_audit"),
            ("_tangent", "test_torch_audit"),
            ("certified", "test_torch_autograd"), ("_numbers", "test_torch_audit"),
        )
    },
    **{
        f"verified.{name}": tests
        for names, tests in (
            (("rounding", "problem", "reduction", "arithmetic"), ["test_verified_rounding"]),
            (("taylor",), ["test_verified_path"]),
            (("hessian", "log_norm", "_pairs"), ["test_verified_curvature"]),
            (("march", "enclosure", "descent", "steps", "forever"), ["test_verified_rounding", "test_verified_path"]),
        )
        for name in names
    },
}  # fmt: skip
