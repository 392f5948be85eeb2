"""Objectives of JAX losses, for real where JAX is installed: gradients, certificates, runs, proofs and refusals."""

import numpy as np
import pytest

import linflow as lf

jax = pytest.importorskip("jax")
jnp = jax.numpy
TARGET = np.array([[2.0, 0.3], [-0.4, 1.0]])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        yield


def layers(*widths, seed=3):
    return [jnp.asarray(W) for W in lf.init.imbalanced(widths, [1.0] * (len(widths) - 2), rng=seed).weights]


def test_certificates_and_runs_are_those_of_the_formula(rng):
    Y = jnp.asarray(TARGET)
    f = lf.autodiff(lambda W: 0.5 * ((W - Y) ** 2).sum(), like=Y, strong_convexity=1.0, smoothness=1.0)
    g = lf.MatrixFactorization(TARGET)
    W = rng.standard_normal((2, 2))
    assert isinstance(f.value(jnp.asarray(W)), float)
    assert isinstance(f.gradient(jnp.asarray(W)), jax.Array) and f.gradient(jnp.asarray(W)).dtype == jnp.float64
    np.testing.assert_allclose(np.asarray(f.gradient(jnp.asarray(W))), g.gradient(W), rtol=0, atol=1e-15)
    assert abs(f.minimum) < 1e-20 and np.allclose(np.asarray(f.minimizer), TARGET, atol=1e-10)
    net, plain = layers(2, 5, 2), [np.asarray(each) for each in layers(2, 5, 2)]
    cert = lf.certify(f, net)
    assert cert.rate == pytest.approx(lf.certify(g, plain).rate, rel=1e-9)
    run = lf.gradient_flow(f, net, until=0.5)
    assert cert.check(run).holds and not run.notes and isinstance(run.final.weights[0], jax.Array)
    assert run.time_to(0.5) == pytest.approx(lf.gradient_flow(g, plain, until=0.5).time_to(0.5), rel=1e-6)
    eta = lf.safe_step_size(f, net)
    down = lf.gradient_descent(f, net, step_size=eta, steps=20)
    assert lf.certify(f, net, algorithm="descent", step_size=eta).check(down).holds


def test_a_jitted_loss_with_a_tail_of_its_own():
    signs = jnp.asarray([[1.0], [-1.0]])
    f = lf.autodiff(
        jax.jit(lambda W: jnp.exp(-signs * W).sum()),
        like=jnp.zeros((2, 1)),
        minimum=0.0,
        tail_constant=0.5**0.5,
        tail_smoothness=1.0,
    )
    cert = lf.certify(f, [jnp.zeros((2, 1))])
    assert cert.best is not None and cert.best.name == "tail, one layer"
    assert cert.check(lf.gradient_flow(f, [jnp.zeros((2, 1))], t_max=0.02)).holds


def test_proofs_take_declared_errors():
    Y = jnp.asarray(TARGET)
    f = lf.autodiff(
        lambda W: jnp.sqrt(1 + (W - Y) ** 2).sum(),
        like=Y,
        smoothness=1.0,
        minimum=4.0,
        convex=True,
        hessian_lipschitz=1.0,
        value_error=1e-14,
        gradient_error=1e-14,
    )
    net = [jnp.eye(2), 0.5 * jnp.eye(2)]
    enc, run = lf.enclose(f, net, t_max=0.05), lf.gradient_flow(f, net, t_max=0.05, rtol=1e-10)
    low, high = enc.gap_bounds(0.05)
    assert enc.result == "time limit reached" and low <= float(run.gap[-1]) <= high
    down = lf.enclose(f, net, algorithm="descent", step_size=0.1, until=0.9)
    assert down.result == "target proved"


def test_the_loss_may_be_shifted_and_batched_by_hand():
    Y = jnp.asarray(TARGET)
    f = lf.autodiff(lambda W: 0.5 * ((W - Y) ** 2).sum(), like=Y, strong_convexity=1.0, smoothness=1.0)
    moved = f.shifted(0.5 * jnp.eye(2))
    assert float(np.abs(np.asarray(moved.gradient(jnp.zeros((2, 2)))) - (0.5 * np.eye(2) - TARGET)).max()) < 1e-15


def test_what_is_refused():
    Y = jnp.asarray(TARGET)
    for loss, what in (
        (lambda W: (W * jax.lax.stop_gradient(W)).sum(), "the gradient is not that of the loss"),
        (lambda W: float((np.asarray(W) ** 2).sum()), "cannot be differentiated"),
        (lambda W: (W - Y) ** 2, "cannot be differentiated"),
        (lambda W: (W @ Y[:1].T @ Y).sum(), "cannot be differentiated"),
        (lambda W: (W / 0).sum(), "the loss or its gradient is not finite"),
    ):
        with pytest.raises(ValueError, match=what):
            lf.autodiff(loss, like=Y, minimum=0.0)
    with pytest.raises(TypeError, match=r"float32 of shape.*jax_enable_x64"):
        lf.autodiff(lambda W: (W**2).sum(), like=Y.astype(jnp.float32), minimum=0.0)


def test_a_loss_whose_course_depends_on_values_is_not_compiled():
    f = lf.autodiff(lambda W: (W**2).sum() if W[0, 0] > 0 else 2 * (W**2).sum(), like=jnp.eye(2), minimum=0.0)
    assert f.value(jnp.eye(2)) == 2.0 and f.value(-jnp.eye(2)) == 4.0
    assert np.asarray(f.gradient(-jnp.eye(2))).tolist() == [[-4.0, 0.0], [0.0, -4.0]]
