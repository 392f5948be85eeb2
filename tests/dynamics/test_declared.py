"""A run shows whether a declared tail is true."""

import numpy as np
import pytest

import linflow as lf


def declared(**constants):
    """`Σ e^{−W_ij}` of two entries: `‖∇f‖ ≥ f/√2`, reached where both are equal, and `‖∇²f‖ ≤ f`, with one entry."""
    return lf.Objective(
        lambda W: float(np.exp(-W).sum()), lambda W: -np.exp(-W), shape=(2, 1), minimum=0.0, **constants
    )


@pytest.mark.parametrize("size", [-5.0, 0.0, 20.0, 300.0])
@pytest.mark.parametrize("apart", [0.0, 3.0])
def test_a_true_tail_is_never_contradicted(size, apart):
    f = declared(tail_constant=0.5**0.5, tail_smoothness=1.0)
    net = lf.Network([np.array([[size], [size + apart]])])
    assert lf.gradient_flow(f, net, t_max=10.0, max_steps=200).notes == ()
    assert lf.gradient_descent(f, net, step_size=0.5 / f.value(net.product()), steps=30).notes == ()


def test_a_tail_that_is_too_steep_is_contradicted():
    # Equal entries: ‖∇f‖/f is 1/√2.
    run = lf.gradient_flow(declared(tail_constant=0.75), [np.zeros((2, 1))], t_max=1.0)
    expected = (
        "declared tail_constant 0.75 is contradicted at t = 0: ‖∇f‖/(f − f*) = 0.707107; guarantees that use it"
    )
    assert run.notes == (expected + " do not hold",)
    assert lf.gradient_flow(declared(tail_constant=0.7), [np.zeros((2, 1))], t_max=1.0).notes == ()


def test_a_curvature_above_the_declared_one_is_contradicted():
    # Equal entries: ∇²f = (f/2) I.
    run = lf.gradient_flow(declared(tail_smoothness=0.49), [np.zeros((2, 1))], t_max=1.0)
    expected = "declared tail_smoothness 0.49 is contradicted at t = 0: ‖∇²f‖/(f − f*) is 0.5 or more; guarantees"
    assert run.notes == (expected + " that use it do not hold",)
    assert lf.gradient_flow(declared(tail_smoothness=0.5), [np.zeros((2, 1))], t_max=1.0).notes == ()
