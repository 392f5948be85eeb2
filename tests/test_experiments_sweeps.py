"""The figures that are sweeps: their claims hold, and fail where what they say is not so."""

import numpy as np
import pytest

import linflow as lf
from linflow import experiments
from linflow.experiments import _sweep, box_plot, select, step_sizes, three_layers
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


def test_the_box_plot_in_small(monkeypatch, tmp_path):
    monkeypatch.setattr(box_plot, "WIDTH", 20)
    monkeypatch.setattr(box_plot, "DRAWS", 3)
    outcome = box_plot.experiment.run(2, silent)
    drawn(outcome, tmp_path / "figure.svg")
    target = np.random.default_rng(2).standard_normal((5, 1))
    for init, values in outcome.data["delta"].items():
        for seed, value in zip((6, 7, 8), values, strict=True):
            net = getattr(lf.init, init)((5, 20, 20, 1), rng=seed)
            found = {g.name: g.rate for g in lf.certify(lf.MatrixFactorization(target), net).guarantees}
            assert value == found["three layers, Δ*"]  # γ is 1
    texts = {claim.text: claim.passed for claim in outcome.claims}
    assert texts["Nor does the best bound"]
    assert texts["Every run keeps its certificate at every recorded time"]


def test_three_layers_in_small(monkeypatch, tmp_path):
    for name, value in {"WIDTHS": ((10, 20), (20, 30), (30, 40)), "DRAWS": 1, "ETA": 5e-4, "UNTIL": 1e-2}.items():
        monkeypatch.setattr(three_layers, name, value)
    seen = {}  # sweeps take their time to start; the second run has the rows of the first
    monkeypatch.setattr(
        three_layers, "rows_of", lambda grid, *args: seen.setdefault(repr(grid), None) or _keep(seen, grid, *args)
    )
    outcome = three_layers.experiment.run(0, silent)
    drawn(outcome, tmp_path / "figure.svg")
    under = next(claim for claim in outcome.claims if claim.text.startswith("The loss lies under"))
    assert under.passed
    # It fails where the bound is larger than it is: as if the least rate were twice what was seen.
    rates = dict(zip(map(str, outcome.data["hidden"]), outcome.data["least"], strict=True))
    monkeypatch.setattr(three_layers, "guaranteed", lambda row, name: 2 * rates[str(row["hidden"])])
    broken = three_layers.experiment.run(0, silent)
    assert not next(claim for claim in broken.claims if claim.text.startswith("The loss lies under")).passed


def _keep(seen, grid, *args):
    seen[repr(grid)] = _sweep.rows_of(grid, *args)
    return seen[repr(grid)]


def test_step_sizes_in_small(monkeypatch, tmp_path):
    for name, value in {"WIDTHS": (60, 80, 100), "DRAWS": 2, "SHOWN": 80, "UNTIL": 1e-4}.items():
        monkeypatch.setattr(step_sizes, name, value)
    outcome = step_sizes.experiment.run(0, silent)
    drawn(outcome, tmp_path / "figure.svg")
    assert len(outcome.data["steps"]) == 4 * 3 * 2
    texts = {claim.text.partition(":")[0]: claim.passed for claim in outcome.claims}
    assert texts["Every descent reaches its target"]
    assert texts["The loss rises in no step of any run"]
    assert texts["Each of these descents keeps its certificate"]


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
