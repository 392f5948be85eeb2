"""LoRA adapters: conserved quantities, floors, step ratios and the alignment phase, against dense twins and runs."""

import json
import math

import numpy as np
import pytest

import linflow as lf
from linflow.torch import adapters, alignment, audit, compare_initialisations, find_chains

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")


def pair(rng, r=3, inputs=8, outputs=7, size=1.0):
    return rng.standard_normal((r, inputs)), size * rng.standard_normal((outputs, r))


def report(A, B, scaling=1.0):
    return adapters({"q.lora_A.weight": A, "q.lora_B.weight": B}, scaling=scaling)[0]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 8, 7), (4, 4, 4), (5, 3, 9), (2, 40, 3)])
def test_an_adapter_against_dense_matrices(rng, shape):
    r, inputs, outputs = shape
    A, B = pair(rng, r, inputs, outputs)
    found = report(A, B, 2.5)
    D = A @ A.T - B.T @ B
    assert found.imbalance == pytest.approx(np.linalg.eigvalsh(D)[::-1], abs=1e-12)  # rounding of sums of 40
    whole = np.linalg.norm(A @ A.T) + np.linalg.norm(B.T @ B)
    assert found.balancedness == pytest.approx(1 - np.linalg.norm(D) / whole, abs=1e-14)
    singular = np.linalg.svd(2.5 * B @ A, compute_uv=False)[:r]
    kept = min(len(singular), len(found.singular_values))
    assert found.singular_values[:kept] == pytest.approx(singular[:kept], abs=1e-12)
    # T on the update as (outputs, inputs), from its definition.
    T = 2.5**2 * (np.kron(B @ B.T, np.eye(inputs)) + np.kron(np.eye(outputs), A.T @ A))
    values = np.linalg.eigvalsh(T)
    assert found.greatest == pytest.approx(values[-1], rel=1e-12)
    assert found.least_on_tangent == pytest.approx(values[values > 1e-9 * values[-1]][0], abs=1e-12 * values[-1])


def test_the_step_ratios_make_both_terms_equal(rng):
    A, B = pair(rng, size=0.2)
    found = report(A, B)
    of_A = np.linalg.eigvalsh(np.kron(B @ B.T, np.eye(8)))  # the term that a step of A moves
    of_B = np.linalg.eigvalsh(np.kron(np.eye(7), A.T @ A))
    # The same numbers by other factorisations.
    assert found.step_ratio * of_B[-1] == pytest.approx(of_A[-1], rel=1e-12)
    assert found.mean_step_ratio * of_B.mean() == pytest.approx(of_A.mean(), rel=1e-12)
    assert report(A, 0 * B).step_ratio == 0 and report(0 * A, B).step_ratio == math.inf
    assert math.isnan(report(0 * A, 0 * B).step_ratio)


def test_the_step_ratio_at_a_size_is_that_which_the_flow_arrives_at():
    s, a0 = 2.0, 0.7
    found = report(np.array([[a0]]), np.zeros((1, 1)), s)
    network = lf.Network([np.array([[a0]]), np.zeros((1, 1))], scale=s)
    run = lf.gradient_flow(lf.MatrixFactorization([[3.0]]), network, until=1e-12)
    a, b = (float(W[0, 0]) for W in run.final.weights)
    # The gap 1e-12 leaves 1e-6 of the product.
    assert found.step_ratio_at(3.0) == pytest.approx((b / a) ** 2, rel=1e-5)
    with pytest.raises(ValueError, match="sigma"):
        found.step_ratio_at(0)


# --- what training conserves --------------------------------------------------------------------------------


def train(rng, optimiser, steps, eta_ratio=1.0, **options):
    """Fit `W_0 + B A` to data, and return A, B before and after."""
    torch.manual_seed(0)
    A = torch.nn.Parameter(torch.randn(3, 8, dtype=torch.float64) / 3)
    B = torch.nn.Parameter(torch.zeros(7, 3, dtype=torch.float64))
    X, Y = torch.randn(30, 8, dtype=torch.float64), torch.randn(30, 7, dtype=torch.float64)
    before = A.detach().clone(), B.detach().clone()
    lr = options.pop("lr")
    opt = optimiser([{"params": [A], "lr": lr}, {"params": [B], "lr": lr * eta_ratio}], **options)
    for _ in range(steps):
        opt.zero_grad()
        ((X @ (B @ A).T - Y).square().sum() / 60).backward()
        opt.step()
    return before, (A.detach(), B.detach())


def imbalance(A, B, eta_ratio=1.0):
    return A @ A.T - B.T @ B / eta_ratio


def test_descent_conserves_the_imbalance_to_first_order_and_adam_does_not(rng):
    drifts = []
    for lr, steps in ((1e-2, 500), (5e-3, 1000)):
        before, after = train(rng, torch.optim.SGD, steps, lr=lr)
        drifts.append(float((imbalance(*after) - imbalance(*before)).norm()))
    # Over the same time the drift is η Σ η(GᵀG − GGᵀ): it halves with η, to order η again.
    assert drifts[0] < 0.02 and drifts[0] / drifts[1] == pytest.approx(2, rel=0.1)
    before, after = train(rng, torch.optim.Adam, 500, lr=1e-2)
    assert float((imbalance(*after) - imbalance(*before)).norm()) > 10 * drifts[0]


def test_two_step_sizes_conserve_the_imbalance_weighted_by_them(rng):
    before, after = train(rng, torch.optim.SGD, 4000, eta_ratio=4.0, lr=5e-4)
    weighted = float((imbalance(*after, 4.0) - imbalance(*before, 4.0)).norm())
    plain = float((imbalance(*after) - imbalance(*before)).norm())
    assert weighted < 0.01 * plain  # the drift of order η against a change of order one


def test_weight_decay_shrinks_the_imbalance_exponentially(rng):
    lr, steps, decay = 1e-3, 1500, 0.3
    before, after = train(rng, torch.optim.SGD, steps, lr=lr, weight_decay=decay)
    expected = imbalance(*before) * (1 - lr * decay) ** (2 * steps)
    # Up to the drift of order η, as above.
    assert float((imbalance(*after) - expected).norm()) < 0.01 * float(imbalance(*before).norm())


def test_the_floors_hold_along_the_flow(rng):
    A, _ = pair(rng)
    found = report(A, np.zeros((7, 3)))
    assert found.floors[0] == pytest.approx(np.linalg.svd(A, compute_uv=False)[-1] ** 2, rel=1e-12)
    network = lf.Network([A.T, np.zeros((3, 7))])
    run = lf.gradient_flow(lf.MatrixFactorization(rng.standard_normal((8, 7))), network, t_max=20.0)
    for t in np.linspace(0, 20, 15):
        now = run.network_at(t).weights[0]
        # The integrator's tolerance on the conserved imbalance.
        assert np.linalg.svd(now, compute_uv=False)[-1] ** 2 >= found.floors[0] * (1 - 1e-6)


# --- the alignment phase ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "s", "far"), [(1e-3, 1.0, False), (1e-3, 2.0, False), (0.58, 1.0, True), (1.5, 2.0, True)]
)
@pytest.mark.parametrize("swapped", [False, True])
def test_the_first_mode_is_half_learned_when_predicted(rng, size, s, far, swapped):
    n, m, r = 30, 30, 3
    u, v = (x / np.linalg.norm(x) for x in rng.standard_normal((2, n)))
    Y = np.outer(u, v)
    Z = rng.standard_normal((n, r))
    target = u if swapped else v
    if far:  # as in a wide layer: little of A along the mode, and the rest damps
        Z -= np.outer(target, target @ Z) - 1e-3 * np.outer(target, rng.standard_normal(r))
    big, small = size * np.linalg.qr(Z)[0], np.zeros((m, r))  # homogeneous imbalance
    A, B = (small.T, big) if swapped else (big.T, small)
    phase = alignment(A, B, -Y, s)
    expected = float(phase.times[0])
    network = lf.Network([A.T, B.T], scale=s)
    run = lf.gradient_flow(lf.MatrixFactorization(Y.T), network, t_max=1.5 * expected, times=[expected])
    reached = float(u @ run.network_at(expected).product().T @ v)
    # The time is exact to leading order in what was small, 1e-3 and its square: 0.01 leaves room for a factor.
    assert float(phase.start[0]) < 1e-4
    assert reached == pytest.approx(0.5, abs=0.01)


def test_alignment_of_an_exact_scalar_solution():
    # a = b = ε: w = 1/(1 + (1/ε² − 1)e^{−2t}), half at t = ½ log(1/ε² − 1).
    phase = alignment([[1e-4]], [[1e-4]], [[-1.0]])
    assert float(phase.times[0]) == pytest.approx(0.5 * math.log(1e8 - 1), rel=1e-8)
    assert float(phase.growth[0]) == 1
    orthogonal = alignment([[0.0, 1.0]], [[0.0], [0.0]], [[-1.0, 0.0], [0.0, 0.0]])
    assert math.isinf(float(orthogonal.times[0]))
    assert float(alignment([[5.0]], [[5.0]], [[-1.0]]).times[0]) == 0
    with pytest.raises(ValueError, match="r×inputs"):
        alignment([[1.0]], [[1.0]], np.ones((2, 2)))


def test_alignment_keeps_tensors(rng):
    A, B = (torch.as_tensor(x, dtype=torch.float32) for x in pair(rng))
    phase = alignment(A, B, torch.as_tensor(rng.standard_normal((7, 8)), dtype=torch.float32))
    assert all(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in (phase.times, phase.growth))
    assert phase.times.shape == (3,)


# --- names and scalings -------------------------------------------------------------------------------------


def test_names_and_scalings_of_saved_adapters(rng):
    A, B = pair(rng, 4)
    prefix = "base_model.model.h.0.attn.q_proj"
    state = {f"{prefix}.lora_A.weight": A, f"{prefix}.lora_B.weight": B}
    plain = adapters(state)[0]
    assert plain.chain.scale == 1 and "taken as 1" in plain.chain.notes[0] and plain.name == prefix
    unknown = "its scaling is not known and taken as 1; give scaling=s"
    assert str(adapters(state)).endswith(f"\n{prefix}: {unknown}") and f"{prefix}: {unknown}" in str(audit(state))
    two = {name.replace("q_proj", f"{c}_proj"): k * W for name, W in state.items() for k, c in ((1, "q"), (2, "v"))}
    assert str(adapters(two)).endswith(f"\n{prefix} and 1 more: {unknown}")
    assert unknown not in str(adapters(state, scaling=2.0)) and unknown not in str(audit(state, scaling=2.0))
    alone = str(adapters({"lora_A.weight": A, "lora_B.weight": B})).splitlines()
    assert alone[1].startswith("the model  ") and alone[2] == f"the model: {unknown}"
    assert adapters(state, config={"lora_alpha": 6})[0].chain.scale == 1.5
    assert adapters(state, config={"lora_alpha": 6, "use_rslora": True})[0].chain.scale == 3
    patterned = {"lora_alpha": 6, "alpha_pattern": {"attn.q_proj": 20}}
    assert adapters(state, config=patterned)[0].chain.scale == 5
    other = {f"{prefix}.lora_A.style.weight": A.copy(), f"{prefix}.lora_B.style.weight": B.copy()}
    assert adapters(other)[0].name == f"{prefix} [style]"
    embedding = {"e.lora_embedding_A.default": A, "e.lora_embedding_B.default": B}
    assert np.array_equal(adapters(embedding)[0].chain.weights[0], A.T)
    assert [c.chain.kind for c in audit(state | other).chains] == ["lora", "lora"]


def test_what_is_no_plain_adapter_is_said(rng):
    A, B = pair(rng)
    lonely = adapters({"q.lora_A.weight": A})
    assert not lonely.adapters and "missing" in lonely.skipped[0][1]
    conv = adapters({"q.lora_A.weight": A[:, :, None, None], "q.lora_B.weight": B[:, :, None, None]})
    assert "shapes" in conv.skipped[0][1]
    dora = {"q.lora_A.weight": A, "q.lora_B.weight": B, "q.lora_magnitude_vector": np.ones(7)}
    assert "DoRA" in adapters(dora).skipped[0][1]
    broken = adapters({"q.lora_A.weight": A * np.nan, "q.lora_B.weight": B})
    assert "NaN" in str(broken) and "no adapter" in str(broken)


def test_reports_are_read_as_text_and_json(rng):
    found = adapters({f"{l}.lora_{x}.weight": W for l in "ab" for x, W in zip("AB", pair(rng), strict=True)})
    assert len(found) == 2 and len(str(found).splitlines()) == 4  # and the note on their scaling
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["adapters"][1]["name"] == "b"


def test_many_large_adapters_take_little_memory():
    import tracemalloc

    # A tenth of those of a model of 7 billion parameters; the cost is in proportion.
    state = {}
    rng = np.random.default_rng(0)
    for i in range(22):
        state[f"{i}.lora_A.weight"] = rng.standard_normal((16, 4096), dtype=np.float32)
        state[f"{i}.lora_B.weight"] = rng.standard_normal((4096, 16), dtype=np.float32)
    tracemalloc.start()
    found = adapters(state, scaling=2.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 22
    # One 4096×4096 matrix is 134 MB; the float64 copies that are kept are 16 MB at most.
    assert peak < 60e6


# --- PEFT ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison():
    pytest.importorskip("peft", reason="PEFT is not installed (CI installs it)")
    torch.manual_seed(0)
    W, X = torch.randn(96, 128), torch.randn(64, 128)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        return compare_initialisations(W, 8, 16.0, gradient=torch.randn(96, 128) / 50, inputs=X)


def test_peft_initialisations_are_what_they_are_said_to_be(comparison):
    assert comparison.methods == ("default", "gaussian", "orthogonal", "olora", "pissa", "eva")
    assert all(a.chain.scale == 2 for a in comparison.adapters)
    for method in ("default", "gaussian", "eva"):  # B = 0
        found = comparison[method]
        assert found.step_ratio == 0 and float(found.singular_values[0]) == 0
        assert found.balancedness == pytest.approx(0, abs=1e-14)  # of 1: rounding of eigenvalues of A Aᵀ
        assert found.least_on_tangent == pytest.approx(4 * found.floors[0], rel=1e-12)  # one sum, twice
    # Kaiming with a = √5: entries of variance 1/(3·inputs), so A Aᵀ ≈ ⅓ I up to sqrt(r/inputs) = ¼ of it, twice.
    assert float(comparison["default"].imbalance.mean()) == pytest.approx(1 / 3, rel=0.1)
    assert float(comparison["default"].floors[0]) > 0.1
    # N(0, 1/r²): A Aᵀ ≈ inputs/r² = 2.
    assert float(comparison["gaussian"].imbalance.mean()) == pytest.approx(2, rel=0.1)
    pissa = comparison["pissa"]
    assert pissa.balancedness == pytest.approx(1, abs=1e-5)  # both take the root of σ; float32
    # A and B work on complementary halves of the inner width: no product, and D of both signs.
    orthogonal = comparison["orthogonal"]
    assert (
        float(orthogonal.singular_values[0]) < 1e-5 and float(orthogonal.imbalance[0]) > 0 > orthogonal.imbalance[-1]
    )
    # OLoRA: B has orthonormal columns, and A takes the rest.
    assert comparison["olora"].sizes[1] == pytest.approx(1, abs=1e-6)
    # EVA: A has orthonormal rows.
    assert comparison["eva"].imbalance.numpy() == pytest.approx(np.ones(8), abs=1e-5)


def test_the_table_and_json_of_a_comparison(comparison):
    text = str(comparison)
    assert len(text.splitlines()) == 7 and "time" in text.splitlines()[0]
    content = comparison.to_dict()
    assert len(content["pissa"]["alignment_times"]) == 8 and json.dumps(content, allow_nan=False)
    with pytest.raises(ValueError, match="eva"):
        compare_initialisations(torch.eye(4), 2, methods=["eva"])
    with pytest.raises(ValueError, match="method"):
        compare_initialisations(torch.eye(4), 2, methods=["best"])


@pytest.fixture
def offline(monkeypatch):
    pytest.importorskip("peft", reason="PEFT is not installed (CI installs it)")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_method_that_cannot_start_a_layer_leaves_the_others(offline):
    torch.manual_seed(0)
    W, X = torch.randn(10, 12), torch.randn(4, 12)
    found = compare_initialisations(W, 5, inputs=X)  # PEFT's own loop for EVA does not end here
    assert found.methods == ("default", "gaussian", "olora", "pissa")
    reasons = dict(found.skipped)
    assert "even" in reasons["orthogonal"] and "4 rows" in reasons["eva"]
    assert "skipped eva: " in str(found) and len(str(found).splitlines()) == 7
    assert json.dumps(found.to_dict(), allow_nan=False) and "even" in found.to_dict()["orthogonal"]["skipped"]
    with pytest.raises(ValueError, match="4 rows"):
        found["eva"]
    with pytest.raises(ValueError, match=r"no method can start .* even"):
        compare_initialisations(W, 5, methods=["orthogonal"])
    # Where the rank is above a side, PiSSA and OLoRA have fewer columns than they say.
    assert {"pissa", "olora"} <= set(dict(compare_initialisations(W, 12).skipped))


@pytest.mark.parametrize("kind", ["two directions", "zero"])
def test_inputs_of_fewer_directions_than_the_rank_end_as_well(offline, kind, monkeypatch):
    monkeypatch.setattr("linflow.torch.lora_starts.PASSES", 20)
    rng = np.random.default_rng(0)
    X = (
        rng.standard_normal((30, 2)) @ rng.standard_normal((2, 12))
        if kind == "two directions"
        else np.zeros((30, 12))
    )
    found = compare_initialisations(rng.standard_normal((10, 12)), 4, methods=["default", "eva"], inputs=X)
    assert "default" in found.methods
    if "eva" in found.methods:  # where the noise of the further directions repeats itself
        assert np.isfinite(float(found["eva"].floors[0]))
    else:
        assert "20 passes" in dict(found.skipped)["eva"]


def test_weights_gradients_and_inputs_may_be_any_arrays(offline):
    rng = np.random.default_rng(0)
    W, G, X = rng.standard_normal((10, 12)), rng.standard_normal((10, 12)), rng.standard_normal((3, 20, 12))
    found = compare_initialisations(W, 4, gradient=G, inputs=X, seed=3)
    tensors = [torch.from_numpy(x) for x in (W, G, X)]
    same = compare_initialisations(tensors[0].float(), 4, gradient=tensors[1], inputs=tensors[2], seed=3)
    assert found.methods == same.methods and len(found.methods) == 6 and str(found) == str(same)
    nested = compare_initialisations(W.tolist(), 4, methods=["pissa"])
    assert nested["pissa"].singular_values[0] == found["pissa"].singular_values[0]
    parameter = torch.nn.Parameter(tensors[0].bfloat16())
    assert len(compare_initialisations(parameter, 4).methods) == 5


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": "16"}, "alpha"),
        ({"rank": 0}, "rank is 0"),
        ({"rank": 2.5}, "rank is 2.5"),
        ({"smoothness": -1}, "smoothness"),
        ({"weight": np.ones(3)}, "weight has 1 dim"),
        ({"weight": np.full((3, 4), np.nan)}, "weight holds"),
        ({"weight": "W"}, "weight"),
        ({"gradient": np.ones((4, 3))}, "gradient is 4×3; 3×4"),
        ({"inputs": np.ones((5, 3))}, "inputs is 5×3; any×4"),
        ({"inputs": np.full((5, 4), np.inf)}, "inputs holds"),
    ],
)
def test_what_is_no_layer_is_said_before_any_start(change, what):
    values = {"weight": np.ones((3, 4)), "rank": 2, **change}
    with pytest.raises((TypeError, ValueError), match=what):
        compare_initialisations(values.pop("weight"), **values)


def test_adapters_of_a_model_of_peft(comparison):
    peft = pytest.importorskip("peft", reason="PEFT is not installed (CI installs it)")

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads = 2
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                setattr(self, name, torch.nn.Linear(8, 8, bias=False))

    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "v_proj"], use_rslora=True)
    model = peft.get_peft_model(torch.nn.Sequential(Block()), settings)
    found = adapters(model)
    assert [a.name.rpartition(".")[2] for a in found] == ["q_proj", "v_proj"]
    assert all(a.chain.scale == pytest.approx(3 / math.sqrt(2), rel=1e-15) for a in found)
    chains = find_chains(model).chains
    assert [c.kind for c in chains].count("query-key") == 2  # of the frozen weights, with the heads of the module
    assert len(audit(model)) == len(chains) == 6
