"""The figures that are sweeps: their claims hold, and fail where what they say is not so."""

import numpy as np
import pytest

import linflow as lf
from linflow.experiments import figures as experiments
from linflow.experiments.figures import _sweep, box_plot, select, step_sizes, three_layers
from linflow.plots import style


def silent(fraction, note=""):
    assert -1e-9 <= fraction <= 1 + 1e-9


def failed(claims):
    return [(claim.text, claim.observed) for claim in claims if not claim.passed]


def drawn(outcome, path):
    with style():
        outcome.draw().savefig(path)


@pytest.mark.slow
@pytest.mark.parametrize("module", [box_plot, three_layers, step_sizes])
def test_every_claim_holds_with_another_seed(module, tmp_path):
    outcome = module.experiment.run(1, silent)
    assert failed(outcome.claims) == []
    drawn(outcome, tmp_path / "figure.svg")


def named_delta(net):
    """Δ* of Theorem 2, by the function of that name."""
    return net.scale**2 * float(lf.bounds.three_layer(*lf.imbalance_matrices(net), *net.shape))


def test_the_box_plot_draws_what_its_axes_say(monkeypatch, tmp_path, here):
    small = box_plot.BoxPlotSettings(h=80, seeds=3)
    _remember(monkeypatch, box_plot)
    outcome = box_plot.experiment.run(2, silent, small)
    drawn(outcome, tmp_path / "figure.svg")
    f = lf.MatrixFactorization(np.random.default_rng(2).standard_normal((5, 1)))
    left, right = outcome.draw().axes
    assert left.get_ylabel() == r"bound $\Delta^*$ on $\lambda_{\min}(T)$"
    medians = [line.get_ydata()[0] for line in left.lines if line.get_linewidth() == 1.6]
    starts = [getattr(lf.init, name) for name in small.start]
    nets = [[start((5, 80, 80, 1), rng=seed) for seed in (6, 7, 8)] for start in starts]
    # What rounding of the eigenvalues may add is taken off by certificates: 10⁻⁹ here.
    assert medians == pytest.approx([np.median([named_delta(net) for net in some]) for some in nets], rel=1e-6)
    assert (right.get_xlabel(), right.get_ylabel()) == ("least observed rate", "certified rate")
    points = np.concatenate([np.asarray(m.get_offsets()) for m in right.collections if len(m.get_offsets()) == 3])
    every = [net for some in nets for net in some]
    assert points[:, 1] == pytest.approx([lf.certify(f, net).rate for net in every], rel=1e-9)
    least = [lf.gradient_flow(f, net, until=small.until).rate.min() for net in every]
    assert points[:, 0] == pytest.approx(least, rel=1e-6)  # the error of the integration
    texts = {claim.text: claim.passed for claim in outcome.claims}
    assert texts["The certified rate never exceeds the least observed rate"]
    assert texts["Every run keeps its certificate at every recorded time"]
    assert [text for text in texts if text.startswith("Drawn as") and texts[text]] == [
        "Drawn as Δ* is `bounds.three_layer` of the imbalance matrices (9 draws)",
        "Drawn as certified rates are those of `certify`",
        "Drawn as observed rates are the least of `gradient_flow`",
    ]
    # Another factor under the same label is caught: γ, which is 2.
    monkeypatch.setattr(box_plot, "delta_star", lambda row: f.pl_constant * _sweep.delta_star(row))
    caught = dict(failed(box_plot.experiment.run(2, silent, small).claims))
    assert any(text.startswith("Drawn as Δ*") for text in caught)


def test_three_layers_in_small(monkeypatch, tmp_path, here):
    small = three_layers.ThreeLayersSettings(h=((10, 20), (20, 30), (30, 40)), seeds=1, eta=5e-4, until=1e-2)
    _remember(monkeypatch, three_layers)
    outcome = three_layers.experiment.run(0, silent, small)
    drawn(outcome, tmp_path / "figure.svg")
    under = next(claim for claim in outcome.claims if claim.text.startswith("The loss lies under"))
    assert under.passed
    says = [claim for claim in outcome.claims if "Drawn as" in claim.text or "the loss drawn" in claim.text]
    assert len(says) == 3 and all(claim.passed for claim in says)
    # Broken: exp(−γΔ*kη), as its key says, with Δ* of the function of that name.
    for ax, target in zip(outcome.draw().axes, three_layers.TARGETS.values(), strict=True):
        gamma = lf.MatrixFactorization(target).pl_constant
        for line, widths in zip([x for x in ax.lines if len(x.get_xdata()) == 2], small.h, strict=True):
            (first, last), k = line.get_ydata(), line.get_xdata()[1]
            net = lf.init.fan_out((target.shape[0], *widths, 1), rng=0)
            assert first == 1
            # As above, of a logarithm.
            assert -np.log(last) / (k * small.eta) == pytest.approx(gamma * named_delta(net), rel=1e-6)
    assert outcome.draw().axes[0].get_legend().get_texts()[-1].get_text() == r"$e^{-\gamma\Delta^* k\eta}$"
    # It fails where the bound is larger than it is: as if the least rate were twice what was seen.
    rates = dict(zip(map(str, outcome.data["hidden"]), outcome.data["least"], strict=True))
    monkeypatch.setattr(three_layers, "delta_star", lambda row: 2 * rates[str(row["hidden"])] / three_layers.GAMMA)
    broken = dict(failed(three_layers.experiment.run(0, silent, small).claims))
    assert any(text.startswith("The loss lies under") for text in broken)
    assert any(text.startswith("Drawn as Δ*") for text in broken)


def _remember(monkeypatch, module):
    """Sweeps take their time to start; a second run has the rows of the first."""
    seen = {}

    def rows_of(grid, *args):
        if repr(grid) not in seen:
            seen[repr(grid)] = _sweep.rows_of(grid, *args)
        return seen[repr(grid)]

    monkeypatch.setattr(module, "rows_of", rows_of)


def test_step_sizes_in_small(tmp_path, here):
    small = step_sizes.StepSizesSettings(h=(60, 80, 100), seeds=2, until=1e-4)
    outcome = step_sizes.experiment.run(0, silent, small)
    drawn(outcome, tmp_path / "figure.svg")
    assert len(outcome.data["steps"]) == 4 * 3 * 2
    texts = {claim.text.partition(":")[0]: claim.passed for claim in outcome.claims}
    by_hand = [
        passed for text, passed in texts.items() if text.startswith("Steps taken by hand give the losses drawn for")
    ]
    assert by_hand == [True] * len(step_sizes.RULES)
    assert texts["Every descent reaches its target"]
    assert texts["The loss rises in no step of any run"]
    assert texts["Each of these descents keeps its certificate"]


def test_a_curve_that_is_not_of_its_steps_is_caught():
    """The curve of some steps only, or of other steps, is not drawn over the number of steps."""
    f = lf.LinearRegression(np.eye(10), np.diag(np.arange(1.0, 11.0)) / 10)
    net = lf.init.gaussian((10, 12, 10), 12**-0.5, rng=3)
    run = lf.gradient_descent(f, net, step_size=0.05, steps=40)
    eta = [0.05] * 40
    row = {
        "hidden": [12],
        "seed": 3,
        "schedule": "constant",
        "steps": 40,
        "curve_gap": run.gap,
        "curve_step_size": eta,
    }
    assert step_sizes._drawn_claim(f, row).passed
    assert not step_sizes._drawn_claim(f, row | {"curve_gap": run.gap[::2], "curve_step_size": eta[::2]}).passed
    assert not step_sizes._drawn_claim(f, row | {"curve_step_size": [0.1] * 40}).passed


def test_claims_on_rows_can_fail():
    good = {"status": "ok", "reason": "", "holds": True, "worst_slack": 1.2}
    bad = {"status": "failed", "reason": "step limit", "holds": False, "worst_slack": 0.9}
    assert _sweep.complete_claim([good, good], "run").passed
    claim = _sweep.complete_claim([good, bad], "run")
    assert not claim.passed
    assert claim.observed == "1 of 2; step limit"
    assert _sweep.rows_claim([good], "kept").passed
    assert not _sweep.rows_claim([good, bad], "kept").passed
    assert not _sweep.rows_claim([{**good, "holds": None}], "kept").passed


def test_what_takes_minutes_is_asked_for_in_full_or_by_name():
    full = {"box_plot", "three_layers", "step_sizes"}
    assert {e.id for e in select(full=True)} - {e.id for e in select()} == full
    assert len(select(full=True)) == len(experiments.EXPERIMENTS)
    assert [e.id for e in select(["box_plot"])] == ["box_plot"]
