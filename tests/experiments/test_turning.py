"""The figure of turning neurons: its claims at other seeds, and wrong times or bounds are seen."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the images come with scikit-learn")

from linflow.experiments.figures import turning

SMALL = {"size": "1e-2,1e-3", "h": "6", "images": "3", "h_digits": "4"}


def silent(fraction, note=""):
    assert 0 <= fraction <= 1


def outcome(seed, given):
    return turning.experiment.run(seed, silent, turning.TurningSettings.read(given))


@pytest.mark.parametrize(
    ("seed", "given"), [(1, SMALL), *(pytest.param(seed, {}, marks=pytest.mark.slow) for seed in (0, 1))]
)
def test_every_claim_holds(seed, given):
    found = outcome(seed, given)
    assert found.claims and all(claim.passed for claim in found.claims)
    assert len(found.draw().axes) == 2


def test_the_images_are_as_the_theorem_asks():
    X, y = turning.two_digits(8)
    assert sorted(y) == [-1.0] * 8 + [1.0] * 8
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, rtol=1e-14)
    assert min(y[i] * y[k] * float(X[i] @ X[k]) for i in range(16) for k in range(16)) > 0


def test_the_time_is_the_first_at_which_the_theorem_holds():
    data = turning.compute(turning.TurningSettings.read(SMALL), 1, silent)
    for one in data.all:
        signs = one.run.network_at(one.when).preactivations(one.X) > 0
        for column, v in zip(signs.T, one.run.start.V[:, 0], strict=True):
            assert (column == (one.y == np.sign(v))).all() or not column.any()
        before = [f.t for f in one.run.flips if f.t < one.when]
        earlier = one.run.network_at(max(before) * (1 - 1e-6)).preactivations(one.X) > 0
        assert (earlier != signs).any()


def test_a_time_too_early_and_a_bound_too_low_are_caught(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(turning, "aligned_since", lambda *_: 0.1)

        class Low:
            best = None

            def gap_at(self, t):
                return np.full(np.shape(t), 1e-3)

        patch.setattr(turning.relu, "certify", lambda *given, **options: Low())
        broken = [claim.text for claim in outcome(1, SMALL).claims if not claim.passed]
    assert any("over observed loss" in text for text in broken) and any("Flips after" in text for text in broken)
