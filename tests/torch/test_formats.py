"""Formats that weights are stored in: their numbers, what rounding to them leaves, and what is no weight."""

import json

import numpy as np
import pytest

import linflow as lf
from linflow._support.number_formats import COMPUTED, FLOAT64, FORMATS, coarsest, decoded, dtype_name
from linflow.torch import adapters, alignment, audit, audit_file, find_chains
from linflow.torch._tangent import tangent_spectrum

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")

SHORT = [name for name, form in FORMATS.items() if form.relative]
EIGHT = [name for name in SHORT if name.startswith("float8")]


# --- the numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EIGHT)
def test_every_number_of_eight_bits_is_read_as_pytorch_reads_it(name):
    codes = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(codes).view(getattr(torch, name)).double().numpy()
    found = decoded(codes, name)
    assert found.dtype == np.float32 and np.array_equal(found, expected, equal_nan=True)
    numbers = np.unique(expected[np.isfinite(expected)])
    gaps, larger = np.diff(numbers), np.maximum(np.abs(numbers[1:]), np.abs(numbers[:-1]))
    form = FORMATS[name]
    assert np.all(gaps <= np.maximum(form.relative * larger, form.absolute))
    assert gaps.min() == form.absolute and np.max(gaps / larger, where=larger > 1, initial=0) > form.relative / 2


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_the_spacing_of_a_format_is_that_of_pytorch(name):
    info = torch.finfo(getattr(torch, name))
    assert FORMATS[name].relative == info.eps and FORMATS[name].absolute == info.smallest_normal * info.eps


def test_the_coarsest_of_several_formats():
    mixed = coarsest([FORMATS["float16"], FORMATS["bfloat16"].times(1e60), FLOAT64])
    assert (mixed.name, mixed.relative, mixed.absolute) == ("bfloat16", 2.0**-7, 2.0**-133 * 1e60)
    assert coarsest([]) == coarsest([FLOAT64]) == FLOAT64
    assert dtype_name(torch.float8_e5m2) == "float8_e5m2" and dtype_name(np.dtype("float16")) == "float16"


def test_the_bound_on_what_rounding_moves_is_its_formula():
    W = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]])  # a row of length 5, a column of length 4
    expected = (2.0**-10 * (5 + 4) + 2.0**-24 * (np.sqrt(2) + np.sqrt(3))) / 2
    assert FORMATS["float16"].moved(W) == pytest.approx(expected, rel=1e-15)
    assert FORMATS["float16"].moved(torch.from_numpy(W)) == pytest.approx(expected, rel=1e-15)
    assert FLOAT64.moved(W) == 0


# --- what rounding leaves of a zero -------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("shape", [(4, 300), (16, 768), (40, 40)])
@pytest.mark.parametrize("size", [1e-3, 0.1, 10.0])
def test_what_rounding_leaves_of_a_zero_is_one_and_what_is_clear_of_it_is_not(rng, name, shape, size):
    form, rank = FORMATS[name], shape[0] // 2
    U, V = (np.linalg.qr(rng.standard_normal((side, rank)))[0] for side in shape)
    exact = size * np.sqrt(shape[1]) * U @ np.diag(np.linspace(1, 0.7, rank)) @ V.T / 4
    W = torch.from_numpy(exact).to(getattr(torch, name)).double().numpy()
    values = np.linalg.svd(W, compute_uv=False)
    moved = form.moved(W)
    assert np.linalg.norm(W - exact, 2) <= moved
    assert values[rank] <= moved
    # The bound is of the size of what it bounds: below 16 times it, where the numbers are not all below the least.
    assert np.abs(exact).max() < 4 * form.absolute or moved < 16 * np.linalg.norm(W - exact, 2)
    found = tangent_spectrum(lf.Network([W, np.eye(shape[1], 3)]), stored=form)
    if values[rank - 1] > 1.5 * moved:
        assert found.ranks == (rank, 3)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_orthogonal_adapters_of_every_dtype_have_the_spectrum_of_the_first_half(name):
    peft = pytest.importorskip("peft", reason="PEFT is not installed (CI installs it)")
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.add_module("q", torch.nn.Linear(128, 96, bias=False))
    config = peft.LoraConfig(r=8, lora_alpha=8, target_modules=["q"], init_lora_weights="orthogonal")
    model = peft.get_peft_model(model, config)
    exact = {}
    for key, W in model.state_dict().items():
        if "lora_" in key:
            U, s, V = torch.linalg.svd(W.double(), full_matrices=False)
            exact[key] = (U[:, :4] * s[:4]) @ V[:4]  # without the rounding of float32
    least = min(float(torch.linalg.svdvals(W)[3]) ** 2 for W in exact.values())
    found = adapters(model.to(getattr(torch, name)))[0]
    # Squares of singular values that rounding moves by a part `relative` at most.
    assert found.least_on_tangent == pytest.approx(least, rel=4 * FORMATS[name].relative)
    assert found.greatest == pytest.approx(adapters(exact, scaling=1.0)[0].greatest, rel=4 * FORMATS[name].relative)


def test_deep_chains_of_short_dtypes_have_the_ranks_they_were_meant_to_have(rng):
    low = rng.standard_normal((20, 2)) @ rng.standard_normal((2, 6))
    exact = [low, rng.standard_normal((6, 6)), rng.standard_normal((6, 15))]
    right = tangent_spectrum(lf.Network(exact))
    for name in ("float16", "bfloat16"):
        state = {f"{i}.weight": torch.from_numpy(W.T.copy()).to(getattr(torch, name)) for i, W in enumerate(exact)}
        found = audit(state)[0]
        assert found.chain.stored == FORMATS[name] and found.spectrum.ranks == right.ranks == (2, 6)
        # Eigenvalues of order 10 to 1e4 that move by a few parts `relative`; the least one by more of its own.
        assert found.spectrum.least_on_tangent == pytest.approx(right.least_on_tangent, rel=30 * 2.0**-8)
    assert audit({f"{i}.weight": W.T for i, W in enumerate(exact)})[0].chain.stored == FLOAT64


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_zeros_of_t_of_a_deep_chain_are_zeros_in_short_dtypes(rng, name):
    """Ends of rank 2 and 3 inside widths of 6: T has zeros on the core, which rounding makes small numbers."""
    low = [rng.standard_normal((8, 2)) @ rng.standard_normal((2, 6)), np.eye(6),
           rng.standard_normal((6, 3)) @ rng.standard_normal((3, 9))]  # fmt: skip
    right = tangent_spectrum(lf.Network(low))
    state = {f"{i}.weight": torch.from_numpy(W.T.copy()).to(getattr(torch, name)) for i, W in enumerate(low)}
    found = audit(state)[0].spectrum
    assert found.ranks == right.ranks == (2, 3)
    assert found.least_on_tangent == pytest.approx(right.least_on_tangent, rel=0.1)  # of a number that rounding moves


def test_what_is_left_of_a_zero_computed_in_float32_is_one():
    for small, rank in ((0.5 * COMPUTED, 1), (2 * COMPUTED, 2)):  # above the rounding of the entries, 1.2e-7
        W = np.diag([1.0, small]).astype(np.float32)
        assert audit({"0.weight": W, "1.weight": np.eye(2)})[0].spectrum.ranks == (rank, 2)


def test_a_float64_matrix_keeps_its_small_singular_values():
    W = np.diag([1.0, 1e-9])
    assert tangent_spectrum(lf.Network([W, np.eye(2)])).ranks == (2, 2)
    assert audit({"0.weight": W, "1.weight": np.eye(2)})[0].spectrum.ranks == (2, 2)
    assert audit({"0.weight": W.astype(np.float32), "1.weight": np.eye(2)})[0].spectrum.ranks == (1, 2)
    assert COMPUTED > 1e-9


@pytest.mark.parametrize("name", SHORT)
def test_modes_that_are_rounding_of_a_gradient_are_none(rng, name):
    G = np.linalg.qr(rng.standard_normal((40, 2)))[0] @ np.diag([8.0, 6.0]) @ rng.standard_normal((2, 60))
    A, B = rng.standard_normal((5, 60)) / 100, np.zeros((40, 5))
    kept = [torch.from_numpy(x) for x in (A, B)]
    phase = alignment(*kept, torch.from_numpy(G).to(getattr(torch, name)))
    assert phase.times.shape == alignment(A, B, G).times.shape == (2,)


# --- what is no weight --------------------------------------------------------------------------------------


def odd_tensors():
    eye = torch.eye(4)
    return {
        "mask": eye > 0,
        "turn": eye * 1j,
        "packed.weight": torch.zeros(8, 1, dtype=torch.uint8),
        "codes.qweight": torch.zeros(4, 4, dtype=torch.int32),
        "four.weight": torch.zeros(4, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        "powers.weight": torch.zeros(4, 4, dtype=torch.uint8).view(torch.float8_e8m0fnu),
        "sparse.weight": eye.to_sparse(),
        "meta.weight": torch.empty(4, 4, device="meta"),
    }


CHAIN = {"0.weight": torch.eye(4), "1.weight": 2 * torch.eye(4)}
INDICES = {"position_ids": torch.arange(6).reshape(2, 3), "count": torch.tensor(3), "short": torch.arange(3).int()}


def test_what_is_no_weight_is_passed_over_and_listed():
    found = audit(CHAIN | odd_tensors() | INDICES)
    assert [c.name for c in found.chains] == ["0 → 1"]
    reasons = dict(found.skipped)
    assert set(reasons) == set(odd_tensors())
    words = {"mask": "bool", "turn": "complex64", "packed.weight": "uint8", "four.weight": "float4",
             "meta.weight": "meta", "sparse.weight": "to_dense", "powers.weight": "e8m0",
             "codes.qweight": "codes"}  # fmt: skip
    assert all(word in reasons[name] for name, word in words.items())
    assert "skipped mask: " in str(found)
    many = audit({f"{i}.mask": torch.eye(2) > 0 for i in range(50)})
    assert len(many.skipped) == 50 and str(many).endswith("… and 10 more skipped")
    assert not adapters(CHAIN | odd_tensors()).skipped  # not of adapters


@pytest.mark.parametrize("end", ["safetensors", "pt"])
def test_what_is_no_weight_in_a_file_is_passed_over_and_listed(tmp_path, end):
    odd = odd_tensors()
    del odd["meta.weight"]
    if end == "safetensors":
        from safetensors.torch import save_file

        del odd["sparse.weight"]
        save_file(CHAIN | odd | INDICES, tmp_path / "m.safetensors")
    else:
        torch.save(CHAIN | odd | INDICES, tmp_path / "m.pt")
    found = audit_file(tmp_path / f"m.{end}")
    assert [c.name for c in found.chains] == ["0 → 1"] and dict(found.skipped).keys() == odd.keys()
    with pytest.raises(lf.files.FileError):
        lf.files.load_weights(tmp_path / f"m.{end}")  # there, a layer would be missing


@pytest.mark.parametrize("end", ["safetensors", "pt"])
@pytest.mark.parametrize("name", SHORT)
def test_files_of_short_floats_are_read_exactly_with_their_format(tmp_path, end, name):
    torch.manual_seed(0)
    state = {f"{i}.weight": torch.randn(4, 4).to(getattr(torch, name)) for i in range(2)}
    if end == "safetensors":
        from safetensors.torch import save_file

        save_file(state, tmp_path / "m.safetensors")
    else:
        torch.save(state, tmp_path / "m.pt")
    found = audit_file(tmp_path / f"m.{end}")[0]
    assert found.chain.stored == FORMATS[name] and f"promoted from {name} to float64" in found.notes[-1]
    for W, given in zip(found.chain.weights, state.values(), strict=True):
        assert np.array_equal(W, given.double().numpy().T)
    network = lf.files.load_weights(tmp_path / f"m.{end}")
    assert np.array_equal(network.weights[0], state["0.weight"].double().numpy().T)
    # From memory the same.
    other = audit(state)[0]
    assert other.chain.stored == found.chain.stored and other.spectrum.ranks == found.spectrum.ranks


@pytest.mark.parametrize(
    ("word", "shape", "config"),
    [
        ("weight_scale", (), {}),
        ("weight_scale", (1,), {}),
        ("scale_weight", (1, 1), {}),
        ("weight_scale", (200, 1), {}),
        ("weight_scale", (200,), {}),
        ("weight_scale_inv", (2, 3), {}),  # blocks of 128×128
        ("weight_scale_inv", (4, 5), {"quantization_config": {"weight_block_size": [64, 64]}}),
        ("weight_scale_inv", (5, 10), {}),  # 40×30 each
    ],
)
def test_the_scales_of_eight_bit_weights_multiply_them(tmp_path, word, shape, config):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    W, scale = torch.randn(200, 300).to(torch.float8_e4m3fn), torch.rand(shape) + 0.5
    state = {"0.weight": W, f"0.{word}": scale, "1.weight": torch.randn(10, 200)}
    rows, columns = 200, 300
    if scale.numel() == 1:
        spread = scale.reshape(1, 1).expand(rows, columns)
    elif scale.shape[0] == rows:
        spread = scale.reshape(-1, 1).expand(rows, columns)
    else:
        block = config.get("quantization_config", {}).get("weight_block_size") or {2: (128, 128)}.get(
            shape[0], (40, 30)
        )
        spread = torch.repeat_interleave(torch.repeat_interleave(scale, block[0], 0), block[1], 1)[:rows, :columns]
    expected = W.double() * spread.double()
    save_file(state, tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    for chain in (audit_file(tmp_path / "m.safetensors")[0].chain, find_chains(state, config=config).chains[0]):
        # Products in float32.
        np.testing.assert_allclose(np.asarray(chain.weights[0]).T, expected.numpy(), rtol=2e-7, atol=0)
        assert chain.stored.absolute == pytest.approx(2.0**-9 * float(scale.max()), rel=1e-6)


def test_a_scale_that_does_not_fit_is_said():
    state = {
        "0.weight": torch.ones(6, 4).to(torch.float8_e4m3fn),
        "0.weight_scale": torch.ones(5),
        "1.weight": torch.ones(2, 6),
    }
    found = audit(state)
    assert not found.chains and "scale has the shape (5,)" in dict(found.skipped)["0.weight"]
    config = {"quantization_config": {"weight_block_size": [4, 4]}}
    block = {"0.weight": torch.ones(6, 4).to(torch.float8_e4m3fn), "0.weight_scale_inv": torch.ones(3, 1)}
    assert "0.weight" in dict(audit(block, config=config).skipped)


def test_heads_in_a_configuration_are_a_number():
    square = {f"a.{x}_proj.weight": np.ones((4, 4)) for x in "qkvo"}
    for wrong in (True, 0, -2, "2"):
        assert "pass heads=" in dict(find_chains(square, config={"num_attention_heads": wrong}).skipped)["a"]
