"""Every figure takes other settings: its claims hold or are left out with a reason, and it is drawn."""

import dataclasses

import numpy as np
import pytest

from linflow.experiments.figures import EXPERIMENTS, Settings, assigned, setting
from linflow.plots import style

SMALL = {
    "phase_plane": {"start": "1x1,-2x0.5", "seeds": "1", "d": "0,2,4,8,16", "product": "0.5"},
    "depth": {"depth": "2,4,9", "step": "0.3", "product": "0.01", "seeds": "2", "run": "2,4"},
    "spectrum": {"n": "3", "m": "5", "h": "10,40,160", "start": "orthogonal", "seeds": "2"},
    "implicit_bias": {"n": "4", "N": "2", "m": "1", "h": "10,40", "a": "0.5,0.25", "seeds": "2", "until": "1e-6"},
    "laziness": {"n": "3", "m": "2", "h": "10,40", "depth": "2,4", "target": "1", "seeds": "2", "until": "1e-3"},
    "symmetry": {"n": "2", "m": "2", "h": "3", "eta": "0.02", "t_max": "1"},
    "implicit_acceleration": {"p": "3", "depth": "1,2", "y": "2,1,0.5", "x": "1,2,3", "until": "1e-2", "steps": "60"},
    "init_map": {"n": "3", "h": "6", "grid": "20", "seeds": "4", "start": "0.5x1.5"},
    "real_data": {"start": "NTK,imbalanced", "layers": "2", "until": "1e-3", "h_digits": "20"},
    "exploding": {"depth": "2,4", "step": "0.5", "values": "2,1", "start": "0.8", "until": "1e-3"},
    "greedy": {"n": "4", "values": "2,1", "known": "0.9", "alphas": "1e-2,1e-4", "seeds": "1", "draws": "1"},
    "small_start": {"values": "2,1", "alpha": "1e-2", "alphas": "1e-2,1e-3", "depth": "2,4", "h": "3", "seeds": "1"},
    "balanced_descent": {"depth": "4,2", "values": "2,1.9", "start": "1.1", "until": "1e-2"},
    "sparse": {
        "n": "5",
        "d": "8",
        "support": "1",
        "noise": "0.2",
        "depth": "2",
        "alpha": "1e-2",
        "start": "0.5,2",
        "seeds": "1",
    },
    "network_bias": {
        "start": "0.1",
        "n": "2",
        "d": "4",
        "depth": "2",
        "alphas": "0.1,1",
        "seeds": "1",
        "until": "1e-6",
    },
    "one_and_two_layers": {"values": "2,1", "h": "3", "start": "0.1", "imbalance": "0,2", "size": "1", "seeds": "2"},
    "two_layer_descent": {"n": "3", "h": "12,40", "start": "fan_out", "seeds": "2", "kappa": "1", "until": "1e-4"},
    "saddles": {"values": "2,1", "h": "2", "depth": "2", "size": "1e-4", "seeds": "1", "until": "1e-4"},
    "classification": {"N": "4", "n": "2", "margin": "1", "h": "3", "depth": "1", "steps": "60", "seeds": "1"},
    "width_map": {"h": "64,8", "depth": "3,2", "n": "2", "m": "1", "kappa": "1.5", "until": "1e-2", "seeds": "2"},
    "optimizers": {
        "n": "2",
        "m": "2",
        "N": "6",
        "h": "3",
        "batch": "2",
        "steps": "20",
        "friction": "1,3",
        "seeds": "1",
    },
    "losses": {
        "N": "6",
        "n": "2",
        "classes": "2",
        "h": "4",
        "t_max": "50",
        "rows": "3",
        "columns": "2",
        "known": "0.7",
        "imbalance": "1,2",
        "until": "1e-3",
        "seeds": "1",
    },
    "adapters": {"n": "4", "m": "3", "r": "1", "start": "4,2", "ratio": "1,3", "size": "4", "seeds": "1"},
    "relu": {"n": "3", "d": "6", "width": "20,60", "alpha": "1,4", "seeds": "1"},
    "turning": {"size": "1e-2,1e-3", "h": "5", "images": "2", "h_digits": "3"},
    "verified_runs": {"n": "4", "m": "2", "h": "8", "until": "1e-3", "h_diabetes": "8", "h_digits": "12"},
}
"""Of the other figures the tests beside this one change the settings."""


def silent(fraction, note=""):
    assert -1e-9 <= fraction <= 1 + 1e-9


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ("real_data", "verified_runs") else [])
        for name in SMALL
    ],
)
def test_a_figure_at_other_settings(name):
    if name in ("real_data", "verified_runs", "turning"):
        pytest.importorskip("sklearn")
    experiment = EXPERIMENTS[name]
    outcome = experiment.run(0, silent, experiment.settings.read(SMALL[name]))
    assert [(claim.text, claim.observed) for claim in outcome.claims if not claim.passed] == []
    assert all(one.reason for one in outcome.left_out)
    with style():
        outcome.draw().draw_without_rendering()


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_settings_are_read_as_they_are_written(name):
    kind = EXPERIMENTS[name].settings
    assert kind.read(kind().texts()) == kind()
    assert kind().changes() == ""
    assert {"start", "h", "seeds"} & set(kind.names())
    assert all(kind.meanings().values())


@dataclasses.dataclass(frozen=True)
class Every(Settings):
    """One of each type."""

    count: int = setting(3, "how many")
    size: float = setting(0.5, "how large")
    shift: float = setting(0.0, "where", least=-np.inf)
    word: str = setting("a", "which", among=("a", "b"))
    pairs: tuple[tuple[int, int], ...] = setting(((1, 2),), "widths")


def test_values_of_every_type():
    given = {"count": "7", "size": "1e-3", "shift": "-2", "word": "b", "pairs": "3x4, 5x6"}
    found = Every.read(given)
    assert found == Every(7, 1e-3, -2.0, "b", ((3, 4), (5, 6)))
    assert found.changes("word", "pairs") == "word = b, not a, pairs = 3x4,5x6, not 1x2"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("count", "2.5", "'2.5' is not a whole number"),
        ("count", "0", "'0' is not at least 1"),
        ("size", "0", "'0' is not positive"),
        ("size", "nan", "'nan' is not positive"),
        ("shift", "inf", "'inf' is not a finite number"),
        ("word", "c", "'c' is none of a, b"),
        ("pairs", "3", "'3' has 1 numbers, where 2 are needed, as in 1x2"),
        ("pairs", "3x4,3x4", "a value occurs twice"),
    ],
)
def test_values_that_cannot_be_read(name, text, message):
    with pytest.raises(ValueError, match=f"^{name}={text}: {message}. It is "):
        Every.read({name: text})


def test_a_setting_goes_to_every_figure_that_has_it():
    found = assigned({"one": Every, "none": Settings}, {"count": "5"})
    assert found == {"one": Every(count=5), "none": Settings()}
    with pytest.raises(
        ValueError, match=r"^no setting 'cuont' in one, none. Did you mean 'count'\? Settings: count, size"
    ):
        assigned({"one": Every, "none": Settings}, {"cuont": "5"})
