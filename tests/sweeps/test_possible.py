"""Grids of which no cell can begin are refused before anything runs, and the grid of the guide is none of them."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import linflow as lf
from linflow.cli import app
from linflow.sweeps import possible, read_grid, run_sweep
from linflow.sweeps.grid_file import to_toml

Y = np.random.default_rng(5).normal(size=(4, 3))
DATA = {"target": Y}


def hopeless(grid, message, folder):
    with pytest.raises(ValueError, match=message):
        run_sweep(read_grid(grid), folder / "out", workers=1)
    assert not (folder / "out").exists()


def test_a_size_for_starts_that_have_none_is_refused(tmp_path, here):
    grid = {
        "data": DATA,
        "start": {"hidden": [6]},
        "grid": {"init": ["ntk", "fan_in"], "size": [0.1, 1.0], "seeds": 9},
    }
    hopeless(
        grid,
        r"none of the 36 cells can run\. The most common reason, that of 18: the start \w+ has no size",
        tmp_path,
    )
    grid["grid"]["init"] += ["gaussian"]
    assert run_sweep(read_grid(grid), tmp_path / "out", workers=1).reasons == {"settings": 36}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"data": {"target": "none.npy"}}, r"none of the 2 cells can run: .*none\.npy"),
        ({"data": {}}, "a factorization needs a target"),
        ({"data": {"x": Y, "y": Y[:2]}}, "has 4 rows and data-.*npy has 2; one row for each sample"),
        ({"data": {"target": np.full((2, 2), np.nan)}}, r"^none of the 2 cells can run: 'data-[0-9a-f]+\.npy'.*"),
        ({"start": {}}, "the start has no hidden widths"),
        ({"start": {"init": "orthogonal", "hidden": [6], "weights": "w.npz"}}, r"start\.weights"),
        ({"start": {"weights": "none.npz"}, "grid": {"until": [1e-3, 1e-4]}}, r"none\.npz"),
        ({"grid": {"init": ["ntk2", "fan-in"]}}, r"start\.init"),
        ({"grid": {"until": [2.0, 3.0]}}, r"flow\.until"),
        (
            {"algorithm": "descent", "descent": {"schedule": "local_smoothness", "step_size": 0.1}},
            "local_smoothness computes its own steps",
        ),
    ],
)
def test_other_grids_that_are_hopeless(parts, message, tmp_path):
    grid = {"data": DATA, "start": {"hidden": [6]}, "grid": {"seeds": 2}}
    hopeless({**grid, **parts}, message, tmp_path)


def test_one_cell_that_can_begin_is_enough_wherever_it_lies():
    columns = {"init": ["ntk"] * 60 + ["gaussian"], "size": [1.0 + i for i in range(61)]}
    axes = {"until": [3.0, 0.1], "seeds": 2}
    possible.refuse_hopeless(read_grid({"data": DATA, "start": {"hidden": [6]}, "zip": [columns], "grid": axes}))


def test_cells_that_differ_in_seeds_and_tolerances_are_judged_once(tmp_path, monkeypatch):
    judged = []
    monkeypatch.setattr(possible, "prepared", lambda settings, _: judged.append(settings) or lf.Network([Y]))
    axes = {"seeds": 1000, "until": [2.0, 0.1, 0.2], "rtol": [1e-9, 1e-8], "size": [1.0, 2.0]}
    grid = {"data": DATA, "start": {"hidden": [6]}, "grid": axes}
    possible.refuse_hopeless(read_grid(grid))
    assert len(judged) == 1  # it can begin
    judged.clear()

    def refuse(settings, _):
        judged.append((settings["start.seed"], settings["flow.until"], settings["start.size"]))
        raise ValueError("no")

    monkeypatch.setattr(possible, "prepared", refuse)
    with pytest.raises(ValueError, match="none of the 12000 cells can run: no"):
        possible.refuse_hopeless(read_grid(grid))
    assert judged == [(0, 0.1, 1.0), (0, 0.1, 2.0)]


def test_what_is_not_known_before_is_tried(monkeypatch):
    def breaks(*_):
        raise MemoryError

    monkeypatch.setattr(possible, "prepared", breaks)
    possible.refuse_hopeless(read_grid({"data": DATA, "start": {"hidden": [6]}}))


def test_a_hopeless_grid_is_bad_input_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("Y.npy", Y)
    Path("grid.toml").write_text(
        to_toml(read_grid({"data": {"target": "Y.npy"}, "grid": {"width": [3], "size": [2.0]}}))
    )
    result = CliRunner().invoke(app, ["sweep", "grid.toml", "--out", "results"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "the 1 cell of the grid cannot run: the start ntk has no size" in result.stderr
    assert not Path("results").exists()
