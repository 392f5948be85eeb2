"""State dicts and configurations of others: names, patterns and sizes made to confuse, or to take for ever."""

import json
import struct

import numpy as np
import pytest

pytest.importorskip("torch")

from linflow.torch import _adapters, audit, audit_file
from linflow.torch._tangent import _moved
from tests.cli.test_terminal import EVIL

E = np.eye(3) + np.triu(np.ones((3, 3)))


@pytest.mark.parametrize("names", [("²", "³"), ("00", "01"), ("0", "00"), ("٣", "٤"), ("9" * 900, "1"), ("", "x")])
def test_names_that_are_nearly_numbers(names):
    found = audit({f"a.{name}.weight": E for name in names})
    assert len(found) == 0
    assert "named=" in str(found)


def test_names_begin_no_line(tmp_path):
    found = audit({f"a\nb{EVIL}.{l}.weight": (1 + l) * E for l in range(2)})
    assert str(found).count("\n") == 1
    assert str(found[0]).splitlines()[0].startswith("Chain(")
    assert str(audit({"x\ny.bias": np.ones(3), "x\ny.0.weight": E})).count("\n") == 0


def test_a_name_of_any_length(tmp_path):
    with pytest.raises(ValueError, match="a name of 1007 characters; at most 1000"):
        audit({"a" * 1000 + ".weight": E})


def test_many_layers_take_time_in_proportion():
    """600 layers that are alike: the number of pairs would take half a minute, and that of triples hours."""
    found = audit({f"a.{l}.weight": E / 3 for l in range(600)})
    assert len(found[0].chain.notes) == 600  # one for each layer but the first, and one on their names
    assert "a.0.weight and a.599.weight hold the same numbers" in found[0].chain.notes[-1]


def test_layers_alike_are_found_by_content():
    W = np.arange(6.0).reshape(2, 3)
    others = {"b.weight": W.T.copy(), "c.weight": np.where(W == 2, 9, W), "d.weight": W.astype(np.float32)}
    notes = " ".join(audit({"a.0.weight": W, "a.1.weight": 2 * W.T, **others})[0].chain.notes)
    assert "a.0.weight and b.weight hold" in notes
    assert "a.0.weight and d.weight hold" in notes
    assert "c.weight" not in notes
    zeros = np.array([[0.0, 1, 2]]), np.array([[-0.0, 1, 2]])
    found = audit({"a.0.weight": E, "a.1.weight": zeros[0], "b.weight": zeros[1]})
    assert "a.1.weight and b.weight hold" in " ".join(found[0].chain.notes)


def test_how_far_products_move_is_as_its_formula_says(rng):
    sizes, moves = rng.uniform(0.5, 2, (2, 7)).tolist()
    for l, found in enumerate(_moved(sizes, moves)):
        rest = [i for i in range(7) if i != l]
        literal = sum(moves[j] * np.prod([sizes[i] for i in rest if i != j]) for j in rest)
        assert found == pytest.approx(literal, rel=1e-14, abs=0)  # some ten roundings


# Configurations

PAIR = {"q.lora_A.weight": np.eye(2, 4), "q.lora_B.weight": np.ones((3, 2))}


def saved(tmp_path, config):
    from safetensors.numpy import save_file

    save_file(PAIR, tmp_path / "w.safetensors")
    (tmp_path / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("value", [0, -1, "x", [3], {}, 1e308, True, 2**70, 0.5, [[]], {"q": "x"}, {"q": None}])
@pytest.mark.parametrize(
    "key", ["r", "lora_alpha", "alpha_pattern", "rank_pattern", "use_rslora", "target_parameters"]
)
def test_a_wrong_value_is_an_error_of_one_line_or_none(tmp_path, key, value):
    path = saved(tmp_path, {"lora_alpha": 4, "r": 1, key: value})
    told = ""
    try:
        str(audit_file(path))
    except ValueError as error:
        told = str(error)
    assert "\n" not in told
    assert not told or "of the adapter's configuration" in told


@pytest.mark.parametrize("text", ['{"a":' * 50_000, "[" * 50_000, "9" * 5000, "\0", "null", "[1]"])
def test_a_configuration_that_is_none_counts_as_absent(tmp_path, text):
    assert len(audit_file(saved(tmp_path, text))) == 1


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+x", "(a|a)" * 30, "a?" * 30 + "a" * 30, "(" * 10_000, ".*.*.*.*.*b", r"(a*)*\1", "x{9999999999}"],
)
def test_patterns_that_would_take_for_ever(tmp_path, pattern):
    for key in ("alpha_pattern", "rank_pattern"):
        with pytest.raises(ValueError, match=f"{key} .*has patterns that take too long|not a regular expression"):
            _adapters._by_pattern({key: {pattern: 3}}, key, "a" * 60, None)


def test_patterns_as_they_are_written_are_read():
    layer = "base_model.model.model.layers.10.self_attn.q_proj"
    plain = {f"model.layers.{l}.self_attn.{word}_proj": l for l in range(500) for word in "qk"}
    assert _adapters._by_pattern({"k": plain}, "k", layer, None) == 10
    for pattern in (r".*\.layers\.(9|10)\..*q_proj", "q_proj", r"layers\.[0-9]+\.self_attn\.[qv]_proj", r"1\d\..*"):
        assert _adapters._by_pattern({"k": {"v_proj": 1, pattern: 5}}, "k", layer, None) == 5
    assert _adapters._by_pattern({"k": {r"layers\.1\..*": 5}}, "k", layer, 7) == 7


def test_a_header_of_a_great_length_is_no_header(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(ValueError, match=r"w\.safetensors"):
        audit_file(tmp_path / "w.safetensors")
