"""Every adapter that the installed PEFT makes: its update as PEFT computes it, or a reason why it is no pair."""

import json
from importlib import import_module

import numpy as np
import pytest

from linflow.torch import adapters, audit, audit_file, find_chains
from linflow.torch.lora import LoraReport

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")
peft = pytest.importorskip("peft", reason="PEFT is not installed (CI installs it)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (CI has it)")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT warns of its defaults

LAYERS = {"target_modules": ["q", "v"], "r": 4}
METHODS = {
    "ADALORA": {"total_step": 10},
    "C3A": {"block_size": 4},
    "FOURIERFT": {"n_frequency": 8},
    "IA3": {"feedforward_modules": ["v"]},
    "LN_TUNING": {"target_modules": ["n"]},
    "OFT": {"oft_block_size": 4, "r": None},
    "ROAD": {"group_size": 4},
    "VBLORA": {"vector_length": 4, "num_vectors": 8},
    "WAVEFT": {"n_frequency": 8},
}
"""What a small model needs besides `LAYERS`."""
LANGUAGE = {
    "ADAPTION_PROMPT": {"adapter_len": 3, "adapter_layers": 1},
    "CARTRIDGE": {"num_virtual_tokens": 3},
    "CPT": {"cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 3},
    "PREFIX_TUNING": {"num_virtual_tokens": 3},
    "PROMPT_TUNING": {"num_virtual_tokens": 3},
    "P_TUNING": {"num_virtual_tokens": 3},
    "SHADOW": {},
    "TRAINABLE_TOKENS": {"token_indices": [0, 1]},
    "XLORA": {"hidden_size": 16, "xlora_depth": 1},
}
"""What a language model needs."""


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.v, self.n = torch.nn.Linear(16, 12), torch.nn.Linear(12, 16), torch.nn.LayerNorm(16)

    def forward(self, x):
        return self.n(self.v(self.q(x)))


def language_model():
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=32,
        use_cache=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def adapted(base, config):
    """Return a model of PEFT whose trained numbers are all drawn, none 0."""
    torch.manual_seed(0)
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape).to(parameter.dtype) / 3)
    return model


def forms(model, folder):
    """Yield the report on a model, on its state dict, and on what PEFT saves of each adapter: arrays and file."""
    yield "model", adapters(model)
    names = list(model.peft_config)
    if len(names) == 1:
        yield "state dict with config", adapters(model.state_dict(), config=stored(model))
    model.save_pretrained(folder)
    for name in [name for name in names if "XLORA" not in str(model.peft_config) or name == "default"]:
        path = folder / (name if name != "default" else "") / "adapter_model.safetensors"
        if path.exists():
            yield "file", as_report(audit_file(path))
            state = peft.get_peft_model_state_dict(model, adapter_name=name)
            yield "saved with config", adapters(state, config=stored(model, name))


def stored(model, name="default"):
    values = model.peft_config[name].to_dict()
    return json.loads(json.dumps(values, default=lambda x: list(x) if isinstance(x, set) else str(x)))


def as_report(found):
    """Return the pairs in an audit, and what was skipped but for heads of attention and indices."""
    pairs = tuple(c for c in found.chains if c.chain.kind == "lora")
    return LoraReport(pairs, tuple(x for x in found.skipped if "heads" not in x[1] and "codes" not in x[1]))


def updates(report):
    """Return s B A by the name of the layer, from the chains of a report."""
    found = {}
    for item in report:
        chain = item.chain
        W = [np.asarray(x, dtype=float) for x in chain.weights]
        found[short(chain.name)] = chain.scale * (W[0] @ W[1]).T
    return found


def short(name):
    return name.removeprefix("base_model.model.")


def layers(model):
    """Return the LoRA layers by name, without what PEFT wraps where that is one alone."""
    found = {short(name): module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    plain = [name.replace(".base_layer", "") for name in found]
    return {p if plain.count(p) == 1 else name: found[name] for p, name in zip(plain, found, strict=True)}


def judged(model):
    """Return `get_delta_weight` of every LoRA layer, as (outputs, inputs), by its name and, for experts, a number."""
    found = {}
    for name, module in layers(model).items():
        for adapter in {*module.lora_A, *module.lora_embedding_A}:
            try:
                delta = module.get_delta_weight(adapter).detach().double()
            except (AttributeError, RuntimeError, NotImplementedError):
                continue
            label = name + ("" if adapter == "default" else f" [{adapter}]")
            turned = getattr(module, "fan_in_fan_out", False) or (
                hasattr(module, "lora_embedding_A") and len(module.lora_embedding_A)
            )
            if delta.ndim == 3:
                for e, part in enumerate(delta):
                    found[f"{label} expert {e}"] = part.numpy()
            else:
                found[label] = (delta.T if turned else delta).numpy()
    return found


def agree(report, expected, rel=1e-6):  # PEFT multiplies in float32
    found = updates(report)
    assert set(found) == set(expected)
    for name, W in found.items():
        right = expected[name] if expected[name].shape == W.shape else expected[name].T  # experts are stored so
        assert pytest.approx(right, rel=rel, abs=rel * np.abs(right).max()) == W, name


# --- methods of PEFT ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind.value for kind in peft.PeftType])
def test_a_method_is_lora_or_is_listed_with_the_reason(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config_class = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    known = config_class.__dataclass_fields__
    if kind in LANGUAGE:
        base, values = language_model(), {**LANGUAGE[kind], "task_type": "CAUSAL_LM"}
    else:
        base, values = Net(), {k: v for k, v in LAYERS.items() if k in known} | METHODS.get(kind, {})
    if kind == "XLORA":
        one = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
        peft.get_peft_model(language_model(), one).save_pretrained(tmp_path / "one")
        values["adapters"] = {"0": str(tmp_path / "one")}
    model = adapted(base, config_class(**{k: v for k, v in values.items() if v is not None}))
    tried = []
    for form, report in forms(model, tmp_path):
        tried.append(form)
        if kind == "LORA":
            agree(report, judged(model))
            assert not report.skipped
        else:
            assert not len(report), form
            assert report.skipped, form
            assert all("PEFT" in reason or "LoRA" in reason for _, reason in report.skipped), form
            if kind not in LANGUAGE and kind != "UNILORA":  # of Uni-LoRA a file has one vector for all layers
                listed = {name.split(".")[-1] for name, _ in report.skipped}
                assert listed >= ({"n"} if kind == "LN_TUNING" else {"q", "v"}), (form, report.skipped)
    assert "model" in tried
    if kind != "LORA" and "PROMPT" not in kind and kind not in LANGUAGE:  # a prompt is no adapter of a layer
        alone = adapters(model.state_dict())
        assert not len(alone) and alone.skipped


# --- variants of LoRA ---------------------------------------------------------------------------------------


class Many(torch.nn.Module):
    """A layer of each class that LoRA adapts."""

    def __init__(self):
        super().__init__()
        self.q, self.v = torch.nn.Linear(16, 12), torch.nn.Linear(12, 16)
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.conv1 = torch.nn.Conv1d(3, 8, 1)
        self.words = torch.nn.Embedding(20, 8)
        self.attention = torch.nn.MultiheadAttention(8, 2)
        self.c_fc = transformers.pytorch_utils.Conv1D(12, 16)  # stores (inputs, outputs)


class Experts(torch.nn.Module):
    def __init__(self, turned=False):
        super().__init__()
        self.experts = torch.nn.Module()
        self.experts.is_transposed = turned
        self.experts.up = torch.nn.Parameter(torch.randn(3, 8, 10))
        self.experts.down = torch.nn.Parameter(torch.randn(3, 10, 8))
        self.experts.flat = torch.nn.Parameter(torch.randn(6, 8))

    def forward(self, x):
        return x


def of(base, **values):
    return base, {"r": 4, "lora_alpha": 6, "init_lora_weights": False, **values}


LINEAR = {"target_modules": ["q", "v"]}
PLAIN = {
    "default": of(Net, **LINEAR),
    "rslora": of(Net, use_rslora=True, **LINEAR),
    "alpha pattern": of(Net, alpha_pattern={"q": 5}, **LINEAR),
    "rank pattern": of(Net, rank_pattern={"^v": 3}, use_rslora=True, **LINEAR),
    "alpha 0": of(Net, lora_alpha=0, **LINEAR),
    "alpha negative": of(Net, lora_alpha=-3, **LINEAR),
    "bias": of(Net, lora_bias=True, **LINEAR),
    "all biases": of(Net, bias="all", **LINEAR),
    "alora": of(Net, alora_invocation_tokens=[1, 2], **LINEAR),
    "saved modules": of(Net, modules_to_save=["n"], **LINEAR),
    "float16": of(lambda: Net().half(), **LINEAR),
    "bfloat16": of(lambda: Net().bfloat16(), **LINEAR),
    "embedding": of(Many, target_modules=["words"]),
    "attention": of(Many, target_modules=["attention"]),
    "Conv1D of GPT-2": of(Many, target_modules=["c_fc"]),
    "experts": of(Experts, target_parameters=["experts.up"]),
    "experts turned": of(lambda: Experts(True), target_parameters=["experts.up"]),
    "nested experts": of(Experts, target_parameters=["experts.up", "experts.down", "experts.flat"]),
    "replicated layers": of(language_model, target_modules=["q_proj"], layer_replication=[(0, 2), (1, 2)]),
    "tokens beside": of(language_model, target_modules=["q_proj"], trainable_token_indices=[1, 2]),
    "loftq": of(Net, init_lora_weights="loftq", loftq_config={"loftq_bits": 8, "loftq_iter": 1}, **LINEAR),
    **{start: of(Net, init_lora_weights=start, **LINEAR)
       for start in ("gaussian", "olora", "pissa", "pissa_niter_4", "orthogonal", "eva", "corda", "lora_ga")},
}  # fmt: skip
NO_PAIR = {
    "dora": (of(Net, use_dora=True, **LINEAR), "norm of the sum"),
    "dora of an embedding": (of(Many, use_dora=True, target_modules=["words"]), "norm of the sum"),
    "velora": (of(Net, velora_config={"num_groups": 4, "init_type": "random"}, **LINEAR), "approximate"),
    "monteclora": (of(Net, monteclora_config={}, **LINEAR), "random"),
    "kasa": (of(Net, kasa_config={}, **LINEAR), "diagonal"),
    "bdlora": (of(Net, use_bdlora={"target_modules_bd_a": ["q"], "target_modules_bd_b": ["v"], "nblocks": 2},
                  **LINEAR), "blocks"),
    "mica": (of(Net, init_lora_weights="mica", **LINEAR), "keeps B"),
    "convolution": (of(Many, target_modules=["conv", "conv1"]), "shapes"),
    "arrow": (of(Net, arrow_config={}, **LINEAR), "each token"),
}  # fmt: skip


def lora(base, values):
    values = dict(values)
    for key in ("velora", "monteclora", "kasa", "arrow", "bdlora"):
        name = next((name for name in values if name in {f"{key}_config", f"use_{key}"}), None)
        if name is not None:
            kind = {"bdlora": "BdLora"}.get(key, key.capitalize())
            values[name] = getattr(peft.tuners.lora.config, f"{kind}Config")(**values[name])
    net = base()
    for linear in (net.q, net.v) if values["init_lora_weights"] == "corda" else ():  # what is found before the start
        m, n = linear.weight.shape
        linear.eigens = import_module("peft.tuners.lora.corda").CordaEigens(
            torch.ones(4), torch.eye(m)[:, :4], torch.eye(n)[:, :4]
        )
    if "arrow_config" in values:
        values["arrow_config"].task_adapter_names = ["a"]
    return adapted(net, peft.LoraConfig(**values))


@pytest.mark.parametrize("name", PLAIN)
def test_the_update_of_a_pair_is_that_of_peft(name, tmp_path):
    if name == "loftq":
        pytest.importorskip("bitsandbytes", reason="LoftQ quantises by bitsandbytes, which is not installed")
    model = lora(*PLAIN[name])
    expected = judged(model)
    assert expected
    for form, report in forms(model, tmp_path):
        agree(report, expected)
        beside = [reason for _, reason in report.skipped if "trainable tokens" not in reason]
        assert not beside, form
        notes = [note for item in report for note in item.chain.notes]
        assert any("aLoRA" in note for note in notes) == (name == "alora"), form
        assert any("bias of B" in note for note in notes) == (name == "bias"), form


@pytest.mark.parametrize("name", NO_PAIR)
def test_a_variant_that_is_no_pair_is_listed_with_the_reason(name, tmp_path):
    (base, values), why = NO_PAIR[name]
    model = lora(base, values)
    for form, report in forms(model, tmp_path):
        assert not len(report), form
        assert {short(label) for label, _ in report.skipped} == set(layers(model)), form
        assert all(why in reason for _, reason in report.skipped), (form, report.skipped)


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "loftq"])
def test_a_state_dict_alone_lacks_the_scaling_and_nothing_else(name):
    model = lora(*PLAIN[name])
    scales = {layer: module.scaling["default"] for layer, module in layers(model).items()}
    expected = {key: W / (scales[key.partition(" expert")[0]] or 1) for key, W in judged(model).items()}
    report = adapters(model.state_dict())
    assert all("taken as 1" in item.chain.notes[0] for item in report)
    if 0 not in scales.values():
        agree(report, expected)


@pytest.mark.parametrize("name", ["dora", "velora", "monteclora", "kasa", "bdlora", "convolution"])
def test_a_variant_with_tensors_of_its_own_is_known_from_the_state_dict_alone(name):
    model = lora(*NO_PAIR[name][0])
    alone = adapters(model.state_dict())
    assert not len(alone) and {short(label) for label, _ in alone.skipped} == set(layers(model))


def test_every_variant_that_peft_knows_is_tried():
    fields = peft.LoraConfig.__dataclass_fields__
    variants = {key for key, field in fields.items() if field.metadata.get("is_lora_variant")}
    tried = {key for (_, values), _ in NO_PAIR.values() for key in values} | {
        key for _, values in PLAIN.values() for key in values
    }
    assert variants <= tried


def test_adapters_of_one_layer_are_told_apart(tmp_path):
    model = adapted(Net(), peft.LoraConfig(use_dora=True, **LAYERS))
    model.add_adapter("style", peft.LoraConfig(init_lora_weights=False, **LAYERS))
    expected = {name: W for name, W in judged(model).items() if "style" in name}
    for _, report in [("model", adapters(model)), ("state dict", adapters(model.state_dict(), scaling=2.0))]:
        agree(report, expected)
        assert {short(name) for name, _ in report.skipped} == {"q", "v"}


def test_a_pair_beside_another_method_is_a_pair():
    model = peft.PeftMixedModel(Net(), peft.LoraConfig(init_lora_weights=False, **LAYERS))
    model.add_adapter("other", peft.LoHaConfig(init_weights=False, **LAYERS))
    for report in (adapters(model), adapters(model.state_dict(), scaling=2.0)):
        agree(report, {"q": judged(model)["q"], "v": judged(model)["v"]})
        assert {short(name) for name, _ in report.skipped} == {"q", "v"} and "LoHa" in report.skipped[0][1]


def test_tied_and_half_frozen_pairs_are_no_pairs():
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=32,
        tie_word_embeddings=True,
    )  # fmt: skip
    settings = {"target_modules": ["embed_tokens", "lm_head"], "r": 4, "ensure_weight_tying": True}
    tied = adapters(adapted(transformers.LlamaForCausalLM(config), peft.LoraConfig(**settings)))
    assert not len(tied) and ["(tied)" in reason for _, reason in tied.skipped] == [True, True]
    model = adapted(Net(), peft.LoraConfig(**LAYERS))
    model.base_model.model.q.lora_A.default.weight.requires_grad_(False)
    half = adapters(model)
    assert [short(a.name) for a in half] == ["v"] and "lora_A.default.weight is frozen" in half.skipped[0][1]
    assert [c.frozen for c in audit(model).chains if "q" in c.name] == [1]
    whole = adapters(model.requires_grad_(False))
    assert len(whole) == 2 and "frozen" in whole[0].chain.notes[-1]
    assert not adapters(model.state_dict())[0].chain.notes[1:]  # nothing is known of training there


def test_what_the_configuration_or_the_frozen_weight_contradicts_is_no_pair():
    A, B = np.ones((6, 8)), np.ones((5, 6))
    state = {"x.lora_A.weight": A, "x.lora_B.weight": B}
    assert "rank 4" in adapters(state, config={"r": 4, "lora_alpha": 1}).skipped[0][1]
    assert len(adapters(state, config={"r": 4, "rank_pattern": {"x": 6}, "lora_alpha": 1})) == 1
    assert "rank 3" in adapters(state, config={"r": 3, "lora_alpha": 1, "target_parameters": ["y.w"]}).skipped[0][1]
    pooled = adapters({"x.lora_A.weight": A, "x.lora_B.weight": B}, config={"use_qalora": True, "lora_alpha": 1})
    assert "groups of inputs" in pooled.skipped[0][1]
    # Blocks of A on the diagonal are stored side by side: of half the width.
    frozen = adapters(state | {"x.base_layer.weight": np.ones((5, 16))})
    assert "5×16" in frozen.skipped[0][1]
    for shape in ((5, 8), (8, 5)):  # nn.Linear and Conv1D
        assert len(adapters(state | {"x.weight": np.ones(shape)})) == 1
    root = {"lora_A.weight": A, "lora_B.weight": B, "lora_magnitude_vector": np.ones(5)}
    assert "norm of the sum" in adapters(root).skipped[0][1]
    assert "lora_new" in adapters(state | {"x.lora_new.weight": A}).skipped[0][1]


def test_factors_without_the_other_and_names_of_other_libraries_are_listed():
    B = np.ones((5, 2))
    for name in ("q.lora_B.weight", "q.lora_B.default.weight", "q.lora_embedding_B", "lora_B"):
        (skipped,) = adapters({name: B}).skipped
        assert skipped == (name.rpartition("lora_")[0][:-1].removesuffix("."), f"{name.replace('B', 'A')} is missing")
    kohya = {f"lora_unet_mid_q.lora_{x}.weight": B for x in ("down", "up")} | {"lora_unet_mid_q.alpha": np.array(2.0)}
    (skipped,) = adapters(kohya).skipped
    assert skipped[0] == "lora_unet_mid_q" and "rename lora_down" in skipped[1]


def test_words_that_only_begin_alike_are_no_adapters():
    state = {
        "road_encoder.weight": np.ones((3, 3)),
        "shadow_net.0.weight": np.ones((3, 3)),
        "my_lora_A": np.ones((2, 3)),
        "prompt_encoder.point_embeddings.0.weight": np.ones((1, 3)),  # of Segment Anything
    }
    assert not adapters(state).skipped
    inside = {"xlora_A.weight": np.ones((2, 9)), "xlora_B.weight": np.zeros((5, 2))}
    assert not len(adapters(inside)) and not len(audit(inside))


# --- the scaling --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0, -1, 0.5])
def test_the_scale_of_a_layer_is_the_one_in_use(factor):
    model = adapted(Net(), peft.LoraConfig(**LAYERS))
    (before, _), (plain, _) = adapters(model), audit(model).chains
    for layer in layers(model).values():
        layer.set_scale("default", factor)
    after, audited = adapters(model)[0], next(c for c in audit(model).chains if c.name == plain.name)
    agree(adapters(model), judged(model))
    assert after.chain.scale == factor * before.chain.scale
    assert np.array_equal(after.imbalance, before.imbalance) and after.floors == before.floors
    for name in ("least_on_tangent", "greatest"):  # of order s²
        assert getattr(after, name) == pytest.approx(factor**2 * getattr(before, name), rel=1e-14)
        assert getattr(audited.spectrum, name) == pytest.approx(factor**2 * getattr(plain.spectrum, name), rel=1e-14)
    assert np.asarray(after.singular_values) == pytest.approx(
        abs(factor) * np.asarray(before.singular_values), rel=1e-14
    )
    assert json.dumps(after.to_dict(), allow_nan=False) and str(adapters(model)) and str(audited)
    if factor == 0:
        with pytest.raises(ValueError, match="stays 0"):
            after.step_ratio_at(1.0)
        with pytest.raises(ValueError, match="scale is 0"):
            after.chain.network()
    else:
        assert after.step_ratio_at(1.0) == pytest.approx(before.step_ratio_at(1.0 / abs(factor)), rel=1e-14)
        product = np.asarray(after.chain.network().product())
        assert product == pytest.approx(judged(model)["q"].T, rel=1e-6, abs=1e-6)


def test_a_scale_of_zero_has_no_step_size():
    import linflow as lf

    state = {"q.lora_A.weight": np.eye(2, 4), "q.lora_B.weight": np.ones((3, 2))}
    found = audit(state, lf.MatrixFactorization(np.ones((4, 3))), scaling=0)[0]
    assert found.step_size is None and "scale is 0" in found.step_reason and found.condition == np.inf


STATE = {"q.lora_A.weight": np.eye(2, 4), "q.lora_B.weight": np.ones((3, 2))}


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"lora_alpha": "16"}, "lora_alpha"),
        ({"lora_alpha": True}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": 4, "use_rslora": "false"}, "use_rslora"),
        ({"lora_alpha": 4, "use_rslora": 1}, "use_rslora"),
        ({"lora_alpha": 4, "r": "2"}, "r .or rank_pattern"),
        ({"lora_alpha": 4, "rank_pattern": {"q": 1.5}}, "rank_pattern"),
        ({"lora_alpha": 4, "alpha_pattern": {"q": None}}, "alpha_pattern"),
        ({"lora_alpha": 4, "alpha_pattern": ["q"]}, "alpha_pattern"),
        ({"lora_alpha": 4, "alpha_pattern": {"(": 3}}, "regular expression"),
    ],
)
def test_values_of_the_configuration_are_checked(config, what):
    with pytest.raises((TypeError, ValueError), match=what):
        adapters(STATE, config=config)


@pytest.mark.parametrize("scaling", ["2", True, float("inf"), float("nan"), None])
def test_the_scaling_given_is_a_finite_number(scaling):
    if scaling is None:
        assert adapters(STATE)[0].chain.scale == 1
    else:
        with pytest.raises((TypeError, ValueError), match="scaling"):
            adapters(STATE, scaling=scaling)


def test_scalings_of_the_configuration_and_of_other_modules():
    assert adapters(STATE, config={"lora_alpha": 0})[0].chain.scale == 0
    assert adapters(STATE, config={"lora_alpha": -4})[0].chain.scale == -2

    class Other(torch.nn.Module):  # as Microsoft's loralib has it
        def __init__(self):
            super().__init__()
            self.scaling = 0.25
            self.lora_A = torch.nn.Parameter(torch.eye(2, 4))
            self.lora_B = torch.nn.Parameter(torch.ones(3, 2))

    assert find_chains(torch.nn.Sequential(Other())).chains[0].scale == 0.25


def test_alignment_with_a_negative_scaling_is_that_of_minus_a():
    from linflow.torch import alignment

    rng = np.random.default_rng(0)
    A, B, G = rng.standard_normal((2, 4)), rng.standard_normal((3, 2)) / 10, rng.standard_normal((3, 4))
    negative, positive = alignment(A, B, G, -2.0), alignment(-A, B, G, 2.0)
    assert np.array_equal(negative.times, positive.times) and np.array_equal(negative.start, positive.start)
    with pytest.raises(ValueError, match="scaling is 0"):
        alignment(A, B, G, 0)


def test_the_kind_that_the_configuration_states_is_believed():
    found = adapters(STATE, config={"peft_type": "NEWLORA", "lora_alpha": 2})
    assert not len(found) and all("NEWLORA" in reason for _, reason in found.skipped)
    assert len(adapters(STATE, config={"peft_type": "LORA", "lora_alpha": 2})) == 1
