"""Bad input gets one clear error: what was given, what is needed, the way out."""

import warnings

import numpy as np
import pytest
from scipy.sparse import csr_array

import linflow as lf
from linflow._support.arrays import to_numpy
from linflow.sweeps.grid import stored

eye = np.eye(2)
f = lf.MatrixFactorization(eye)
net = lf.Network([eye, eye])


def value(W):
    return 0.5 * float((W**2).sum())


def gradient(W):
    return W


masked = np.ma.array(2 * eye, mask=[[False, True], [False, False]])
some = np.ma.array([0.1, 0.2], mask=[False, True])
labels = np.ma.array([1.0, -1.0], mask=[False, True])


# Not computed before a test asks: what is computed at import is computed by every process that collects the tests.
def run():
    return lf.gradient_flow(f, [2 * eye, eye], t_max=1.0)


def proof(**options):
    return lf.enclose(f, [2 * eye, eye], **options)


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
    "outside the run": (lambda: run().gap_at(2.0), "run covers t = 0 to 1"),
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


MASKED = {
    "target": (lambda: lf.MatrixFactorization(masked), "Y hides 1 of its 4 entries behind a mask.*lf.Completion"),
    "rows of a list": (lambda: lf.MatrixFactorization(list(masked)), "Y hides 1 of its 2"),
    "inputs": (lambda: lf.LinearRegression(masked, eye), "X hides"),
    "outputs": (lambda: lf.LinearRegression(eye, masked), "Y hides"),
    "quadratic": (lambda: lf.Quadratic(masked, C=eye), "A hides"),
    "linear term": (lambda: lf.Quadratic(eye, C=masked), "C hides"),
    "labels": (lambda: lf.LogisticLoss(eye, labels), "y hides"),
    "minimizer": (
        lambda: lf.Objective(value, gradient, shape=(2, 2), minimum=0.0, minimizer=masked),
        "minimizer hides",
    ),
    "gradient": (
        lambda: lf.gradient_flow(lf.Objective(value, lambda W: W - masked, shape=(2, 2), minimum=0.0), net),
        "the gradient hides",
    ),
    "a loss at": (lambda: f.value(masked), "W hides"),
    "a gap at": (lambda: f.gap(masked), "W hides"),
    "a gradient at": (lambda: f.gradient(masked), "W hides"),
    "a Hessian along": (lambda: f.hessian_product(eye, masked), "V hides"),
    "a loss of classes": (lambda: lf.LogisticLoss(eye, [1.0, -1.0]).value(labels[:, None]), "W hides"),
    "weights": (lambda: lf.Network([eye, masked]), "W_2 hides"),
    "weights certified": (lambda: lf.certify(f, [masked, eye]), "W_1 hides"),
    "a direction": (lambda: lf.TangentOperator(net).apply(masked), "E hides"),
    "times": (lambda: lf.gradient_flow(f, net, t_max=1.0, times=some), "times hides"),
    "times of a gap": (lambda: run().gap_at(some), "t hides"),
    "times of a product": (lambda: lf.exact.two_layer_scalar(1.0, 1.0, 1.0, some), "t hides"),
    "fractions": (lambda: run().time_to(some), "until hides"),
    "certified fractions": (lambda: lf.certify(f, net).time_to(some), "until hides"),
    "proved fractions": (lambda: proof(until=0.5).time_bounds(some), "until hides"),
    "proved fractions of a descent": (
        lambda: proof(algorithm="descent", step_size=0.1, steps=2).steps_bounds(some),
        "until hides",
    ),
    "proved times": (lambda: proof(until=0.5).gap_bounds(some), "t hides"),
    "imbalance": (lambda: lf.bounds.two_layer(masked, 2, 2, 0.0, 0.0), "D hides"),
    "eigenvalues": (lambda: lf.bounds.deep([some, some], 2, 2), "D_1 hides"),
    "scalar chain": (lambda: lf.bounds.scalar(some, 1.0), "d hides"),
    "homogeneous": (lambda: lf.bounds.homogeneous(some, 1.0), "d hides"),
    "singular values": (
        lambda: lf.bounds.deep_product([eye], 2, 2, sigma_min=some, sigma_max=1.0),
        "sigma_min hides",
    ),
    "spectral": (lambda: lf.init.spectral((2, 2, 2), masked, 0.1), "target hides"),
    "spectral values": (lambda: lf.init.spectral((2, 2, 2), eye, some), "values hides"),
    "imbalanced": (lambda: lf.init.imbalanced((2, 4, 4, 2), some), "imbalance hides"),
    "balanced": (lambda: lf.init.balanced((2, 2, 2), masked), "product hides"),
    "prescribed": (lambda: lf.init.with_imbalance(masked, eye), "D_1 hides"),
    "a design": (lambda: lf.design(f, (2, 4, 2), rate=0.1, product=masked), "product hides"),
    "exact": (lambda: lf.exact.spectral(net, masked, 1.0), "Y hides"),
    "a sweep": (lambda: stored(masked, "data.target"), "data.target hides"),
    "a picture": (lambda: to_numpy(some), "hides"),
}


@pytest.mark.parametrize("case", MASKED)
def test_masked_entries_are_refused(case):
    call, words = MASKED[case]
    with pytest.raises(ValueError, match=words):
        call()


def test_masked_tensors_are_refused():
    torch = pytest.importorskip("torch")
    from torch.masked import masked_tensor

    with pytest.warns(UserWarning, match="prototype"):
        tensor = masked_tensor(torch.ones(2, 2), torch.tensor([[True, False], [True, True]]))
    with pytest.raises(ValueError, match="Y is a MaskedTensor"):
        lf.MatrixFactorization(tensor)
    with pytest.raises(TypeError, match=r"Y is a sparse Tensor.*x\.to_dense\(\)"):
        lf.MatrixFactorization(torch.eye(2).to_sparse())


def test_a_state_dict_with_masked_entries_is_refused():
    pytest.importorskip("torch")
    import linflow.torch as lt

    with pytest.raises(ValueError, match=r"'0\.weight' hides"):
        lt.audit({"0.weight": masked, "1.weight": eye})


@pytest.mark.parametrize("kind", [np.ma.array, lambda A: A.view(np.matrix)], ids=["masked", "matrix"])
def test_a_mask_that_hides_nothing_is_no_mask(kind):
    """netCDF4 gives every array a mask, and numpy.matrix multiplies by `*`: both are read as plain arrays."""
    A = np.array([[1.0, 0.5], [0.2, 0.7]])
    same, plain = (lf.certify(lf.MatrixFactorization(X), [X, X]) for X in (kind(A), A))
    assert same.rate == plain.rate
    assert type(lf.Network([kind(A)]).weights[0]) is np.ndarray
    assert type(lf.MatrixFactorization(kind(A)).gradient(kind(2 * A))) is np.ndarray


BAD_TYPES = {
    "step size in words": (lambda: lf.gradient_descent(f, net, step_size="0.1", steps=1), "step_size is '0.1'"),
    "step size a truth value": (lambda: lf.gradient_descent(f, net, step_size=True, steps=1), "step_size is True"),
    "sparse": (lambda: lf.MatrixFactorization(csr_array(eye)), r"Y is a sparse csr_array.*x\.toarray\(\)"),
    "a list of objects": (lambda: lf.MatrixFactorization([[1.0, None]]), "Y is a list of objects"),
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


def test_memory_that_is_not_there_is_not_asked_for(monkeypatch):
    far = (3, 10**17, 2)
    for make in (lf.init.gaussian, lf.init.ntk, lf.init.orthogonal, lf.init.balanced, lf.init.fan_in):
        with pytest.raises(
            MemoryError, match=r"the weights 3×100000000000000000×2 take 3.725e\+09 GiB, and there are"
        ):
            make(far, rng=0)
    with pytest.raises(MemoryError):
        lf.design(lf.MatrixFactorization(np.ones((3, 2))), far, rate=1.0)
    monkeypatch.setattr("linflow._support.memory.memory", lambda: 8 * (3 * 4 + 4 * 2))
    lf.init.gaussian((3, 4, 2), rng=0)
    with pytest.raises(MemoryError):
        lf.init.gaussian((3, 5, 2), rng=0)


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


def test_tensors_without_numbers_are_refused():
    torch = pytest.importorskip("torch")

    parts = [torch.ones(2), torch.ones(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, that nested and quantized tensors are young or old
        others = {
            "meta": torch.empty(2, 2, device="meta"),
            "nested": torch.nested.nested_tensor(parts),
            "quantized": torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8),
        }
    for kind, tensor in others.items():
        with pytest.raises(TypeError, match=f"Y is a {kind} tensor; a dense array is needed: pass "):
            lf.MatrixFactorization(tensor)
        with pytest.raises(TypeError, match=f"W_2 is a {kind} tensor"):
            lf.Network([torch.eye(2), tensor])


@pytest.mark.parametrize("order", [">f8", "<f8", ">f4", ">i4"])
def test_numbers_in_the_byte_order_of_another_processor(order):
    Y = np.array([[2.0, 1.0], [0.0, 1.0]])
    swapped = Y.astype(order)
    got = lf.certify(lf.MatrixFactorization(swapped), [swapped, swapped])
    assert got.rate == lf.certify(lf.MatrixFactorization(Y), [Y, Y]).rate
    assert lf.Network([swapped]).weights[0].dtype == np.float64
    assert swapped.dtype == np.dtype(order)


def test_whole_numbers_that_float64_does_not_hold_are_noted(tmp_path):
    """2^53 + 1 becomes 2^53, which is not the number that was given."""
    for top, noted in ((2**53 - 1, False), (2**53 + 1, True), (-(2**60), True)):
        W = np.array([[top, 1], [0, 1]])
        (note,) = lf.Network([W]).notes
        assert note == "W_1 was promoted from int64 to float64" + ", which rounds whole numbers beyond 2^53" * noted
        np.savez(tmp_path / "w.npz", W1=W)
        (note,) = lf.load(tmp_path / "w.npz").notes
        assert note.endswith("beyond 2^53") is noted


@pytest.mark.parametrize(("given", "error"), [(1.5, TypeError), (-1, ValueError), ("0", TypeError)])
def test_what_is_no_seed_and_no_generator(given, error):
    starts = (lf.init.ntk, lf.init.fan_in, lf.init.gaussian, lf.init.orthogonal)
    for start in starts:
        with pytest.raises(error, match=f"rng is {given!r}; a seed, a whole number of at least 0, or a numpy"):
            start((2, 4, 2), rng=given)
    assert np.array_equal(
        lf.init.ntk((2, 4, 2), rng=np.random.default_rng(3)).weights[0], lf.init.ntk((2, 4, 2), rng=3).weights[0]
    )
