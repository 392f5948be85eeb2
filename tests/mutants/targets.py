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
            "_base", "curves", "envelope", "lazy", "tail", "margin", "step_bounds", "published_descent",
        )
    },
    "certificates.exponential": [*CERTIFICATES, "test_certificates"],
    "certificates.descent": [*CERTIFICATES, "test_descent"],
    "certificates.scheduled_descent": [*CERTIFICATES, "test_descent_schedule"],
    "certificates.checking": ["test_certificates", "test_descent"],
    **{
        f"certificates.prior.{name}": ["test_literal_prior", "test_prior"]
        for name in ("_start", "modes", "regimes", "imbalance")
    },
    **{
        f"exact.{name}": ["test_literal_exact", "test_exact"]
        for name in ("reduced", "scalar", "modes", "two_layers", "_chain_flow", "_riccati", "_alignment")
    },
    **{
        name: ["test_literal_model"]
        for name in ("geometry.operator", "geometry.imbalance", "geometry.extreme_eigenvalues", "model.spectrum")
    },
    "model.network": ["test_literal_model", "test_network"],
    "model.scalar_chain": BOUNDS,
    **{
        f"dynamics.{name}": ["test_literal_dynamics"]
        for name in ("_hermite", "_stepping", "_stabilized", "_dop853", "field", "descent")
    },
    **{f"dynamics.{name}": ["test_literal_dynamics"] for name in ("step_rules", "local_smoothness")},
    "torch._imbalance_law": ["test_literal_torch"],
    "torch._extremes": ["test_literal_torch", "test_torch_monitor"],
    "torch._tangent": ["test_literal_torch", "test_formats", "test_torch_audit"],
    "torch.certified": ["test_torch_autograd"],
    **{
        f"verified.{name}": tests
        for names, tests in (
            (("rounding", "problem", "reduction"), ["test_verified_rounding"]),
            (("taylor",), ["test_verified_path"]),
            (("hessian", "log_norm"), ["test_verified_curvature"]),
            (("march",), ["test_verified_march", "test_verified_path"]),
            (("enclosure", "forever"), ["test_verified_flow"]),
            (("_pairs", "arithmetic", "descent", "steps"), ["test_verified_descent"]),
        )
        for name in names
    },
}  # fmt: skip
