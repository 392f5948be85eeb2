"""Names that a module does not have: the error says what is near, or where it is."""

import ast
import importlib
from collections import defaultdict
from pathlib import Path

import pytest

import linflow as lf

MODULES = ("linflow", "linflow.bounds", "linflow.exact", "linflow.files", "linflow.init", "linflow.plots",
           "linflow.schedules", "linflow.torch")  # fmt: skip


@pytest.mark.parametrize(
    ("module", "name", "said"),
    [
        ("linflow", "gradientflow", "Did you mean gradient_flow?"),
        ("linflow", "Matrixfactorization", "Did you mean MatrixFactorization?"),
        ("linflow", "torch_network", "import linflow.torch as lt"),
        ("linflow.init", "xavier", "between those of fan_in and fan_out"),
        ("linflow.init", "Glorot_uniform", "between those of fan_in and fan_out"),
        ("linflow.init", "kaiming_normal", "fan_in"),
        ("linflow.init", "gausian", "Did you mean gaussian?"),
        ("linflow.bounds", "two_layers_", "Did you mean two_layer?"),
        ("linflow.exact", "two_layers_scalar", "Did you mean two_layer_scalar?"),
        ("linflow.files", "load_weigths", "Did you mean load_weights?"),
        ("linflow.plots", "convergance", "Did you mean convergence?"),
        ("linflow.schedules", "cosine", "There are .*backtracking"),
        ("linflow.torch", "Monitr", "Did you mean Monitor?"),
    ],
)
def test_a_name_that_is_not_there(module, name, said):
    with pytest.raises(AttributeError, match=rf"^{module} has no '{name}'\..*{said}"):
        getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("module", MODULES)
def test_what_python_asks_for_itself_is_answered_shortly(module):
    if module == "linflow.torch":
        pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")
    found = importlib.import_module(module)
    assert not hasattr(found, "__wrapped__") and not hasattr(found, "_repr_html_")
    for name in dir(found):
        assert getattr(found, name) is not None or name.startswith("_")


def test_the_names_of_starts_are_all_there():
    init = lf.init
    public = {name for name, value in vars(init).items() if callable(value) and value.__module__ == init.__name__}
    with pytest.raises(AttributeError) as caught:
        _ = init.nothing_like_it
    listed = str(caught.value).partition("There are ")[2].rstrip(".").split(", ")
    assert set(listed) == {name for name in public if not name.startswith("_")}


def test_a_model_in_the_place_of_weights_is_pointed_to_its_network():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")
    f = lf.MatrixFactorization([[1.0]])
    layer = torch.nn.Linear(1, 1, bias=False)
    for model in (layer, torch.nn.Sequential(layer), [layer], (layer, layer)):
        for verb in (lf.certify, lf.gradient_flow, lf.safe_step_size, lf.margin):
            with pytest.raises(TypeError, match=r"linflow\.torch\.network\(model\) is its network"):
                verb(f, model)


def test_a_class_name_means_one_thing():
    """The public nouns of `lf.relu` apart: they are those of linear models, for ReLU networks."""
    root, places = Path(lf.__file__).parent, defaultdict(list)
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(root)}:{node.lineno}")
    assert len(places) > 100  # the package was read
    for name in {"Certificate", "Design", "Enclosure", "Network", "Trajectory"} & set(lf.relu.__all__):
        places[name] = [where for where in places[name] if not where.startswith("relu/")]
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
