"""The figures of optimizers, other losses and adapters: claims at other seeds, and what is broken is seen."""

import numpy as np
import pytest

from linflow.experiments.figures import EXPERIMENTS, adapters, optimizers, other_losses

SMALL = {
    "optimizers": {"N": "8", "steps": "30", "friction": "1,4", "seeds": "1"},
    "losses": {"t_max": "100", "known": "0.7", "imbalance": "2", "seeds": "1"},
    "adapters": {"start": "4,16", "ratio": "1,4", "seeds": "1"},
}


def silent(fraction, note=""):
    assert 0 <= fraction <= 1


def outcome(name, seed=0, given=None):
    experiment = EXPERIMENTS[name]
    return experiment.run(seed, silent, experiment.settings.read(SMALL[name] if given is None else given))


def broken(found):
    return [claim.text for claim in found.claims if not claim.passed]


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow)]
)
def test_every_claim_holds(name, seed):
    found = outcome(name, seed, {})
    assert found.claims and not found.left_out and broken(found) == []
    assert len(found.draw().axes) == {"losses": 2}.get(name, 3)


def test_one_paper_for_the_three():
    assert {EXPERIMENTS[name].paper for name in SMALL} == {"Optimisers, losses and adapters"}
    places = [list(EXPERIMENTS).index(name) for name in SMALL]
    assert np.ptp(places) == 2  # side by side on the page


def test_a_law_that_is_wrong_is_caught(monkeypatch):
    """A factor of 1.01 in what the law adds, and a drift that is not that of the run."""
    right = optimizers._cross
    monkeypatch.setattr(optimizers, "_cross", lambda X, Y: right(X, Y) * (1.0 if X is Y else 1.01))
    assert any("written out: distance" in text for text in broken(outcome("optimizers")))
    monkeypatch.setattr(optimizers, "_cross", lambda X, Y: right(X, Y) * 1.01)
    assert any("drift drawn" in text for text in broken(outcome("optimizers")))


def test_bounds_that_are_too_good_are_caught(monkeypatch):
    """A tenth of the bounds, and twice the rates."""
    right = other_losses.certify

    class Faster:
        def __init__(self, cert):
            self.cert, self.best, self.guarantees = cert, cert.best, [Row(one) for one in cert.guarantees]

        def gap_at(self, t):
            return self.cert.gap_at(t) / 10

        def check(self, run):
            return self.cert.check(run)

    class Row:
        def __init__(self, row):
            self.name, self.rate = row.name, 2 * row.rate

    monkeypatch.setattr(other_losses, "certify", lambda *given: Faster(right(*given)))
    found = broken(outcome("losses"))
    assert any("under its bound" in text for text in found) and any(
        "The certified rate drawn" in text for text in found
    )


def test_a_limit_that_is_too_low_is_caught(monkeypatch):
    right = adapters.certify

    class Lower:
        def __init__(self, row):
            self.row, self.name, self.applies = row, row.name, row.applies
            self.facts = {**row.facts, "limit": 0.5 * row.facts.get("limit", np.nan)}
            self.facts["rate to the limit"] = 3 * row.facts.get("rate to the limit", np.nan)

        def gap_at(self, t):
            return 0.5 * np.asarray(self.row.gap_at(t))

    class Wrong:
        def __init__(self, cert):
            self.guarantees = [Lower(one) for one in cert.guarantees]

    monkeypatch.setattr(adapters, "certify", lambda *given, **options: Wrong(right(*given, **options)))
    found = broken(outcome("adapters"))
    for words in ("under its bound", "never rises above", "is at most −L̇/(L − m)", "rate drawn is 2μ"):
        assert any(words in text for text in found), words
