"""The figure of verified runs, and the plot it is made of."""

import numpy as np
import pytest

import linflow as lf
from linflow.experiments.figures import verified_runs


@pytest.mark.slow
def test_every_claim_of_the_verified_runs_holds_and_the_figure_is_drawn():
    outcome = verified_runs.experiment.run(0, lambda fraction, note="": None)
    assert [claim.text for claim in outcome.claims if not claim.passed] == []
    figure = outcome.draw()
    assert [ax.get_title() for ax in figure.axes] == ["20×30×5", "diabetes, 2 layers, NTK", "digits, 2 layers, NTK"]


def small():
    f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.init.gaussian((2, 4, 2), rng=0)
    return f, net, lf.enclose(f, net, until=1e-4)


def test_the_plot_shows_the_proved_gap_the_guarantee_and_what_holds_for_ever():
    f, net, enc = small()
    cert, run = lf.certify(f, net), lf.gradient_flow(f, net, until=1e-4)
    ax = lf.plots.proof(enc, cert, run)
    lines = {line.get_label(): line for line in ax.lines}
    assert set(lines) >= {"proved", "for ever", "observed"}
    t, y = (np.asarray(x, float) for x in lines["proved"].get_data())
    low, high = enc.gap_bounds(t)
    assert y == pytest.approx(high / enc.first[0], rel=1e-12)
    # Observed to the tolerance of the run; the band is narrower.
    t, y = (np.asarray(x, float) for x in lines["observed"].get_data())
    inside = t <= enc.end
    low, high = enc.gap_bounds(t[inside])
    assert (y[inside] >= low / enc.first[1] * (1 - 1e-6)).all()
    assert (y[inside] <= high / enc.first[0] * (1 + 1e-6)).all()
    t, y = (np.asarray(x, float) for x in lines["for ever"].get_data())
    assert y[0] == pytest.approx(enc.steps[-1].gap[1] / enc.first[0])
    assert np.log(y[0] / y[-1]) / (t[-1] - t[0]) == pytest.approx(enc.certificate.rate, rel=0.05)


def test_a_proof_of_descent_is_drawn_at_its_steps():
    f, _, enc = small()
    net = lf.init.imbalanced((2, 4, 2), 3.0, 0.5 * f.minimizer, rng=0)
    options = {"algorithm": "descent", "step_size": 0.02}
    proof, cert = lf.enclose(f, net, until=1e-4, **options), lf.certify(f, net, **options)
    run = lf.gradient_descent(f, net, step_size=0.02, steps=proof.steps)
    ax = lf.plots.proof(proof, cert, run)
    t, y = (np.asarray(x, float) for x in ax.lines[0].get_data())
    k = np.round(t / 0.02).astype(int)
    assert t == pytest.approx(0.02 * k, abs=1e-12) and (k[0], k[-1]) == (0, proof.steps) and len(k) > 30
    assert y == pytest.approx(proof.gap_bounds(k)[1] / proof.gaps[0, 0], rel=1e-12)
    lines = {line.get_label(): np.asarray(line.get_data(), float) for line in ax.lines}
    t, y = lines["guaranteed"]  # beyond the proof, and never between two steps
    assert t / 0.02 == pytest.approx(np.round(t / 0.02), abs=1e-9) and t[-1] > 1.3 * proof.t[-1]
    assert y[1:] == pytest.approx([cert.gap_at(s * (1 + 1e-9)) / proof.gaps[0, 0] for s in t[1:]], rel=1e-9)
    assert "observed" in lines
    t, _ = lf.plots.proof(proof, t_max=0.5).lines[0].get_data()
    assert t[-1] == pytest.approx(0.5, rel=1e-12)
    with pytest.raises(ValueError, match="certificate is for the flow, but the enclosure is of descent"):
        lf.plots.proof(proof, lf.certify(f, net))
    with pytest.raises(ValueError, match="certificate is for descent, but the enclosure is of the flow"):
        lf.plots.proof(enc, cert)
    with pytest.raises(ValueError, match="the run has momentum"):
        lf.plots.proof(proof, run=lf.gradient_descent(f, net, step_size=0.02, steps=3, momentum=0.5))
    with pytest.raises(TypeError, match="enclosure is a Trajectory"):
        lf.plots.proof(run)


def test_the_guarantee_of_a_schedule_is_drawn_by_the_steps_done():
    f, _, _ = small()
    net = lf.init.imbalanced((2, 4, 2), 3.0, 0.5 * f.minimizer, rng=0)
    rule = lf.schedules.xu2025(f, net, 0.03)
    cert = lf.certify(f, net, algorithm="descent", schedule=rule)
    proof = lf.enclose(f, net, algorithm="descent", schedule=rule, until=1e-4)
    lines = {line.get_label(): np.asarray(line.get_data(), float) for line in lf.plots.proof(proof, cert).lines}
    t, y = lines["guaranteed"]
    assert t == pytest.approx(proof.t, rel=1e-12)
    rows = [g for g in cert.guarantees if g.applies]
    least = [min(min(g.gap, g.curve.gap_after(k)) for g in rows) for k in range(len(t))]
    assert y * proof.gaps[0, 0] == pytest.approx(least, rel=1e-12)
    assert least[-1] < 0.9 * cert.gap_at(float(t[-1]))  # by time alone, less would be known
    with pytest.raises(ValueError, match="whose first step is"):
        lf.plots.proof(
            lf.enclose(f, net, algorithm="descent", schedule=lf.schedules.backtracking(0.5), steps=3), cert
        )
    other = lf.certify(f, [1.1 * W for W in net.weights], algorithm="descent", schedule=rule)
    with pytest.raises(ValueError, match="certify the objective and network that were enclosed"):
        lf.plots.proof(proof, other)


def test_a_proof_of_nothing_is_refused():
    f, net, enc = small()
    none = lf.Enclosure(f, net, enc.problem, (), enc.first, "proof ended", "no step", enc.narrowed)
    with pytest.raises(ValueError, match="nothing is enclosed, so there is nothing to draw: no step"):
        lf.plots.proof(none)
