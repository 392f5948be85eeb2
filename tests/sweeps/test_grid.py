"""Grids of a sweep: what cells there are, what each is called, and what is refused."""

import itertools
import json
import random
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from linflow.experiments.schema import Experiment
from linflow.sweeps import Grid, read_grid
from linflow.sweeps.axes import defaults, nested, setting_names
from linflow.sweeps.grid import PATHS
from linflow.sweeps.grid_file import problem, to_toml


def cells(grid: Grid) -> list[dict]:
    return [grid.settings(i) for i in range(len(grid))]


def test_a_grid_is_the_product_of_its_axes_and_the_last_changes_fastest():
    grid = read_grid({"grid": {"start.init": ["ntk", "gaussian"], "until": [1e-2, 1e-4, 1e-6], "seeds": 2}})
    expected = list(itertools.product(["ntk", "gaussian"], [1e-2, 1e-4, 1e-6], [0, 1]))
    assert [(c["start.init"], c["flow.until"], c["start.seed"]) for c in cells(grid)] == expected


def test_columns_of_a_zip_change_together():
    grid = read_grid({"zip": [{"init": ["small", "gaussian"], "size": [1e-3, 2.0]}], "grid": {"seeds": [4]}})
    assert [(c["start.init"], c["start.size"], c["start.seed"]) for c in cells(grid)] == [
        ("small", 1e-3, 4),
        ("gaussian", 2.0, 4),
    ]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"range": [10, 30, 10]}, [10, 20, 30]),
        ({"range": [30, 10, -10]}, [30, 20, 10]),
        ({"range": [1, 10, 4]}, [1, 5, 9]),
        ({"log": [10, 1000, 3]}, [10, 100, 1000]),
        ({"linear": [10, 20, 3]}, [10, 15, 20]),
        ({"linear": [1, 1.7e308, 2]}, [1, int(1.7e308)]),
        ({"log": [1, 4, 10]}, [1, 2, 3, 4]),  # whole numbers, each once
        ([7, 3], [7, 3]),
    ],
)
def test_ranges_of_whole_numbers(spec, expected):
    assert [c["start.hidden"] for c in cells(read_grid({"grid": {"width": spec}}))] == [[w] for w in expected]


def test_ranges_of_other_numbers_hit_decimal_steps_and_both_ends():
    size = [c["start.size"] for c in cells(read_grid({"grid": {"size": {"range": [0.1, 0.5, 0.1]}}}))]
    assert size == [0.1, 0.2, 0.3, 0.4, 0.5]
    size = [c["start.size"] for c in cells(read_grid({"grid": {"size": {"log": [1e-3, 0.3, 4]}}}))]
    assert (size[0], size[-1]) == (1e-3, 0.3)
    np.testing.assert_allclose(
        np.diff(np.log(size)), np.log(300) / 3, rtol=1e-14
    )  # a few roundings of numbers near 1


def test_width_and_depth_stand_for_hidden():
    grid = read_grid({"start": {"hidden": [5]}, "grid": {"width": [8, 9], "depth": [2, 4]}})
    assert [c["start.hidden"] for c in cells(grid)] == [[8], [8, 8, 8], [9], [9, 9, 9]]
    grid = read_grid({"start": {"hidden": [5, 7]}, "grid": {"width": [8]}})
    assert cells(grid)[0]["start.hidden"] == [8, 8]
    grid = read_grid({"start": {"hidden": [5]}, "grid": {"depth": [1, 3]}})
    assert [c["start.hidden"] for c in cells(grid)] == [[], [5, 5]]
    grid = read_grid({"grid": {"hidden": [[5, 6], 7]}})
    assert [c["start.hidden"] for c in cells(grid)] == [[5, 6], [7]]


def test_every_setting_that_makes_numbers_can_be_an_axis():
    values = {
        "algorithm": "descent",
        "descent.step_size": 0.25,
        "start.hidden": [[3]],
        "start.init": "fan_in",
        "start.layers": [["up", "down"]],
        **dict.fromkeys(PATHS, "a.npy"),
    }
    for name in setting_names():
        value = values.get(name, defaults().get(name, 0.5))
        base = {"algorithm": "descent"} if name.startswith("descent.") else {}
        base |= {"start.weights": "a.npy"} if name == "start.layers" else {}
        grid = read_grid({**nested(base), "grid": {name: value if isinstance(value, list) else [value]}})
        assert set(cells(grid)[0]) == {*base, name}
    assert {"data.target", "start.hidden", "flow.until", "descent.steps"} <= set(setting_names())
    assert not any(name.startswith(("output.", "design.")) for name in setting_names())


def test_what_an_algorithm_does_not_use_makes_no_cell():
    grid = read_grid(
        {"grid": {"algorithm": ["flow", "descent"], "schedule": ["constant", "backtracking"], "rtol": [1e-8, 1e-6]}}
    )
    assert len(grid) == 8
    assert len(set(grid.ids.tolist())) == 4  # two flows and two descents
    assert {c["algorithm"]: set(c) - {"algorithm"} for c in cells(grid)} == {
        "flow": {"flow.rtol"},
        "descent": {"descent.schedule"},
    }


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"grid": {"widht": [3]}}, ["widht is an unknown key", "did you mean width?"]),
        ({"start": {"hiden": [3]}, "grid": {"seeds": 2}}, ["start.hiden", "did you mean start.hidden?"]),
        ({"grid": {"flow.untli": [3]}}, ["flow.untli", "did you mean flow.until?"]),
        ({"output": {"folder": "here"}, "grid": {"seeds": 2}}, ["output.folder", "does not apply to a sweep"]),
        ({"flow": {"record": ["singular_values"]}}, ["flow.record", "does not apply to a sweep"]),
        ({"grid": {"width": []}}, ["width has no values", "at least one"]),
        ({"grid": {"width": 3}}, ["width is 3", "a list of values", "[start]"]),
        ({"grid": {"width": "wide"}}, ["width is 'wide'", "a list of values"]),
        ({"grid": {"width": {"range": [1, 5]}}}, ["range", "[first, last, step]"]),
        ({"grid": {"width": {"range": [1, 5, -1]}}}, ["from 1 to 5", "steps of -1"]),
        ({"grid": {"size": {"log": [0, 1, 3]}}}, ["no logarithms", "positive"]),
        ({"grid": {"width": [2.5]}}, ["width", "2.5"]),
        ({"grid": {"seeds": 0}}, ["seeds", "0"]),
        ({"grid": {"width": [3, 4, 3]}}, ["width is 3 more than once"]),
        ({"grid": {"size": [1, 1.0]}}, ["size is 1.0 more than once"]),
        ({"grid": {"width": [3], "hidden": [[3]]}}, ["start.hidden is set by two axes"]),
        ({"grid": {"seeds": 3}, "zip": [{"seed": [1, 2]}]}, ["start.seed is set by two axes"]),
        ({"zip": [{"init": ["ntk"], "size": [1.0, 2.0]}]}, ["the same length", "'start.size': 2"]),
        ({"zip": {"init": ["ntk"]}}, ["zip", "[[zip]]"]),
        ({"zip": [3]}, ["zip has 3", "[[zip]]"]),
        ({"zip": [{}]}, ["[[zip]]", "no columns"]),
        ({"zip": [{"seed": [1, 2], "start.seed": [5, 6]}]}, ["start.seed is given twice"]),
        ({"grid": {"start": {"seed": [1, 2]}, "start.seed": [5, 6]}}, ["start.seed is given twice"]),
        ({"start": {"seed": 5}, "seed": 7}, ["start.seed is given twice"]),
        ({"grid": {"size": [None, 0.5]}}, ["start.size", "None", "leave it out"]),
        ({"grid": {"seed": [date(1979, 5, 27), 3]}}, ["start.seed", "is a date", "numbers, words"]),
        ({"grid": {"multiplier": [Decimal("1.5")]}}, ["start.multiplier", "is a Decimal"]),
        ({"grid": {1: [2]}}, ["1 is not a key"]),
        ({"grid": {"hidden": [[4], [4, None]]}}, ["start.hidden", "None", "leave it out"]),
        ({"grid": {"init": ["ntk", {"a b": 1}]}}, ["start.init", "table", "leave it out"]),
        ({"start": {"inti": None}}, ["start.inti", "did you mean start.init?"]),
        ({"foo": None}, ["foo is an unknown key"]),
        ({"grid": {"depth": [2, 3]}}, ["depth changes", "no width"]),
        ({"grid": {"width": [3], "depth": [2, 10**9]}}, ["depth is 1000000000", "at most"]),
        ({"grid": {"data.target": np.zeros((2, 2, 2))}}, ["data.target is array", "a list of values"]),
        ({"grid": {"seeds": 10**400}}, ["seeds", "at most"]),
        ({"grid": {"seed": {"range": [0, 10**400, 1]}}}, ["seed is", "[first, last, step]"]),
        ({"grid": {"width": {"from": 1, "to": 4}}}, ["width is {'from': 1, 'to': 4}", "[first, last, step]"]),
        ({"data": "Y.csv"}, ["data is a section", "[data]"]),
        ({"sweep": {"curves": 1}}, ["sweep.curves is 1", "2 and more"]),
        (
            {"start": {"hidden": [4, 8]}, "grid": {"depth": [3]}},
            ["start.hidden is [4, 8]", "depth", "hidden the axis"],
        ),
        ({"data": {"target": np.eye(2) * 1j}}, ["data.target", "a matrix of real numbers"]),
        ({"data": {"target": [["1", "2"]]}}, ["data.target", "a matrix of real numbers"]),
        ({"data": {"target": np.ma.masked_less(np.eye(2), 0.5)}}, ["data.target", "hides 2 of its 4 entries"]),
        ({"grid": [3]}, ["grid is [3]", "a table [grid]"]),
        ({"width": 3}, ["width belongs in [grid]", "[start]"]),
        ({"seeds": 3}, ["seeds belongs in [grid]"]),
        ({"start": {"init": "nkt"}, "grid": {"seeds": 2}}, ["start.init is 'nkt'"]),
        ({"descent": {"step_size": 0.1}, "grid": {"seeds": 2}}, ["descent.step_size is not used", "algorithm"]),
        ({"algorithm": "descent", "grid": {"rtol": [1e-3]}}, ["flow.rtol is not used", "leave it out"]),
        ({"start": {"weights": "w.npz"}, "grid": {"seeds": 2}}, ["start.seed is not used", "weights"]),
        ({"start": {"weights": "w.npz"}, "grid": {"width": [2]}}, ["width is not used", "weights"]),
        ({"grid": {"width": {}}}, ["width is {}", "[first, last, step]"]),
        ({"grid": {"size": {"linear": [0.1, 1, 10**9]}}}, ["1000000000", "at most"]),
        ({"grid": {"width": {"range": [1, 10**9, 1]}}}, ["width", "at most"]),
        ({"grid": {"size": {"range": [1, 1e308, 1e-300]}}}, ["size", "at most"]),
        ({"grid": {"seeds": 10**9}}, ["seeds", "at most"]),
        ({"grid": {"seeds": 10**4, "width": {"range": [1, 1000, 1]}}}, ["10,000,000 cells", "at most"]),
        ({"sweep": {"chekc": True}}, ["sweep.chekc", "check, verified, rigorous, curves, time_limit"]),
        ({"sweep": {"check": 2}}, ["sweep.check is 2", "true or false"]),
        ({"sweep": {"time_limit": -1}}, ["time_limit", "-1"]),
        ({"sweep": {"curves": 1.5}}, ["curves", "1.5"]),
        ({"data": {"target": "no matrix"}, "grid": {"x": [[["a"]]]}}, ["data.x", "a matrix of real numbers"]),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(tree, words):
    with pytest.raises(ValueError, match=r".") as caught:
        read_grid(tree)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"grid": {"algorithm": ["flow", "flwo"]}}, ["algorithm is 'flwo'", "Did you mean flow?", "will fail"]),
        ({"grid": {"init": ["ntk", "fanin"]}}, ["start.init is 'fanin'", "Did you mean fan_in?", "will fail"]),
        ({"grid": {"until": [1e-2, 2, 3.5]}}, ["flow.until is 2", "So is 1 other value."]),
        ({"grid": {"until": [1e-2, 2, 3, 4]}}, ["flow.until is 2", "So are 2 other values."]),
        ({"zip": [{"seed": [1, -1], "init": ["ntk", "fan_in"]}]}, ["start.seed is -1"]),
        ({"grid": {"hidden": [[3], [0, 2]]}}, ["start.hidden is 0"]),
        ({"grid": {"t_max": {"linear": [-1, 1, 3]}}}, ["flow.t_max is -1.0", "So is 1 other value."]),
    ],
)
def test_values_that_no_experiment_can_have_are_told_before_the_others_run(tree, words):
    grid = read_grid(tree)
    (text,) = grid.doubts
    assert "\n" not in text
    for word in words:
        assert word in text, text
    assert len(set(grid.ids.tolist())) == len(grid)


def test_good_grids_leave_no_doubt():
    tree = {"algorithm": ["flow", "descent"], "seeds": 3, "t_max": [1, 2.5], "hidden": [3, [4, 5]]}
    assert read_grid({"grid": {**tree, "target": ["a.npy", np.eye(2)]}}).doubts == ()


def test_files_that_are_no_grids(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="not a text file in UTF-8"):
        read_grid(path)
    path.write_text("[grid")
    with pytest.raises(ValueError, match="not TOML"):
        read_grid(path)
    with pytest.raises(FileNotFoundError):
        read_grid(tmp_path / "none.toml")


GRID = """
algorithm = "flow"

[data]
target = "data/Y.npy"

[sweep]
curves = 5

[grid]
width = { log = [10, 1000, 3] }
seeds = 3
"start.init" = ["ntk", "fan_in"]

[[zip]]
size = [1e-3, 2.0]
until = [1e-2, 1e-4]
"""


def test_a_grid_can_be_written_and_read_again(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    grid = read_grid(tmp_path / "grid.toml")
    assert grid.base["data.target"] == str(tmp_path / "data" / "Y.npy")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "grid.toml").write_text(to_toml(grid))
    again = read_grid(elsewhere / "grid.toml")
    assert again == grid
    assert (again.ids == grid.ids).all()


def test_ids_are_stable_and_tell_cells_apart(tmp_path):
    np.save(tmp_path / "Y.npy", np.eye(3))
    base = {"data": {"target": str(tmp_path / "Y.npy")}, "start": {"hidden": [4]}}
    grid = read_grid({**base, "grid": {"seeds": 50, "init": ["ntk", "fan_in"], "until": [0.5, 0.25]}})
    assert len(set(grid.ids.tolist())) == len(grid) == 200

    # The order of keys, what is said that would be so anyway, and where a file lies make no other cell.
    (tmp_path / "b").mkdir()
    np.save(tmp_path / "b" / "other.npy", np.eye(3))
    same = read_grid(
        {
            "start": {"hidden": [4], "seed": 7},
            "grid": {"until": [0.25, 0.5], "init": ["fan_in", "ntk"], "seeds": list(range(50))},
            "data": {"target": str(tmp_path / "b" / "other.npy")},
            "flow": {"rtol": 1e-8},
        }
    )
    assert set(same.ids.tolist()) == set(grid.ids.tolist())

    # All that changes numbers does.
    known = set(grid.ids.tolist())
    np.save(tmp_path / "b" / "changed.npy", 2 * np.eye(3))
    for change in (
        {"flow": {"rtol": 1e-9}},
        {"start": {"hidden": [5]}},
        {"sweep": {"check": True}},
        {"sweep": {"curves": 3}},
        {"data": {"target": str(tmp_path / "b" / "changed.npy")}},
        {"algorithm": "descent"},
    ):
        assert not known & set(read_grid({**base, **change, "grid": {"seeds": 50}}).ids.tolist()), change


def test_a_known_id():
    """The id of a cell is part of the format: tables that were written stay usable."""
    assert read_grid({"grid": {"width": [4]}}).ids[0] == b"e0dbcb5776ac0d7e737f"


def test_the_time_limit_makes_no_other_cell():
    first, second = (read_grid({"grid": {"seeds": 2}, "sweep": {"time_limit": x}}) for x in (1, 2.5))
    assert (first.ids == second.ids).all()
    assert (first.time_limit, second.time_limit) == (1.0, 2.5)


def test_arrays_are_data_too(tmp_path):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    grid = read_grid({"data": {"x": X}, "grid": {"y": [Y, 2 * Y]}, "start": {"hidden": [3]}})
    placed = grid.placed(tmp_path)
    for i, scale in enumerate((1, 2)):
        settings = placed.settings(i)
        np.testing.assert_array_equal(np.load(settings["data.x"]), X)
        np.testing.assert_array_equal(np.load(settings["data.y"]), scale * Y)
    assert len(list(tmp_path.iterdir())) == 3
    # The same data from files are the same cells.
    np.save(tmp_path / "mine.npy", X)
    for i in range(2):
        np.save(tmp_path / f"y{i}.npy", (i + 1) * Y)
    other = read_grid(
        {
            "data": {"x": str(tmp_path / "mine.npy")},
            "grid": {"y": [str(tmp_path / f"y{i}.npy") for i in range(2)]},
            "start": {"hidden": [3]},
        }
    )
    assert (other.ids == placed.ids).all()
    with pytest.raises(ValueError, match="a path is needed"):
        read_grid({"start": {"weights": [[1.0]]}})


def test_numbers_of_numpy_are_numbers(tmp_path):
    plain = read_grid({"grid": {"width": [4, 8], "size": [0.5, 1.0], "init": ["gaussian"], "seeds": 2}})
    arrays = read_grid(
        {
            "grid": {
                "width": np.array([4, 8]),
                "size": list(np.array([0.5, 1.0])),
                "init": ["gaussian"],
                "seeds": np.int64(2),
            }
        }
    )
    assert (arrays.ids == plain.ids).all()
    (tmp_path / "grid.toml").write_text(to_toml(arrays))
    assert (read_grid(tmp_path / "grid.toml").ids == plain.ids).all()


@pytest.mark.parametrize("base", [{"start": {}}, {"flow": {"t_max": None}}, Experiment().to_dict()])
def test_what_says_nothing_may_be_said(base, tmp_path):
    grid = read_grid({**base, "grid": {"seeds": 2}})
    assert grid.ids.tolist() == read_grid({"grid": {"seeds": 2}}).ids.tolist()
    (tmp_path / "grid.toml").write_text(to_toml(grid))
    assert read_grid(tmp_path / "grid.toml").ids.tolist() == grid.ids.tolist()


def test_a_complete_experiment_file_is_a_base(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(Experiment().to_toml() + "\n[grid]\nseeds = 2\n")
    assert read_grid(path).ids.tolist() == read_grid({"grid": {"seeds": 2}}).ids.tolist()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"max_steps": [1e4, 1e5]}, {"max_steps": [10000, 100000]}),
        ({"hidden": [[8.0], [16.0]]}, {"hidden": [8, 16]}),
        ({"seed": [0.0, 1.0]}, {"seeds": 2}),
    ],
)
def test_whole_numbers_may_have_a_point(first, second):
    one, two = read_grid({"grid": first}), read_grid({"grid": second})
    assert one.doubts == ()
    assert one.ids.tolist() == two.ids.tolist()
    assert [json.dumps(c) for c in cells(one)] == [json.dumps(c) for c in cells(two)]


@pytest.mark.parametrize(
    "axis", [{"multiplier": [True, 1.0, 2.0]}, {"seed": [False, 0, 1, "1"]}, {"rtol": [1e-8, "1e-8"]}]
)
@pytest.mark.parametrize("other", [{"seeds": 5}, {"until": [0.1, 0.2]}])
def test_what_is_no_setting_shares_no_id_with_what_is_one(axis, other):
    if "seed" in axis:
        other = {"width": [3, 4]}
    grid = read_grid({"grid": {**other, **axis}})
    assert len(set(grid.ids.tolist())) == len(grid)
    assert grid.ids.tolist() == [grid.identity(i).encode() for i in range(len(grid))]


def test_arrays_of_a_sweep_are_what_was_given(tmp_path):
    Y = np.diag([2.0, 1.0])
    grid = read_grid({"data": {"target": Y}, "start": {"hidden": [3]}})
    Y[0, 0] = 9.0  # later
    path = Path(grid.placed(tmp_path).base["data.target"])
    np.testing.assert_array_equal(np.load(path), np.diag([2.0, 1.0]))
    for content in (path.read_bytes()[:100], b"", path.read_bytes().replace(b"\0@", b"\1@")):
        path.write_bytes(content)
        grid.placed(tmp_path)
        np.testing.assert_array_equal(np.load(path), np.diag([2.0, 1.0]))


def test_files_of_another_kind_are_others_and_defaults_make_no_other_cell(tmp_path):
    for name in ("Z.dat", "Z.csv", "Y.csv"):
        (tmp_path / name).write_text("2,0\n0,1\n")
    ids = read_grid({"grid": {"target": [str(tmp_path / name) for name in ("Z.dat", "Z.csv", "Y.csv")]}}).ids.tolist()
    assert ids[0] != ids[1] == ids[2]
    data = {"target": str(tmp_path / "Y.csv")}
    start = {"init": "gaussian"}
    same = [
        {"data": data, "start": start},
        {"data": {**data, "objective": "factorization"}, "start": start},
        {"data": data, "start": {**start, "size": 1.0}},
        {"data": data, "start": {**start, "size": 1.0}, "sweep": {"time_limit": None}},
    ]
    assert len({read_grid(one).ids[0] for one in same}) == 1
    for one in same:
        (tmp_path / "grid.toml").write_text(to_toml(read_grid(one)))
        assert read_grid(tmp_path / "grid.toml").ids[0] == read_grid(same[0]).ids[0]
    odd = read_grid({"grid": {"init": ["ntk", '\x7f"\\ é\n']}})
    (tmp_path / "grid.toml").write_text(to_toml(odd), encoding="utf-8")
    assert read_grid(tmp_path / "grid.toml").ids.tolist() == odd.ids.tolist()


def test_paths_in_an_array_are_paths():
    paths = ["a.npy", "b.npy"]
    one, two = (read_grid({"grid": {"target": given}}) for given in (paths, np.array(paths)))
    assert one.axes == two.axes


def test_logarithms_of_any_numbers():
    (axis,) = read_grid({"start": {"init": "gaussian"}, "grid": {"size": {"log": [1e-200, 1e200, 5]}}}).axes
    # exp(x) is right to some ε of x, here 460.
    np.testing.assert_allclose(axis.columns[0], [1e-200, 1e-100, 1.0, 1e100, 1e200], rtol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_random_grids_keep_their_promises(seed):
    rng = random.Random(seed)
    choices = {
        "width": [{"range": [2, 2 + rng.randrange(5), 1]}, {"log": [2, 50, rng.randrange(1, 6)]}],
        "start.init": [rng.sample(["ntk", "fan_in", "gaussian", "balanced"], rng.randrange(1, 5))],
        "seeds": [rng.randrange(1, 6)],
        "until": [[0.5, 1e-6], {"linear": [0.1, 0.9, rng.randrange(1, 5)]}],
        "algorithm": [["flow", "descent"], ["descent"]],
        "t_max": [[1, 2.0, 3]],
    }
    keys = rng.sample(list(choices), rng.randrange(1, 5))
    if "algorithm" not in keys:
        choices["t_max"].append({"log": [0.1, 10, 5]})
    elif "t_max" in keys:
        choices["algorithm"].pop()  # descents alone have no times
    grid = read_grid({"start": {"hidden": [3]}, "grid": {key: rng.choice(choices[key]) for key in keys}})
    every = cells(grid)
    for c in every:
        problem(c, "cell")  # each is an experiment
    assert grid.ids.tolist() == [grid.identity(i).encode() for i in range(len(grid))]
    assert len(np.unique(grid.ids)) == len({str(sorted(c.items())) for c in every})
    if "algorithm" not in keys:
        assert len(np.unique(grid.ids)) == len(grid)


def test_a_linear_range_may_span_more_than_float64():
    grid = read_grid({"grid": {"t_max": {"linear": [-1.5e308, 1.5e308, 5]}}, "start": {"hidden": [3]}})
    assert grid.axes[0].columns[0] == pytest.approx([-1.5e308, -7.5e307, 0.0, 7.5e307, 1.5e308], rel=1e-15, abs=0)
