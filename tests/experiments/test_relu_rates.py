"""The figure of ReLU networks: its claims at other seeds, and a broken certificate is seen."""

import pytest

from linflow import relu
from linflow.experiments.figures import relu_rates

SMALL = {"width": "40,120", "alpha": "1,5", "seeds": "1", "n": "5", "d": "10"}


def silent(fraction, note=""):
    assert 0 <= fraction <= 1


@pytest.mark.parametrize(
    ("seed", "given"), [(1, SMALL), *(pytest.param(seed, {}, marks=pytest.mark.slow) for seed in (0, 1, 2))]
)
def test_every_claim_holds(seed, given):
    outcome = relu_rates.experiment.run(seed, silent, relu_rates.ReluSettings.read(given))
    assert outcome.claims and all(claim.passed for claim in outcome.claims)
    assert len(outcome.draw().axes) == 2


def test_certificates_that_are_wrong_are_caught(monkeypatch):
    """A certificate that promises five times the rate and no flips fails both claims."""
    right = relu.certify

    class Faster:
        def __init__(self, cert):
            self.cert, self.rate, self.may_flip = cert, cert.rate, cert.may_flip & False

        def check(self, run):
            found = self.cert.check(run)
            return type("Check", (), {"worst_slack": found.worst_slack / 5})

        def gap_at(self, t):
            return self.cert.gap_at(t)

    monkeypatch.setattr(relu_rates.relu, "certify", lambda *given: Faster(right(*given)))
    outcome = relu_rates.experiment.run(1, silent, relu_rates.ReluSettings.read(SMALL | {"alpha": "0.5,5"}))
    broken = [claim.text for claim in outcome.claims if not claim.passed]
    assert any("guaranteed rate" in text for text in broken) and any("excludes" in text for text in broken)
