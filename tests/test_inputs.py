"""Bad input gets one clear error: what was given, what is needed, the way out."""

import numpy as np
import pytest

import linflow as lf

eye = np.eye(2)
f = lf.MatrixFactorization(eye)
net = lf.Network([eye, eye])


def value(W):
    return 0.5 * float((W**2).sum())


def gradient(W):
    return W


BAD = {
    "shapes that do not chain": (lambda: lf.Network([np.ones((2, 3)), np.ones((4, 2))]), "W_1 is 2×3 but W_2 is 4×2"),
    "no layers": (lambda: lf.Network([]), "at least one matrix"),
    "vector": (lambda: lf.Network([np.ones(3)]), r"W_1 has 1 dimension .*reshape\(-1, 1\)"),
    "tensor": (lambda: lf.Network([np.ones((2, 2, 2))]), "3 dimensions"),
    "empty": (lambda: lf.Network([np.ones((0, 2)), np.ones((2, 2))]), r"W_1 is empty \(shape \(0, 2\)\)"),
    "NaN": (lambda: lf.Network([np.array([[np.nan, 1.0]])]), "1 NaN or infinite entry of 2"),
    "infinite": (lambda: lf.MatrixFactorization([[np.inf]]), "Y holds 1 NaN or infinite"),
    "ragged": (lambda: lf.MatrixFactorization([[1.0], [1.0, 2.0]]), "Y is ragged"),
    "zero scale": (lambda: lf.Network([eye], scale=0.0), "scale is 0.0; a positive number"),
    "negative scale": (lambda: lf.Network([eye], scale=-1), "scale is -1"),
    "target shape": (lambda: lf.gradient_flow(lf.MatrixFactorization(np.ones((3, 2))), net), "needs 3×2"),
    "regression rows": (lambda: lf.LinearRegression(np.ones((4, 2)), np.ones((3, 2))), "X has 4 rows and Y has 3"),
    "zero design": (lambda: lf.LinearRegression(np.zeros((4, 2)), np.ones((4, 2))), "X is zero"),
    "asymmetric A": (lambda: lf.Quadratic(np.array([[1.0, 1.0], [0.0, 1.0]]), C=eye), "A is not symmetric"),
    "indefinite A": (lambda: lf.Quadratic(np.diag([1.0, -1.0]), C=eye), "negative eigenvalue -1"),
    "unbounded": (lambda: lf.Quadratic(np.diag([1.0, 0.0]), C=eye), "unbounded below"),
    "C missing": (lambda: lf.Quadratic(eye), "C is missing"),
    "until zero": (lambda: lf.gradient_flow(f, net, until=0.0), "until is 0.0"),
    "until one": (lambda: lf.gradient_flow(f, net, until=1.0), r"must lie in \(0, 1\)"),
    "until negative": (lambda: lf.gradient_flow(f, net, until=-1e-3), "until"),
    "t_max": (lambda: lf.gradient_flow(f, net, t_max=-1.0), "t_max is -1.0"),
    "t_max infinite": (lambda: lf.gradient_flow(f, net, t_max=np.inf), "finite"),
    "times NaN": (lambda: lf.gradient_flow(f, net, t_max=1.0, times=[np.nan]), "times is nan"),
    "times beyond": (lambda: lf.gradient_flow(f, net, t_max=1.0, times=[5.0]), "beyond t_max = 1"),
    "too large": (lambda: lf.certify(f, [1e100 * eye, 1e100 * eye]), "too large.*Rescale"),
    "scale too large": (lambda: lf.bounds.best(lf.Network([eye, eye], scale=1e200)), "too large"),
    "data too large": (lambda: lf.LinearRegression(1e170 * eye, eye), "leave float64 when squared; rescale"),
    "data too small": (lambda: lf.LinearRegression(1e-170 * eye, eye), "rescale the data"),
    "negative sigma": (lambda: lf.bounds.best(net, sigma_min=-1.0), "sigma_min is -1.0"),
    "rtol": (lambda: lf.gradient_flow(f, net, rtol=0.0), "rtol"),
    "rtol one": (
        lambda: lf.gradient_flow(f, net, rtol=1),
        r"rtol is 1; it is the relative tolerance of one step and",
    ),
    "until one, in words": (
        lambda: lf.gradient_flow(f, net, until=1),
        "until is 1; it is the fraction of the initial",
    ),
    "learned": (lambda: lf.exact.learning_times(net, eye, 1), "fraction is 1; it is the part of each singular value"),
    "record": (lambda: lf.gradient_flow(f, net, record=("los",)), "record is 'los'; one of 'loss'"),
    "step size": (lambda: lf.gradient_descent(f, net, step_size=0.0, steps=1), "step_size is 0.0"),
    "step size NaN": (lambda: lf.gradient_descent(f, net, step_size=np.nan, steps=1), "step_size is nan"),
    "steps": (lambda: lf.gradient_descent(f, net, step_size=0.1, steps=0), "steps is 0; at least 1"),
    "mu": (lambda: lf.Objective(value, gradient, shape=(2, 2), strong_convexity=-1.0), "strong_convexity is -1.0"),
    "mu above K": (
        lambda: lf.Objective(value, gradient, shape=(2, 2), strong_convexity=2.0, smoothness=1.0),
        "every function has μ ≤ K",
    ),
    "gamma above 2K": (
        lambda: lf.Objective(value, gradient, shape=(2, 2), pl_constant=3.0, smoothness=1.0),
        "every function has γ ≤ 2K",
    ),
    "unknown minimum": (lambda: lf.Objective(value, gradient, shape=(2, 2)), "minimum f\\* is unknown"),
    "no such layer": (lambda: lf.imbalance_spectrum(net, layer=2), "D_1 to D_1 only"),
    "widths too few": (lambda: lf.init.gaussian((3,)), r"at least \(n, m\)"),
    "width zero": (lambda: lf.init.gaussian((3, 0, 2)), r"widths\[1\] is 0"),
    "std": (lambda: lf.init.gaussian((3, 2), std=-1.0), "std is -1.0"),
    "narrow balanced": (lambda: lf.init.balanced((3, 2, 3)), "h_1 = 2 is too small: 3 modes"),
    "narrow imbalanced": (lambda: lf.init.imbalanced((3, 2, 2), 1.0), "h_1 = 2 is too small"),
    "imbalances": (lambda: lf.init.imbalanced((2, 2, 2), [1.0, 2.0]), r"imbalance has shape \(2,\)"),
    "spectral values": (lambda: lf.init.spectral((2, 2, 2), eye, [1.0, 2.0, 3.0]), "values has shape"),
    "margin form": (lambda: lf.margin(f, net, form="loss"), "form is 'loss'"),
    "outside the run": (lambda: lf.gradient_flow(f, [2 * eye, eye], t_max=1.0).gap_at(2.0), "run covers t = 0 to 1"),
    "another run": (
        lambda: lf.certify(f, net).check(lf.gradient_flow(f, [2 * eye, eye], t_max=1.0)),
        "certify the objective and network that the run began with",
    ),
    "gradient shape": (
        lambda: lf.gradient_flow(lf.Objective(value, lambda W: W[0], shape=(2, 2), minimum=0.0), net),
        "gradient must return",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_value_errors(case):
    call, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        call()


BAD_TYPES = {
    "complex": (lambda: lf.Network([np.ones((2, 2), dtype=complex)]), "W_1 is complex"),
    "text": (lambda: lf.MatrixFactorization([["a", "b"]]), "real numeric"),
    "objects": (lambda: lf.MatrixFactorization([[object()]]), "objects"),
    "one array": (lambda: lf.Network(np.ones((2, 2))), "list of matrices"),
    "fraction": (lambda: lf.gradient_flow(f, net, until="tiny"), "until is 'tiny'"),
    "half a step": (lambda: lf.gradient_descent(f, net, step_size=0.1, steps=1.5), "whole number"),
    "widths": (lambda: lf.init.gaussian(5), r"\(20, 30, 5\)"),
    "imbalances": (lambda: lf.bounds.deep(np.eye(2), 1, 1), r"list \[D_1"),
}


@pytest.mark.parametrize("case", BAD_TYPES)
def test_type_errors(case):
    call, words = BAD_TYPES[case]
    with pytest.raises(TypeError, match=words):
        call()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.int8, np.uint8])
def test_promotion_is_said(dtype):
    low = lf.Network([np.ones((2, 3), dtype=dtype), np.ones((3, 2), dtype=dtype)])
    target = lf.MatrixFactorization(np.eye(2, dtype=dtype))
    run = lf.gradient_flow(target, low, until=1e-2, t_max=1.0)
    name = np.dtype(dtype).name
    assert run.notes == tuple(f"{x} was promoted from {name} to float64" for x in ("Y", "W_1", "W_2"))
    assert lf.certify(target, low).notes == run.notes
    assert f"Y was promoted from {name}" in str(lf.certify(target, low))
    assert all(W.dtype == np.float64 for W in run.weights)
    same = lf.gradient_flow(
        lf.MatrixFactorization(np.eye(2)), [np.ones((2, 3)), np.ones((3, 2))], until=1e-2, t_max=1.0
    )
    np.testing.assert_array_equal(run.gap, same.gap)


def test_input_is_not_changed():
    weights = [np.ones((2, 3)), np.ones((3, 2))]
    lf.gradient_flow(f, weights, t_max=1.0)
    lf.gradient_descent(f, weights, step_size=0.1, steps=3)
    for W in weights:
        np.testing.assert_array_equal(W, 1.0)
