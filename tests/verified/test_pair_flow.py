"""The compiled judge of `make proofs` against the one of 60 digits."""

import pytest

from tests import proofs
from tests.proof_instances import instance
from tests.verified_judge import TrueFlow, _norm, precision

pytestmark = pytest.mark.slow  # it compiles for some seconds


def test_pairs_follow_the_flow_to_28_digits_and_wrong_ones_are_judged_again(monkeypatch):
    from tests.pair_flow import PairFlow

    for index in range(12):
        drawn = instance(77, index)
        slow, fast = drawn.judge(None), drawn.fast(None)
        with precision():
            for _ in range(6):
                slow._advance()
            for part in (0.3, 1 - 1e-9):
                t = float(slow.t) * part
                a, b = slow.at(t), fast.at(t)
                away, size = sum(_norm(x - y) for x, y in zip(a, b, strict=True)), sum(map(_norm, a))
                assert float(away) < 1e-28 * float(size), index  # 2⁻¹⁰⁴ is 5e-32

    start = TrueFlow.__init__

    def elsewhere(self, weights, *rest, **what):
        start(self, [W * (1 + (1e-3 if type(self) in wrong else 0)) for W in weights], *rest, **what)

    monkeypatch.setattr(TrueFlow, "__init__", elsewhere)
    wrong = {PairFlow, TrueFlow}
    telling = [k for k in range(12) if proofs.one(1, k, fast=True).violations]
    assert len(telling) > 5
    flows = [k for k in telling if ", flow to" in proofs.one(1, k).words][:4]
    for right in (PairFlow, TrueFlow):
        wrong.remove(right)
        assert not any(proofs.one(1, k, fast=True).violations for k in flows)
        wrong.add(right)
