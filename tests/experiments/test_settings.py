"""Experiment files: what is in them, what is wrong with them, and that they say all that a command can."""

import json
import re

import numpy as np
import pytest

import linflow as lf
from linflow.cli._options import OPTIONS
from linflow.experiments.building import network_of, objective_of, steps_of
from linflow.experiments.schema import SECTIONS, Experiment, experiment
from linflow.experiments.setup import Setup


def test_every_option_is_a_key_and_every_key_an_option():
    keys = {f"{name}.{key}" for name, model in SECTIONS.items() for key in model.model_fields} | {"algorithm"}
    assert {key for key, *_ in OPTIONS.values()} == keys
    assert set(Experiment.model_fields) == {*SECTIONS, "algorithm"}


def test_a_file_says_what_it_was_made_from(tmp_path):
    made = experiment(
        None,
        {
            "data.target": "Y.csv",
            "start.init": "gaussian",
            "start.hidden": [64, 8],
            "flow.until": 1e-8,
            "start.size": 0.1 + 0.2,
        },
    )
    path = tmp_path / "experiment.toml"
    path.write_text(made.to_toml(), encoding="utf-8")
    again = experiment(path)
    assert again.data.target == tmp_path / "Y.csv"  # paths are those of the file's folder
    assert again.model_copy(update={"data": made.data}) == made
    assert experiment(path, {"flow.until": 1e-3}).flow.until == 1e-3
    assert again.start.size == 0.1 + 0.2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'algorithm = "flow"\n[start]\nhiden = [3]\n',
            r"line 3: start\.hiden is an unknown key; did you mean hidden\?",
        ),
        ("[flow]\nrtol = 1e-8\nuntil = 2.0\n", r"line 3: flow\.until is 2\.0: input should be less than 1"),
        ("[flw]\nuntil = 0.1\n", r"line 1: flw is an unknown key; did you mean flow\?"),
        ('algoritm = "flow"\n', r"line 1: algoritm is an unknown key; did you mean algorithm\?"),
        ("[start]\nhidden = [3, -1]\n", r"line 2: start\.hidden is -1: input should be greater than or equal to 1"),
        ('[descent]\nstep_size = "save"\n', r"line 2: descent\.step_size is 'save'"),
        ('[data]\nobjective = "lasso"\n', r"line 2: data\.objective is 'lasso': input should be 'factorization'"),
        ("[start]\nseed = 1.5\n", r"line 2: start\.seed is 1\.5"),
        ("[start\n", r"is not TOML: .*line 1"),
        (
            'algorithm = "flow"\nstart = {hiden = [3]}\n',
            r"line 2: start\.hiden is an unknown key; did you mean hidden",
        ),
        ("flow = { rtol = 1e-8, until = 2.0 }\n", r"line 1: flow\.until is 2\.0"),
        ("start = {size = 2.0}\n", r"line 1: start\.size is 2\.0, which is not used"),
        ("data = 3\n", r"line 1: data is 3: a table is needed, such as \[data\]"),
        ('x = "X.csv"\n', r"line 1: x is an unknown key; did you mean data\.x\?"),
        ("[start]\nhidden = 64\n", r"line 2: start\.hidden is 64: a list is needed, such as \[64, 64\]"),
        ('[start]\ninit = "nkt"\n', r"line 2: start\.init is 'nkt': .*Did you mean ntk\?"),
        ("[start]\nseed = true\n", r"line 2: start\.seed is True"),
        ('[flow]\nuntil = "1e-3"\n', r"line 2: flow\.until is '1e-3'"),
        (
            "[data]\nzzz = 1\n",
            r"line 2: data\.zzz is an unknown key; there are x, y, target, objective, p, shape, missing, .*, ridge",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text, message, tmp_path):
    path = tmp_path / "e.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        experiment(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "e.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"):
        experiment(tmp_path / "e.toml")


def test_an_option_is_named_as_it_is_typed():
    with pytest.raises(ValueError, match=r"option --t-max is -1\.0: input should be greater than 0"):
        experiment(None, {"flow.t_max": -1.0})


@pytest.fixture
def data(tmp_path, rng):
    np.savetxt(tmp_path / "X.csv", rng.standard_normal((30, 4)), delimiter=",")
    np.savetxt(tmp_path / "Y.csv", rng.standard_normal((30, 2)), delimiter=",")
    np.savetxt(tmp_path / "short.csv", rng.standard_normal((29, 2)), delimiter=",")
    np.savetxt(tmp_path / "labels.csv", np.sign(rng.standard_normal((30, 1))), delimiter=",")
    return tmp_path


def test_objectives_come_from_the_data(data):
    def of(**keys):
        given = {f"data.{key}": str(data / value) if key != "objective" else value for key, value in keys.items()}
        return objective_of(experiment(None, given).data)

    assert type(of(x="X.csv", y="Y.csv")) is lf.LinearRegression
    assert type(of(target="Y.csv")) is lf.MatrixFactorization
    with pytest.raises(ValueError, match=r"30 rows and .*short\.csv has 29"):
        of(x="X.csv", y="short.csv")
    for wrong in ({}, {"x": "X.csv"}, {"x": "X.csv", "y": "Y.csv", "target": "Y.csv"}, {"y": "Y.csv"}):
        with pytest.raises(ValueError, match=r"needs .*--"):
            of(**wrong)


def test_starts_are_drawn_as_asked_or_read(data):
    target = {"data.target": str(data / "Y.csv")}
    f = objective_of(experiment(None, target).data)
    drawn = experiment(
        None, {**target, "start.init": "gaussian", "start.size": 0.5, "start.hidden": [7], "start.seed": 3}
    )
    expected = lf.init.gaussian((30, 7, 2), 0.5, rng=3)
    assert all(np.array_equal(a, b) for a, b in zip(network_of(drawn, f).weights, expected.weights, strict=True))
    assert network_of(drawn, f, wider=4).widths == (30, 28, 2)
    lf.files.save_weights(expected, data / "w.npz")
    read = network_of(experiment(None, {**target, "start.weights": str(data / "w.npz")}), f)
    assert all(np.array_equal(a, b) for a, b in zip(read.weights, expected.weights, strict=True))
    for wrong, message in [
        ({}, "no hidden widths"),
        ({"start.init": "ntk", "start.size": 2.0, "start.hidden": [3]}, "ntk has no size"),
        ({"start.weights": str(data / "w.npz"), "start.hidden": [3]}, "option --hidden is .* leave it out"),
    ]:
        with pytest.raises(ValueError, match=message):
            network_of(experiment(None, {**target, **wrong}), f)
    for init in re.findall(r"\w+", "gaussian ntk fan_in fan_out orthogonal balanced imbalanced spectral small"):
        net = network_of(experiment(None, {**target, "start.init": init, "start.hidden": [40]}), f)
        assert net.widths == (30, 40, 2)


def test_an_option_beside_a_section_that_is_none(tmp_path):
    (tmp_path / "e.toml").write_text("data = 3\n", encoding="utf-8")
    with pytest.raises(ValueError, match="a table is needed"):
        experiment(tmp_path / "e.toml", {"data.x": "X.csv"})


@pytest.mark.parametrize(
    ("given", "key", "value", "way_out"),
    [
        ({}, "descent.step_size", 0.1, "choose algorithm descent"),
        ({}, "descent.steps", 7, "choose algorithm descent"),
        ({}, "design.steps", 7, "choose algorithm descent"),
        ({"algorithm": "descent"}, "flow.t_max", 2.0, r"descent\.steps \(--steps\)"),
        ({"algorithm": "descent"}, "flow.rtol", 1e-9, "choose algorithm flow"),
        ({"algorithm": "descent"}, "flow.max_steps", 7, "choose algorithm flow"),
        ({"algorithm": "descent"}, "design.rate", 7.0, r"design\.steps \(--within\)"),
        ({"start.weights": "w.npz"}, "start.init", "gaussian", "read from a file"),
        ({"start.weights": "w.npz"}, "start.hidden", [4], "read from a file"),
        ({"start.weights": "w.npz"}, "start.size", 4.0, "read from a file"),
        ({"start.weights": "w.npz"}, "start.seed", 4, "read from a file"),
        ({"start.init": "fan_in"}, "start.size", 4.0, "fan_in has no size"),
        ({}, "start.layers", ["up", "down"], r"give start\.weights \(--weights\)"),
    ],
)
def test_what_would_be_ignored_is_refused(given, key, value, way_out, tmp_path):
    experiment(None, given)
    option = {"design.steps": "--within"}.get(key, "--" + key.rpartition(".")[2].replace("_", "-"))
    with pytest.raises(ValueError, match=rf"^option {option} is .*, which is not used: .*{way_out}"):
        experiment(None, {**given, key: value}, {"design.steps": "--within"})
    section, name = key.split(".")
    path = tmp_path / "e.toml"
    path.write_text(f"[{section}]\n{name} = {json.dumps(value)}\n")
    with pytest.raises(ValueError, match=rf"e\.toml, line 2: {key} is .*, which is not used: .*{way_out}"):
        experiment(path, given)


def test_layers_of_a_file_of_weights_are_named(tmp_path):
    rng = np.random.default_rng(0)
    up, down = rng.standard_normal((2, 3, 3))
    np.savez(tmp_path / "w.npz", up=up, down=down)
    np.save(tmp_path / "Y.npy", np.eye(3))
    target = {"data.target": tmp_path / "Y.npy", "start.weights": tmp_path / "w.npz"}
    with pytest.raises(ValueError, match="--layers up,down"):
        Setup.of(experiment(None, target))
    made = experiment(None, {**target, "start.layers": ["up", "down"]})
    assert np.array_equal(Setup.of(made).network.product(), up @ down)
    (tmp_path / "e.toml").write_text(made.to_toml())
    assert experiment(tmp_path / "e.toml") == made


def test_a_default_that_is_typed_is_refused_and_one_in_a_complete_file_is_not(tmp_path):
    with pytest.raises(ValueError, match="option --step-size is 'safe', which is not used"):
        experiment(None, {"descent.step_size": "safe"})
    for given in ({}, {"algorithm": "descent"}, {"start.weights": str(tmp_path / "w.npz")}):
        made = experiment(None, given)
        (tmp_path / "e.toml").write_text(made.to_toml())
        assert experiment(tmp_path / "e.toml") == made


def test_a_multiplier_is_a_factor_on_every_drawn_layer(tmp_path):
    np.save(tmp_path / "Y.npy", np.eye(3))
    made = {"data.target": tmp_path / "Y.npy", "start.hidden": [5, 4]}
    for init in ("ntk", "gaussian", "balanced", "spectral"):
        once, thrice = (experiment(options={**made, "start.init": init, "start.multiplier": x}) for x in (1.0, 3.0))
        first, second = Setup.of(once).network, Setup.of(thrice).network
        assert second.scale == first.scale
        for W, V in zip(first.weights, second.weights, strict=True):
            np.testing.assert_array_equal(V, 3.0 * W)
    with pytest.raises(ValueError, match=r"option --multiplier is 0"):
        experiment(options={"start.multiplier": 0.0})


def test_schedules_of_a_descent(tmp_path):
    import linflow as lf
    from linflow.experiments.analysis import analyse

    np.save(tmp_path / "Y.npy", np.diag([1.0, 0.5]))
    made = {"data.target": tmp_path / "Y.npy", "start.hidden": [8], "algorithm": "descent", "flow.until": 1e-4}
    steps = {}
    for schedule in ("constant", "backtracking", "local_smoothness", "xu2025"):
        found = analyse(experiment(options={**made, "descent.schedule": schedule}))
        assert found.run.result.value == "target reached"
        assert found.check.holds
        # The verified descent takes the same steps, and proves their number.
        assert found.proof.steps_bounds(1e-4) == (found.run.stats.steps, found.run.stats.steps)
        steps[schedule] = found.run.stats.steps
    eta = lf.safe_step_size(found.objective, found.network)
    run = lf.gradient_descent(found.objective, found.network, step_size=eta, steps=10_000, until=1e-4)
    assert steps["constant"] == run.stats.steps
    rule = lf.schedules.local_smoothness()
    run = lf.gradient_descent(found.objective, found.network, schedule=rule, steps=10_000, until=1e-4)
    assert steps["local_smoothness"] == run.stats.steps < steps["constant"]
    assert (
        analyse(experiment(options={**made, "descent.schedule": "xu2025", "descent.step_size": 0.01})).run.step_sizes[
            0
        ]
        == 0.01
    )
    one = experiment(options={**made, "descent.schedule": "local_smoothness", "descent.step_size": 0.01})
    with pytest.raises(ValueError, match="computes its own steps"):
        steps_of(one, found.objective, found.network)
