"""The objectives by their names in files and on the command line: one registry, its options, headings and sweeps."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import linflow as lf
from linflow.experiments.building import objective_of
from linflow.experiments.forms import FORMS, OPTIONS, options_of
from linflow.experiments.schema import DataSection, Kind, experiment


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    Y = rng.standard_normal((3, 2))
    Y[1, 0] = np.nan
    np.savetxt("missing.csv", Y, delimiter=",")
    np.save("missing.npy", Y)
    np.save("A.npy", rng.standard_normal((4, 6)))
    np.save("b.npy", rng.standard_normal(4))
    np.save("X.npy", rng.standard_normal((6, 3)))
    np.save("Y.npy", rng.standard_normal((6, 2)))
    np.savetxt("classes.csv", [0, 1, 2, 0, 1, 2], fmt="%d")
    np.save("I.npy", np.vstack([np.eye(3), 2 * np.eye(3)]))
    return tmp_path


def made(**data):
    return objective_of(DataSection(**data))


def test_each_name_has_a_form_and_each_option_a_key():
    assert set(get_args(Kind)) == set(FORMS)
    assert set(OPTIONS) <= set(DataSection.model_fields)
    assert all(key in form.options for form in FORMS.values() for key, _ in form.needs)


def test_a_target_with_missing_entries_is_a_completion(folder):
    (folder / "empty.csv").write_text(Path("missing.csv").read_text().replace("nan", ""))
    g = made(target="empty.csv", missing="empty")
    assert isinstance(g, lf.Completion) and g.known.tolist() == [[1, 1], [0, 1], [1, 1]]
    for file in ("missing.csv", "missing.npy"):
        f = made(target=file, missing="nan")
        assert isinstance(f, lf.Completion) and f.known.tolist() == [[1, 1], [0, 1], [1, 1]]
    with pytest.raises(ValueError, match="holds nan at row 2, column 1"):
        made(target="missing.csv")
    np.save("inf.npy", [[np.nan, np.inf]])
    with pytest.raises(ValueError, match="holds inf at row 1, column 2"):
        made(target="inf.npy", missing="nan")


def test_sensing_has_its_shape(folder):
    f = made(x="A.npy", y="b.npy", objective="sensing", shape=(3, 2))
    assert isinstance(f, lf.Sensing) and f.shape == (3, 2)
    twin = lf.Sensing(np.load("A.npy").reshape(4, 3, 2), np.load("b.npy"))
    W = np.arange(6.0).reshape(3, 2)
    assert f.value(W) == twin.value(W)


def test_options_are_used_or_refused():
    with pytest.raises(ValueError, match="p is 3, but regression does not use it; leave it out, or use --objective"):
        options_of("regression", {"p": 3.0, "shape": None})
    with pytest.raises(ValueError, match="sensing needs shape: the rows and columns"):
        options_of("sensing", {"shape": None})
    assert options_of("powers", {"p": None}) == {} and options_of("powers", {"p": 3.0}) == {"p": 3.0}


def test_files_name_what_a_shape_needs(folder):
    (folder / "e.toml").write_text('[data]\nx = "A.npy"\ny = "b.npy"\nobjective = "sensing"\nshape = [3]\n')
    with pytest.raises(ValueError, match=r"line 5: data.shape is \[3\]: two whole numbers are needed"):
        experiment(folder / "e.toml")
    (folder / "e.toml").write_text('[data]\nx = "A.npy"\ny = "b.npy"\nobjective = "sensing"\nshape = [3, 2]\n')
    whole = experiment(folder / "e.toml").to_toml(folder)
    assert "shape = [3, 2]" in whole and experiment(folder / "e.toml").data.shape == (3, 2)


def test_sweeps_take_them(folder, here):
    start = {"init": "imbalanced", "hidden": [6], "size": 2.0}
    found = lf.sweep({"data": {"target": "missing.csv", "missing": "nan"}, "start": start, "grid": {"seed": [1, 2]}})
    net = lf.init.imbalanced((3, 6, 2), [2.0], rng=1)
    row = found.to_pylist()[0] if hasattr(found, "to_pylist") else dict(found.iloc[0])
    assert row["certified_rate"] == pytest.approx(lf.certify(lf.Completion(np.load("missing.npy")), net).rate)


def test_regressions_have_weights_and_a_ridge(folder, here):
    np.savetxt("w.csv", np.arange(1.0, 7.0))
    f = made(x="X.npy", y="Y.npy", sample_weights="w.csv", ridge=0.5)
    twin = lf.LinearRegression(np.load("X.npy"), np.load("Y.npy"), weights=np.arange(1.0, 7.0), ridge=0.5)
    assert np.array_equal(f.X, twin.X) and f.minimum == twin.minimum  # type: ignore[attr-defined]
    assert made(x="X.npy", y="Y.npy", ridge=0.0).minimum == made(x="X.npy", y="Y.npy").minimum
    (folder / "sub").mkdir()
    (folder / "sub" / "e.toml").write_text('[data]\nx = "../X.npy"\ny = "../Y.npy"\nsample_weights = "../w.csv"\n')
    assert objective_of(experiment(folder / "sub" / "e.toml").data).minimum > 0
    grid = {"data": {"x": "X.npy", "y": "Y.npy", "sample_weights": "w.csv"}, "start": {"hidden": [9]}}
    found = lf.sweep({**grid, "grid": {"ridge": [0.0, 1.0]}})
    rates = found["pl_constant"].to_pylist() if hasattr(found, "to_pylist") else list(found["pl_constant"])
    assert rates[1] - rates[0] == pytest.approx(2.0, rel=1e-9)


def test_softmax_takes_classes_and_a_mean(folder):
    f = made(x="I.npy", y="classes.csv", objective="softmax")
    g = made(x="I.npy", y="classes.csv", objective="softmax", mean=True)
    W = np.arange(9.0).reshape(3, 3)
    assert isinstance(f, lf.SoftmaxLoss) and f.shape == (3, 3) and f.value(W) == pytest.approx(6 * g.value(W))
    with pytest.raises(ValueError, match="mean is True, but logistic does not use it"):
        made(x="X.npy", y="Y.npy", objective="logistic", mean=True)


def test_huber_takes_its_threshold(folder):
    f, g = made(x="X.npy", y="Y.npy", objective="huber", delta=0.25), made(x="X.npy", y="Y.npy", objective="huber")
    assert isinstance(f, lf.Huber) and isinstance(g, lf.Huber) and (f.delta, g.delta) == (0.25, 1.0)
    with pytest.raises(ValueError, match=r"delta is 0\.25, but regression does not use it"):
        made(x="X.npy", y="Y.npy", delta=0.25)
