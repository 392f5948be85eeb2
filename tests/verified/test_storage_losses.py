"""Verified runs of every loss on disk: what is read answers as what was saved; wrong data are an error of a line."""

from typing import Any

import h5py
import numpy as np
import pytest

import linflow as lf
from linflow.dynamics.storage.schema import SEALED
from linflow.files import FileError
from linflow.verified.storage.schema import READ


def problems() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    X, Y = rng.standard_normal((6, 2)) / 2, rng.standard_normal((6, 2))
    net = lf.init.imbalanced((2, 3, 2), [1.0], rng=1)
    W0 = 0.1 * rng.standard_normal((2, 2))
    hole = Y[:2].copy()
    hole[0, 1] = np.nan
    adapted = lf.lora(lf.LinearRegression(X, Y), W0, rng.standard_normal((2, 2)), np.eye(2), scaling=0.5)
    separable = np.vstack([np.eye(2), 2 * np.eye(2)])
    return {
        "sensing": (lf.Sensing(rng.standard_normal((3, 2, 2)) / 2, [1.0, 0.0, 2.0]), net),
        "completion": (lf.Completion(hole), net),
        "an empty row": (lf.Completion(np.vstack([hole[:1], [[np.nan] * 2]])), net),
        "softmax": (lf.SoftmaxLoss(separable, [0, 1, 0, 1], classes=2, mean=True), net),
        "three classes": (lf.SoftmaxLoss(separable, [0, 1, 0, 1], classes=3), lf.init.gaussian((2, 3, 3), rng=1)),
        "huber": (lf.Huber(X, Y + np.array([[5.0, 0]] + 5 * [[0, 0]]), 0.5), net),
        "weighted": (lf.LinearRegression(X, Y, weights=[0, 1, 2, 1, 0.5, 1]), net),
        "ridge": (lf.LinearRegression(X, Y, ridge=0.3), net),
        "lora": adapted,
        "shifted sensing": (lf.Sensing(rng.standard_normal((3, 2, 2)) / 2, [1.0, 0.0, 2.0]).shifted(W0), net),
        "shifted huber": (lf.Huber(X, Y, 0.5).shifted(W0), net),
    }


PROBLEMS = problems()


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_flow_that_is_read_answers_the_same(name, tmp_path):
    f, net = PROBLEMS[name]
    enc = lf.enclose(f, net, t_max=0.1)
    enc.save(tmp_path / "proof.nc")
    back: Any = lf.load(tmp_path / "proof.nc")
    assert type(back) is type(enc) and type(back.objective) is type(f) and back.objective.samples == f.samples
    assert (back.result, back.reason, len(back.steps)) == (enc.result, enc.reason, len(enc.steps)) and enc.steps
    assert back.notes == (*enc.notes, READ)
    t = np.linspace(0, enc.end, 3)
    for question in ("gap_bounds", "rate_bounds", "singular_value_bounds", "least_eigenvalue_bounds"):
        for was, now in zip(getattr(enc, question)(t), getattr(back, question)(t), strict=True):
            np.testing.assert_array_equal(was, now)
    assert back.certificate_reason == enc.certificate_reason
    assert (back.certificate is None) == (enc.certificate is None)
    W = np.arange(float(np.prod(f.shape))).reshape(f.shape)
    assert back.objective.value(W) == f.value(W) and np.array_equal(back.objective.gradient(W), f.gradient(W))
    cert = lf.certify(f, net)
    assert cert.check(back).to_dict() == cert.check(enc).to_dict()


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_descent_that_is_read_answers_the_same(name, tmp_path):
    f, net = PROBLEMS[name]
    enc = lf.enclose(f, net, algorithm="descent", step_size=0.02, steps=15)
    enc.save(tmp_path / "proof.nc")
    back: Any = lf.load(tmp_path / "proof.nc")
    np.testing.assert_array_equal(back.gap_bounds(range(16)), enc.gap_bounds(range(16)))
    assert repr(back) == repr(enc) and repr(back.objective) == repr(f)


def test_batches_of_a_ridge_are_those_of_its_samples(tmp_path):
    f, net = PROBLEMS["ridge"]
    lf.enclose(f, net, t_max=0.1).save(tmp_path / "proof.nc")
    back: Any = lf.load(tmp_path / "proof.nc")
    g, W, rows = back.objective, np.eye(2), np.array([0, 3])
    assert len(g.X) == 8 and np.array_equal(g.batch_gradient(W, rows), f.batch_gradient(W, rows))


def test_functions_cannot_be_saved(tmp_path):
    f, net = PROBLEMS["softmax"]
    f = f.shifted(0.1 * np.eye(2))
    enc = lf.enclose(*PROBLEMS["sensing"], t_max=0.1)
    object.__setattr__(enc, "objective", f)
    with pytest.raises(ValueError, match=r"a Objective cannot be saved|of a Objective cannot be saved"):
        enc.save(tmp_path / "proof.nc")
    with pytest.raises(ValueError, match="also needs"):
        lf.enclose(f, net, t_max=0.1)  # its errors are not declared


@pytest.mark.parametrize(
    ("name", "part", "value", "message"),
    [
        ("sensing", "shape", [[3.0, 2.0]], "its objective cannot be made"),
        ("sensing", "shape", [[2.0, 1.5]], "shape is not a whole number"),
        ("sensing", "shape", [[-2.0, -2.0]], "shape is not a whole number"),
        ("sensing", "shape", [[2.0]], "shape is not two numbers"),
        ("completion", "known", [[0.0, 0.0], [0.0, 0.0]], "no entry is known"),
        ("completion", "known", [[0.5, 1.0], [1.0, 1.0]], "mask is not an array of True and False"),
        ("softmax", "labels", [[0.5], [1.0], [0.0], [1.0]], "labels holds 0.5"),
        ("softmax", "classes", [[1.0]], "classes is not a whole number"),
        ("softmax", "classes", [[1e300]], "its objective cannot be made"),
        ("softmax", "mean", [[-1.0]], "mean is not a whole number"),
        ("huber", "delta", [[0.0]], "delta is 0"),
        ("huber", "delta", [[1.0, 1.0]], "delta is not a single number"),
        ("huber", "delta", [[np.nan]], "finite numbers are needed"),
        ("ridge", "samples", [[9.0]], "fewer than 9 samples"),
    ],
)
def test_data_that_make_no_objective_are_refused(name, part, value, message, tmp_path):
    path = tmp_path / "proof.nc"
    lf.enclose(*PROBLEMS[name], algorithm="descent", step_size=0.02, steps=1).save(path)
    path.write_bytes(path.read_bytes()[:-SEALED])
    with h5py.File(path, "r+") as file:
        del file.attrs["checksum"]
        del file[f"objective_{part}"]
        file.create_dataset(f"objective_{part}", data=np.array(value))
    with pytest.raises(FileError, match=message):
        lf.load(path)
