"""Old public names work, warn and say the new one."""

import pickle
import warnings

import numpy as np
import pytest

import linflow as lf

F = lf.MatrixFactorization([[2.0]])
START = lf.Network([np.array([[1.0]]), np.array([[0.5]])])
MADE = {
    "Certificate": lambda: lf.certify(F, START),
    "ImbalanceSpectrum": lambda: lf.imbalance_spectrum(START),
    "Design": lambda: lf.design(F, (1, 1, 1), rate=3.0, rng=0),
    "Trajectory": lambda: lf.gradient_flow(F, START, until=1e-2),
    "DescentEnclosure": lambda: lf.enclose(F, START, algorithm="descent", step_size=0.1, steps=2),
}
ATTRIBUTES = [
    ("Certificate", "network", "start"),
    ("Design", "network", "start"),
    ("Trajectory", "network", "final"),
    ("DescentEnclosure", "network", "final"),
    ("Design", "fraction", "until"),
    ("ImbalanceSpectrum", "gap", "spectral_gap"),
]
CALLS = {
    "Certificate.time_to": lambda **k: MADE["Certificate"]().time_to(**k),
    "Certificate.steps_to": lambda **k: lf.certify(F, START, algorithm="descent").steps_to(**k),
    "Certificate.arrival": lambda **k: (cert := MADE["Certificate"]()).arrival(cert.best, **k),
    "Guarantee.time_to": MADE["Certificate"]().best.time_to,
    "Guarantee.steps_to": lf.certify(F, START, algorithm="descent").best.steps_to,
    "Trajectory.time_to": lambda **k: MADE["Trajectory"]().time_to(**k),
    "Enclosure.time_bounds": lambda **k: lf.enclose(F, START, until=1e-2).time_bounds(**k),
    "DescentEnclosure.steps_bounds": lambda **k: MADE["DescentEnclosure"]().steps_bounds(**k),
    "design": lambda **k: lf.design(F, (1, 1, 1), algorithm="descent", rng=0, **k).steps,
}
FRACTION = 0.05
IDS = [b"74528b8ea96bab148663", b"10fc19d3e1e7c232c26c", b"39a9ae9a2e763310e8d3", b"73ee630a0249563b799c"]


@pytest.mark.parametrize(("made", "old", "new"), ATTRIBUTES)
def test_an_attribute_has_its_old_name(made, old, new):
    thing = MADE[made]()
    with pytest.warns(
        DeprecationWarning, match=rf"^{made}\.{old} is now {made}\.{new}; .* until linflow 0\.3"
    ) as caught:
        assert getattr(thing, old) is getattr(thing, new)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("name", CALLS)
def test_a_fraction_is_called_until(name):
    with pytest.warns(DeprecationWarning, match=rf"^{name}\(fraction=…\) is now {name}\(until=…\); ") as caught:
        old = CALLS[name](fraction=FRACTION)
    assert caught[0].filename == __file__
    assert old == CALLS[name](until=FRACTION)
    with pytest.raises(TypeError, match="given until and fraction, its old name; leave out fraction"):
        CALLS[name](until=FRACTION, fraction=FRACTION)


def test_designed_takes_the_old_name_of_until():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")
    import linflow.torch as lt

    model = [torch.zeros(1, 1, dtype=torch.float64) for _ in range(2)]
    with pytest.warns(DeprecationWarning, match=r"^designed_\(fraction=…\) is now designed_\(until=…\); "):
        lt.designed_(model, F, algorithm="descent", fraction=FRACTION)


@pytest.mark.parametrize(("made", "old", "new"), ATTRIBUTES)
def test_a_pickle_with_the_old_name_loads(made, old, new):
    thing = MADE[made]()
    _ = getattr(thing, new)  # where it is worked out when asked for
    if made == "Trajectory":
        _ = thing.stats.gap_error
    cls, value = type(thing), getattr(thing, new)
    state = {old if key == new else key: x for key, x in vars(thing).items() if not key.startswith("_")}
    again = cls.__new__(cls)
    again.__setstate__(pickle.loads(pickle.dumps(state)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = getattr(again, new)
        if isinstance(value, float):
            assert found == value
        else:
            assert all(np.array_equal(a, b) for a, b in zip(found.weights, value.weights, strict=True))
    assert old not in vars(again)


def test_a_constructor_takes_old_names():
    cert = lf.certify(F, START)
    values = {name: getattr(cert, name) for name in ("guarantees", "objective", "gap")}
    with pytest.warns(DeprecationWarning, match=r"Certificate\(network=…\) is now Certificate\(start=…\)"):
        assert lf.Certificate(network=START, **values).start is START
    with pytest.raises(TypeError, match=r"given start and network, its old name; leave out network"):
        lf.Certificate(network=START, start=START, **values)


def test_keys_of_experiment_files_have_their_old_names(tmp_path):
    from linflow.experiments.schema import experiment, validated

    for key, value in (("scale", 2.0), ("multiplier", 0.0)):
        (tmp_path / f"{key}.toml").write_text(f"[start]\nseed = 3\n{key} = {value}\n")
    with pytest.warns(DeprecationWarning, match=r"^start\.scale is now start\.multiplier; "):
        made = experiment(tmp_path / "scale.toml")
    assert made.start.multiplier == 2.0 and made.to_dict()["start"]["multiplier"] == 2.0
    assert made == experiment(options={"start.scale": 2.0, "start.seed": 3})
    with pytest.warns(DeprecationWarning, match="start.scale"):
        assert experiment(tmp_path / "scale.toml", {"start.multiplier": 5.0}).start.multiplier == 5.0
    with pytest.raises(ValueError, match=r"multiplier\.toml, line 3: start\.multiplier is 0"):
        experiment(tmp_path / "multiplier.toml")
    (tmp_path / "scale.toml").write_text("[start]\nscale = 0.0\n")
    with (
        pytest.warns(DeprecationWarning, match="start.scale"),
        pytest.raises(ValueError, match=r"scale\.toml, line 2: start\.multiplier is 0"),
    ):
        experiment(tmp_path / "scale.toml")
    with pytest.raises(
        ValueError, match=r"start\.multiplier and start\.scale, its old name, are both given; leave out"
    ):
        validated({"start": {"scale": 2.0, "multiplier": 2.0}})


def test_keys_of_grids_have_their_old_names_and_cells_their_ids():
    pytest.importorskip("pyarrow", reason="sweeps need pyarrow")
    from linflow.sweeps.grid_file import read_grid

    new = read_grid({"grid": {"multiplier": [0.5, 2.0], "seeds": 2}})
    # Of the version with the old name: a folder that it has written is still the same sweep.
    assert new.ids.tolist() == IDS
    for grid in ({"scale": [0.5, 2.0], "seeds": 2}, {"start.scale": [0.5, 2.0], "seeds": 2}):
        with pytest.warns(DeprecationWarning, match=r"scale is now start\.multiplier; "):
            old = read_grid({"grid": grid})
        assert old.ids.tolist() == IDS and old.settings(3) == new.settings(3)


def test_the_command_line_has_old_options():
    from typer.main import get_command

    from linflow.cli import app

    options = {option for each in get_command(app).commands["certify"].params for option in each.opts}
    assert {"--multiplier", "--scale"} <= options
