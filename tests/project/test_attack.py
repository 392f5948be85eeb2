"""A short `make attack`, and that an attack that gets through is a violation."""

import functools

import numpy as np
import pytest

import linflow as lf
from tests import attack

pytest.importorskip("torch")
pytest.importorskip("pyarrow")


def test_nothing_gets_through():
    seen, violations = attack.block(seed=20, first=attack.BLOCK, count=60)
    assert violations == []
    assert sum(seen.values()) == 60
    assert {kind.partition(":")[0] for kind in seen} == {"file", "line", "numbers"}


@pytest.mark.parametrize("ended", ["file", "line", "numbers"])
def test_what_gets_through_is_a_violation(monkeypatch, ended):
    broken = {
        "file": (attack, "READERS", {"m.csv": (lambda path, limit: 1 / 0,)}),
        "line": (attack, "ACTS", attack.re.compile("")),
        "numbers": (lf, "certify", lambda *given, **options: {}["a table"]),
    }
    monkeypatch.setattr(*broken[ended], raising=False)
    found = functools.partial(attack.ATTACKS[ended], np.random.default_rng(3))
    monkeypatch.setattr(attack, "ATTACKS", {ended: lambda rng: found()})
    monkeypatch.setattr(attack, "SHARES", (1.0,))
    kind, how, violated = attack.instance(np.random.default_rng(0))
    assert (kind, how) == (ended, "violation")
    assert violated is not None
    assert "state" in violated


def without_end():
    while True:
        pass


def test_time_and_memory_are_bounded(monkeypatch):
    monkeypatch.setattr(attack, "SECONDS", 0.05)
    monkeypatch.setattr(attack, "MEMORY", 2**28)
    with pytest.raises(attack.TooLong), attack.bounded():
        without_end()
    with pytest.raises(MemoryError), attack.bounded():
        np.zeros(2**29)
