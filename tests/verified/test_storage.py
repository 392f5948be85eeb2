"""Verified runs on disk: what is read answers every question as what was saved, and says that it was read."""

import json
from typing import Any

import h5py
import numpy as np
import pytest

import linflow as lf
from linflow.dynamics.storage.schema import SEALED
from linflow.files import FileError
from linflow.files.loading import load
from linflow.verified.classification import TailGradient
from linflow.verified.storage.restoring import load_enclosure
from linflow.verified.storage.schema import READ


def problems():
    rng = np.random.default_rng(3)
    X, Y = rng.standard_normal((9, 3)), rng.standard_normal((9, 2))
    A = np.diag([1.0, 2.0, 3.0])
    return {
        "factorization": (lf.MatrixFactorization(rng.standard_normal((3, 2))), lf.init.gaussian((3, 4, 2), rng=1)),
        "narrowed": (lf.MatrixFactorization(rng.standard_normal((3, 2))), lf.init.gaussian((3, 40, 2), rng=1)),
        "regression": (lf.LinearRegression(X, Y), lf.Network(lf.init.gaussian((3, 4, 3, 2), rng=2).weights, 0.5)),
        "rank": (lf.LinearRegression(X[:2], Y[:2]), lf.init.gaussian((3, 4, 2), rng=2)),
        "quadratic": (
            lf.Quadratic(A, np.array([[2.0, 0.5], [0.5, 1.0]]), rng.standard_normal((3, 2))),
            lf.init.gaussian((3, 4, 2), rng=3),
        ),
    }


PROBLEMS = problems()
TAILS = {
    "exponential": (lf.ExponentialLoss([[3.0, 0.0], [0.0, -4.0]], [1, -1]), lf.init.gaussian((2, 3, 1), rng=4)),
    "logistic": (lf.LogisticLoss([[3.0, 0.0], [0.0, -4.0]], [1, -1]), lf.init.gaussian((2, 3, 1), rng=4)),
}


@pytest.fixture(params=sorted(PROBLEMS))
def problem(request):
    return PROBLEMS[request.param]


@pytest.fixture(params=sorted(PROBLEMS | TAILS))
def flow(request):
    return (PROBLEMS | TAILS)[request.param]


def again(enclosure, tmp_path) -> Any:
    enclosure.save(tmp_path / "proof.nc")
    return lf.load(tmp_path / "proof.nc")


def told(enclosure):
    """What it says in plain data, without the note that it was read."""
    found = enclosure.to_dict()
    found["notes"] = [note for note in found["notes"] if note != READ]
    return found


def test_a_flow_that_is_read_answers_every_question_the_same(flow, tmp_path):
    enc = lf.enclose(*flow, until=1e-2)
    back = again(enc, tmp_path)
    assert told(back) == told(enc) and back.notes[-1] == READ and READ not in enc.notes
    t = np.linspace(0, enc.end, 7)
    for question in ("gap_bounds", "rate_bounds", "singular_value_bounds", "least_eigenvalue_bounds"):
        for was, now in zip(getattr(enc, question)(t), getattr(back, question)(t), strict=True):
            np.testing.assert_array_equal(was, now)
    assert back.time_bounds(0.1) == enc.time_bounds(0.1)
    assert (back.t == enc.t).all() and (back.radius == enc.radius).all() and back.exponent == enc.exponent
    for was, now in zip(enc.network_at(t[3]).weights, back.network_at(t[3]).weights, strict=True):
        np.testing.assert_array_equal(was, now)
    assert back.certificate_reason == enc.certificate_reason and repr(back) == repr(enc)
    assert (back.certificate is None) == (enc.certificate is None)
    if enc.certificate is not None:
        assert back.certificate.to_dict() == enc.certificate.to_dict()
    if isinstance(enc.problem, TailGradient) or enc.problem.full:
        cert = lf.certify(*flow)
        assert cert.check(back).to_dict() == cert.check(enc).to_dict()


def test_a_descent_that_is_read_answers_every_question_the_same(problem, tmp_path):
    enc = lf.enclose(*problem, algorithm="descent", step_size=0.01, steps=60)
    back = again(enc, tmp_path)
    assert told(back) == told(enc) and back.notes[-1] == READ
    np.testing.assert_array_equal(back.gap_bounds(range(61)), enc.gap_bounds(range(61)))
    np.testing.assert_array_equal(back.radius, enc.radius)
    assert back.steps_bounds(0.5) == enc.steps_bounds(0.5) and repr(back) == repr(enc)
    for was, now in zip(enc.final.weights, back.final.weights, strict=True):
        np.testing.assert_array_equal(was, now)


def test_a_descent_with_momentum_that_is_read_says_so(tmp_path):
    enc = lf.enclose(
        *PROBLEMS["factorization"], algorithm="descent", step_size=0.01, steps=20, momentum=0.9, nesterov=True
    )
    back = again(enc, tmp_path)
    assert told(back) == told(enc) and back.optimizer == enc.optimizer and "Nesterov momentum 0.9" in repr(back)
    np.testing.assert_array_equal(back.gaps, enc.gaps)


def test_a_descent_by_a_schedule_that_is_read_has_its_steps(problem, tmp_path):
    enc = lf.enclose(*problem, algorithm="descent", schedule=lf.schedules.backtracking(), steps=20)
    back = again(enc, tmp_path)
    assert told(back) == told(enc) and back.step_size is None
    np.testing.assert_array_equal(back.step_sizes, enc.step_sizes)
    np.testing.assert_array_equal(back.t, enc.t)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.__delitem__("step_sizes"), "it needs a step size or the steps of a schedule"),
        (lambda file: file.create_dataset("step_size", data=0.1), "it needs a step size or the steps of a schedule"),
        (lambda file: file["step_sizes"].__setitem__(3, -1.0), "a step of the schedule is not a positive number"),
        (lambda file: file["step_sizes"].__setitem__(3, np.inf), "step_sizes"),
    ],
)
def test_steps_of_a_schedule_that_mean_nothing_are_refused(change, message, tmp_path):
    f, net = PROBLEMS["factorization"]
    path = tmp_path / "proof.nc"
    lf.enclose(f, net, algorithm="descent", schedule=lf.schedules.backtracking(), steps=20).save(path)
    changed(path, change)
    with pytest.raises(FileError, match=message):
        load(path)


def test_what_was_read_may_be_saved_and_read_again(tmp_path):
    enc = lf.enclose(*PROBLEMS["factorization"], until=1e-2)
    back = again(again(enc, tmp_path), tmp_path)
    assert back.notes == (*enc.notes, READ)


def test_a_proof_that_ended_at_once_is_kept_with_its_reason(tmp_path):
    Y = np.eye(2)
    enc = lf.enclose(lf.MatrixFactorization(Y), [Y, Y], until=1e-3)
    back = again(enc, tmp_path)
    assert not enc.steps and told(back) == told(enc) and back.reason == enc.reason != ""


def test_a_diverging_descent_is_kept(tmp_path):
    f, net = PROBLEMS["factorization"]
    enc = lf.enclose(f, net, algorithm="descent", step_size=3.0, steps=60)
    assert enc.result in ("diverged", "proof ended")
    assert told(again(enc, tmp_path)) == told(enc)


def test_a_run_is_no_proof_and_a_proof_no_run(tmp_path):
    f, net = PROBLEMS["factorization"]
    lf.gradient_flow(f, net, until=1e-2).save(tmp_path / "run.nc")
    lf.enclose(f, net, until=1e-2).save(tmp_path / "proof.nc")
    assert type(load(tmp_path / "run.nc")).__name__ == "Trajectory"
    with pytest.raises(FileError, match=r"run\.nc.*holds no verified run"):
        load_enclosure(tmp_path / "run.nc")
    with pytest.raises(FileError, match=r"proof\.nc.*holds a verified run; linflow\.load reads it"):
        lf.files.load_run(tmp_path / "proof.nc")


def test_a_user_objective_cannot_be_saved(tmp_path):
    f = lf.Objective(lambda W: 0.5 * float((W**2).sum()), lambda W: W, shape=(3, 2), strong_convexity=1.0)
    enc = lf.enclose(*PROBLEMS["factorization"], until=1e-2)
    object.__setattr__(enc, "objective", f)
    with pytest.raises(ValueError, match=r"Objective cannot be saved, as a file cannot hold its functions"):
        enc.save(tmp_path / "proof.nc")


def changed(path, change):
    """Write into a file that was saved, without its seal and checksum, as one who wants to deceive would."""
    path.write_bytes(path.read_bytes()[:-SEALED])
    with h5py.File(path, "r+") as file:
        del file.attrs["checksum"]
        change(file)


def of(name, value):
    def change(file):
        if isinstance(value, str):
            file.attrs[name] = value
        elif value is None:
            del file[name]
        else:
            file[name][...] = value

    return change


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("algorithm", "annealing", "neither 'flow' nor 'descent'"),
        ("result", "believed", "its result is 'believed'"),
        ("objective", "Objective", "its objective is 'Objective'"),
        ("notes", json.dumps([1]), "notes are not all text"),
        ("step_radius", -1.0, "'step_radius' has a value below 0"),
        ("step_length", 1.0, "do not follow one another"),
        ("step_tau", 0.0, "do not follow one another"),
        ("step_terms", 0, "not have a whole number of coefficients"),
        ("step_terms", 3, "the shape .* is needed"),
        ("step_gap", np.nan, "finite numbers are needed"),
        ("step_constants", -1.0, "'step_constants' has a value below 0"),
        ("problem_numbers", -1.0, "'problem_numbers' has a value below 0"),
        ("W1_series", None, "no variable 'W1_series'"),
        ("W2_start", None, "2×|network|no variable"),
        ("objective_Y", None, "its objective cannot be made"),
        ("hessians", -1, "its hessians is -1"),
    ],
)
def test_a_changed_file_is_refused_in_one_line(name, value, match, tmp_path):
    path = tmp_path / "proof.nc"
    lf.enclose(*PROBLEMS["factorization"], until=1e-2).save(path)
    changed(path, of(name, value))
    with pytest.raises(FileError, match=match) as caught:
        lf.load(path)
    assert "\n" not in str(caught.value) and "proof.nc" in str(caught.value)


def test_the_checksum_covers_numbers_and_words(tmp_path):
    f, net = PROBLEMS["factorization"]
    for name, value in (("step_radius", 0.0), ("reason", "none"), ("result", "step limit reached")):
        path = tmp_path / f"{name}.nc"
        lf.enclose(f, net, until=1e-2).save(path)
        path.write_bytes(path.read_bytes()[:-SEALED])
        with h5py.File(path, "r+") as file:
            of(name, value)(file)
        with pytest.raises(FileError, match="damaged, or was changed"):
            lf.load(path)
