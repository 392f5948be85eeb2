"""What is seen of a sweep: curves with bands, the page, and the commands."""

import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.colors import to_hex
from typer.testing import CliRunner

import linflow as lf
from linflow.cli import app
from linflow.sweeps import page, plot_sweep, read_grid, read_results, run_sweep, write_report
from linflow.sweeps.page import _verdict
from linflow.sweeps.store import Store
from tests.engine_here import computed_here
from tests.sweeps.test_sweep import Y, failing, grid_of

RNG = np.random.default_rng(0)
ROWS = [
    {"width": w, "init": init, "seed": s, "rate": float(RNG.lognormal(np.log(w))), "status": "ok"}
    for w in (10, 100, 1000)
    for init in ("ntk", "fan_in")
    for s in range(7)
]


def test_medians_and_bands_are_those_of_numpy():
    rows = [*ROWS, {**ROWS[0], "rate": 1e9, "status": "failed"}, {**ROWS[0], "rate": float("nan")}]
    ax = plot_sweep(pa.Table.from_pylist(rows), x="width", y="rate", hue="init")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["fan_in", "ntk"]
    for line, init, band in zip(ax.lines, ("fan_in", "ntk"), ax.collections, strict=True):
        values = np.array(
            [[r["rate"] for r in ROWS if r["init"] == init and r["width"] == w] for w in (10, 100, 1000)]
        )
        np.testing.assert_allclose(line.get_ydata(), np.median(values, axis=1), rtol=1e-14)  # rounding
        low, high = np.percentile(values, (10, 90), axis=1)
        corners = band.get_paths()[0].vertices
        for w, a, b in zip((10, 100, 1000), low, high, strict=True):
            at = corners[corners[:, 0] == w][:, 1]
            assert at.min() == pytest.approx(a, rel=1e-14)
            assert at.max() == pytest.approx(b, rel=1e-14)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Width", "Rate")


def test_words_stand_side_by_side_and_small_ranges_are_linear():
    table = pa.Table.from_pylist([r for r in ROWS if r["width"] == 10])
    ax = plot_sweep(table, x="init", y="seed")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["fan_in", "ntk"]
    assert ax.get_yscale() == "linear"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": "widht"}, "widht"),
        ({"y": "init"}, "whose values are not numbers"),
        ({"hue": "rate"}, "has 42 values"),
    ],
)
def test_columns_that_cannot_be_drawn(options, message):
    with pytest.raises(ValueError, match=message):
        plot_sweep(pa.Table.from_pylist(ROWS), **options)
    with pytest.raises(ValueError, match="no cell"):
        plot_sweep(pa.Table.from_pylist([{**ROWS[0], "status": "failed"}]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    with computed_here():
        run_sweep(read_grid(grid_of(sweep={"check": True})), folder, workers=1)
    return folder


def test_the_page_names_the_tightest_and_the_loosest(folder):
    page = write_report(folder).read_text()
    rows = sorted(read_results(folder).to_pylist(), key=lambda r: -r["tightness"])
    assert "A sweep of 6 cells" in page
    assert "no bound exceeds what was observed" in page
    assert "certified before the run for 6 of the 6 cells" in page
    assert "6 runs were compared with every guarantee" in page
    assert "No cell failed." in page
    ratios = re.findall(
        r'<td class="number">([\d.]+)</td><td class="number">[\d.]+</td><td class="number">[\d.]+</td><td>', page
    )
    expected = [f"{r['tightness']:.4g}" for r in (*rows[:5], *rows[::-1][:5])]
    assert ratios == expected
    assert page.count("<svg") == 1
    assert "https://" not in re.sub(r"http[s]?://www\.w3\.org/\S+", "", page)  # it stands alone


def test_the_page_counts_what_failed_and_escapes_it(tmp_path, here):
    grid = failing(tmp_path)
    grid["zip"][0]["data.target"][4] = str(tmp_path / "<b>none</b>.npy")
    run_sweep(read_grid(grid), tmp_path / "out", workers=1)
    page = write_report(tmp_path / "out").read_text()
    assert "5 cells failed." in page
    assert "the start ntk has no size" in page
    assert "&lt;b&gt;none" in page
    assert "<b>none" not in page


def test_a_sweep_without_a_good_cell_has_a_page_too(tmp_path, here):
    np.save(tmp_path / "Y.npy", Y)
    grid = {**grid_of(flow={"max_steps": 1}, grid={"seeds": 2}), "data": {"target": str(tmp_path / "Y.npy")}}
    assert run_sweep(read_grid(grid), tmp_path / "out", workers=1).failed == 2
    page = write_report(tmp_path / "out").read_text()
    assert "2 cells failed." in page
    assert "<svg" not in page


def test_a_hue_that_some_rows_lack_and_a_table_without_status():
    rows = [{**r, "size": None if r["init"] == "ntk" else 0.5} for r in ROWS]
    ax = plot_sweep(pa.Table.from_pylist(rows), hue="size")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0.5", "none"]
    assert ax.get_legend().get_title().get_text() == "Size"
    table = pa.Table.from_pylist(ROWS)
    one, two = (plot_sweep(t).lines[0].get_ydata().tolist() for t in (table, table.drop_columns("status")))
    assert one == two


def test_a_sweep_without_a_good_cell_does_not_pass(tmp_path, here):
    np.save(tmp_path / "Y.npy", Y)
    grid = {**grid_of(flow={"max_steps": 1}, grid={"seeds": 2}), "data": {"target": str(tmp_path / "Y.npy")}}
    run_sweep(read_grid(grid), tmp_path / "out", workers=1)
    page = write_report(tmp_path / "out").read_text()
    assert "✗ every cell failed" in page
    assert "✓" not in page


def test_cells_that_coincide_are_one_and_the_report_is_done(tmp_path, here):
    grid = read_grid(grid_of(start={}, grid={"depth": [1, 2], "width": [4, 5]}))
    assert run_sweep(grid, tmp_path, workers=1).total == 3
    assert "not done" not in write_report(tmp_path).read_text()


def test_settings_can_be_drawn_by_their_own_names_and_frames_of_pandas_too():
    table = pa.Table.from_pylist(ROWS)
    lines = [
        plot_sweep(given, hue=hue).lines for given in (table, table.to_pandas()) for hue in ("init", "start.init")
    ]
    assert len({str([line.get_xydata().tolist() for line in some]) for some in lines}) == 1


def test_names_with_dollars_are_drawn_as_they_are():
    rows = [{**row, "init": rf"a$\frac$.{row['init']}"} for row in ROWS]
    for options in ({"hue": "init"}, {"x": "init"}):
        plot_sweep(pa.Table.from_pylist(rows), **options).figure.canvas.draw()


def test_a_plot_of_nothing_yet_says_so(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "grid.toml").write_text("[grid]\nseeds = 2\n")
    with pytest.raises(ValueError, match="no cell has numbers"):
        plot_sweep(tmp_path)


@pytest.mark.parametrize(
    ("ended", "sure", "above", "broken", "words"),
    [
        (5, 4, 0, 0, "✓ no bound exceeds"),
        (5, 4, 2, 0, "✗ 2 bounds lie above"),
        (5, 4, 1, 0, "✗ 1 bound lies above"),
        (5, 4, 0, 1, "✗ 1 run broke its certificate"),
        (5, 4, 0, 2, "✗ 2 runs broke their certificate"),
        (5, 0, 0, 0, "✗ no rate is certified"),
        (0, 0, 0, 0, "✗ every cell failed"),
    ],
)
def test_the_verdict(ended, sure, above, broken, words):
    text, holds = _verdict(5, ended, sure, above, broken)
    assert words in f"{'✓' if holds else '✗'} {text}"


def test_a_bound_above_a_gap_that_grew_is_counted(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    store = Store(copy)
    rows = [row for name in store.names() for row in store.read(name).to_pylist()]
    rows[0] |= {"least_rate": -0.5, "certified_rate": 1.0, "tightness": None}
    for name in store.names():
        (copy / "parts" / name).unlink()
    store.add(rows)
    store.flush()
    assert "✗ 1 bound lies above" in write_report(copy).read_text()


def test_a_start_has_one_colour_in_plot_and_report(tmp_path, monkeypatch, here):
    """Whatever comes first in the table, and where one start has nothing to draw."""
    drawn = {}
    monkeypatch.setattr(page, "svg", lambda ax, _: drawn.update(report=ax) or "")
    inits = ["orthogonal", "ntk", "fan_in"]
    grid = grid_of(grid={"init": inits, "seeds": 2})
    run_sweep(read_grid(grid), tmp_path, workers=1)
    store = Store(tmp_path)
    rows = [row for table in store.news() for row in table.to_pylist()]

    def colours(hue_of):
        write_report(tmp_path)
        report = {
            points.get_label(): to_hex(points.get_facecolor()[0])
            for points in drawn["report"].collections
            if points.get_label() in inits
        }
        plot = {
            line.get_label(): to_hex(line.get_color()) for line in plot_sweep(hue_of, hue="init", y="bound").lines
        }
        return report, plot

    report, plot = colours(tmp_path)
    assert report == plot
    assert len(set(plot.values())) == 3
    for name in store.names():
        (tmp_path / "parts" / name).unlink()
    store.add(
        [row | ({"least_rate": -1.0, "certified_rate": 0.0} if row["init"] == "fan_in" else {}) for row in rows]
    )
    store.flush()
    fewer, same = colours(tmp_path)
    assert fewer == {name: colour for name, colour in plot.items() if name != "fan_in"}
    assert same == plot
    # And in the plot, where the first has nothing to draw.
    some = [row for row in rows if row["init"] != "fan_in"] + [
        row | {"certified_rate": np.nan} for row in rows if row["init"] == "fan_in"
    ]
    assert colours(pa.Table.from_pylist(some, store.read(store.names()[0]).schema))[1] == fewer


def test_almost_all_is_not_all():
    from linflow.sweeps import Status

    assert "999 of 1000 cells (99%)" in str(Status(1000, 999, 0, 1.0, True))


@pytest.fixture
def linflow(tmp_path, monkeypatch, here):
    monkeypatch.chdir(tmp_path)
    np.save("Y.npy", Y)
    with open("grid.toml", "w") as file:
        file.write('[data]\ntarget = "Y.npy"\n[flow]\nuntil = 1e-3\n[grid]\nwidth = [4, 8]\nseeds = 2\n')
    return lambda *words: CliRunner().invoke(app, list(words))


def test_the_commands(linflow, tmp_path):
    result = linflow("sweep", "grid.toml", "--out", "results", "--workers", "1")
    assert (result.exit_code, "4 cells, 4 of them computed now" in result.stdout) == (0, True), result.output
    assert lf.sweeps.read_results("results").num_rows == 4
    again = linflow("sweep", "run", "grid.toml", "--out", "results", "--workers", "1")
    assert "4 cells, 0 of them computed now" in again.stdout
    for words in (("sweep", "--status", "results"), ("sweep", "status", "results")):
        result = linflow(*words)
        assert (result.exit_code, result.stdout) == (0, "4 of 4 cells (100%), 0 failed\n")
    result = linflow("sweep", "plot", "results", "--x", "width", "--y", "bound", "--out", "p.svg")
    assert (result.exit_code, result.stdout) == (0, "wrote p.svg\n")
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")
    assert linflow("sweep", "report", "results", "--out", "r.html").exit_code == 0
    assert "A sweep of 4 cells" in (tmp_path / "r.html").read_text()


def test_failures_and_mistakes_have_their_exit_codes(linflow, tmp_path):
    text = (tmp_path / "grid.toml").read_text()
    (tmp_path / "some.toml").write_text(text.replace("seeds = 2", "max_steps = [3, 1000]"))
    result = linflow("sweep", "some.toml", "--out", "some", "--workers", "1")
    assert (result.exit_code, "2 failed (2 run)" in result.stdout) == (1, True), result.output
    assert linflow("sweep", "--status", "some").exit_code == 1
    for words, said in (
        (("sweep", "grid.toml"), "needs a grid and a folder"),
        (("sweep", "none.toml", "--out", "o"), "none.toml"),
        (("sweep", "grid.toml", "--out", "Y.npy"), "Y.npy"),
        (("sweep", "--status", "none"), "not the folder of a sweep"),
        (("sweep", "grid.toml", "--status", "some"), "leave out the grid"),
        (("sweep", "plot", "some", "--x", "widht"), "widht"),
        (("sweep", "grid.toml", "--out", "o", "--time-limit", "-1"), "time_limit"),
        (("sweep", "grid.toml", "--out", "o", "--wokers", "1"), "--wokers"),
        (("sweep", "grid.toml", "--out", "o", "--workers", "0"), "--workers"),
    ):
        result = linflow(*words)
        assert result.exit_code == 2, (words, result.output)
        assert said in result.stderr, (words, result.stderr)
        assert result.stderr.startswith("linflow: "), result.stderr
        assert result.stderr.count("\n") == 1, result.stderr


def test_every_command_shows_an_example(linflow):
    for words in ((), ("run",), ("status",), ("plot",), ("report",)):
        result = linflow("sweep", *words, "--help")
        assert result.exit_code == 0
        assert "Example: linflow sweep" in result.stdout


@pytest.mark.parametrize(
    ("former", "name"), [("scale", "multiplier"), ("start.scale", "multiplier"), ("factor", "output_scale")]
)
def test_former_names_of_columns_are_known(former, name):
    table = pa.Table.from_pylist([{**ROWS[0], name: x} for x in (1.0, 2.0)])
    lines = [plot_sweep(table, x=x, y="rate").lines[0].get_xdata().tolist() for x in (former, name)]
    assert lines == [[1.0, 2.0]] * 2
