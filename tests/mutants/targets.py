"""Which tests belong to which module: those that state its formulas first, then those that use it."""

from __future__ import annotations

BOUNDS = ["bounds/test_literal"]
CERTIFICATES = ["certificates/test_literal"]
VERIFIED = ["verified/test_literal_path"]

TARGETS = {
    **{
        f"bounds.{name}": BOUNDS
        for name in (
            "__init__", "_base", "layer_norms", "two_layers", "three_layers", "any_imbalance", "product_aware",
        )
    },
    "bounds.operator_floors": ["bounds/test_literal_floors"],
    **{f"bounds.{name}": [*BOUNDS, "torch/test_autograd"] for name in ("scalar_chain", "special_imbalance")},
    "bounds.mode_floors": ["bounds/test_mode_floors"],
    "bounds.ceilings": ["bounds/test_ceilings", "bounds/test_literal"],
    **{
        f"bounds.{name}": ["bounds/test_literal_program"]
        for name in ("operator_interval", "_interval_numbers", "_interval_program", "_interval_search")
    },
    "bounds.optimum": ["bounds/test_literal_optimum", "bounds/test_optimum"],
    "bounds._weight_search": ["bounds/test_literal_search", "bounds/test_optimum"],
    **{
        f"certificates.{name}": CERTIFICATES
        for name in (
            "_base", "curves", "envelope", "lazy", "tail", "margin", "published_descent",
        )
    },
    "certificates.step_bounds": ["certificates/test_literal_levels", *CERTIFICATES],
    "certificates.least_norm": ["certificates/test_least_norm"],
    "certificates.tail_descent": ["certificates/test_literal_tail_descent"],
    "certificates.caps": ["certificates/test_caps"],
    "certificates.low_rank": ["certificates/test_low_rank"],
    **{
        f"certificates.{name}": ["certificates/test_optimizers"]
        for name in ("heavy_ball", "imbalance_law")
    },
    "certificates.optimality": ["certificates/test_literal_optimality", "certificates/test_optimizers"],
    "advice.rebalance": ["advice/test_rebalance"],
    "model.optimizer": ["dynamics/test_optimizers"],
    **{
        f"dynamics.{name}": ["dynamics/test_literal_other_flows", "dynamics/test_optimizers"]
        for name in ("other_flows", "coordinates", "ending")
    },
    "dynamics.motion": ["dynamics/test_optimizers"],
    "certificates.certificate": ["certificates/test_literal_certificate", "certificates/test_text"],
    "certificates.promises": ["certificates/test_literal_certificate", "certificates/test_text"],
    **{
        f"relu.{name}": ["relu/test_literal", "relu/test_floor", "relu/test_certificate"]
        for name in ("movement", "shadows", "floor", "problem")
    },
    "relu.certificate": ["relu/test_literal", "relu/test_floor", "relu/test_certificate", "certificates/test_text"],
    **{f"relu.{name}": ["relu/test_literal"] for name in ("path", "steps")},
    "relu.descent": ["relu/test_literal", "relu/test_descent"],
    **{f"relu.{name}": ["relu/test_literal_pieces", "relu/test_flow"] for name in ("flow", "pieces")},
    "relu.trajectory": ["relu/test_literal_networks", "relu/test_flow"],
    "relu.network": ["relu/test_literal_networks", "relu/test_network"],
    "relu.starts": ["relu/test_literal_networks"],
    **{
        f"relu.{name}": [
            "relu/test_literal_pattern", "relu/test_literal_passage", "relu/test_literal_enclosure",
            "relu/test_enclosure",
        ]
        for name in ("passage", "pattern_march", "pattern_path", "pattern_tube")
    },
    "relu.enclosure": ["relu/test_literal_flips", "relu/test_enclosure"],
    "relu.events": ["relu/test_literal_pieces", "relu/test_flow"],
    "relu.design": ["relu/test_literal_networks", "relu/test_design"],
    "relu.roots": ["relu/test_roots", "relu/test_flow"],
    "relu.pattern_descent": ["relu/test_literal_pattern", "relu/test_enclosed_descent"],
    "relu.enclosed_descent": ["relu/test_enclosed_descent"],
    "relu.aligned": ["relu/test_literal_networks", "relu/test_aligned"],
    **{f"relu.{name}": ["relu/test_smooth"] for name in ("activations", "lazy", "smooth")},
    "certificates.setting": ["certificates/test_reasons", *CERTIFICATES, "certificates/test_literal_prior"],
    "certificates.exponential": [*CERTIFICATES, "certificates/test_reasons", "certificates/test_structured"],
    "certificates.descent": ["certificates/test_reasons", *CERTIFICATES],
    "certificates.scheduled_descent": [
        "certificates/test_literal_schedule", "certificates/test_reasons_schedule", *CERTIFICATES,
    ],
    "certificates.prior.__init__": ["certificates/test_literal_rows"],
    "certificates.prior._rows": ["certificates/test_literal_rows", "certificates/test_literal_prior"],
    "certificates.checking": ["certificates/test_literal_checking"],
    **{
        f"certificates.prior.{name}": ["certificates/test_literal_rows", "certificates/test_literal_prior"]
        for name in ("regimes", "imbalance")
    },
    "certificates.prior.descents": ["certificates/test_prior_descents"],
    "certificates.prior.modes": ["certificates/test_literal_modes", "certificates/test_literal_prior"],
    **{
        f"exact.{name}": ["exact/test_literal", "exact/test_exact"]
        for name in ("reduced", "scalar", "modes", "two_layers", "_chain_flow", "_riccati", "_alignment")
    },
    **{f"exact.{name}": ["exact/test_limit"] for name in ("limit", "_exposure", "chain_rate")},
    "model.diagonal": ["model/test_diagonal", "exact/test_limit"],
    "model.circular": ["model/test_circular", "exact/test_limit"],
    "model.coefficients": ["model/test_diagonal", "model/test_circular", "exact/test_limit"],
    "model.tied": ["model/test_tied"],
    "model.sensing": ["model/test_sensing", "model/test_lora"],
    "model.softmax": ["model/test_literal_softmax", "model/test_softmax"],
    "model.lora": ["model/test_lora"],
    **{f"model.{name}": ["model/test_literal_huber", "model/test_huber"] for name in ("huber", "robust")},
    "model.autodiff": ["model/test_autodiff"],
    "torch._relu": ["torch/test_relu"],
    "torch.neurons": ["torch/test_neurons"],
    "torch.neuron_monitor": ["torch/test_neuron_monitor"],
    "torch.rebalancing": ["advice/test_rebalance"],
    "dynamics.greedy": ["dynamics/test_greedy"],
    "geometry.alignment": ["geometry/test_alignment"],
    "exact.symmetric": ["exact/test_symmetric"],
    **{
        name: ["model/test_literal", "geometry/test_operator"] for name in ("geometry.operator", "geometry.imbalance")
    },
    "model.spectrum": ["model/test_literal"],
    "geometry.extreme_eigenvalues": [
        "geometry/test_literal_eigenvalues", "model/test_literal", "geometry/test_operator",
    ],
    "model.network": ["model/test_literal", "model/test_network"],
    "model.objectives": ["model/test_literal_objectives", "model/test_literal_tails", "model/test_lora"],
    "model.quadratics": ["model/test_literal_objectives", "model/test_weighted", "model/test_lora"],
    "model.powers": ["model/test_powers"],
    "model.classification": [
        "model/test_literal_classification", "model/test_classification", "model/test_literal_tails",
    ],
    "model.tails": ["model/test_literal_tails", "model/test_softmax"],
    "geometry.reduction": ["geometry/test_literal", "geometry/test_reduction"],
    "model.scalar_chain": ["model/test_literal"],
    **{
        f"dynamics.{name}": ["dynamics/test_literal"]
        for name in ("_hermite", "_stepping", "_stabilized", "_dop853")
    },
    "dynamics.descent": ["dynamics/test_literal", "dynamics/test_optimizers"],
    "dynamics.field": ["dynamics/test_literal", "dynamics/test_pickling"],
    **{f"dynamics.{name}": ["dynamics/test_literal"] for name in ("step_rules", "local_smoothness")},
    **{
        f"dynamics.{name}": ["dynamics/test_interpreted"]
        for name in ("_kernels", "_march", "_tiled_products", "_compiled")
    },
    "dynamics.linearized": ["dynamics/test_linearized"],
    "geometry.conserved": ["geometry/test_conserved"],
    "geometry.laziness": ["geometry/test_laziness"],
    "dynamics.landscape": ["dynamics/test_landscape", "dynamics/test_literal"],
    "dynamics.trajectory": ["dynamics/test_literal", "dynamics/test_pickling"],
    "dynamics.saddles": ["dynamics/test_literal", "_support/test_range"],
    "torch._imbalance_law": ["torch/test_literal", "torch/test_monitor_optimizers"],
    "torch._sgd": ["torch/test_literal_sgd", "torch/test_literal"],
    **{f"torch.{name}": ["torch/test_literal"] for name in ("_extremes", "_tangent", "certified")},
    "torch._numbers": ["torch/test_literal"],
    **{
        f"verified.{name}": tests
        for names, tests in (
            (("rounding", "problem", "reduction"), [*VERIFIED, "verified/test_rounding"]),
            (("taylor",), [*VERIFIED, "verified/test_path", "verified/test_fine"]),
            (("hessian",), [*VERIFIED, "verified/test_curvature"]),
            (("elimination", "_chain_loops", "_elimination_loops"), ["verified/test_elimination"]),
            (("log_norm",), ["verified/test_literal_norm", "verified/test_curvature"]),
            (
                ("march",),
                [
                    "verified/test_literal_march", "verified/test_literal_enclosure", "verified/test_degrees",
                    "verified/test_march",
                ],
            ),
            (("_pairs", "arithmetic"), ["verified/test_march", *VERIFIED]),
            (("fine",), ["verified/test_fine"]),
            (("enclosure",), ["verified/test_literal_enclosure", "verified/test_flow"]),
            (("forever",), ["verified/test_forever"]),
            (("flow", "attempt"), ["verified/test_run"]),
            (
                ("run",),
                [
                    "verified/test_run", "verified/test_declared", "verified/test_huber", "verified/test_softmax",
                    "verified/test_tails", "verified/test_operators", "verified/test_steps",
                ],
            ),
            (("descent",), ["verified/test_literal_descent", "verified/test_descent"]),
            (("enclosed_steps",), ["verified/test_literal_descent", "verified/test_descent"]),
            (("momentum", "lyapunov"), ["verified/test_literal_momentum", "verified/test_momentum"]),
            (("checking",), ["verified/test_check"]),
            (("comparison",), ["verified/test_comparison"]),
            (("spectra",), ["verified/test_literal_spectra", "verified/test_spectra"]),
            (("prior",), ["verified/test_literal_rigorous", "verified/test_prior"]),
            (("classification", "tail_march"), ["verified/test_literal_tails", "verified/test_tails"]),
            (("smooth", "convex_descent"), ["verified/test_literal_tails", "verified/test_tails"]),
            (
                ("convex_march",),
                ["verified/test_literal_tails", "verified/test_literal_declared", "verified/test_tails"],
            ),
            (("declared",), ["verified/test_literal_declared", "verified/test_declared"]),
            (
                ("declared_march",),
                ["verified/test_literal_declared", "verified/test_declared", "verified/test_huber"],
            ),
            (
                ("_frame", "_bound_loops", "_taylor_loops", "_tube_loops", "_hessian_loops", "_least_loops"),
                ["verified/test_literal_loops"],
            ),
            (("least",), ["verified/test_literal_loops", "verified/test_compiled"]),
            (("rank_gap",), ["verified/test_rank_gap"]),
            (("tail_enclosure",), ["verified/test_literal_tail_enclosure", "verified/test_tails"]),
            (("steps",), ["verified/test_steps"]),
            (("chain_floors",), ["verified/test_chain_floors"]),
            (("operators",), ["verified/test_literal_operators", "verified/test_operators"]),
            (("softmax",), ["verified/test_literal_softmax", "verified/test_softmax"]),
            (("huber",), ["verified/test_literal_huber", "verified/test_huber"]),
            (("rows",), ["verified/test_literal_huber", "verified/test_softmax"]),
            (("enclosed",), ["verified/test_literal_enclosed"]),
        )
        for name in names
    },
}  # fmt: skip
